"""The janitor's actors on a mock clock: leases, waking, outages, failures, what the operator wants, draining."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from chatty.actors.janitor import Janitor, JanitorTimes, start_janitor
from chatty.actors.job_board import Job
from chatty.actors.runtime import Supervisor, open_supervisor
from chatty.errors import AuditBroken, OutcomeUnknown, Overloaded, StoreUnavailable
from chatty.services.jobs import Done, EndedRun, Leases, RunBook, Standing, state_after
from chatty.telemetry import Metrics

TIMES = JanitorTimes(
    lease_lifetime_s=60.0,
    retry_delay_s_min=1.0,
    retry_delay_s_max=8.0,
    failure_delay_s_min=2.0,
    failure_delay_s_max=30.0,
)
INTERVAL_S = 10.0
FAILURES_MAX = 4


@dataclass
class LeasesInMemory(Leases):
    """The port's rules on Trio's clock. is_down: as if the database could not be reached."""

    held: dict[str, tuple[str, float]] = field(default_factory=dict)
    is_down: bool = False
    asked_count: int = 0

    async def take(self, job: str, *, holder: str, lifetime_s: float) -> bool:
        await trio.lowlevel.checkpoint()
        self.asked_count += 1
        if self.is_down:
            raise StoreUnavailable("down")
        now = trio.current_time()
        owner, ends_at = self.held.get(job, (holder, now))
        if owner != holder and ends_at > now:
            return False
        self.held[job] = (holder, now + lifetime_s)
        return True

    async def release(self, job: str, *, holder: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_down:
            raise StoreUnavailable("down")
        if self.held.get(job, ("", 0.0))[0] == holder:
            del self.held[job]


@dataclass
class BookInMemory(RunBook):
    """The port's rules. runs: (job, outcome, rows, code), open ones with "running"."""

    known: dict[str, Standing] = field(default_factory=dict)
    runs: list[tuple[str, str, int, str]] = field(default_factory=list)

    def change(self, job: str, **changes: Any) -> None:
        """What the operator wrote."""
        self.known[job] = replace(self.known[job], **changes)

    async def enroll(self, intervals_s: Mapping[str, float]) -> None:
        await trio.lowlevel.checkpoint()
        self.known = {job: self.known.get(job, Standing()) for job in intervals_s}

    async def standings(self) -> Mapping[str, Standing]:
        await trio.lowlevel.checkpoint()
        return dict(self.known)

    async def begin(self, job: str, *, holder: str) -> tuple[int | None, Standing]:
        await trio.lowlevel.checkpoint()
        standing = self.known[job]
        if standing.state != "scheduled":
            return None, standing
        self.runs.append((job, "running", 0, ""))
        self.change(job, begun_order=standing.order_number, last_outcome="running")
        return len(self.runs) - 1, self.known[job]

    async def note(self, run: int, *, rows_count: int, steps_count: int) -> None:
        await trio.lowlevel.checkpoint()
        self.runs[run] = (self.runs[run][0], "running", rows_count, "")

    async def end(self, job: str, run: EndedRun, *, holder: str) -> Standing:
        await trio.lowlevel.checkpoint()
        ended = (job, run.outcome, run.rows_count, run.error_code)
        if run.number is None:
            self.runs.append(ended)
        else:
            self.runs[run.number] = ended
        state, failures_count = state_after(self.known[job], run.outcome, failures_max=FAILURES_MAX)
        self.change(job, state=state, failures_count=failures_count, last_outcome=run.outcome)
        return self.known[job]


@dataclass
class Work:
    """A step that keeps when it was called and does what it is told to, call by call."""

    times: list[float] = field(default_factory=list)
    outcomes: list[bool | Exception | Callable[[], Awaitable[bool]]] = field(default_factory=list)

    async def step(self) -> Done:
        await trio.lowlevel.checkpoint()
        self.times.append(trio.current_time())
        outcome = self.outcomes.pop(0) if self.outcomes else False
        if isinstance(outcome, Exception):
            raise outcome
        has_more = outcome if isinstance(outcome, bool) else await outcome()
        return Done(1 if has_more else 0, has_more=has_more)


