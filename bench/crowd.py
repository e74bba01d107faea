"""Thousands of people at a running server, quickly: accounts and rooms through the store, log-ins as real as anybody's.

What the store is given is what the routes would have given it: sealed log-in keys, signed creations and joins, their chain. Only
device keys are missing, for nobody here encrypts; so a log-in changes no list that rooms would have to hear of. Rooms come after
the log-ins, because devices sign what stands in them.
"""

import http.client
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from bench.identity import Client, ask_all
from bench.load import Outcome
from bench.people import MadeRoom, Person, sign_change, sign_create, sign_invitation
from chatty.crypto.passwords import DEFAULT_DERIVATION
from chatty.crypto.sealing import Sealer, load_master_key
from chatty.crypto.signatures import public_key
from chatty.ids import DeviceNumber, ListVersion, UserId, UserNumber
from chatty.services.names import skeleton
from chatty.services.permissions import USER_ROLE
from chatty.services.registration import NewUser
from chatty.services.sessions import login_key_purpose
from chatty.services.timeline import Appended, NewEvent, RoomHead, append, new_room_head
from chatty.store.connection import TrioConnection, open_connection
from chatty.store.embedded import address_of_running
from chatty.store.registration import PostgresRegistrations
from chatty.store.rooms import PostgresRooms
from chatty.store.server import PostgresServer
from chatty.store.timeline import write_rooms
from chatty.wire.authority import Membership, Standing
from chatty.wire.canonical import decode_base64, encode_base64
from chatty.wire.chain import device_list_digest
from chatty.wire.events import Action, Kind, MemberContent, RoomRole
from chatty.wire.rooms import SignedCreate, SignedMemberChange
from chatty.wire.signing import body_bytes

log_ins_at_once = 8
_EMPTY_LIST = device_list_digest([])
_DEVICE_NUMBERS = "SELECT device_id, device_number FROM devices"


@dataclass(kw_only=True)
class _Group:
    """A room in the making."""

    members: Sequence[Person]
    create: SignedCreate
    head: RoomHead
    appended: list[Appended] = field(default_factory=list)


