"""Lean senders and readers on raw WebSockets: they send as fast as acks come back, and again after each break.

A talker keeps what an honest client keeps: the bytes of every open send, its cursors, its low. After a break it names its cursors
and sends what is open again, the same bytes under the same n. What it saw stands in `sendings` and `live`, for the ledger.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio
from trio_websocket import ConnectionClosed, HandshakeError

from chatty.errors import DeviceRevoked
from chatty.ids import RoomId, Seq, UserSeq
from chatty.wire import frames
from chatty.wire.events import TimelineEvent
from chatty.wire.frames import Ack, Gap, RoomEntry, ServerFrame, Stretch
from tests.faults.ledger import Sending
from tests.server.wire_client import WireSocket, ciphertext, open_raw_socket
from tests.server.wire_people import WireDevice

reconnect_delay_s = 0.02
refused_delay_s = 0.05
blocks_count = 4


class BadAnswer(Exception):
    """An answer that an honest sender never gets."""


class Progress:
    """Rings at each ack and each event that a talker gets."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def until(self, is_reached: Callable[[], bool], *, timeout_s: float) -> None:
        with trio.fail_after(timeout_s):
            while not is_reached():
                await self._event.wait()


@dataclass(kw_only=True)
class Talker:
    """One device. window_count: how many sends it has open at once. rooms: with the epochs that it encrypts for."""

    device: WireDevice
    rooms: dict[RoomId, Seq]
    random: random.Random
    progress: Progress
    window_count: int = 6
    is_sending: bool = False
    is_over: bool = False
    connections_count: int = 0
    sendings: dict[int, Sending] = field(default_factory=dict)
    live: dict[RoomId, list[RoomEntry]] = field(default_factory=dict)
    _open: dict[int, Sending] = field(default_factory=dict)
    _asked: dict[int, Sending] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        """Where it connects next."""
        return self.device.origin

    @property
    def acked_count(self) -> int:
        return len(self.sendings) - len(self._open)

    @property
    def is_settled(self) -> bool:
        return not self._open

    def read_up_to(self, room: RoomId) -> Seq:
        entries = self.live.get(room)
        if not entries:
            return Seq(0)
        last = entries[-1]
        return last.to_seq if isinstance(last, Stretch) else last.seq

    def has_read(self, room: RoomId, upto: Seq) -> bool:
        return self.read_up_to(room) >= upto

    async def run(self) -> None:
        """Until cancelled, or the device was revoked. The server may come and go."""
        while not self.is_over:
            try:
                await self._talk()
            except* ConnectionClosed as closed:
                self.is_over = closed.subgroup(_is_revoked) is not None
            except* (OSError, HandshakeError, trio.TooSlowError):
                pass
            self.progress.ring()
            await trio.sleep(reconnect_delay_s)

    async def _talk(self) -> None:
        async with open_raw_socket(self.origin, device=self.device) as socket:
            self._asked.clear()
            await self._greet(socket)
            self.connections_count += 1
            await self._ask(socket, list(self._open.values()))
            while True:
                await self._send_more(socket)
                await self._take(socket, await socket.read())

    async def _greet(self, socket: WireSocket) -> None:
        await socket.event(frames.Challenge)
        hello = socket.hello(cursors=self._cursors())
        await socket.write(hello)
        answer = await socket.answer(hello.id)
        if not isinstance(answer, frames.Welcome):
            raise BadAnswer(f"hello was answered by {answer}")
        waiting = list(socket.pending)
        socket.pending.clear()
        await self._take(socket, waiting)

    def _cursors(self) -> list[frames.Cursor]:
        return [frames.Cursor(room=room, seq=self.read_up_to(room)) for room in self.rooms]

    async def _send_more(self, socket: WireSocket) -> None:
        new: list[Sending] = []
        while self.is_sending and len(self._open) < self.window_count:
            room = self.random.choice(list(self.rooms))
            request = socket.draft(room, ciphertext(blocks_count), epoch=self.rooms[room])
            sending = Sending(device=self.device.device, request=request, sent_at=trio.current_time())
            self.sendings[request.n] = self._open[request.n] = sending
            new.append(sending)
        await self._ask(socket, new)

    async def _ask(self, socket: WireSocket, sendings: Sequence[Sending]) -> None:
        """Each with a request id of this connection: nobody answers those of the last one."""
        requests: list[frames.ClientFrame] = []
        for sending in sendings:
            one = sending.request
            request = frames.Send(
                id=socket.request_id(),
                n=one.n,
                low=self.device.low,
                room=one.room,
                epoch=one.epoch,
                algorithm=one.algorithm,
                session_id=one.session_id,
                body=one.body,
            )
            self._asked[request.id] = sending
            requests.append(request)
        if requests:
            await socket.write(*requests)

    async def _take(self, socket: WireSocket, events: Sequence[ServerFrame]) -> None:
        refused: list[Sending] = []
        for event in events:
            match event:
                case Ack():
                    self._settle(event)
                case frames.Error():
                    refused += self._refused(event)
                case TimelineEvent() | Gap():
                    self.live.setdefault(event.room, []).append(event)
                case frames.Lagging():
                    await socket.write(
                        frames.Resync(id=socket.request_id(), user_seq=UserSeq(0), cursors=self._cursors())
                    )
        self.progress.ring()
        if refused:
            await trio.sleep(refused_delay_s)
            await self._ask(socket, refused)

    def _settle(self, ack: Ack) -> None:
        sending = self._asked.pop(ack.id)
        if (ack.n, ack.room) != (sending.request.n, sending.request.room):
            raise BadAnswer(f"n {sending.request.n} got the ack of n {ack.n}")
        sending.ack = ack
        del self._open[ack.n]
        self.device.settle(ack.n)

    def _refused(self, error: frames.Error) -> list[Sending]:
        """What to ask again. Only what may be retried with the same n is a legal answer here."""
        if error.id == 0:
            raise ConnectionClosed(None)
        if not error.is_retryable:
            raise BadAnswer(f"{error.code}: {error.message}")
        return [self._asked.pop(error.id)]


def _is_revoked(closed: BaseException) -> bool:
    reason = closed.reason if isinstance(closed, ConnectionClosed) else None
    return reason is not None and reason.code == DeviceRevoked.close_code
