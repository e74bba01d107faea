"""Typing: to the live sockets of a room's other members, once for many notices, never stored, ended by time or a stop."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from chatty.wire import frames, limits
from chatty.wire.frames import ServerFrame
from chatty.wire.typing_notices import Typing, TypingNow
from tests.server.app_fixtures import RunningApp, open_chat, over_both_paths
from tests.server.wire_client import Refused, WireSocket, ciphertext, open_live_socket
from tests.server.wire_people import WireRoom, sign_in

pytestmark = over_both_paths
quiet_s = 1.0  # several times the interval at which typing is told


async def types(socket: WireSocket, room: WireRoom, *, is_typing: bool = True) -> None:
    await socket.ask(Typing(id=socket.request_id(), room=room.id, is_typing=is_typing))


async def told(socket: WireSocket) -> list[str]:
    return [user.split(":")[0] for user in (await socket.event(TypingNow)).users]


async def all_of_a_while(socket: WireSocket) -> list[TypingNow]:
    """What is told within a time in which it would have been."""
    found: list[ServerFrame] = list(socket.pending)
    socket.pending.clear()
    with trio.move_on_after(quiet_s):
        while True:
            found += await socket.read()
    return [event for event in found if isinstance(event, TypingNow)]


async def test_the_others_are_told_who_types_and_who_stopped(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    async with (
        open_live_socket(ann) as anns,
        open_live_socket(bob) as bobs,
        open_live_socket(cid, encoding="json") as cids,
    ):
        await types(anns, room)
        assert [await told(one) for one in (bobs, cids)] == [["@ann"], ["@ann"]]
        await types(bobs, room)
        assert [await told(one) for one in (anns, cids)] == [["@bob"], ["@ann", "@bob"]]
        assert await told(bobs) == ["@ann"]
        await types(anns, room, is_typing=False)
        assert [await told(one) for one in (bobs, cids)] == [[], ["@bob"]]


async def test_it_ends_without_a_stop(chat: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "typing_lifetime_s", 0.6)
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
        await types(anns, room)
        assert await told(bobs) == ["@ann"]
        assert await told(bobs) == []


async def test_a_flood_is_told_once_and_then_costs_its_sender(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, limit_typing_device="1 per hour, burst 40") as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        room = await ann.create_room(bob)
        async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
            for _ in range(20):
                await types(anns, room)
            assert len(await all_of_a_while(bobs)) == 1
            for at in range(20):
                await types(anns, room, is_typing=at % 2 == 1)
            assert len(await all_of_a_while(bobs)) <= 2
            with pytest.raises(Refused, match="rate_limited") as refused:
                await types(anns, room)
            assert refused.value.error.details == {"limiter": "typing_device"}
            await types(bobs, room)
            await anns.send(room.id, ciphertext(), epoch=room.epoch)  # messages are counted apart


async def test_nobody_outside_types_or_is_told(chat: RunningApp) -> None:
    ann, bob, eve = await chat.sign_up_all("ann", "bob", "eve")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs, open_live_socket(eve) as eves:
        for nowhere in (room.id, "!" + "A" * 43):
            with pytest.raises(Refused, match="not_found"):
                await eves.ask(Typing(id=eves.request_id(), room=nowhere))  # type: ignore[arg-type]
        await room.kick(ann, bob)
        await bobs.event(frames.UserEvent)
        await types(anns, room)
        assert [await all_of_a_while(one) for one in (bobs, eves)] == [[], []]


async def test_who_was_put_out_while_typing_is_not_told_of_any_more(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    async with open_live_socket(bob) as bobs, open_live_socket(cid) as cids, open_live_socket(ann) as anns:
        await types(bobs, room)
        assert await told(cids) == ["@bob"]
        await room.kick(ann, bob)
        await types(anns, room)
        assert await told(cids) == ["@ann"]


async def test_a_blocked_user_is_not_told_and_does_not_notice(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs, open_live_socket(cid) as cids:
        await ann.answer("PUT", f"/v1/blocks/{bob.user}")
        assert (await anns.event(frames.UserEvent)).kind
        await settled_settings(anns)
        await types(anns, room)
        assert await told(cids) == ["@ann"]
        await types(anns, room, is_typing=False)
        assert await told(cids) == []
        assert await all_of_a_while(bobs) == []


async def settled_settings(socket: WireSocket) -> None:
    """Until the server has read anew what this socket's user shows: a `settings` event is followed by that read."""
    while True:
        pending = [event for event in socket.pending if isinstance(event, frames.UserEvent)]
        if any(event.kind == "settings" for event in pending):
            break
        socket.pending.extend(await socket.read())
    await trio.sleep(0.1)


async def test_the_own_devices_are_not_told(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    phone = await sign_in(ann)
    async with open_live_socket(ann) as laptops, open_live_socket(phone) as phones, open_live_socket(bob) as bobs:
        await types(laptops, room)
        assert await told(bobs) == ["@ann"]
        assert await all_of_a_while(phones) == []


async def test_nothing_of_it_is_kept_for_who_comes_later(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as anns:
        await types(anns, room)
        async with open_live_socket(bob) as bobs:
            assert len(await all_of_a_while(bobs)) <= 1  # told live, if at all
        async with open_live_socket(bob) as bobs:
            assert await all_of_a_while(bobs) == []


async def test_no_more_than_a_few_are_told_of_in_one_room(chat: RunningApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "typing_users_max", 2)
    ann, bob, cid, dan = await chat.sign_up_all("ann", "bob", "cid", "dan")
    room = await ann.create_room(bob, cid, dan)
    async with AsyncExitStack() as stack:
        anns, *others = [await stack.enter_async_context(open_live_socket(one)) for one in (ann, bob, cid, dan)]
        for socket in others:
            await types(socket, room)
        assert await told(anns) == ["@bob", "@cid"]
        assert 'notice_drops_total{kind="typing"} 1.0' in (await chat.http.get("/metrics")).text
