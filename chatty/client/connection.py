"""One WebSocket at a time to the server: challenge, hello, welcome, then requests and events, and again after each break.

*Resume*: hello names every room's cursor and the user stream's; what came after them comes again, what is on disk does not.
*Break*: waiting requests raise LinkLost and are repeated by who made them; the next try waits with full jitter, at least as
long as the server asked for. *Superseded*, *revoked*: no next try. *Token*: a fresh one goes over the open socket before the
old one ends.
*Cancelled*: the socket closes; the server resumes the next one where the cursors stand.
"""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream

from chatty.client.backoff import Backoff, Jitter, full_jitter
from chatty.client.dpop import ProofMaker
from chatty.client.errors import error_from
from chatty.client.nursery import open_serving_nursery
from chatty.client.reasons import NotSignedIn, SessionEnded
from chatty.client.tokens import TokenKeeper
from chatty.errors import (
    BadRequest,
    ChattyError,
    DeviceRevoked,
    RefreshRefused,
    Superseded,
    TokenExpired,
    Unauthenticated,
)
from chatty.ids import SendNumber, Seq, UserSeq
from chatty.wire import limits
from chatty.wire.frames import (
    JSON_SUBPROTOCOL,
    MSGPACK_SUBPROTOCOL,
    Ack,
    Challenge,
    Checkpoint,
    ClientFrame,
    Cursor,
    Cursors,
    Done,
    Encoding,
    Error,
    Generation,
    Hello,
    Resync,
    ServerFrame,
    Token,
    Welcome,
    decode_events,
    encode,
)

answer_timeout_s = 30.0
connect_timeout_s = 20.0
message_bytes_max = 4 * limits.frame_bytes_max  # a page of history may be larger than what we may send

_PATH = "/v1/ws"
_SUPERSEDED, _REVOKED, _TOKEN_EXPIRED, _UNAUTHENTICATED = 4409, 4403, 4402, 4401

MakeFrame = Callable[[int], ClientFrame]
Answer = Ack | Done | Error | Checkpoint | Welcome


class LinkLost(Exception):
    """The socket broke before the answer came: the outcome is unknown."""


@dataclass(frozen=True, kw_only=True)
class Where:
    """What hello and resync say: everything up to here is on this disk."""

    low: SendNumber
    user_seq: UserSeq
    cursors: list[Cursor]
    generation: Seq


