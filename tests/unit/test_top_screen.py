"""What `top` shows and what keys do, without a terminal; why an actor is slow."""

from dataclasses import replace
from typing import Any

import pytest

from chatty.actors.runtime import Snapshot
from chatty.admin.top_keys import parse_keys
from chatty.admin.top_screen import VIEWS, Quit, Restart, Seen, State, press, screen
from chatty.app.slowness import Surroundings, reasons
from chatty.app.top import Look, rates_between

CALM = Surroundings(
    pool_is_down=False,
    pool_waiting_count=0,
    pool_borrowed_count=1,
    pool_connections_max=8,
    commit_ms=2.0,
    journal=None,
)


def row(path: str, **more: Any) -> dict[str, Any]:
    return {
        "path": path,
        "depth": path.count("/"),
        "is_branch": False,
        "state": "running",
        "mailbox_count": 0,
        "mailbox_count_max": 2048,
        "oldest_age_s": 0.0,
        "handled_per_s": 0.0,
        "handled_count": 123_456_789,
        "restart_count": 0,
        "quarantined_count": 0,
        "last_error": None,
    } | more


ACTORS = [
    row("journal", is_branch=True, mailbox_count_max=0),
    row("journal/group", handled_per_s=812.5, mailbox_count=17),
    row("rooms", is_branch=True, mailbox_count_max=0),
    row("rooms/room 1", handled_per_s=3.0, room="!" + "r" * 43, connected_count=2, lagging_count=1),
    row("rooms/room 2", handled_per_s=9.0, room="!" + "s" * 43, connected_count=1, lagging_count=0),
    row("janitor", is_branch=True, mailbox_count_max=0),
    row(
        "janitor/registrations_cleanup",
        state="backing off",
        restart_count=3,
        last_error="KeyError at registration.py:57",
        job_state="dead",
        last_outcome="failed",
        failures_count=8,
        next_look_s=12.5,
    ),
]
ANSWER: dict[str, Any] = {
    "server": {"version": "1.2.3", "server_name": "chat.example.org", "uptime_s": 93_784.5},
    "time_ms": 1_800_000_000_000,
    "rates": {"messages_per_s": 812.5, "http_per_s": 12.0, "batch_size": 4.2, "commit_ms": 3.1, "cpu_percent": 81.0},
    "sessions_count": 10_000,
    "lagging_count": 3,
    "rooms_count": 10_000,
    "pool": {"borrowed_count": 8, "connections_max": 8, "waiting_count": 256, "is_down": False},
    "process": {"memory_bytes": 2**30, "disk_used_bytes": 2**40, "disk_bytes": 2**41},
    "actors": ACTORS,
    "crashes": [
        {
            "crash": "0123456789abcdef",
            "error": "LookupError at messages.py:41",
            "function": "MessageSteps.append",
            "met_in": "http",
            "count": 7,
            "last_seen_ms": 1_800_000_000_000,
        }
    ],
    "sessions": [
        {
            "session": "x",
            "user": f"@user-{n}:chat.example.org",
            "device": "D" + "d" * 20,
            "rooms_count": 5,
            "is_lagging": n == 0,
        }
        for n in range(60)
    ],
}
DETAIL = ACTORS[3] | {"reasons": ["its oldest message is 2.5 s old, 17 wait behind it", "nothing else"]}
SEEN = Seen(answer=ANSWER, detail=DETAIL)


def shown(state: State, seen: Seen = SEEN, *, width: int = 400, height: int = 100) -> list[str]:
    return screen(state, seen, width=width, height=height).plain.splitlines()


