"""What only this process knows: its clocks, and what tests' own programs hook into it."""

import time
from dataclasses import dataclass

from chatty.actors.runtime import (
    Intensity,
)
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints

# A store that comes and goes must not end the process. 20 restarts must fit into the time, or it would never be too often.
generous = Intensity(restart_count_max=20, within_s=10.0, backoff_s_max=0.25)


def now_s() -> float:
    return time.time()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What only tests' own programs set: where to stop, whether the bus carries anything, how much crashing is too much, how long
    the lease of a dead process keeps others from its jobs.
    """

    crash_points: CrashPoints = NO_CRASH_POINTS
    is_bus_silent: bool = False
    intensity: Intensity = generous
    lease_lifetime_s: float = 30.0
