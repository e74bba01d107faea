"""The bytes of one connection: Hypercorn's connection, its writes and reads made cheaper, and a way past it for the application.

*A write* goes to the kernel at once, as far as the kernel takes it. What it leaves over waits in the Outlet and goes out before
anything else, whoever writes next: the application, or Hypercorn with a pong or a close. So no frame gets into another one.
Cancelled in a write: the rest of that frame goes out first of all, or nothing of it was taken.

*A read* has no deadline of its own where none is set. What was read goes past Hypercorn where the application has claimed that,
frame by frame, as long as the frames are plain (wire/websocket.py):

    offered ── claim() ──> claimed ── the handshake is answered ──> open ── a close, of either side ──> closed
    open ── a frame that is not plain ──> open for what leaves; all that comes is Hypercorn's from then on

Nothing more is read while the application has not taken what came, so what a peer sends stays in the kernel's buffers.
Under TLS there is no such way, and everything goes through Hypercorn.
"""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext
from trio.lowlevel import ParkingLot

from chatty.web.admission import Admission
from chatty.wire.websocket import Splitter

state_key = "chatty.direct"  # in an ASGI scope's state
turns_between_checkpoints = 32  # a peer may make us do much for little: many frames in one packet
_gone = (trio.BrokenResourceError, trio.ClosedResourceError)


