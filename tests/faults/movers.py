"""Devices on several nodes of one server: talkers that change their node with sends under way, and send them again at the other.

A Mover never asks whether it may still send. It takes the newest epoch that anybody knows, so one that was removed or revoked
guesses as well as can be. Whatever answers it and its HTTP requests get stands in a Witness.
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
import trio

from chatty.client.http import CONNECTIONS
from chatty.ids import RoomId, Seq
from chatty.wire import frames
from chatty.wire.events import Committed, Kind, TimelineEvent
from chatty.wire.frames import ServerFrame
from chatty.wire.rooms import HttpSend
from tests.faults.ledger import Sending
from tests.faults.talkers import Talker, blocks_count
from tests.server.wire_client import WireSocket, ciphertext

FINAL = frozenset({"not_a_member", "device_revoked"})  # of a send that is not to be sent again
LATE = frozenset({"message_id_closed", "message_id_conflict", "device_set_stale", "device_revoked"})  # of a copy
_node: ContextVar[int | None] = ContextVar("node", default=None)


def chosen_node() -> int | None:
    """The one that HTTP requests of this task go to; None: any."""
    return _node.get()


@contextmanager
def through(node: int) -> Iterator[None]:
    """HTTP requests within go to this node."""
    before = _node.set(node)
    try:
        yield
    finally:
        _node.reset(before)


class Balancer(httpx.AsyncBaseTransport):
    """Stands at the public origin and gives each request to any node: no request can rely on what the last one met."""

    def __init__(self, origins: Sequence[str], rng: random.Random) -> None:
        self._origins = [httpx.URL(origin) for origin in origins]
        self._rng = rng
        self._inner = httpx.AsyncHTTPTransport(verify=False, limits=CONNECTIONS)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        node = chosen_node()
        origin = self._origins[node] if node is not None else self._rng.choice(self._origins)
        request.url = request.url.copy_with(host=origin.host, port=origin.port)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


@dataclass(kw_only=True)
class Witness:
    """outcomes: how often each answer came. faults: answers that nobody should get.

    excused: codes that may come all the same, if they say: again.
    """

    excused: frozenset[str] = frozenset()
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def note(self, what: str, error: dict[str, Any], *, expected: frozenset[str]) -> None:
        """error: a problem document, or an error frame with its details. Only a bound that has a name may say: later."""
        code = str(error["code"])
        limiter = error.get("limiter", "")
        self.outcomes[f"{what}: {code} {limiter}".rstrip()] += 1
        is_bound = code == "overloaded" and error["is_retryable"] and limiter
        is_excused = code in self.excused and error["is_retryable"]
        if not is_bound and not is_excused and code not in expected:
            self.faults.append(f"{what}: {error}")


@dataclass(kw_only=True)
class Mover(Talker):
    """Goes to another node with sends under way, and sends them again there. rooms: one for all, the newest known epochs."""

    origins: Sequence[str]
    witness: Witness
    node: int
    superseded: list[Sending] = field(default_factory=list)
    revoked_count: int = 0
    _again: list[Sending] = field(default_factory=list)
    _connection: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def origin(self) -> str:
        return self.origins[self.node]

    @property
    def other_node(self) -> int:
        return (self.node + 1) % len(self.origins)

    def move(self) -> None:
        self.node = self.other_node
        self._connection.cancel()

    def learn(self, room: RoomId, epoch: Seq) -> None:
        if room in self.rooms:
            self.rooms[room] = max(self.rooms[room], epoch)

    async def copy(self) -> None:
        """One open send once more, over HTTP."""
        if not self._open:
            return
        sending = self.random.choice(list(self._open.values()))
        one = sending.request
        low = min(self.device.low, one.n)
        body = HttpSend(low=low, epoch=one.epoch, algorithm=one.algorithm, session_id=one.session_id, body=one.body)
        answer = await self.device.answer("POST", f"/v1/rooms/{one.room}/messages", body, n=one.n)
        if answer.is_success:
            self.witness.outcomes["copy: ack"] += 1
            sending.copies.append(msgspec.json.decode(answer.content, type=Committed))
            return
        self.witness.note("copy", answer.json(), expected=FINAL | LATE)
        match answer.json()["code"]:
            case "not_a_member":
                sending.refusal = "not_a_member"
            case "message_id_conflict" if not self._was_stale(sending):
                self.witness.faults.append(f"{sending.name} conflicts with itself")

    def _settle(self, ack: frames.Ack) -> None:
        super()._settle(ack)
        self.witness.outcomes["send: ack"] += 1

    async def _talk(self) -> None:
        self._again.clear()
        with trio.CancelScope() as self._connection:
            await super()._talk()

    async def _send_more(self, socket: WireSocket) -> None:
        again, self._again = self._again, []
        await self._ask(socket, again)
        await super()._send_more(socket)

    async def _take(self, socket: WireSocket, events: Sequence[ServerFrame]) -> None:
        for event in events:
            if isinstance(event, TimelineEvent) and event.kind in (Kind.MEMBER, Kind.DEVICES):
                self.learn(event.room, event.seq)
        await super()._take(socket, events)

    def _refused(self, error: frames.Error) -> list[Sending]:
        if error.id == 0 or error.is_retryable:
            self.witness.note("send", _problem(error), expected=FINAL)
            return super()._refused(error)
        sending = self._asked.pop(error.id)
        expected = FINAL | {"device_set_stale"}
        if self._was_stale(sending):
            expected |= {"message_id_conflict"}
        self.witness.note("send", _problem(error), expected=expected)
        sending.refusal = error.code
        del self._open[sending.request.n]
        if error.code == "device_set_stale":
            self.learn(sending.request.room, error.details["epoch"])
            self._encrypt_anew(sending)
        else:
            self.revoked_count += error.code == "device_revoked"
            self.device.settle(sending.request.n)
        return []

    def _was_stale(self, sending: Sending) -> bool:
        """Are there two bodies under its n? Then a late copy of the old one may have been refused for good, and has the n."""
        return any(one.name == sending.name for one in self.superseded)

    def _encrypt_anew(self, stale: Sending) -> None:
        """Under the same n, as the protocol allows; the old bytes may still come late, and must not count."""
        self.superseded.append(stale)
        epoch, body = self.rooms[stale.request.room], ciphertext(blocks_count)
        request = msgspec.structs.replace(stale.request, epoch=epoch, body=body)
        sending = Sending(device=stale.device, request=request, sent_at=trio.current_time())
        self.sendings[request.n] = self._open[request.n] = sending
        self._again.append(sending)


def _problem(error: frames.Error) -> dict[str, Any]:
    """Like the document of the same error over HTTP."""
    return {"code": error.code, "is_retryable": error.is_retryable, **error.details}
