"""Pages of a timeline: for every reader, cursor and bound exactly what a plain reading of the rules says, in either store."""

import random
from dataclasses import dataclass, field

import pytest

from chatty.ids import Seq
from chatty.services.streams import RoomPage
from chatty.services.timeline import Appended
from chatty.wire.authority import Standing
from chatty.wire.events import Kind, TimelineEvent
from chatty.wire.frames import Stretch
from tests.store.either_store import Person, Room, Store, make_empty_room, make_room, membership, write

BODY_BYTES = 10


@dataclass
class Timeline:
    """A room's events by seq, and who may read which stretches: (from, to), to None: still inside."""

    room: Room
    kinds: list[Kind]
    is_shared: bool
    intervals: dict[Person, list[tuple[int, int | None]]] = field(default_factory=dict)
    events: list[Appended] = field(default_factory=list)

    @property
    def head_seq(self) -> int:
        return len(self.kinds)

    def end(self, reader: Person) -> int:
        """The last seq that the reader may ever see."""
        return self.intervals[reader][-1][1] or self.head_seq

    def visible(self, reader: Person) -> list[int]:
        """By the rules as the documents have them: state always, messages inside the own stretches, nothing after the end."""
        inside = {seq for first, last in self.intervals[reader] for seq in range(first, (last or self.head_seq) + 1)}
        return [
            seq
            for seq, kind in enumerate(self.kinds, start=1)
            if seq <= self.end(reader) and (kind is not Kind.MESSAGE or self.is_shared or seq in inside)
        ]


async def fill(store: Store, timeline: Timeline, sender: Person) -> None:
    timeline.events = await write(store, timeline.room, sender, *timeline.kinds, body=bytes(BODY_BYTES))
    async with store.units.begin() as unit:
        for reader, intervals in timeline.intervals.items():
            for first, last in intervals:
                for seq, standing in ((first, Standing.JOINED), (last, Standing.LEFT)):
                    if seq is not None:
                        there = membership(seq, standing=standing)
                        await unit.rooms.set_membership(timeline.room.number, reader.user, there, seq=Seq(seq))


async def page(
    store: Store, timeline: Timeline, reader: Person, *, after: int, count_max: int, bytes_max: int = 10_000
) -> RoomPage:
    async with store.units.snapshot() as unit:
        found: RoomPage | None = await unit.streams.page(
            timeline.room.number, reader.user, after=Seq(after), count_max=count_max, bytes_max=bytes_max
        )
    assert found is not None
    return found


def shown(timeline: Timeline, found: RoomPage, *, after: int) -> list[int]:
    """The events' seqs; checks that events and gaps join up, each gap's head, and that events are as they were written."""
    seqs, last = [], after
    for entry in found.entries:
        if isinstance(entry, Stretch):
            assert (entry.from_seq, entry.head) == (last + 1, timeline.events[entry.to_seq - 1].head)
            last = entry.to_seq
        else:
            assert isinstance(entry, TimelineEvent)
            assert (entry.seq, entry) == (last + 1, timeline.events[last].event)
            seqs.append(int(entry.seq))
            last = entry.seq
    return seqs


async def four_readers(store: Store) -> list[Person]:
    return [await store.sign_in(name, f"{name}sphone") for name in ("anna", "bert", "cleo", "dora")]


async def make_timeline(store: Store, readers: list[Person], *, is_shared: bool, seed: int) -> Timeline:
    dice = random.Random(seed)
    drawn = dice.choices([Kind.MESSAGE, Kind.MEMBER, Kind.DEVICES], [6, 1, 1], k=22)
    room = await make_empty_room(store, readers[0], "shared" if is_shared else "joined")
    timeline = Timeline(room, [Kind.CREATE, Kind.MEMBER, *drawn], is_shared)
    for reader, is_in in zip(readers, (True, True, False, False), strict=True):
        cuts = sorted(dice.sample(range(2, 25), k=3 if is_in else 4))
        stretches: list[tuple[int, int | None]] = [(cuts[0], cuts[1])]
        stretches.append((cuts[2], None if is_in else cuts[3]))
        timeline.intervals[reader] = stretches
    await fill(store, timeline, readers[0])
    return timeline


@pytest.mark.parametrize("is_shared", [False, True], ids=["joined", "shared"])
async def test_a_page_holds_what_the_rules_say_for_every_reader_cursor_and_count(store: Store, is_shared: bool) -> None:
    readers = await four_readers(store)
    for seed in range(3):
        timeline = await make_timeline(store, readers, is_shared=is_shared, seed=seed)
        for reader in readers:
            visible = timeline.visible(reader)
            for after in range(timeline.head_seq + 2):
                rest = [seq for seq in visible if seq > after]
                count_max = 1 + (after + seed) % 5
                found = await page(store, timeline, reader, after=after, count_max=count_max)
                assert shown(timeline, found, after=after) == rest[:count_max], f"seed {seed}, after {after}"
                assert found.head_seq == timeline.head_seq


async def test_following_the_pages_ends_at_the_readers_end(store: Store) -> None:
    readers = await four_readers(store)
    timeline = await make_timeline(store, readers, is_shared=False, seed=7)
    for reader in readers:
        found = await page(store, timeline, reader, after=0, count_max=3)
        while not found.is_end:
            shown(timeline, found, after=before(found))
            found = await page(store, timeline, reader, after=found.to_seq, count_max=3)
        assert found.has_left == (timeline.intervals[reader][-1][1] is not None)
        assert found.to_seq == timeline.end(reader)


def before(found: RoomPage) -> int:
    """The cursor that the page was asked for."""
    first = found.entries[0]
    return (first.from_seq if isinstance(first, Stretch) else first.seq) - 1


@pytest.mark.parametrize(("bytes_max", "count"), [(1, 1), (10, 1), (19, 1), (20, 2), (35, 3), (1_000, 24)])
async def test_a_page_is_bounded_in_bytes_and_holds_one_event_at_least(
    store: Store, bytes_max: int, count: int
) -> None:
    anna = await store.sign_in("anna", "annasphone")
    timeline = Timeline(
        await make_empty_room(store, anna), [Kind.MESSAGE] * 24, is_shared=False, intervals={anna: [(1, None)]}
    )
    await fill(store, timeline, anna)
    found = await page(store, timeline, anna, after=0, count_max=100, bytes_max=bytes_max)
    assert shown(timeline, found, after=0) == list(range(1, count + 1))
    assert found.is_end == (count == 24)


async def test_who_never_was_inside_has_no_page(store: Store) -> None:
    anna, eve = await store.sign_in("anna", "annasphone"), await store.sign_in("evee", "eveesphone")
    room = await make_room(store, anna)
    async with store.units.snapshot() as unit:
        assert await unit.streams.page(room.number, eve.user, after=Seq(0), count_max=9, bytes_max=99) is None
