"""The pool against a real PostgreSQL: bounded, in order, never a dead or unclean connection, never a lost slot."""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
import trio
import trio.testing

from chatty.errors import Overloaded, StoreUnavailable
from chatty.store.connection import TrioConnection, open_connection
from chatty.store.embedded import EmbeddedServer, open_embedded
from chatty.store.pool import Pool, PoolLimits, open_pool


@pytest.fixture
def address(postgres: EmbeddedServer) -> str:
    """For the tests that leave no table behind."""
    return postgres.address


@asynccontextmanager
async def small_pool(address: str, **limits: float) -> AsyncIterator[Pool]:
    async with open_pool(address, limits=PoolLimits(**{"connections_max": 2, **limits})) as pool:  # type: ignore[arg-type]
        yield pool


async def backend(connection: TrioConnection) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    assert row is not None
    return int(row[0])


async def ask(pool: Pool) -> int:
    async with pool.connection() as connection:
        return await backend(connection)


async def test_connections_are_used_again(address: str) -> None:
    async with small_pool(address) as pool:
        assert await ask(pool) == await ask(pool)
        statistics = pool.statistics()
    assert (statistics.size, statistics.idle_count, statistics.borrows_total, statistics.connects_total) == (1, 1, 2, 1)


async def test_no_more_connections_than_the_bound(address: str) -> None:
    pids: set[int] = set()

    async def work(pool: Pool) -> None:
        async with pool.connection() as connection:
            pids.add(await backend(connection))
            await connection.execute("SELECT pg_sleep(0.002)")

    async with small_pool(address) as pool, trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(work, pool)
    assert len(pids) == 2
    assert pool.statistics().borrows_total == 30


async def test_waiters_are_served_in_order(address: str) -> None:
    served: list[int] = []

    async def wait_turn(pool: Pool, number: int) -> None:
        async with pool.connection():
            served.append(number)

    async with small_pool(address, connections_max=1) as pool, trio.open_nursery() as nursery, pool.connection():
        for number in range(10):
            nursery.start_soon(wait_turn, pool, number)
            await trio.testing.wait_all_tasks_blocked()
    assert served == list(range(10))


async def test_too_many_waiters_are_refused_at_once(address: str) -> None:
    async with (
        small_pool(address, connections_max=1, waiting_max=1) as pool,
        trio.open_nursery() as nursery,
        pool.connection(),
    ):
        nursery.start_soon(ask, pool)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Overloaded) as caught:
            await ask(pool)
        assert caught.value.limiter == "database_pool"
        assert pool.statistics().saturated_total == 1


async def test_a_waiter_gives_up_at_its_deadline(address: str) -> None:
    async with small_pool(address, connections_max=1, wait_timeout_s=0.05) as pool:
        async with pool.connection():
            with pytest.raises(Overloaded):
                await ask(pool)
        assert pool.statistics().waiting_count == 0
        assert await ask(pool)


async def test_cancelled_waiters_leak_no_slot(address: str) -> None:
    async with small_pool(address) as pool:
        async with pool.connection(), pool.connection(), trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(ask, pool)
            await trio.testing.wait_all_tasks_blocked()
            assert pool.statistics().waiting_count == 200
            nursery.cancel_scope.cancel()
        assert pool.statistics().borrowed_count == 0
        async with pool.connection(), pool.connection():
            assert pool.statistics().borrowed_count == 2


async def test_cancelled_anywhere_no_slot_and_no_connection_is_lost(address: str) -> None:
    async def borrow(pool: Pool, patience_s: float) -> None:
        with trio.move_on_after(patience_s):
            async with pool.transaction() as connection:
                await connection.execute("SELECT pg_sleep(0.003)")

    async with small_pool(address, connections_max=3) as pool:
        async with trio.open_nursery() as nursery:
            for number in range(150):
                nursery.start_soon(borrow, pool, number * 0.0005)
        statistics = pool.statistics()
        assert statistics.borrowed_count == 0
        assert statistics.waiting_count == 0
        assert statistics.size == statistics.idle_count <= 3
        async with pool.connection(), pool.connection(), pool.connection():
            assert pool.statistics().borrowed_count == 3


