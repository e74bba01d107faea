"""The janitor: one actor a background job, each under its lease, and one that reads what the operator wants of them.

    waiting ── time is up, or a wake ──> take or renew the lease ── another node has it ──> waiting
                                            └─ ours ──> one step ── there is more ──> the next step
                                                           ├─ done ──> waiting
                                                           └─ failed ──> a pause that doubles, or dead
    the store cannot be reached ──> a growing, jittered pause, then as above

What runs, failures and states mean: chatty.services.jobs. A wake only shortens the wait; one that is lost costs `interval_s`. A
pause after a failure is not shortened, but by the operator, or a busy node would hammer a database that is down. Two holders of a
lease for a moment do no harm.

Paused, aborted, ordered: the board reads the books once a second, and at once when this node's console wrote into them. An abort
cancels the step in hand, whose transaction leaves nothing behind.

Drained: the run is noted as stopped and the lease given back, so that another node goes on at once. Killed: the lease ends by
itself after `lease_lifetime_s`, and the next holder notes the run as lost. A step that crashes restarts its actor alone and is a
failure of the job; what is in hand lies beside the actor, so the restarted one knows. The branch's back-off is so slow that no
job ever takes the tree down.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from chatty.actors.job_board import Board, Hand, Job, RunInHand
from chatty.actors.runtime import ActorError, ActorRef, ActorSpec, Intensity, Mailbox, Supervisor
from chatty.errors import ChattyError, JobOverran, Overloaded, RetryableError
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.jobs import Done, EndedRun, Leases, Outcome, RunBook, Standing, rest_s, retry_delay_s, seldom_s
from chatty.telemetry import Metrics

log = structlog.get_logger("chatty.actors.janitor")

_mailbox_count_max = 4  # wakes that wait are all the same
_breath_s = 0.001  # between two steps; more than nothing, so that a drain is noticed
_intensity = Intensity(restart_count_max=100, within_s=60.0, backoff_s_min=1.0, backoff_s_max=60.0)


@dataclass(frozen=True, kw_only=True)
class JanitorTimes:
    """A step that outlasts lease_lifetime_s is cancelled: by then the job may be another's. retry_delay_s_…: while the store is
    gone. failure_delay_s_…: after failures of the job itself.
    """

    lease_lifetime_s: float = 30.0
    release_timeout_s: float = 1.0
    retry_delay_s_min: float = 0.5
    retry_delay_s_max: float = 30.0
    failure_delay_s_min: float = 5.0
    failure_delay_s_max: float = 600.0
    board_interval_s: float = 1.0
    note_interval_s: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Wake:
    """There is something to do now. is_urgent: the operator says so."""

    is_urgent: bool = False


class Janitor:
    """The branch of the tree that holds the jobs. Made by start_janitor()."""

    def __init__(
        self, jobs: Mapping[str, ActorRef[Wake]], reader: ActorRef[Wake], hands: Mapping[str, Hand], board: Board
    ) -> None:
        self._jobs = jobs
        self._reader = reader
        self._hands = hands
        self._board = board

    def wake(self, job: str) -> None:
        """Look now. Never waits, never fails: at the bound enough wakes wait already, and a draining one needs none."""
        _tell(self._jobs[job], Wake())

    def read_books(self) -> None:
        """This node's console wrote into them."""
        _tell(self._reader, Wake())

    def standings(self) -> Mapping[str, Standing]:
        """As this node knows them, without asking anybody: about a second old while the store answers."""
        return self._board.known()

    def next_looks_s(self) -> Mapping[str, float]:
        """How long until each job is looked at by this node."""
        now = trio.current_time()
        return {name: round(max(0.0, hand.next_look_at - now), 1) for name, hand in self._hands.items()}


@dataclass(frozen=True, kw_only=True)
class _Office:
    """What the desks share."""

    leases: Leases
    book: RunBook
    board: Board
    holder: str
    times: JanitorTimes
    jitter: Callable[[], float]
    metrics: Metrics
    crash_points: CrashPoints