def words(lines: list[str]) -> set[str]:
    return {word for line in lines for word in line.split()}


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (200, 50)])
@pytest.mark.parametrize("view", [*VIEWS, "one actor", "question", "typing", "gone"])
def test_no_word_is_cut_in_any_size(size: tuple[int, int], view: str) -> None:
    state = State(view=view) if view in VIEWS else State()
    seen = SEEN
    match view:
        case "one actor":
            state = State(actor="rooms/room 1")
        case "question":
            state = State(restarts="janitor/registrations_cleanup")
        case "typing":
            state = State(is_typing=True, filter="jour")
        case "gone":
            seen = replace(SEEN, trouble="no server is running on /srv/chatty/data: admin.sock is not there")
    width, height = size
    lines = shown(state, seen, width=width, height=height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert words(lines) <= words(shown(state, seen))


def test_no_text_of_the_server_steers_the_terminal() -> None:
    bad = "a\x1b[2Jb\x9b31mc\u202ed\x7f"
    seen = replace(SEEN, trouble=bad, detail={**row("rooms/room 1", handled_per_s=None), "path": bad, "reasons": [bad]})
    for state in (State(message=bad), State(restarts=bad), State(actor="rooms/room 1")):
        lines = shown(state, seen)
        assert all(line.isprintable() for line in lines)
        assert sum("\N{REPLACEMENT CHARACTER}" in line for line in lines) >= 2


def test_the_cursor_stays_in_sight() -> None:
    state = State(view="sessions", cursor=55)
    assert any("@user-55:" in line for line in shown(state, width=80, height=24))
    assert any("@user-0:" in line for line in shown(State(view="sessions"), width=80, height=24))


def typed(text: str, state: State | None = None, seen: Seen = SEEN) -> tuple[State, list[Quit | Restart]]:
    state, acts = state or State(), []
    for key in parse_keys(text):
        state, act = press(state, key, seen)
        acts += [act] if act is not None else []
    return state, acts


def test_keys_choose_sort_filter_and_look_closer() -> None:
    assert [typed(text)[0].view for text in ("2", "3", "4", "5", "1", "\t")] == [*VIEWS[1:], "actors", "rooms"]
    assert typed("j\r")[0].actor == "journal/group"
    assert typed("\r")[0].actor == ""  # a branch
    assert typed("2\r")[0].actor == "rooms/room 2"  # the busiest first
    assert typed("2\x1b[B\r\x1b")[0] == State(view="rooms", cursor=1)
    assert typed("/room 1\rj\r")[0].actor == "rooms/room 1"
    assert typed("/room\x7f\x7f\x1b")[0].filter == ""
    assert typed("/q")[1] == []
    assert typed("ssss")[0].sort == "restarts"
    rows = [line for line in shown(typed("ssss")[0]) if "janitor/registrations_cleanup" in line]
    assert shown(typed("ssss")[0]).index(rows[0]) < min(
        place for place, line in enumerate(shown(typed("ssss")[0])) if "journal/group" in line
    )
    assert typed("kkkjjjjjjjjjjjjjjj")[0].cursor == len(ACTORS) - 1
    assert typed("\x1b[15~\x1b[5")[0] == State()


def test_only_y_restarts_and_only_an_actor() -> None:
    assert typed("jry")[1] == [Restart("journal/group")]
    assert typed("jrn")[1] == typed("jr\r")[1] == typed("ry")[1] == typed("3ry")[1] == []
    assert typed("j\rry")[1] == [Restart("journal/group")]
    assert typed("q")[1] == [Quit()]


def test_jobs_and_errors_are_those_of_the_server() -> None:
    [job] = [line.split() for line in shown(State(view="jobs")) if "janitor/registrations_cleanup" in line]
    assert job[1:6] == ["dead", "failed", "8", "12.5", "s"]
    lines = [line.split() for line in shown(State(view="errors"))]
    assert [
        "http",
        "LookupError",
        "at",
        "messages.py:41",
        "7",
        "08:00:00",
        "MessageSteps.append",
        "0123456789abcdef",
    ] in lines
    assert any(line[:2] == ["janitor/registrations_cleanup", "KeyError"] for line in lines)
    assert typed("5r")[0].restarts == ""  # what crashed there is gone
    assert typed("5jr")[0].restarts == "janitor/registrations_cleanup"


def test_an_answer_without_rates_shows_none() -> None:
    lines = shown(State(), Seen(answer=ANSWER | {"rates": None}))
    assert any("messages -/s" in line and "requests -/s" in line for line in lines)
    assert shown(State(), Seen())[0] == "asking the server"


def look(at: float, **changes: Any) -> Look:
    usual: dict[str, Any] = {
        "handled": {"a": 10},
        "batches": (1.0, 5.0),
        "commits": (1.0, 0.5),
        "requests_count": 3.0,
        "cpu_s": 1.0,
    }
    return Look(at=at, **usual | changes)


def test_rates_are_what_was_counted_between_two_looks() -> None:
    newer = look(
        12.0, handled={"a": 30, "b": 5}, batches=(11.0, 105.0), commits=(11.0, 0.6), requests_count=13.0, cpu_s=2.0
    )
    rates = rates_between(look(10.0), newer)
    assert (rates.messages_per_s, rates.http_per_s, rates.batch_size, rates.commit_ms) == (50.0, 5.0, 10.0, 10.0)
    assert (rates.cpu_percent, rates.handled_per_s) == (50.0, {"a": 10.0, "b": 2.5})
    quiet = rates_between(look(10.0), look(11.0))
    assert (quiet.messages_per_s, quiet.batch_size, quiet.commit_ms) == (0.0, None, None)


@pytest.mark.parametrize(
    ("actor", "around", "sentence"),
    [
        ({}, {}, "nothing waits here: what is slow is elsewhere, on the network or at a client"),
        ({"oldest_age_s": 2.5, "mailbox_count": 17}, {}, "its oldest message is 2.5 s old, 17 wait behind it"),
        (
            {"state": "backing off", "last_error": "KeyError"},
            {},
            "it crashed and waits before it runs again; last error: KeyError",
        ),
        ({"mailbox_count": 90}, {}, "its mailbox is nearly full: 90 of 100; beyond it, senders are refused"),
        ({"quarantined_count": 2}, {}, "2 messages crashed it twice and were set aside"),
        ({}, {"pool_is_down": True}, "the database cannot be reached"),
        ({}, {"pool_waiting_count": 3}, "3 wait for a database connection: 1 of 8 are in use"),
        ({}, {"commit_ms": 120.0}, "commits take 120 ms: look at the database's disk"),
        (
            {},
            {"lagging_count": 1, "room_listeners_count": 5},
            "1 of 5 connected members read too slowly and must resync",
        ),
        (
            {},
            {"journal": Snapshot(name="group", state="running", mailbox_count=40, oldest_age_s=1.0)},
            "the journal is behind: 40 wait, the oldest 1.0 s",
        ),
    ],
)
def test_why_an_actor_is_slow(actor: dict[str, Any], around: dict[str, Any], sentence: str) -> None:
    seen: dict[str, Any] = {"name": "room 1", "state": "running", "mailbox_count_max": 100}
    snapshot = Snapshot(**seen | actor)
    assert reasons(snapshot, replace(CALM, **around)) == [sentence]
