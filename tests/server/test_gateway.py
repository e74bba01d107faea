"""The WebSocket: greeting, frames, limits and endings."""

from typing import get_args

import pytest
import trio

from chatty.wire.frames import Encoding
from tests.server.app_fixtures import RunningApp
from tests.server.wire_client import ciphertext, open_live_socket


@pytest.fixture(params=get_args(Encoding))
def encoding(request: pytest.FixtureRequest) -> Encoding:
    found: Encoding = request.param
    return found


async def test_two_people_exchange_messages_in_either_encoding(chat: RunningApp, encoding: Encoding) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with (
        open_live_socket(ann, encoding=encoding) as anns,
        open_live_socket(bob, encoding=encoding) as bobs,
    ):
        body = ciphertext()
        ack = await anns.send(room.id, body, epoch=room.epoch)
        [event] = await bobs.messages(1)
        assert (event.seq, event.body, event.sender, event.device) == (ack.seq, body, ann.user, ann.device)
        [own] = await anns.messages(1)
        assert own == event


_OPEN = (
    b"GET /v1/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chatty.v1+json\r\n\r\n"
)
_CLOSE, _RESERVED_OPCODE = b"\x88\x80\x01\x02\x03\x04", b"\x83\x80\x01\x02\x03\x04"


@pytest.mark.parametrize("last", [_CLOSE, _RESERVED_OPCODE, b""], ids=["close", "reserved opcode", "end of stream"])
async def test_peers_that_leave_right_after_opening_disturb_nobody(chat: RunningApp, last: bytes) -> None:
    async def open_and_leave() -> None:
        async with await trio.open_tcp_stream("127.0.0.1", int(chat.origin.rsplit(":", 1)[1])) as stream:
            await stream.send_all(_OPEN)
            await stream.receive_some()
            await (stream.send_all(last) if last else stream.send_eof())
            with trio.fail_after(5):
                while await stream.receive_some():
                    pass

    ann = await chat.sign_up("ann")
    async with open_live_socket(ann) as socket:
        for _ in range(10):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(open_and_leave)
        await socket.settle()
    assert (await chat.http.get("/readyz")).status_code == 200
