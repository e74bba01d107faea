"""Presence: only of whom one names and shares a room with; off for a user and for a server; never for strangers."""

from pathlib import Path
from typing import Any

import pytest
import trio

from chatty.ids import UserId
from chatty.wire import frames, limits
from chatty.wire.presence import Presence, SetPresence, State, WatchPresence
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.wire_client import Refused, WireSocket, ciphertext, open_live_socket
from tests.server.wire_people import SERVER_NAME, WireDevice

FAST: dict[str, Any] = {"presence_interval_s": 0.1}


async def watch(socket: WireSocket, *devices: WireDevice) -> dict[str, str]:
    """What is told at once."""
    await socket.ask(WatchPresence(id=socket.request_id(), users=[one.user for one in devices]))
    told = [await socket.event(Presence) for _ in devices]
    return {one.user.split(":")[0]: one.state for one in told}


async def set_presence(socket: WireSocket, state: State) -> None:
    assert state != "offline"
    await socket.ask(SetPresence(id=socket.request_id(), state=state))


async def told(socket: WireSocket) -> tuple[str, str]:
    event = await socket.event(Presence)
    return event.user.split(":")[0], event.state


async def nothing_told(socket: WireSocket) -> bool:
    """Within a time in which several looks passed."""
    with trio.move_on_after(0.5):
        while True:
            socket.pending.extend(await socket.read())
    return not [event for event in socket.pending if isinstance(event, Presence)]


async def show(device: WireDevice, *, shows_presence: bool) -> None:
    body = {"shows_presence": shows_presence, "shows_receipts": True}
    assert (await device.answer("PUT", "/v1/account/preferences", body)).status_code == 200


async def test_who_watches_is_told_who_is_there_who_comes_and_who_goes(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, **FAST) as chat:
        ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
        await ann.create_room(bob, cid)
        async with open_live_socket(ann) as anns:
            async with open_live_socket(bob) as bobs:
                assert await watch(anns, bob, cid) == {"@bob": "online", "@cid": "offline"}
                async with open_live_socket(cid, encoding="json"):
                    assert await told(anns) == ("@cid", "online")
                await set_presence(bobs, "idle")
                assert {await told(anns), await told(anns)} == {("@cid", "offline"), ("@bob", "idle")}
                await set_presence(bobs, "online")
                assert await told(anns) == ("@bob", "online")
            gone = await anns.event(Presence)
            assert (gone.state, gone.last_active % (limits.presence_grain_s * 1_000)) == ("offline", 0)
            assert gone.last_active > 0


async def test_nobody_is_told_who_did_not_ask_or_asked_for_no_more(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, **FAST) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        await ann.create_room(bob)
        async with open_live_socket(ann) as anns:
            async with open_live_socket(bob):
                assert await nothing_told(anns)
                assert await watch(anns, bob) == {"@bob": "online"}
                await watch(anns)
            assert await nothing_told(anns)
        assert "chatty_presence_watches 0.0" in (await chat.http.get("/metrics")).text


async def test_a_stranger_sees_nobody_there(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, **FAST) as chat:
        ann, eve = await chat.sign_up_all("ann", "eve")
        await ann.create_room()
        nobody = UserId(f"@nobody:{SERVER_NAME}")
        async with open_live_socket(eve) as eves:
            await eves.ask(WatchPresence(id=eves.request_id(), users=[ann.user, nobody]))
            first = {event.user: (event.state, event.last_active) for event in await eves.events(Presence, 2)}
            assert first == {ann.user: ("offline", 0), nobody: ("offline", 0)}
            async with open_live_socket(ann):
                assert await nothing_told(eves)
            assert await nothing_told(eves), "nor when they went"


async def test_sharing_a_room_begins_and_ends_it(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, **FAST) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        room = await ann.create_room()
        async with open_live_socket(ann) as anns, open_live_socket(bob):
            assert await watch(anns, bob) == {"@bob": "offline"}
            await room.join(bob, invited_by=ann)
            assert await told(anns) == ("@bob", "online")
            await room.kick(ann, bob)
            assert await told(anns) == ("@bob", "offline")


async def test_a_user_may_show_none_and_still_see(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, **FAST) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        await ann.create_room(bob)
        async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
            assert await watch(anns, bob) == {"@bob": "online"}
            await show(bob, shows_presence=False)
            assert await told(anns) == ("@bob", "offline")
            assert await watch(bobs, ann) == {"@ann": "online"}
            await show(bob, shows_presence=True)
            assert await told(anns) == ("@bob", "online")
        await show(bob, shows_presence=False)
        async with open_live_socket(ann) as anns, open_live_socket(bob):
            assert await watch(anns, bob) == {"@bob": "offline"}


async def test_a_blocked_user_does_not_see_who_blocked_them(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, **FAST) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        await ann.create_room(bob)
        async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
            assert await watch(bobs, ann) == {"@ann": "online"}
            await ann.answer("PUT", f"/v1/blocks/{bob.user}")
            assert await told(bobs) == ("@ann", "offline")
            assert await watch(anns, bob) == {"@bob": "online"}
            await ann.answer("DELETE", f"/v1/blocks/{bob.user}")
            assert await told(bobs) == ("@ann", "online")
            await ann.answer("PUT", f"/v1/blocks/{bob.user}")
            assert await told(bobs) == ("@ann", "offline")
        async with open_live_socket(ann), open_live_socket(bob) as bobs:
            assert await watch(bobs, ann) == {"@ann": "offline"}


async def test_watching_everybody_is_refused_and_costs_nobody_else(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    room = await ann.create_room()
    everybody = [UserId(f"@u{number}:{SERVER_NAME}") for number in range(limits.presence_users_max + 1)]
    async with open_live_socket(eve) as eves, open_live_socket(ann) as anns:
        with pytest.raises(Refused, match="quota_exceeded") as refused:
            await eves.ask(WatchPresence(id=eves.request_id(), users=everybody))
        assert refused.value.error.details == {
            "quota": "presence_users_max",
            "count_max": limits.presence_users_max,
        }
        await anns.send(room.id, ciphertext(), epoch=room.epoch)
        await eves.ask(WatchPresence(id=eves.request_id(), users=everybody[1:]))
        assert len(await eves.events(Presence, limits.presence_users_max)) == limits.presence_users_max


async def test_a_flood_of_watching_is_refused_by_name(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, limit_presence_device="1 per hour, burst 2") as chat:
        ann = await chat.sign_up("ann")
        async with open_live_socket(ann) as anns:
            await watch(anns)
            await set_presence(anns, "idle")
            with pytest.raises(Refused, match="rate_limited") as refused:
                await watch(anns)
            assert refused.value.error.details == {"limiter": "presence_device"}
            await anns.ask(frames.Ping(id=anns.request_id()))


async def test_a_server_may_have_none(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, presence=False) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        await ann.create_room(bob)
        async with open_live_socket(ann) as anns, open_live_socket(bob):
            with pytest.raises(Refused, match="presence_off"):
                await watch(anns, bob)
            assert await nothing_told(anns)


async def test_who_does_nothing_becomes_idle(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, **FAST, presence_idle_after_s=0.6) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        room = await ann.create_room(bob)
        async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
            await watch(anns, bob)
            while (await told(anns)) != ("@bob", "idle"):
                pass
            await bobs.send(room.id, ciphertext(), epoch=room.epoch)
            assert await told(anns) == ("@bob", "online")
            assert await told(anns) == ("@bob", "idle")
