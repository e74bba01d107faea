"""What clients send behind their handshake, frame by frame, and the same gone wrong: for both paths of the gateway.

The corpus (tests/corpus/websocket, a stream of frames a file) is mutated and cut at random; a seed names what came of it. Both
paths get the same bytes: they must end, give the application the same messages in the same order, and answer with the same pongs
and the same close. `python -m tests.fuzz.client_frames COUNT [SEED]` sends so many frames.
"""

import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from chatty.actors.sessions import SocketClosed
from chatty.web.admission import Admission
from chatty.web.direct import DirectSocket, accepted
from chatty.web.listener import TcpServer, mend_hypercorn
from chatty.web.tcp import direct_of

Path_ = Literal["direct", "plain"]
Message = bytes | str
Serve = Callable[[DirectSocket], Awaitable[None]]

CORPUS = Path(__file__).parent.parent / "corpus" / "websocket"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: chatty.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
message_bytes_max = 66_000
hang_timeout_s = 30.0
_TEXT, _BINARY = 1, 2


def frame(opcode: int, payload: bytes = b"", *, is_final: bool = True, key: bytes = b"\x37\xfa\x21\x3d") -> bytes:
    """One of a client's."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 65_536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    masked = bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))
    return bytes((opcode | (0x80 if is_final else 0),)) + length + key + masked


def server_frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """First byte and payload of each whole frame of a server; what is left of one counts as a frame of its own."""
    at = 0
    while at < len(data):
        size, begins = data[at + 1] if at + 1 < len(data) else 127, at + 2
        if size in (126, 127):
            begins += 2 if size == 126 else 8
            size = int.from_bytes(data[at + 2 : begins], "big")
        yield data[at], data[begins : begins + size]
        at = begins + size


@dataclass
class Heard:
    """messages: what the application got, in order. answers: what the peer got, as server_frames()."""

    messages: list[Message] = field(default_factory=list)
    answers: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def controls(self) -> list[tuple[int, bytes]]:
        """A close by its code alone: the words behind it tell places, and these depend on where a frame was cut."""
        return [(first, payload[:2] if first == 0x88 else payload) for first, payload in self.answers if first & 0x08]

    @property
    def echoes(self) -> list[Message]:
        data = [(first, payload) for first, payload in self.answers if not first & 0x08]
        return [payload.decode() if first == 0x81 else payload for first, payload in data]

    @property
    def close_code(self) -> int | None:
        codes = [int.from_bytes(payload[:2], "big") for first, payload in self.controls if first == 0x88]
        return codes[0] if codes else None


def echoing(heard: Heard, path: Path_) -> Any:
    """An application that sends back what it gets, until nothing comes any more."""

    async def direct(scope: Any, receive: Any, send: Any) -> None:
        way, admission = direct_of(scope), Admission()
        assert way is not None
        async with accepted(way, admission, receive, send):
            socket = DirectSocket(way, admission, send, "msgpack")
            while True:
                try:
                    heard.messages.append(await socket.receive_message())
                except SocketClosed:
                    return
                with suppress(SocketClosed):
                    await socket.send_message(heard.messages[-1])

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            heard.messages.append(event["text"] if event["bytes"] is None else event["bytes"])
            await send({"type": "websocket.send", "bytes": event["bytes"], "text": event["text"]})

    return direct if path == "direct" else plain


async def open_connection(
    nursery: trio.Nursery, app: Any, *, ping_interval_s: float | None = None
) -> trio.SocketStream:
    """A client's end, behind the handshake."""
    stream = await connect(nursery, app, ping_interval_s=ping_interval_s)
    await stream.send_all(UPGRADE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive_some(1)
    assert b" 101 " in head
    return stream


async def connect(nursery: trio.Nursery, app: Any, *, ping_interval_s: float | None = None) -> trio.SocketStream:
    """A client's end; the other one is served by the product's connection."""
    mend_hypercorn()
    ours, theirs = await _tcp_pair()
    config = Config.from_mapping(
        websocket_ping_interval=ping_interval_s, websocket_max_message_size=message_bytes_max, errorlog=None
    )
    server = TcpServer(ASGIWrapper(app), config, WorkerContext(None), {}, trio.SocketStream(theirs))
    nursery.start_soon(server.run)
    return trio.SocketStream(ours)


async def _tcp_pair() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    ours = trio.socket.socket()
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        await ours.connect(listener.getsockname())
        theirs, _ = await listener.accept()
    return ours, theirs


async def heard_of(path: Path_, pieces: Sequence[bytes]) -> Heard:
    """Send these, then the end; until the connection has ended and everybody with it."""
    heard = Heard()
    with trio.fail_after(hang_timeout_s):
        async with trio.open_nursery() as nursery:
            stream = await open_connection(nursery, echoing(heard, path))
            nursery.start_soon(_send_pieces, stream, pieces)
            received = bytearray()
            with suppress(trio.BrokenResourceError):
                while data := await stream.receive_some():
                    received += data
            await stream.aclose()
    heard.answers = list(server_frames(bytes(received)))
    return heard


async def _send_pieces(stream: trio.SocketStream, pieces: Sequence[bytes]) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        for piece in pieces:
            await stream.send_all(piece)
            for _ in range(3):  # so that the server may see it by itself
                await trio.lowlevel.checkpoint()
        await stream.send_eof()


async def check_alike(pieces: Sequence[bytes]) -> Heard:
    """Raises: AssertionError where the paths differ. Returns what the direct one heard."""
    direct, plain = [await heard_of(path, pieces) for path in ("direct", "plain")]
    assert direct.messages == plain.messages
    assert direct.controls == plain.controls
    for heard in (direct, plain):
        assert heard.echoes == heard.messages[: len(heard.echoes)]
        assert 0x88 not in [first for first, _ in heard.answers[:-1]], "something was said after the close"
    return direct


# Mutations ----------------------------------------------------------------------------------------------------------


def corpus() -> list[bytes]:
    return [path.read_bytes() for path in sorted(CORPUS.iterdir())]


def frames_count(stream: bytes) -> int:
    """Of a client's stream that is sound."""
    count = at = 0
    while at < len(stream):
        size, begins = stream[at + 1] & 0x7F, at + 6
        if size in (126, 127):
            begins += 2 if size == 126 else 8
            size = int.from_bytes(stream[at + 2 : begins - 4], "big")
        count, at = count + 1, begins + size
    return count


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One change, near a frame's head more often than elsewhere."""
    at = rng.randrange(min(len(data), rng.choice([16, 64, len(data)]))) if data else 0
    to = at + rng.choice([1, 2, 4, 14, 100])
    match rng.randrange(6):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :] if data else data
        case 1:
            return data[:at] + bytes([rng.choice([0, 1, 125, 126, 127, 128, 254, 255])]) + data[at + 1 :]
        case 2:
            return data[:at] + data[to:]
        case 3:
            return data[:to] + data[at:]
        case 4:
            return data[:at] + rng.randbytes(rng.randint(1, 14)) + data[at:]
        case _:
            return data[:at]


