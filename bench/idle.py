"""Scenario D: sessions that do nothing. What a log-in, a hello and a silent session cost, in rooms of ten."""

from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import TypeVar

from bench.crowd import Crowd
from bench.dialing import Arrival, Guest, dial
from bench.people import MadeRoom, Person
from bench.processes import Served, allow_sockets
from bench.scenarios import Place, Result, chatty_serving, make_result, measured, median

T = TypeVar("T")

LARGE_ROOMS = {"CHATTY_QUOTA_ROOM_MEMBERS": "1000000", "CHATTY_SESSIONS_MAX": "100000"}


@dataclass(frozen=True, kw_only=True)
class CrowdSize:
    """sessions_count: a multiple of members_count, of a room. hold_s: how long idle CPU is looked at."""

    sessions_count: int
    members_count: int
    hold_s: float


def in_groups(people: list[T], members_count: int) -> list[list[T]]:
    return [people[at : at + members_count] for at in range(0, len(people), members_count)]


def guests_of(groups: list[list[Person]], made: list[MadeRoom]) -> list[Guest]:
    return [Guest(person=person, room=room) for group, room in zip(groups, made, strict=True) for person in group]


def crowd_at(data: Path, host: str, port: int, *, sessions_count: int, members_count: int) -> tuple[Crowd, list[Guest]]:
    """Logged in, with their rooms, about to connect."""
    crowd = Crowd(data=data, host=host, port=port)
    people = crowd.admit(sessions_count)
    crowd.log_in(people)
    groups = in_groups(people, members_count)
    return crowd, guests_of(groups, crowd.make_rooms(groups))


def run_idle(place: Place, size: CrowdSize) -> Result:
    """The result's messages are log-ins, salt and all. Memory is the server process's, from its start to the end of the pause."""
    allow_sockets(size.sessions_count)
    with chatty_serving(place, "D", environment=LARGE_ROOMS) as (served, host, port):
        crowd = Crowd(data=place.directory / "D", host=host, port=port)
        people = crowd.admit(size.sessions_count)
        at_start = served.rss_bytes()
        logged_in = measured("D", served, lambda: crowd.log_in(people))
        after_log_ins = served.rss_bytes()
        groups = in_groups(people, size.members_count)
        guests = guests_of(groups, crowd.make_rooms(groups))
        before = served.usage()
        arrival = dial(guests, host, port)
        greeted = make_result("D", arrival.outcome, served.usage() - before)
        idle_ms = _idle_ms_per_s(served, size.hold_s)
        growth, since_log_ins = served.rss_bytes() - at_start, served.rss_bytes() - after_log_ins
        check_all_live(arrival)
        return median(
            [logged_in],
            sessions_count=size.sessions_count,
            session_kb=growth / 1000 / size.sessions_count,
            connection_kb=since_log_ins / 1000 / size.sessions_count,
            log_in_cpu_ms=logged_in.server_us_per_message / 1000,
            hello_cpu_ms=greeted.server_us_per_message / 1000,
            online_cpu_ms=(logged_in.server_us_per_message + greeted.server_us_per_message) / 1000,
            hellos_per_s=greeted.messages_per_s,
            idle_cpu_ms_per_s=idle_ms,
        )


def check_all_live(arrival: Arrival) -> None:
    """Raises: RuntimeError when somebody was turned away or has gone."""
    if arrival.lost_count or arrival.errors:
        raise RuntimeError(f"{arrival.lost_count} sessions lost; errors: {dict(arrival.errors)}")
    for member in arrival.members:
        member.socket.receive(lambda _: None)


def _idle_ms_per_s(served: Served, hold_s: float) -> float:
    before = served.usage()
    sleep(hold_s)
    used = served.usage() - before
    return used.server_s * 1000 / used.at_s
