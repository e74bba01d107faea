"""Clients get all, in order, once, and lose no mailbox row; each rule of it is needed (the theory: streams.py)."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from .checker import STUCK, explore, wander
from .streams import Mailbox, MailboxRules, RoomRules, RoomStream, RoomWorld

faultless = RoomWorld(has_faults=False)
four_events = RoomWorld(events=4)


class Dropped(NamedTuple):
    """Without this rule, in this world, this is what happens."""

    rule: str
    world: RoomWorld
    rules: RoomRules
    breaks: str


DROPPED = [
    Dropped(
        "a session registers before its snapshot",
        faultless,
        RoomRules(resume="snapshot, register", compares="nothing"),
        STUCK,
    ),
    Dropped("the comparison runs", RoomWorld(), RoomRules(compares="nothing"), STUCK),
    Dropped(
        "the comparison holds sessions against the store",
        RoomWorld(),
        RoomRules(compares="actor", starting_actor_tells_head=False),
        STUCK,
    ),
    Dropped(
        "registrations outlive the actor",
        RoomWorld(),
        RoomRules(compares="actor", registrations_outlive_actor=False),
        STUCK,
    ),
    Dropped("what lagging drops does not count as sent", RoomWorld(), RoomRules(dropping_moves_sent=True), STUCK),
    Dropped(
        "what lagging drops does not count as sent, while events go on",
        four_events,
        RoomRules(dropping_moves_sent=True),
        "a hole: the client has",
    ),
    Dropped("what was sent is dropped", RoomWorld(), RoomRules(drops_what_was_sent=False), "a repeat: the client has"),
    Dropped("holes are filled", RoomWorld(), RoomRules(fills_holes=False), "a hole: the client has"),
]
MENDED_BY_THE_COMPARISON = [
    RoomRules(resume="snapshot, register"),
    RoomRules(registrations_outlive_actor=False),
    RoomRules(starting_actor_tells_head=False),
]
MAILBOX_DROPPED = [
    (MailboxRules(gives="above the last given"), STUCK),
    (MailboxRules(gives="above the last given", compares="the largest id"), STUCK),
    (MailboxRules(compares="the largest id"), STUCK),
    (MailboxRules(deletes="up to the id"), "is deleted and not on the client's disk"),
    (MailboxRules(acks="on receipt"), "is deleted and not on the client's disk"),
]


@pytest.mark.parametrize("world", [RoomWorld(), faultless, four_events], ids=repr)
def test_with_all_rules_the_client_gets_all_in_order_once(world: RoomWorld) -> None:
    found = explore(RoomStream(world, RoomRules()))
    assert found.violation is None, str(found.violation)
    assert found.is_complete


@pytest.mark.parametrize("dropped", DROPPED, ids=lambda dropped: dropped.rule)
def test_without_the_rule_the_stream_has_a_hole_or_a_repeat(dropped: Dropped) -> None:
    violation = explore(RoomStream(dropped.world, dropped.rules)).violation
    assert violation is not None
    assert dropped.breaks in violation.sentence


@pytest.mark.parametrize("rules", MENDED_BY_THE_COMPARISON, ids=repr)
def test_the_comparison_against_sessions_mends_what_else_would_be_lost(rules: RoomRules) -> None:
    found = explore(RoomStream(RoomWorld(), rules))
    assert found.violation is None, str(found.violation)


def test_a_starting_actor_that_tells_its_head_mends_a_comparison_against_actors() -> None:
    found = explore(RoomStream(RoomWorld(), RoomRules(compares="actor")))
    assert found.violation is None, str(found.violation)


def test_without_faults_no_comparison_is_needed() -> None:
    found = explore(RoomStream(faultless, RoomRules(compares="nothing")))
    assert found.violation is None, str(found.violation)


@pytest.mark.long
def test_with_all_rules_every_mailbox_row_reaches_the_disk(counts: Callable[[int, int], int]) -> None:
    found = explore(Mailbox(counts(2, 3), MailboxRules()))
    assert found.violation is None, str(found.violation)
    assert found.is_complete


@pytest.mark.parametrize(("rules", "breaks"), MAILBOX_DROPPED, ids=repr)
def test_without_the_rule_a_mailbox_row_is_lost(rules: MailboxRules, breaks: str) -> None:
    violation = explore(Mailbox(2, rules)).violation
    assert violation is not None
    assert breaks in violation.sentence


@pytest.mark.long
def test_with_all_rules_deep_walks_through_a_long_stream_hold(counts: Callable[[int, int], int]) -> None:
    model = RoomStream(RoomWorld(events=12, outbox_max=4), RoomRules())
    walks = wander(model, walk_count=counts(20, 1000), depth=200, settle_steps_max=4000, seed=1)
    assert walks.violation is None, str(walks.violation)
    assert walks.unsettled_count == 0


@pytest.mark.long
def test_with_all_rules_deep_walks_through_a_full_mailbox_hold(counts: Callable[[int, int], int]) -> None:
    walk_count = counts(20, 1000)
    walks = wander(Mailbox(8, MailboxRules()), walk_count=walk_count, depth=200, settle_steps_max=4000, seed=1)
    assert walks.violation is None, str(walks.violation)
    assert walks.unsettled_count == 0
