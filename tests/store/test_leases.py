"""Leases against a real PostgreSQL: one holder, by the database's clock."""

from collections.abc import AsyncIterator

import pytest
import trio

from chatty.store.leases import PostgresLeases
from chatty.store.pool import Pool, open_pool

END = "UPDATE leases SET expires_at = clock_timestamp() - interval '1 ms' WHERE job = %s"
LEFT = "SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM leases WHERE job = %s"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with open_pool(database) as pool:
        yield pool


async def take(pool: Pool, holder: str, *, job: str = "sweep", lifetime_s: float = 60.0) -> bool:
    return await PostgresLeases(pool).take(job, holder=holder, lifetime_s=lifetime_s)


async def end_it(pool: Pool, job: str = "sweep") -> None:
    async with pool.connection() as connection:
        await connection.execute(END, (job,))


async def left_s(pool: Pool, job: str = "sweep") -> float:
    async with pool.connection() as connection:
        row = await (await connection.execute(LEFT, (job,))).fetchone()
    assert row is not None
    return float(row[0])


async def test_a_lease_has_one_holder(pool: Pool) -> None:
    assert await take(pool, "a")
    assert not await take(pool, "b")
    assert await take(pool, "b", job="another")


async def test_of_many_who_ask_at_once_one_gets_it(pool: Pool) -> None:
    got: list[str] = []

    async def ask(holder: str) -> None:
        if await take(pool, holder):
            got.append(holder)

    for _ in range(3):
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(ask, f"holder {number}")
        assert len(got) == 1
        got.clear()
        await end_it(pool)


async def test_its_holder_renews_it_from_now_on(pool: Pool) -> None:
    await take(pool, "a", lifetime_s=5.0)
    assert await take(pool, "a", lifetime_s=60.0)
    assert 50 < await left_s(pool) <= 60
    assert not await take(pool, "b")


async def test_what_has_ended_may_be_taken_by_another_and_is_lost_to_the_first(pool: Pool) -> None:
    await take(pool, "a")
    await end_it(pool)
    assert await take(pool, "b")
    assert not await take(pool, "a")


async def test_one_that_is_given_back_may_be_taken_at_once(pool: Pool) -> None:
    await take(pool, "a")
    await PostgresLeases(pool).release("sweep", holder="b")
    assert not await take(pool, "b")
    await PostgresLeases(pool).release("sweep", holder="a")
    assert await take(pool, "b")
