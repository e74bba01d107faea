"""What somebody learns of a room who is not inside, and who may open a socket at all."""

import pytest

from chatty.errors import Forbidden
from chatty.wire import frames
from chatty.wire.events import Action, Policy, TimelineEvent
from tests.server.app_fixtures import RunningApp
from tests.server.wire_client import ciphertext, open_live_socket, open_raw_socket, open_socket
from tests.server.wire_people import HttpRefused


async def test_who_was_banned_from_outside_reads_nothing(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    room = await ann.create_room(policy=Policy(history="shared"))
    await room.change(ann, Action.BAN, eve)
    with pytest.raises(HttpRefused, match="not_found"):
        await eve.history(room.id)
    assert {event["kind"] for event in (await eve.get("/v1/stream"))["events"]} == {"devices"}


async def test_who_left_and_is_banned_later_reads_up_to_the_leave(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob, policy=Policy(history="shared"))
    left = await room.leave(bob)
    async with open_socket(ann) as socket:
        await socket.send(room.id, ciphertext(), epoch=room.epoch)
    await room.change(ann, Action.BAN, bob)
    assert (await bob.all_history(room.id))[-1].seq == left.seq  # type: ignore[union-attr]
    async with open_live_socket(bob) as socket:
        shown = [event.seq for event in socket.pending if isinstance(event, TimelineEvent) and event.room == room.id]
        assert shown == list(range(1, left.seq + 1))


async def test_a_role_that_may_not_chat_opens_no_socket(chat: RunningApp) -> None:
    eve = await chat.sign_up("eve")
    await chat.rows("UPDATE users SET role = 'auditor' WHERE user_id = %s RETURNING 1", eve.user)
    async with open_raw_socket(chat.origin, device=eve) as socket:
        await socket.write(socket.hello())
        reason = await socket.closed()
        assert (reason.code, reason.reason) == (4411, Forbidden.code)
        assert [event.code for event in socket.pending if isinstance(event, frames.Error)] == [Forbidden.code]
