"""The jobs' steps against a real PostgreSQL: quiet rooms are told of device changes, once, and only what is true now."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from chatty.ids import RoomNumber
from chatty.services.owed_devices import (
    AppendOwedDevices,
    CleanUpRevocations,
    JobUnit,
    JobUnits,
    OwedRooms,
    Revocations,
)
from chatty.services.timeline import OwedDevices, RoomHead
from chatty.store.devices import PostgresDevices
from chatty.store.owed_devices import PostgresOwedRooms
from tests.quiet_rooms import events, leave, make_room, owed_count
from tests.signed_in import World, open_world

MANY_ROOMS = """INSERT INTO rooms (room_id, seq, head, epoch, last_time, policy, create_body)
SELECT '!many-' || i, 0, '', 0, 0, '{}', '' FROM generate_series(1, %s) AS i"""
OWE_ALL = "INSERT INTO owed_devices SELECT room_number, %s, 1 FROM rooms"
LOCK_ROOM = "SELECT 1 FROM rooms WHERE room_number = %s FOR NO KEY UPDATE"
LOCK_USERS = "SELECT 1 FROM users FOR UPDATE"
KICK = "UPDATE members SET standing = 'left' WHERE room_number = %s AND user_number = %s"
MEMBER = "SELECT list_version, changed_seq FROM members WHERE room_number = %s AND user_number = %s"


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with open_world(database) as world:
        yield world


def job(world: World, *, units: JobUnits | None = None) -> AppendOwedDevices:
    return AppendOwedDevices(units=units or world.units, doorbells=world.doorbells, clock=lambda: 1_700_000_000_000)


async def test_a_quiet_room_is_told_of_a_device_change(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    room, other = await make_room(world, ann, bob), await make_room(world, bob)
    await world.device("ann", "annslaptop")
    world.doorbells.heard.clear()
    assert not await job(world).step()
    assert await events(world, room) == [(1, "devices", "@ann:example.org", 2)]
    assert await events(world, other) == []
    async with world.pool.connection() as connection:
        row = await (await connection.execute(MEMBER, (room, ann.caller.user_number))).fetchone()
    assert row == (2, 1)
    assert await owed_count(world) == 0
    assert [bell.rooms for bell in world.doorbells.heard] == [{room}]


async def test_changes_that_have_piled_up_are_one_event_that_names_the_newest_list(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    room = await make_room(world, ann)
    for device in ("annslaptop", "annstablet"):
        await world.device("ann", device)
    assert await owed_count(world) == 2
    await job(world).step()
    assert await events(world, room) == [(1, "devices", "@ann:example.org", 3)]
    assert await owed_count(world) == 0


async def test_who_is_no_member_any_more_is_not_named_and_not_made_a_member(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    left, never = await make_room(world, ann, bob), await make_room(world, bob)
    await world.device("ann", "annslaptop")
    await leave(world, left, ann)
    async with world.pool.connection() as connection:
        await connection.execute("INSERT INTO owed_devices VALUES (%s, %s, 2)", (never, ann.caller.user_number))
    world.doorbells.heard.clear()
    await job(world).step()
    assert (await events(world, left), await events(world, never)) == ([], [])
    assert await world.value("SELECT count(*) FROM members WHERE standing = 'joined'") == 2
    assert await owed_count(world) == 0
    assert world.doorbells.heard == []


async def test_a_list_that_the_chain_names_already_is_not_named_again(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    room = await make_room(world, ann)
    await world.device("ann", "annslaptop")
    async with world.pool.connection() as connection:  # left and joined again meanwhile: the join named list 2
        await connection.execute("UPDATE members SET list_version = 2")
    await job(world).step()
    assert await events(world, room) == []
    assert await owed_count(world) == 0


async def test_a_change_that_is_not_committed_yet_stays_owed(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    room = await make_room(world, ann)
    await world.device("ann", "annslaptop")
    async with world.units.begin() as unit:
        await unit.devices.lock_user(ann.caller.user_number)
        await unit.devices.change_list(ann.caller.user_number)
        with trio.fail_after(5):
            await job(world).step()
    assert await events(world, room) == [(1, "devices", "@ann:example.org", 2)]
    assert await owed_count(world) == 1
    await job(world).step()
    assert (await events(world, room))[1:] == [(2, "devices", "@ann:example.org", 3)]


# Between the lock and the reading -----------------------------------------------------------------------------------


class PausingRooms(PostgresOwedRooms):
    """The store's own, with somebody else's commit right after one of its calls."""

    after: str
    meanwhile: Callable[[], Awaitable[object]]

    async def lock(self, *, count_max: int) -> Sequence[RoomHead]:
        heads = await super().lock(count_max=count_max)
        await self._pause("lock")
        return heads

    async def owed(self, rooms: Sequence[RoomNumber]) -> Sequence[OwedDevices]:
        owed = await super().owed(rooms)
        await self._pause("owed")
        return owed

    async def _pause(self, call: str) -> None:
        if call == self.after:
            await self.meanwhile()


class PausingUnit(JobUnit):
    def __init__(self, rooms: PausingRooms, devices: PostgresDevices) -> None:
        self._rooms, self._devices = rooms, devices

    @property
    def owed_rooms(self) -> OwedRooms:
        return self._rooms

    @property
    def devices(self) -> Revocations:
        return self._devices


class PausingUnits(JobUnits):
    def __init__(self, world: World, *, after: str, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._world, self._after, self._meanwhile = world, after, meanwhile

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[JobUnit]:
        async with self._world.pool.transaction(isolation="read committed") as connection:
            rooms = PausingRooms(connection)
            rooms.after, rooms.meanwhile = self._after, self._meanwhile
            yield PausingUnit(rooms, PostgresDevices(connection))


async def test_a_list_that_moves_on_after_the_lock_is_named_as_it_is_then(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    room = await make_room(world, ann)
    await world.device("ann", "annslaptop")
    units = PausingUnits(world, after="lock", meanwhile=lambda: world.device("ann", "annstablet"))
    await job(world, units=units).step()
    assert await events(world, room) == [(1, "devices", "@ann:example.org", 3)]
    assert await owed_count(world) == 0


async def test_a_list_that_moves_on_after_the_reading_stays_owed(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    room = await make_room(world, ann)
    await world.device("ann", "annslaptop")
    units = PausingUnits(world, after="owed", meanwhile=lambda: world.device("ann", "annstablet"))
    await job(world, units=units).step()
    assert await events(world, room) == [(1, "devices", "@ann:example.org", 2)]
    assert await world.value("SELECT array_agg(list_version) FROM owed_devices") == [3]


async def test_who_was_kicked_while_the_job_looked_is_not_named(world: World) -> None:
    """Kicks hold the room's lock, so one that is under way makes the job pass by; after it there is nothing to name."""
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    room = await make_room(world, ann, bob)
    await world.device("ann", "annslaptop")
    async with world.pool.transaction() as connection:
        await connection.execute(LOCK_ROOM, (room,))
        await connection.execute(KICK, (room, ann.caller.user_number))
        with trio.fail_after(5):
            assert not await job(world).step()
        assert await owed_count(world) == 1
    await job(world).step()
    assert await events(world, room) == []
    assert await owed_count(world) == 0


