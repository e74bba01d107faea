"""What changes of devices leave to be done, by jobs: quiet rooms that are owed `devices` events, and revocations that are over.

owed_devices          rooms in which nobody writes are told of device changes (the journal tells the others), at most 100 rooms
                      a transaction, skipping those that somebody works on: their journal pays, or the next step does.
revocations_cleanup   revocations that every node has read by now are forgotten.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from chatty.ids import RoomNumber, Seq
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.jobs import Done
from chatty.services.timeline import Appended, OwedDevices, RoomHead, append_owed

owed_rooms_a_step_max = 100
revocation_age_s = 600.0
revocations_a_step_max = 1_000


class OwedRooms(Protocol):
    """Rooms that are owed `devices` events, inside one transaction."""

    async def lock(self, *, count_max: int) -> Sequence[RoomHead]:
        """Up to count_max rooms that are owed something, locked in number order; those locked by others are skipped."""
        ...

    async def owed(self, rooms: Sequence[RoomNumber]) -> Sequence[OwedDevices]:
        """Each owed (room, user) with the user's list and membership as of now: call it after lock()."""
        ...

    async def write(self, heads: Sequence[RoomHead], appended: Sequence[Appended]) -> None:
        """The new events and the moved heads."""
        ...

    async def name_lists(self, named: Sequence[tuple[OwedDevices, Seq]]) -> None:
        """The chain now names these lists, at these places. Members that exist are changed; none is made."""
        ...

    async def settle(self, owed: Sequence[OwedDevices]) -> None:
        """Delete what was owed up to the version that was read."""
        ...


class Revocations(Protocol):
    async def forget_revocations(self, *, age_s: float, count_max: int) -> int:
        """Delete those older than age_s, the oldest first. Returns how many."""
        ...


class JobUnit(Protocol):
    @property
    def owed_rooms(self) -> OwedRooms: ...
    @property
    def devices(self) -> Revocations: ...


class JobUnits(Protocol):
    def begin(self) -> AbstractAsyncContextManager[JobUnit]: ...


class AppendOwedDevices:
    """The job owed_devices. Locks rooms alone, and no user's row after them."""

    name = "owed_devices"

    def __init__(
        self,
        *,
        units: JobUnits,
        doorbells: Doorbells,
        clock: Callable[[], int],
        crash_points: CrashPoints = NO_CRASH_POINTS,
    ) -> None:
        """clock: ms since 1970."""
        self._units = units
        self._doorbells = doorbells
        self._clock = clock
        self._crash_points = crash_points

    async def step(self) -> Done:
        """One transaction; rows are rooms.

        Raises: StoreUnavailable, Overloaded, OutcomeUnknown. Cancelled: all of it is committed or nothing.
        """
        async with self._units.begin() as unit:
            heads = {head.room_number: head for head in await unit.owed_rooms.lock(count_max=owed_rooms_a_step_max)}
            if not heads:
                return Done()
            told = await self._pay(unit.owed_rooms, heads)
            await self._crash_points.reach("before_commit", self.name)
        if told:
            self._doorbells.ring(Doorbell(rooms=told))
        return Done(len(heads), has_more=len(heads) == owed_rooms_a_step_max)

    async def _pay(self, rooms: OwedRooms, heads: Mapping[RoomNumber, RoomHead]) -> Collection[RoomNumber]:
        """Returns the rooms that have new events: not all, for some members left, and some lists are named already."""
        owed = await rooms.owed(list(heads))
        due, now_ms = [one for one in owed if one.is_due], self._clock()
        appended = [append_owed(heads[one.room_number], one, now_ms=now_ms) for one in due]
        told = {one.room_number for one in due}
        if appended:
            await rooms.write([heads[number] for number in sorted(told)], appended)
            await rooms.name_lists([(one, new.event.seq) for one, new in zip(due, appended, strict=True)])
        await rooms.settle(owed)
        return told


class CleanUpRevocations:
    """The job revocations_cleanup. Every node reads new rows twice a second; one that was away longer starts from the devices."""

    name = "revocations_cleanup"

    def __init__(self, *, units: JobUnits) -> None:
        self._units = units

    async def step(self) -> Done:
        """As AppendOwedDevices.step()."""
        async with self._units.begin() as unit:
            count = await unit.devices.forget_revocations(age_s=revocation_age_s, count_max=revocations_a_step_max)
        return Done(count, has_more=count == revocations_a_step_max)
