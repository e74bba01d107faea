"""Supervisors: order of start and stop, restarts and their limits, drain, cancellation, the order of asks."""

# ruff: noqa: PT012, what is tested is what comes out of a whole open_supervisor block

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from chatty.actors.runtime import (
    ActorCrashed,
    ActorRef,
    ActorSpec,
    ActorStopped,
    Ask,
    AskOutOfOrder,
    Intensity,
    Mailbox,
    Observer,
    Restart,
    StartFailed,
    Supervisor,
    SupervisorFailed,
    open_supervisor,
)
from chatty.actors.runtime.restarts import Backoff, Window

request_id: ContextVar[str] = ContextVar("request_id", default="none")


@dataclass(eq=False)
class Echo(Ask[str]):
    text: str


Run = Callable[[Mailbox[Echo]], Awaitable[None]]


def spec(run: Run, *, name: str = "echo", **more: Any) -> ActorSpec[Echo]:
    return ActorSpec(name=name, run=run, mailbox_count_max=100, **more)


async def echoing(mailbox: Mailbox[Echo]) -> None:
    mailbox.ready()
    async for echo in mailbox:
        if echo.text == "crash":
            raise ValueError
        if echo.text == "return":
            return
        echo.answer(echo.text)


def logging_to(log: list[str], name: str) -> Run:
    async def run(mailbox: Mailbox[Echo]) -> None:
        await trio.sleep(1)
        log.append(f"{name} ready")
        mailbox.ready()
        async for echo in mailbox:
            log.append(f"{name} {echo.text}")  # noqa: PERF401, each as it comes
        await trio.sleep(1)
        log.append(f"{name} done")

    return run


# --- starting


async def test_children_start_in_call_order_and_stop_in_reverse(autojump_clock: MockClock) -> None:
    log: list[str] = []
    async with open_supervisor("root") as root:
        await root.start(spec(logging_to(log, "a")))
        inner = await root.start_supervisor("inner")
        for name in "bc":
            await inner.start(spec(logging_to(log, name)))
        await root.start(spec(logging_to(log, "d")))
    assert log == [f"{name} ready" for name in "abcd"] + [f"{name} done" for name in "dcba"]


@pytest.mark.parametrize("how", ["raises", "returns", "hangs"])
async def test_a_start_that_fails_says_so_and_harms_no_sibling(autojump_clock: MockClock, how: str) -> None:
    async def failing(mailbox: Mailbox[Echo]) -> None:
        if how == "raises":
            raise OSError
        if how == "hangs":
            await trio.sleep_forever()

    async with open_supervisor("root", intensity=Intensity(restart_count_max=0)) as root:
        ref = await root.start(spec(echoing))
        with pytest.raises(StartFailed) as caught:
            await root.start(spec(failing, start_timeout_s=2))
        assert isinstance(caught.value.__cause__, OSError) is (how == "raises")
        assert trio.current_time() == (2 if how == "hangs" else 0)
        assert len(root.snapshot().children) == 1
        assert await ref.ask(Echo("a"), timeout_s=1) == "a"


async def test_a_start_that_is_cancelled_leaves_no_actor(autojump_clock: MockClock) -> None:
    async def hanging(mailbox: Mailbox[Echo]) -> None:
        await trio.sleep_forever()

    async with open_supervisor("root") as root:
        with trio.move_on_after(1):
            await root.start(spec(hanging))
        assert root.snapshot().children == []
    assert trio.current_time() == 1


async def test_an_actor_runs_in_the_context_of_the_tree_not_of_who_started_it(autojump_clock: MockClock) -> None:
    seen: list[str] = []

    async def run(mailbox: Mailbox[Echo]) -> None:
        seen.append(request_id.get())
        mailbox.ready()
        async for _ in mailbox:
            pass

    async with open_supervisor("root") as root:
        request_id.set("r1")
        await root.start(spec(run))
    assert seen == ["none"]


# --- restarting