class Outlet:
    """What leaves over one TCP connection."""

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self._socket = socket
        self._rest: bytes | memoryview = b""
        self._turn = trio.Lock()
        self._writes_count = 0

    def try_send(self, data: bytes) -> int:
        """Never waits. Returns how many bytes were taken; 0: none, and nothing is kept. If some were, the others follow first."""
        if self._rest or self._turn.locked():
            return 0
        try:
            taken_bytes = os.write(self._socket.fileno(), data)
        except OSError:
            return 0  # full, or gone: the long way finds out which
        if taken_bytes < len(data):
            self._rest = memoryview(data)[taken_bytes:]
        return taken_bytes

    async def send(self, data: bytes) -> None:
        """Until the kernel has it, and what was left before. Raises: BrokenResourceError, ClosedResourceError."""
        taken_bytes = self.try_send(data)
        if data and taken_bytes == len(data):
            self._writes_count += 1
            if self._writes_count % turns_between_checkpoints == 0:
                await trio.lowlevel.checkpoint()
            return
        async with self._turn:
            await self._send_rest()
            if not taken_bytes:
                self._rest = data
                await self._send_rest()

    async def _send_rest(self) -> None:
        while self._rest:
            try:
                self._rest = memoryview(self._rest)[os.write(self._socket.fileno(), self._rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._socket)
            except OSError as error:
                self._rest = b""
                raise trio.BrokenResourceError from error


class Direct:
    """One WebSocket's way past Hypercorn. is_open: messages may leave. is_reading: what comes is to be given to take()."""

    def __init__(self, outlet: Outlet, *, bytes_max: int) -> None:
        self.is_open = False
        self.is_reading = False
        self._outlet = outlet
        self._bytes_max = bytes_max
        self._admission: Admission | None = None
        self._splitter = Splitter()
        self._messages: deque[bytes | str] = deque()
        self._is_at_end = False
        self._receiver, self._room, self._quiet = ParkingLot(), ParkingLot(), ParkingLot()
        self._is_handling = False

    # Opening and closing ---------------------------------------------------------------------------------------------

    @contextmanager
    def handling(self) -> Iterator[None]:
        """While Hypercorn has what was read."""
        self._is_handling = True
        try:
            yield
        finally:
            self._is_handling = False
            self._quiet.unpark_all()

    async def wait_quiet(self) -> None:
        """Until Hypercorn has dealt with all that was read: with bytes behind a handshake that was not answered yet."""
        while self._is_handling:
            await self._quiet.park()

    def claim(self, admission: Admission) -> None:
        """The application will use it, from the answer to the handshake on."""
        self._admission = admission

    def open_if_claimed(self) -> None:
        self.is_open = self.is_reading = self._admission is not None

    def close(self) -> None:
        """No message leaves any more, for a close does."""
        self.is_open = False

    def end(self) -> None:
        """None comes any more; what has come may still be received."""
        self.is_open = False
        self._is_at_end = True
        self._receiver.unpark_all()
        self._room.unpark_all()

    # What leaves -----------------------------------------------------------------------------------------------------

    def try_send(self, frame: bytes) -> int:
        """As Outlet.try_send()."""
        return self._outlet.try_send(frame) if self.is_open else 0

    async def send(self, frame: bytes) -> None:
        """As Outlet.send()."""
        if not self.is_open:
            raise trio.ClosedResourceError
        await self._outlet.send(frame)

    # What comes ------------------------------------------------------------------------------------------------------

    @property
    def has_more(self) -> bool:
        """There is something to take() without further data."""
        return self._splitter.has_more

    def take(self, data: bytes) -> bytes:
        """Keeps the messages for the application. Returns what is Hypercorn's. Call it when wait_for_room() has returned."""
        assert self._admission is not None, "not claimed"
        bytes_max, count_max = self._bytes_max, turns_between_checkpoints
        if not self._admission.is_over:
            bytes_max, count_max = min(bytes_max, self._admission.bytes_left), 1
        messages, others = self._splitter.split(data, bytes_max=bytes_max, count_max=count_max)
        if messages:
            if not self._admission.is_over:
                self._admission.count(messages[0], is_last=True)
            self._put(messages)
        return others

    def take_rest(self) -> bytes:
        """At the end of what comes: what is Hypercorn's then."""
        return self._splitter.give_up()

    def _put(self, messages: list[bytes | str]) -> None:
        self._messages.extend(messages)
        self._receiver.unpark_all()

    async def put(self, message: bytes | str) -> None:
        """A message that came through Hypercorn: behind all that came before it."""
        await self.wait_for_room()
        self._put([message])

    async def wait_for_room(self) -> None:
        """Until the application has taken all that came, and more may come."""
        assert self._admission is not None, "not claimed"
        while self._messages and not self._is_at_end:
            await self._room.park()
        if not self._admission.is_over:
            await self._admission.wait()

    async def receive(self) -> bytes | str:
        """The next message. Raises: EndOfChannel."""
        while not self._messages:
            if self._is_at_end:
                raise trio.EndOfChannel
            await self._receiver.park()
        message = self._messages.popleft()
        if not self._messages:
            self._room.unpark_all()
        return message


def direct_of(scope: Any) -> Direct | None:
    """None: TLS, or a server that knows of none."""
    found: Direct | None = (scope.get("state") or {}).get(state_key)
    return found


class QuickTcpServer(TCPServer):
    """One connection."""

    def __init__(self, app: Any, config: Config, context: WorkerContext, *rest: Any) -> None:
        super().__init__(app, config, context, *rest)
        stream: Any = self.stream
        self._outlet: Outlet | None = None
        self._direct: Direct | None = None
        if isinstance(stream, trio.SocketStream):
            self._outlet = Outlet(stream.socket)
        if self._outlet is not None and config.read_timeout is None:
            self._direct = Direct(self._outlet, bytes_max=config.websocket_max_message_size)
            self.state: Any = {**self.state, state_key: self._direct}

    async def protocol_send(self, event: Any) -> None:
        if self._outlet is None or not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        try:
            # Shielded: these may be the last words, and nobody would send their rest.
            with trio.CancelScope(shield=True):
                await self._outlet.send(event.data)
        except _gone:
            await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        if self._direct is None:
            await super()._read_data()
            return
        while await self._read_once(self._direct):
            pass
        await self.protocol.handle(Closed())

    async def _read_once(self, direct: Direct) -> bool:
        """False: nothing more will come. Apart, so that no connection keeps what it was sent last."""
        try:
            data = bytes(await self._read_some(direct))
        except _gone:
            return False
        if direct.is_reading and data:
            await self._take(direct, data)
        else:
            await self._give(direct, data)
        return bool(data)

    async def _give(self, direct: Direct, data: bytes) -> None:
        with direct.handling():
            if not data and (rest := direct.take_rest()):
                await self.protocol.handle(RawData(rest))
            await self.protocol.handle(RawData(data))

    async def _read_some(self, direct: Direct) -> bytes | bytearray:
        """Read at once what is there to be read, without the turns that a stream takes."""
        if not direct.is_reading:
            return await self.stream.receive_some(MAX_RECV)
        socket = self.stream.socket
        while socket.fileno() >= 0:
            await trio.lowlevel.wait_readable(socket)
            await direct.wait_for_room()
            try:
                return os.read(socket.fileno(), MAX_RECV)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error
        raise trio.ClosedResourceError

    async def _take(self, direct: Direct, data: bytes) -> None:
        """To the application what is its own, the rest to Hypercorn."""
        while True:
            if others := direct.take(data):
                await self.protocol.handle(RawData(others))
            if not direct.has_more:
                return
            await direct.wait_for_room()
            data = b""
