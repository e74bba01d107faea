"""An explicit-state model checker, small enough to be read before it is believed.

A model says where the world begins, which steps lead on from a state, which states are broken and which are
settled. The checker answers two questions about it:

- *Safety*: is a broken state reachable? The search is breadth first, so the story it tells is a shortest one.
- *Liveness*: can every reachable state still be settled once the faults stop? That is: from every reachable state
  some settled state is reachable by steps that are no faults. A deadlock is a state from which none is, so it is
  found here too. What "can" leaves open (a scheduler that never chooses the way out) is not judged.

`explore` visits every state and is a proof for that configuration; `wander` takes random deep walks through
configurations that are too large for it, and is only evidence.

States must be hashable and must not change: named tuples all the way down. Two named tuples of different types and
equal contents are *equal*, so alternatives in a state carry a field that tells them apart.
"""

import random
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
State = TypeVar("State", bound=Hashable)

STUCK = "stuck: no way without faults leads to a settled state"


class Step(NamedTuple, Generic[State]):
    """What happens, whether it is a fault (which liveness may not rely on), and the state it leads to."""

    label: str
    is_fault: bool
    state: State


class Model(ABC, Generic[State]):
    """A small world under some rules."""

    @abstractmethod
    def initial(self) -> State: ...

    @abstractmethod
    def steps(self, state: State) -> Iterable[Step[State]]:
        """Everything that can happen next, one statement or one frame at a time."""

    @abstractmethod
    def broken(self, state: State) -> str | None:
        """The sentence that says which property this state breaks, or None."""

    @abstractmethod
    def is_settled(self, state: State) -> bool:
        """True when all work is done and nothing is on its way."""

    def representative(self, state: State) -> State:
        """One of the states that differ only by a symmetry of the model; the state itself where there is none."""
        return state


class Violation(NamedTuple):
    """A broken property and the steps that lead there from the initial state."""

    sentence: str
    story: tuple[str, ...]

    def __str__(self) -> str:
        lines = (f"{number:3}. {label}" for number, label in enumerate(self.story, 1))
        return "\n".join((self.sentence, *lines))


class Exploration(NamedTuple):
    """What was found; a proof only when `is_complete` and there is no violation."""

    violation: Violation | None
    state_count: int
    is_complete: bool


class Wandering(NamedTuple):
    """What random walks found; `unsettled_count` walks did not settle in the steps they were given."""

    violation: Violation | None
    walk_count: int
    step_count: int
    unsettled_count: int


@dataclass
class _Atlas(Generic[State]):
    """The states seen so far, numbered in the order of their discovery, and the steps between them."""

    numbers: dict[State, int] = field(default_factory=dict)
    parents: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    settled: bytearray = field(default_factory=bytearray)
    sources: "array[int]" = field(default_factory=lambda: array("l"))
    targets: "array[int]" = field(default_factory=lambda: array("l"))

    def add(self, state: State, *, parent: int, label: str, is_settled: bool) -> int:
        number = self.numbers[state] = len(self.parents)
        self.parents.append(parent)
        self.labels.append(label)
        self.settled.append(is_settled)
        return number

    def story(self, number: int) -> tuple[str, ...]:
        labels = []
        while number:
            labels.append(self.labels[number])
            number = self.parents[number]
        return tuple(reversed(labels))

    def first_stuck(self) -> int | None:
        """The earliest state from which no settled one can be reached, walking the fault-free steps backwards."""
        starts, sources = self._steps_by_target()
        can_settle = bytearray(self.settled)
        frontier = [number for number, is_settled in enumerate(can_settle) if is_settled]
        while frontier:
            target = frontier.pop()
            for source in sources[starts[target] : starts[target + 1]]:
                if not can_settle[source]:
                    can_settle[source] = True
                    frontier.append(source)
        stuck = can_settle.find(0)
        return None if stuck < 0 else stuck

    def _steps_by_target(self) -> "tuple[array[int], array[int]]":
        """The sources of all steps sorted by target; those of target t stand at starts[t] to starts[t + 1]."""
        starts = array("l", [0]) * (len(self.parents) + 1)
        for target in self.targets:
            starts[target + 1] += 1
        for number in range(len(self.parents)):
            starts[number + 1] += starts[number]
        places = array("l", starts)
        sources = array("l", [0]) * len(self.sources)
        for source, target in zip(self.sources, self.targets, strict=True):
            sources[places[target]] = source
            places[target] += 1
        return starts, sources


def explore(model: Model[State], *, state_count_max: int = 2_000_000) -> Exploration:
    """Visit every reachable state, breadth first, up to the first broken one; then look for stuck ones.

    The exploration is incomplete when there are more than state_count_max states; it then proves nothing.
    """
    atlas: _Atlas[State] = _Atlas()
    violation = _survey(model, atlas, state_count_max=state_count_max)
    is_complete = len(atlas.parents) <= state_count_max
    if violation is None and is_complete:
        stuck = atlas.first_stuck()
        violation = None if stuck is None else Violation(STUCK, atlas.story(stuck))
    return Exploration(violation, len(atlas.parents), is_complete)


def _survey(model: Model[State], atlas: _Atlas[State], *, state_count_max: int) -> Violation | None:
    """Fill the atlas; the first broken state ends it."""
    first = model.representative(model.initial())
    atlas.add(first, parent=0, label="", is_settled=model.is_settled(first))
    frontier = deque([first])
    sentence = model.broken(first)
    while frontier and sentence is None and len(atlas.parents) <= state_count_max:
        state = frontier.popleft()
        source = atlas.numbers[state]
        for label, is_fault, successor in model.steps(state):
            reached = model.representative(successor)
            target = atlas.numbers.get(reached)
            if target is None:
                target = atlas.add(reached, parent=source, label=label, is_settled=model.is_settled(reached))
                sentence = model.broken(reached)
                if sentence is not None:
                    return Violation(sentence, atlas.story(target))
                frontier.append(reached)
            if not is_fault:
                atlas.sources.append(source)
                atlas.targets.append(target)
    return None if sentence is None else Violation(sentence, ())


def wander(model: Model[State], *, walk_count: int, depth: int, settle_steps_max: int, seed: int) -> Wandering:
    """Walk at random, `depth` steps with faults and then without; the seed makes the walks repeatable."""
    chance = random.Random(seed)
    step_count = unsettled_count = 0
    for number in range(walk_count):
        story: list[str] = []
        sentence, is_settled = _walk(model, chance, story, depth=depth, settle_steps_max=settle_steps_max)
        step_count += len(story)
        unsettled_count += not is_settled
        if sentence is not None:
            return Wandering(Violation(sentence, tuple(story)), number + 1, step_count, unsettled_count)
    return Wandering(None, walk_count, step_count, unsettled_count)


def _walk(
    model: Model[State], chance: random.Random, story: list[str], *, depth: int, settle_steps_max: int
) -> tuple[str | None, bool]:
    """One walk, told into `story`: the broken property if any, and whether the world was settled at the end."""
    state = model.initial()
    for taken in range(depth + settle_steps_max):
        if taken >= depth and model.is_settled(state):
            return None, True
        choices = [step for step in model.steps(state) if taken < depth or not step.is_fault]
        if not choices:
            return (None, True) if model.is_settled(state) else (STUCK, False)
        label, _, state = chance.choice(choices)
        story.append(label)
        sentence = model.broken(state)
        if sentence is not None:
            return sentence, False
    return None, model.is_settled(state)


def with_item(items: tuple[Item, ...], index: int, item: Item) -> tuple[Item, ...]:
    """The same tuple with another item at `index`."""
    return (*items[:index], item, *items[index + 1 :])
