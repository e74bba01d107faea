"""Invitation links over HTTP: who makes them, what the server learns of them, whom they let in, and what ends them."""

from pathlib import Path

import msgspec
import pytest
import trio

from chatty.errors import LinkExpired
from chatty.wire import limits
from chatty.wire.canonical import encode_base64, encode_base64url
from chatty.wire.events import Action, Policy, RoomRole
from chatty.wire.rooms import SignedMemberChange
from tests.server.app_fixtures import RunningApp, open_chat, without_limits
from tests.server.conftest import open_server
from tests.server.deleting import delete, until_erased
from tests.server.test_rooms import names, stream_kinds
from tests.server.wire_people import SERVER_NAME, HttpRefused, WireDevice, WireLink, WireRoom, sign_up

_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
_AUDIT = "SELECT action, detail::text, after::text FROM audit WHERE action LIKE 'room.%%' ORDER BY audit_id"


async def outcome(room: WireRoom, joiner: WireDevice, link: WireLink | None) -> str:
    try:
        await room.join_by(joiner, link)
    except HttpRefused as refused:
        return refused.code
    return "joined"


async def test_a_link_lets_in_as_many_as_it_is_good_for(chat: RunningApp) -> None:
    ann, bob, cid, dan = await chat.sign_up_all("ann", "bob", "cid", "dan")
    room = await ann.create_room()
    link = await room.make_link(ann, uses_max=2)
    assert [await outcome(room, one, link) for one in (bob, cid, dan)] == ["joined", "joined", "link_used_up"]
    assert await names(ann, room) == ["ann", "bob", "cid"]
    assert (await stream_kinds(bob))[-1] == "room_joined"
    await room.join(dan, invited_by=ann)


async def test_the_last_use_is_given_once_however_many_ask_at_once(chat: RunningApp) -> None:
    ann, *others = await chat.sign_up_all("ann", "bob", "cid", "dan", "eve")
    room = await ann.create_room()
    link = await room.make_link(ann, uses_max=2)
    found: list[str] = []

    async def join(one: WireDevice) -> None:
        found.append(await outcome(WireRoom(room.id, room.epoch), one, link))

    async with trio.open_nursery() as nursery:
        for one in others:
            nursery.start_soon(join, one)
    assert sorted(found) == ["joined", "joined", "link_used_up", "link_used_up"]
    assert len(await names(ann, room)) == 3


