"""Writing what the kernel takes at once: nothing is lost, doubled or mixed up when it does not take all."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio
import trio.testing
from hypercorn.config import Config
from quart import websocket
from quart_trio import QuartTrio

from chatty.web import listener
from chatty.web.tcp import turns_between_checkpoints

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: chatty.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
FRAMES_COUNT, FRAME_BYTES = 300, 40_000  # 12 MB: more than the kernel's buffers hold
PINGS_COUNT = 20 * turns_between_checkpoints


@asynccontextmanager
async def connected(
    serve_websocket: Callable[[], Awaitable[None]], *, buffer_bytes: int
) -> AsyncIterator[trio.SocketStream]:
    """A client with a small receive buffer, after its handshake."""
    app = QuartTrio(__name__)
    app.add_websocket("/", "socket", serve_websocket)
    config = Config.from_mapping(bind=["127.0.0.1:0"], accesslog=None, errorlog=None, graceful_timeout=0.2)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        bound = await nursery.start(partial(listener.serve, app, config, shutdown_trigger=stop.wait))
        with trio.socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            await client.connect(("127.0.0.1", int(bound[0].rsplit(":", 1)[1])))
            yield trio.SocketStream(client)
        stop.set()


async def shake_hands(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    """The answer's head, and what came behind it."""
    await stream.send_all(UPGRADE)
    received = b""
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some()
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


async def read_frames(stream: trio.SocketStream, received: bytes, count: int) -> list[bytes]:
    """Payloads of unmasked binary frames of 126 to 65,535 bytes."""
    buffer = bytearray(received)
    payloads: list[bytes] = []
    while len(payloads) < count:
        while len(buffer) < 4 or len(buffer) < 4 + int.from_bytes(buffer[2:4], "big"):
            buffer += await stream.receive_some()
        assert buffer[:2] == b"\x82\x7e"
        size = int.from_bytes(buffer[2:4], "big")
        payloads.append(bytes(buffer[4 : 4 + size]))
        del buffer[: 4 + size]
    return payloads


async def test_a_peer_that_reads_late_gets_every_frame_whole_and_in_order() -> None:
    wanted = [number.to_bytes(4, "big") * (FRAME_BYTES // 4) for number in range(FRAMES_COUNT)]
    sent_count = 0

    async def send_much() -> None:
        nonlocal sent_count
        for payload in wanted:
            await websocket.send(payload)
            sent_count += 1
        await trio.sleep_forever()

    async with connected(send_much, buffer_bytes=4_096) as stream:
        _, rest = await shake_hands(stream)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert sent_count < FRAMES_COUNT  # else the kernel took all, and this shows nothing
        payloads = await read_frames(stream, rest, FRAMES_COUNT)
    assert payloads == wanted


async def test_who_is_cancelled_while_writing_leaves_no_half_of_a_frame() -> None:
    wanted = [number.to_bytes(4, "big") * (FRAME_BYTES // 4) for number in range(FRAMES_COUNT)]

    async def send_cancelled() -> None:
        for payload in wanted:
            with trio.CancelScope() as scope:
                scope.cancel()
                await websocket.send(payload)
        await trio.sleep_forever()

    async with connected(send_cancelled, buffer_bytes=4_096) as stream:
        _, rest = await shake_hands(stream)
        assert await read_frames(stream, rest, FRAMES_COUNT) == wanted


async def test_two_tasks_that_write_at_once_do_not_tear_each_others_frames() -> None:
    async def send_from_two() -> None:
        async def send(letter: bytes) -> None:
            for _ in range(FRAMES_COUNT // 2):
                await websocket.send(letter * FRAME_BYTES)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, b"a")
            nursery.start_soon(send, b"b")
        await trio.sleep_forever()

    async with connected(send_from_two, buffer_bytes=4_096) as stream:
        _, rest = await shake_hands(stream)
        payloads = await read_frames(stream, rest, FRAMES_COUNT)
    assert sorted(payloads) == [b"a" * FRAME_BYTES] * (FRAMES_COUNT // 2) + [b"b" * FRAME_BYTES] * (FRAMES_COUNT // 2)


async def test_one_who_writes_much_without_waiting_lets_the_others_run() -> None:
    turns_count = 0

    async def send_in_one_go() -> None:
        nonlocal turns_count
        is_over = False

        async def count_turns() -> None:
            nonlocal turns_count
            while not is_over:
                turns_count += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            for _ in range(PINGS_COUNT):
                await websocket.send(b"p" * 200)
            is_over = True
        await trio.sleep_forever()

    async with connected(send_in_one_go, buffer_bytes=1_000_000) as stream:
        _, rest = await shake_hands(stream)
        await read_frames(stream, rest, PINGS_COUNT)
    assert turns_count >= PINGS_COUNT // turns_between_checkpoints // 2


async def test_no_compression_is_agreed_upon() -> None:
    async def accept() -> None:
        await websocket.accept()
        await trio.sleep_forever()

    async with connected(accept, buffer_bytes=65_536) as stream:
        head, _ = await shake_hands(stream)
    assert b" 101 " in head
    assert b"sec-websocket-extensions" not in head.lower()
