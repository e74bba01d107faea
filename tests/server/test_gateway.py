"""The WebSocket: greeting, frames, limits and endings."""

from typing import get_args

import pytest

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