class EndlessWork(Work):
    async def step(self) -> Done:
        await trio.sleep(0.01)
        return Done(1, has_more=True)


@asynccontextmanager
async def running(
    work: Work,
    leases: Leases,
    *,
    holder: str = "node-a",
    book: RunBook | None = None,
    interval_s: float = INTERVAL_S,
    first_look_s: float = 0.0,
    metrics: Metrics | None = None,
) -> AsyncIterator[tuple[Janitor, Supervisor]]:
    """jitter 0.5: each wait is exactly as long as named."""
    async with open_supervisor("root") as root:
        job = Job(name="sweep", step=work.step, interval_s=interval_s, first_look_s=first_look_s)
        janitor = await start_janitor(
            root,
            jobs=[job],
            leases=leases,
            book=book or BookInMemory(),
            holder=holder,
            metrics=metrics or Metrics(),
            times=TIMES,
            jitter=lambda: 0.5,
        )
        yield janitor, root


async def test_a_job_looks_again_after_its_interval(autojump_clock: MockClock) -> None:
    work = Work()
    async with running(work, LeasesInMemory()):
        await trio.sleep(25)
    assert work.times == [0, 10, 20]


async def test_a_first_look_may_wait_and_a_wake_ends_the_wait(autojump_clock: MockClock) -> None:
    waiting, woken = Work(), Work()
    async with running(waiting, LeasesInMemory(), interval_s=100.0, first_look_s=20.0):
        await trio.sleep(31)
    async with running(woken, LeasesInMemory(), interval_s=100.0, first_look_s=20.0) as (janitor, _):
        await trio.sleep(1)
        janitor.wake("sweep")
        await trio.sleep(30)
    assert (waiting.times, woken.times) == ([10], [32])


async def test_a_job_that_has_more_to_do_goes_on_at_once(autojump_clock: MockClock) -> None:
    work = Work(outcomes=[True, True, False])
    async with running(work, LeasesInMemory()):
        await trio.sleep(9)
    assert len(work.times) == 3
    assert work.times[-1] < 0.1


async def test_a_wake_shortens_the_wait_and_many_wakes_are_one(autojump_clock: MockClock) -> None:
    work = Work()
    async with running(work, LeasesInMemory()) as (janitor, _):
        await trio.sleep(3)
        for _ in range(100):
            janitor.wake("sweep")
        await trio.sleep(1)
    assert work.times == [0, 3]


async def test_only_the_holder_works_and_renews_before_the_end(autojump_clock: MockClock) -> None:
    ours, theirs, leases = Work(), Work(), LeasesInMemory()
    async with running(ours, leases):
        await trio.sleep(1)
        async with running(theirs, leases, holder="node-b"):
            await trio.sleep(295)
    assert theirs.times == []
    assert len(ours.times) == 30
    assert leases.asked_count == 15 + 30  # not with every look of the holder's


async def test_a_job_goes_over_to_another_when_its_holders_lease_has_ended(autojump_clock: MockClock) -> None:
    leases, work = LeasesInMemory(held={"sweep": ("a dead process", 15.0)}), Work()
    async with running(work, leases):
        await trio.sleep(25)
    assert work.times == [20]


async def test_a_drained_janitor_gives_its_lease_back_even_if_there_is_more_to_do(autojump_clock: MockClock) -> None:
    leases = LeasesInMemory()
    async with running(EndlessWork(), leases):
        await trio.sleep(1)
        assert leases.held["sweep"][0] == "node-a"
    assert leases.held == {}
    assert trio.current_time() < 2


async def test_a_lease_that_cannot_be_given_back_holds_nothing_up(autojump_clock: MockClock) -> None:
    leases = LeasesInMemory()
    async with running(Work(), leases):
        await trio.sleep(1)
        leases.is_down = True
    assert trio.current_time() == 1