def cut(data: bytes, rng: random.Random) -> list[bytes]:
    places = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 0, 1, 3, 9])))
    return [data[begin:end] for begin, end in zip([0, *places], [*places, len(data)], strict=True) if end > begin]


async def send_mutated(count: int, seed: int, *, told: Callable[[str], None] = lambda _: None) -> int:
    """At least so many frames, in connections of a few. Returns how many messages came through."""
    streams = corpus()
    sizes = [frames_count(stream) for stream in streams]
    sent_count = messages_count = number = 0
    while sent_count < count:
        rng = random.Random(f"{seed} {number}")
        chosen = rng.choices(range(len(streams)), k=rng.randint(1, 6))
        parts = [streams[at] for at in chosen]
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            at = rng.randrange(len(parts))
            parts[at] = mutated(parts[at], rng)
        try:
            heard = await check_alike(cut(b"".join(parts), rng))
        except BaseException:
            told(f"case {number} of seed {seed}: {b''.join(parts)[:400]!r}")
            raise
        messages_count += len(heard.messages)
        sent_count += sum(sizes[at] for at in chosen)
        number += 1
        if number % 5_000 == 0:
            told(f"{sent_count} frames, {messages_count} messages came through")
    return messages_count


def main(arguments: Sequence[str]) -> None:
    count, seed = int(arguments[0]), int(arguments[1]) if len(arguments) > 1 else random.randrange(2**32)
    began = time.monotonic()
    print(f"{count} frames, seed {seed}", flush=True)
    messages_count = trio.run(partial(send_mutated, count, seed, told=partial(print, flush=True)))
    print(f"{messages_count} messages came through, both paths alike, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
