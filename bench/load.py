"""One load: message i goes to room i % rooms, from member (i // rooms) % senders of it; a window of them is in flight, over all,
or with a rate each leaves when it is due, whatever is in flight.

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
from typing import Protocol

import msgspec

from bench.people import MadeRoom, Person, megolm_message, number_of
from bench.sockets import ClientSocket, SocketError, open_socket
from chatty.ids import SendNumber, Seq, UserSeq
from chatty.wire import frames
from chatty.wire.frames import MSGPACK_SUBPROTOCOL

SOCKET_PATH = "/v1/ws"
stalled_after_s = 30.0
_resync_id = 1_000_000_000
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
    socket.send_now(make_hello(person, challenge.nonce, cursors))
    while not is_resumed(person, socket.next_message()):
        pass


def make_hello(person: Person, nonce: str, cursors: list[frames.Cursor]) -> bytes:
    hello = frames.Hello(
        id=1,
        access_token=person.access_token,
        dpop_proof=person.proof("GET", person.origin + SOCKET_PATH, nonce=nonce),
        low=SendNumber(1),
        user_seq=person.user_seq,
        cursors=cursors,
    )
    return frames.encode(hello, encoding="msgpack")


def is_resumed(person: Person, payload: bytes) -> bool:
    """Takes what came of the person's own stream. Raises: SocketError when it is an error."""
    events = frames.decode_events(payload, encoding="msgpack")
    for event in events:
        if isinstance(event, frames.Error):
            raise SocketError(f"refused: {event.code}")
        if isinstance(event, frames.UserEvent):
            person.user_seq = event.seq
    return any(isinstance(event, frames.Resumed) for event in events)


class Participant(Protocol):
    """A connected member of one room, at whatever server. `received`: the numbers of the running load, in order."""

    received: list[int]
    resync_count: int

    def fileno(self) -> int: ...

    def make_body(self, number: int, *, size_bytes: int) -> bytes:
        """A message that says its number."""
        ...

    def send(self, number: int, body: bytes) -> None:
        """Never waits."""
        ...

    def flush(self) -> bool:
        """Go on with what the kernel did not take. Returns: whether nothing is left."""
        ...

    def read(self) -> tuple[list[int], int]:
        """What is there: numbers that came, in order, and how many of this one's own messages were accepted.

        Raises: SocketError when something is refused or out of order.
        """
        ...


