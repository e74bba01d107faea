"""The mailbox: its bound, its order, and what comes back after a crash."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_no_checkpoints, wait_all_tasks_blocked

from chatty.actors.runtime import (
    ActorCrashed,
    ActorRef,
    ActorSpec,
    ActorStopped,
    Ask,
    Intensity,
    Mailbox,
    MailboxFull,
    Snapshot,
    open_supervisor,
)

MANY = Intensity(restart_count_max=1_000)


@dataclass(eq=False)
class Put(Ask[int]):
    number: int


Run = Callable[[Mailbox[Put]], Awaitable[None]]


def spec(run: Run, *, mailbox_count_max: int = 100) -> ActorSpec[Put]:
    return ActorSpec(name="box", run=run, mailbox_count_max=mailbox_count_max)


def batching(arrived: list[int], *, poison: Sequence[int] = (), count_max: int = 100) -> Run:
    """Takes batches; one with poison in it crashes before anything of it has arrived."""

    async def run(mailbox: Mailbox[Put]) -> None:
        mailbox.ready()
        async for first in mailbox:
            batch = [first, *mailbox.take_queued(count_max - 1)]
            if any(put.number in poison for put in batch):
                raise ValueError
            for put in batch:
                arrived.append(put.number)
                put.answer(put.number)

    return run


async def test_tell_refuses_at_the_bound_and_has_no_checkpoint(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        ref = await root.start(spec(batching([]), mailbox_count_max=2))
        await wait_all_tasks_blocked()
        with assert_no_checkpoints():
            for number in range(3):  # the first goes straight to the one who waits
                ref.tell(Put(number))
            with pytest.raises(MailboxFull, match="box"):
                ref.tell(Put(3))


def test_a_mailbox_has_a_bound() -> None:
    with pytest.raises(TypeError):
        ActorSpec(name="box", run=batching([]))  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="mailbox_count_max"):
        spec(batching([]), mailbox_count_max=0)


async def test_a_stopped_actor_is_told_nothing(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        ref = await root.start(spec(batching([])))
    with pytest.raises(ActorStopped):
        ref.tell(Put(1))
    await ref.wait_stopped()


async def test_take_queued_takes_what_waits_up_to_its_bound(autojump_clock: MockClock) -> None:
    sizes: list[int] = []

    async def run(mailbox: Mailbox[Put]) -> None:
        mailbox.ready()
        async for _ in mailbox:
            with assert_no_checkpoints():
                sizes.append(1 + len(mailbox.take_queued(3)))

    async with open_supervisor("root") as root:
        ref = await root.start(spec(run))
        for number in range(6):
            ref.tell(Put(number))
    assert sizes in ([4, 2], [1, 4, 1])  # whether the actor had begun to wait is chance


async def test_of_six_with_one_poisonous_five_arrive_in_order(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    arrived: list[int] = []
    errors: list[int | Exception] = []
    async with open_supervisor("root") as root:
        ref = await root.start(spec(batching(arrived, poison=[3])))
        await trio.sleep(1)
        for number in range(1, 7):
            ref.tell(Put(number, on_answer=errors.append if number == 3 else None))
        await trio.sleep(10)
        box = root.snapshot().children[0]
    assert arrived == [1, 2, 4, 5, 6]
    assert [type(error) for error in errors] == [ActorCrashed]
    assert (box.quarantined_count, box.restart_count, box.handled_count, box.mailbox_count) == (1, 2, 5, 0)
    (record,) = [record for record in caplog.records if record.message == "actor.message_quarantined"]
    assert record.levelno == logging.ERROR
    assert record.__dict__["message_number"] == 3
    assert record.__dict__["message_type"] == "Put"


async def test_one_poisonous_request_costs_two_restarts_and_its_asker_is_told(autojump_clock: MockClock) -> None:
    async with open_supervisor("root", intensity=Intensity(restart_count_max=2)) as root:
        ref = await root.start(spec(batching([], poison=[1])))
        with pytest.raises(ActorCrashed):
            await ref.ask(Put(1), timeout_s=5)
        assert await ref.ask(Put(2), timeout_s=5) == 2
        assert root.snapshot().children[0].restart_count == 2


async def test_returned_messages_come_before_later_ones_and_one_at_a_time(autojump_clock: MockClock) -> None:
    batches: list[list[int]] = []

    async def run(mailbox: Mailbox[Put]) -> None:
        mailbox.ready()
        async for first in mailbox:
            batch = [first, *mailbox.take_queued(100)]
            batches.append([put.number for put in batch])
            if len(batches) == 1:
                ref.tell(Put(4))
                ref.tell(Put(5))
                raise ValueError

    async with open_supervisor("root") as root:
        ref: ActorRef[Put] = await root.start(spec(run))
        await trio.sleep(1)
        for number in (1, 2, 3):
            ref.tell(Put(number))
        await trio.sleep(1)
    assert batches == [[1, 2, 3], [1], [2], [3], [4, 5]]


async def test_an_ask_that_was_answered_before_the_crash_does_not_come_back(autojump_clock: MockClock) -> None:
    arrived: list[int] = []

    async def run(mailbox: Mailbox[Put]) -> None:
        mailbox.ready()
        async for first in mailbox:
            for put in [first, *mailbox.take_queued(100)]:
                arrived.append(put.number)
                if arrived == [1, 2]:
                    raise ValueError
                put.answer(put.number)

    async with open_supervisor("root") as root:
        ref = await root.start(spec(run))
        for number in (1, 2, 3):
            ref.tell(Put(number))
        await trio.sleep(1)
        assert root.snapshot().children[0].handled_count == 3
    assert arrived == [1, 2, 2, 3]


async def test_a_crash_while_starting_again_blames_no_message(autojump_clock: MockClock) -> None:
    arrived: list[int] = []
    run_count = 0

    async def run(mailbox: Mailbox[Put]) -> None:
        nonlocal run_count
        run_count += 1
        if run_count in (2, 3):
            raise OSError
        mailbox.ready()
        async for put in mailbox:
            if run_count == 1:
                raise ValueError
            arrived.append(put.number)

    async with open_supervisor("root", intensity=MANY) as root:
        ref = await root.start(spec(run))
        ref.tell(Put(1))
        await trio.sleep(5)
        assert root.snapshot().children[0].quarantined_count == 0
    assert arrived == [1]


@given(
    numbers=st.lists(st.integers(0, 9), max_size=20),
    poison=st.sets(st.integers(0, 9), max_size=3),
    count_max=st.integers(1, 6),
)
def test_all_but_the_poisonous_arrive_once_in_order(numbers: list[int], poison: set[int], count_max: int) -> None:
    arrived: list[int] = []
    heard: list[int | Exception] = []

    async def story() -> Snapshot:
        async with open_supervisor("root", intensity=MANY) as root:
            ref = await root.start(spec(batching(arrived, poison=sorted(poison), count_max=count_max)))
            for number in numbers:
                ref.tell(Put(number, on_answer=heard.append))
            await trio.sleep(10_000)
            return root.snapshot().children[0]

    box = trio.run(story, clock=MockClock(autojump_threshold=0))
    good = [number for number in numbers if number not in poison]
    assert arrived == good
    assert [answer for answer in heard if isinstance(answer, int)] == good
    assert len(heard) == len(numbers)
    assert box.handled_count == len(good)
    assert box.quarantined_count == len(numbers) - len(good)
    assert (box.mailbox_count, box.oldest_age_s) == (0, 0.0)
    assert box.restart_count <= 2 * (len(numbers) - len(good))


async def test_a_snapshot_can_be_read_while_the_actor_hangs(autojump_clock: MockClock) -> None:
    async def stuck(mailbox: Mailbox[Put]) -> None:
        mailbox.ready()
        async for _ in mailbox:
            await trio.sleep_forever()

    async with open_supervisor("root") as root:
        ref = await root.start(spec(stuck, mailbox_count_max=7))
        ref.tell(Put(1))
        await trio.sleep(2)
        ref.tell(Put(2))
        await trio.sleep(3)
        with assert_no_checkpoints():
            snapshot = root.snapshot()
    box = snapshot.children[0]
    assert (snapshot.name, snapshot.state, box.name, box.state) == ("root", "running", "box", "running")
    assert (box.mailbox_count, box.mailbox_count_max, box.oldest_age_s, box.handled_count) == (1, 7, 5.0, 0)
    assert box.last_error is None


async def test_last_error_names_type_and_place_but_no_text(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def leaking(mailbox: Mailbox[Put]) -> None:
        mailbox.ready()
        async for _ in mailbox:
            text = "canary" + str(len("x"))
            raise ValueError(text)

    async with open_supervisor("root") as root:
        ref = await root.start(spec(leaking))
        with pytest.raises(ActorCrashed) as caught:
            await ref.ask(Put(1), timeout_s=5)
        last_error = root.snapshot().children[0].last_error
    assert last_error is not None
    assert last_error.startswith("ValueError at test_runtime_mailbox.py:")
    told = [last_error, str(caught.value), caplog.text, *(str(record.__dict__) for record in caplog.records)]
    assert not any("canary1" in text for text in told)


async def test_a_group_from_the_actors_own_nursery_is_a_crash(autojump_clock: MockClock) -> None:
    async def failing() -> None:
        raise KeyError

    async def run(mailbox: Mailbox[Put]) -> None:
        mailbox.ready()
        async for put in mailbox:
            async with trio.open_nursery() as nursery:
                if put.number == 1:
                    nursery.start_soon(failing)
                    nursery.start_soon(trio.sleep_forever)
            put.answer(put.number)

    async with open_supervisor("root") as root:
        ref = await root.start(spec(run))
        with pytest.raises(ActorCrashed):
            await ref.ask(Put(1), timeout_s=5)
        assert await ref.ask(Put(2), timeout_s=5) == 2
        assert (root.snapshot().children[0].last_error or "").startswith("KeyError at")
