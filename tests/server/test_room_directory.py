"""Listed rooms: the directory's pages, what it shows and what not, and who joins without an invitation."""

from urllib.parse import quote

import pytest

from chatty.wire.events import Action, RoomRole
from chatty.wire.limits import title_chars_max
from tests.server.app_fixtures import RunningApp
from tests.server.test_room_links import outcome
from tests.server.test_rooms import names
from tests.server.wire_people import HttpRefused, WireDevice


async def listed(reader: WireDevice, query: str = "") -> list[str]:
    return [one["title"] for one in (await reader.get(f"/v1/directory{query}"))["rooms"]]


async def test_a_listed_room_is_found_and_joined_by_everybody(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room, hidden = await ann.create_room(), await ann.create_room()
    await room.list_publicly(ann, "Lunch")
    [found] = (await bob.get("/v1/directory"))["rooms"]
    assert found == {"room": room.id, "title": "Lunch", "members_count": 1}
    assert await outcome(room, bob, None) == "joined"
    assert await outcome(hidden, bob, None) == "not_found"
    await room.list_publicly(ann, "Late lunch")
    assert await listed(cid) == ["Late lunch"]
    assert await names(ann, room) == ["ann", "bob"]


async def test_a_room_that_is_listed_no_more_takes_nobody_in(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob)
    await room.list_publicly(ann, "Lunch")
    await room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
    with pytest.raises(HttpRefused, match="forbidden"):
        await room.list_publicly(bob, "Bob's lunch")
    await room.list_publicly(bob, "")
    assert await listed(cid) == []
    assert await outcome(room, cid, None) == "not_found"


async def test_a_room_that_all_have_left_is_not_shown(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room()
    await room.list_publicly(ann, "Lunch")
    await room.leave(ann)
    assert await listed(bob) == []


async def test_the_directory_comes_in_pages_without_a_hole_or_a_repeat(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    rooms = [await ann.create_room() for _ in range(5)]
    for number, room in enumerate(rooms):
        await room.list_publicly(ann, f"Room {number}")
    found, after = [], ""
    while True:
        page = await bob.get(f"/v1/directory?limit=2&after={quote(after)}")
        found += [one["room"] for one in page["rooms"]]
        after = page.get("next_after", "")
        if not after:
            break
    assert found == sorted(room.id for room in rooms)


@pytest.mark.parametrize(
    ("title", "found"),
    [("lunch", ["LUNCH 100%"]), ("100%", ["LUNCH 100%"]), ("%", ["LUNCH 100%"]), ("_", []), ("", ["LUNCH 100%"])],
)
async def test_a_part_of_the_title_finds_a_room_as_it_stands(chat: RunningApp, title: str, found: list[str]) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    await room.list_publicly(ann, "LUNCH 100%")
    assert await listed(ann, f"?title={quote(title)}") == found


async def test_a_title_is_one_line_of_some_length(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    for wrong in ("x" * (title_chars_max + 1), "two\nlines", "a\x00b"):
        with pytest.raises(HttpRefused, match="bad_request"):
            await room.list_publicly(ann, wrong)
    await room.list_publicly(ann, "x" * title_chars_max)


async def test_a_stranger_sees_no_more_of_a_listed_room_than_its_title(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room()
    await room.list_publicly(ann, "Lunch")
    for path in ("members", "events", "checkpoint"):
        with pytest.raises(HttpRefused, match="not_found"):
            await bob.get(f"/v1/rooms/{room.id}/{path}")


async def test_a_direct_room_is_never_listed(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_direct(bob)
    with pytest.raises(HttpRefused, match="forbidden"):
        await room.list_publicly(ann, "The two of us")
