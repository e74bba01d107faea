"""Pages of a timeline: for every reader, cursor and bound exactly what a plain reading of the rules says."""

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from chatty.ids import RoomNumber, Seq
from chatty.services.streams import RoomPage
from chatty.wire.events import TimelineEvent
from chatty.wire.frames import Stretch
from tests.quiet_rooms import make_room
from tests.signed_in import SignedIn, World, open_world

_EVENT = """INSERT INTO timeline (room_number, seq, time, kind, sender_number, device_number, n, algorithm, session_id, epoch,
silent, expiry, target, signature, body_hash, head) VALUES (%s, %s, 0, %s, %s, %s, 0, '', '', 0, false, 0, '', '', '', %s)"""
_BODY = "INSERT INTO bodies (room_number, seq, body) VALUES (%s, %s, %s)"
_ROOM = "UPDATE rooms SET seq = %s, policy = jsonb_build_object('history', %s::text, 'invite', 'admin') WHERE room_number = %s"
_MEMBER = "UPDATE members SET standing = %s, removed_seq = %s WHERE room_number = %s AND user_number = %s"
_INTERVAL = "INSERT INTO member_intervals (room_number, user_number, from_seq, to_seq) VALUES (%s, %s, %s, %s)"
BODY_BYTES = 10


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with open_world(database) as world:
        yield world


@dataclass
class Timeline:
    """A room's events by seq, and who may read which stretches: (from, to), to None: still inside."""

    room: RoomNumber
    kinds: list[str]
    is_shared: bool
    intervals: dict[SignedIn, list[tuple[int, int | None]]] = field(default_factory=dict)

    @property
    def head_seq(self) -> int:
        return len(self.kinds)

    def end(self, reader: SignedIn) -> int:
        """The last seq that the reader may ever see."""
        return self.intervals[reader][-1][1] or self.head_seq

    def visible(self, reader: SignedIn) -> list[int]:
        """By the rules as the documents have them: state always, messages inside the own stretches, nothing after the end."""
        inside = {seq for first, last in self.intervals[reader] for seq in range(first, (last or self.head_seq) + 1)}
        return [
            seq
            for seq, kind in enumerate(self.kinds, start=1)
            if seq <= self.end(reader) and (kind != "message" or self.is_shared or seq in inside)
        ]


def head_at(seq: int) -> bytes:
    return seq.to_bytes(32, "big")


async def store(world: World, timeline: Timeline, sender: SignedIn) -> None:
    async with world.pool.transaction() as connection:
        await connection.execute(
            _ROOM, (timeline.head_seq, "shared" if timeline.is_shared else "joined", timeline.room)
        )
        for seq, kind in enumerate(timeline.kinds, start=1):
            numbers = (sender.caller.user_number, sender.number)
            await connection.execute(_EVENT, (timeline.room, seq, kind, *numbers, head_at(seq)))
            await connection.execute(_BODY, (timeline.room, seq, bytes(BODY_BYTES)))
        for reader, intervals in timeline.intervals.items():
            last = intervals[-1][1]
            standing = ("joined", 0) if last is None else ("left", last)
            await connection.execute(_MEMBER, (*standing, timeline.room, reader.caller.user_number))
            for first, to in intervals:
                await connection.execute(_INTERVAL, (timeline.room, reader.caller.user_number, first, to))


async def page(
    world: World, timeline: Timeline, reader: SignedIn, *, after: int, count_max: int, bytes_max: int = 10_000
) -> RoomPage:
    async with world.units.snapshot() as unit:
        found = await unit.streams.page(
            timeline.room, reader.caller.user_number, after=Seq(after), count_max=count_max, bytes_max=bytes_max
        )
    assert found is not None
    return found


