"""What `chatty-admin top` and `actors` ask: the tree flattened, rates, and what everything waits for.

A rate is what was counted between two looks. The looks are kept here, a second or more apart and the last two alone, however many
consoles ask: so all see the same, and who asks more often gets the same rates again. After a pause the first answer has none.
"""

import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import trio
from prometheus_client.registry import Collector

from chatty.actors.console import ConsoleCommand
from chatty.actors.directory import Directory
from chatty.actors.runtime import Snapshot, Supervisor
from chatty.app.slowness import Surroundings, reasons
from chatty.errors import BadRequest, NotFound
from chatty.ids import RoomNumber
from chatty.services.caller import current_operator
from chatty.services.console import ConsoleSteps
from chatty.services.crashes import CrashGroup
from chatty.store.pool import PoolStatistics
from chatty.telemetry import Metrics

interval_s_min = 1.0  # between two looks
interval_s_max = 30.0  # an older look says nothing about now
rows_count_max = 200  # of each branch, the busiest and those with trouble
_ROOM, _JOB = "rooms/room ", "janitor/"
_CONSOLE = "console"  # whoever restarted it would not get the answer
Json = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Look:
    """at: Trio's clock. handled: by each actor's path. A histogram is (count, sum)."""

    at: float
    handled: Mapping[str, int]
    batches: tuple[float, float]
    commits: tuple[float, float]
    requests_count: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Between two looks. None: nothing to divide by."""

    interval_s: float
    messages_per_s: float
    http_per_s: float
    batch_size: float | None
    commit_ms: float | None
    cpu_percent: float
    handled_per_s: Mapping[str, float]


def rates_between(older: Look, newer: Look) -> Rates:
    """An actor that was not there before has handled all that it counts since."""
    interval_s = newer.at - older.at
    batches_count, messages_count = (newer.batches[0] - older.batches[0], newer.batches[1] - older.batches[1])
    commits_count, commits_s = (newer.commits[0] - older.commits[0], newer.commits[1] - older.commits[1])
    return Rates(
        interval_s=round(interval_s, 2),
        messages_per_s=round(messages_count / interval_s, 1),
        http_per_s=round((newer.requests_count - older.requests_count) / interval_s, 1),
        batch_size=round(messages_count / batches_count, 1) if batches_count else None,
        commit_ms=round(1000 * commits_s / commits_count, 1) if commits_count else None,
        cpu_percent=round(100 * (newer.cpu_s - older.cpu_s) / interval_s, 1),
        handled_per_s={
            path: round((count - older.handled.get(path, 0)) / interval_s, 1) for path, count in newer.handled.items()
        },
    )


class Looks:
    """The last two. rates(): of them; None until there are two that are near enough."""

    def __init__(self, look: Callable[[], Look]) -> None:
        self._look = look
        self._newest: Look | None = None
        self._rates: Rates | None = None

    def rates(self) -> Rates | None:
        now, older = trio.current_time(), self._newest
        if older is not None and now - older.at < interval_s_min:
            return self._rates
        self._newest = newer = self._look()
        is_near = older is not None and newer.at - older.at <= interval_s_max
        self._rates = rates_between(older, newer) if older is not None and is_near else None
        return self._rates


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What is looked at. status: as `chatty-admin status` shows it. jobs: by name, as app/jobs.py tells them. crashes: met by
    this process since its start.
    """

    root: Supervisor
    directory: Directory
    metrics: Metrics
    pool: Callable[[], PoolStatistics]
    data_dir: Path
    status: Callable[[], Json]
    jobs: Callable[[], Mapping[str, Json]]
    crashes: Callable[[], Sequence[CrashGroup]]


def top_commands(seen: Observed, console: ConsoleSteps) -> dict[str, ConsoleCommand]:
    looks = Looks(lambda: _look(seen))

    async def top(arguments: Json) -> Json:
        return _top(seen, looks.rates())

    async def show(arguments: Json) -> Json:
        return _detail(seen, str(arguments.get("actor") or ""), looks.rates())

    async def restart(arguments: Json) -> Json:
        path = str(arguments.get("actor") or "")
        before = _checked(seen.root, path)
        await console.record_restart(current_operator(), path)
        if (actor := seen.root.actor_at(path.split("/"))) is not None:
            actor.restart()
        return {"actor": path, "restart_count_before": before.restart_count, "waiting_count": before.mailbox_count}

    async def rehearse(arguments: Json) -> Json:
        path = str(arguments.get("actor") or "")
        before = _checked(seen.root, path)
        return {"actor": path, "restart_count_before": before.restart_count, "waiting_count": before.mailbox_count}

    return {"top": top, "actors show": show, "actors restart": restart, "rehearse actors restart": rehearse}


