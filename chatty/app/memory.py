"""What each kind of actor takes of the memory, estimated: a few of each are walked through, from queue and frames on.

Only what one sampled actor alone reaches counts as its own: what two reach is shared, such as settings, routes or an event that
many outboxes hold. The walk ends at what is known to be shared, or it would go through the whole process, and at `objects_max`.
"""

import gc
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import trio

from chatty.actors.console import ConsoleCommand
from chatty.actors.directory import Directory
from chatty.actors.journal import JournalParts
from chatty.actors.presence import PresenceBook
from chatty.actors.rooms import RoomActors, RoomParts
from chatty.actors.runtime import ActorRef, Sample, Supervisor
from chatty.actors.session_parts import SessionParts
from chatty.config import Settings
from chatty.store.pool import Pool
from chatty.telemetry import Metrics

sampled_max = 20
objects_max = 20_000
_SHARED = (
    *(ActorRef, CodeType, Directory, JournalParts, Metrics, ModuleType, Pool, PresenceBook, RoomActors, RoomParts),
    *(SessionParts, Settings, Supervisor, trio.Nursery, trio.lowlevel.Task, type),
)


def memory_commands(root: Supervisor) -> dict[str, ConsoleCommand]:
    """What `chatty-admin actors memory` asks."""

    async def memory(arguments: Mapping[str, Any]) -> dict[str, Any]:
        branches = await weigh(root.samples(count_max=sampled_max))
        total = sum(branch["bytes_estimate"] for branch in branches)
        return {"resident_bytes": resident_bytes(), "actors_bytes": total, "branches": branches}

    return {"actors memory": memory}


async def weigh(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """A row a branch. A checkpoint after each actor: others go on meanwhile."""
    found: list[tuple[Sample, list[dict[int, int]]]] = []
    reached: Counter[int] = Counter()
    for sample in samples:
        weights = []
        for roots in sample.roots:
            weights.append({id(one): sys.getsizeof(one) for one in reachable(roots)})
            reached.update(weights[-1].keys())
            await trio.lowlevel.checkpoint()
        found.append((sample, weights))
    return [_row(sample, weights, reached) for sample, weights in found]


def _row(sample: Sample, weights: Sequence[Mapping[int, int]], reached: Mapping[int, int]) -> dict[str, Any]:
    own = [sum(size for key, size in one.items() if reached[key] == 1) for one in weights]
    each = sum(own) // len(own) if own else 0
    return {
        "branch": sample.branch,
        "actors_count": sample.actors_count,
        "sampled_count": len(own),
        "bytes_each": each,
        "bytes_estimate": each * sample.actors_count,
    }


def reachable(roots: Sequence[object]) -> Iterator[object]:
    """Each object once, at most objects_max."""
    seen: set[int] = set()
    waiting: list[object] = list(roots)
    while waiting and len(seen) < objects_max:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, _SHARED):
            continue
        seen.add(id(one))
        yield one
        # A function's globals are its module.
        waiting += (one.__closure__ or ()) if isinstance(one, FunctionType) else gc.get_referents(one)


def resident_bytes() -> int:
    """Of this process; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * 4_096
