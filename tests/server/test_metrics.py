"""What Prometheus scrapes: every name that a rule or the dashboard uses is there, and says what happened."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from chatty.app import Hooks
from chatty.services.crash_points import CrashPoints, Point
from chatty.wire.undecryptables import UndecryptableReason
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.wire_client import Refused, ciphertext, open_live_socket, open_raw_socket

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(path for path in (ROOT / "ops").rglob("*") if path.suffix in (".yml", ".json"))
METRIC = re.compile(r"\b(?:chatty|process)_[a-z_]+")

Samples = dict[str, list[tuple[dict[str, str], float]]]


class CrashOnce(CrashPoints):
    def __init__(self) -> None:
        self._left = {"room_message": 1}

    async def reach(self, point: Point, subject: object = None) -> None:
        if self._left.pop(point, 0):
            raise LookupError("what it says is nobody's business")


async def scrape(chat: RunningApp) -> Samples:
    """By the name of the sample, with its labels."""
    found: Samples = {}
    for family in text_string_to_metric_families((await chat.http.get("/metrics")).text):
        found.setdefault(family.name, [])  # one with labels has no sample before it has something to say
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    [found] = [number for its, number in samples[name] if labels.items() <= its.items()]
    return found


def missing_from(samples: Samples) -> set[str]:
    """Names that the shipped rules, dashboard and scrape example use and that are not there."""
    return {name for path in SHIPPED for name in METRIC.findall(path.read_text(encoding="utf-8"))} - samples.keys()


async def use(chat: RunningApp) -> Samples:
    """A little of everything that is counted. Returns what was there while a session and its room were."""
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs, open_raw_socket(chat.origin) as stranger:
        await anns.send(room.id, ciphertext(), epoch=room.epoch)
        await bobs.messages(1)
        with pytest.raises(Refused):
            await anns.send(room.id, b"plain", epoch=room.epoch)
        await stranger.write_raw(b"nonsense")
        await stranger.closed()
        counts = [{"reason": "no_key_yet", "count": 3}, {"reason": "replayed", "count": 1}]
        assert (await ann.answer("POST", "/v1/undecryptables", {"counts": counts})).status_code == 200
        await chat.http.get("/v1/nowhere")
        return await scrape(chat)


@pytest.fixture
async def used(database: str, tmp_path: Path) -> AsyncIterator[Samples]:
    async with open_chat(database, tmp_path, hooks=Hooks(crash_points=CrashOnce())) as chat:
        yield await use(chat)


async def test_after_use_all_that_is_shipped_finds_its_metrics_and_they_say_what_happened(used: Samples) -> None:
    assert missing_from(used) == set()
    assert len(SHIPPED) == 3
    assert (value(used, "chatty_sessions"), value(used, "chatty_actors", branch="sessions")) == (2, 2)
    assert value(used, "chatty_actors", branch="rooms") == 1
    assert value(used, "chatty_database_up") == 1
    assert value(used, "chatty_pool_connections_max") == 8
    assert value(used, "chatty_delivery_duration_seconds_count") >= 1
    assert value(used, "chatty_journal_batch_size_sum") >= value(used, "chatty_journal_batch_size_count") >= 1
    assert value(used, "chatty_actor_restarts_total", branch="rooms") == 1
    assert value(used, "chatty_actor_restarts_total", branch="journal") == 0
    assert value(used, "chatty_crashes_total") == 1
    assert value(used, "chatty_errors_total", way="socket", code="not_encrypted") == 1
    assert value(used, "chatty_errors_total", way="http", code="not_found") == 1
    assert value(used, "chatty_undecryptables_total", reason="no_key_yet") == 3
    assert value(used, "process_resident_memory_bytes") > 1_000_000


def test_the_dashboard_is_whole() -> None:
    board: dict[str, Any] = json.loads((ROOT / "ops" / "grafana" / "chatty.json").read_text(encoding="utf-8"))
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 20
    assert all(panel["targets"] and all(target["expr"] for target in panel["targets"]) for panel in panels)
    used = set(METRIC.findall(json.dumps(panels)))
    assert {"chatty_delivery_duration_seconds_bucket", "chatty_errors_total", "chatty_pool_waiting"} <= used


def test_each_alert_says_for_how_long_how_urgent_and_what_to_do() -> None:
    rules = (ROOT / "ops" / "prometheus" / "chatty.rules.yml").read_text(encoding="utf-8")
    alerts = rules.split("- alert: ")[1:]
    assert len(alerts) > 10
    for alert in alerts:
        for part in ("expr: ", "for: ", "severity: ", "summary: ", "description: "):
            assert alert.count(part) == 1, alert
        assert re.search(r"severity: (page|ticket)\n", alert)


def test_a_client_reports_the_reasons_that_concern_one_message() -> None:
    source = (ROOT / "chatty" / "client" / "reasons.py").read_text(encoding="utf-8")
    of_one_message = source.partition("# Of one message")[2].partition("# Of a room's order")[0]
    assert set(re.findall(r'= \(?\s*"(\w+)"', of_one_message)) == set(get_args(UndecryptableReason))
