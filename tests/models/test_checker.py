"""The checker finds what it is there to find, and no more."""

import pytest

from .checker import STUCK, Model, Step, explore, wander


class Ladder(Model[int]):
    """Climbs from 0 to the top, where all is settled; may fall off the top, be broken on a rung, or need a fault."""

    def __init__(self, *, top: int = 3, broken_at: int | None = None, pit: bool = False, fault_at: int = -1) -> None:
        self.top = top
        self.broken_at = broken_at
        self.pit = pit
        self.fault_at = fault_at

    def initial(self) -> int:
        return 0

    def steps(self, state: int) -> list[Step[int]]:
        if not 0 <= state < self.top:
            return []
        climbs = Step(f"climbs to {state + 1}", state == self.fault_at, state + 1)
        return [climbs, Step("falls", False, -1)] if self.pit and state == 1 else [climbs]

    def broken(self, state: int) -> str | None:
        return "the rung breaks" if state == self.broken_at else None

    def is_settled(self, state: int) -> bool:
        return state == self.top


def test_every_state_is_visited_once() -> None:
    found = explore(Ladder())
    assert (found.violation, found.state_count, found.is_complete) == (None, 4, True)


@pytest.mark.parametrize("rung", [0, 2])
def test_a_broken_state_is_found_with_the_way_that_leads_to_it(rung: int) -> None:
    violation = explore(Ladder(broken_at=rung)).violation
    assert violation == ("the rung breaks", ("climbs to 1", "climbs to 2")[:rung])


def test_a_state_without_a_way_on_is_stuck() -> None:
    assert explore(Ladder(pit=True)).violation == (STUCK, ("climbs to 1", "falls"))


def test_a_state_that_only_a_fault_leads_out_of_is_stuck() -> None:
    assert explore(Ladder(fault_at=2)).violation == (STUCK, ())


def test_an_exploration_that_was_cut_short_is_not_complete() -> None:
    assert not explore(Ladder(top=9), state_count_max=5).is_complete


def test_walks_find_broken_and_stuck_states() -> None:
    broken = wander(Ladder(broken_at=2), walk_count=1, depth=5, settle_steps_max=5, seed=1)
    stuck = wander(Ladder(pit=True), walk_count=50, depth=5, settle_steps_max=5, seed=1)
    assert broken.violation == ("the rung breaks", ("climbs to 1", "climbs to 2"))
    assert stuck.violation == (STUCK, ("climbs to 1", "falls"))


def test_walks_settle_without_faults() -> None:
    assert wander(Ladder(), walk_count=3, depth=1, settle_steps_max=5, seed=1) == (None, 3, 9, 0)
    assert wander(Ladder(top=9), walk_count=3, depth=1, settle_steps_max=5, seed=1).unsettled_count == 3


def test_a_violation_reads_as_a_numbered_story() -> None:
    assert str(explore(Ladder(broken_at=1)).violation) == "the rung breaks\n  1. climbs to 1"