class Member:
    """A connected device in one room."""

    def __init__(self, person: Person, room: MadeRoom, socket: ClientSocket) -> None:
        self.person = person
        self.room = room
        self.socket = socket
        self.seq = room.seq
        self.received: list[int] = []
        self.resync_count = 0
        self.unacknowledged: dict[int, SendNumber] = {}
        self._numbers: list[int] = []
        self._acked = 0

    def greet(self, *, after: Seq | None = None) -> None:
        """Say hello and wait until everything stored has come."""
        cursor = frames.Cursor(room=self.room.room, seq=self.room.seq if after is None else after)
        greet(self.socket, self.person, [cursor])
        self.socket.go_live()

    def fileno(self) -> int:
        return self.socket.fileno()

    def make_body(self, number: int, *, size_bytes: int) -> bytes:
        return megolm_message(number, ciphertext_bytes=size_bytes)

    def send(self, number: int, body: bytes) -> None:
        n = self.person.next_n()
        self.unacknowledged[number + 1] = n
        low = next(iter(self.unacknowledged.values()))
        request = frames.Send(
            id=number + 1,
            n=n,
            low=low,
            room=self.room.room,
            epoch=self.room.epoch,
            algorithm="m.megolm.v1.aes-sha2",
            session_id=session_id,
            body=body,
        )
        self.socket.send(_encode(request))

    def flush(self) -> bool:
        self.socket.flush()
        return self.socket.is_flushed

    def read(self) -> tuple[list[int], int]:
        self._numbers, self._acked = [], 0
        self.socket.receive(self._take)
        return self._numbers, self._acked

    def _take(self, payload: bytes) -> None:
        for event in _decode(payload):
            if type(event) is _Event:
                if event.seq != self.seq + 1:
                    raise SocketError(f"seq {event.seq} after {self.seq}")
                self.seq = Seq(event.seq)
                self._numbers.append(number_of(event.body))
            elif type(event) is _Ack:
                del self.unacknowledged[event.id]
                self._acked += 1
            elif type(event) is _Error:
                raise SocketError(f"refused: {event.code}")
            elif type(event) is _Lagging:
                self._resync()

    def _resync(self) -> None:
        """Told that it lags, as it may be when the generator is too slow: say where it stands."""
        self.resync_count += 1
        cursor = frames.Cursor(room=self.room.room, seq=self.seq)
        request = frames.Resync(id=_resync_id + self.resync_count, user_seq=UserSeq(0), cursors=[cursor])
        self.socket.send(_encode(request))


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
    """rooms: the members of each, those who send first. rate_per_s: messages; 0: as fast as the window lets."""

    rooms: Sequence[Sequence[Participant]]
    messages_count: int
    senders_count: int
    window: int
    ciphertext_bytes: int
    rate_per_s: float = 0.0
    _sent_at: array[float] = field(default_factory=lambda: array("d"))
    _latencies_ms: array[float] = field(default_factory=lambda: array("d"))
    _in_flight: int = 0
    _acked: int = 0
    _unflushed: set[Participant] = field(default_factory=set)
    _began_at: float = 0.0

    def sender_of(self, number: int) -> Participant:
        room = self.rooms[number % len(self.rooms)]
        return room[number // len(self.rooms) % self.senders_count]

    def run(self) -> Outcome:
        """Raises: SocketError when something is refused, lost or out of order, or nothing moves for stalled_after_s."""
        members = {member.fileno(): member for room in self.rooms for member in room}
        for member in members.values():
            member.received.clear()
        resyncs_before = sum(member.resync_count for member in members.values())
        bodies = [self.sender_of(i).make_body(i, size_bytes=self.ciphertext_bytes) for i in range(self.messages_count)]
        wanted = sum(len(self.rooms[i % len(self.rooms)]) for i in range(self.messages_count))
        poll = select.epoll()
        for descriptor in members:
            poll.register(descriptor, select.EPOLLIN)
        self._began_at = perf_counter()
        self._send_due(bodies)
        while self._acked < self.messages_count or len(self._latencies_ms) < wanted:
            self._turn(poll, members)
            self._send_due(bodies)
        ended_at = perf_counter()
        poll.close()
        self._check()
        return Outcome(
            seconds=ended_at - self._began_at,
            latencies_ms=self._latencies_ms,
            messages_count=self.messages_count,
            deliveries_count=wanted,
            resync_count=sum(member.resync_count for member in members.values()) - resyncs_before,
        )

    def _next_due_s(self) -> float:
        """Until the next message is due; 0: now; stalled_after_s: not before something came back."""
        number = len(self._sent_at)
        if number >= self.messages_count:
            return stalled_after_s
        if self.rate_per_s:
            return max(0.0, self._began_at + number / self.rate_per_s - perf_counter())
        return 0.0 if self._in_flight < self.window else stalled_after_s

    def _send_due(self, bodies: Sequence[bytes]) -> None:
        while self._next_due_s() == 0.0:
            number = len(self._sent_at)
            sender = self.sender_of(number)
            self._sent_at.append(perf_counter())
            self._in_flight += 1
            sender.send(number, bodies[number])
            if not sender.flush():
                self._unflushed.add(sender)

    def _turn(self, poll: select.epoll, members: Mapping[int, Participant]) -> None:
        wait_s = min(self._next_due_s(), 0.001 if self._unflushed else stalled_after_s)
        ready = poll.poll(wait_s)
        if not ready and wait_s == stalled_after_s:
            raise SocketError(
                f"nothing came for {stalled_after_s} s: {self._acked} of {self.messages_count} acknowledged, "
                f"{len(self._latencies_ms)} delivered"
            )
        for member in [*self._unflushed]:
            if member.flush():
                self._unflushed.discard(member)
        for descriptor, _ in ready:
            self._read(members[descriptor])

    def _read(self, member: Participant) -> None:
        now = perf_counter()
        numbers, acked_count = member.read()
        member.received += numbers
        self._latencies_ms.extend([(now - self._sent_at[number]) * 1000 for number in numbers])
        self._in_flight -= acked_count
        self._acked += acked_count

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
    """One after the other."""
    members = [Member(person, room, knock(host, port)) for person in people]
    for member in members:
        member.greet()
    return members


def knock(host: str, port: int) -> ClientSocket:
    """A socket on which nobody has said hello."""
    return open_socket(host, port, SOCKET_PATH, subprotocol=MSGPACK_SUBPROTOCOL)
