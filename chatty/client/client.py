"""The SDK's front door.

    async with open_client("http://127.0.0.1:8000", "anna.chatty", store_key="a passphrase") as client: ...

A store belongs to one device of one person. Opened again, the client knows its rooms, members and messages before it is
online, and what was not sent yet is sent. Leaving the block closes the socket and the store; what is open goes on next time.
"""

import secrets
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import httpx
import trio
from msgspec import UNSET

from chatty.client.accounts import Enrolment, Identity, load_identity
from chatty.client.backoff import Jitter, full_jitter
from chatty.client.deletions import Deletion, delete_account
from chatty.client.details import made_profile
from chatty.client.engine import Engine
from chatty.client.exports import write_export
from chatty.client.http import Api
from chatty.client.notice_calls import NoticeCalls
from chatty.client.nursery import open_serving_nursery
from chatty.client.outbox import unsent
from chatty.client.own_factors import OwnFactors
from chatty.client.passwords import OwnPassword
from chatty.client.reasons import Lie, NotSignedIn, Reason
from chatty.client.room import Room, member_change, sign, take_number, target_identity
from chatty.client.room_links import InvitationLink, parse_link
from chatty.client.second_factors import AskForFactor, SignByPasskey
from chatty.client.store import LocalStore, store_salt
from chatty.client.update_queue import UpdateQueue
from chatty.client.updates import Invited, SignedOut, Unsent, Update
from chatty.crypto import passwords
from chatty.crypto.passwords import DEFAULT_DERIVATION, DerivationLimits
from chatty.errors import NotFound
from chatty.ids import DeviceId, RoomId, SendNumber, UserId
from chatty.wire import chain
from chatty.wire.accounts import Device, SecondFactor
from chatty.wire.canonical import encode_base64
from chatty.wire.deletions import Receipt
from chatty.wire.events import Action, CreateContent, Policy, RoomRole
from chatty.wire.frames import Encoding
from chatty.wire.rooms import Directory, RoomCreation, SignedCreate, SignedMemberChange
from chatty.wire.signing import body_bytes


@asynccontextmanager
async def open_client(
    origin: str,
    store_path: str | Path,
    *,
    store_key: bytes | str,
    encoding: Encoding = "msgpack",
    transport: httpx.AsyncBaseTransport | None = None,
    derivation_limits: DerivationLimits | None = None,
    jitter: Jitter = full_jitter,
) -> AsyncIterator["Client"]:
    """Open a store and, if somebody is signed in with it, connect.

    origin: scheme, host and port of the server. store_key: 32 random bytes, or a passphrase (then opening takes a moment of
    Argon2id). transport, derivation_limits, jitter: for tests.
    Raises: StoreInUse, WrongStoreKey.
    """
    path = Path(store_path)
    store = LocalStore(path, key=await _store_key(path, store_key))
    api = Api(origin, store, transport=transport, jitter=jitter)
    try:
        async with open_serving_nursery() as nursery:
            client = Client(store, api, nursery, encoding=encoding, derivation_limits=derivation_limits, jitter=jitter)
            yield client
            client.messages().mark_handled()
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 2.0):
            await api.aclose()
        store.close()


async def _store_key(path: Path, key: bytes | str) -> bytes:
    if isinstance(key, bytes):
        if len(key) != 32:
            raise ValueError("a store key is 32 bytes; give a passphrase as text")
        return key
    passphrase, salt = key, passwords.salt(server_name="", user=UserId(""), served_salt=store_salt(path))

    def work() -> bytes:
        return passwords.derive(passphrase, salt=salt, parameters=DEFAULT_DERIVATION).wrapping_key

    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)


