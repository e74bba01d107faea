"""A raw WebSocket client, for tests of what is on the wire: no SDK, no retries, no checks but those that a test asks for.

    async with open_socket(device, encoding="json") as socket:          # connects, takes the challenge, says hello
        ack = await socket.send(room, ciphertext(), epoch=epoch)        # Refused, with the error frame, where it is refused
        event = await socket.event(TimelineEvent)

What arrives and was not asked for yet waits in `pending`, in order: answer() and event() take the first that fits and leave
the others there. One task reads a socket at a time.
"""

import itertools
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import trio
from trio_websocket import CloseReason, ConnectionClosed, WebSocketConnection, wrap_client_stream

from chatty.ids import MailboxId, RoomId, Seq, UserSeq
from chatty.wire import frames
from chatty.wire.events import TimelineEvent
from chatty.wire.frames import JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL, ClientFrame, Cursor, Encoding, ServerFrame
from tests.server.wire_people import WireDevice

E = TypeVar("E", bound=ServerFrame)
R = TypeVar("R", bound=msgspec.Struct)
SESSION_ID = "S" * 43
UNPROVEN = "a-proof-is-made-when-this-is-written"
wait_timeout_s = 10.0  # nothing that a test waits for takes this long; a test fails by it, and never hangs
_SUBPROTOCOLS: dict[Encoding, str] = {"json": JSON_SUBPROTOCOL, "msgpack": MSGPACK_SUBPROTOCOL}


class Refused(Exception):
    """The server's answer was an error frame."""

    def __init__(self, error: frames.Error) -> None:
        super().__init__(f"{error.code}: {error.message} {error.details}")
        self.error = error

    @property
    def code(self) -> str:
        return self.error.code


def ciphertext(blocks_count: int = 1, *, index: int = 0) -> bytes:
    """Random bytes in the outer shape of a Megolm message, which is all that the server can check."""
    length = 16 * blocks_count
    return b"\x03\x08" + _varint(index) + b"\x12" + _varint(length) + secrets.token_bytes(length + 8 + 64)