async def test_the_server_never_has_what_opens_a_link(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room()
    link = await room.make_link(ann)
    await room.join_by(bob, link)
    texts = {encode_base64(link.seed), encode_base64url(link.seed), link.seed.hex(), link.seed.hex()[:32]}
    for (table,) in await chat.rows(_TABLES):
        for text in texts:
            assert await chat.rows(f"SELECT 1 FROM {table} t WHERE strpos(t::text, %s) > 0 LIMIT 1", text) == []
    [(known,)] = await chat.rows("SELECT count(*) FROM room_links WHERE link = %s", link.key)
    assert known == 1


async def test_a_revoked_link_lets_nobody_in(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, policy=Policy(invite=RoomRole.MEMBER))
    link, bobs = await room.make_link(ann), await room.make_link(bob)
    with pytest.raises(HttpRefused, match="forbidden"):
        await room.revoke_link(bob, link)
    await room.revoke_link(bob, bobs)
    await room.revoke_link(ann, link)
    for one in (link, bobs):
        assert await outcome(room, cid, one) == "link_revoked"
    with pytest.raises(HttpRefused, match="link_revoked"):
        await room.revoke_link(ann, bobs)
    with pytest.raises(HttpRefused, match="link_unknown"):
        await room.revoke_link(ann, WireLink())
    with pytest.raises(HttpRefused, match="forbidden"):
        await room.make_link(ann, link=link)


async def test_an_expired_link_lets_nobody_in(database: str, tmp_path: Path) -> None:
    async with open_server(database, tmp_path, server_name=SERVER_NAME) as server:
        ann, bob = await sign_up(server.http, "ann"), await sign_up(server.http, "bob")
        room = await ann.create_room()
        link = await room.make_link(ann, lifetime_s=600)
        caller, join = await server.caller(bob.person), room.joining(bob, link)
        server.clock.offset_s = 601
        signed = SignedMemberChange(signed=join, signature=bob.sign(join))
        with pytest.raises(LinkExpired):
            await server.steps.rooms.change_member(caller, room.id, signed, low=join.n)
        server.clock.offset_s = 0  # and refused it stays, as every final refusal
        with pytest.raises(HttpRefused, match="link_expired"):
            await room.post_change(bob, join)
        assert await outcome(room, bob, link) == "joined"  # nothing else was wrong with it


async def test_a_link_that_is_over_already_is_not_made(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    with pytest.raises(HttpRefused, match="link_expired"):
        await room.make_link(ann, lifetime_s=-1)


async def test_a_link_of_another_room_or_of_nobody_tells_nothing(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room, other = await ann.create_room(), await ann.create_room()
    link = await other.make_link(ann)
    for one in (link, WireLink()):
        assert await outcome(room, bob, one) == "not_found"
    await room.list_publicly(ann, "Open")
    assert await outcome(room, bob, link) == "link_unknown"
    assert await names(ann, room) == ["ann"]


async def test_the_public_key_of_a_link_opens_nothing(chat: RunningApp) -> None:
    ann, bob, eve = await chat.sign_up_all("ann", "bob", "eve")
    room = await ann.create_room()
    link, forged = await room.make_link(ann, uses_max=5), WireLink()
    join = room.joining(eve, forged)
    assert join.link is not None
    named = msgspec.structs.replace(join, link=msgspec.structs.replace(join.link, link=link.key))
    with pytest.raises(HttpRefused, match="not_found"):
        await room.post_change(eve, named)
    bobs = room.joining(bob, link)
    await room.post_change(bob, bobs)
    again = msgspec.structs.replace(room.joining(eve), link=bobs.link)
    with pytest.raises(HttpRefused, match="not_found"):
        await room.post_change(eve, again)
    await room.list_publicly(ann, "Open")  # so that she is told of the room, and may join without
    with pytest.raises(HttpRefused, match="bad_signature"):
        await room.post_change(eve, msgspec.structs.replace(room.joining(eve), link=bobs.link))
    assert await names(ann, room) == ["ann", "bob"]


async def test_a_link_is_made_by_who_may_invite_and_ends_with_the_right(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob)
    with pytest.raises(HttpRefused, match="invitation_void"):
        await room.make_link(bob)
    await room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
    link = await room.make_link(bob)
    await room.change(ann, Action.ROLE, bob, role=RoomRole.MEMBER)
    assert await outcome(room, cid, link) == "invitation_void"
    await room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
    await room.kick(ann, bob)
    await room.join(bob, invited_by=ann)
    await room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
    assert await outcome(room, cid, link) == "invitation_void"


async def test_a_direct_room_has_no_links(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_direct(bob)
    with pytest.raises(HttpRefused, match="invitation_void"):
        await room.make_link(ann)


async def test_a_banned_user_comes_in_by_nothing_until_the_ban_is_lifted(chat: RunningApp) -> None:
    ann, bob, eve = await chat.sign_up_all("ann", "bob", "eve")
    room = await ann.create_room(bob)
    invitation = await room.invitation(ann, eve)
    await room.change(ann, Action.BAN, bob)
    await room.change(ann, Action.BAN, eve)
    link = await room.make_link(ann, uses_max=5)
    await room.list_publicly(ann, "Open")
    for one in (bob, eve):
        assert [await outcome(room, one, way) for way in (link, None)] == ["banned", "banned"]
        with pytest.raises(HttpRefused, match="banned"):
            await room.invite(ann, one)
    with pytest.raises(HttpRefused, match="banned"):
        await room.change(eve, Action.JOIN, eve, invitation=invitation)
    await room.change(ann, Action.UNBAN, bob)
    assert await outcome(room, bob, link) == "joined"
    assert await names(ann, room) == ["ann", "bob"]


async def test_who_was_kicked_needs_a_newer_link(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    link = await room.make_link(ann)
    await room.kick(ann, bob)
    assert await outcome(room, bob, link) == "invitation_void"
    assert await outcome(room, bob, await room.make_link(ann)) == "joined"


async def test_so_many_links_of_a_room_are_open_at_once(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, **without_limits()) as chat:
        ann = await chat.sign_up("ann")
        room = await ann.create_room()
        links = [WireLink() for _ in range(limits.room_links_max)]
        for link in links:
            await room.make_link(ann, link=link)
        with pytest.raises(HttpRefused, match="quota_exceeded") as refused:
            await room.make_link(ann)
        assert refused.value.problem["quota"] == "room_links_max"
        await room.revoke_link(ann, links[0])
        await room.make_link(ann)


async def test_who_lets_in_is_noted_without_what_opens_the_link(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room()
    link = await room.make_link(ann, uses_max=3)
    await room.revoke_link(ann, link)
    await room.list_publicly(ann, "A title that people chose")
    await room.join_by(bob, None)
    await room.change(ann, Action.TRANSFER, bob)
    rows = await chat.rows(_AUDIT)
    assert [action for action, _, _ in rows] == [
        "room.link_made",
        "room.link_revoked",
        "room.listing_changed",
        "room.transfer",
    ]
    assert link.key in rows[0][1]
    assert "title that people" not in str(rows)


async def test_the_room_goes_on_after_its_links_maker_deleted_the_account(chat: RunningApp) -> None:
    """The link stays known, so that server and clients say the same of it."""
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, policy=Policy(invite=RoomRole.MEMBER))
    link = await room.make_link(bob, uses_max=5)
    await until_erased(chat.http, await delete(bob))
    assert await outcome(room, cid, link) == "invitation_void"
    with pytest.raises(HttpRefused, match="forbidden"):
        await room.make_link(ann, link=link)
