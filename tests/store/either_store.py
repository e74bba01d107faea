"""PostgreSQL and its double in memory behind the ports that both have: what a contract's tests write to and read from."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal, Protocol

from chatty.ids import (
    DeviceId,
    DeviceNumber,
    FamilyId,
    ListVersion,
    RoomId,
    RoomNumber,
    SendNumber,
    Seq,
    UserId,
    UserNumber,
)
from chatty.services.caller import Caller
from chatty.services.messages import Draft, Journal
from chatty.services.requests import SendRow
from chatty.services.timeline import Appended, NewEvent, append, new_room_head
from chatty.services.units import Transactions
from chatty.store.journal import open_journal
from chatty.testing.journal import MemoryJournal
from chatty.testing.tables import Device, Tables, User
from chatty.testing.transactions import MemoryStore
from chatty.testing.units import MemoryUnitOfWork
from chatty.wire import chain
from chatty.wire.authority import Membership, Standing
from chatty.wire.events import CreateContent, Kind, Policy, RoomRole
from chatty.wire.signing import body_bytes
from tests.signed_in import World, open_world

_NEW_LIST = (
    "UPDATE users SET list_version = list_version + 1, list_digest = %s WHERE user_number = %s RETURNING list_version"
)
_OWE = """INSERT INTO owed_devices (room_number, user_number, list_version)
SELECT room_number, user_number, %s FROM members WHERE user_number = %s AND standing = 'joined'"""
_IN_SET = "UPDATE devices SET in_set = true, ed25519 = %s WHERE device_number = %s"
_BLOCK = "INSERT INTO blocks (user_number, blocked_number) VALUES (%s, %s)"
NEW_DIGEST = b"d" * 32
KEY = "K" * 43
NOW_MS = 1_700_000_000_000


@dataclass(eq=False)
class Person:
    """A signed-in device; `next_n()` counts its requests."""

    caller: Caller
    last_n: int = 0

    @property
    def number(self) -> DeviceNumber:
        return self.caller.device_number

    @property
    def user(self) -> UserNumber:
        return self.caller.user_number

    def next_n(self) -> SendNumber:
        self.last_n += 1
        return SendNumber(self.last_n)


class Store(Protocol):
    units: Transactions[Any]
    journal: Journal

    async def sign_in(self, name: str, device: str) -> Person:
        """A live device in its user's set."""
        ...

    async def change_devices(self, person: Person) -> None:
        """A new list, and a devices event owed to each of the user's rooms."""
        ...

    async def block(self, person: Person, other: Person) -> None: ...


class _Postgres(Store):
    def __init__(self, world: World, journal: Journal) -> None:
        self.units, self.journal = world.units, journal
        self._world = world

    async def sign_in(self, name: str, device: str) -> Person:
        signed_in = await self._world.sign_in(name, device)
        await self._run(_IN_SET, KEY, signed_in.number)
        return Person(signed_in.caller)

    async def change_devices(self, person: Person) -> None:
        async with self._world.pool.transaction() as connection:
            row = await (await connection.execute(_NEW_LIST, (NEW_DIGEST, person.user))).fetchone()
            assert row is not None
            await connection.execute(_OWE, (row[0], person.user))

    async def block(self, person: Person, other: Person) -> None:
        await self._run(_BLOCK, person.user, other.user)

    async def _run(self, sql: str, *parameters: Any) -> None:
        async with self._world.pool.transaction() as connection:
            await connection.execute(sql, parameters)


class _Memory(Store):
    def __init__(self) -> None:
        self._store = MemoryStore()
        self.units, self.journal = MemoryUnitOfWork(self._store), MemoryJournal(self._store, clock=lambda: NOW_MS)

    async def sign_in(self, name: str, device: str) -> Person:
        user, tables = UserId(f"@{name}:example.org"), self._store.tables.copy()
        row = tables.user_named(user) or User(
            number=UserNumber(self._store.next_number()), user=user, identity_key="A" * 43
        )
        number = DeviceNumber(self._store.next_number())
        tables.users[row.number] = row
        tables.devices[number] = Device(
            number=number, device=DeviceId(device), user_number=row.number, ed25519=KEY, in_set=True
        )
        tables.sends[number] = SendRow(low=SendNumber(1), highest_n=SendNumber(0), is_live=True)
        self._store.tables = tables
        return Person(_caller(row, tables.devices[number]))

    async def change_devices(self, person: Person) -> None:
        def change(tables: Tables) -> None:
            user = tables.users[person.user]
            version = ListVersion(user.list_version + 1)
            tables.users[person.user] = replace(user, list_version=version, list_digest=NEW_DIGEST)
            joined = [room for room in tables.rooms if tables.is_joined(room, person.user)]
            tables.owed_devices.update({(room, person.user): version for room in joined})

        await self._store.commit([change])

    async def block(self, person: Person, other: Person) -> None:
        await self._store.commit([lambda tables: tables.blocks.update({(person.user, other.user): None})])


