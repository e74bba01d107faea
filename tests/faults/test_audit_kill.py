"""kill -9 of the process that seals the audit log, before its commit and after: another one goes on where the chain ends."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from chatty.actors.janitor import JanitorTimes, start_janitor
from chatty.actors.job_board import Job
from chatty.actors.runtime import open_supervisor
from chatty.services.jobs import JobBooks
from chatty.store.leases import PostgresLeases
from chatty.store.pool import Pool, open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.telemetry import Metrics
from tests.audit_log import KeptHeads, make_sealer, open_log, record_many, verify
from tests.faults.standing_still import kill_dead, standing_still


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with open_pool(database) as pool:
        await open_log(pool)
        yield pool


@asynccontextmanager
async def sealer_standing_still(database: str, point: str) -> AsyncIterator[trio.Process]:
    """Another process that has the lease and stands at the point, a batch in hand."""
    async with standing_still("audit_program", database, point) as (process, said):
        assert said == point.encode() + b"\n"
        yield process


@asynccontextmanager
async def sealing_here(pool: Pool, heads: KeptHeads) -> AsyncIterator[None]:
    async with open_supervisor("root") as root:
        sealer = make_sealer(pool, heads=heads)
        job = Job(name=sealer.name, step=sealer.step, interval_s=0.05)
        times = JanitorTimes(lease_lifetime_s=2.0)
        await start_janitor(
            root,
            jobs=[job],
            leases=PostgresLeases(pool),
            book=JobBooks(units=PostgresUnitOfWork(pool), failures_max=8),
            holder="this process",
            metrics=Metrics(),
            times=times,
        )
        yield


async def until_sealed(pool: Pool, count: int) -> None:
    with trio.fail_after(30):
        while (await verify(pool)).sealed_count < count:  # noqa: ASYNC110  # the database has nothing to wait on
            await trio.sleep(0.05)


@pytest.mark.parametrize(("point", "sealed_before"), [("before_seal_commit", 0), ("after_seal_commit", 30)])
async def test_a_killed_sealers_batch_is_sealed_once(pool: Pool, database: str, point: str, sealed_before: int) -> None:
    await record_many(pool, *(f"@u{n}" for n in range(30)))
    async with sealer_standing_still(database, point) as process:
        await kill_dead(process)
    verdict = await verify(pool)
    assert (verdict.findings, verdict.sealed_count, verdict.unsealed_count) == ([], sealed_before, 30 - sealed_before)
    await record_many(pool, "@later")
    heads = KeptHeads()
    async with sealing_here(pool, heads):
        await until_sealed(pool, 31)
    verdict = await verify(pool, carried=heads.heads)
    assert (verdict.findings, verdict.sealed_count, verdict.unsealed_count) == ([], 31, 0)
    assert heads.heads[-1].position == 31  # covers the head that was never exported


async def test_a_sealer_that_was_paused_beyond_its_lease_neither_forks_nor_blocks_for_ever(
    pool: Pool, database: str
) -> None:
    """It holds the lock inside its transaction: nobody seals meanwhile, acts go on, and all is sealed when it ends."""
    await record_many(pool, *(f"@u{n}" for n in range(30)))
    async with sealer_standing_still(database, "before_seal_commit") as process:
        process.send_signal(signal.SIGSTOP)
        heads = KeptHeads()
        async with sealing_here(pool, heads):
            await record_many(pool, *(f"@v{n}" for n in range(30)))
            assert (await verify(pool)).sealed_count == 0
            process.kill()
            await until_sealed(pool, 60)
    verdict = await verify(pool, carried=heads.heads)
    assert (verdict.findings, verdict.sealed_count) == ([], 60)
