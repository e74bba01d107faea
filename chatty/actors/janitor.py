"""The janitor: one actor a background job, each under its lease.

    waiting ── time is up, or a wake ──> take or renew the lease ── another node has it ──> waiting
                                            └─ ours ──> one step ── there is more ──> the next step
                                                           └─ done ──> waiting
    the store cannot be reached, or a step took longer than the lease lasts ──> a growing, jittered pause, then as above

A wake only shortens the wait; one that is lost costs `interval_s`, and a pause after a failure is not shortened, or a busy node
would hammer a database that is down. Two holders of a lease for a moment do no harm: see chatty.services.jobs.

Drained: the lease is given back, so that another node goes on at once. Killed: it ends by itself after `lease_lifetime_s`.
A step that crashes restarts its actor alone; the branch's back-off is so slow that no job ever takes the tree down.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from chatty.actors.runtime import ActorError, ActorRef, ActorSpec, Intensity, Mailbox, Supervisor
from chatty.errors import ChattyError, OutcomeUnknown, RetryableError
from chatty.services.jobs import Leases

log = structlog.get_logger("chatty.actors.janitor")

_mailbox_count_max = 4  # wakes that wait are all the same
_breath_s = 0.001  # between two steps; more than nothing, so that a drain is noticed
_intensity = Intensity(restart_count_max=100, within_s=60.0, backoff_s_min=1.0, backoff_s_max=60.0)


@dataclass(frozen=True, kw_only=True)
class Job:
    """step: one bounded piece of work, right whoever else runs it at the same time; returns whether there is more.

    interval_s: from one look to the next when nobody wakes it. first_look_s: from the start to the first, at most; a random
    part of it, so that servers that start together do not do everything at once.
    """

    name: str
    step: Callable[[], Awaitable[bool]]
    interval_s: float
    first_look_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class JanitorTimes:
    """A step that outlasts lease_lifetime_s is cancelled: by then the job may be another's."""

    lease_lifetime_s: float = 30.0
    release_timeout_s: float = 1.0
    retry_delay_s_min: float = 0.5
    retry_delay_s_max: float = 30.0


@dataclass(frozen=True)
class Wake:
    """There is something to do now."""


class Janitor:
    """The branch of the tree that holds the jobs. Made by start_janitor()."""

    def __init__(self, jobs: Mapping[str, ActorRef[Wake]]) -> None:
        self._jobs = jobs

    def wake(self, job: str) -> None:
        """Look now. Never waits, never fails: at the bound enough wakes wait already, and a draining one needs none."""
        with suppress(ActorError):  # the next look comes without it
            self._jobs[job].tell(Wake())


async def start_janitor(
    root: Supervisor,
    *,
    jobs: Sequence[Job],
    leases: Leases,
    holder: str,
    times: JanitorTimes | None = None,
    jitter: Callable[[], float] = random.random,
) -> Janitor:
    """Start an actor for each job below a supervisor of their own. Nothing is asked of the store before it returns.

    holder: names this process among all that share the database, new at each start. jitter: gives 0.0–1.0.
    """
    branch = await root.start_supervisor("janitor", intensity=_intensity)
    refs: dict[str, ActorRef[Wake]] = {}
    for job in jobs:
        run = partial(_do_job, job=job, leases=leases, holder=holder, times=times or JanitorTimes(), jitter=jitter)
        spec = ActorSpec[Wake](name=job.name, run=run, mailbox_count_max=_mailbox_count_max)
        refs[job.name] = await branch.start(spec)
    return Janitor(refs)


async def _do_job(
    mailbox: Mailbox[Wake],
    *,
    job: Job,
    leases: Leases,
    holder: str,
    times: JanitorTimes,
    jitter: Callable[[], float],
) -> None:
    lease = _Lease(leases, job.name, holder=holder, times=times)
    delay_s = times.retry_delay_s_min
    has_failed = False
    mailbox.ready()
    if job.first_look_s and not await _wait(mailbox, job.first_look_s * jitter(), ends_at_wake=True):
        return
    while True:
        try:
            has_more = await _look(job, lease)
        except RetryableError as error:
            if not has_failed:  # once for an outage, not once for each try
                log.warning("job.interrupted", job=job.name, code=error.code)
            has_failed, pause_s, delay_s = True, delay_s, min(2 * delay_s, times.retry_delay_s_max)
        else:
            if has_failed:
                log.info("job.resumed", job=job.name)
            has_failed, delay_s = False, times.retry_delay_s_min
            pause_s = _breath_s if has_more else job.interval_s
        if not await _wait(mailbox, pause_s * (0.75 + 0.5 * jitter()), ends_at_wake=not has_failed):
            await lease.give_back()
            return


async def _look(job: Job, lease: "_Lease") -> bool:
    """One step, if the lease is ours. Returns whether to look again at once. Raises: RetryableError."""
    if not await lease.hold():
        return False
    with trio.move_on_at(lease.ends_at):
        return await job.step()
    raise OutcomeUnknown(f"{job.name} took longer than its lease")


async def _wait(mailbox: Mailbox[Wake], pause_s: float, *, ends_at_wake: bool) -> bool:
    """Until the time is up or a wake comes. False: told to stop."""
    with trio.move_on_after(pause_s):
        async for _ in mailbox:
            mailbox.take_queued(_mailbox_count_max)
            if ends_at_wake:
                return True
        return False
    return True


class _Lease:
    """One job's, as this process believes to hold it; by its own clock, from before it asked, so never for too long."""

    def __init__(self, leases: Leases, job: str, *, holder: str, times: JanitorTimes) -> None:
        self._leases = leases
        self._job = job
        self._holder = holder
        self._times = times
        self._taken_at: float | None = None

    @property
    def ends_at(self) -> float:
        """On Trio's clock."""
        return -float("inf") if self._taken_at is None else self._taken_at + self._times.lease_lifetime_s

    async def hold(self) -> bool:
        """Take it or renew it; without asking the store while most of it is left."""
        now, lifetime_s = trio.current_time(), self._times.lease_lifetime_s
        if self._taken_at is not None and now < self._taken_at + lifetime_s / 3:
            return True
        is_ours = await self._leases.take(self._job, holder=self._holder, lifetime_s=lifetime_s)
        if is_ours and self._taken_at is None:
            log.info("lease.taken", job=self._job)
        if not is_ours and self._taken_at is not None:
            log.warning("lease.lost", job=self._job)
        self._taken_at = now if is_ours else None
        return is_ours

    async def give_back(self) -> None:
        if self._taken_at is None:
            return
        with trio.move_on_after(self._times.release_timeout_s):
            try:
                await self._leases.release(self._job, holder=self._holder)
            except ChattyError as error:
                log.warning("lease.release_failed", job=self._job, code=error.code)
