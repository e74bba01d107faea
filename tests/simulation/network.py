"""Connections between simulated clients and sessions: the third adapter of the Socket port.

A line carries bytes to the client, through a buffer that fills when the client does not read, and messages to the server. Each
line has delays of its own; so what goes over two of them arrives in any order. It may be cut at any time, and the two ends learn
of it at times of their own: until then a server writes into nothing.
"""

from collections import deque
from collections.abc import Callable, Sequence
from math import inf

import trio
from trio.lowlevel import ParkingLot

from chatty.actors.outbox import TrySend
from chatty.actors.sessions import Socket, SocketClosed
from chatty.wire import frames
from chatty.wire.frames import Encoding, ServerFrame
from chatty.wire.websocket import server_frame
from tests.simulation.chance import Chance

OnEmit = Callable[[Sequence[ServerFrame]], None]


class LineCut(Exception):
    """The connection has gone."""


class Line(Socket):
    """The server's end is the Socket. on_emit: told of the events of each frame that the server writes."""

    def __init__(self, chance: Chance, encoding: Encoding, on_emit: OnEmit, *, is_direct: bool) -> None:
        self._chance = chance
        self._encoding = encoding
        self._on_emit = on_emit
        self._is_direct = is_direct
        self._to_server: deque[tuple[float, bytes | str]] = deque()
        self._to_client = bytearray()  # what the network holds
        self._inbox = bytearray()
        self._rest = b""
        self._is_sending = False
        self._is_ended = False  # the server wrote its last byte
        self._cut_at = self._server_learns_at = inf
        self._changed = ParkingLot()

    # The server's end ------------------------------------------------------------------------------------------------

    @property
    def encoding(self) -> Encoding:
        return self._encoding

    async def receive(self) -> bytes | str:
        while not self._to_server:
            self._check_server()
            await self._wait(self._server_learns_at)
        arrives_at, message = self._to_server[0]
        await trio.sleep_until(min(arrives_at, self._server_learns_at))
        self._check_server()
        self._to_server.popleft()
        return message

    async def send(self, frame: bytes) -> None:
        data = server_frame(frame, is_text=self._encoding == "json") if frame else b""
        self._is_sending = True
        try:
            self._check_server()
            if frame:
                self._note(data)
            self._rest += data
            while self._rest:
                self._fill_buffer()
                if self._rest:
                    await self._wait(self._server_learns_at)
                    self._check_server()
            await trio.lowlevel.checkpoint()
        finally:
            self._is_sending = False

    @property
    def try_send(self) -> TrySend | None:
        return self._try_send if self._is_direct else None

    def _try_send(self, frame: bytes) -> int:
        if not frame or self._is_sending or self._rest or self._is_ended or self._server_knows or not self._free_bytes:
            return 0
        self._note(frame)
        self._rest = frame
        self._fill_buffer()
        return len(frame) - len(self._rest)

    def admit(self) -> None:
        """Nobody counts what comes before."""

    async def close(self, code: int, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        self.end()

    def end(self) -> None:
        """Whoever served it has gone."""
        self._is_ended = True
        self._changed.unpark_all()

    @property
    def _server_knows(self) -> bool:
        return trio.current_time() >= self._server_learns_at

    def _check_server(self) -> None:
        if self._server_knows or self._is_ended:
            raise SocketClosed

    @property
    def _free_bytes(self) -> int:
        return self._chance.faults.buffer_bytes - len(self._to_client)

    def _fill_buffer(self) -> None:
        taken, self._rest = self._rest[: self._free_bytes], self._rest[self._free_bytes :]
        self._to_client += taken
        self._changed.unpark_all()

    def _note(self, frame: bytes) -> None:
        payload, _ = _first_frame(frame)
        assert payload is not None, "the server writes whole frames"
        self._on_emit(frames.decode_events(payload, encoding=self._encoding))

    # The client's end ------------------------------------------------------------------------------------------------

    def write(self, requests: Sequence[frames.ClientFrame]) -> None:
        """Never waits. What is on its way when the line is cut is lost."""
        data = frames.encode(list(requests) if len(requests) != 1 else requests[0], encoding=self._encoding)
        earliest = self._to_server[-1][0] if self._to_server else 0.0
        arrives_at = trio.current_time() + self._chance.seconds(self._chance.faults.network_delay_s_max)
        self._to_server.append((max(earliest, arrives_at), data.decode() if self._encoding == "json" else data))
        self._changed.unpark_all()

    async def read(self) -> list[ServerFrame]:
        """The events of the next frame. Raises: LineCut."""
        while True:
            await trio.sleep(self._chance.seconds(self._chance.faults.network_delay_s_max))
            self._check_client()
            self._inbox += self._to_client
            self._to_client.clear()
            self._changed.unpark_all()
            payload, size = _first_frame(self._inbox)
            if payload is not None:
                del self._inbox[:size]
                return frames.decode_events(payload, encoding=self._encoding)
            if self._is_ended:
                raise LineCut
            await self._wait(self._cut_at)

    def cut(self, *, server_learns_after_s: float) -> None:
        self._cut_at = min(self._cut_at, trio.current_time())
        self._server_learns_at = min(self._server_learns_at, trio.current_time() + server_learns_after_s)
        self._changed.unpark_all()

    def _check_client(self) -> None:
        if trio.current_time() >= self._cut_at:
            raise LineCut

    async def _wait(self, until: float) -> None:
        """For anything to change, or that time."""
        with trio.move_on_at(until):
            await self._changed.park()


def _first_frame(data: bytes | bytearray) -> tuple[bytes | None, int]:
    """Payload and size of the whole frame at the beginning; None: there is none yet."""
    if len(data) < 2:
        return None, 0
    size, at = data[1], 2
    if size >= 126:
        at = 4 if size == 126 else 10
        size = int.from_bytes(data[2:at], "big")
    if len(data) < at + size:
        return None, 0
    return bytes(data[at : at + size]), at + size
