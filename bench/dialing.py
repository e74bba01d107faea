"""Many sessions that come online at once, as their clients would: connect, upgrade, hello, until `resumed`.

States of one: connecting → upgrading → challenged → greeted → live. Whatever goes wrong on the way, the connection's end or a
refusal, is counted by what it says; then it waits as the client library does (full jitter, doubled each time) and begins anew.
"""

import heapq
import select
import socket
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from bench.load import SOCKET_PATH, Member, Outcome, is_resumed, make_hello
from bench.people import MadeRoom, Person
from bench.sockets import ClientSocket, SocketError, after_upgrade, receive_bytes_max, upgrade_request
from chatty.client.backoff import Backoff
from chatty.wire import frames
from chatty.wire.frames import MSGPACK_SUBPROTOCOL


@dataclass(kw_only=True)
class Guest:
    """Somebody who is to come online, and the room that they keep."""

    person: Person
    room: MadeRoom


@dataclass(kw_only=True)
class Arrival:
    """members: in the order of the guests. errors: what went wrong on the way, and how often. lost: who never came online."""

    members: list[Member]
    seconds: float
    waits_ms: Sequence[float]
    errors: Counter[str] = field(default_factory=Counter)
    lost_count: int = 0

    @property
    def outcome(self) -> Outcome:
        """A session counts as a message."""
        count = len(self.members)
        return Outcome(seconds=self.seconds, latencies_ms=self.waits_ms, messages_count=count, deliveries_count=count)


class _Dial:
    """One guest on the way."""

    def __init__(self, guest: Guest, host: str, port: int) -> None:
        self.guest = guest
        self.backoff = Backoff()
        self.socket: ClientSocket | None = None
        self.is_live = False
        self._where = (host, port)

    def begin(self, poll: select.epoll) -> int:
        self._raw = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._raw.setblocking(False)
        self._raw.connect_ex(self._where)
        self._answer = b""
        self._step: Callable[[select.epoll], None] = self._upgrade
        self._has_greeted = False
        poll.register(self._raw, select.EPOLLOUT)
        return self._raw.fileno()

    def step(self, poll: select.epoll) -> None:
        """Something is possible. Raises: OSError, SocketError."""
        self._step(poll)

    def close(self) -> None:
        self._raw.close()
        self.socket = None

    def _upgrade(self, poll: select.epoll) -> None:
        code = self._raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, "not connected")
        host, port = self._where
        self._raw.send(upgrade_request(host, port, SOCKET_PATH, subprotocol=MSGPACK_SUBPROTOCOL))
        poll.modify(self._raw, select.EPOLLIN)
        self._step = self._read_answer

    def _read_answer(self, poll: select.epoll) -> None:
        data = self._raw.recv(receive_bytes_max)
        if not data:
            raise SocketError("closed before the upgrade")
        self._answer += data
        left = after_upgrade(self._answer)
        if left is not None:
            self.socket = ClientSocket(self._raw, left)
            self._step = self._read_frames
            self.socket.take_left(self._take)

    def _read_frames(self, poll: select.epoll) -> None:
        assert self.socket is not None
        self.socket.receive(self._take)

    def _take(self, payload: bytes) -> None:
        assert self.socket is not None
        if self._has_greeted:
            self.is_live = self.is_live or is_resumed(self.guest.person, payload)
            return
        [challenge] = frames.decode_events(payload, encoding="msgpack")
        if not isinstance(challenge, frames.Challenge):
            raise SocketError(f"no challenge but {type(challenge).__name__}")
        room = self.guest.room
        cursors = [frames.Cursor(room=room.room, seq=room.seq)]
        self.socket.send(make_hello(self.guest.person, challenge.nonce, cursors))
        self._has_greeted = True


class _Dialler:
    def __init__(self, guests: Sequence[Guest], host: str, port: int, *, at_once: int) -> None:
        self._poll = select.epoll()
        self._dials = [_Dial(guest, host, port) for guest in guests]
        self._waiting = [(0.0, index) for index in range(len(guests))]
        self._under_way: dict[int, int] = {}
        self._at_once = at_once
        self._began_at = perf_counter()
        self.waits_ms = array("d")
        self.errors: Counter[str] = Counter()

    def run(self, *, timeout_s: float) -> list[_Dial]:
        """Until all are live, or the time is over."""
        while (self._waiting or self._under_way) and self._now_s() < timeout_s:
            self._begin_due()
            pause_s = self._waiting[0][0] - self._now_s() if self._waiting and not self._is_full() else 0.1
            for descriptor, _ in self._poll.poll(min(max(pause_s, 0.0), 0.1)):
                self._step(descriptor)
        self._poll.close()
        return self._dials

    def _now_s(self) -> float:
        return perf_counter() - self._began_at

    def _is_full(self) -> bool:
        return len(self._under_way) >= self._at_once

    def _begin_due(self) -> None:
        while self._waiting and not self._is_full() and self._waiting[0][0] <= self._now_s():
            _, index = heapq.heappop(self._waiting)
            self._under_way[self._dials[index].begin(self._poll)] = index

    def _step(self, descriptor: int) -> None:
        index = self._under_way[descriptor]
        dial = self._dials[index]
        try:
            dial.step(self._poll)
        except (OSError, SocketError) as error:
            self.errors[str(error)] += 1
            del self._under_way[descriptor]
            dial.close()  # and so it is out of the poll
            heapq.heappush(self._waiting, (self._now_s() + dial.backoff.next_s(), index))
            return
        if dial.is_live:
            self.waits_ms.append(self._now_s() * 1000)
            del self._under_way[descriptor]
            self._poll.unregister(descriptor)


def dial(guests: Sequence[Guest], host: str, port: int, *, at_once: int = 32, timeout_s: float = 300.0) -> Arrival:
    """Bring them online. waits_ms: of each, from the beginning of all."""
    dialler = _Dialler(guests, host, port, at_once=at_once)
    began_at = perf_counter()
    dials = dialler.run(timeout_s=timeout_s)
    seconds = perf_counter() - began_at
    members = [
        Member(one.guest.person, one.guest.room, one.socket) for one in dials if one.is_live and one.socket is not None
    ]
    for member in members:
        member.socket.go_live()
    return Arrival(
        members=members,
        seconds=seconds,
        waits_ms=dialler.waits_ms,
        errors=dialler.errors,
        lost_count=len(dials) - len(members),
    )
