"""What is over and can go: how much there is of it, and the jobs that take it away.

`orphan_cleanup` takes what waits for devices that have ended: messages to them, which nobody can fetch any more, and their
one-time and fallback keys, which nobody can claim. It goes through the ended devices in the order of their numbers, again and
again; the place is in its notes, so it goes on there when it was killed.

The other kinds have jobs of their own (services/expiry.py, sessions.py, registration.py, …). A preview counts what each of them
would take if it ran now, without changing anything; counts end at `counted_max`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from chatty.services.audit import EraseAddresses
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.deletions import CleanUpReceipts
from chatty.services.expiry import MessageCleanup
from chatty.services.jobs import Done, Jobs
from chatty.services.registration import CleanUpRegistrations
from chatty.services.sessions import EndExpiredSessions
from chatty.services.tokens import Lifetimes
from chatty.services.units import Transactions

devices_a_step_max = 500
rows_a_step_max = 5_000
counted_max = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """What one job would take. bytes_count: of ciphertexts; 0 where it is not counted."""

    what: str
    job: str
    rows_count: int
    bytes_count: int = 0


@dataclass(frozen=True, kw_only=True)
class Ages:
    """After what time things are over. retention_days: of messages, the server's own; 0: never."""

    retention_days: int
    lifetimes: Lifetimes
    receipt_s: float
    request_s: float
    address_s: float


class Leftovers(Protocol):
    """Inside one transaction."""

    async def count(self, ages: Ages, *, now_ms: int, count_max: int) -> Sequence[tuple[str, int, int]]:
        """What, how many rows, how many bytes; of what KINDS names."""
        ...

    async def ended_devices(self, *, after: int, count_max: int) -> Sequence[int]:
        """Numbers of devices that have ended, in order, from behind `after`."""
        ...

    async def drop_orphans(self, devices: Sequence[int], *, count_max: int) -> int:
        """What waits for these devices. Returns how many rows went."""
        ...


class LeftoversUnit(Protocol):
    @property
    def jobs(self) -> Jobs: ...
    @property
    def leftovers(self) -> Leftovers: ...


class OrphanCleanup:
    """The job orphan_cleanup."""

    name = "orphan_cleanup"

    def __init__(self, *, units: Transactions[LeftoversUnit], crash_points: CrashPoints = NO_CRASH_POINTS) -> None:
        self._units = units
        self._crash_points = crash_points

    async def step(self) -> Done:
        """One transaction. Raises: StoreUnavailable, Overloaded, OutcomeUnknown. Cancelled: all of it is committed or nothing."""
        async with self._units.begin() as unit:
            after = int((await unit.jobs.notes(self.name)).get("device", 0))
            devices = await unit.leftovers.ended_devices(after=after, count_max=devices_a_step_max)
            count = await unit.leftovers.drop_orphans(devices, count_max=rows_a_step_max) if devices else 0
            is_page_done = count < rows_a_step_max
            is_end = is_page_done and len(devices) < devices_a_step_max
            await unit.jobs.set_notes(self.name, {"device": 0 if is_end else devices[-1] if is_page_done else after})
            await self._crash_points.reach("before_commit", self.name)
        return Done(count, has_more=not is_end)


# By which job each kind goes, in the order in which they are told.
KINDS = {
    "expired_ciphertexts": MessageCleanup.name,
    "days_over": MessageCleanup.name,
    "past_retention": MessageCleanup.name,
    "below_horizons": MessageCleanup.name,
    "orphans_of_ended_devices": OrphanCleanup.name,
    "expired_sessions": EndExpiredSessions.name,
    "old_invitations_and_applications": CleanUpRegistrations.name,
    "old_deletion_receipts": CleanUpReceipts.name,
    "old_addresses": EraseAddresses.name,
}


class CleanupSteps:
    """clock: ms since 1970."""

    def __init__(self, *, units: Transactions[LeftoversUnit], ages: Ages, clock: Callable[[], int]) -> None:
        self._units = units
        self._ages = ages
        self._clock = clock

    async def preview(self) -> list[Leftover]:
        """Of one moment. Raises: StoreUnavailable, Overloaded."""
        async with self._units.snapshot() as unit:
            counted = await unit.leftovers.count(self._ages, now_ms=self._clock(), count_max=counted_max)
        counts = {what: (rows_count, bytes_count) for what, rows_count, bytes_count in counted}
        return [
            Leftover(what=what, job=job, rows_count=counts[what][0], bytes_count=counts[what][1])
            for what, job in KINDS.items()
        ]
