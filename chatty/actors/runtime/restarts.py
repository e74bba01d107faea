"""How often and how fast to restart: plain arithmetic over times that are handed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from chatty.actors.runtime.specs import Intensity

_DOUBLING_COUNT_MAX = 62  # beyond it 2**n is larger than any wait


class Backoff:
    """One child's waits between restarts: doubling while it fails young, from the start again once it lived."""

    def __init__(self, intensity: Intensity) -> None:
        self._intensity = intensity
        self._in_a_row_count = 0

    def next_s(self, *, lived_s: float) -> float:
        if lived_s >= self._intensity.within_s:
            self._in_a_row_count = 0
        wait_s = self._intensity.backoff_s_min * 2.0 ** min(self._in_a_row_count, _DOUBLING_COUNT_MAX)
        self._in_a_row_count += 1
        return min(wait_s, self._intensity.backoff_s_max)


class Window:
    """The restarts of the last within_s. Holds at most restart_count_max + 1 times."""

    def __init__(self, intensity: Intensity) -> None:
        self._intensity = intensity
        self._restarts: deque[tuple[float, Hashable]] = deque(maxlen=intensity.restart_count_max + 1)

    def is_exceeded_by(self, now_s: float, *, key: Hashable = None) -> bool:
        """Note one more; with a key, an earlier one of the same key no longer counts."""
        if key is not None:
            others = [restart for restart in self._restarts if restart[1] != key]
            self._restarts = deque(others, maxlen=self._restarts.maxlen)
        self._restarts.append((now_s, key))
        while now_s - self._restarts[0][0] > self._intensity.within_s:
            self._restarts.popleft()
        return len(self._restarts) > self._intensity.restart_count_max