class Link:
    """`on_challenge`: told the server's generation, before the hello. `where`: asked at each hello. `on_events`: called with what
    each frame brings, one frame after the other.
    """

    def __init__(
        self,
        origin: str,
        tokens: TokenKeeper,
        proofs: ProofMaker,
        *,
        encoding: Encoding,
        where: Callable[[], Where],
        on_challenge: Callable[[Generation], None],
        on_welcome: Callable[[Welcome], None],
        on_events: Callable[[Sequence[ServerFrame]], Awaitable[bool]],
        jitter: Jitter = full_jitter,
    ) -> None:
        self._origin = urlsplit(origin)
        self._tokens = tokens
        self._proofs = proofs
        self._nonce = ""
        self._encoding: Encoding = encoding
        self._where = where
        self._on_challenge = on_challenge
        self._on_welcome = on_welcome
        self._on_events = on_events
        self._backoff = Backoff(jitter=jitter)
        self._ids = itertools.count(1)
        self._socket: WebSocketConnection | None = None
        self._waiting: dict[int, trio.MemorySendChannel[Answer]] = {}
        self._up = trio.Event()
        self._ended: SessionEnded | None = None
        self._token = ""
        self._refused_token = ""

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    async def wait_up(self) -> None:
        """Raises: SessionEnded, when it will never be up again."""
        await self._up.wait()
        if self._ended is not None:
            raise self._ended

    async def run(self) -> SessionEnded:
        """Connect, and again, until there is nothing to come back to. Returns: why."""
        try:
            await self._connect_for_ever()
        except SessionEnded as ended:
            self._ended = ended
            self._up.set()
            return ended
        raise AssertionError("for ever has ended")

    async def _connect_for_ever(self) -> None:
        while True:
            retry_after_s = None
            try:
                await self._run_once()
            except (DeviceRevoked, RefreshRefused, Superseded) as error:
                raise SessionEnded(error.code) from None
            except NotSignedIn:
                raise SessionEnded("logged out") from None
            except (TokenExpired, Unauthenticated):
                self._refused_token = self._token
            except ChattyError as error:
                retry_after_s = error.retry_after_s
            except (ConnectionClosed, HandshakeError, OSError, LinkLost, trio.TooSlowError) as error:
                self._look_at_close(error)
            await trio.sleep(self._backoff.next_s(retry_after_s=retry_after_s))

    def _look_at_close(self, error: BaseException) -> None:
        code = error.reason.code if isinstance(error, ConnectionClosed) and error.reason is not None else 0
        if code == _SUPERSEDED:
            raise SessionEnded("superseded: this device is connected elsewhere") from None
        if code == _REVOKED:
            raise SessionEnded("device_revoked") from None
        if code in (_TOKEN_EXPIRED, _UNAUTHENTICATED):
            self._refused_token = self._token

    async def _run_once(self) -> None:
        refused, self._refused_token = self._refused_token, ""
        self._token = await self._tokens.access_token(refused=refused)
        with trio.fail_after(connect_timeout_s) as connecting:
            async with self._open_socket() as socket:
                welcome, rest = await self._greet(socket, self._token)
                connecting.deadline = float("inf")
                self._backoff.reset()
                self._on_welcome(welcome)
                await self._serve(socket, rest, welcome.heartbeat_interval_s)

    @asynccontextmanager
    async def _open_socket(self) -> AsyncIterator[WebSocketConnection]:
        """The stream is ours, so that it is closed however the block ends; trio_websocket leaves some open."""
        is_secure = self._origin.scheme == "https"
        host, port = self._origin.hostname or "", self._origin.port or (443 if is_secure else 80)
        opening = trio.open_ssl_over_tcp_stream if is_secure else trio.open_tcp_stream
        stream = await opening(host, port)
        subprotocol = JSON_SUBPROTOCOL if self._encoding == "json" else MSGPACK_SUBPROTOCOL
        async with stream, open_serving_nursery() as nursery:
            yield await wrap_client_stream(
                nursery,
                stream,
                self._origin.netloc,
                _PATH,
                subprotocols=[subprotocol],
                max_message_size=message_bytes_max,
            )

    async def _greet(self, socket: WebSocketConnection, token: str) -> tuple[Welcome, list[ServerFrame]]:
        challenge, *_ = await self._receive(socket)
        if not isinstance(challenge, Challenge):
            raise BadRequest("the server did not begin with a challenge")
        self._nonce = challenge.nonce
        self._on_challenge(challenge.generation)
        for frame in self._greeting(token):
            await self._put(socket, frame)
        while True:
            first, *rest = await self._receive(socket)
            if isinstance(first, Error):
                raise error_of(first)
            if isinstance(first, Welcome):
                return first, rest

    def _greeting(self, token: str) -> list[ClientFrame]:
        where = self._where()
        pages = _pages(where.cursors)
        hello = Hello(
            id=next(self._ids),
            access_token=token,
            dpop_proof=self._proof(token),
            low=where.low,
            user_seq=where.user_seq,
            cursors=pages[0],
            more=len(pages) > 1,
            generation=where.generation,
        )
        return [hello, *self._more_cursors(pages)]

    def _proof(self, token: str) -> str:
        return self._proofs.proof("GET", _PATH, access_token=token, nonce=self._nonce)

    def _more_cursors(self, pages: list[list[Cursor]]) -> list[ClientFrame]:
        return [
            Cursors(id=next(self._ids), cursors=page, more=number < len(pages))
            for number, page in enumerate(pages[1:], start=2)
        ]

    async def _serve(self, socket: WebSocketConnection, rest: list[ServerFrame], heartbeat_s: float) -> None:
        """Read until the socket ends; whichever task sees the end, ends the others."""
        ending: list[BaseException] = []
        self._socket = socket
        self._up.set()
        try:
            async with trio.open_nursery() as nursery:

                async def guard(work: Callable[[], Awaitable[None]]) -> None:
                    try:
                        await work()
                    except (ConnectionClosed, ChattyError, NotSignedIn, LinkLost, trio.TooSlowError) as error:
                        ending.append(error)
                        nursery.cancel_scope.cancel()

                nursery.start_soon(guard, lambda: self._read(socket, rest))
                nursery.start_soon(guard, lambda: self._ping(socket, heartbeat_s))
                nursery.start_soon(guard, self._renew_token)
        finally:
            self._go_down()
        if ending:
            raise ending[0]

    def _go_down(self) -> None:
        self._socket = None
        self._up = trio.Event()
        waiting, self._waiting = self._waiting, {}
        for channel in waiting.values():
            channel.close()

    async def _read(self, socket: WebSocketConnection, rest: list[ServerFrame]) -> None:
        events = rest
        while True:
            others = [event for event in events if not self._answered(event)]
            if others and await self._on_events(others):
                await self._resync(socket)
            events = await self._receive(socket)

    def _answered(self, event: ServerFrame) -> bool:
        if isinstance(event, Error) and event.id == 0:
            raise error_of(event)
        if not isinstance(event, Ack | Done | Error | Checkpoint | Welcome):
            return False
        channel = self._waiting.pop(event.id, None)
        if channel is not None:
            channel.send_nowait(event)
            channel.close()
        return True

    async def _resync(self, socket: WebSocketConnection) -> None:
        """Each page is a resync of its own; the last one makes the server go on."""
        where = self._where()
        pages = _pages(where.cursors)
        for number, page in enumerate(pages, start=1):
            more = number < len(pages)
            resync = Resync(id=next(self._ids), user_seq=where.user_seq, cursors=page, more=more)
            await self._put(socket, resync)

    async def _ping(self, socket: WebSocketConnection, heartbeat_s: float) -> None:
        while True:
            await trio.sleep(heartbeat_s)
            with trio.fail_after(heartbeat_s):
                await socket.ping()

    async def _renew_token(self) -> None:
        while True:
            await trio.sleep(self._tokens.refresh_in_s)
            token = await self._tokens.access_token()
            await self._give_token(token)

    async def _give_token(self, token: str) -> None:
        answer = await self.request(lambda id_: Token(id=id_, access_token=token, dpop_proof=self._proof(token)))
        if isinstance(answer, Error):
            raise error_of(answer)

    async def request(self, make: MakeFrame) -> Answer:
        """Send one request over the present socket and wait for its answer, an Error included.

        Raises: LinkLost. Cancelled: it may have been done.
        """
        socket = self._socket
        if socket is None:
            raise LinkLost
        id_ = next(self._ids)
        send, receive = trio.open_memory_channel[Answer](1)
        self._waiting[id_] = send
        try:
            with trio.fail_after(answer_timeout_s):
                await self._put(socket, make(id_))
                return await receive.receive()
        except (ConnectionClosed, trio.EndOfChannel, trio.TooSlowError):
            raise LinkLost from None
        finally:
            self._waiting.pop(id_, None)

    async def tell(self, make: MakeFrame) -> None:
        """Send a request whose answer nobody waits for. A broken socket is somebody else's news."""
        if self._socket is not None:
            try:
                await self._put(self._socket, make(next(self._ids)))
            except ConnectionClosed:
                return

    async def _put(self, socket: WebSocketConnection, frame: ClientFrame) -> None:
        data: Any = encode(frame, encoding=self._encoding)
        await socket.send_message(data.decode() if self._encoding == "json" else data)

    async def _receive(self, socket: WebSocketConnection) -> list[ServerFrame]:
        events = decode_events(await socket.get_message(), encoding=self._encoding)
        if not events:
            raise BadRequest("a frame without events")
        return events


def _pages(cursors: list[Cursor]) -> list[list[Cursor]]:
    size = limits.cursors_per_frame_max
    return [cursors[at : at + size] for at in range(0, len(cursors), size)] or [[]]


def error_of(frame: Error) -> ChattyError:
    """The error that a frame carries."""
    return error_from(
        frame.code,
        frame.message,
        is_retryable=frame.is_retryable,
        retry_after_s=frame.retry_after_s,
        details=frame.details,
    )
