"""A question and its answer: who may give it, what ends the waiting, what is a crash and what is not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from chatty.actors.runtime import (
    ActorCrashed,
    ActorSpec,
    ActorStopped,
    Ask,
    AskTimeout,
    Intensity,
    Mailbox,
    MailboxFull,
    open_supervisor,
)


@dataclass(eq=False)
class Double(Ask[int]):
    number: int


class Stale(Exception):
    """A domain error."""


Run = Callable[[Mailbox[Double]], Awaitable[None]]


def spec(run: Run, *, mailbox_count_max: int = 10) -> ActorSpec[Double]:
    return ActorSpec(name="doubling", run=run, mailbox_count_max=mailbox_count_max)


async def doubling(mailbox: Mailbox[Double]) -> None:
    mailbox.ready()
    async for request in mailbox:
        with request.refusing(Stale):
            if request.number == 0:
                raise Stale
            if request.number < 0:
                raise ValueError
            request.answer(2 * request.number)


async def silent(mailbox: Mailbox[Double]) -> None:
    mailbox.ready()
    async for _ in mailbox:
        pass


async def test_an_ask_returns_the_answer(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        ref = await root.start(spec(doubling))
        assert await ref.ask(Double(21), timeout_s=1) == 42


async def test_the_answer_may_come_from_whom_it_was_handed_on_to(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        behind = await root.start(spec(doubling))

        async def forwarding(mailbox: Mailbox[Double]) -> None:
            mailbox.ready()
            async for request in mailbox:
                behind.tell(request)

        front = await root.start(spec(forwarding))
        assert await front.ask(Double(2), timeout_s=1) == 4


async def test_the_first_answer_wins() -> None:
    heard: list[int | Exception] = []
    request = Double(1, on_answer=heard.append)
    request.answer(2)
    request.answer(3)
    request.refuse(Stale())
    assert heard == [2]


async def test_on_answer_may_be_set_and_hears_a_refusal() -> None:
    heard: list[int | Exception] = []
    request = Double(1)
    request.on_answer = heard.append
    error = Stale()
    request.refuse(error)
    assert heard == [error]


async def test_on_answer_hears_of_a_crash_once(autojump_clock: MockClock) -> None:
    heard: list[int | Exception] = []
    async with open_supervisor("root") as root:
        ref = await root.start(spec(doubling))
        ref.tell(Double(-1, on_answer=heard.append))
        await trio.sleep(1)
    assert [type(one) for one in heard] == [ActorCrashed]


async def test_an_on_answer_that_raises_is_not_the_answerers_crash(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def acked(_: int | Exception) -> None:
        raise MailboxFull("session")

    async with open_supervisor("root") as root:
        ref = await root.start(spec(doubling))
        ref.tell(Double(1, on_answer=acked))
        assert await ref.ask(Double(1), timeout_s=1) == 2
        assert root.snapshot().children[0].restart_count == 0
    assert [record.message for record in caplog.records] == ["ask.callback_failed"]


async def test_a_refusal_is_raised_in_the_asker(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        ref = await root.start(spec(doubling))
        with pytest.raises(Stale):
            await ref.ask(Double(0), timeout_s=1)


async def test_a_thousand_refusals_are_no_crash(autojump_clock: MockClock) -> None:
    async with open_supervisor("root", intensity=Intensity(restart_count_max=0)) as root:
        ref = await root.start(spec(doubling))
        for _ in range(1_000):
            with pytest.raises(Stale):
                await ref.ask(Double(0), timeout_s=1)
        assert await ref.ask(Double(1), timeout_s=1) == 2
        snapshot = root.snapshot().children[0]
        assert (snapshot.restart_count, snapshot.quarantined_count) == (0, 0)


async def test_refusing_lets_other_errors_crash(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        ref = await root.start(spec(doubling))
        with pytest.raises(ActorCrashed, match="doubling"):
            await ref.ask(Double(-1), timeout_s=1)
        assert await ref.ask(Double(1), timeout_s=1) == 2


async def test_refusing_never_takes_cancelled() -> None:
    request = Double(1)
    with trio.move_on_after(0) as scope, request.refusing(Exception):
        await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not request.is_answered


async def test_without_an_answer_the_ask_times_out_as_too_slow(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        ref = await root.start(spec(silent))
        with pytest.raises(trio.TooSlowError) as caught:
            await ref.ask(Double(1), timeout_s=3)
        assert isinstance(caught.value, AskTimeout)
        assert trio.current_time() == 3


async def test_an_answer_after_the_asker_has_gone_is_dropped(autojump_clock: MockClock) -> None:
    kept: list[Double] = []

    async def keeping(mailbox: Mailbox[Double]) -> None:
        mailbox.ready()
        kept.extend([request async for request in mailbox])

    async with open_supervisor("root") as root:
        ref = await root.start(spec(keeping))
        with pytest.raises(AskTimeout):
            await ref.ask(Double(1), timeout_s=1)
    kept[0].answer(2)
    assert kept[0].is_answered


async def test_a_question_is_asked_once(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        ref = await root.start(spec(doubling))
        request = Double(1)
        await ref.ask(request, timeout_s=1)
        with pytest.raises(RuntimeError, match="asked before"):
            await ref.ask(request, timeout_s=1)


async def test_a_question_that_found_the_mailbox_full_may_be_asked_again(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        ref = await root.start(spec(doubling, mailbox_count_max=1))
        request = Double(2)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):  # the first goes straight to the one who waits
            ref.tell(Double(1))
        with pytest.raises(MailboxFull):
            await ref.ask(request, timeout_s=1)
        await trio.sleep(1)
        assert await ref.ask(request, timeout_s=1) == 4


async def test_an_ask_that_still_waits_when_the_actor_stops_is_told(autojump_clock: MockClock) -> None:
    async def stuck(mailbox: Mailbox[Double]) -> None:
        mailbox.ready()
        async for _ in mailbox:
            await trio.sleep_forever()

    errors: list[int | Exception] = []
    async with open_supervisor("root") as root:
        ref = await root.start(spec(stuck))
        for number in (1, 2):
            ref.tell(Double(number, on_answer=errors.append))
        await trio.testing.wait_all_tasks_blocked()
    assert [type(error) for error in errors] == [ActorStopped, ActorStopped]


async def test_dataclass_patterns_see_only_their_own_fields() -> None:
    match Double(7):
        case Double(number):
            assert number == 7
    assert Double(7) != Double(7)
