"""A whole server in memory, honest unless a test says otherwise: the HTTP part as a transport, the WebSocket on a real port.

It decides nothing about authority, for the clients are what is tested; it numbers, chains, stores and hands out. The hooks for
lies: `told` (what a user is told of a room, live or in a page), `query` (of keys), `acked`, `created` (what answers a request).
"""

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from chatty.crypto.passwords import DerivationLimits
from chatty.crypto.tokens import SigningKey, VerifyingKey, make_jwks
from chatty.errors import ChattyError, DeviceSetStale, NotFound, QuotaExceeded
from chatty.ids import DeviceId, ListVersion, MailboxId, RoomId, Seq, UserId, UserSeq
from chatty.wire import accounts, chain, frames, keys, rooms
from chatty.wire.accounts import KeyDerivation
from chatty.wire.canonical import encode_base64
from chatty.wire.events import (
    STATE_KINDS,
    Action,
    DevicesContent,
    Kind,
    MemberChange,
    MemberContent,
    Removal,
    RemovalContent,
    RemovalReason,
    TimelineEvent,
    changes_epoch,
)
from chatty.wire.room_directory import ListingContent
from chatty.wire.room_links import LinkContent, LinkRevocationContent
from chatty.wire.signing import body_bytes, signed_bytes
from chatty.wire.successions import KeySuccession

SERVER = "example.org"
SERVER_KEY_SEED = b"\x0c" * 32
CHEAP = KeyDerivation(algorithm="argon2id", memory_bytes=8_192, passes=1)
CHEAP_LIMITS = DerivationLimits(memory_bytes_min=8_192, passes_min=1)
GENERATION = frames.Generation(number=Seq(1), id="first")
one_time_keys_max = 50
_POLICIES: dict[tuple[str, ...], tuple[Any, Any]] = {  # body and content, by the end of the path
    ("links",): (rooms.SignedNewLink, LinkContent),
    ("links", "revoke"): (rooms.SignedLinkRevocation, LinkRevocationContent),
    ("listing",): (rooms.SignedListing, ListingContent),
}


@dataclass(kw_only=True)
class User:
    registration: accounts.Registration
    devices: dict[DeviceId, "Device"] = field(default_factory=dict)
    list_version: int = 0
    stream: list[frames.UserEvent] = field(default_factory=list)

    def in_set(self) -> list["Device"]:
        return [device for device in self.devices.values() if device.published is not None and device.is_live]

    @property
    def digest(self) -> str:
        triples = [
            (device.id, device.published.curve25519, device.published.ed25519)
            for device in self.in_set()
            if device.published is not None
        ]
        return encode_base64(chain.device_list_digest(triples))


@dataclass(kw_only=True)
class Device:
    id: DeviceId
    user: UserId
    is_live: bool = True
    published: keys.DeviceKeys | None = None
    one_time_keys: dict[str, keys.SignedKey] = field(default_factory=dict)
    fallback: dict[str, keys.SignedKey] = field(default_factory=dict)
    mailbox: dict[int, frames.Mailbox] = field(default_factory=dict)
    given: list[frames.Mailbox] = field(default_factory=list)  # all that was ever put into the mailbox
    requests: dict[int, Any] = field(default_factory=dict)
    highest_n: int = 0
    socket: "Socket | None" = None


@dataclass(kw_only=True)
class StoredRoom:
    id: RoomId
    direct: tuple[str, str] | None
    events: list[TimelineEvent] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    members: dict[UserId, tuple[Seq, Seq | None]] = field(default_factory=dict)
    epoch: Seq = Seq(0)
    state_seq: Seq = Seq(0)

    def joined(self) -> list[UserId]:
        return [user for user, (_, until) in self.members.items() if until is None]


@dataclass(kw_only=True)
class Socket:
    connection: WebSocketConnection
    device: Device
    encoding: frames.Encoding
    sent: dict[RoomId, int]
    user_sent: int


class Told(Protocol):
    """What this user is told where these entries are due."""

    def __call__(self, user: UserId, entries: list[frames.RoomEntry], *, is_live: bool) -> list[frames.RoomEntry]: ...


def everything(user: UserId, entries: list[frames.RoomEntry], *, is_live: bool) -> list[frames.RoomEntry]:
    return entries