async def start_janitor(
    root: Supervisor,
    *,
    jobs: Sequence[Job],
    leases: Leases,
    book: RunBook,
    holder: str,
    metrics: Metrics,
    times: JanitorTimes | None = None,
    jitter: Callable[[], float] = random.random,
    crash_points: CrashPoints = NO_CRASH_POINTS,
) -> Janitor:
    """Start an actor for each job below a supervisor of their own. Nothing is asked of the store before it returns.

    holder: names this process among all that share the database, new at each start. jitter: gives 0.0–1.0.
    """
    branch = await root.start_supervisor("janitor", intensity=_intensity)
    hands = {job.name: Hand() for job in jobs}
    board = Board(book, jobs, metrics)
    office = _Office(
        leases=leases,
        book=book,
        board=board,
        holder=holder,
        times=times or JanitorTimes(),
        jitter=jitter,
        metrics=metrics,
        crash_points=crash_points,
    )
    refs: dict[str, ActorRef[Wake]] = {}
    for job in jobs:
        run = partial(_do_job, job=job, hand=hands[job.name], office=office)
        spec = ActorSpec[Wake](name=job.name, run=run, mailbox_count_max=_mailbox_count_max)
        refs[job.name] = await branch.start(spec)
    read = partial(_read_books, board=board, hands=hands, refs=refs, interval_s=office.times.board_interval_s)
    reader = await branch.start(ActorSpec[Wake](name="books", run=read, mailbox_count_max=_mailbox_count_max))
    return Janitor(refs, reader, hands, board)


async def _read_books(
    mailbox: Mailbox[Wake],
    *,
    board: Board,
    hands: Mapping[str, Hand],
    refs: Mapping[str, ActorRef[Wake]],
    interval_s: float,
) -> None:
    """What the operator wants reaches the jobs. While the store is gone the jobs themselves say so."""
    mailbox.ready()
    while True:
        with suppress(RetryableError):
            await board.read()
            for job, before, after in board.changes():
                if before is not None and after.abort_number > before.abort_number:
                    hands[job].abort()
                if after.has_order or (after.is_unfinished if before is None else before.state != after.state):
                    _tell(refs[job], Wake(is_urgent=True))
        if not await _wait(mailbox, interval_s, ends_at_wake=True):
            return


async def _do_job(mailbox: Mailbox[Wake], *, job: Job, hand: Hand, office: _Office) -> None:
    desk = _Desk(job, hand, office)
    times, delay_s = office.times, office.times.retry_delay_s_min
    has_lost_store = False
    mailbox.ready()
    if not hand.has_looked and job.first_look_s and not await desk.wait(mailbox, _Pause(job.first_look_s), least=0.0):
        return
    while True:
        hand.has_looked = True
        try:
            pause = await desk.look()
        except RetryableError as error:
            if not has_lost_store:  # once for an outage, not once for each try
                log.warning("job.interrupted", job=job.name, code=error.code)
            has_lost_store, pause = True, _Pause(delay_s, is_backoff=True)
            delay_s = min(2 * delay_s, times.retry_delay_s_max)
        else:
            if has_lost_store:
                log.info("job.resumed", job=job.name)
            has_lost_store, delay_s = False, times.retry_delay_s_min
        if not await desk.wait(mailbox, pause):
            await desk.stop()
            return


@dataclass(frozen=True)
class _Pause:
    """is_backoff: only the operator shortens it."""

    pause_s: float
    is_backoff: bool = False


async def _wait(mailbox: Mailbox[Wake], pause_s: float, *, ends_at_wake: bool) -> bool:
    """Until the time is up or a wake comes. False: told to stop."""
    with trio.move_on_after(pause_s):
        async for wake in mailbox:
            wakes = [wake, *mailbox.take_queued(_mailbox_count_max)]
            if ends_at_wake or any(one.is_urgent for one in wakes):
                return True
        return False
    return True


def _tell(ref: ActorRef[Wake], wake: Wake) -> None:
    with suppress(ActorError):  # the next look comes without it
        ref.tell(wake)


