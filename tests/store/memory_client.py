"""A client without a network: one device behind an in-memory Socket, which reads only when a test lets it read.

So a test can stop reading (the server's outbox fills), or cut the connection after a certain frame. Each entry is checked as it
arrives: the next of its room and of the chain, nothing twice, nothing left out. What is on the client's disk, cursors and
entries, outlives its connections.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import trio

from chatty.actors.sessions import Socket, SocketClosed
from chatty.app import App
from chatty.ids import RoomId, Seq, UserSeq
from chatty.wire import chain, frames
from chatty.wire.events import TimelineEvent
from chatty.wire.frames import ClientFrame, Encoding, Gap
from tests.server.wire_people import WireDevice


class MemorySocket(Socket):
    """The server's end. What it sends waits for the client to take it: nothing is buffered between them."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self.requests, self._received = trio.open_memory_channel[bytes](math.inf)
        self._sent, self.frames = trio.open_memory_channel[bytes](0)

    @property
    def encoding(self) -> Encoding:
        return self._encoding

    async def receive(self) -> bytes:
        try:
            return await self._received.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise SocketClosed from None

    async def send(self, frame: bytes) -> None:
        try:
            await self._sent.send(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise SocketClosed from None

    def admit(self) -> None:
        """It was never bounded."""

    async def close(self, code: int, reason: str) -> None:
        self._sent.close()

    def cut(self) -> None:
        """The peer has gone."""
        for end in (self.requests, self._received, self._sent, self.frames):
            end.close()


@dataclass(kw_only=True)
class Connection:
    """One socket's life. owed: what was stored when hello was sent; `resumed` may not come before it."""

    socket: MemorySocket
    owed: dict[RoomId, int]
    ended: trio.Event = field(default_factory=trio.Event)
    answers: dict[int, ClientFrame | frames.ServerFrame] = field(default_factory=dict)
    last_id: int = 0
    is_resumed: bool = False

    def next_id(self) -> int:
        self.last_id += 1
        return self.last_id


@dataclass(kw_only=True, eq=False)
class MemoryClient:
    """seen: what happened to it, for a test to know what it met."""

    app: App
    nursery: trio.Nursery
    device: WireDevice
    cursors: dict[RoomId, int] = field(default_factory=dict)
    heads: dict[RoomId, bytes] = field(default_factory=dict)
    entries: dict[RoomId, dict[int, TimelineEvent]] = field(default_factory=dict)
    user_seq: int = 0
    seen: Counter[str]
    connection: Connection | None = None
    nonce: str = ""
    wait_timeout_s: ClassVar[float] = 5.0  # nothing takes this long: a test fails by it

    # Connecting ------------------------------------------------------------------------------------------------------

    async def connect(self, encoding: Encoding, *, owed: dict[RoomId, int]) -> None:
        """Up to the hello; the resume is still to be read."""
        await self.disconnect()
        connection = Connection(socket=MemorySocket(encoding), owed=owed)
        self.nursery.start_soon(self._serve, connection)
        self.connection = connection
        await self.read_frame()
        cursors = [frames.Cursor(room=room, seq=Seq(seq)) for room, seq in self.cursors.items()]
        hello = frames.Hello(
            id=connection.next_id(),
            access_token=self.device.access_token,
            dpop_proof=self.device.proof(self.nonce),
            low=self.device.low,
            user_seq=UserSeq(self.user_seq),
            cursors=cursors,
        )
        self.write([hello])

    async def _serve(self, connection: Connection) -> None:
        await self.app.serve_socket(connection.socket)
        connection.ended.set()

    async def disconnect(self) -> None:
        if self.connection is not None:
            connection, self.connection = self.connection, None
            connection.socket.cut()
            with trio.fail_after(self.wait_timeout_s):
                await connection.ended.wait()

    @property
    def open(self) -> Connection:
        assert self.connection is not None, "not connected"
        return self.connection

    # Requests --------------------------------------------------------------------------------------------------------

    def write(self, requests: list[ClientFrame]) -> None:
        socket = self.open.socket
        socket.requests.send_nowait(frames.encode(requests, encoding=socket.encoding))

    async def answer(self, request_id: int) -> frames.ServerFrame:
        """Reads until it is there."""
        connection = self.open
        while request_id not in connection.answers:
            await self.read_frame()
        found = connection.answers.pop(request_id)
        assert not isinstance(found, ClientFrame)
        return found

    async def ping(self) -> None:
        """Everything that the server had put before its answer was read."""
        request_id = self.open.next_id()
        self.write([frames.Ping(id=request_id)])
        await self.answer(request_id)

    # Reading ---------------------------------------------------------------------------------------------------------

    async def read_frame(self) -> None:
        socket = self.open.socket
        with trio.fail_after(self.wait_timeout_s):
            data = await socket.frames.receive()
        for event in frames.decode_events(data, encoding=socket.encoding):
            self._take(event)

    def _take(self, event: frames.ServerFrame) -> None:
        match event:
            case TimelineEvent():
                self._take_entry(event, event.room, event.seq, event.seq)
            case Gap():
                self._take_entry(event, event.room, event.from_seq, event.to_seq)
            case frames.UserEvent(seq=seq):
                assert seq == self.user_seq + 1, f"user stream: {seq} after {self.user_seq}"
                self.user_seq = seq
                if event.kind == "room_joined":
                    self.cursors.setdefault(event.content["room"], 0)
            case frames.Lagging():
                self._resync()
            case frames.Resumed():
                self.seen["resumed"] += 1
                self.open.is_resumed = True
                for room, end in self.open.owed.items():
                    assert self.cursors.get(room, 0) >= end, f"resumed at {self.cursors.get(room, 0)} of {end}"
            case frames.Welcome() | frames.Ack() | frames.Done() | frames.Error() | frames.Checkpoint():
                assert event.id, f"the connection failed: {event}"
                self.open.answers[event.id] = event
            case frames.Challenge(nonce=nonce):
                self.nonce = nonce
            case frames.OneTimeKeyCounts():
                pass
            case frames.Mailbox():
                raise AssertionError("nobody wrote to this mailbox")

    def _take_entry(self, entry: TimelineEvent | Gap, room: RoomId, first: int, last: int) -> None:
        before = self.cursors.get(room, 0)
        assert first == before + 1, (
            f"{self.device.user}: {'a hole' if first > before else 'a double'}: {first} after {before}"
        )
        assert last >= first
        self.cursors[room] = last
        if isinstance(entry, Gap):
            self.seen["gap"] += 1
            self.heads[room] = entry.head
        else:
            self.heads[room] = chain.next_head(self.heads.get(room, chain.empty_head(room)), chain.leaf(entry))
            self.entries.setdefault(room, {})[entry.seq] = entry

    def _resync(self) -> None:
        self.seen["lagging"] += 1
        cursors = [frames.Cursor(room=room, seq=Seq(seq)) for room, seq in self.cursors.items()]
        self.write([frames.Resync(id=self.open.next_id(), user_seq=UserSeq(self.user_seq), cursors=cursors)])
