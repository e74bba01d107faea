"""Background jobs: what nobody asked for and somebody must do, in small steps that may run twice.

A job runs under a lease in the database, so that as a rule one node at a time does it. A lease is a courtesy, not a lock: a
holder that was paused for longer than its lease works on beside the new one. So each step is one transaction that is right
whoever else runs it: it locks, then reads, then writes what is still missing. That is also why a job that was killed half-way
goes on by being started again.

    scheduled ── paused ──> paused ── resumed ──> scheduled
    scheduled ── failed `failures_max` times in a row ──> dead ── resumed ──> scheduled

A *run* is the steps from when a job is due until nothing is left. How it ended:

    done      nothing is left                     failed   a step raised; the next run waits, longer each time
    paused    the operator paused the job         aborted  the operator cut the step in hand off: it left nothing
    stopped   the server stopped in order         lost     the process was killed, or paused beyond its lease

A run is in the books from its first step on if somebody ordered it, or if the job is seldom due; of jobs that look every few
seconds only runs that did something are kept, else the books would be the busiest part of a server that rests. An outage of the
database is no failure of a job: it could not be written down, and is no reason to give up.

*Operators* act through the books alone, so it does not matter at which node: every node reads them once a second. Two who order
the same job at once get one run: the order is refused while another waits or runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from chatty.errors import JobIdle, JobRunning, JobStopped, JobUnknown
from chatty.services.caller import Caller
from chatty.services.units import Transactions
from chatty.services.users import ActingUnit, check_operator, record_act

State = Literal["scheduled", "paused", "dead"]
Outcome = Literal["done", "failed", "paused", "aborted", "stopped", "lost"]

runs_kept_max = 100  # of each job
seldom_s = 600.0  # a job with this interval, or a longer one, has every run in the books


@dataclass(frozen=True)
class Done:
    """What one step of a job did. True while there is more to do at once: `while await job.step(): …`."""

    rows_count: int = 0
    has_more: bool = False

    def __bool__(self) -> bool:
        return self.has_more


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the books say of a job. last_outcome: of its newest run; "running" while that goes on, "" if there was none.

    last_age_s: since that run ended, or began if it goes on.
    """

    state: State = "scheduled"
    failures_count: int = 0
    order_number: int = 0
    begun_order: int = 0
    abort_number: int = 0
    last_outcome: str = ""
    last_age_s: float = field(default=0.0, compare=False)

    @property
    def has_order(self) -> bool:
        return self.order_number > self.begun_order

    @property
    def is_unfinished(self) -> bool:
        """Somebody began what nobody has ended: it goes on as soon as somebody has the lease."""
        return self.has_order or self.last_outcome in ("running", "stopped", "lost")


@dataclass(frozen=True, kw_only=True)
class EndedRun:
    """number: None, where it was not in the books so far."""

    number: int | None
    outcome: Outcome
    rows_count: int
    steps_count: int
    duration_s: float
    error_code: str = ""


@dataclass(frozen=True, kw_only=True)
class JobRun:
    """A run as it is shown. started_at, ended_at: UTC. order_number: None: it was due."""

    run: int
    job: str
    outcome: str
    started_at: str
    ended_at: str | None
    duration_s: float
    rows_count: int
    steps_count: int
    error_code: str
    order_number: int | None
    holder: str


@dataclass(frozen=True, kw_only=True)
class ListedJob:
    """last: None if it never ran."""

    job: str
    interval_s: float
    standing: Standing
    last: JobRun | None


# Rules --------------------------------------------------------------------------------------------------------------


def retry_delay_s(failures_count: int, *, delay_s_min: float, delay_s_max: float) -> float:
    """After so many failures in a row: doubles from delay_s_min to delay_s_max."""
    return float(min(delay_s_min * 2 ** min(failures_count - 1, 30), delay_s_max))


def rest_s(standing: Standing, *, age_s: float, interval_s: float) -> float:
    """How long a job that is seldom due must still wait, whichever node did it last, and however often nodes start.

    age_s: since its newest run. A node's own pauses are never as short as `0.7 * interval_s`.
    """
    is_over = standing.last_outcome in ("done", "aborted")
    return max(0.0, 0.7 * interval_s - age_s) if is_over and interval_s >= seldom_s and not standing.has_order else 0.0


def state_after(standing: Standing, outcome: str, *, failures_max: int) -> tuple[State, int]:
    """The state, and the failures in a row. A run that was lost counts: it may be the job that kills the process."""
    if outcome == "done":
        return standing.state, 0
    if outcome not in ("failed", "lost"):
        return standing.state, standing.failures_count
    failures_count = standing.failures_count + 1
    is_over = standing.state == "scheduled" and failures_count >= failures_max
    return ("dead" if is_over else standing.state), failures_count


