"""Whether the application can serve, dependency by dependency."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from chatty.actors.runtime import Supervisor
from chatty.app.backups import NewestBackup
from chatty.config import Settings
from chatty.errors import OutcomeUnknown, Overloaded, StoreUnavailable
from chatty.services.audit import unsealed_age_s_max
from chatty.services.key_rotation import KeyRotation
from chatty.store.pool import Pool
from chatty.store.units import PostgresUnitOfWork
from chatty.web import health

disk_share_min, disk_bytes_min = 0.05, 512 * 1024**2
journal_age_s_max = 15.0  # far more than any message's deadline
readiness_timeout_s = 1.0  # of the database's answer; a balancer gives up soon


class Draining:
    """A readiness check that fails from begin() on: balancers see it before anything is closed."""

    def __init__(self) -> None:
        self._is_draining = False

    def begin(self) -> None:
        self._is_draining = True

    async def check(self) -> health.Check:
        return health.Check(
            name="serving", is_ready=not self._is_draining, reason="draining" if self._is_draining else ""
        )


async def check_database(pool: Pool) -> health.Check:
    async def look() -> str:
        async with pool.connection() as connection:
            await connection.execute("SELECT 1")
        return ""

    reason = await _told(look)
    return health.Check(name="database", is_ready=not reason, reason=reason)


async def check_journal(root: Supervisor) -> health.Check:
    """One that hangs has no reason to give; one that merely waits for the database refuses messages before this."""
    age_s = max((load.oldest_age_s for load in root.loads() if load.branch == "journal"), default=0.0)
    reason = f"a message has waited for its commit for {age_s:.0f} s" if age_s > journal_age_s_max else ""
    return health.Check(name="journal", is_ready=not reason, reason=reason)


async def check_disk(data_dir: Path) -> health.Check:
    """Never a reason to serve nobody: nothing of a message is written there but by an embedded database."""
    usage = shutil.disk_usage(data_dir)
    share = usage.free / usage.total
    is_short = share < disk_share_min or usage.free < disk_bytes_min
    warning = f"{share:.0%} of the data directory's disk is free, {usage.free / 1024**3:.1f} GiB" if is_short else ""
    return health.Check(name="disk", is_ready=True, warning=warning)


async def check_jobs(units: PostgresUnitOfWork) -> health.Check:
    """Never a reason to serve nobody: what jobs do can wait, but not for ever."""

    async def look() -> str:
        async with units.autocommit() as unit:
            standings = await unit.jobs.standings()
        return ", ".join(f"{job} is {one.state}" for job, one in sorted(standings.items()) if one.state != "scheduled")

    return health.Check(name="jobs", is_ready=True, warning=await _told(look))


async def check_audit(units: PostgresUnitOfWork) -> health.Check:
    """Never a reason to serve nobody: rows wait safely for the sealer."""

    async def look() -> str:
        async with units.begin() as unit:
            age_s = await unit.audit.unsealed_age_s()
        return f"the oldest unsealed row is {age_s:.0f} s old" if age_s > unsealed_age_s_max else ""

    return health.Check(name="audit", is_ready=True, warning=await _told(look))


async def _told(look: Callable[[], Awaitable[str]]) -> str:
    """What a look at the store has to say, or why there was none in time. Empty: all is well."""
    with trio.move_on_after(readiness_timeout_s):
        try:
            return await look()
        except (StoreUnavailable, Overloaded, OutcomeUnknown) as error:
            return error.code
    return f"not answered within {readiness_timeout_s:g} s"


async def check_keys(rotation: KeyRotation) -> health.Check:
    """As last read: old keys serve as well as young ones."""
    return health.Check(name="keys", is_ready=True, warning="; ".join(rotation.warnings()))


async def check_backups(settings: Settings, newest: NewestBackup) -> health.Check:
    """Never a reason to serve nobody. Late: the newest is older than two intervals, or there is none although they are wanted."""
    age_s, warning = None, f"the disk has not answered within {readiness_timeout_s:g} s"
    with trio.move_on_after(readiness_timeout_s):
        try:
            age_s = await newest.age_s()
            warning = _late(age_s, 2 * settings.backup_interval_s)
        except OSError as error:
            warning = f"the directory of backups cannot be read: {error.strerror}"
    return health.Check(name="backups", is_ready=True, warning=warning, age_s=age_s)


def _late(age_s: float | None, wanted_s: float) -> str:
    if not wanted_s or (age_s is not None and age_s <= wanted_s):
        return ""
    return "there is no backup" if age_s is None else f"the newest backup is {age_s / 3_600:.1f} hours old"
