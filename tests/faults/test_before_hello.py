"""Sockets that never prove whose they are: whatever they send, they cost the server little memory."""

from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import trio

from tests.faults.chatty_process import ChattyProcess, open_serve
from tests.faults.test_slow_reader import watched_memory
from tests.server.app_fixtures import over_both_paths

pytestmark = over_both_paths

sockets_count = 50
socket_bytes_max = 600_000  # several copies of 64 KiB are alive at once when all arrive in one moment
_OPEN = (
    "GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chatty.v1+{}\r\n\r\n"
)
_FRAME_BYTES = 262_000
_TEXT, _BINARY = 1, 2


def message(payload: bytes, *, kind: int = _BINARY, is_whole: bool = True) -> bytes:
    first = kind | (0x80 if is_whole else 0)
    return bytes([first, 0xFF]) + len(payload).to_bytes(8, "big") + bytes(4) + payload


def many_small_numbers() -> bytes:
    """What decoding makes much of: a byte on the wire is eight in memory."""
    acknowledgement = {"type": "mailbox_ack", "id": 1, "ids": [1] * 1_000}
    return msgspec.msgpack.encode([acknowledgement] * 250)


def forged_hello() -> bytes:
    cursors = [{"room": "!" + "A" * 43, "seq": 2**52}] * 500
    hello = {
        "type": "hello",
        "id": 1,
        "access_token": "x" * 4_096,
        "dpop_proof": "x",
        "low": 1,
        "user_seq": 0,
        "more": True,
    }
    return msgspec.msgpack.encode(hello | {"cursors": cursors})


_EMOJI = "😀".encode() * _FRAME_BYTES  # four bytes a character, also in memory
WORST = {
    "bytes without an end": ("msgpack", message(bytes(_FRAME_BYTES), is_whole=False)),
    "text without an end": ("json", message(_EMOJI, kind=_TEXT, is_whole=False)),
    "text upon text": ("json", message(_EMOJI, kind=_TEXT) * 6),
    "numbers, and more": ("msgpack", message(many_small_numbers()) + message(bytes(_FRAME_BYTES)) * 12),
    "a forged hello, and more": ("msgpack", message(forged_hello()) + message(bytes(_FRAME_BYTES)) * 12),
}


async def attack(server: ChattyProcess, subprotocol: str, sent: bytes) -> None:
    """Until the server ends it."""
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream, trio.open_nursery() as nursery:
        await stream.send_all(_OPEN.format(subprotocol).encode())
        await stream.receive_some()
        nursery.start_soon(send_or_break, stream, sent)
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        nursery.cancel_scope.cancel()


async def send_or_break(stream: trio.SocketStream, sent: bytes) -> None:
    with suppress(trio.BrokenResourceError):
        await stream.send_all(sent)


async def attack_with_all(server: ChattyProcess, subprotocol: str, sent: bytes) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(sockets_count):
                nursery.start_soon(attack, server, subprotocol, sent)


@pytest.mark.parametrize("name", WORST)
async def test_who_says_no_hello_costs_little_memory(
    name: str, database: str, open_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"CHATTY_HELLO_TIMEOUT_S": "2", "CHATTY_LIMIT_SOCKETS_ADDRESS": "off"}
    subprotocol, sent = WORST[name]
    async with open_serve(database, open_directory, **settings) as server:
        await attack_with_all(server, subprotocol, b"")  # the warm-up
        async with watched_memory(server.running.pid) as samples:
            await attack_with_all(server, subprotocol, sent)
        growth_bytes = (max(samples) - samples[0]) // sockets_count
        with capsys.disabled():
            print(f"\n{name}: + {growth_bytes / 1e3:.0f} kB a socket")
        assert growth_bytes < socket_bytes_max
