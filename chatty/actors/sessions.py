"""The actor of one WebSocket: a reader, a writer and a filler around a Session (delivery.py).

    challenge ── hello within hello_timeout_s ──> its turn ──> welcome, mailbox, user stream, rooms, `resumed` ──> live
    live ── End ──> closed

It registers in the directory before it reads the snapshot, so that no event falls between the two. It ends when the peer goes,
when it is told to (revoked, superseded, token expired, draining), or by a frame that is no request. An error of one request is an
answer; an error of the connection is an `error` event with id 0 and the error's close code.

TEMPORARY: a crash closes this socket alone; the client connects again and resumes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Protocol, assert_never

import structlog
import trio
from msgspec.structs import replace

from chatty.actors.delivery import Session, open_requests_max
from chatty.actors.faults import domain_error
from chatty.actors.journal import Append
from chatty.actors.notice_requests import take_notice
from chatty.actors.outbox import Item, TrySend
from chatty.actors.runtime import ActorError, ActorStopped, Mailbox
from chatty.actors.session_parts import SessionParts
from chatty.errors import (
    BadRequest,
    ChattyError,
    DeviceRevoked,
    HelloExpected,
    HelloTimeout,
    ShuttingDown,
    Superseded,
    TooLarge,
)
from chatty.ids import RoomId, RoomNumber, Seq
from chatty.services.caller import Caller
from chatty.services.messages import draft
from chatty.services.permissions import frame_permission
from chatty.services.streams import Resume, RoomPosition
from chatty.wire import frames, limits
from chatty.wire.frames import ClientFrame, Cursor, Encoding
from chatty.wire.presence import SetPresence, WatchPresence
from chatty.wire.receipts import Read
from chatty.wire.typing_notices import Typing

close_default = 4411
cursors_max = 10_000  # rooms that one client may resume from

log = structlog.get_logger("chatty.sessions")


class SocketClosed(Exception):
    """The peer has gone, or the socket was closed."""


class Socket(Protocol):
    """One WebSocket, however it is served. Used by one session."""

    @property
    def encoding(self) -> Encoding: ...
    @property
    def address(self) -> str:
        """Of the client, as far as it is known."""
        return ""

    async def receive(self) -> bytes | str:
        """The next message. Raises: SocketClosed; BadRequest for a message of the wrong kind."""
        ...

    async def send(self, frame: bytes) -> None:
        """Empty: nothing but what try_send() has left. Raises: SocketClosed. May block for as long as the peer does not read."""
        ...

    @property
    def try_send(self) -> TrySend | None:
        """None: it cannot."""
        return None

    def admit(self) -> None:
        """Whose it is is known: until now the peer could send one message, and no large one."""
        ...

    async def close(self, code: int, reason: str) -> None:
        """Never raises; may block as send() does."""
        ...


@dataclass(frozen=True)
class End:
    """Tell a session to end, and why."""

    error: ChattyError


async def session_actor(mailbox: Mailbox[End], socket: Socket, parts: SessionParts) -> None:
    """Serve one socket until it ends. Draining: the client is told to come back."""
    mailbox.ready()
    connection = Connection(socket, parts)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, nursery.cancel_scope)
        await _await_end(mailbox, connection)


async def _await_end(mailbox: Mailbox[End], connection: "Connection") -> None:
    async for message in mailbox:
        connection.end(message.error)
    connection.end(ShuttingDown("the server is draining"))


async def close_with(socket: Socket, parts: SessionParts, error: ChattyError) -> None:
    """An error of the connection: an event with id 0, then the error's close code."""
    code = error.close_code or close_default
    parts.metrics.websocket_closes.labels(code=str(code)).inc()
    try:
        event = parts.error_frame(0, error)
        await socket.send(frames.encode([event], encoding=socket.encoding))
        await socket.close(code, error.code)
    except SocketClosed:
        pass