@dataclass(kw_only=True)
class Crowd:
    """At one server. data: its data directory. numbers: of the users, in the store."""

    data: Path
    host: str
    port: int
    people: list[Person] = field(default_factory=list)
    numbers: dict[UserId, UserNumber] = field(default_factory=dict)
    server_name: str = ""

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    def admit(self, count: int) -> list[Person]:
        """So many more accounts."""
        return trio.run(self._admit, count)

    def log_in(self, people: Sequence[Person]) -> Outcome:
        """Each asks for the salt and logs in; several at once. Raises: RuntimeError when one is refused."""
        operations = [partial(_log_in, person) for person in people]
        return ask_all(self.host, self.port, operations, connections_count=min(log_ins_at_once, len(people)))

    def make_rooms(self, groups: Sequence[Sequence[Person]]) -> list[MadeRoom]:
        """Of people who are logged in: the first creates, the others join by invitation; two have a direct room."""
        return trio.run(self._make_rooms, groups)

    def _address(self) -> str:
        return address_of_running(self.data / "postgres")

    async def _admit(self, count: int) -> list[Person]:
        async with open_connection(self._address()) as connection, connection.transaction():
            identity = await PostgresServer(connection).identity()
            assert identity is not None
            self.server_name = identity.name
            sealer, registrations = await self._sealer(connection), PostgresRegistrations(connection)
            new = [self._new_person(len(self.people) + index) for index in range(count)]
            for person in new:
                self.numbers[person.user] = await registrations.add_user(_account(person, sealer))
        self.people += new
        return new

    async def _sealer(self, connection: TrioConnection) -> Sealer:
        master, stored = (
            load_master_key(self.data / "master.key"),
            await PostgresServer(connection).sealed_keys("data_key"),
        )
        data_keys = {version: master.unwrap(sealed, version=version) for version, sealed in stored.items()}
        return Sealer(data_keys, version=max(data_keys))

    def _new_person(self, index: int) -> Person:
        return Person(user=UserId(f"@c.{index}:{self.server_name}"), origin=self.origin)

    async def _make_rooms(self, groups: Sequence[Sequence[Person]]) -> list[MadeRoom]:
        async with open_connection(self._address()) as connection, connection.transaction():
            rooms = PostgresRooms(connection)
            rows = await (await connection.execute(_DEVICE_NUMBERS)).fetchall()
            devices = {row[0]: DeviceNumber(row[1]) for row in rows}
            made = [await self._make_room(rooms, members, devices) for members in groups]
            appended = [event for group in made for event in group.appended]
            await write_rooms(connection, [group.head for group in made], appended)
        return [MadeRoom(room=one.head.room, epoch=one.head.epoch, seq=one.head.seq) for one in made]

    async def _make_room(
        self, rooms: PostgresRooms, members: Sequence[Person], devices: dict[str, DeviceNumber]
    ) -> _Group:
        creator, other = members[0], members[1] if len(members) == 2 else None
        create, room = sign_create(creator, other, server=self.server_name)
        group = _Group(members=members, create=create, head=new_room_head(room))
        body = body_bytes(create.signed)
        group.head.room_number = await rooms.insert(group.head, create.signed, body)
        first = NewEvent(
            kind=Kind.CREATE,
            body=body,
            sender=creator.user,
            sender_number=self.numbers[creator.user],
            device=creator.device,
            device_number=devices[creator.device],
            n=create.signed.n,
            signature=decode_base64(create.signature),
        )
        group.appended.append(append(group.head, first, now_ms=int(time.time() * 1000)))
        for member in members:
            await self._take_in(rooms, group, member, devices)
        return group

    async def _take_in(
        self, rooms: PostgresRooms, group: _Group, member: Person, devices: dict[str, DeviceNumber]
    ) -> None:
        change = self._change(group, member)
        by = group.members[0] if change.signed.action is Action.ADD else member
        content = MemberContent(
            signed=change.signed,
            previous=group.head.state_seq,
            list_version=ListVersion(0),
            list_digest=encode_base64(_EMPTY_LIST),
        )
        new = NewEvent(
            kind=Kind.MEMBER,
            body=body_bytes(content),
            sender=by.user,
            sender_number=self.numbers[by.user],
            device=by.device,
            device_number=devices[by.device],
            n=change.signed.n,
            target=member.user,
            signature=decode_base64(change.signature),
            action=change.signed.action,
        )
        appended = append(group.head, new, now_ms=group.head.last_time)
        group.appended.append(appended)
        is_owner = member is group.members[0] and group.create.signed.direct is None
        membership = Membership(
            standing=Standing.JOINED,
            role=RoomRole.OWNER if is_owner else RoomRole.MEMBER,
            changed_seq=appended.event.seq,
            list_digest=encode_base64(_EMPTY_LIST),
            identity=member.identity,
        )
        number = self.numbers[member.user]
        await rooms.set_membership(group.head.room_number, number, membership, seq=appended.event.seq)

    def _change(self, group: _Group, member: Person) -> SignedMemberChange:
        creator, room, invitation = group.members[0], group.head.room, None
        if member is not creator and group.create.signed.direct is not None:
            return sign_change(creator, Action.ADD, member, room, server=self.server_name)
        if member is not creator:
            invitation = sign_invitation(creator, member, room, server=self.server_name)
        return sign_change(member, Action.JOIN, member, room, server=self.server_name, invitation=invitation)


def _account(person: Person, sealer: Sealer) -> NewUser:
    key = decode_base64(public_key(person.login_seed), length=32)
    return NewUser(
        user=person.user,
        name_skeleton=skeleton(person.name),
        role=USER_ROLE,
        identity_key=person.identity,
        key_derivation=DEFAULT_DERIVATION,
        login_key_sealed=sealer.seal(key, purpose=login_key_purpose(person.user)),
        wrapped_recovery=b"wrapped",
        wrapped_identity=b"wrapped",
        list_digest=_EMPTY_LIST,
    )


def _log_in(person: Person, connection: http.client.HTTPConnection) -> None:
    Client(person, connection).log_in(connection)