async def test_the_next_borrower_finds_no_transaction_of_the_last(empty_database: str) -> None:
    async with small_pool(empty_database) as pool:
        async with pool.connection() as connection:
            await connection.execute("BEGIN")
            await connection.execute("CREATE TABLE note (id int)")
        async with pool.connection() as connection:
            found = await (await connection.execute("SELECT to_regclass('note')")).fetchone()
            assert found == (None,)
        assert pool.statistics().connects_total == 1


async def test_a_transaction_is_committed_or_rolled_back_with_its_block(empty_database: str) -> None:
    async def fail(pool: Pool) -> None:
        async with pool.transaction() as connection:
            await connection.execute("INSERT INTO note VALUES (2)")
            await connection.execute("SELECT 1 / 0")

    async with small_pool(empty_database) as pool:
        async with pool.transaction(isolation="serializable") as connection:
            await connection.execute("CREATE TABLE note AS SELECT 1 AS id")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await fail(pool)
        async with pool.connection() as connection:
            assert await (await connection.execute("SELECT id FROM note")).fetchall() == [(1,)]


async def test_a_dead_idle_connection_is_never_lent(address: str) -> None:
    async with small_pool(address) as pool, open_connection(address) as other:
        first = await ask(pool)
        await other.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
        assert await ask(pool) != first
        assert pool.statistics().discards_total == 1


async def test_a_connection_that_died_in_use_is_not_taken_back(address: str) -> None:
    async def lose(pool: Pool) -> None:
        async with pool.connection() as connection:
            await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    async with small_pool(address) as pool:
        with pytest.raises(StoreUnavailable):
            await lose(pool)
        assert pool.statistics().size == 0
        assert await ask(pool)


async def test_one_that_hangs_is_found_out_by_the_health_check(address: str) -> None:
    async with small_pool(address, check_after_s=0.0, connect_timeout_s=0.3) as pool:
        first = await ask(pool)
        os.kill(first, signal.SIGSTOP)
        try:
            assert await ask(pool) != first
        finally:
            os.kill(first, signal.SIGCONT)


@pytest.mark.parametrize("limit", ["lifetime_max_s", "idle_max_s"])
async def test_old_and_surplus_connections_are_closed(address: str, limit: str) -> None:
    async with small_pool(address, **{limit: 0.0}) as pool:
        async with pool.connection(), pool.connection():
            pass
        await ask(pool)
        assert pool.statistics().size < 2


async def test_no_server_is_told_at_the_deadline_and_to_the_waiters_too(open_directory: Path) -> None:
    errors: list[str] = []

    async def try_it(pool: Pool) -> None:
        with pytest.raises(StoreUnavailable) as caught:
            await ask(pool)
        errors.append(str(caught.value))

    address = f"host={open_directory} user=nobody dbname=none"
    async with small_pool(address, connections_max=1, wait_timeout_s=0.2) as pool, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(try_it, pool)
    statistics = pool.statistics()
    assert len(errors) == 3
    assert statistics.is_down
    assert statistics.connect_failures_total >= 2
    assert statistics.borrowed_count == 0


async def test_a_server_that_comes_back_is_used_again_without_an_error(open_directory: Path) -> None:
    async with open_embedded(open_directory / "postgres") as server, small_pool(server.address) as pool:
        async with pool.connection() as connection:
            os.kill(server.pid, signal.SIGKILL)
            await trio.lowlevel.wait_readable(connection.pgconn.socket)  # the farewell of its backend
        assert await ask(pool)
        assert server.restart_count == 1


async def test_waits_are_observed(address: str) -> None:
    waits: list[float] = []
    async with open_pool(address, on_wait=waits.append) as pool:
        await ask(pool)
    assert len(waits) == 1
    assert pool.statistics().wait_s_total == sum(waits)


async def test_a_closed_pool_lends_nothing_and_keeps_nothing(address: str) -> None:
    async with small_pool(address) as pool:
        async with pool.connection():
            await ask(pool)
            await pool.close()
        assert pool.statistics().size == 0
        with pytest.raises(StoreUnavailable):
            await ask(pool)