def check_order(job: str, standing: Standing) -> None:
    """May it be run now? Raises: JobStopped, JobRunning."""
    if standing.state != "scheduled":
        raise JobStopped(f"{job} is {standing.state}: resume it first")
    if standing.has_order or standing.last_outcome == "running":
        raise JobRunning(f"{job} runs already, or is about to")


# Ports --------------------------------------------------------------------------------------------------------------


class Leases(Protocol):
    """Who does which job. Time is the database's, so the nodes' clocks need not agree."""

    async def take(self, job: str, *, holder: str, lifetime_s: float) -> bool:
        """Take the lease, or renew one's own, for lifetime_s from now. False: another holder's is not over yet.

        Raises: StoreUnavailable, Overloaded. Cancelled: it may have been taken; it then ends by itself.
        """
        ...

    async def release(self, job: str, *, holder: str) -> None:
        """Give one's own lease back, so that the next holder need not wait for its end; another's is left alone."""
        ...


class RunBook(Protocol):
    """What whoever runs jobs reads and writes. All of it raises StoreUnavailable, Overloaded, OutcomeUnknown."""

    async def enroll(self, intervals_s: Mapping[str, float]) -> None:
        """These jobs there are. What is wanted of those that are known stays."""
        ...

    async def standings(self) -> Mapping[str, Standing]: ...
    async def begin(self, job: str, *, holder: str) -> tuple[int | None, Standing]:
        """A run begins, for the order that waits if one does; runs left open are lost. Who asks has the lease.

        Returns: the run's number; None if the job is not to run, for it was paused or is dead.
        """
        ...

    async def note(self, run: int, *, rows_count: int, steps_count: int) -> None:
        """How far it is."""
        ...

    async def end(self, job: str, run: EndedRun, *, holder: str) -> Standing: ...


class Jobs(Protocol):
    """The books, inside one transaction."""

    async def enroll(self, intervals_s: Mapping[str, float]) -> None: ...
    async def standings(self) -> Mapping[str, Standing]: ...
    async def lock(self, job: str) -> Standing | None: ...
    async def write(self, job: str, standing: Standing) -> None:
        """All but last_outcome, which the runs tell."""
        ...

    async def open_run(self, job: str, *, holder: str, order_number: int | None) -> int: ...
    async def lose_runs(self, job: str) -> Sequence[int | None]:
        """Those of the job that are open. Returns the orders that they did."""
        ...

    async def note_run(self, run: int, *, rows_count: int, steps_count: int) -> None: ...
    async def close_run(self, job: str, run: EndedRun, *, holder: str) -> None:
        """Nothing, if it is not open any more."""
        ...

    async def forget_runs(self, job: str, *, kept_max: int) -> None: ...
    async def listed(self) -> Sequence[ListedJob]:
        """In the order of their names."""
        ...

    async def runs(self, job: str, *, count_max: int) -> Sequence[JobRun]:
        """The newest first."""
        ...

    async def run_of_order(self, job: str, order_number: int) -> JobRun | None:
        """The newest that did it."""
        ...

    async def notes(self, job: str) -> Mapping[str, Any]: ...
    async def set_notes(self, job: str, notes: Mapping[str, Any]) -> None:
        """For the job itself: how far it is, what it found. Nothing, if it is not enrolled."""
        ...


class JobsUnit(ActingUnit, Protocol):
    @property
    def jobs(self) -> Jobs: ...


# Steps --------------------------------------------------------------------------------------------------------------


class JobBooks(RunBook):
    """failures_max: after so many in a row a job is dead."""

    def __init__(self, *, units: Transactions[JobsUnit], failures_max: int) -> None:
        self._units = units
        self._failures_max = failures_max

    async def enroll(self, intervals_s: Mapping[str, float]) -> None:
        async with self._units.begin() as unit:
            await unit.jobs.enroll(intervals_s)

    async def standings(self) -> Mapping[str, Standing]:
        async with self._units.autocommit() as unit:
            return await unit.jobs.standings()

    async def begin(self, job: str, *, holder: str) -> tuple[int | None, Standing]:
        async with self._units.begin() as unit:
            standing = await _locked(unit, job)
            lost = await unit.jobs.lose_runs(job)
            if lost:
                standing = await self._note_end(unit, job, standing, "lost")
            if standing.state != "scheduled":
                return None, standing
            order = standing.order_number if standing.has_order else next(iter(lost), None)
            run = await unit.jobs.open_run(job, holder=holder, order_number=order)
            standing = replace(standing, begun_order=standing.order_number, last_outcome="running", last_age_s=0.0)
            await unit.jobs.write(job, standing)
            return run, standing

    async def note(self, run: int, *, rows_count: int, steps_count: int) -> None:
        async with self._units.autocommit() as unit:
            await unit.jobs.note_run(run, rows_count=rows_count, steps_count=steps_count)

    async def end(self, job: str, run: EndedRun, *, holder: str) -> Standing:
        async with self._units.begin() as unit:
            standing = await _locked(unit, job)
            await unit.jobs.close_run(job, run, holder=holder)
            await unit.jobs.forget_runs(job, kept_max=runs_kept_max)
            return await self._note_end(unit, job, standing, run.outcome)

    async def _note_end(self, unit: JobsUnit, job: str, standing: Standing, outcome: Outcome) -> Standing:
        state, failures_count = state_after(standing, outcome, failures_max=self._failures_max)
        after = replace(standing, state=state, failures_count=failures_count, last_outcome=outcome, last_age_s=0.0)
        await unit.jobs.write(job, after)
        return after


