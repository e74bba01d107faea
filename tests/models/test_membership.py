"""A message is encrypted for exactly those who must read it; each rule is needed (the theory: membership.py)."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from .checker import STUCK, explore, wander
from .membership import Membership, Operation, Rules, Strength, World

ADD, REVOKE, KICK, JOIN, REVOKE_A1, JOB, OTHER_JOB, JOURNAL, DELETE, REMOVAL, READER = Operation

FORGOTTEN = "left out in silence for ever"
LEFT_OUT = "a live device is left out in silence"
NOT_EQUAL = "where the chain's set is"
DEAD_READER = "for a device that was dead at the reading"


class Dropped(NamedTuple):
    """Without this rule, beside these operations, this is what happens."""

    rule: str
    world: World
    rules: Rules
    breaks: str


additions_and_rejoins = World((ADD, KICK, JOIN, JOB, JOURNAL))

DROPPED = [
    Dropped("users are locked first", additions_and_rejoins, Rules(locks_user_first=False), FORGOTTEN),
    Dropped(
        "a kick locks the user, then the room", World((KICK, JOIN, JOURNAL)), Rules(kick_locks="room, user"), STUCK
    ),
    Dropped(
        "the job takes no user after a room",
        World((ADD, KICK, JOB, JOURNAL)),
        Rules(job_locks_user_after_room=True),
        STUCK,
    ),
    Dropped(
        "the journal reads after its locks",
        World((KICK, JOURNAL)),
        Rules(journal_reads="before its locks"),
        "a message for epoch 1 is committed at epoch 2",
    ),
    Dropped(
        "a revocation locks the sender's row",
        World((REVOKE_A1, JOURNAL)),
        Rules(revocation_locks_sender=False),
        "a dead device's message is committed",
    ),
    Dropped("a join names the list version", additions_and_rejoins, Rules(join_names_version=False), LEFT_OUT),
    Dropped(
        "the job reads the version under the room's lock",
        World((ADD, REVOKE, JOB, OTHER_JOB, JOURNAL)),
        Rules(job_reads_version="before it"),
        FORGOTTEN,
    ),
    Dropped(
        "the job writes for members only",
        World((ADD, REVOKE, KICK, JOB, JOURNAL)),
        Rules(job_checks_membership=False),
        FORGOTTEN,
    ),
    Dropped("the client checks the lists' versions", additions_and_rejoins, Rules(client_trusts="any query"), LEFT_OUT),
    Dropped(
        "the journal writes what is owed, with a new device",
        World((ADD, JOB, JOURNAL)),
        Rules(journal_writes_owed=False),
        NOT_EQUAL,
    ),
    Dropped(
        "the journal writes what is owed, with a revoked device",
        World((REVOKE, JOB, JOURNAL), strength=Strength.STRICT),
        Rules(journal_writes_owed=False),
        DEAD_READER,
    ),
    Dropped(
        "a reader uses one statement",
        World((KICK, JOIN, JOURNAL, READER)),
        Rules(reader_uses_one_statement=False),
        "B reads a message from after its kick",
    ),
    Dropped(
        "a join looks at the account under the user's lock",
        World((KICK, JOIN, DELETE, REMOVAL, JOB, JOURNAL)),
        Rules(join_reads_account="before it"),
        "B stays a member for ever",
    ),
    Dropped(
        "the journal writes what is owed, with a deleted account",
        World((DELETE, REMOVAL, JOB, JOURNAL), strength=Strength.STRICT),
        Rules(journal_writes_owed=False),
        DEAD_READER,
    ),
]
WORLDS = sorted({dropped.world for dropped in DROPPED}, key=repr)
INSTEAD = [
    Rules(kick_locks="room"),
    Rules(client_trusts="queries after the epoch"),
]
ALL_BUT_READER = (ADD, REVOKE, KICK, JOIN, REVOKE_A1, JOB, OTHER_JOB, JOURNAL)
LARGER = [
    (World((ADD, REVOKE, KICK, JOIN, JOB, JOURNAL, READER)), Rules()),
    (World((ADD, REVOKE, KICK, JOIN, JOB, JOURNAL)), Rules(client_trusts="queries after the epoch")),
    (World(ALL_BUT_READER), Rules()),
    (World(ALL_BUT_READER, strength=Strength.SAFE), Rules(journal_writes_owed=False)),
]


@pytest.mark.parametrize(
    "world", WORLDS, ids=lambda world: ", ".join(operation.title for operation in world.operations)
)
def test_with_all_rules_messages_reach_exactly_the_chains_set(world: World) -> None:
    found = explore(Membership(world, Rules()))
    assert found.violation is None, str(found.violation)
    assert found.is_complete


@pytest.mark.parametrize("dropped", DROPPED, ids=lambda dropped: dropped.rule)
def test_without_the_rule_a_promise_is_broken(dropped: Dropped) -> None:
    violation = explore(Membership(dropped.world, dropped.rules)).violation
    assert violation is not None
    assert dropped.breaks in violation.sentence


@pytest.mark.parametrize("rules", INSTEAD, ids=repr)
def test_other_rules_would_do_as_well(rules: Rules) -> None:
    found = explore(Membership(additions_and_rejoins, rules))
    assert found.violation is None, str(found.violation)


def test_without_the_journals_help_nobody_is_left_out() -> None:
    """The weaker promise needs the job alone."""
    weaker = World(additions_and_rejoins.operations, strength=Strength.SAFE)
    found = explore(Membership(weaker, Rules(journal_writes_owed=False)))
    assert found.violation is None, str(found.violation)


@pytest.mark.long
def test_with_all_operations_at_once_it_holds(counts: Callable[[int, int], int]) -> None:
    for world, rules in LARGER[: counts(1, 4)]:
        found = explore(Membership(world, rules))
        assert found.violation is None, str(found.violation)
        assert found.is_complete


@pytest.mark.long
def test_with_kicks_and_joins_again_and_again_deep_walks_hold(counts: Callable[[int, int], int]) -> None:
    world = World(tuple(Operation), repeated=(KICK, JOIN))
    walks = wander(Membership(world, Rules()), walk_count=counts(10, 500), depth=300, settle_steps_max=4000, seed=1)
    assert walks.violation is None, str(walks.violation)
    assert walks.unsettled_count == 0
