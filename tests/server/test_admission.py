"""Before an application knows who a peer is, it is sent one message, and no large one; the rest waits where it came from."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
from hypercorn.config import Config
from quart import websocket
from quart_trio import QuartTrio

from chatty.web import listener
from chatty.web.admission import Admission, admission_of
from tests.server.app_fixtures import over_both_paths
from tests.server.test_tcp import shake_hands

pytestmark = over_both_paths

bytes_max = 1_000
quiet_s = 0.1  # nobody has done anything for so long: what could come has come
_TEXT, _BINARY, _MORE = 1, 2, 0
Talk = Callable[[Admission], Awaitable[None]]


def part(payload: bytes, *, kind: int = _BINARY, is_last: bool = True) -> bytes:
    """One masked frame of a message, under the mask zero."""
    first = kind | (0x80 if is_last else 0)
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([first]) + size + bytes(4) + payload


@asynccontextmanager
async def connected(talk: Talk, *, is_required: bool = True) -> AsyncIterator[trio.SocketStream]:
    """A peer of an application that asks for proof, and then talks."""
    app = QuartTrio(__name__)

    async def serve() -> None:
        inner = websocket._get_current_object()  # type: ignore[attr-defined]
        admission = admission_of(inner.scope)
        assert admission is not None
        if is_required:
            admission.require(bytes_max=bytes_max)
        await inner.accept()
        await talk(admission)

    app.add_websocket("/", "socket", serve)
    config = Config.from_mapping(bind=["127.0.0.1:0"], accesslog=None, errorlog=None, graceful_timeout=0.2)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(partial(listener.serve, app, config, shutdown_trigger=stop.wait))
        async with await trio.open_tcp_stream("127.0.0.1", int(bound[0].rsplit(":", 1)[1])) as stream:
            await shake_hands(stream)
            yield stream
        stop.set()


async def received_until(stream: trio.SocketStream, end: bytes) -> bytes:
    received = b""
    with trio.fail_after(5):
        while not received.endswith(end) and (data := await stream.receive_some()):
            received += data
    return received


class Talker:
    """Receives all there is, and admits when it is told to."""

    def __init__(self) -> None:
        self.received: list[bytes | str] = []
        self.may_admit = trio.Event()
        self.has_ended = trio.Event()

    async def __call__(self, admission: Admission) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._receive)
                await self.may_admit.wait()
                admission.admit()
        finally:
            self.has_ended.set()

    async def _receive(self) -> None:
        while True:
            self.received.append(await websocket.receive())
            await websocket.send(b"taken")


async def test_a_second_message_is_not_read_before_the_peer_is_admitted() -> None:
    talker = Talker()
    async with connected(talker) as stream:
        await stream.send_all(part(b"hello") + part(b"x" * bytes_max) + part(b"y" * 9_000))
        await received_until(stream, b"taken")
        await trio.testing.wait_all_tasks_blocked(quiet_s)
        assert talker.received == [b"hello"]
        talker.may_admit.set()
        await received_until(stream, b"\x05taken\x82\x05taken")
        assert talker.received == [b"hello", b"x" * bytes_max, b"y" * 9_000]


async def test_without_a_demand_nothing_waits_and_nothing_is_too_large() -> None:
    talker = Talker()
    async with connected(talker, is_required=False) as stream:
        await stream.send_all(part(b"x" * 9_000) + part(b"y" * 9_000))
        await received_until(stream, b"\x05taken\x82\x05taken")
        assert talker.received == [b"x" * 9_000, b"y" * 9_000]


@pytest.mark.parametrize(("kind", "letter"), [(_BINARY, b"x"), (_TEXT, b"x"), (_TEXT, "é".encode())])
@pytest.mark.parametrize("excess", [0, 1])
async def test_the_parts_of_a_first_message_count_together(kind: int, letter: bytes, excess: int) -> None:
    talker = Talker()
    half = letter * (bytes_max // 2 // len(letter))
    message = part(half, kind=kind, is_last=False) + part(half, kind=_MORE, is_last=not excess)
    async with connected(talker) as stream:
        await stream.send_all(message + part(letter, kind=_MORE) * excess)
        received = await received_until(stream, b"taken" if not excess else (1009).to_bytes(2, "big"))
        assert len(talker.received) == 1 - excess, received
        assert received.endswith(b"taken" if not excess else b"\x88\x02" + (1009).to_bytes(2, "big"))


async def test_who_leaves_before_it_is_admitted_is_noticed_then() -> None:
    talker = Talker()
    async with connected(talker) as stream:
        await stream.send_all(part(b"hello") + part(b"more"))
        await received_until(stream, b"taken")
        await stream.aclose()
        talker.may_admit.set()
        with trio.fail_after(5):
            await talker.has_ended.wait()


async def test_an_application_that_admits_nobody_ends_the_connection() -> None:
    async def refuse(admission: Admission) -> None:
        await websocket.receive()
        await websocket.close(4401, "unauthenticated")

    async with connected(refuse) as stream:
        await stream.send_all(part(b"hello") + part(b"more" * 2_000) * 20)
        assert b"unauthenticated" in await received_until(stream, b"unauthenticated")
