"""Connections whose peers misbehave below the protocol: each ends, keeps nothing, and disturbs nobody."""

from contextlib import suppress

import pytest
import trio

from tests.server.app_fixtures import RunningApp, over_both_paths
from tests.server.wire_client import open_live_socket

pytestmark = over_both_paths

_OPEN = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chatty.v1+json\r\n\r\n"
)
_MASK = b"\x00\x00\x00\x00"
_CLOSE, _RESERVED_OPCODE, _TEXT = (bytes((first, 0x80)) + _MASK for first in (0x88, 0x83, 0x81))


async def connect(origin: str) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", int(origin.rsplit(":", 1)[1]))


async def open_bare(chat: RunningApp) -> trio.SocketStream:
    """A WebSocket without a library."""
    stream = await connect(chat.origin)
    await stream.send_all(_OPEN)
    await stream.receive_some()
    return stream


async def received_until_end(stream: trio.SocketStream) -> bytes:
    """The connection's rest; a reset is an end too."""
    received = b""
    with trio.fail_after(5), suppress(trio.BrokenResourceError):
        while data := await stream.receive_some():
            received += data
    return received


@pytest.mark.parametrize("last", [_CLOSE, _RESERVED_OPCODE, b""], ids=["close", "reserved opcode", "end of stream"])
async def test_peers_that_leave_right_after_opening_disturb_nobody(chat: RunningApp, last: bytes) -> None:
    async def open_and_leave() -> None:
        async with await open_bare(chat) as stream:
            await (stream.send_all(last) if last else stream.send_eof())
            await received_until_end(stream)

    ann = await chat.sign_up("ann")
    async with open_live_socket(ann) as socket:
        for _ in range(10):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(open_and_leave)
        await socket.settle()
    assert (await chat.http.get("/readyz")).status_code == 200


async def test_who_breaks_the_protocol_is_told_so_and_what_it_sends_then_changes_nothing(chat: RunningApp) -> None:
    for wrong, code in ((_RESERVED_OPCODE, 1002), (_TEXT[:1] + b"\x05hello", 1002), (b"\xc1" + _TEXT[1:], 1002)):
        async with await open_bare(chat) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(_send_or_break, stream, wrong, *[_TEXT] * 20)
            assert b"\x88" in (received := await received_until_end(stream))
            assert code.to_bytes(2, "big") in received


async def test_who_sends_frames_before_the_handshake_was_answered_is_refused(chat: RunningApp) -> None:
    for early in (_TEXT, _TEXT[:3]):
        async with await connect(chat.origin) as stream:
            await stream.send_all(_OPEN + early)
            received = b""
            with trio.fail_after(5):
                while b"\r\n\r\n" not in received:
                    received += await stream.receive_some()
            assert received.startswith(b"HTTP/1.1 400")


async def test_who_talks_on_after_a_wrong_hello_is_closed_all_the_same(chat: RunningApp) -> None:
    for _ in range(5):
        async with await open_bare(chat) as stream:
            await stream.send_all(_TEXT * 500)
            assert b"bad_request" in await received_until_end(stream)


@pytest.mark.parametrize("token", ["", "Authorization: DPoP {}\r\n"], ids=["nobody", "somebody"])
async def test_a_body_that_nobody_wants_ends_its_connection(chat: RunningApp, token: str) -> None:
    ann = await chat.sign_up("ann")
    body = b" " * 2_000_000
    head = (
        "POST /v1/keys/query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"{token.format(ann.access_token)}Content-Length: {len(body) + 1}\r\n\r\n"
    )
    for _ in range(5):
        async with await connect(chat.origin) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(_send_or_break, stream, head.encode() + body)
            answer = await received_until_end(stream)
            assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 401") if token else b"HTTP/1.1 401")
            nursery.cancel_scope.cancel()


async def _send_or_break(stream: trio.SocketStream, *parts: bytes) -> None:
    with suppress(trio.BrokenResourceError):
        for part in parts:
            await stream.send_all(part)


async def ends_who_sends_no_body(origin: str) -> bool:
    """Is the connection ended, its refusal said, when an unwanted body is announced and stays away?"""
    async with await connect(origin) as stream:
        await stream.send_all(b"POST /v1/keys/query HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        return (await received_until_end(stream)).startswith(b"HTTP/1.1 401")


async def test_a_body_that_stays_away_keeps_nobody_waiting(chat: RunningApp) -> None:
    assert await ends_who_sends_no_body(chat.origin)