class Client:
    """Made by open_client(). Everything but register() and login() needs a signed-in store: else NotSignedIn."""

    def __init__(
        self,
        store: LocalStore,
        api: Api,
        nursery: trio.Nursery,
        *,
        encoding: Encoding,
        derivation_limits: DerivationLimits | None,
        jitter: Jitter,
    ) -> None:
        self._store = store
        self._api = api
        self._nursery = nursery
        self._encoding: Encoding = encoding
        self._jitter = jitter
        self._enrolment = Enrolment(api, store, derivation_limits=derivation_limits)
        self._updates = UpdateQueue(store)
        self._running: Engine | None = None
        identity = load_identity(store)
        if identity is not None and api.tokens.is_signed_in:
            self._begin(identity)

    def _begin(self, identity: Identity) -> Engine:
        self._running = Engine(
            store=self._store,
            api=self._api,
            identity=identity,
            updates=self._updates,
            nursery=self._nursery,
            encoding=self._encoding,
            jitter=self._jitter,
        )
        self._running.start()
        return self._running

    @property
    def _engine(self) -> Engine:
        if self._running is None:
            raise NotSignedIn("register or log in first")
        return self._running

    @property
    def is_signed_in(self) -> bool:
        return self._running is not None

    @property
    def user(self) -> UserId:
        return self._engine.identity.user

    @property
    def device(self) -> DeviceId:
        return self._engine.identity.device

    # Coming and going

    async def register(self, name: str, password: str, *, token: str = "", device_name: str = "") -> None:
        """Make an account and this store its first device. Returns when others can write to it.

        Raises: WeakPassword, NameTaken, NameReserved, RegistrationClosed, RateLimited, UnacceptableDerivation; ApprovalPending
        when the server keeps it as an application: log in once an admin has approved it.
        """
        identity = await self._enrolment.register(name, password, token=token, device_name=device_name)
        await self._begin(identity).wait_published()

    async def login(
        self,
        user: UserId,
        password: str,
        *,
        device_name: str = "",
        second_factor: SecondFactor | AskForFactor | None = None,
    ) -> None:
        """Make this store a new device of an account. Returns when others can write to it.

        second_factor: one, or whom to ask when the server wants one.
        Raises: LoginRefused, SecondFactorRequired, SecondFactorRefused, ApprovalPending, RateLimited, UnacceptableDerivation,
        WrongRelyingParty, Lie (the server names another identity than ours).
        """
        identity = await self._enrolment.login(user, password, device_name=device_name, second_factor=second_factor)
        await self._begin(identity).wait_published()

    async def login_with_passkey(self, user: UserId, sign: SignByPasskey, *, device_name: str = "") -> None:
        """As login(), without a password: by a passkey that keeps the recovery secret.

        Raises: LoginRefused, RateLimited, NoRecoverySecret, WrongRelyingParty, Lie.
        """
        identity = await self._enrolment.login_with_passkey(user, sign, device_name=device_name)
        await self._begin(identity).wait_published()

    async def step_up(self, password: str, *, second_factor: SecondFactor | AskForFactor | None = None) -> None:
        """Prove once more who is there, for what needs a proof of the last minutes. Raises: as login()."""
        await self._own_password(second_factor).step_up(password)

    async def step_up_with_passkey(self, sign: SignByPasskey) -> None:
        """Raises: LoginRefused, RateLimited, WrongRelyingParty."""
        await self._enrolment.step_up_with_passkey(self._engine.identity, sign)

    @property
    def second_factors(self) -> OwnFactors:
        """The account's own: list, add, remove."""
        return OwnFactors(self._api, self._enrolment, self._engine.identity)

    async def logout(self) -> None:
        """End this log-in session and revoke this device; messages() ends with SignedOut."""
        await self._engine.api.logout()
        self._api.tokens.forget()

    async def change_password(
        self,
        old: str,
        new: str,
        *,
        end_other_sessions: bool = True,
        second_factor: SecondFactor | AskForFactor | None = None,
    ) -> None:
        """Another password from now on, derived as the server now asks; the account's other devices are ended, or told.

        Raises: WeakPassword, LoginRefused (the old one is wrong), and as step_up().
        """
        await self._own_password(second_factor).change(old, new, end_other_sessions=end_other_sessions)

    def _own_password(self, second_factor: SecondFactor | AskForFactor | None) -> OwnPassword:
        return self._enrolment.own_password(self._engine.identity, second_factor=second_factor)

    async def export(
        self, path: str | Path, *, password: str = "", second_factor: SecondFactor | AskForFactor | None = None
    ) -> int:
        """Everything that the server stores about this account, one JSON object a line. Returns the number of lines.

        password: proves anew who asks, if the log-in is older than some minutes, with a second factor if there is one.
        Raises: StepUpRequired (without a password), Overloaded, Unreachable, and as step_up().
        """
        own = self._own_password(second_factor)
        return await own.proven(partial(write_export, self._engine.api, Path(path)), password)

    async def delete_account(
        self, password: str, *, second_factor: SecondFactor | AskForFactor | None = None
    ) -> Deletion:
        """End the account for ever and erase it; messages() ends with SignedOut. The store keeps what it has: delete it too.

        Raises: LastOwner (of the server), Unreachable (perhaps it was done), and as step_up().
        """
        deletion = await delete_account(self._engine.api, self._own_password(second_factor), password)
        self._api.tokens.forget()
        return deletion

    async def receipt(self, token: str) -> Receipt:
        """Of a deletion, also of another account than this store's: how far it is. Raises: NotFound."""
        return await self._api.receipt(token)

    async def wait_online(self) -> None:
        """Until the socket is open and welcome."""
        await self._engine.link.wait_up()

    async def devices(self) -> Sequence[Device]:
        """The account's own devices, as the server has them."""
        return (await self._engine.api.devices()).devices

    async def revoke_device(self, device: DeviceId) -> None:
        """End another device: it can no longer read or send. Raises: NotFound."""
        await self._engine.api.revoke_device(device)

    async def block(self, user: UserId) -> None:
        """Keep out what this user sends from outside our common rooms; the user is not told. Raises: NotFound, QuotaExceeded."""
        await self._engine.api.block(user)

    async def unblock(self, user: UserId) -> None:
        """Raises: NotFound."""
        await self._engine.api.unblock(user)

    async def blocked(self) -> Sequence[UserId]:
        """Whom this account has blocked, as the server has it."""
        return (await self._engine.api.blocks()).users

    @property
    def notices(self) -> NoticeCalls:
        """Typing, presence and receipts, `async for notice in client.notices`; and what others may see of this account."""
        return self._engine.notice_calls

    # Rooms

    def rooms(self) -> list[Room]:
        """The rooms this store knows, also those that were left."""
        return [Room(self._engine, room) for room in self._engine.book.rooms()]

    def room(self, room: RoomId) -> Room:
        return Room(self._engine, room)

    async def create_room(
        self,
        *,
        invite: Iterable[UserId] = (),
        history: Literal["joined", "shared"] = "joined",
        invite_role: RoomRole = RoomRole.ADMIN,
        message_timer_s: int | None = None,
        retention_days: int | None = None,
    ) -> Room:
        """Make a room with oneself as owner, and invite. invite_role: the lowest that may invite.

        message_timer_s: after how long messages expire. retention_days: for how long the server keeps them at most. Raises: Lie.
        """
        policy = Policy(
            history=history,
            invite=invite_role,
            message_timer_s=UNSET if message_timer_s is None else message_timer_s,
            retention_days=UNSET if retention_days is None else retention_days,
        )
        room = await self._create(policy, other=None)
        for user in invite:
            await room.invite(user)
        return room

    async def direct(self, user: UserId) -> Room:
        """The room with this one person: made now, or the one that there is. Raises: NotFound, Lie."""
        return await self._create(Policy(history="joined", invite=RoomRole.OWNER), other=user)

    async def _create(self, policy: Policy, *, other: UserId | None) -> Room:
        engine = self._engine
        await engine.wait_published()
        other_key = await target_identity(engine, other) if other is not None else ""
        numbers = [await take_number(engine) for _ in range(2 if other is None else 3)]
        try:
            creation = self._creation(policy, numbers, other=other, other_key=other_key)
            committed = await engine.api.create_room(creation, n=numbers[0], low=engine.numbers.low)
        finally:
            for n in numbers:
                engine.numbers.settle(n)
        engine.book.add(committed.room)
        room = Room(engine, committed.room)
        await room.read_up_to(committed.seq)
        check_room(creation.create.signed, room)
        return room

    def _creation(
        self, policy: Policy, numbers: Sequence[SendNumber], *, other: UserId | None, other_key: str
    ) -> RoomCreation:
        """Seq 1, the own join and, in a direct room, the other's add: each with an n of its own."""
        engine, me = self._engine, self._engine.identity
        pair = sorted((me.user, other)) if other is not None else None
        create = CreateContent(
            domain="chatty.create.v1",
            server=me.server_name,
            creator=me.user,
            creator_identity=me.identity_key,
            device=me.device,
            nonce=encode_base64(secrets.token_bytes(16)),
            policy=policy,
            direct=(pair[0], pair[1]) if pair is not None else None,
            n=numbers[0],
        )
        room = chain.room_id(body_bytes(create))
        members: list[SignedMemberChange] = [
            member_change(engine, room, Action.JOIN, me.user, me.identity_key, n=numbers[1])
        ]
        if other is not None:
            members.append(member_change(engine, room, Action.ADD, other, other_key, n=numbers[2]))
        return RoomCreation(create=SignedCreate(signed=create, signature=sign(engine, create)), members=members)

    @property
    def display_name(self) -> str:
        """How this user likes to be called; empty: not said."""
        return self._engine.details.own_profile.name

    def set_display_name(self, name: str) -> None:
        """Each room hears it with the next message there, or by room.announce(); the server never does. Raises: BadRequest."""
        with self._store.transaction():
            self._engine.details.set_own_profile(made_profile(name))

    def unsent(self) -> list[Unsent]:
        """Messages on their way: written to the store, not yet known to be committed; they are sent whatever happens."""
        return unsent(self._store)

    def invitations(self) -> list[Invited]:
        """Those that were not taken yet; their signatures were checked."""
        stream = self._engine.user_stream
        return [Invited(room=one.signed.room, inviter=one.signed.sender) for one in stream.invitations()]

    async def join(self, invited: Invited | RoomId) -> Room:
        """Take an invitation. Raises: NotFound when there is none, InvitationVoid."""
        room_id = invited.room if isinstance(invited, Invited) else invited
        invitation = self._engine.user_stream.invitation(room_id)
        if invitation is None:
            raise NotFound(f"no invitation to {room_id}")
        await self._engine.wait_published()
        room = Room(self._engine, room_id)
        await room.join(invitation=invitation)
        self._engine.user_stream.forget_invitation(room_id)
        return room

    async def join_by_link(self, link: InvitationLink | str) -> Room:
        """Raises: BadRequest (no link), NotFound, Banned, LinkExpired, LinkUsedUp, LinkRevoked, InvitationVoid."""
        taken = parse_link(link) if isinstance(link, str) else link
        await self._engine.wait_published()
        room = Room(self._engine, taken.room)
        await room.join(link=taken)
        return room

    async def join_listed(self, room_id: RoomId) -> Room:
        """A room of the directory. Raises: NotFound (not listed, or no more), Banned, InvitationVoid."""
        await self._engine.wait_published()
        room = Room(self._engine, room_id)
        await room.join()
        return room

    async def directory(self, *, title: str = "", after: str = "") -> Directory:
        """Rooms that everybody of the server may join, a page after this room id; title: a part of theirs. The server's word."""
        return await self._engine.api.directory(after=after, title=title)

    # What happens

    def messages(self) -> "Updates":
        """Everything that happens, in order, at least once: an update is dropped from the store when the next is asked for.

        Ends after SignedOut. One reader at a time; `break` loses nothing, the next loop goes on behind. The last update counts
        as handled when open_client's block ends without an exception.
        """
        return Updates(self._updates)


def check_room(asked: CreateContent, room: Room) -> None:
    """Is it the room that we made, or that of the same two people? Raises: Lie."""
    is_made = room.id == chain.room_id(body_bytes(asked))
    if not is_made and (asked.direct is None or room.direct_with != asked.direct):
        raise Lie(Reason.WRONG_ROOM, "the server gave another room than the one that was asked for", room=room.id)


class Updates:
    """`async for update in client.messages()`. No generator: it may be left at any time without closing it."""

    def __init__(self, queue: UpdateQueue) -> None:
        self._queue = queue
        self._is_over = False

    def mark_handled(self) -> None:
        """The last update was handled, before the next is asked for."""
        self._queue.mark_handled()

    def __aiter__(self) -> "Updates":
        return self

    async def __anext__(self) -> Update:
        if self._is_over:
            raise StopAsyncIteration
        update = await self._queue.next()
        self._is_over = isinstance(update, SignedOut)
        return update
