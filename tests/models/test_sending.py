"""Sending is idempotent under every interleaving, and each rule of it is needed (the theory: sending.py)."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from .checker import explore, wander
from .sending import Rules, Sending, World


class Dropped(NamedTuple):
    """Without this rule, in this world, this is what happens."""

    rule: str
    world: World
    rules: Rules
    breaks: str


still_member = World(membership_changes=0)
two_rooms = World(rooms=2, membership_changes=0)
one_number = World(numbers=1)
two_copies = World(numbers=1, queue_max=2)

DROPPED = [
    Dropped(
        "low counts what is on disk",
        still_member,
        Rules(low_counts="settled in memory"),
        "an honest client is told 'closed'",
    ),
    Dropped(
        "the look-up comes after the locks",
        World(numbers=1, membership_changes=0),
        Rules(look_up="with the lock"),
        "was committed 2 times",
    ),
    Dropped(
        "the journal locks the device or reads in one statement",
        two_rooms,
        Rules(locks_device=False, reads_in_one_statement=False),
        "is committed twice",
    ),
    Dropped(
        "the digest leaves low out",
        still_member,
        Rules(digest_holds_low=True),
        "an honest client is told 'conflict'",
    ),
    Dropped(
        "no refusal on the membership alone",
        one_number,
        Rules(early_refusal="on membership"),
        "is finally refused and was committed",
    ),
    Dropped(
        "no refusal in two statements",
        one_number,
        Rules(early_refusal="in two statements"),
        "is committed after its final refusal",
    ),
    Dropped(
        "no refusal in one snapshot without a record",
        two_copies,
        Rules(early_refusal="in one snapshot"),
        "is committed after its final refusal",
    ),
    Dropped(
        "a refusal is recorded",
        two_copies,
        Rules(records_refusals=False),
        "is committed after its final refusal",
    ),
]
EITHER = [Rules(locks_device=False), Rules(reads_in_one_statement=False)]
WORLDS = sorted({dropped.world for dropped in DROPPED}, key=repr)
LARGER_WORLDS = [
    World(mirrors_nodes=True),
    World(numbers=3, membership_changes=0, mirrors_nodes=True),
    World(devices=2, numbers=1, membership_changes=0, mirrors_nodes=True),
    World(queue_max=2, membership_changes=0, mirrors_nodes=True),
    World(queue_max=2, membership_changes=1, mirrors_nodes=True),
]


@pytest.mark.parametrize("world", WORLDS, ids=repr)
def test_with_all_rules_every_number_is_settled_exactly_once(world: World) -> None:
    found = explore(Sending(world, Rules()))
    assert found.violation is None, str(found.violation)
    assert found.is_complete


@pytest.mark.parametrize("dropped", DROPPED, ids=lambda dropped: dropped.rule)
def test_without_the_rule_a_promise_is_broken(dropped: Dropped) -> None:
    violation = explore(Sending(dropped.world, dropped.rules)).violation
    assert violation is not None
    assert dropped.breaks in violation.sentence


@pytest.mark.parametrize("rules", EITHER, ids=repr)
def test_the_device_lock_and_the_single_statement_can_stand_in_for_each_other(rules: Rules) -> None:
    found = explore(Sending(two_rooms, rules))
    assert found.violation is None, str(found.violation)


@pytest.mark.long
def test_with_all_rules_larger_worlds_hold(counts: Callable[[int, int], int]) -> None:
    for world in LARGER_WORLDS[: counts(1, 5)]:
        found = explore(Sending(world, Rules()))
        assert found.violation is None, str(found.violation)
        assert found.is_complete


@pytest.mark.long
def test_with_all_rules_deep_walks_hold(counts: Callable[[int, int], int]) -> None:
    world = World(devices=2, numbers=6, nodes=3, queue_max=3, rooms=2, membership_changes=4)
    walk_count = counts(5, 300)
    walks = wander(Sending(world, Rules()), walk_count=walk_count, depth=300, settle_steps_max=4000, seed=1)
    assert walks.violation is None, str(walks.violation)
    assert walks.unsettled_count == 0
