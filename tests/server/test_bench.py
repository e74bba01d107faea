"""The scale still works: tiny counts, no timing. What it measures is checked by itself, every member for every message."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import results
from bench.compare import compare
from bench.people import megolm_message, number_of
from bench.results import Run
from bench.scenarios import Result
from chatty.wire.megolm import check_megolm

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.skipif(sys.platform != "linux", reason="CPU is read from /proc")
def test_each_kind_of_scenario_runs_and_finds_every_message_in_order() -> None:
    command = [sys.executable, "-m", "bench", "--small", "--only", "echo", "B", "slow", "identity", "audit"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    chat = ["echo", "B", "slow"]
    identity = ["log_in", "refresh", "request", "connect", "hello", "audit", "no_audit"]
    assert [line.split()[0] for line in ran.stdout.splitlines()[2:]] == chat + identity


def test_what_is_sent_has_the_shape_that_the_server_wants_and_says_which_message_it_is() -> None:
    body = megolm_message(300, ciphertext_bytes=256)
    assert check_megolm(body) == 300
    assert number_of(body, ciphertext_bytes=256) == 300


def test_the_change_between_the_two_newest_results_is_shown(tmp_path: Path) -> None:
    for commit, us in (("1", 500.0), ("2", 250.0)):
        results.save(make_run(commit, us), tmp_path)
    old, new = (results.read(path) for path in results.newest(tmp_path))
    lines = {line.split()[1]: line for line in compare(old, new)}
    assert "-50.0 %" in lines["server_us_per_message"]
    assert "+0.0 %" in lines["p99_ms"]