def ciphertext_of(size_bytes: int) -> bytes:
    """The largest such message of at most size_bytes."""
    return max((ciphertext(size_bytes // 16 - less) for less in range(4, 8)), key=lambda one: _fits(one, size_bytes))


def _fits(message: bytes, size_bytes: int) -> int:
    return len(message) if len(message) <= size_bytes else 0


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


class WireSocket:
    """One open WebSocket. `device`: whose; its n and low are used by send()."""

    def __init__(self, inner: WebSocketConnection, device: WireDevice | None, encoding: Encoding) -> None:
        self.inner = inner
        self.encoding: Encoding = encoding
        self.pending: deque[ServerFrame] = deque()
        self.received_frames_count = 0
        self.nonce: str | None = None
        self._device = device
        self._ids = itertools.count(1)

    @property
    def device(self) -> WireDevice:
        assert self._device is not None, "a socket of nobody"
        return self._device

    def request_id(self) -> int:
        return next(self._ids)

    # Writing ---------------------------------------------------------------------------------------------------------

    async def write(self, *requests: ClientFrame) -> None:
        """One frame: one request as such, several as a list. Proofs that are still missing are made."""
        requests = tuple([await self.proven(request) for request in requests])
        await self.write_raw(frames.encode(requests[0] if len(requests) == 1 else requests, encoding=self.encoding))

    async def proven(self, request: ClientFrame) -> ClientFrame:
        """With the proof that it still lacks, as write() writes it."""
        if not isinstance(request, frames.Hello | frames.Token) or request.dpop_proof != UNPROVEN:
            return request
        if self.nonce is None:
            self.pending.append(await self.event(frames.Challenge))
        assert self.nonce is not None
        prover, token = self.device.person.prover, request.access_token
        return changed(request, dpop_proof=prover.proof("GET", "/v1/ws", access_token=token, nonce=self.nonce))

    async def write_raw(self, data: bytes | str, *, is_text: bool | None = None) -> None:
        """These bytes as one message; of the encoding's kind, unless is_text says which."""
        is_text = self.encoding == "json" if is_text is None else is_text
        await self.inner.send_message(data.decode() if is_text and isinstance(data, bytes) else data)

    # Reading ---------------------------------------------------------------------------------------------------------

    async def read(self) -> list[ServerFrame]:
        """The next frame's events. Raises: ConnectionClosed."""
        data = await self.inner.get_message()
        self.received_frames_count += 1
        events = frames.decode_events(data, encoding=self.encoding)
        self.nonce = next((event.nonce for event in events if isinstance(event, frames.Challenge)), self.nonce)
        return events

    async def _first(self, fits: Callable[[ServerFrame], bool]) -> ServerFrame:
        with trio.fail_after(wait_timeout_s):
            looked_at = 0
            while True:
                for place in range(looked_at, len(self.pending)):
                    if fits(self.pending[place]):
                        found = self.pending[place]
                        del self.pending[place]
                        return found
                looked_at = len(self.pending)
                self.pending.extend(await self.read())

    async def event(self, kind: type[E]) -> E:
        """The first event of this kind that was not taken yet."""
        found = await self._first(lambda event: isinstance(event, kind))
        assert isinstance(found, kind)
        return found

    async def events(self, kind: type[E], count: int) -> list[E]:
        return [await self.event(kind) for _ in range(count)]

    async def answer(self, request_id: int) -> ServerFrame:
        """What answers this request, an error too."""
        return await self._first(lambda event: getattr(event, "id", None) == request_id and _is_answer(event))

    async def ask(self, request: ClientFrame) -> ServerFrame:
        """Write a request, wait for its answer. Raises: Refused."""
        await self.write(request)
        answer = await self.answer(request.id)
        if isinstance(answer, frames.Error):
            raise Refused(answer)
        return answer

    async def settle(self) -> list[ServerFrame]:
        """Everything that the server had for this socket before it answered a ping sent now, taken from `pending`."""
        await self.ask(frames.Ping(id=self.request_id()))
        taken = list(self.pending)
        self.pending.clear()
        return taken

    async def closed(self) -> CloseReason:
        """Wait for the server to close. What came before it waits in `pending`."""
        with trio.fail_after(wait_timeout_s):
            try:
                while True:
                    self.pending.extend(await self.read())
            except ConnectionClosed as closed:
                return closed.reason or CloseReason(1006, "cut, not closed")

    # Requests --------------------------------------------------------------------------------------------------------

    def hello(self, **changes: Any) -> frames.Hello:
        """As this device; from the beginning unless changes name cursors."""
        usual = frames.Hello(
            id=self.request_id(),
            access_token=self.device.access_token,
            dpop_proof=UNPROVEN,
            low=self.device.low,
            user_seq=UserSeq(0),
        )
        return changed(usual, **changes)

    def draft(self, room: RoomId, body: bytes, *, epoch: int, **changes: Any) -> frames.Send:
        """A send under the device's next n, not written yet."""
        n = changes.pop("n", None) or self.device.take_n()
        usual = frames.Send(
            id=self.request_id(),
            n=n,
            low=self.device.low,
            room=room,
            epoch=Seq(epoch),
            algorithm="m.megolm.v1.aes-sha2",
            session_id=SESSION_ID,
            body=body,
        )
        return changed(usual, **changes)

    async def send(self, room: RoomId, body: bytes, *, epoch: int, **changes: Any) -> frames.Ack:
        """Send and wait for the ack; then the n is settled. Raises: Refused."""
        draft = self.draft(room, body, epoch=epoch, **changes)
        answer = await self.ask(draft)
        assert isinstance(answer, frames.Ack)
        self.device.settle(draft.n)
        return answer

    async def send_all(self, room: RoomId, bodies: Sequence[bytes], *, epoch: int) -> list[frames.Ack]:
        """All in one frame; the acks in the order of the bodies."""
        drafts = [self.draft(room, body, epoch=epoch) for body in bodies]
        await self.write(*drafts)
        answers = [await self.answer(draft.id) for draft in drafts]
        for draft in drafts:
            self.device.settle(draft.n)
        return [answer for answer in answers if isinstance(answer, frames.Ack)]

    async def acknowledge(self, *ids: MailboxId) -> None:
        await self.ask(frames.MailboxAck(id=self.request_id(), ids=list(ids)))

    async def messages(self, count: int) -> list[TimelineEvent]:
        """The next messages; other kinds of timeline events among them are passed over."""
        found: list[TimelineEvent] = []
        while len(found) < count:
            event = await self.event(TimelineEvent)
            if event.kind.value == "message":
                found.append(event)
        return found


def _is_answer(event: ServerFrame) -> bool:
    kinds = (frames.Welcome, frames.Ack, frames.Done, frames.Error, frames.Checkpoint)
    return isinstance(event, kinds)


def changed(request: R, **changes: Any) -> R:
    return msgspec.structs.replace(request, **changes)


@asynccontextmanager
async def open_raw_socket(
    origin: str,
    *,
    encoding: Encoding = "msgpack",
    subprotocols: Sequence[str] | None = None,
    device: WireDevice | None = None,
) -> AsyncIterator[WireSocket]:
    """Connect and no more: the challenge was not read. origin: http://host:port."""
    offered = [_SUBPROTOCOLS[encoding]] if subprotocols is None else list(subprotocols)
    address = origin.removeprefix("http://")
    host, port = address.split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream, trio.open_nursery() as nursery:
        with trio.fail_after(wait_timeout_s):
            inner = await wrap_client_stream(
                nursery, stream, address, "/v1/ws", subprotocols=offered, message_queue_size=1
            )
        try:
            yield WireSocket(inner, device, encoding)
        finally:
            with trio.move_on_after(1, shield=True):
                await inner.aclose()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_socket(device: WireDevice, *, encoding: Encoding = "msgpack", **hello: Any) -> AsyncIterator[WireSocket]:
    """Connect and say hello; `challenge` and `welcome` were taken, everything after them waits. Raises: Refused."""
    async with open_raw_socket(device.origin, encoding=encoding, device=device) as socket:
        await socket.event(frames.Challenge)
        await socket.ask(socket.hello(**hello))
        yield socket


@asynccontextmanager
async def open_live_socket(
    device: WireDevice, *, encoding: Encoding = "msgpack", **hello: Any
) -> AsyncIterator[WireSocket]:
    """As open_socket(), and `resumed` came: everything stored waits in `pending`, what comes now is live."""
    async with open_socket(device, encoding=encoding, **hello) as socket:
        resumed = await socket.event(frames.Resumed)
        assert resumed is not None
        yield socket


def cursor(room: RoomId, seq: int) -> Cursor:
    return Cursor(room=room, seq=Seq(seq))
