"""kill -9 of the process that erases an account, again and again: others go on where it was; nothing is done twice or missed."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from chatty.services import deletions
from chatty.store import deletions as store
from chatty.wire.events import Kind, TimelineEvent
from chatty.wire.frames import Erased
from tests.faults.erasure_program import erase
from tests.faults.standing_still import keep_away, kill_dead, standing_still
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.deleting import delete, receipt_of
from tests.server.wire_client import ciphertext, open_live_socket
from tests.server.wire_people import WireDevice, WireRoom, sign_in

messages_count = 5
# At which of its crash points each process in turn is killed: the first right before its first commit, the second right after it.
KILLS = (1, 2, 3, 4, 6, 9, 14, 20)


@pytest.fixture
async def chat(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunningApp]:
    """Whose own job never runs."""
    for module, name in ((deletions, "stretch_seqs_max"), (store, "rows_a_piece_max")):
        monkeypatch.setattr(module, name, getattr(module, name))  # erase() changes them
    await keep_away(database, "account_erasure")
    async with open_chat(database, tmp_path) as chat:
        yield chat


async def live(chat: RunningApp, name: str, friend: str) -> tuple[WireDevice, WireDevice, list[WireRoom]]:
    """Two people who do the same whatever they are called."""
    ann, bob = await chat.sign_up_all(name, friend)
    phone = await sign_in(ann, one_time_keys_count=2, with_fallback=True)
    rooms = [await ann.create_room(bob), await bob.create_room(ann)]
    own = await ann.create_room()
    await own.invite(ann, bob)
    for device in (ann, bob):
        async with open_live_socket(device) as socket:
            for room in rooms:
                epoch = (await device.get(f"/v1/rooms/{room.id}/members"))["epoch"]
                for _ in range(messages_count):
                    await socket.send(room.id, ciphertext(), epoch=epoch)
    await rooms[1].leave(ann)
    await ann.send_to_devices(bob)
    await bob.send_to_devices(ann, phone)
    await ann.answer("PUT", f"/v1/blocks/{bob.user}")
    return ann, bob, rooms


async def kill_at(database: str, count: int) -> bool:
    """A process that erases, killed at its count-th crash point. False: it was through before."""
    async with standing_still("erasure_program", database, str(count)) as (process, said):
        if not said:
            with trio.fail_after(30):
                assert await process.wait() == 0
            return False
        assert said.split() == [b"before_commit" if count % 2 else b"after_commit", b"account_erasure"]
        await kill_dead(process)
        return True


async def check_rooms(ann: WireDevice, bob: WireDevice, rooms: list[WireRoom]) -> None:
    for room in rooms:
        entries = await bob.all_history(room.id)
        await bob.position(room.id)
        assert sum(isinstance(entry, Erased) for entry in entries) == messages_count
        members = [entry for entry in entries if isinstance(entry, TimelineEvent) and entry.kind is Kind.MEMBER]
        assert [member.target for member in members if not member.sender] == [ann.user]


async def counts(chat: RunningApp) -> list[Any]:
    rows = await chat.rows("SELECT counts FROM deletions WHERE finished_at IS NOT NULL ORDER BY finished_at")
    return [row[0] for row in rows]


async def test_killed_at_any_point_it_ends_as_if_it_had_not_been(chat: RunningApp, database: str) -> None:
    ann, bob, rooms = await live(chat, "ann", "bob")
    token = await delete(ann)
    killed = [await kill_at(database, count) for count in KILLS]
    assert all(killed)
    assert (await receipt_of(chat.http, token)).finished is None
    assert await erase(database) > 0
    await check_rooms(ann, bob, rooms)
    assert (await receipt_of(chat.http, token)).finished is not None

    cid, dan, rooms = await live(chat, "cid", "dan")
    await delete(cid)
    assert await erase(database) > sum(KILLS) / 2
    await check_rooms(cid, dan, rooms)
    disturbed, undisturbed = await counts(chat)
    assert disturbed == undisturbed
    assert disturbed["timeline"]["kept"] > 2 * messages_count


async def test_two_that_erase_at_once_do_nothing_twice(chat: RunningApp, database: str) -> None:
    ann, bob, rooms = await live(chat, "ann", "bob")
    cid, dan, others = await live(chat, "cid", "dan")
    for one in (ann, cid):
        await delete(one)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(erase, database)
    await erase(database)  # each stops where nothing is free to take
    await check_rooms(ann, bob, rooms)
    await check_rooms(cid, dan, others)
    one, other = await counts(chat)
    assert one == other