def _checked(root: Supervisor, path: str) -> Snapshot:
    """Raises: NotFound; BadRequest for one that is not restarted."""
    actor = root.actor_at(path.split("/"))
    if actor is None:
        raise NotFound(f"no live actor is called {path!r}: branch/actor, as 'chatty-admin top' shows them")
    if path == _CONSOLE or not actor.may_restart:
        raise BadRequest(f"{path} is not restarted by hand: it is {actor.state.value}, or ends with what it serves")
    return actor.snapshot()


# Looking ------------------------------------------------------------------------------------------------------------


def _look(seen: Observed) -> Look:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Look(
        at=trio.current_time(),
        handled={path: one.handled_count for path, one, _ in walk(seen.root.snapshot()) if one.mailbox_count_max},
        batches=_count_and_sum(seen.metrics.journal_batch_size),
        commits=_count_and_sum(seen.metrics.journal_commit_duration_seconds),
        requests_count=sum(
            sample.value
            for family in seen.metrics.http_requests.collect()
            for sample in family.samples
            if sample.name.endswith("_total")
        ),
        cpu_s=usage.ru_utime + usage.ru_stime,
    )


def walk(snapshot: Snapshot, *, path: str = "", depth: int = 0) -> Iterator[tuple[str, Snapshot, int]]:
    """(path, actor or branch, depth) of all below the root, in the order of the tree."""
    for child in snapshot.children:
        child_path = f"{path}/{child.name}" if path else child.name
        yield child_path, child, depth
        yield from walk(child, path=child_path, depth=depth + 1)


def _count_and_sum(histogram: Collector) -> tuple[float, float]:
    values = {sample.name: sample.value for family in histogram.collect() for sample in family.samples}
    return _ending(values, "_count"), _ending(values, "_sum")


def _ending(values: Mapping[str, float], end: str) -> float:
    return next((value for name, value in values.items() if name.endswith(end)), 0.0)


# Showing ------------------------------------------------------------------------------------------------------------


def _top(seen: Observed, rates: Rates | None) -> dict[str, Any]:
    snapshot = seen.root.snapshot()
    handled_per_s = {} if rates is None else rates.handled_per_s
    rows = [_row(seen, path, one, depth, handled_per_s) for path, one, depth in walk(snapshot)]
    pool, listeners = seen.pool(), list(seen.directory)
    return {
        "server": dict(seen.status()),
        "time_ms": int(time.time() * 1000),
        "rates": None if rates is None else _rates_shown(rates),
        "sessions_count": len(listeners),
        "lagging_count": sum(one.is_lagging for one in listeners),
        "rooms_count": sum(row["path"].startswith(_ROOM) for row in rows),
        "pool": {
            "borrowed_count": pool.borrowed_count,
            "connections_max": pool.connections_max,
            "waiting_count": pool.waiting_count,
            "is_down": pool.is_down,
        },
        "process": _process(seen.data_dir),
        "actors": _worth_showing(rows),
        "actors_count": len(rows),
        "sessions": _sessions(listeners),
        "crashes": [_crash(one) for one in seen.crashes()[:rows_count_max]],
    }


def _crash(one: CrashGroup) -> dict[str, Any]:
    return {
        "crash": one.place.id,
        "error": f"{one.place.kind} at {one.place.module.rpartition('.')[2]}.py:{one.place.line}",
        "function": one.place.function,
        "met_in": one.met_in,
        "count": one.count,
        "last_seen_ms": one.last_seen_ms,
    }


def _rates_shown(rates: Rates) -> dict[str, Any]:
    names = ("interval_s", "messages_per_s", "http_per_s", "batch_size", "commit_ms", "cpu_percent")
    return {name: getattr(rates, name) for name in names}


