"""kill -9 of the process that does a background job: another one takes over, and nothing is done twice or left out."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from chatty.actors.janitor import JanitorTimes, start_janitor
from chatty.actors.job_board import Job
from chatty.actors.runtime import open_supervisor
from chatty.services.jobs import JobBooks
from chatty.services.owed_devices import AppendOwedDevices
from chatty.store.leases import PostgresLeases
from chatty.store.units import PostgresUnitOfWork
from chatty.telemetry import Metrics
from tests.faults.standing_still import kill_dead, standing_still
from tests.quiet_rooms import events, make_room, owed_count
from tests.signed_in import World, open_world

LIFETIME_S = 3.0
HOLDER = "SELECT holder FROM leases WHERE job = 'owed_devices'"


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with open_world(database) as world:
        yield world


@asynccontextmanager
async def process_in_its_transaction(database: str) -> AsyncIterator[trio.Process]:
    """Another process that holds the lease, has done its writes and stands right before its commit."""
    async with standing_still("janitor_program", database, "the other process", str(LIFETIME_S)) as (process, said):
        assert said == b"before_commit owed_devices\n"
        yield process


@asynccontextmanager
async def janitor_here(world: World) -> AsyncIterator[None]:
    async with open_supervisor("root") as root:
        owed = AppendOwedDevices(units=world.units, doorbells=world.doorbells, clock=lambda: 1)
        job = Job(name=owed.name, step=owed.step, interval_s=0.05)
        times = JanitorTimes(lease_lifetime_s=LIFETIME_S)
        await start_janitor(
            root,
            jobs=[job],
            leases=PostgresLeases(world.pool),
            book=JobBooks(units=PostgresUnitOfWork(world.pool), failures_max=8),
            holder="this process",
            metrics=Metrics(),
            times=times,
        )
        yield


async def until_nothing_is_owed(world: World) -> None:
    with trio.fail_after(30):
        while await owed_count(world):  # noqa: ASYNC110  # the database has nothing to wait on
            await trio.sleep(0.02)


async def test_a_killed_holders_job_is_taken_over_and_no_room_is_told_twice(world: World, database: str) -> None:
    ann = await world.device("ann", "annsphone")
    rooms = [await make_room(world, ann) for _ in range(5)]
    await world.device("ann", "annslaptop")
    async with process_in_its_transaction(database) as process:
        assert await world.value(HOLDER) == "the other process"
        await kill_dead(process)
        async with janitor_here(world):
            await until_nothing_is_owed(world)
            assert await world.value(HOLDER) == "this process"
    for room in rooms:
        assert await events(world, room) == [(1, "devices", "@ann:example.org", 2)]
    assert await world.value(HOLDER) is None  # given back at the drain


async def test_a_paused_holder_keeps_its_rooms_and_no_others(world: World, database: str) -> None:
    """Its lease ends while its transaction is open: two work at once for a moment, and neither waits for the other."""
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    stuck = await make_room(world, ann)
    await world.device("ann", "annslaptop")
    async with process_in_its_transaction(database) as process:
        process.send_signal(signal.SIGSTOP)
        free = await make_room(world, bob)
        await world.device("bob", "bobslaptop")
        async with janitor_here(world):
            with trio.fail_after(30):
                while not await events(world, free):  # noqa: ASYNC110  # as above
                    await trio.sleep(0.02)
            assert await events(world, stuck) == []
            process.kill()
            await until_nothing_is_owed(world)
    assert await events(world, stuck) == [(1, "devices", "@ann:example.org", 2)]
    assert await events(world, free) == [(1, "devices", "@bob:example.org", 2)]