async def test_while_the_store_is_gone_the_pauses_grow_and_it_resumes_by_itself(autojump_clock: MockClock) -> None:
    leases, work = LeasesInMemory(is_down=True), Work()
    with capture_logs() as logs:
        async with running(work, leases) as (_, root):
            await trio.sleep(1000)
            assert leases.asked_count == 3 + 124 + 1  # at 0, 1, 3, 7 and then every 8 s
            assert [actor.restart_count for actor in root.snapshot().children[0].children] == [0, 0]
            leases.is_down = False
            await trio.sleep(8)
            assert len(work.times) == 1
    assert [event["event"] for event in logs] == ["job.interrupted", "lease.taken", "job.resumed"]
    assert logs[0]["code"] == "store_unavailable"


async def test_a_wake_does_not_shorten_the_pause_after_a_failure(autojump_clock: MockClock) -> None:
    work = Work(outcomes=[StoreUnavailable("down"), OutcomeUnknown("lost at COMMIT")])
    async with running(work, LeasesInMemory()) as (janitor, _):
        for _ in range(20):
            await trio.sleep(0.1)
            janitor.wake("sweep")
        await trio.sleep(3)
    assert work.times == [0, 1, 3]


async def test_a_step_that_outlasts_its_lease_is_cancelled_and_tried_again(autojump_clock: MockClock) -> None:
    async def hang() -> bool:
        await trio.sleep_forever()
        raise AssertionError

    work, book = Work(outcomes=[hang]), BookInMemory()
    async with running(work, LeasesInMemory(), book=book):
        await trio.sleep(63)
    assert work.times == [0, 60 + 2]
    assert book.runs == [("sweep", "failed", 0, "job_overran"), ("sweep", "done", 0, "")]


