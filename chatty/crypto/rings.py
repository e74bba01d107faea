"""Rings: keys of one purpose that take turns. Each is used from its time on, until the next one's time has come."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

K = TypeVar("K")


@dataclass(frozen=True, kw_only=True)
class Turn(Generic[K]):
    """from_s: when its turn begins, s since 1970."""

    version: int
    key: K
    from_s: float


class Ring(Generic[K]):
    """turns: at least one."""

    def __init__(self, turns: Sequence[Turn[K]]) -> None:
        self.turns = sorted(turns, key=lambda turn: (turn.from_s, turn.version))

    def current(self, *, now_s: float) -> Turn[K]:
        """The newest whose time has come; a clock that is behind them all gets the oldest."""
        return [turn for turn in self.turns if turn.from_s <= max(now_s, self.turns[0].from_s)][-1]

    def accepted(self, *, now_s: float, kept_s: float) -> list[Turn[K]]:
        """All but those whose successor's turn began kept_s ago; also those that are not used yet."""
        ends = [following.from_s + kept_s for _, following in pairwise(self.turns)]
        return [turn for turn, end_s in zip(self.turns, [*ends, math.inf], strict=True) if now_s < end_s]
