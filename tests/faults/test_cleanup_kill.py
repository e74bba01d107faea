"""kill -9 of the process that drops messages, before and after each of its commits: another one goes on and ends alike."""

from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest
import trio

from chatty.errors import Overloaded
from chatty.services.timeline import day_ms
from chatty.wire.events import TimelineEvent
from chatty.wire.frames import Horizon
from tests.faults.cleanup_program import retention_days
from tests.faults.standing_still import kill_dead, standing_still
from tests.store.expiry_scene import Scene, open_scene

_LEFT = """SELECT (SELECT count(*) FROM bodies), (SELECT count(*) FROM passing_bodies), (SELECT count(*) FROM timeline),
 r.horizon_seq, r.horizon_before, r.swept_seq FROM rooms r"""


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    """Messages that were kept without an end, some that expire, some of a day that is over; then one of today."""
    async with open_scene(database) as scene:
        await scene.send(b"kept", b"without", b"an end")
        scene.retention_days = retention_days
        await scene.clean()
        await scene.send(b"one", b"two", b"three")
        scene.now_ms += 3 * day_ms
        expiry = scene.now_ms + 60_000
        await scene.send(b"expires", b"with it", expiry=expiry)
        await scene.send(b"of today")
        scene.now_ms = expiry
        yield scene


async def kill_at(scene: Scene, point: str, work: str) -> None:
    program = standing_still("cleanup_program", scene.database, str(scene.now_ms), point, work, timeout_s=60)
    async with program as (process, said):
        assert said.split() == [point.encode(), work.encode()]
        await kill_dead(process)


async def until_clean(scene: Scene) -> None:
    """PostgreSQL may still hold for a moment what the killed one had locked."""
    with trio.fail_after(60):
        while (await left(scene))[:2] != (0, 1):
            try:
                await scene.clean()
            except Overloaded:
                continue


async def left(scene: Scene) -> tuple[Any, ...]:
    async with scene.world.pool.connection() as connection:
        [row] = await (await connection.execute(_LEFT)).fetchall()
    return row


async def check_shown(scene: Scene) -> None:
    """Whatever is not shown is explained, and the chain fits."""
    await scene.check_explained()
    await scene.check_chain()


@pytest.mark.parametrize(
    ("point", "work"),
    list(product(["before_commit", "after_commit"], ["make_day", "mark", "expire", "drop_day", "sweep"])),
)
async def test_killed_at_any_commit_it_ends_as_if_it_had_not_been(scene: Scene, point: str, work: str) -> None:
    before = await left(scene)
    await kill_at(scene, point, work)
    await check_shown(scene)
    if (point, work) == ("before_commit", "mark"):
        assert await left(scene) == before
    await until_clean(scene)
    await check_shown(scene)
    beyond, *expired, newest = (await scene.page()).entries
    assert isinstance(beyond, Horizon)
    assert (beyond.from_seq, beyond.to_seq, beyond.mark.seq) == (1, 6, 6)
    assert [entry.body for entry in expired if isinstance(entry, TimelineEvent)] == [None, None]
    assert isinstance(newest, TimelineEvent)
    assert newest.body == b"of today"
    horizon_before = (scene.now_ms // day_ms - retention_days) * day_ms
    assert (await left(scene))[2:] == (4, 6, horizon_before, 6)