async def test_a_step_that_crashes_each_time_never_takes_the_tree_down_and_ends_the_job(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    work, book, metrics = Work(outcomes=[ValueError("a bug")] * 50), BookInMemory(), Metrics()
    async with running(work, LeasesInMemory(), book=book, metrics=metrics) as (_, root):
        await trio.sleep(600)
        (branch,) = root.snapshot().children
        assert branch.restart_count == 0
        assert [actor.restart_count for actor in branch.children if actor.name == "sweep"] == [FAILURES_MAX]
    assert book.runs == [("sweep", "failed", 0, "internal_error")] * FAILURES_MAX
    assert book.known["sweep"].state == "dead"
    scraped = metrics.render().decode()
    assert 'chatty_job_state{job="sweep",state="dead"} 1.0' in scraped
    assert f'chatty_job_runs_total{{job="sweep",outcome="failed"}} {FAILURES_MAX}.0' in scraped


# Failures -----------------------------------------------------------------------------------------------------------


async def test_a_failing_job_waits_longer_each_time_then_is_dead_until_it_is_resumed(autojump_clock: MockClock) -> None:
    work, book = Work(outcomes=[AuditBroken("altered")] * FAILURES_MAX), BookInMemory()
    with capture_logs() as logs:
        async with running(work, LeasesInMemory(), book=book) as (janitor, _):
            await trio.sleep(500)
            assert work.times == [0, 2, 2 + 4, 2 + 4 + 8]
            assert book.known["sweep"].state == "dead"
            book.change("sweep", state="scheduled", failures_count=0)
            janitor.read_books()
            await trio.sleep(5)
            assert work.times[4:] == [500]
    assert [event["event"] for event in logs if event["event"].startswith("job.")] == ["job.failed"] * 4 + ["job.died"]


async def test_a_run_that_is_done_makes_up_for_all_failures(autojump_clock: MockClock) -> None:
    broken = AuditBroken("altered")
    work, book = Work(outcomes=[broken, broken, broken, False, broken, broken, broken, False]), BookInMemory()
    async with running(work, LeasesInMemory(), book=book):
        await trio.sleep(120)
    assert [outcome for _, outcome, _, _ in book.runs] == (["failed"] * 3 + ["done"]) * 2
    assert book.known["sweep"] == Standing(last_outcome="done")


@pytest.mark.parametrize(
    ("error", "is_failure"),
    [
        (StoreUnavailable("down"), False),
        (Overloaded(limiter="database_pool", retry_after_s=1.0), False),
        (Overloaded(limiter="database_statement_timeout", retry_after_s=1.0), True),
    ],
)
async def test_an_outage_is_no_failure_and_a_statement_that_takes_too_long_is(
    autojump_clock: MockClock, error: Exception, is_failure: bool
) -> None:
    work, book = Work(outcomes=[error]), BookInMemory()
    async with running(work, LeasesInMemory(), book=book):
        await trio.sleep(1.5)
    assert bool(book.runs) is is_failure


# What the operator wants --------------------------------------------------------------------------------------------


async def test_an_order_runs_a_job_within_a_second_even_while_it_waits_after_a_failure(
    autojump_clock: MockClock,
) -> None:
    work, book = Work(outcomes=[AuditBroken("altered")] * 3), BookInMemory()
    async with running(work, LeasesInMemory(), book=book):
        await trio.sleep(7)
        assert work.times == [0, 2, 6]
        book.change("sweep", order_number=1)
        await trio.sleep(1.5)
        assert len(work.times) == 4
    assert book.runs[-1] == ("sweep", "done", 0, "")
    assert not book.known["sweep"].has_order


async def test_a_paused_job_ends_after_its_step_and_goes_on_when_it_is_resumed(autojump_clock: MockClock) -> None:
    book = BookInMemory()
    async with running(EndlessWork(), LeasesInMemory(), book=book) as (janitor, _):
        await trio.sleep(3)
        book.change("sweep", state="paused")
        janitor.read_books()
        await trio.sleep(1)
        [(_, outcome, rows_count, _)] = book.runs
        assert outcome == "paused"
        assert rows_count > 200
        janitor.wake("sweep")
        await trio.sleep(20)
        assert len(book.runs) == 1
        book.change("sweep", state="scheduled")
        await trio.sleep(1.5)
        assert [run[1] for run in book.runs] == ["paused", "running"]
    assert [run[1] for run in book.runs] == ["paused", "stopped"]


async def test_an_abort_cuts_the_step_in_hand_off_and_the_job_is_due_again_later(autojump_clock: MockClock) -> None:
    async def hang() -> bool:
        await trio.sleep_forever()
        raise AssertionError

    work, book = Work(outcomes=[True, hang]), BookInMemory()
    async with running(work, LeasesInMemory(), book=book) as (janitor, _):
        await trio.sleep(2)
        book.change("sweep", abort_number=1)
        janitor.read_books()
        await trio.sleep(INTERVAL_S - 1)
        assert book.runs == [("sweep", "aborted", 1, "")]
        await trio.sleep(2)
    assert [round(time) for time in work.times] == [0, 0, 12]


async def test_runs_of_a_frequent_job_that_do_nothing_are_not_kept_those_of_a_seldom_one_are(
    autojump_clock: MockClock,
) -> None:
    frequent, seldom = BookInMemory(), BookInMemory()
    async with running(Work(), LeasesInMemory(), book=frequent):
        await trio.sleep(25)
    async with running(Work(), LeasesInMemory(), book=seldom, interval_s=1_000.0):
        await trio.sleep(2_500)
    assert frequent.runs == []
    assert seldom.runs == [("sweep", "done", 0, "")] * 3


async def test_a_seldom_job_does_not_run_again_because_a_server_has_started(autojump_clock: MockClock) -> None:
    """Another node did it a moment ago, or this one before its restart. What nobody ended goes on at once, all the same."""
    book = BookInMemory(known={"sweep": Standing(last_outcome="done", last_age_s=300.0)})
    work = Work()
    async with running(work, LeasesInMemory(), book=book, interval_s=1_000.0):
        await trio.sleep(600)
    assert work.times == [400]
    cut = BookInMemory(known={"sweep": Standing(last_outcome="stopped", last_age_s=300.0)})
    work = Work()
    async with running(work, LeasesInMemory(), book=cut, interval_s=1_000.0, first_look_s=500.0):
        await trio.sleep(10)
    assert len(work.times) == 1


async def test_waking_a_janitor_that_has_stopped_is_no_error(autojump_clock: MockClock) -> None:
    async with running(Work(), LeasesInMemory()) as (janitor, _):
        pass
    janitor.wake("sweep")
