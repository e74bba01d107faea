"""Two who act on one room at once, through two server processes on one PostgreSQL with the bus off: one of both comes first.

Whatever the order is, the room's one history obeys the rule that every client runs, both nodes tell it alike, and each answer
fits it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import trio

from chatty.crypto.events import verify_event
from chatty.ids import DeviceId, UserId
from chatty.wire.authority import RoomState, Standing, created_room
from chatty.wire.events import Action, Kind, RoomRole, TimelineEvent
from tests.faults.chatty_process import open_nodes
from tests.faults.epochs import authority_faults
from tests.server.wire_people import ORIGIN, SERVER_NAME, HttpRefused, WireDevice, WireRoom, sign_up

NAMES = ("ann", "bob", "cid", "eve")
Act = Callable[[WireRoom], Awaitable[object]]


class Two:
    """The same people at both nodes."""

    def __init__(self, first: dict[str, WireDevice], second: httpx.AsyncClient) -> None:
        self.first = first
        self.second = {name: replace(device, http=second) for name, device in first.items()}

    def key(self, user: UserId, device: DeviceId) -> str | None:
        found = [one for one in self.first.values() if one.device == device]
        return found[0].olm.ed25519 if found else None

    def move(self, name: str, node: int) -> WireDevice:
        """Who goes on at this node, with the numbers that were used at the other."""
        here, there = (self.first, self.second) if node == 0 else (self.second, self.first)
        here[name].last_n, here[name].unsettled = max(here[name].last_n, there[name].last_n), set()
        return here[name]

    async def history(self, room: WireRoom) -> list[TimelineEvent]:
        """As Ann reads it at both."""
        told = [await self.move("ann", node).all_history(room.id) for node in (0, 1)]
        assert told[0] == told[1]
        events = [entry for entry in told[0] if isinstance(entry, TimelineEvent)]
        assert list(authority_faults(events, server=SERVER_NAME, device_key=self.key)) == []
        return events

    async def state(self, room: WireRoom) -> RoomState:
        first, *rest = await self.history(room)
        state = created_room(verify_event(first, server=SERVER_NAME, device_key=self.key))
        for event in rest:
            if event.kind is not Kind.MESSAGE:
                state.take(verify_event(event, server=SERVER_NAME, device_key=self.key))
        return state


@asynccontextmanager
async def open_two(database: str, directory: Path) -> AsyncIterator[Two]:
    async with (
        open_nodes(database, directory, count=2, public_origin=ORIGIN) as nodes,
        httpx.AsyncClient(base_url=nodes[0].origin, timeout=30, verify=False) as one,
        httpx.AsyncClient(base_url=nodes[1].origin, timeout=30, verify=False) as other,
    ):
        yield Two({name: await sign_up(one, name) for name in NAMES}, other)


async def at_once(room: WireRoom, *acts: Act) -> list[str]:
    """What each was answered: done, or the code."""
    found = [""] * len(acts)

    async def run(place: int, act: Act) -> None:
        try:
            await act(WireRoom(room.id, room.epoch))
            found[place] = "done"
        except HttpRefused as refused:
            found[place] = refused.code

    async with trio.open_nursery() as nursery:
        for place, act in enumerate(acts):
            nursery.start_soon(run, place, act)
    return found


@pytest.mark.long
async def test_two_acts_at_once_have_one_order_that_everybody_sees(
    database: str, open_directory: Path, counts: Callable[[int, int], int]
) -> None:
    seen: set[str] = set()
    async with open_two(database, open_directory) as two:
        for _ in range(counts(3, 25)):
            seen.add(await a_ban_and_a_join_by_link(two))
            await the_last_use_of_a_link(two)
            await a_revocation_and_a_join(two)
            await two_admins_who_ban_one(two)
            await a_demotion_and_a_kick(two)
            await two_who_are_handed_one_room(two)
    print(seen)
    assert seen <= {"banned", "joined, then banned"}


async def a_ban_and_a_join_by_link(two: Two) -> str:
    ann, eve = two.move("ann", 0), two.move("eve", 1)
    room = await ann.create_room()
    link = await room.make_link(ann)
    ban = ann.change(room.id, Action.BAN, eve, await ann.position(room.id))
    join = room.joining(eve, link)
    banned, joined = await at_once(room, lambda it: it.post_change(ann, ban), lambda it: it.post_change(eve, join))
    state = await two.state(room)
    assert (banned, state.memberships[eve.user].standing) == ("done", Standing.BANNED)
    assert joined in ("done", "banned")
    assert state.links[link.key].uses_count == (joined == "done")
    return "banned" if joined == "banned" else "joined, then banned"


async def the_last_use_of_a_link(two: Two) -> None:
    ann, bob, eve = two.move("ann", 0), two.move("bob", 0), two.move("eve", 1)
    room = await ann.create_room()
    link = await room.make_link(ann)
    found = await at_once(room, lambda it: it.join_by(bob, link), lambda it: it.join_by(eve, link))
    assert sorted(found) == ["done", "link_used_up"]
    assert len((await two.state(room)).joined()) == 2


async def a_revocation_and_a_join(two: Two) -> None:
    ann, eve = two.move("ann", 0), two.move("eve", 1)
    room = await ann.create_room()
    link = await room.make_link(ann, uses_max=2)
    revocation, join = await room.revocation(ann, link), room.joining(eve, link)
    revoked, joined = await at_once(
        room,
        lambda it: it.post_policy(ann, "links/revoke", revocation),
        lambda it: it.post_change(eve, join),
    )
    state = await two.state(room)
    assert revoked == "done"
    assert state.links[link.key].is_revoked
    assert (joined, eve.user in state.joined()) in (("done", True), ("link_revoked", False))


async def with_admins(two: Two) -> WireRoom:
    ann = two.move("ann", 0)
    room = await ann.create_room(two.move("bob", 0), two.move("cid", 0), two.move("eve", 0))
    for name in ("bob", "cid"):
        await room.change(ann, Action.ROLE, two.first[name], role=RoomRole.ADMIN)
    return room


async def two_admins_who_ban_one(two: Two) -> None:
    room = await with_admins(two)
    bob, cid = two.move("bob", 0), two.move("cid", 1)
    eve = two.first["eve"]
    found = await at_once(room, lambda it: it.change(bob, Action.BAN, eve), lambda it: it.change(cid, Action.BAN, eve))
    assert found == ["done", "done"]
    assert (await two.state(room)).memberships[eve.user].standing is Standing.BANNED


async def a_demotion_and_a_kick(two: Two) -> None:
    room = await with_admins(two)
    ann, bob = two.move("ann", 0), two.move("bob", 1)
    eve = two.first["eve"]
    demotion, kick = await at_once(
        room,
        lambda it: it.change(ann, Action.ROLE, two.first["bob"], role=RoomRole.MEMBER),
        lambda it: it.kick(bob, eve),
    )
    state = await two.state(room)
    assert (demotion, state.memberships[bob.user].role) == ("done", RoomRole.MEMBER)
    assert (kick, eve.user in state.joined()) in (("done", False), ("forbidden", True))


async def two_who_are_handed_one_room(two: Two) -> None:
    """By the owner at one node, while an admin who is to get it leaves at the other."""
    room = await with_admins(two)
    ann, bob = two.move("ann", 0), two.move("bob", 1)
    transfer, leave = await at_once(
        room, lambda it: it.change(ann, Action.TRANSFER, two.first["bob"]), lambda it: it.leave(bob)
    )
    state = await two.state(room)
    owners = [user for user, one in state.joined().items() if one.role is RoomRole.OWNER]
    assert (transfer, leave, owners) in (
        ("done", "last_owner", [bob.user]),
        ("not_a_member", "done", [ann.user]),
    )
