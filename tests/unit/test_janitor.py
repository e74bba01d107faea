"""The janitor's actors on a mock clock: leases, waking, outages, draining."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from chatty.actors.janitor import Janitor, JanitorTimes, Job, start_janitor
from chatty.actors.runtime import Supervisor, open_supervisor
from chatty.errors import OutcomeUnknown, StoreUnavailable
from chatty.services.jobs import Leases

TIMES = JanitorTimes(lease_lifetime_s=60.0, retry_delay_s_min=1.0, retry_delay_s_max=8.0)
INTERVAL_S = 10.0


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
class Work:
    """A step that keeps when it was called and does what it is told to, call by call."""

    times: list[float] = field(default_factory=list)
    outcomes: list[bool | Exception | Callable[[], Awaitable[bool]]] = field(default_factory=list)

    async def step(self) -> bool:
        await trio.lowlevel.checkpoint()
        self.times.append(trio.current_time())
        outcome = self.outcomes.pop(0) if self.outcomes else False
        if isinstance(outcome, Exception):
            raise outcome
        return outcome if isinstance(outcome, bool) else await outcome()


class EndlessWork(Work):
    async def step(self) -> bool:
        await trio.sleep(0.01)
        return True


@asynccontextmanager
async def running(work: Work, leases: Leases, *, holder: str = "node-a") -> AsyncIterator[tuple[Janitor, Supervisor]]:
    """jitter 0.5: each wait is exactly as long as named."""
    async with open_supervisor("root") as root:
        job = Job(name="sweep", step=work.step, interval_s=INTERVAL_S)
        yield (
            await start_janitor(root, jobs=[job], leases=leases, holder=holder, times=TIMES, jitter=lambda: 0.5),
            root,
        )


async def test_a_job_looks_again_after_its_interval(autojump_clock: MockClock) -> None:
    work = Work()
    async with running(work, LeasesInMemory()):
        await trio.sleep(25)
    assert work.times == [0, 10, 20]


async def test_a_first_look_may_wait_and_a_wake_ends_the_wait(autojump_clock: MockClock) -> None:
    waiting, woken = Work(), Work()
    async with open_supervisor("root") as root:
        jobs = [
            Job(name=name, step=work.step, interval_s=100.0, first_look_s=20.0)
            for name, work in (("waiting", waiting), ("woken", woken))
        ]
        janitor = await start_janitor(root, jobs=jobs, leases=LeasesInMemory(), holder="node-a", jitter=lambda: 0.5)
        await trio.sleep(1)
        janitor.wake("woken")
        await trio.sleep(30)
    assert (waiting.times, woken.times) == ([10], [1])


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
            assert root.snapshot().children[0].children[0].restart_count == 0
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

    work = Work(outcomes=[hang])
    async with running(work, LeasesInMemory()):
        await trio.sleep(62)
    assert work.times == [0, 60 + 1]


async def test_a_step_that_crashes_each_time_never_takes_the_tree_down(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(outcomes=[ValueError("a bug")] * 50)
    async with running(work, LeasesInMemory()) as (_, root):
        await trio.sleep(600)
        (branch,) = root.snapshot().children
        assert branch.restart_count == 0
        assert branch.children[0].restart_count > 5


async def test_waking_a_janitor_that_has_stopped_is_no_error(autojump_clock: MockClock) -> None:
    async with running(Work(), LeasesInMemory()) as (janitor, _):
        pass
    janitor.wake("sweep")
