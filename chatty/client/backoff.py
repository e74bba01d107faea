"""How long to wait before the next try: full jitter, so that many clients of a restarted server do not come back at once.

Source: "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), "full jitter".
"""

import random
from collections.abc import Callable

delay_s_min = 0.1
delay_s_max = 30.0

Jitter = Callable[[float], float]  # a random part of that many seconds


def full_jitter(delay_s: float) -> float:
    return random.SystemRandom().uniform(0.0, delay_s)


class Backoff:
    """One series of tries. Not for cryptography."""

    def __init__(self, *, jitter: Jitter = full_jitter) -> None:
        self._jitter = jitter
        self._ceiling_s = delay_s_min

    def next_s(self, *, retry_after_s: float | None = None) -> float:
        """retry_after_s: what the server asked for is the least."""
        delay_s = self._jitter(self._ceiling_s) + (retry_after_s or 0.0)
        self._ceiling_s = min(self._ceiling_s * 2, delay_s_max)
        return delay_s

    def reset(self) -> None:
        self._ceiling_s = delay_s_min