class SmallServer:
    """`failing`: errors to answer the next sends with, before anything is done (or, with `after`, after it was done)."""

    def __init__(self) -> None:
        self.users: dict[UserId, User] = {}
        self.devices: dict[DeviceId, Device] = {}
        self.rooms: dict[RoomId, StoredRoom] = {}
        self.tokens: dict[str, DeviceId] = {}
        self.requests_seen: list[tuple[str, str]] = []
        self.sends_seen: list[frames.Send] = []
        self.uploads_seen: list[keys.KeyUpload] = []
        self.failing: list[ChattyError | str] = []
        self.told: Told = everything
        self.query: Callable[[UserId, keys.KeyAnswer], keys.KeyAnswer] = lambda asker, answer: answer
        self.acked: Callable[[frames.Ack], frames.Ack] = lambda ack: ack
        self.created: Callable[[rooms.RoomCommitted], rooms.RoomCommitted] = lambda committed: committed
        self.token_came = trio.Event()
        self.upload_came = trio.Event()
        self.expires_in_s = 600
        self.key = SigningKey(SERVER_KEY_SEED)
        self.published_keys: list[VerifyingKey] = [self.key]
        self.successions: list[KeySuccession] = []
        self.origin = ""
        self.is_down = False
        self._token_count = 0
        self._mailbox_count = 0

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._http)

    # HTTP

    async def _http(self, request: httpx.Request) -> httpx.Response:
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise httpx.ConnectError("the server is down")
        path = request.url.path
        self.requests_seen.append((request.method, path))
        try:
            answer = await self._route(request.method, path, request)
        except ChattyError as error:
            body = {"code": error.code, "detail": str(error), "is_retryable": error.is_retryable, **error.fields()}
            return httpx.Response(error.http_status, content=msgspec.json.encode(body))
        return httpx.Response(200, content=msgspec.json.encode(answer))

    async def _route(self, method: str, path: str, request: httpx.Request) -> Any:
        body = request.content

        def read(type_: Any) -> Any:
            return msgspec.json.decode(body, type=type_)

        match (method, path.split("/")[2:]):
            case ("GET", ["server"]):
                return accounts.ServerInfo(
                    server_name=SERVER,
                    origin=self.origin,
                    rp_id="small.test",
                    version="0",
                    generation=GENERATION,
                    registration="open",
                    key_derivation=[CHEAP],
                )
            case ("GET", ["jwks"]):
                return make_jwks([], checkpoint_keys=self.published_keys, successions=self.successions)
            case ("POST", ["salt"]):
                return accounts.Salt(salt=encode_base64(b"s" * 16), nonce="nonce", key_derivation=CHEAP)
            case ("POST", ["register"]):
                registration = read(accounts.Registration)
                user = UserId(f"@{registration.name}:{SERVER}")
                self.users[user] = User(registration=registration)
                return self._new_device(user, registration.new_device.device)
            case ("POST", ["login"]):
                login = read(accounts.Login)
                return self._new_device(login.user, login.new_device.device)
            case ("POST", ["token"]):
                old = read(accounts.Refresh).refresh_token
                return self._tokens(self.devices[self.tokens[old]])
        caller = self.devices[self.tokens[request.headers["Authorization"].split()[1]]]
        return await self._signed_in(caller, method, path, request, read)

    async def _signed_in(self, caller: Device, method: str, path: str, request: httpx.Request, read: Any) -> Any:
        n = int(request.headers.get("Idempotency-Key", 0))
        if n in caller.requests:
            return caller.requests[n]
        match (method, path.split("/")[2:]):
            case ("GET", ["account"]):
                registration = self.users[caller.user].registration
                return accounts.Account(
                    user=caller.user,
                    identity_key=registration.identity_key,
                    wrapped_recovery=registration.wrapped_recovery,
                    wrapped_identity=registration.wrapped_identity,
                    key_derivation=CHEAP,
                )
            case ("POST", ["logout"]):
                await self._revoke(caller)
                answer: Any = accounts.Empty()
            case ("DELETE", ["devices", device]):
                await self._revoke(self.devices[DeviceId(device)])
                answer = accounts.Empty()
            case ("POST", ["keys", "upload"]):
                answer = await self._upload(caller, read(keys.KeyUpload))
            case ("POST", ["keys", "query"]):
                answer = self.query(caller.user, self.key_answer(read(keys.KeyQuery)))
            case ("POST", ["keys", "claim"]):
                answer = self._claim(read(keys.KeyClaim))
            case ("POST", ["to-device"]):
                answer = await self._to_device(caller, read(keys.ToDevice), n)
            case ("POST", ["rooms"]):
                answer = self.created(await self._create(caller, read(rooms.RoomCreation)))
            case ("POST", ["rooms", room, "invitations"]):
                invitation = read(rooms.SignedInvitationBody)
                content = {"invitation": msgspec.to_builtins(invitation)}
                await self.user_event(invitation.signed.target, "invitation", content)
                answer = accounts.Empty()
            case ("POST", ["rooms", room, "members"]):
                signed = read(rooms.SignedMemberChange)
                answer = await self.change(self.rooms[RoomId(room)], signed)
            case ("POST", ["rooms", room, *what]) if tuple(what) in _POLICIES:
                body, content = _POLICIES[tuple(what)]
                answer = await self.change_policy(self.rooms[RoomId(room)], read(body), content)
            case ("GET", ["rooms", room, "events"]):
                return self._page(caller, self.rooms[RoomId(room)], int(request.url.params["after"]))
            case _:
                raise NotFound(path)
        if n:
            caller.requests[n] = answer
            caller.highest_n = max(caller.highest_n, n)
        return answer

    def _new_device(self, user: UserId, device: DeviceId) -> accounts.Tokens:
        self.devices[device] = Device(id=device, user=user)
        self.users[user].devices[device] = self.devices[device]
        return self._tokens(self.devices[device])

    def _tokens(self, device: Device) -> accounts.Tokens:
        self._token_count += 1
        access, refresh = f"access{self._token_count}", f"refresh{self._token_count}"
        self.tokens |= {access: device.id, refresh: device.id}
        return accounts.Tokens(
            user=device.user,
            device=device.id,
            access_token=access,
            refresh_token=refresh,
            expires_in_s=self.expires_in_s,
        )

    # Keys

    async def _upload(self, caller: Device, upload: keys.KeyUpload) -> keys.KeyCounts:
        self.uploads_seen.append(upload)
        self.upload_came.set()
        self.upload_came = trio.Event()
        if len(caller.one_time_keys | upload.one_time_keys) > one_time_keys_max:
            raise QuotaExceeded(quota="one_time_keys_max", count_max=one_time_keys_max)
        caller.one_time_keys |= upload.one_time_keys
        caller.fallback |= upload.fallback_keys
        if upload.device_keys is not None and caller.published is None:
            caller.published = upload.device_keys
            await self.list_changed(caller.user)
        return keys.KeyCounts(
            one_time_key_counts={"signed_curve25519": len(caller.one_time_keys)}, unused_fallback_key_types=[]
        )

    def key_answer(self, query: keys.KeyQuery) -> keys.KeyAnswer:
        asked = {user: self.users[user] for user in query.device_keys if user in self.users}
        return keys.KeyAnswer(
            device_keys={
                user: {device.id: device.published for device in record.in_set() if device.published is not None}
                for user, record in asked.items()
            },
            device_lists={
                user: keys.DeviceList(
                    list_version=ListVersion(record.list_version),
                    list_digest=record.digest,
                    identity_key=record.registration.identity_key,
                    removed={
                        device.id: device.published.ed25519
                        for device in record.devices.values()
                        if device.published is not None and not device.is_live
                    },
                )
                for user, record in asked.items()
            },
        )

    def _claim(self, claim: keys.KeyClaim) -> keys.ClaimedKeys:
        claimed: dict[UserId, dict[DeviceId, dict[str, keys.SignedKey]]] = {}
        for user, wanted in claim.one_time_keys.items():
            for device_id in wanted:
                device = self.devices[device_id]
                stock = device.one_time_keys
                key_id = next(iter(stock or device.fallback), "")
                if key_id:
                    key = stock.pop(key_id) if stock else device.fallback[key_id]
                    claimed.setdefault(user, {})[device_id] = {key_id: key}
        return keys.ClaimedKeys(one_time_keys=claimed)

    async def _to_device(self, caller: Device, request: keys.ToDevice, n: int) -> keys.ToDeviceAnswer:
        for messages in request.messages.values():
            for device_id, content in messages.items():
                self._mailbox_count += 1
                row = frames.Mailbox(
                    id=MailboxId(self._mailbox_count),
                    sender=caller.user,
                    sender_device=caller.id,
                    n=n,  # type: ignore[arg-type]
                    kind=request.type,
                    content=content,
                )
                device = self.devices[device_id]
                device.mailbox[row.id] = row
                device.given.append(row)
                await self.push(device, [row])
        return keys.ToDeviceAnswer(unknown={})

    async def list_changed(self, user: UserId) -> None:
        record = self.users[user]
        record.list_version += 1
        for room in self.rooms.values():
            if user in room.joined():
                content = DevicesContent(
                    user=user,
                    list_version=ListVersion(record.list_version),
                    list_digest=record.digest,
                    previous=room.state_seq,
                )
                event = TimelineEvent(
                    room=room.id, seq=Seq(0), time=0, kind=Kind.DEVICES, target=user, body=body_bytes(content)
                )
                await self.append(room, event)

    async def _revoke(self, device: Device) -> None:
        device.is_live = False
        await self.list_changed(device.user)
        if device.socket is not None:
            await device.socket.connection.aclose(4403, "device_revoked")

    # Rooms

    async def _create(self, caller: Device, creation: rooms.RoomCreation) -> rooms.RoomCommitted:
        create = creation.create.signed
        pair = create.direct
        for existing in self.rooms.values():
            if pair is not None and existing.direct == pair:
                return rooms.RoomCommitted(
                    room=existing.id, seq=Seq(len(existing.events)), epoch=existing.epoch, is_new=False
                )
        room_id = chain.room_id(body_bytes(create))
        room = self.rooms[room_id] = StoredRoom(id=room_id, direct=pair, heads=[chain.empty_head(room_id)])
        event = TimelineEvent(
            room=room_id,
            seq=Seq(0),
            time=0,
            kind=Kind.CREATE,
            sender=create.creator,
            device=create.device,
            n=create.n,
            signature=_raw(creation.create.signature),
            body=body_bytes(create),
        )
        await self.append(room, event)
        committed = [await self.change(room, member) for member in creation.members]
        return committed[-1]

    async def change(self, room: StoredRoom, signed: rooms.SignedMemberChange) -> rooms.RoomCommitted:
        change: MemberChange = signed.signed
        is_addition = change.action in (Action.JOIN, Action.ADD)
        target = self.users[change.target]
        content = MemberContent(
            signed=change,
            previous=room.state_seq,
            list_version=ListVersion(target.list_version) if is_addition else None,
            list_digest=target.digest if is_addition else None,
        )
        event = TimelineEvent(
            room=room.id,
            seq=Seq(0),
            time=0,
            kind=Kind.MEMBER,
            sender=change.sender,
            device=change.device,
            n=change.n,
            target=change.target,
            signature=_raw(signed.signature),
            body=body_bytes(content),
        )
        if is_addition:  # who enters is shown the room from its beginning, also for the second time
            for device in target.devices.values():
                if device.socket is not None:
                    device.socket.sent.pop(room.id, None)
        placed = await self.append(room, event, joining=change.target if is_addition else None, action=change.action)
        if is_addition:
            await self.user_event(change.target, "room_joined", {"room": room.id, "seq": placed.seq})
        elif change.action not in (Action.ROLE, Action.TRANSFER):
            room.members[change.target] = (room.members[change.target][0], placed.seq)
        return rooms.RoomCommitted(room=room.id, seq=placed.seq, epoch=room.epoch)

    async def change_policy(self, room: StoredRoom, request: Any, content: Any) -> rooms.RoomCommitted:
        signed = request.signed
        event = TimelineEvent(
            room=room.id,
            seq=Seq(0),
            time=0,
            kind=Kind.POLICY,
            sender=signed.sender,
            device=signed.device,
            n=signed.n,
            signature=_raw(request.signature),
            body=body_bytes(content(signed=signed, previous=room.state_seq)),
        )
        placed = await self.append(room, event)
        return rooms.RoomCommitted(room=room.id, seq=placed.seq, epoch=room.epoch)

    async def remove(self, room: StoredRoom, target: UserId) -> TimelineEvent:
        """By the server itself, as of an account that is deleted; its devices end first."""
        for device in self.users[target].devices.values():
            device.is_live = False
        await self.list_changed(target)
        removal = Removal(
            domain="chatty.removal.v1",
            server=SERVER,
            room=room.id,
            target=target,
            reason=RemovalReason.ACCOUNT_DELETED,
            last_seq=Seq(len(room.events)),
            last_head=encode_base64(room.heads[-1]),
            key_id=self.key.key_id,
        )
        event = TimelineEvent(
            room=room.id,
            seq=Seq(0),
            time=0,
            kind=Kind.MEMBER,
            target=target,
            signature=self.key.sign(signed_bytes(removal)),
            body=body_bytes(RemovalContent(signed=removal, previous=room.state_seq)),
        )
        placed = await self.append(room, event, action=Action.REMOVE)
        room.members[target] = (room.members[target][0], placed.seq)
        return placed

    async def append(
        self, room: StoredRoom, event: TimelineEvent, *, joining: UserId | None = None, action: Action | None = None
    ) -> TimelineEvent:
        seq = Seq(len(room.events) + 1)
        placed = msgspec.structs.replace(event, seq=seq, time=1_000 + seq)
        room.events.append(placed)
        room.heads.append(chain.next_head(room.heads[-1], chain.leaf(placed)))
        if placed.kind in STATE_KINDS:
            room.state_seq = seq
        if changes_epoch(placed.kind, action):
            room.epoch = seq
        if joining is not None:
            room.members[joining] = (seq, None)
        for user in room.joined():
            for device in self.users[user].devices.values():
                await self._push_room(device, room)
        return placed

    def _entries(self, user: UserId, room: StoredRoom, after: int) -> list[frames.RoomEntry]:
        entries: list[frames.RoomEntry] = []
        since, until = room.members.get(user, (Seq(1 << 50), None))
        for event in room.events[after:]:
            if until is not None and event.seq > until:
                break
            if event.kind is Kind.MESSAGE and event.seq < since:
                last = entries[-1] if entries else None
                first = last.from_seq if isinstance(last, frames.Gap) else event.seq
                if isinstance(last, frames.Gap):
                    entries.pop()
                gap = frames.Gap(room=room.id, from_seq=first, to_seq=event.seq, head=room.heads[event.seq])
                entries.append(gap)
            else:
                entries.append(event)
        return entries

    def _page(self, caller: Device, room: StoredRoom, after: int) -> rooms.Page:
        entries = self.told(caller.user, self._entries(caller.user, room, after), is_live=False)
        return rooms.Page(room=room.id, head_seq=Seq(len(room.events)), entries=entries)

    async def user_event(self, user: UserId, kind: str, content: dict[str, Any]) -> None:
        record = self.users[user]
        event = frames.UserEvent(seq=UserSeq(len(record.stream) + 1), time=1, kind=kind, content=content)
        record.stream.append(event)
        for device in record.devices.values():
            await self._push_stream(device)

    async def _push_stream(self, device: Device) -> None:
        if device.socket is not None:
            stream = self.users[device.user].stream
            sent, device.socket.user_sent = device.socket.user_sent, len(stream)
            await self.push(device, stream[sent:])

    # The socket

    async def push(self, device: Device, events: list[Any]) -> None:
        if device.socket is None or not events:
            return
        data: Any = frames.encode(events, encoding=device.socket.encoding)
        try:
            await device.socket.connection.send_message(data.decode() if device.socket.encoding == "json" else data)
        except ConnectionClosed:
            device.socket = None

    async def _push_room(self, device: Device, room: StoredRoom) -> None:
        if device.socket is not None:
            sent = device.socket.sent.get(room.id, 0)
            device.socket.sent[room.id] = len(room.events)
            await self.push(device, self.told(device.user, self._entries(device.user, room, sent), is_live=True))

    async def serve_socket(self, request: WebSocketRequest) -> None:
        if self.is_down:
            return await request.reject(503)
        subprotocol = request.proposed_subprotocols[0]
        connection = await request.accept(subprotocol=subprotocol)
        encoding = frames.ENCODINGS[subprotocol]
        socket: Socket | None = None
        try:
            await self._raw(connection, encoding, [frames.Challenge(nonce="n", generation=GENERATION)])
            while True:
                for asked in frames.decode_requests(await connection.get_message(), encoding=encoding):
                    if isinstance(asked, frames.Hello):
                        device = self.devices[self.tokens[asked.access_token]]
                        sent = {cursor.room: cursor.seq for cursor in asked.cursors}
                        socket = Socket(
                            connection=connection,
                            device=device,
                            encoding=encoding,
                            sent=dict(sent),
                            user_sent=asked.user_seq,
                        )
                        await self._welcome(socket, asked)
                    else:
                        assert socket is not None
                        await self._answer(socket, asked)
        except ConnectionClosed:
            pass
        finally:
            if socket is not None and socket.device.socket is socket:
                socket.device.socket = None

    async def _raw(self, connection: WebSocketConnection, encoding: frames.Encoding, events: list[Any]) -> None:
        data: Any = frames.encode(events, encoding=encoding)
        await connection.send_message(data.decode() if encoding == "json" else data)

    async def _welcome(self, socket: Socket, hello: frames.Hello) -> None:
        device = socket.device
        welcome = frames.Welcome(
            id=hello.id,
            user=device.user,
            device=device.id,
            highest_n=Seq(device.highest_n),
            low=Seq(1),
            heartbeat_interval_s=30,
        )
        await self._raw(socket.connection, socket.encoding, [welcome])
        device.socket = socket
        counts = {"signed_curve25519": len(device.one_time_keys)}
        await self.push(device, [frames.OneTimeKeyCounts(counts=counts, unused_fallback_algorithms=[])])
        await self.push(device, list(device.mailbox.values()))
        await self._push_stream(device)
        for room in self.rooms.values():
            if device.user in room.members:
                await self._push_room(device, room)
        await self.push(device, [frames.Resumed()])

    async def _answer(self, socket: Socket, asked: frames.ClientFrame) -> None:
        match asked:
            case frames.Send():
                await self._send(socket, asked)
            case frames.MailboxAck():
                for row in asked.ids:
                    socket.device.mailbox.pop(row, None)
                await self.push(socket.device, [frames.Done(id=asked.id)])
            case frames.Resync():
                await self.push(socket.device, [frames.Done(id=asked.id)])
                socket.sent |= {cursor.room: cursor.seq for cursor in asked.cursors}
                for room in self.rooms.values():
                    if socket.device.user in room.members and not asked.more:
                        await self._push_room(socket.device, room)
            case frames.Token():
                self.token_came.set()
                await self.push(socket.device, [frames.Done(id=asked.id)])
            case _:
                await self.push(socket.device, [frames.Done(id=asked.id)])

    async def tell_key_count(self, device: DeviceId, count: int) -> None:
        """As the real server does after it rang: read at some moment, perhaps before an upload that is on its way."""
        counts = {"signed_curve25519": count}
        await self.push(self.devices[device], [frames.OneTimeKeyCounts(counts=counts, unused_fallback_algorithms=[])])

    async def lag(self, device: DeviceId) -> None:
        """Tell a device that live events were dropped, and drop all until its resync."""
        socket = self.devices[device].socket
        assert socket is not None
        socket.sent = dict.fromkeys(self.rooms, 1 << 50)
        await self.push(self.devices[device], [frames.Lagging()])

    async def _send(self, socket: Socket, send: frames.Send) -> None:
        device, room = socket.device, self.rooms[send.room]
        self.sends_seen.append(send)
        failure = self.failing.pop(0) if self.failing else None
        if isinstance(failure, ChattyError):
            return await self._refuse(socket, send, failure)
        if send.n not in device.requests:
            if send.epoch != room.epoch:
                stale = DeviceSetStale(epoch=room.epoch, changed={})
                return await self._refuse(socket, send, stale)
            event = TimelineEvent(
                room=room.id,
                seq=Seq(0),
                time=0,
                kind=Kind.MESSAGE,
                sender=device.user,
                device=device.id,
                n=send.n,
                algorithm=send.algorithm,
                session_id=send.session_id,
                epoch=send.epoch,
                body=send.body,
            )
            device.highest_n = max(device.highest_n, send.n)
            device.requests[send.n] = None
            device.requests[send.n] = await self.append(room, event)
        if failure == "break":  # committed, but the answer is lost
            await socket.connection.aclose(1011, "broken")
            return None
        placed = device.requests[send.n]
        ack = frames.Ack(id=send.id, n=send.n, room=room.id, seq=placed.seq, time=placed.time, leaf=chain.leaf(placed))
        await self.push(device, [self.acked(ack)])
        return None

    async def _refuse(self, socket: Socket, send: frames.Send, error: ChattyError) -> None:
        refusal = frames.Error(
            id=send.id,
            code=error.code,
            message=str(error),
            is_retryable=error.is_retryable,
            retry_after_s=error.retry_after_s,
            details=error.fields(),
        )
        await self.push(socket.device, [refusal])


def _raw(signature: str) -> bytes:
    return base64.b64decode(signature + "==")


@asynccontextmanager
async def small_server() -> AsyncIterator[SmallServer]:
    server = SmallServer()
    async with trio.open_nursery() as nursery:
        listening = await nursery.start(serve_websocket, server.serve_socket, "127.0.0.1", 0, None)
        server.origin = f"http://127.0.0.1:{listening.port}"
        yield server
        nursery.cancel_scope.cancel()
