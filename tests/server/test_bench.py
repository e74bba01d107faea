"""The scale still works: tiny counts, no timing. What it measures is checked by itself, every member for every message."""

import random
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bench import plots, results
from bench.compare import compare
from bench.growth import slope
from bench.peers.xmpp import XmppMember
from bench.people import megolm_message, number_of
from bench.results import Run
from bench.scenarios import Result
from chatty.wire.megolm import check_megolm

ROOT = Path(__file__).resolve().parents[2]


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="CPU is read from /proc")


def make_run(commit: str, server_us_per_message: float) -> Run:
    result = Result(
        scenario="B",
        deliveries_per_s=4_000,
        server_us_per_delivery=server_us_per_message / 2,
        messages_per_s=2_000,
        server_us_per_message=server_us_per_message,
        database_us_per_message=40,
        p50_ms=20,
        p99_ms=100,
        extra={"rss_mb": 100.0},
    )
    return Run(commit=commit, at=f"2026-01-01T00:00:0{commit}", python="3.11", is_pinned=True, results=[result])


def start_bench(*scenarios: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "bench", "--small", "--only", *scenarios]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_of(bench: "subprocess.Popen[str]") -> dict[str, str]:
    """By the scenario that each begins with."""
    printed, errors = bench.communicate(timeout=100)
    assert bench.returncode == 0, errors
    return {line.split()[0]: line for line in printed.splitlines()[2:]}


# By what each kind of scenario is called with --only: the lines that it prints, and what the last of them must say.
KINDS = {
    "send": (["send"], ""),
    "C": (["C"], ""),
    "D": (["D"], "session_kb"),
    "F": (["F-history", "F-resume"], ""),
    "E": (["E"], "lost_count 0"),
    "fairness": (["fairness"], "large_short_count 0"),
    "rooms": (["rooms-2"], "net_us_per_delivery"),
}


@needs_proc
@pytest.mark.long
def test_each_kind_of_scenario_runs_and_finds_every_message_in_order(
    counts: Callable[[int, int], int], seed: int
) -> None:
    chosen = random.Random(seed).sample(list(KINDS), counts(2, len(KINDS)))
    both = start_bench(*chosen[::2]), start_bench(*chosen[1::2])
    found = lines_of(both[0]) | lines_of(both[1])
    assert found.keys() == {line for kind in chosen for line in KINDS[kind][0]}
    for kind in chosen:
        lines, says = KINDS[kind]
        assert says in found[lines[-1]]


@pytest.mark.parametrize(("points", "per_step"), [([(1, 3), (2, 5), (3, 7)], 2.0), ([(10, 1), (20, 1)], 0.0)])
def test_the_slope_of_memory_is_that_of_the_line_through_the_points(
    points: list[tuple[float, float]], per_step: float
) -> None:
    assert slope(points) == pytest.approx(per_step)


def test_pictures_show_what_chat_costs_and_nothing_where_nobody_chatted(tmp_path: Path) -> None:
    chat = make_run("1", 500.0)
    chat.results[0].path = "direct"
    plots.draw(chat, tmp_path / "1.json")
    plots.draw(make_run("2", 500.0), tmp_path / "2.json")
    assert [path.name for path in tmp_path.iterdir()] == ["1.png"]
    assert (tmp_path / "1.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_commit_was_measured_for_before_stays_in_its_results(tmp_path: Path) -> None:
    first, again = make_run("1", 500.0), make_run("1", 250.0)
    first.results.append(msgspec.structs.replace(first.results[0], scenario="A"))
    results.save(first, tmp_path)
    path = results.save(again, tmp_path)
    found = {one.scenario: one.server_us_per_message for one in results.read(path).results}
    assert found == {"A": 500.0, "B": 250.0}


def test_more_sockets_than_the_system_allows_are_refused_by_name() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
resource.setrlimit = lambda *_: (_ for _ in ()).throw(ValueError)
from bench.processes import allow_sockets
allow_sockets(10_000)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert ran.returncode == 1
    assert "10,000 sockets" in ran.stderr
    assert "ulimit -Hn" in ran.stderr


def test_who_speaks_xmpp_knows_messages_apart_and_whose_they_are() -> None:
    presence = b"<presence from='b0@conference.localhost/n7' to='h0@localhost/b'><x/></presence>"
    message = (
        b"<message to='h0@localhost/b' from='b0@conference.localhost/n%d'><stanza-id/><body>#%07d x</body></message>"
    )
    listener = socket.create_server(("127.0.0.1", 0))
    member = XmppMember("127.0.0.1", listener.getsockname()[1], user="h0", room="b0@conference.localhost", index=3)
    server, _ = listener.accept()
    with listener, server:
        member.go_live()
        server.sendall(presence + message % (3, 40) + message % (4, 41) + (message % (3, 42))[:60])
        select.select([member.fileno()], [], [], 5)
        assert member.read() == ([40, 41], 1)
        server.sendall((message % (3, 42))[60:])
        select.select([member.fileno()], [], [], 5)
        assert member.read() == ([42], 1)
        member.close()


def test_what_is_sent_has_the_shape_that_the_server_wants_and_says_which_message_it_is() -> None:
    body = megolm_message(300, ciphertext_bytes=256)
    assert check_megolm(body) == 300
    assert number_of(body) == 300


def test_the_change_between_the_two_newest_results_is_shown(tmp_path: Path) -> None:
    for commit, us in (("1", 500.0), ("2", 250.0)):
        results.save(make_run(commit, us), tmp_path)
    old, new = (results.read(path) for path in results.newest(tmp_path))
    lines = {line.split()[1]: line for line in compare(old, new)}
    assert "-50.0 %" in lines["server_us_per_message"]
    assert "+0.0 %" in lines["p99_ms"]