class _Desk:
    """One job's work in this process."""

    def __init__(self, job: Job, hand: Hand, office: _Office) -> None:
        self._job = job
        self._hand = hand
        self._office = office
        self._lease = _Lease(office.leases, job.name, holder=office.holder, times=office.times)

    async def wait(self, mailbox: Mailbox[Wake], pause: _Pause, *, least: float = 0.75) -> bool:
        """Jittered: from `least` of the pause on, half or (with least 0) all of it wide. False: told to stop."""
        width = 0.5 if least else 1.0
        pause_s = pause.pause_s * (least + width * self._office.jitter())
        self._hand.next_look_at = trio.current_time() + pause_s
        return await _wait(mailbox, pause_s, ends_at_wake=not pause.is_backoff)

    async def look(self) -> _Pause:
        """One step, if the job is to run and the lease is ours. Raises: RetryableError, of the store."""
        job, hand, office = self._job, self._hand, self._office
        office.metrics.job_last_look.labels(job=job.name).set_to_current_time()
        standing = await office.board.standing(job.name)
        if hand.is_in_step:  # the actor crashed there
            hand.is_in_step = False
            return await self._fail("internal_error")
        if hand.is_aborted or standing.state != "scheduled":
            return await self._end("aborted" if hand.is_aborted else "paused")
        if not await self._lease.hold():
            hand.run = None  # if there was one, it is the other holder's to say that it is lost
            soon_s = office.times.lease_lifetime_s / 3
            return _Pause(min(job.interval_s, soon_s) if standing.is_unfinished else job.interval_s)
        left_s = rest_s(standing, age_s=office.board.age_s(job.name), interval_s=job.interval_s)
        return _Pause(left_s) if left_s and hand.run is None else await self._work(standing)

    async def stop(self) -> None:
        with trio.move_on_after(self._office.times.release_timeout_s), suppress(ChattyError):
            await self._end("stopped")  # where that fails, the next holder says that it is lost
        await self._lease.give_back()

    async def _work(self, standing: Standing) -> _Pause:
        run = await self._open(standing)
        if run is None:
            return _Pause(self._job.interval_s)
        try:
            done = await self._step()
        except ChattyError as error:
            self._hand.is_in_step = False
            if _is_outage(error):
                raise
            return await self._fail(error.code)
        if done is None:
            return await self._end("aborted")
        run.rows_count += done.rows_count
        run.steps_count += 1
        if not done.has_more:
            return await self._end("done")
        await self._note(run)
        return _Pause(_breath_s)

    async def _step(self) -> Done | None:
        """None: aborted. Raises: JobOverran, and what the step raises."""
        hand, done = self._hand, None
        hand.is_in_step = True
        with trio.CancelScope(deadline=self._lease.ends_at) as scope:
            hand.scope = scope
            await self._office.crash_points.reach("job_step", self._job.name)
            done = await self._job.step()
        hand.is_in_step = False
        if done is None and not hand.is_aborted:
            raise JobOverran(f"a step of {self._job.name} took longer than its lease")
        return done

    # The books --------------------------------------------------------------------------------------------------------

    async def _open(self, standing: Standing) -> RunInHand | None:
        """The run in hand, or a new one. None: the job is not to run after all."""
        if self._hand.run is None:
            run = RunInHand(started_at=trio.current_time())
            if standing.has_order and self._job.on_order is not None:
                self._job.on_order()
            if standing.is_unfinished or self._job.interval_s >= seldom_s:
                await self._begin(run)
                if run.number is None:
                    return None
            self._hand.run = run
        return self._hand.run

    async def _begin(self, run: RunInHand) -> None:
        run.number, standing = await self._office.book.begin(self._job.name, holder=self._office.holder)
        run.noted_at = trio.current_time()
        self._office.board.put(self._job.name, standing)

    async def _note(self, run: RunInHand) -> None:
        now = trio.current_time()
        if run.number is None:
            await self._begin(run)
        elif now - run.noted_at >= self._office.times.note_interval_s:
            await self._office.book.note(run.number, rows_count=run.rows_count, steps_count=run.steps_count)
            run.noted_at = now

    async def _fail(self, code: str) -> _Pause:
        if self._hand.run is None:
            self._hand.run = RunInHand(started_at=trio.current_time())
        await self._end("failed", code)
        standing, times = await self._office.board.standing(self._job.name), self._office.times
        log.warning("job.failed", job=self._job.name, code=code, failures_count=standing.failures_count)
        if standing.state == "dead":
            log.error("job.died", job=self._job.name, code=code, failures_count=standing.failures_count)
            return _Pause(self._job.interval_s)
        delay_s = retry_delay_s(
            standing.failures_count, delay_s_min=times.failure_delay_s_min, delay_s_max=times.failure_delay_s_max
        )
        return _Pause(delay_s, is_backoff=True)

    async def _end(self, outcome: Outcome, code: str = "") -> _Pause:
        """The run in hand, if there is one, is over. Where the store is gone it stays in hand."""
        hand, job, office = self._hand, self._job, self._office
        run, before = hand.run, await office.board.standing(job.name)
        if run is not None and (run.is_worth_noting or outcome == "failed" or before.failures_count):
            ended = EndedRun(
                number=run.number,
                outcome=outcome,
                rows_count=run.rows_count,
                steps_count=run.steps_count,
                duration_s=trio.current_time() - run.started_at,
                error_code=code,
            )
            office.board.put(job.name, await office.book.end(job.name, ended, holder=office.holder))
            _count(office.metrics, job.name, ended)
        hand.run, hand.is_aborted = None, False
        return _Pause(job.interval_s)


def _is_outage(error: ChattyError) -> bool:
    """Of the store. A statement that takes too long is the job's own."""
    is_own = isinstance(error, Overloaded) and error.limiter == "database_statement_timeout"
    return isinstance(error, RetryableError) and not is_own


def _count(metrics: Metrics, job: str, run: EndedRun) -> None:
    metrics.job_runs.labels(job=job, outcome=run.outcome).inc()
    metrics.job_rows.labels(job=job).inc(run.rows_count)
    metrics.job_duration_seconds.labels(job=job).observe(run.duration_s)


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
