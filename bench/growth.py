"""The growth curve: does a delivery cost the same among more sessions and in larger rooms, and what is a session's memory?

*Sessions*: 100 to 10,000 in rooms of ten, each count at a server of its own, all started and connected before the first round;
the same ten rooms talk, whatever else is connected. *spread*: the same, with all rooms talking, so that there are more of these
too. *rooms*: 2,000 sessions in rooms of 2 to 2,000. Rounds of all servers take turns, five of each, so that whatever else the
machine does meets them alike. The rate of deliveries is the same everywhere. What a server uses while it is silent is measured
too, and the cost of a delivery is given with it and without. The silent servers are on the same core; their part is small, and
all servers meet it.
"""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from time import sleep

from bench.dialing import dial
from bench.idle import LARGE_ROOMS, check_all_live, crowd_at, in_groups
from bench.load import Member
from bench.processes import Served, allow_sockets
from bench.scenarios import Place, Result, Size, chatty_serving, load_of, measure, median


@dataclass(frozen=True, kw_only=True)
class GrowthSize:
    """counts: of sessions, in rooms of members_count. members: of a room, among sessions_count. round_s: how long one takes.

    talking_rooms_max: the others are silent; None: all talk.
    """

    counts: Sequence[int]
    talking_rooms_max: int | None
    members_count: int
    members: Sequence[int]
    sessions_count: int
    deliveries_per_s: float
    round_s: float
    rounds_count: int
    idle_s: float


@dataclass(kw_only=True)
class _Point:
    """One server of the curve, with its sessions. rooms: those that talk."""

    name: str
    served: Served
    sessions_count: int
    rooms: list[list[Member]]
    load: Size
    growth_bytes: int
    idle_s_per_s: float = 0.0


def run_sessions(kind: str, place: Place, size: GrowthSize) -> list[Result]:
    """Results sessions-100 and so on, by kind; the last one's extra has session_kb, the slope of memory over sessions."""
    found = _run(place, size, [(count, size.members_count) for count in size.counts], kind)
    kb = [(one.extra["sessions_count"], one.extra["growth_kb"]) for one in found]
    found[-1].extra["session_kb"] = slope(kb)
    return found


def run_rooms(place: Place, size: GrowthSize) -> list[Result]:
    """Results rooms-2 and so on."""
    return _run(place, size, [(size.sessions_count, members) for members in size.members], "rooms")


def _run(place: Place, size: GrowthSize, shapes: Sequence[tuple[int, int]], kind: str) -> list[Result]:
    allow_sockets(sum(count for count, _ in shapes))
    with ExitStack() as stack:
        points = [_open_point(stack, place, size, kind, *shape) for shape in shapes]
        for point in points:
            load_of(point.rooms, point.load, messages_count=max(20, len(point.rooms))).run()
        for point in points:
            point.idle_s_per_s = _idle(point, size.idle_s)
        rounds: dict[str, list[Result]] = {point.name: [] for point in points}
        for _ in range(size.rounds_count):
            for point in points:
                rounds[point.name].append(measure(point.name, point.served, load_of(point.rooms, point.load)))
        return _compared([_summed_up(point, rounds[point.name], size) for point in points])


def _open_point(
    stack: ExitStack, place: Place, size: GrowthSize, kind: str, sessions_count: int, members_count: int
) -> _Point:
    name = f"{kind}-{members_count if kind == 'rooms' else sessions_count}"
    served, host, port = stack.enter_context(chatty_serving(place, name, environment=LARGE_ROOMS))
    at_start = served.rss_bytes()
    _, guests = crowd_at(place.directory / name, host, port, sessions_count=sessions_count, members_count=members_count)
    arrival = dial(guests, host, port)
    check_all_live(arrival)
    rate_per_s = size.deliveries_per_s / members_count
    rooms = in_groups(arrival.members, members_count)[: size.talking_rooms_max]
    return _Point(
        name=name,
        served=served,
        sessions_count=sessions_count,
        rooms=rooms,
        load=Size(
            members_count=members_count,
            rooms_count=len(rooms),
            messages_count=max(1, round(rate_per_s * size.round_s)),
            senders_count=min(members_count, 2),
            ciphertext_bytes=256,
            window=64,
            rounds_count=size.rounds_count,
            warm_up_count=0,
            rate_per_s=rate_per_s,
        ),
        growth_bytes=served.rss_bytes() - at_start,
    )


def _idle(point: _Point, idle_s: float) -> float:
    before = point.served.usage()
    sleep(idle_s)
    used = point.served.usage() - before
    return used.server_s / used.at_s


def _summed_up(point: _Point, rounds: Sequence[Result], size: GrowthSize) -> Result:
    result = median(rounds)
    idle_us = point.idle_s_per_s * 1e6 / result.deliveries_per_s
    result.extra = {
        "sessions_count": point.sessions_count,
        "members_count": point.load.members_count,
        "growth_kb": point.growth_bytes / 1000,
        "idle_cpu_ms_per_s": point.idle_s_per_s * 1000,
        "net_us_per_delivery": result.server_us_per_delivery - idle_us,
    }
    return result


def _compared(found: list[Result]) -> list[Result]:
    """ratio, net_ratio: to the first, of a delivery's cost with and without what the silent server uses."""
    first = found[0]
    for one in found[1:]:
        one.extra["ratio"] = one.server_us_per_delivery / first.server_us_per_delivery
        one.extra["net_ratio"] = one.extra["net_us_per_delivery"] / first.extra["net_us_per_delivery"]
    return found


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line that fits best."""
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope
