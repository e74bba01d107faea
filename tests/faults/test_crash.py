"""Kill everything, while people talk: what was acked is there once, in one order for every member, and nothing is doubled.

The server dies by SIGKILL at each named crash point and at any moment, PostgreSQL's postmaster, the journal's backend and all its
processes die under it, and the SDK's client dies between writing its store and sending. The seed chooses order, points and
moments; --seed plays the same ones again, as far as two processors do.
"""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import pytest
import trio

from chatty.services.crash_points import Point
from tests.faults.chatty_process import open_installation
from tests.faults.correspondents import Correspondent, Death, correspondence_faults, introduce
from tests.faults.postgres_processes import Victim
from tests.faults.storm import Kill, all_faults, open_storm, settle_timeout_s
from tests.server.app_fixtures import over_both_paths

pytestmark = over_both_paths

POINTS: tuple[Point, ...] = ("before_commit", "after_commit", "before_ack", "before_delivery")
TALKERS = ("ann", "bob", "cid", "eve")
WRITERS = ("una", "ivo")  # with the SDK


def draw_kills(rng: random.Random, *, server_count: int, postgres_count: int) -> list[Kill]:
    """Each crash point at least once, if so many are asked for; each part of PostgreSQL; in any order."""
    kills = [Kill(victim=None, point=point, passed_count=rng.randrange(30)) for point in draw_points(rng, server_count)]
    victims: list[Victim] = rng.sample(get_args(Victim), 3) * postgres_count
    for victim, point in zip(victims, draw_points(rng, postgres_count), strict=False):
        at = point if victim != "journal's backend" else None  # of its end there is no sign to wait for
        kills.append(Kill(victim=victim, point=at, passed_count=rng.randrange(30)))
    rng.shuffle(kills)
    return kills


def draw_points(rng: random.Random, count: int) -> list[Point | None]:
    """All of them, in any order, then any of them or none."""
    further = [rng.choice([None, None, *POINTS]) for _ in range(count - len(POINTS))]
    return [*rng.sample(POINTS, len(POINTS)), *further][:count]


def draw_deaths(rng: random.Random, *, count: int, number: int) -> list[Death]:
    """Between store and frame, and at any moment, in turn; the second person the other way round."""
    turns = [turn % 2 for turn in range(number, number + count)]
    return [Death(after_lines=rng.randint(1, 30)) if turn else Death(at_send=rng.randint(2, 20)) for turn in turns]


@asynccontextmanager
async def keep_writing(
    people: Sequence[Correspondent], rng: random.Random, *, deaths_count: int
) -> AsyncIterator[None]:
    """They write to each other until the block ends and all have died so often."""
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        for number, person in enumerate(people):
            nursery.start_soon(person.run, draw_deaths(rng, count=deaths_count, number=number), stopping)
        yield
        with trio.fail_after(settle_timeout_s):
            for person in people:
                await person.has_died_enough.wait()
        stopping.set()


@pytest.mark.long
async def test_what_was_acked_survives_every_kill(
    open_directory: Path, seed: int, counts: Callable[[int, int], int]
) -> None:
    rng = random.Random(seed)
    kills = draw_kills(rng, server_count=counts(4, 20), postgres_count=counts(1, 5))
    async with open_installation(open_directory) as server:
        people = [Correspondent(name=name, origin=server.origin, store=open_directory / name) for name in WRITERS]
        await introduce(*people, rooms_count=2)
        async with open_storm(server, rng, names=TALKERS) as storm:
            async with keep_writing(people, rng, deaths_count=counts(1, 8)):
                for kill in kills:
                    mended_s = await storm.strike(kill)
                    print(f"{kill}: mended after {mended_s:.2f} s, {storm.acked_count} acks")
            await storm.settle()
            assert await all_faults(storm) == []
        assert await correspondence_faults(*people) == []
    print(f"{[len(one.read) for one in people]} messages read, {[len(one.unsent) for one in people]} found unsent")