def shown(found: RoomPage, *, after: int) -> list[int]:
    """The events' seqs; checks that events and gaps join up, and each gap's head."""
    seqs, last = [], after
    for entry in found.entries:
        if isinstance(entry, Stretch):
            assert (entry.from_seq, entry.head) == (last + 1, head_at(entry.to_seq))
            last = entry.to_seq
        else:
            assert isinstance(entry, TimelineEvent)
            assert entry.seq == last + 1
            seqs.append(int(entry.seq))
            last = entry.seq
    return seqs


async def make_timeline(world: World, readers: list[SignedIn], *, is_shared: bool, seed: int) -> Timeline:
    dice = random.Random(seed)
    kinds = ["create", "member", *dice.choices(["message", "member", "devices"], [6, 1, 1], k=22)]
    timeline = Timeline(await make_room(world, *readers), kinds, is_shared)
    for reader, is_in in zip(readers, (True, True, False, False), strict=True):
        cuts = sorted(dice.sample(range(2, 25), k=3 if is_in else 4))
        stretches: list[tuple[int, int | None]] = [(cuts[0], cuts[1])]
        stretches.append((cuts[2], None if is_in else cuts[3]))
        timeline.intervals[reader] = stretches
    await store(world, timeline, readers[0])
    return timeline


@pytest.mark.parametrize("is_shared", [False, True], ids=["joined", "shared"])
async def test_a_page_holds_what_the_rules_say_for_every_reader_cursor_and_count(world: World, is_shared: bool) -> None:
    readers = [await world.sign_in(name, f"{name}sphone") for name in ("anna", "bert", "cleo", "dora")]
    for seed in range(3):
        timeline = await make_timeline(world, readers, is_shared=is_shared, seed=seed)
        for reader in readers:
            visible = timeline.visible(reader)
            for after in range(timeline.head_seq + 2):
                rest = [seq for seq in visible if seq > after]
                count_max = 1 + (after + seed) % 5
                found = await page(world, timeline, reader, after=after, count_max=count_max)
                assert shown(found, after=after) == rest[:count_max], f"seed {seed}, after {after}"
                assert found.head_seq == timeline.head_seq


async def test_following_the_pages_ends_at_the_readers_end(world: World) -> None:
    readers = [await world.sign_in(name, f"{name}sphone") for name in ("anna", "bert", "cleo", "dora")]
    timeline = await make_timeline(world, readers, is_shared=False, seed=7)
    for reader in readers:
        found = await page(world, timeline, reader, after=0, count_max=3)
        while not found.is_end:
            shown(found, after=before(found))
            found = await page(world, timeline, reader, after=found.to_seq, count_max=3)
        assert found.has_left == (timeline.intervals[reader][-1][1] is not None)
        assert found.to_seq == timeline.end(reader)


def before(found: RoomPage) -> int:
    """The cursor that the page was asked for."""
    first = found.entries[0]
    return (first.from_seq if isinstance(first, Stretch) else first.seq) - 1


@pytest.mark.parametrize(("bytes_max", "count"), [(1, 1), (10, 1), (19, 1), (20, 2), (35, 3), (1_000, 24)])
async def test_a_page_is_bounded_in_bytes_and_holds_one_event_at_least(
    world: World, bytes_max: int, count: int
) -> None:
    anna = await world.sign_in("anna", "annasphone")
    timeline = Timeline(await make_room(world, anna), ["message"] * 24, is_shared=False, intervals={anna: [(1, None)]})
    await store(world, timeline, anna)
    found = await page(world, timeline, anna, after=0, count_max=100, bytes_max=bytes_max)
    assert shown(found, after=0) == list(range(1, count + 1))
    assert found.is_end == (count == 24)


async def test_who_never_was_inside_has_no_page(world: World) -> None:
    anna, eve = await world.sign_in("anna", "annasphone"), await world.sign_in("evee", "eveesphone")
    room = await make_room(world, anna)
    async with world.units.snapshot() as unit:
        assert await unit.streams.page(room, eve.caller.user_number, after=Seq(0), count_max=9, bytes_max=99) is None
