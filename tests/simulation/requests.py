"""How a simulated client asks for something durable: one number, the same bytes until the outcome is known.

Answers get lost, so whatever may have been done is asked for again, over whichever way there is. What is settled is settled once:
another answer later, or an error that no rule knows, breaks a promise.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from chatty.errors import ChattyError
from chatty.ids import RoomId, SendNumber, Seq
from chatty.services.messages import draft
from chatty.wire import frames
from chatty.wire.events import MEGOLM, Committed
from chatty.wire.rooms import HttpSend
from tests.simulation.place import Identity
from tests.simulation.server import Gone, Server
from tests.simulation.world import World

R = TypeVar("R")
answer_timeout_s = 8.0
SESSION_ID = "S" * 43
HEADER = b"\x03\x08\x00\x12\x80\x01"
FINAL = {"not_a_member", "device_set_stale"}
CHANGE_REFUSED = {"not_a_member", "forbidden", "invitation_void", "last_owner", "not_found"}


class Unanswered(Exception):
    """Nothing is known: it may have been done."""


@dataclass(frozen=True, kw_only=True)
class Refused(Exception):
    code: str
    epoch: Seq = Seq(0)


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is sent under one n. mid: names the text, however often it is encrypted anew."""

    n: SendNumber
    room: RoomId
    epoch: Seq
    mid: int
    body: bytes


def body_of(mid: int, epoch: Seq) -> bytes:
    """In the outer shape of a Megolm message of 128 bytes; mid_of() finds the text again."""
    return HEADER + f"{mid} for {epoch}".encode().ljust(128 + 72, b".")


def mid_of(body: bytes) -> int:
    return int(body.removeprefix(HEADER).split()[0])


def is_to_repeat(code: str, *, is_retryable: bool) -> bool:
    """A quarantined request did nothing; it may be sent again."""
    return is_retryable or code == "request_quarantined"


@dataclass(kw_only=True, eq=False)
class Numbers:
    """The device's counter on its disk."""

    last_n: int
    unsettled: set[int] = field(default_factory=set)

    def take(self) -> SendNumber:
        self.last_n += 1
        self.unsettled.add(self.last_n)
        return SendNumber(self.last_n)

    @property
    def low(self) -> SendNumber:
        return SendNumber(min(self.unsettled, default=self.last_n + 1))


class HttpSide:
    """Requests over HTTP to one of the servers, each with a lost packet now and then."""

    def __init__(self, world: World, identity: Identity, pick_server: Callable[[], Server | None]) -> None:
        self._world = world
        self._identity = identity
        self._pick_server = pick_server

    async def settle(self, step: Callable[[Server], Awaitable[R]]) -> R:
        """Until the outcome is known. Raises: Refused."""
        while True:
            try:
                return await self.attempt(step)
            except Unanswered:
                await trio.sleep(0.05 + self._world.chance.seconds(1.0))

    async def attempt(self, step: Callable[[Server], Awaitable[R]]) -> R:
        """Raises: Unanswered, Refused."""
        chance = self._world.chance
        await trio.sleep(chance.seconds(chance.faults.network_delay_s_max))
        server = self._pick_server()
        if server is None:
            await trio.sleep(0.1)
            raise Unanswered
        try:
            answer = await server.ask(lambda: step(server))
        except Gone:
            raise Unanswered from None
        except ChattyError as error:
            if is_to_repeat(error.code, is_retryable=error.is_retryable):
                raise Unanswered from None
            raise Refused(code=error.code, epoch=getattr(error, "epoch", Seq(0))) from None
        await trio.sleep(chance.seconds(chance.faults.network_delay_s_max))
        return answer

    async def send(self, message: Message, *, low: SendNumber) -> Committed:
        """Raises: Unanswered, Refused."""
        room_number = self._world.place.rooms[message.room]
        request = HttpSend(low=low, epoch=message.epoch, algorithm=MEGOLM, session_id=SESSION_ID, body=message.body)
        one = draft(self._identity.caller, request, room=message.room, room_number=room_number, n=message.n)
        return await self.attempt(lambda server: server.append(one))


def send_frame(message: Message, *, request_id: int, low: SendNumber) -> frames.Send:
    return frames.Send(
        id=request_id,
        n=message.n,
        low=low,
        room=message.room,
        epoch=message.epoch,
        algorithm="m.megolm.v1.aes-sha2",
        session_id=SESSION_ID,
        body=message.body,
    )


def olm_content(text: str) -> dict[str, object]:
    return {
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": "A" * 43,
        "ciphertext": {"A" * 43: {"type": 0, "body": text}},
    }
