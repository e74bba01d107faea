"""Where a run begins: four devices of three people, and two rooms, made once by the product's own steps."""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256

import msgspec
import trio
import trio.testing

from chatty.actors.bus import SilentBus
from chatty.config import Quota
from chatty.crypto.signatures import public_key, sign
from chatty.ids import DeviceId, DeviceNumber, FamilyId, RoomId, RoomNumber, SendNumber, Seq, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.checkpoints import Signer
from chatty.services.limits import unlimited
from chatty.services.quotas import Quotas
from chatty.services.requests import SendRow
from chatty.services.rooms import RoomSteps
from chatty.testing.tables import Device, Tables, User
from chatty.testing.transactions import MemoryStore
from chatty.testing.units import MemoryUnitOfWork
from chatty.wire import chain
from chatty.wire.canonical import encode_base64
from chatty.wire.events import Action, CreateContent, Invitation, MemberChange, Policy, SignedInvitation
from chatty.wire.rooms import RoomCreation, SignedCreate, SignedInvitationBody, SignedMemberChange
from chatty.wire.signing import Signable, body_bytes, signed_bytes

SERVER_NAME = "example.org"
BEGAN_MS = 1_700_000_000_000
Position = tuple[Seq, bytes]
PEOPLE = {"ann": ("annsphone", "annslaptop"), "bob": ("bobsphone",), "cid": ("cidsphone",)}


def now_ms() -> int:
    return BEGAN_MS + int(trio.current_time() * 1000)


def make_quotas() -> Quotas:
    many = Quota(usual=1_000_000, by_role={})
    return Quotas(devices=many, rooms=many, room_members=many, message_bytes=many, blocks=many)


class Unsigned(Signer):
    """Nobody asks for a checkpoint."""

    @property
    def key_id(self) -> str:
        return ""

    def sign(self, message: bytes) -> bytes:
        return b""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A device that can sign. identity_key: of its user."""

    caller: Caller

    @property
    def seed(self) -> bytes:
        return sha256(self.caller.device.encode()).digest()

    @property
    def identity_key(self) -> str:
        return identity_key(self.caller.user)

    def sign(self, signable: Signable) -> str:
        return sign(self.seed, signed_bytes(signable))

    def change(
        self,
        room: RoomId,
        action: Action,
        target: UserId,
        position: Position,
        n: int,
        invitation: SignedInvitation | None = None,
    ) -> SignedMemberChange:
        signed = MemberChange(
            domain="chatty.member.v1",
            server=SERVER_NAME,
            room=room,
            action=action,
            sender=self.caller.user,
            device=self.caller.device,
            target=target,
            target_identity=identity_key(target),
            last_seq=position[0],
            last_head=encode_base64(position[1]),
            n=SendNumber(n),
            invitation=invitation,
        )
        return SignedMemberChange(signed=signed, signature=self.sign(signed))

    def invitation(self, room: RoomId, target: UserId, position: Position, n: int) -> SignedInvitationBody:
        signed = Invitation(
            domain="chatty.invitation.v1",
            server=SERVER_NAME,
            room=room,
            sender=self.caller.user,
            device=self.caller.device,
            target=target,
            target_identity=identity_key(target),
            last_seq=position[0],
            last_head=encode_base64(position[1]),
            n=SendNumber(n),
        )
        return SignedInvitationBody(signed=signed, signature=self.sign(signed))


def identity_key(user: UserId) -> str:
    return public_key(sha256(user.encode()).digest())


@dataclass(frozen=True, kw_only=True)
class Place:
    """owner: of the rooms. taken_n: the last number that each device has used."""

    tables: Tables
    devices: tuple[Identity, ...]
    rooms: dict[RoomId, RoomNumber]
    taken_n: dict[DeviceId, int]

    @property
    def callers(self) -> dict[str, Caller]:
        return {one.caller.device: one.caller for one in self.devices}

    def user_number(self, user: UserId) -> UserNumber:
        return next(one.caller.user_number for one in self.devices if one.caller.user == user)


@cache
def make_place() -> Place:
    return trio.run(_make_place, clock=trio.testing.MockClock())


async def _make_place() -> Place:
    tables = Tables()
    devices = tuple(_devices(tables))
    builder = _Builder(MemoryStore(tables))
    for history, members in (("joined", ("bob", "cid")), ("shared", ("bob",))):
        owner = devices[0]
        policy = msgspec.convert({"history": history}, Policy)
        await builder.create(owner, [one for one in devices if one.caller.user[1:4] in members], policy)
    tables = builder.store.tables
    rooms = {room.room: number for number, room in tables.rooms.items()}
    return Place(tables=tables, devices=devices, rooms=rooms, taken_n=builder.taken_n)


def _devices(tables: Tables) -> list[Identity]:
    made = []
    for number, (name, devices) in enumerate(PEOPLE.items(), start=1):
        user, user_number = UserId(f"@{name}:{SERVER_NAME}"), UserNumber(number)
        tables.users[user_number] = User(
            number=user_number, user=user, identity_key=identity_key(user), list_digest=bytes(32)
        )
        for device in devices:
            caller = Caller(
                user=user,
                user_number=user_number,
                device=DeviceId(device),
                device_number=DeviceNumber(len(tables.devices) + 1),
                family=FamilyId(device),
                role="user",
                thumbprint="",
                step_up_age_s=0.0,
                expires_at_s=1e12,
            )
            one = Identity(caller=caller)
            made.append(one)
            tables.devices[caller.device_number] = Device(
                number=caller.device_number,
                device=caller.device,
                user_number=user_number,
                ed25519=public_key(one.seed),
                in_set=True,
            )
            tables.sends[caller.device_number] = SendRow(low=SendNumber(1), highest_n=SendNumber(0), is_live=True)
    return made


class _Builder:
    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.taken_n: dict[DeviceId, int] = {}
        self._steps = RoomSteps(
            MemoryUnitOfWork(store),
            doorbells=SilentBus(),
            clock=now_ms,
            server_name=SERVER_NAME,
            limits=unlimited(),
            quotas=make_quotas(),
        )

    def _n(self, one: Identity) -> SendNumber:
        self.taken_n[one.caller.device] = self.taken_n.get(one.caller.device, 0) + 1
        return SendNumber(self.taken_n[one.caller.device])

    async def create(self, owner: Identity, members: list[Identity], policy: Policy) -> None:
        n = self._n(owner)
        signed = CreateContent(
            domain="chatty.create.v1",
            server=SERVER_NAME,
            creator=owner.caller.user,
            creator_identity=owner.identity_key,
            device=owner.caller.device,
            nonce="A" * 22,
            policy=policy,
            n=n,
        )
        room = chain.room_id(body_bytes(signed))
        join = owner.change(room, Action.JOIN, owner.caller.user, (Seq(0), chain.empty_head(room)), self._n(owner))
        create = SignedCreate(signed=signed, signature=owner.sign(signed))
        await self._steps.create(owner.caller, RoomCreation(create=create, members=[join]), low=n)
        for member in members:
            await self._join(owner, member, room)

    async def _join(self, owner: Identity, member: Identity, room: RoomId) -> None:
        row = self.store.tables.room_named(room)
        assert row is not None
        body = owner.invitation(room, member.caller.user, (row.seq, row.head), self._n(owner))
        await self._steps.invite(owner.caller, room, body, low=body.signed.n)
        invitation = SignedInvitation(signed=body.signed, signature=body.signature)
        start = (Seq(0), chain.empty_head(room))
        join = member.change(room, Action.JOIN, member.caller.user, start, self._n(member), invitation)
        await self._steps.change_member(member.caller, room, join, low=join.signed.n)