class JobSteps:
    """What the operator asks of the jobs, at any node or beside the database."""

    def __init__(self, *, units: Transactions[JobsUnit]) -> None:
        self._units = units

    async def listed(self) -> Sequence[ListedJob]:
        async with self._units.autocommit() as unit:
            return await unit.jobs.listed()

    async def shown(self, job: str) -> tuple[ListedJob, Mapping[str, Any]]:
        """With its notes. Raises: JobUnknown."""
        async with self._units.snapshot() as unit:
            found = [one for one in await unit.jobs.listed() if one.job == job]
            if not found:
                raise JobUnknown(f"there is no job {job!r}")
            return found[0], await unit.jobs.notes(job)

    async def history(self, job: str, *, count_max: int) -> Sequence[JobRun]:
        """The newest first. Raises: JobUnknown."""
        await self.shown(job)
        async with self._units.autocommit() as unit:
            return await unit.jobs.runs(job, count_max=count_max)

    async def order(self, by: Caller | None, job: str) -> int:
        """Run it now. Returns the order's number. Raises: JobUnknown, JobStopped, JobRunning."""
        async with self._units.begin() as unit:
            await check_operator(unit, by)
            standing = await _locked(unit, job)
            check_order(job, standing)
            number = standing.order_number + 1
            await unit.jobs.write(job, replace(standing, order_number=number))
            await _record(unit, by, "job.run_ordered", job)
        return number

    async def ordered(self, job: str, order_number: int) -> JobRun | None:
        """The newest run that did the order; None while it waits. Raises: JobUnknown, JobStopped if it was taken back."""
        async with self._units.autocommit() as unit:
            standing = (await unit.jobs.standings()).get(job)
            run = await unit.jobs.run_of_order(job, order_number)
        if standing is None:
            raise JobUnknown(f"there is no job {job!r}")
        if run is None and standing.begun_order >= order_number:
            raise JobStopped(f"{job} was paused before it ran")
        return run

    async def pause(self, by: Caller | None, job: str) -> None:
        """After the step in hand. An order that waits is taken back. Paused again, nothing changes. Raises: JobUnknown."""
        async with self._units.begin() as unit:
            await check_operator(unit, by)
            standing = await _locked(unit, job)
            if standing.state != "paused":
                after = replace(standing, state="paused", begun_order=standing.order_number)
                await unit.jobs.write(job, after)
                await _record(unit, by, "job.paused", job, standing, after)

    async def resume(self, by: Caller | None, job: str) -> None:
        """Also what is dead, whose failures are forgotten. If it runs, nothing changes. Raises: JobUnknown."""
        async with self._units.begin() as unit:
            await check_operator(unit, by)
            standing = await _locked(unit, job)
            if standing.state != "scheduled":
                after = replace(standing, state="scheduled", failures_count=0)
                await unit.jobs.write(job, after)
                await _record(unit, by, "job.resumed", job, standing, after)

    async def abort(self, by: Caller | None, job: str) -> None:
        """Cut the run in hand off; the job is due again after its interval. Raises: JobUnknown, JobIdle."""
        async with self._units.begin() as unit:
            await check_operator(unit, by)
            standing = await _locked(unit, job)
            if standing.last_outcome != "running":
                raise JobIdle(f"{job} does not run")
            await unit.jobs.write(job, replace(standing, abort_number=standing.abort_number + 1))
            await _record(unit, by, "job.aborted", job)


async def _locked(unit: JobsUnit, job: str) -> Standing:
    standing = await unit.jobs.lock(job)
    if standing is None:
        raise JobUnknown(f"there is no job {job!r}")
    return standing


async def _record(
    unit: JobsUnit,
    by: Caller | None,
    action: str,
    job: str,
    before: Standing | None = None,
    after: Standing | None = None,
) -> None:
    states = [None if one is None else {"state": one.state} for one in (before, after)]
    await record_act(unit, by, action, job, before=states[0], after=states[1])