@pytest.mark.parametrize(
    ("restart", "text", "is_restarted"),
    [
        (Restart.PERMANENT, "crash", True),
        (Restart.PERMANENT, "return", True),
        (Restart.TRANSIENT, "crash", True),
        (Restart.TRANSIENT, "return", False),
        (Restart.TEMPORARY, "crash", False),
        (Restart.TEMPORARY, "return", False),
    ],
)
async def test_who_is_restarted_after_what(
    autojump_clock: MockClock, restart: Restart, text: str, is_restarted: bool
) -> None:
    async with open_supervisor("root") as root:
        ref = await root.start(spec(echoing, restart=restart))
        ref.tell(Echo(text))
        await trio.sleep(3)
        if is_restarted:
            assert await ref.ask(Echo("a"), timeout_s=1) == "a"
        else:
            await ref.wait_stopped()
            with pytest.raises(ActorStopped):
                ref.tell(Echo("a"))
            assert root.snapshot().children == []


async def test_the_asker_of_an_actor_that_is_never_restarted_hears_of_the_crash(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        ref = await root.start(spec(echoing, restart=Restart.TEMPORARY))
        with pytest.raises(ActorCrashed):
            await ref.ask(Echo("crash"), timeout_s=1)


async def test_each_start_has_fresh_locals_and_the_same_mailbox(autojump_clock: MockClock) -> None:
    seen: list[tuple[int, str]] = []

    async def counting(mailbox: Mailbox[Echo]) -> None:
        count = 0
        mailbox.ready()
        async for echo in mailbox:
            count += 1
            seen.append((count, echo.text))
            if len(seen) == 2:
                raise ValueError

    async with open_supervisor("root") as root:
        ref = await root.start(spec(counting))
        for text in "abc":
            ref.tell(Echo(text))
        await trio.sleep(1)
    assert seen == [(1, "a"), (2, "b"), (1, "b"), (2, "c")]


async def test_restarts_wait_twice_as_long_each_time(autojump_clock: MockClock) -> None:
    began_at: list[float] = []

    async def crashing(mailbox: Mailbox[Echo]) -> None:
        began_at.append(trio.current_time())
        mailbox.ready()
        raise ValueError

    intensity = Intensity(restart_count_max=5, within_s=60, backoff_s_min=1, backoff_s_max=5)
    with pytest.raises(SupervisorFailed) as caught:
        async with open_supervisor("root", intensity=intensity) as root:
            await root.start(spec(crashing))
            await trio.sleep_forever()
    assert began_at == [0, 1, 3, 7, 12, 17]
    assert isinstance(caught.value.__cause__, ValueError)


@given(lived_s=st.lists(st.floats(0, 20), max_size=100))
def test_a_backoff_stays_in_bounds_and_starts_over_after_a_long_life(lived_s: list[float]) -> None:
    intensity = Intensity()
    backoff = Backoff(intensity)
    for one in lived_s:
        wait_s = backoff.next_s(lived_s=one)
        assert intensity.backoff_s_min <= wait_s <= intensity.backoff_s_max
        assert wait_s == intensity.backoff_s_min or one < intensity.within_s


@given(gaps_s=st.lists(st.integers(0, 4), max_size=50))
def test_a_window_is_exceeded_by_one_more_than_its_maximum(gaps_s: list[int]) -> None:
    window = Window(Intensity(restart_count_max=3, within_s=5))
    times: list[int] = []
    for gap_s in gaps_s:
        times.append((times[-1] if times else 0) + gap_s)
        recent = [time_s for time_s in times if times[-1] - time_s <= 5]
        assert window.is_exceeded_by(times[-1]) is (len(recent) > 3)


async def crash(ref: ActorRef[Echo]) -> None:
    with pytest.raises(ActorCrashed):
        await ref.ask(Echo("crash"), timeout_s=10)


async def test_a_crash_is_not_noticed_by_siblings(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        sick = await root.start(spec(echoing, name="sick"))
        well = await root.start(spec(echoing, name="well"))
        await crash(sick)
        assert await well.ask(Echo("a"), timeout_s=1) == "a"
        assert [child.restart_count for child in root.snapshot().children] == [2, 0]


async def test_a_supervisor_that_fails_is_restarted_with_its_children_fresh(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        outer = await root.start(spec(echoing, name="outer"))
        inner = await root.start_supervisor("inner", intensity=Intensity(restart_count_max=1))
        deeper = await inner.start_supervisor("deeper")
        sick = await inner.start(spec(echoing, name="sick"))
        well = await deeper.start(spec(echoing, name="well"))
        brief = await inner.start(spec(echoing, name="brief", restart=Restart.TEMPORARY))
        await crash(sick)
        await trio.sleep(1)
        for ref in (sick, well, outer):
            assert await ref.ask(Echo("a"), timeout_s=1) == "a"
        await brief.wait_stopped()
        snapshot = root.snapshot().children[1]
        assert (snapshot.state, snapshot.restart_count) == ("running", 1)
        assert [child.name for child in snapshot.children] == ["deeper", "sick"]
        assert (snapshot.last_error or "").startswith("ValueError at")


async def test_a_restarted_supervisor_counts_anew(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        inner = await root.start_supervisor("inner", intensity=Intensity(restart_count_max=1, within_s=60))
        ref = await inner.start(spec(echoing))
        await crash(ref)
        ref.tell(Echo("return"))
        assert await ref.ask(Echo("a"), timeout_s=10) == "a"
        assert root.snapshot().children[0].restart_count == 1


async def test_while_its_supervisor_waits_a_mailbox_still_takes_messages(autojump_clock: MockClock) -> None:
    async with open_supervisor("root", intensity=Intensity(backoff_s_min=10)) as root:
        inner = await root.start_supervisor("inner", intensity=Intensity(restart_count_max=0))
        ref = await inner.start(spec(echoing))
        ref.tell(Echo("crash"))
        await trio.sleep(5)
        assert root.snapshot().children[0].state == "backing off"
        assert root.snapshot().children[0].children[0].state == "suspended"
        assert await ref.ask(Echo("a"), timeout_s=30) == "a"


async def test_the_failure_of_a_supervisor_counts_against_its_parent(autojump_clock: MockClock) -> None:
    none_bearable = Intensity(restart_count_max=0)
    with pytest.raises(SupervisorFailed, match="root"):
        async with open_supervisor("root", intensity=none_bearable) as root:
            inner = await root.start_supervisor("inner", intensity=none_bearable)
            ref = await inner.start(spec(echoing))
            ref.tell(Echo("crash"))
            await trio.sleep_forever()


async def test_a_supervisor_whose_child_does_not_start_again_fails(autojump_clock: MockClock) -> None:
    is_broken = False

    async def breaking(mailbox: Mailbox[Echo]) -> None:
        if is_broken:
            raise OSError
        await echoing(mailbox)

    with pytest.raises(SupervisorFailed, match="root"):
        async with open_supervisor("root", intensity=Intensity(restart_count_max=1)) as root:
            inner = await root.start_supervisor("inner", intensity=Intensity(restart_count_max=0))
            ref = await inner.start(spec(breaking))
            is_broken = True
            ref.tell(Echo("crash"))
            await trio.sleep_forever()


# --- stopping


async def test_what_was_queued_is_handled_before_the_stop(autojump_clock: MockClock) -> None:
    log: list[str] = []
    async with open_supervisor("root") as root:
        ref = await root.start(spec(logging_to(log, "a")))
        for text in "xyz":
            ref.tell(Echo(text))
    assert log == ["a ready", "a x", "a y", "a z", "a done"]


async def test_a_draining_actor_is_told_nothing_more(autojump_clock: MockClock) -> None:
    errors: list[Exception] = []

    async def slow(mailbox: Mailbox[Echo]) -> None:
        mailbox.ready()
        async for _ in mailbox:
            await trio.sleep(2)

    async def late(ref: ActorRef[Echo], root: Supervisor) -> None:
        await trio.sleep(1)
        assert root.snapshot().children[0].state == "draining"
        with pytest.raises(ActorStopped) as caught:
            ref.tell(Echo("late"))
        with pytest.raises(ActorStopped):
            await root.start(spec(echoing))
        errors.append(caught.value)

    async with trio.open_nursery() as nursery, open_supervisor("root") as root:
        ref = await root.start(spec(slow))
        ref.tell(Echo("early"))
        nursery.start_soon(late, ref, root)
    assert len(errors) == 1


async def test_one_that_does_not_drain_in_time_is_cancelled(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def stuck(mailbox: Mailbox[Echo]) -> None:
        mailbox.ready()
        async for _ in mailbox:
            await trio.sleep_forever()

    async with open_supervisor("root") as root:
        ref = await root.start(spec(stuck, drain_timeout_s=3))
        ref.tell(Echo("a"))
        await trio.sleep(1)
    assert trio.current_time() == 4
    assert [record.message for record in caplog.records] == ["actor.drain_timed_out", "actor.messages_dropped"]


async def test_one_that_backs_off_stops_at_once(autojump_clock: MockClock) -> None:
    async with open_supervisor("root", intensity=Intensity(backoff_s_min=20)) as root:
        ref = await root.start(spec(echoing))
        heard: list[str | Exception] = []
        ref.tell(Echo("crash", on_answer=heard.append))
        await trio.sleep(1)
        assert root.snapshot().children[0].state == "backing off"
    assert trio.current_time() == 1
    assert [type(one) for one in heard] == [ActorStopped]


async def test_cancelling_the_tree_drains_nothing_and_tells_askers(autojump_clock: MockClock) -> None:
    log: list[str] = []
    heard: list[str | Exception] = []

    async def stubborn(mailbox: Mailbox[Echo]) -> None:
        mailbox.ready()
        try:
            async for _ in mailbox:
                await trio.sleep_forever()
        finally:
            log.append("cancelled")

    with trio.move_on_after(2) as scope:
        async with open_supervisor("root") as root:
            inner = await root.start_supervisor("inner")
            ref = await inner.start(spec(stubborn))
            ref.tell(Echo("a", on_answer=heard.append))
            ref.tell(Echo("b", on_answer=heard.append))
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert (trio.current_time(), log) == (2, ["cancelled"])
    assert [type(one) for one in heard] == [ActorStopped, ActorStopped]
    await ref.wait_stopped()


async def test_what_the_block_raises_comes_out_bare_after_the_drain(autojump_clock: MockClock) -> None:
    log: list[str] = []
    with pytest.raises(LookupError):
        async with open_supervisor("root") as root:
            await root.start(spec(logging_to(log, "a")))
            raise LookupError
    assert log == ["a ready", "a done"]


async def test_a_keyboard_interrupt_is_no_crash(autojump_clock: MockClock) -> None:
    async def interrupted(mailbox: Mailbox[Echo]) -> None:
        mailbox.ready()
        raise KeyboardInterrupt

    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with open_supervisor("root") as root:
            await root.start(spec(interrupted))
            await trio.sleep_forever()


async def test_a_passivated_actor_wakes_when_told(autojump_clock: MockClock) -> None:
    log: list[str] = []
    async with open_supervisor("root") as root:
        ref = await root.start(spec(logging_to(log, "a"), idle_timeout_s=10))
        await trio.sleep(20)
        assert root.snapshot().children[0].state == "passive"
        ref.tell(Echo("x"))
        await trio.sleep(3)
        assert root.snapshot().children[0].state == "running"
    assert log == ["a ready", "a done", "a ready", "a x", "a done"]


async def test_a_message_during_passivation_starts_it_again(autojump_clock: MockClock) -> None:
    log: list[str] = []
    async with open_supervisor("root", intensity=Intensity(restart_count_max=0)) as root:
        ref = await root.start(spec(logging_to(log, "a"), idle_timeout_s=10))
        await trio.sleep(10.5)  # its loop has ended, its clean-up has not
        ref.tell(Echo("x"))
        await trio.sleep(5)
        assert log == ["a ready", "a done", "a ready", "a x"]
        assert root.snapshot().children[0].restart_count == 0


async def test_a_passive_actor_is_woken_by_one_that_drains(autojump_clock: MockClock) -> None:
    log: list[str] = []

    async with open_supervisor("root") as root:
        behind = await root.start(spec(logging_to(log, "behind"), idle_timeout_s=5))

        async def parting(mailbox: Mailbox[Echo]) -> None:
            mailbox.ready()
            async for _ in mailbox:
                pass
            behind.tell(Echo("bye"))

        await root.start(spec(parting))
        await trio.sleep(20)
        log.clear()
    assert log == ["behind ready", "behind bye", "behind done"]


# --- the order of asks


def asking(ref: Callable[[], ActorRef[Echo]], heard: list[Exception]) -> Run:
    async def run(mailbox: Mailbox[Echo]) -> None:
        mailbox.ready()
        async for echo in mailbox:
            try:
                echo.answer(await ref().ask(Echo("deep"), timeout_s=1))
            except AskOutOfOrder as error:
                heard.append(error)

    return run


@pytest.mark.parametrize(("asked", "is_in_order"), [("earlier", True), ("self", False), ("later", False)])
async def test_asks_go_only_to_an_earlier_branch(autojump_clock: MockClock, asked: str, is_in_order: bool) -> None:
    refs: dict[str, ActorRef[Echo]] = {}
    heard: list[Exception] = []
    async with open_supervisor("root", check_asks=True) as root:
        branch = await root.start_supervisor("branch")
        refs["earlier"] = await branch.start(spec(echoing))
        refs["self"] = await root.start(spec(asking(lambda: refs[asked], heard)))
        refs["later"] = await root.start(spec(echoing))
        refs["self"].tell(Echo("go"))
        await trio.sleep(3)
        assert await refs["later"].ask(Echo("who is no actor may ask any"), timeout_s=1)
    assert (heard == []) is is_in_order


async def test_without_the_check_an_ask_to_itself_times_out(autojump_clock: MockClock) -> None:
    refs: list[ActorRef[Echo]] = []
    answers: list[str | Exception] = []
    heard: list[Exception] = []
    async with open_supervisor("root") as root:
        run = asking(lambda: refs[0], heard)
        refs.append(await root.start(spec(run, restart=Restart.TEMPORARY)))
        refs[0].tell(Echo("go", on_answer=answers.append))
        await refs[0].wait_stopped()
    assert heard == []
    assert ["AskTimeout" in str(answer) for answer in answers] == [True]


# --- restarting by hand


class Seen(Observer):
    """What an observer is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note_crash(self, branch: str, error: Exception) -> None:
        self.told.append(f"{branch} crashed")

    def note_restart(self, branch: str) -> None:
        self.told.append(f"{branch} restarted")


async def test_an_actor_that_is_restarted_by_hand_loses_nothing_and_harms_nobody(autojump_clock: MockClock) -> None:
    """What was in hand comes back first; it is counted and told, but not against the intensity."""
    runs: list[list[str]] = []
    seen_outside = Seen()
    go_on = trio.Event()

    async def run(mailbox: Mailbox[Echo]) -> None:
        seen: list[str] = []
        runs.append(seen)
        mailbox.ready()
        async for echo in mailbox:
            seen.append(echo.text)
            if len(runs) == 1 and echo.text == "b":
                await trio.sleep_forever()
            echo.answer(echo.text)
            if echo.text == "d":
                go_on.set()

    async with open_supervisor("root", intensity=Intensity(restart_count_max=0), observer=seen_outside) as root:
        branch = await root.start_supervisor("branch", intensity=Intensity(restart_count_max=0))
        ref = await branch.start(spec(run, name="one"))
        for text in "abcd":
            ref.tell(Echo(text))
        await trio.testing.wait_all_tasks_blocked()
        actor = root.actor_at(["branch", "one"])
        assert actor is not None
        assert actor.may_restart
        actor.restart()
        await go_on.wait()
        [shown] = root.snapshot().children[0].children
        assert (shown.state, shown.restart_count, shown.last_error) == ("running", 1, None)
        assert root.actor_at(["branch"]) is root.actor_at(["branch", "two"]) is root.actor_at(["one"]) is None
        assert await ref.ask(Echo("e"), timeout_s=1) == "e"
    assert runs == [["a", "b"], ["b", "c", "d", "e"]]
    assert seen_outside.told == ["branch restarted"]


async def test_what_ends_with_its_crash_or_does_not_run_is_not_restarted_by_hand(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        await root.start(spec(echoing, name="passing", restart=Restart.TEMPORARY))
        passing = root.actor_at(["passing"])
        assert passing is not None
        assert not passing.may_restart
        passing.restart()
        await trio.testing.wait_all_tasks_blocked()
        assert root.snapshot().children[0].restart_count == 0