def _caller(user: User, device: Device) -> Caller:
    return Caller(
        user=user.user,
        user_number=user.number,
        device=device.device,
        device_number=device.number,
        family=FamilyId("family"),
        role="user",
        thumbprint="T" * 43,
        step_up_age_s=0.0,
        expires_at_s=2e9,
    )


@asynccontextmanager
async def open_either(address: str | None) -> AsyncIterator[Store]:
    """address: of a fresh database; None: the double."""
    if address is None:
        yield _Memory()
        return
    async with open_world(address) as world, open_journal(address, clock=lambda: NOW_MS) as journal:
        yield _Postgres(world, journal)


# What is written through the ports ----------------------------------------------------------------------------------

_nonces = count(1)


def creation(person: Person, history: Literal["joined", "shared"] = "joined") -> CreateContent:
    return CreateContent(
        domain="chatty.create.v1",
        server="example.org",
        creator=person.caller.user,
        creator_identity="A" * 43,
        device=person.caller.device,
        nonce=f"{next(_nonces):022}",
        policy=Policy(history=history),
        n=SendNumber(1),
    )


def membership(seq: int, *, standing: Standing = Standing.JOINED, role: RoomRole = RoomRole.MEMBER) -> Membership:
    removed_seq = Seq(0 if standing is Standing.JOINED else seq)
    return Membership(standing=standing, role=role, changed_seq=Seq(seq), removed_seq=removed_seq)


@dataclass(frozen=True)
class Room:
    id: RoomId
    number: RoomNumber


async def make_empty_room(store: Store, creator: Person, history: Literal["joined", "shared"] = "joined") -> Room:
    """A room without events and without members."""
    create = creation(creator, history)
    head = new_room_head(chain.room_id(body_bytes(create)))
    async with store.units.begin() as unit:
        return Room(head.room, await unit.rooms.insert(head, create, body_bytes(create)))


async def make_room(store: Store, *members: Person) -> Room:
    """A room without events; the first member owns it."""
    room = await make_empty_room(store, members[0])
    async with store.units.begin() as unit:
        for member in members:
            role = RoomRole.OWNER if member is members[0] else RoomRole.MEMBER
            await unit.rooms.set_membership(room.number, member.user, membership(0, role=role), seq=Seq(0))
    return room


async def write(store: Store, room: Room, sender: Person, *kinds: Kind, body: bytes = b"body") -> list[Appended]:
    """Events at the room's end, under its lock."""
    async with store.units.begin() as unit:
        locked = await unit.rooms.lock(room.number, [])
        appended = [append(locked.head, _event(sender, kind, body), now_ms=NOW_MS) for kind in kinds]
        await unit.rooms.write(locked.head, appended)
    return appended


def _event(sender: Person, kind: Kind, body: bytes) -> NewEvent:
    return NewEvent(
        kind=kind,
        body=body,
        sender=sender.caller.user,
        sender_number=sender.user,
        device=sender.caller.device,
        device_number=sender.number,
    )


def draft(
    sender: Person,
    room: Room,
    *,
    n: SendNumber | None = None,
    low: int | None = None,
    body: bytes = b"body",
    session_id: str = "session",
    epoch: int = 0,
) -> Draft:
    number = sender.next_n() if n is None else n
    new = NewEvent(
        kind=Kind.MESSAGE,
        body=body,
        sender=sender.caller.user,
        sender_number=sender.user,
        device=sender.caller.device,
        device_number=sender.number,
        n=number,
        session_id=session_id,
        epoch=Seq(epoch),
    )
    return Draft(
        caller=sender.caller,
        room=room.id,
        room_number=room.number,
        n=number,
        low=SendNumber(number if low is None else low),
        digest=chain.request_digest("send", body),
        new=new,
    )
