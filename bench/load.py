"""One load: message i goes to room i % rooms, from member (i // rooms) % senders of it; a window of them is in flight, over all.

In flight: sent and not acknowledged. A delivery is one message at one member, the sender included. Every member is checked for
every message of its room, each once, in one order for all, with the server's `seq` without a gap, and each sender's in the order
sent. Latency: from sending to receipt, at every member.
"""

from __future__ import annotations

import select
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

import msgspec

from bench.people import MadeRoom, Person, megolm_message, number_of
from bench.sockets import ClientSocket, SocketError
from chatty.ids import SendNumber, Seq, UserSeq
from chatty.wire import frames
from chatty.wire.frames import MSGPACK_SUBPROTOCOL

stalled_after_s = 30.0
session_id = "B" * 43


class _Event(msgspec.Struct, tag="event"):
    """What the scale reads of a timeline event."""

    room: str
    seq: int
    body: bytes = b""


class _Ack(msgspec.Struct, tag="ack"):
    id: int


class _Error(msgspec.Struct, tag="error"):
    code: str


class _Lagging(msgspec.Struct, tag="lagging"):
    pass


class _Done(msgspec.Struct, tag="done"):
    pass


class _UserEvent(msgspec.Struct, tag="user_event"):
    pass


class _KeyCounts(msgspec.Struct, tag="one_time_key_counts"):
    pass


class _Resumed(msgspec.Struct, tag="resumed"):
    pass


_decode = msgspec.msgpack.Decoder(
    list[_Event | _Ack | _Error | _Lagging | _Done | _UserEvent | _KeyCounts | _Resumed]
).decode
_encode = msgspec.msgpack.Encoder().encode


def greet(socket: ClientSocket, person: Person, cursors: list[frames.Cursor]) -> None:
    """From the challenge to `resumed`."""
    [challenge] = frames.decode_events(socket.next_message(), encoding="msgpack")
    assert isinstance(challenge, frames.Challenge)
    hello = frames.Hello(
        id=1,
        access_token=person.access_token,
        dpop_proof=person.proof("GET", person.origin + "/v1/ws", nonce=challenge.nonce),
        low=SendNumber(1),
        user_seq=UserSeq(0),
        cursors=cursors,
    )
    socket.send_now(frames.encode(hello, encoding="msgpack"))
    while not _is_resumed(socket.next_message()):
        pass


def _is_resumed(payload: bytes) -> bool:
    events = frames.decode_events(payload, encoding="msgpack")
    for event in events:
        if isinstance(event, frames.Error):
            raise SocketError(f"refused: {event.code}")
    return any(isinstance(event, frames.Resumed) for event in events)


class Member:
    """A connected device in one room. `received`: the messages of the running load, in order."""

    def __init__(self, person: Person, room: MadeRoom, host: str, port: int) -> None:
        self.person = person
        self.room = room
        self.socket = ClientSocket(host, port, "/v1/ws", subprotocol=MSGPACK_SUBPROTOCOL)
        self.seq = room.seq
        self.received: list[int] = []
        self.unacknowledged: dict[int, SendNumber] = {}

    def greet(self, *, after: Seq | None = None) -> None:
        """Say hello and wait until everything stored has come."""
        cursor = frames.Cursor(room=self.room.room, seq=self.room.seq if after is None else after)
        greet(self.socket, self.person, [cursor])
        self.socket.go_live()

    def send(self, request_id: int, body: bytes) -> None:
        n = self.person.next_n()
        self.unacknowledged[request_id] = n
        low = next(iter(self.unacknowledged.values()))
        request = frames.Send(
            id=request_id,
            n=n,
            low=low,
            room=self.room.room,
            epoch=self.room.epoch,
            algorithm="m.megolm.v1.aes-sha2",
            session_id=session_id,
            body=body,
        )
        self.socket.send(_encode(request))

    def resync(self, request_id: int) -> None:
        """Told that it lags, as it may be when the generator is too slow: say where it stands."""
        cursor = frames.Cursor(room=self.room.room, seq=self.seq)
        self.socket.send(_encode(frames.Resync(id=request_id, user_seq=UserSeq(0), cursors=[cursor])))


@dataclass(kw_only=True)
class Outcome:
    """What the clients saw. Latencies in ms, of each delivery."""

    seconds: float
    latencies_ms: Sequence[float]
    messages_count: int
    deliveries_count: int
    resync_count: int = 0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(kw_only=True)