def _row(seen: Observed, path: str, one: Snapshot, depth: int, handled_per_s: Mapping[str, float]) -> dict[str, Any]:
    row = {
        "path": path,
        "depth": depth,
        "is_branch": not one.mailbox_count_max,
        "state": one.state,
        "mailbox_count": one.mailbox_count,
        "mailbox_count_max": one.mailbox_count_max,
        "oldest_age_s": round(one.oldest_age_s, 3),
        "handled_per_s": handled_per_s.get(path),
        "handled_count": one.handled_count,
        "restart_count": one.restart_count,
        "quarantined_count": one.quarantined_count,
        "last_error": one.last_error,
    }
    if path.startswith(_JOB):
        return row | dict(seen.jobs().get(path.removeprefix(_JOB), {}))
    return row | _room_of(seen, path)


def _room_of(seen: Observed, path: str) -> dict[str, Any]:
    """Of a room's actor: the room's id, as far as somebody is connected who is in it, and how many are."""
    if not path.startswith(_ROOM):
        return {}
    number = RoomNumber(int(path.removeprefix(_ROOM)))
    listeners = list(seen.directory.in_room(number))
    room = next((one.rooms[number].room for one in listeners if number in one.rooms), "")
    lagging_count = sum(one.is_lagging for one in listeners)
    return {"room": room, "connected_count": len(listeners), "lagging_count": lagging_count}


def _worth_showing(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of a branch, or rows_count_max of it: those with the most trouble, then the busiest; in the order of the tree."""
    by_branch: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        by_branch.setdefault(row["path"].rpartition("/")[0], []).append(place)
    kept = {
        place
        for places in by_branch.values()
        for place in sorted(places, key=lambda one: _calm(rows[one]))[:rows_count_max]
    }
    return [row for place, row in enumerate(rows) if place in kept]


def _calm(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        -row["quarantined_count"],
        -row["restart_count"],
        -round(row["oldest_age_s"]),
        -(row["handled_per_s"] or 0.0),
    )


def _sessions(listeners: Sequence[Any]) -> list[dict[str, Any]]:
    """Those that lag or wait come first; the others by name."""
    shown = [
        {
            "session": one.caller.family,
            "user": one.caller.user,
            "device": one.caller.device,
            "rooms_count": len(one.rooms),
            "is_lagging": one.is_lagging,
        }
        for one in listeners
    ]
    return sorted(shown, key=lambda one: (not one["is_lagging"], one["user"], one["device"]))[:rows_count_max]


def _process(data_dir: Path) -> dict[str, Any]:
    disk = shutil.disk_usage(data_dir)
    return {
        "pid": os.getpid(),
        "memory_bytes": _memory_bytes(),
        "cpus_count": os.cpu_count(),
        "disk_used_bytes": disk.used,
        "disk_bytes": disk.total,
    }


def _memory_bytes() -> int:
    """Resident, now; where the system does not say, the most it ever was."""
    statistics = Path("/proc/self/statm")
    if statistics.exists():
        return int(statistics.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _detail(seen: Observed, path: str, rates: Rates | None) -> dict[str, Any]:
    """One actor, and why it is slow. Raises: NotFound."""
    found = next((one for one in walk(seen.root.snapshot()) if one[0] == path), None)
    if found is None:
        raise NotFound(f"no live actor is called {path!r}: branch/actor, as 'chatty-admin top' shows them")
    row = _row(seen, path, found[1], 0, {} if rates is None else rates.handled_per_s)
    journal = seen.root.actor_at(["journal", "group"])
    pool = seen.pool()
    around = Surroundings(
        pool_is_down=pool.is_down,
        pool_waiting_count=pool.waiting_count,
        pool_borrowed_count=pool.borrowed_count,
        pool_connections_max=pool.connections_max,
        commit_ms=None if rates is None else rates.commit_ms,
        journal=None if journal is None else journal.snapshot(),
    )
    if "connected_count" in row:
        around = replace(around, room_listeners_count=row["connected_count"], lagging_count=row["lagging_count"])
    del row["depth"]
    return {**row, "children_count": len(found[1].children), "reasons": reasons(found[1], around)}
