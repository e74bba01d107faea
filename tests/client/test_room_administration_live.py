"""Links, listed rooms, bans and the handing over of a room, with the SDK against the whole application."""

from pathlib import Path

import pytest
import trio

from chatty.client import Client, MembershipChanged, Room
from chatty.client.room_links import parse_link
from chatty.errors import BadRequest, Banned, Forbidden, LastOwner, LinkRevoked, LinkUsedUp, NotFound
from chatty.wire.events import Action, RoomRole
from tests.client.conftest import text, until
from tests.server.sdk_people import open_origin, opener


async def changed(client: Client, action: Action) -> MembershipChanged:
    while True:
        update = await until(client, MembershipChanged)
        assert isinstance(update, MembershipChanged)
        if update.action is action:
            return update


async def test_who_has_a_link_joins_reads_and_is_believed(database: str, tmp_path: Path) -> None:
    async with open_origin(database, tmp_path) as origin:
        open_one = opener(origin, tmp_path)
        async with open_one("ann") as ann, open_one("bob") as bob, open_one("cid") as cid:
            for one, name in ((ann, "ann"), (bob, "bob"), (cid, "cid")):
                await one.register(name, f"{name}'s long passphrase")
            room = await ann.create_room()
            link = await room.make_link(uses_max=1)
            assert "seed" not in repr(link)
            assert link.text.startswith(f"{origin}/join#{room.id}.")
            same = await bob.join_by_link(link.text)
            assert set(same.members) == {ann.user, bob.user}
            assert (await changed(ann, Action.JOIN)).target == ann.user
            assert (await changed(ann, Action.JOIN)).target == bob.user
            await room.send("for who had the link")
            assert await text(bob) == "for who had the link"
            with pytest.raises(LinkUsedUp):
                await cid.join_by_link(link)
            assert (room.links[link.key].uses_count, room.frozen, same.frozen) == (1, None, None)
            second = await room.make_link()
            await room.revoke_link(second.key)
            with pytest.raises(LinkRevoked):
                await cid.join_by_link(second)
            assert room.links[second.key].is_revoked


async def test_a_room_is_listed_found_joined_and_handed_over(database: str, tmp_path: Path) -> None:
    async with open_origin(database, tmp_path) as origin:
        open_one = opener(origin, tmp_path)
        async with open_one("ann") as ann, open_one("bob") as bob:
            for one, name in ((ann, "ann"), (bob, "bob")):
                await one.register(name, f"{name}'s long passphrase")
            room = await ann.create_room()
            with pytest.raises(NotFound):
                await bob.join_listed(room.id)
            await room.list_publicly("Lunch at noon")
            [found] = (await bob.directory(title="lunch")).rooms
            same = await bob.join_listed(found.room)
            assert (same.public_title, found.title, found.members_count) == ("Lunch at noon", "Lunch at noon", 1)
            with pytest.raises(Forbidden):
                await same.list_publicly("Bob's lunch")
            await until_inside(room, bob)
            with pytest.raises(LastOwner):
                await room.leave()
            await room.hand_over(bob.user)
            assert dict(room.members) == {ann.user: RoomRole.ADMIN, bob.user: RoomRole.OWNER}
            assert (await changed(bob, Action.TRANSFER)).target == bob.user
            await same.list_publicly("Bob's lunch")
            await room.leave()
            with trio.fail_after(10):
                await bob._engine.book.wait_until(lambda: ann.user not in same.members)
            assert dict(same.members) == {bob.user: RoomRole.OWNER}


async def test_a_banned_user_comes_in_by_nothing_and_comes_back_once_the_ban_is_lifted(
    database: str, tmp_path: Path
) -> None:
    async with open_origin(database, tmp_path) as origin:
        open_one = opener(origin, tmp_path)
        async with open_one("ann") as ann, open_one("bob") as bob:
            for one, name in ((ann, "ann"), (bob, "bob")):
                await one.register(name, f"{name}'s long passphrase")
            room = await ann.create_room()
            await room.list_publicly("Open")
            await bob.join_listed(room.id)
            await until_inside(room, bob)
            await room.ban(bob.user)
            assert set(room.members) == {ann.user}
            link = await room.make_link()
            with pytest.raises(Banned):
                await bob.join_listed(room.id)
            with pytest.raises(Banned):
                await bob.join_by_link(link)
            with pytest.raises(Banned):
                await room.invite(bob.user)
            await room.unban(bob.user)
            same = await bob.join_by_link(link)
            await until_inside(room, bob)
            await room.send("welcome back")
            assert await text(bob) == "welcome back"
            assert same.frozen is None


async def until_inside(room: Room, who: Client) -> None:
    """Until the room's reader has seen them join."""
    with trio.fail_after(10):
        await room._engine.book.wait_until(lambda: who.user in room.members)


@pytest.mark.parametrize(
    "text",
    ["", "https://a.example/join#", "https://a.example/join#!room.seed", f"x#!{'A' * 43}.{'A' * 43}", "nonsense"],
)
def test_what_is_no_link_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_link(text)
    assert str(refused.value) == "not an invitation link"


def test_a_link_is_read_as_it_was_written() -> None:
    whole = f"https://a.example/join#!{'A' * 43}.{'A' * 43}"
    link = parse_link(f"  {whole}\n")
    assert (link.text, link.seed, link.origin) == (whole, bytes(32), "https://a.example")