class Load:
    """rooms: the members of each, those who send first."""

    rooms: Sequence[Sequence[Member]]
    messages_count: int
    senders_count: int
    window: int
    ciphertext_bytes: int
    _sent_at: array[float] = field(default_factory=lambda: array("d"))
    _latencies_ms: array[float] = field(default_factory=lambda: array("d"))
    _in_flight: int = 0
    _acked: int = 0
    _resync_count: int = 0
    _unflushed: set[Member] = field(default_factory=set)

    def sender_of(self, number: int) -> Member:
        room = self.rooms[number % len(self.rooms)]
        return room[number // len(self.rooms) % self.senders_count]

    def run(self) -> Outcome:
        """Raises: SocketError when something is refused, lost or out of order, or nothing moves for stalled_after_s."""
        members = {member.socket.fileno(): member for room in self.rooms for member in room}
        for member in members.values():
            member.received.clear()
        bodies = [megolm_message(i, ciphertext_bytes=self.ciphertext_bytes) for i in range(self.messages_count)]
        wanted = sum(len(self.rooms[i % len(self.rooms)]) for i in range(self.messages_count))
        poll = select.epoll()
        for descriptor in members:
            poll.register(descriptor, select.EPOLLIN)
        began_at = perf_counter()
        self._fill_window(bodies)
        while self._acked < self.messages_count or len(self._latencies_ms) < wanted:
            self._turn(poll, members)
            self._fill_window(bodies)
        ended_at = perf_counter()
        poll.close()
        self._check()
        return Outcome(
            seconds=ended_at - began_at,
            latencies_ms=self._latencies_ms,
            messages_count=self.messages_count,
            deliveries_count=wanted,
            resync_count=self._resync_count,
        )

    def _fill_window(self, bodies: Sequence[bytes]) -> None:
        while self._in_flight < self.window and len(self._sent_at) < self.messages_count:
            number = len(self._sent_at)
            sender = self.sender_of(number)
            self._sent_at.append(perf_counter())
            self._in_flight += 1
            sender.send(number + 1, bodies[number])
            if not sender.socket.is_flushed:
                self._unflushed.add(sender)

    def _turn(self, poll: select.epoll, members: Mapping[int, Member]) -> None:
        ready = poll.poll(0.001 if self._unflushed else stalled_after_s)
        if not ready and not self._unflushed:
            raise SocketError(
                f"nothing came for {stalled_after_s} s: {self._acked} of {self.messages_count} acknowledged, "
                f"{len(self._latencies_ms)} delivered"
            )
        for member in [*self._unflushed]:
            member.socket.flush()
            if member.socket.is_flushed:
                self._unflushed.discard(member)
        for descriptor, _ in ready:
            member = members[descriptor]
            member.socket.receive(lambda payload, member=member: self._take(member, payload))  # type: ignore[misc]

    def _take(self, member: Member, payload: bytes) -> None:
        now = perf_counter()
        for event in _decode(payload):
            if type(event) is _Event:
                if event.seq != member.seq + 1:
                    raise SocketError(f"seq {event.seq} after {member.seq}")
                member.seq = Seq(event.seq)
                number = number_of(event.body, ciphertext_bytes=self.ciphertext_bytes)
                member.received.append(number)
                self._latencies_ms.append((now - self._sent_at[number]) * 1000)
            elif type(event) is _Ack:
                del member.unacknowledged[event.id]
                self._in_flight -= 1
                self._acked += 1
            elif type(event) is _Error:
                raise SocketError(f"refused: {event.code}")
            elif type(event) is _Lagging:
                self._resync_count += 1
                member.resync(self.messages_count + self._resync_count)

    def _check(self) -> None:
        for index, room in enumerate(self.rooms):
            wanted = list(range(index, self.messages_count, len(self.rooms)))
            order = room[0].received
            if sorted(order) != wanted:
                raise SocketError(f"room {index}: {len(order)} of {len(wanted)} messages, or the wrong ones")
            for sender in room[: self.senders_count]:
                own = [number for number in order if self.sender_of(number) is sender]
                if own != sorted(own):
                    raise SocketError(f"room {index}: a sender's messages are out of order")
            for member in room[1:]:
                if member.received != order:
                    raise SocketError(f"room {index}: two members saw different orders")


def connect(room: MadeRoom, people: Sequence[Person], *, host: str, port: int) -> list[Member]:
    members = [Member(person, room, host, port) for person in people]
    for member in members:
        member.greet()
    return members