class Connection:
    """The tasks of one socket. `end()` may be called by anybody, any number of times; the first reason counts."""

    def __init__(self, socket: Socket, parts: SessionParts) -> None:
        self._socket = socket
        self._parts = parts
        self._reason: ChattyError | None = None
        self._serving = trio.CancelScope()
        self._session: Session | None = None
        self._nonce = parts.make_nonce()

    def end(self, error: ChattyError) -> None:
        if self._reason is None:
            self._reason = error
        self._serving.cancel()

    async def run(self, whole: trio.CancelScope) -> None:
        try:
            with self._serving:
                await self._serve()
        finally:
            if self._session is not None:
                self._parts.directory.leave(self._session)
                self._parts.presence.leave(self._session)
        await self._close()
        whole.cancel()

    async def _close(self) -> None:
        """Say why, then close; a peer that does not read holds this up until the kernel ends it or the actor is cancelled."""
        if self._reason is not None:
            await close_with(self._socket, self._parts, self._reason)

    async def _serve(self) -> None:
        try:
            session = await self._greet()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, session)
                nursery.start_soon(session.fill)
                await self._read(session)
        except* SocketClosed:
            pass

    # Greeting --------------------------------------------------------------------------------------------------------

    async def _greet(self) -> Session:
        challenge = frames.Challenge(nonce=self._nonce, generation=self._parts.generation)
        await self._send_now([challenge])
        try:
            with trio.fail_after(self._parts.limits.hello_timeout_s):
                hello = await self._first_frame()
            async with self._parts.greetings:
                caller = await self._signed_in(hello)
            self._socket.admit()
            with trio.fail_after(self._parts.limits.hello_timeout_s):
                rewound = await self._rewound(caller, hello, await self._cursors(hello, caller))
        except trio.TooSlowError:
            await self._refuse(HelloTimeout("no hello in time"))
        except ChattyError as error:
            await self._refuse(error)
        return await self._resume(caller, *rewound)

    async def _signed_in(self, shown: frames.Hello | frames.Token) -> Caller:
        """Raises: Unauthenticated and relatives; what the policy says of this frame."""
        caller = await self._parts.authenticate(shown.access_token, shown.dpop_proof, self._nonce)
        self._check(shown, caller)
        return caller

    def _check(self, request: ClientFrame, caller: Caller) -> None:
        """Raises: Forbidden and relatives."""
        self._parts.policy.check(frame_permission(type(request)), caller, address=self._socket.address)

    async def _refuse(self, error: ChattyError) -> NoReturn:
        self.end(error)
        while True:
            await trio.sleep_forever()

    async def _first_frame(self) -> frames.Hello:
        bytes_max = min(limits.hello_bytes_max, self._parts.limits.frame_bytes_max)
        return frames.decode_hello(await self._socket.receive(), encoding=self._socket.encoding, bytes_max=bytes_max)

    async def _cursors(self, hello: frames.Hello, caller: Caller) -> list[Cursor]:
        cursors = list(hello.cursors)
        more = hello.more
        while more:
            for request in await self._requests():
                if not isinstance(request, frames.Cursors):
                    raise HelloExpected("pages of cursors follow a hello with more")
                self._check(request, caller)
                cursors += request.cursors
                if len(cursors) > cursors_max:
                    raise BadRequest(f"at most {cursors_max} cursors")
                more = request.more
                await self._send_now([frames.Done(id=request.id)])
        return cursors

    async def _rewound(
        self, caller: Caller, hello: frames.Hello, cursors: list[Cursor]
    ) -> tuple[frames.Hello, Sequence[Cursor]]:
        """Cursors of an earlier generation than ours go back to where the next one began: behind that nothing is the same."""
        if not 0 < hello.generation < self._parts.generation.number:
            return hello, cursors
        rooms = [cursor.room for cursor in cursors]
        beginnings = await self._parts.streams.beginnings(caller, after=hello.generation, rooms=rooms)
        rewound = replace(hello, user_seq=beginnings.rewound_stream(hello.user_seq))
        return rewound, [beginnings.rewound(cursor) for cursor in cursors]

    async def _requests(self) -> list[ClientFrame]:
        data = await self._socket.receive()
        return frames.decode_requests(
            data, encoding=self._socket.encoding, bytes_max=self._parts.limits.frame_bytes_max
        )

    async def _resume(self, caller: Caller, hello: frames.Hello, cursors: Sequence[Cursor]) -> Session:
        socket = self._socket
        session = Session(
            caller,
            socket.encoding,
            self._parts,
            self.end,
            cursors=cursors,
            address=socket.address,
            try_send=socket.try_send,
        )
        self._session = session
        named = {cursor.room for cursor in cursors}
        try:
            older = self._parts.directory.enter(session)
            if older is not None:
                older.end(Superseded("the device connected again"))
            async with self._parts.greetings:
                for position in await self._parts.streams.rooms_of(caller, named):
                    session.enter_room(position)
                resume = await self._parts.streams.resume(caller, user_seq=hello.user_seq, named=named)
                joined = await session.joined_rooms(resume.user_events) if resume is not None else ()
        except ChattyError as error:
            await self._refuse(error)
        if resume is None or not resume.send_row.is_live:
            await self._refuse(DeviceRevoked("this device was revoked"))
        self._welcome(session, hello, resume, joined)
        return session

    def _welcome(self, session: Session, hello: frames.Hello, resume: Resume, joined: Sequence[RoomPosition]) -> None:
        session.reply(
            frames.Welcome(
                id=hello.id,
                user=session.caller.user,
                device=session.caller.device,
                highest_n=Seq(resume.send_row.highest_n),
                low=Seq(resume.send_row.low),
                heartbeat_interval_s=self._parts.limits.heartbeat_interval_s,
            )
        )
        session.note_shown(resume.shown)
        session.user_sent = min(hello.user_seq, resume.user_head)  # a cursor from the future counts as the end
        session.give_mailbox(resume.mailbox)
        session.reply(resume.counts)
        session.give_user_events(resume.user_events, joined)
        for position in resume.rooms:
            session.enter_room(position)
        for number in session.rooms.keys() - {position.room_number for position in resume.rooms}:
            session.mark_behind(number)  # left since it was registered
        session.begin_resume(
            has_more_mail=bool(resume.mailbox), has_more_user_events=session.user_sent < resume.user_head
        )

    # Reading ---------------------------------------------------------------------------------------------------------

    async def _read(self, session: Session) -> None:
        while True:
            await session.outbox.wait_for_room()
            while len(session.open_requests) >= open_requests_max:
                await session.wait_for_settled()
            try:
                requests = await self._requests()
            except BadRequest as error:  # a frame of its own length: the next one is sound
                session.reply_error(0, error)
                continue
            except TooLarge as error:
                session.reply_error(0, error)
                continue
            for request in requests:
                await self._handle(session, request)

    async def _handle(self, session: Session, request: ClientFrame) -> None:
        try:
            self._check(request, session.caller)
            if not isinstance(request, frames.Send):
                session.limits.count_request()
            match request:
                case frames.Send():
                    await self._append(session, request)
                case frames.MailboxAck(id=request_id, ids=ids):
                    await self._parts.streams.acknowledge(session.caller, ids)
                    session.given.difference_update(ids)
                    session.note_mailbox_room()
                    session.reply(frames.Done(id=request_id))
                case frames.Resync(id=request_id):
                    session.resync(request.cursors, user_seq=request.user_seq, is_last=not request.more)
                    session.reply(frames.Done(id=request_id))
                case frames.Token(id=request_id):
                    session.renew(await self._signed_in(request))
                    session.reply(frames.Done(id=request_id))
                case frames.CheckpointRequest(id=request_id, room=room):
                    session.reply(await self._checkpoint(session, request_id, room))
                case frames.Ping(id=request_id):
                    session.reply(frames.Done(id=request_id))
                case Typing() | Read() | SetPresence() | WatchPresence():
                    await take_notice(session, request, self._parts)
                    session.reply(frames.Done(id=request.id))
                case frames.Hello() | frames.Cursors():
                    raise BadRequest("only before the session is open")
                case _:
                    assert_never(request)
        except ChattyError as error:  # another request under this id may be open: it is still to be answered
            session.refuse(request.id, error)

    async def _append(self, session: Session, request: frames.Send) -> None:
        if request.id in session.open_requests:
            raise BadRequest("this request id is in use")
        session.limits.count_send()
        session.notices.note_activity(self._parts.clock_s())
        number = await self._room_number(session, request.room)
        one = draft(session.caller, request, room=request.room, room_number=number, n=request.n)
        self._parts.quotas.check_message(session.caller.role, size_bytes=len(request.body))
        deadline = trio.current_time() + self._parts.limits.append_timeout_s
        session.open_requests[request.id] = deadline
        self._parts.directory.waited_for[session] = None
        append = Append(one, deadline, on_answer=partial(session.settle, request.id, request.n))
        try:
            await self._tell_room(number, append)
        except ActorError as error:
            session.reply_error(request.id, domain_error(error))

    async def _room_number(self, session: Session, room: RoomId) -> RoomNumber:
        """A room that is not known here may be a new one: what a cache says no to is asked of the store."""
        known = session.numbers.get(room)
        return known if known is not None else await self._parts.streams.room_number(session.caller, room)

    async def _tell_room(self, number: RoomNumber, append: Append) -> None:
        ref = self._parts.rooms.find(number) or await self._parts.rooms.get(number)
        try:
            ref.tell(append)
        except ActorStopped:  # given up or passivated for good meanwhile: the next one starts fresh
            (await self._parts.rooms.get(number)).tell(append)

    async def _checkpoint(self, session: Session, request_id: int, room: RoomId) -> frames.Checkpoint:
        signed = await self._parts.checkpoints.checkpoint(session.caller, room)
        return frames.Checkpoint(
            id=request_id,
            room=room,
            generation=signed.generation,
            seq=signed.seq,
            head=signed.head,
            time=signed.time,
            key_id=signed.key_id,
            signature=signed.signature,
        )

    # Writing ---------------------------------------------------------------------------------------------------------

    async def _write(self, session: Session) -> None:
        """All that has queued as one frame; where nothing has, the rest of one that left at once."""
        while True:
            items = await session.outbox.take()
            session.write_began = trio.current_time()
            self._parts.directory.waited_for[session] = None
            await self._socket.send(_one_frame(items, self._socket.encoding) if items else b"")
            session.write_began = None
            session.outbox.written()

    async def _send_now(self, events: Sequence[frames.ServerFrame]) -> None:
        await self._socket.send(frames.encode(list(events), encoding=self._socket.encoding))


def _one_frame(items: Sequence[Item], encoding: Encoding) -> bytes:
    count = sum(item.events_count for item in items)
    return frames.join_events([item.data for item in items], encoding=encoding, count=count)