# Beside others ------------------------------------------------------------------------------------------------------


async def test_rooms_that_others_hold_do_not_hide_those_behind_them(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    busy, quiet = await make_room(world, ann), await make_room(world, ann)
    await world.device("ann", "annslaptop")
    async with world.pool.transaction() as connection:
        await connection.execute(LOCK_ROOM, (busy,))
        with trio.fail_after(5):
            await job(world).step()
    assert [len(await events(world, room)) for room in (busy, quiet)] == [0, 1]


async def test_the_job_waits_for_no_users_row(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    room = await make_room(world, ann)
    await world.device("ann", "annslaptop")
    async with world.pool.transaction() as connection:
        await connection.execute(LOCK_USERS)
        with trio.fail_after(5):
            await job(world).step()
    assert len(await events(world, room)) == 1


async def test_two_workers_at_once_give_no_doubles(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    rooms: list[RoomNumber] = [await make_room(world, ann, bob) for _ in range(20)]
    for name in ("ann", "bob"):
        await world.device(name, f"{name}slaptop")

    async def work() -> None:
        while await owed_count(world):
            await job(world).step()

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(work)
    for room in rooms:
        assert await events(world, room) == [
            (1, "devices", "@ann:example.org", 2),
            (2, "devices", "@bob:example.org", 2),
        ]


async def test_a_step_takes_at_most_a_hundred_rooms_and_says_that_there_is_more(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    async with world.pool.connection() as connection:
        await connection.execute(MANY_ROOMS, (101,))
        await connection.execute(OWE_ALL, (ann.caller.user_number,))
    assert await job(world).step()
    assert await owed_count(world) == 1
    assert not await job(world).step()
    assert await owed_count(world) == 0


async def test_revocations_are_forgotten_after_ten_minutes(world: World) -> None:
    async with world.pool.connection() as connection:
        for number, minutes in ((1, 11), (2, 9), (3, 60)):
            await connection.execute(
                "INSERT INTO revocations (device_number, created_at) VALUES (%s, now() - make_interval(mins => %s))",
                (number, minutes),
            )
    assert not await CleanUpRevocations(units=world.units).step()
    assert await world.value("SELECT array_agg(device_number) FROM revocations") == [2]
