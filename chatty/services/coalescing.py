"""Coalescing: of what changes often, only the newest is passed on, and not more often than once an interval a key.

    nothing pending ── put ──> pending, due after interval_s ── put ──> pending, same time, newest value ── take_due ──> nothing

A value that is put is given out once, after at most `interval_s`, unless a newer one of the same key and part took its place.
Bound: `values_max` values; beyond it a new one is refused, a newer one of what is pending is not. A key with more than
`parts_max` parts gives the others out one interval later. A quiet key costs nothing. Pure: whoever uses it brings the clock.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
P = TypeVar("P", bound=Hashable)
V = TypeVar("V")


@dataclass(slots=True)
class _Pending(Generic[P, V]):
    due_s: float
    parts: dict[P, V] = field(default_factory=dict)


class Coalescer(Generic[K, P, V]):
    """Values by key and part. newest: of the value that is there and the one that is put; the latter if it is not given."""

    def __init__(
        self,
        *,
        interval_s: float,
        values_max: int,
        parts_max: int,
        newest: Callable[[V, V], V] = lambda _, value: value,
    ) -> None:
        self._interval_s = interval_s
        self._values_max = values_max
        self._parts_max = parts_max
        self._newest = newest
        self._pending: dict[K, _Pending[P, V]] = {}  # in the order in which they are due
        self._count = 0

    def __len__(self) -> int:
        """Values that are pending."""
        return self._count

    def put(self, key: K, part: P, value: V, *, now_s: float) -> bool:
        """now_s: never going back. False: the bound is reached, and it was not taken."""
        pending = self._pending.get(key)
        if pending is not None and part in pending.parts:
            pending.parts[part] = self._newest(pending.parts[part], value)
            return True
        if self._count >= self._values_max:
            return False
        if pending is None:
            pending = self._pending[key] = _Pending(now_s + self._interval_s)
        pending.parts[part] = value
        self._count += 1
        return True

    def take_due(self, *, now_s: float) -> list[tuple[K, dict[P, V]]]:
        """What is due, by key, the longest due first."""
        keys = [key for key, pending in self._pending.items() if pending.due_s <= now_s]
        return [(key, self._take(key, now_s)) for key in keys]

    def _take(self, key: K, now_s: float) -> dict[P, V]:
        parts = self._pending.pop(key).parts
        taken = dict(list(parts.items())[: self._parts_max])
        rest = {part: value for part, value in parts.items() if part not in taken}
        if rest:
            self._pending[key] = _Pending(now_s + self._interval_s, rest)
        self._count -= len(taken)
        return taken
