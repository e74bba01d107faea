"""Logs are one JSON object a line, carry the request id and hold no secret; metrics belong to one application."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pydantic import SecretStr

from chatty.telemetry import REDACTED, Metrics, configure_logging, redact, redact_text, request_context

# Made up for these tests; they open nothing.
_WEB_TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJAYW5uOmxvY2FsaG9zdCJ9.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
_REFRESH_TOKEN = "chatty_r.ZmFtaWx5.7.bWFj"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    captured = io.StringIO()
    configure_logging("info", captured)
    yield captured
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level = before


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_object_a_line(stream: io.StringIO) -> None:
    structlog.get_logger("chatty.test").warning("outbox.overflowed", dropped_count=412)
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "outbox.overflowed", "level": "warning", "logger": "chatty.test", "dropped_count": 412}


def test_events_below_the_level_are_left_out(stream: io.StringIO) -> None:
    structlog.get_logger("chatty.test").debug("frame.read")
    assert stream.getvalue() == ""


def test_what_libraries_log_takes_the_same_way(stream: io.StringIO) -> None:
    logging.getLogger("hypercorn.error").info("Running on %s", "somewhere", extra={"password": "hunter2"})
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == ("Running on somewhere", "hypercorn.error", "info")
    assert line["password"] == REDACTED


def test_warnings_of_python_are_logged(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert lines(stream)[0]["logger"] == "py.warnings"


def test_a_second_configuration_replaces_the_first(stream: io.StringIO) -> None:
    second = io.StringIO()
    configure_logging("error", second)
    structlog.get_logger("chatty.test").error("server.stopped")
    assert (stream.getvalue(), len(lines(second))) == ("", 1)


def test_every_event_of_a_request_carries_its_id(stream: io.StringIO) -> None:
    log = structlog.get_logger("chatty.test")
    with request_context("r-1", device="LAPTOP"):
        log.info("room.created")
        logging.getLogger("quart.app").warning("slow")
    log.info("server.idled")
    assert [(line.get("request_id"), line.get("device")) for line in lines(stream)] == [
        ("r-1", "LAPTOP"),
        ("r-1", "LAPTOP"),
        (None, None),
    ]


def test_a_traceback_is_logged_in_the_same_line_without_its_secrets(stream: io.StringIO) -> None:
    try:
        raise RuntimeError(f"cannot use Bearer {_WEB_TOKEN}")
    except RuntimeError:
        structlog.get_logger("chatty.test").exception("actor.crashed")
    (line,) = lines(stream)
    assert "RuntimeError: cannot use Bearer [redacted]" in line["exception"]
    assert "eyJ" not in stream.getvalue()


def test_text_for_a_person_holds_no_secret_either() -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    configure_logging("info", stream, form="console")
    structlog.get_logger("chatty.test").info("device.added", token="t0p", name="phone")
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], root.level = before
    assert "device.added" in stream.getvalue()
    assert "phone" in stream.getvalue()
    assert "t0p" not in stream.getvalue()


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "Authorization",
        "access_token",
        "refreshToken",
        "tokens",
        "client_secret",
        "set-cookie",
        "signing_key",
        "private_keys",
        "masterKey",
        "one_time_key",
        "ciphertext",
        "plaintext",
    ],
)
def test_the_value_under_a_telling_key_is_never_logged(key: str) -> None:
    assert redact(None, "info", {"event": "x", key: "hunter2"})[key] == REDACTED
    assert redact(None, "info", {"event": "x", "outer": [{key: b"hunter2"}]})["outer"] == [{key: REDACTED}]


@pytest.mark.parametrize(
    "key", ["session", "session_id", "room", "key_id", "one_time_key_count", "monkey", "request_id"]
)
def test_other_keys_are_logged(key: str) -> None:
    assert redact(None, "info", {"event": "x", key: "!room:localhost"})[key] == "!room:localhost"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"refused {_WEB_TOKEN} today", "refused [redacted] today"),
        (f"family of {_REFRESH_TOKEN}", "family of [redacted]"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer [redacted]"),
        ("authorization: dpop abc", "authorization: dpop [redacted]"),
        ("postgresql://ann:hunter2@db/chatty", "postgresql://[redacted]@db/chatty"),
        ("postgresql://db:5432/chatty", "postgresql://db:5432/chatty"),
        ("room !a:localhost, seq 7", "room !a:localhost, seq 7"),
    ],
)
def test_what_looks_like_a_secret_is_taken_out_of_any_text(text: str, kept: str) -> None:
    assert redact_text(text) == kept


def test_bytes_are_logged_by_their_length_only() -> None:
    assert redact(None, "info", {"event": "x", "body": b"hunter2"})["body"] == "[7 bytes]"


def test_objects_are_logged_as_they_print_and_deep_ones_are_cut() -> None:
    deep: list[Any] = ["bottom"]
    for _ in range(20):
        deep = [deep]
    event = redact(None, "info", {"event": "x", "url": SecretStr("hunter2"), "deep": deep, "n": 1.5, "none": None})
    assert "hunter2" not in str(event)
    assert "bottom" not in str(event)
    assert (event["n"], event["none"]) == (1.5, None)


def test_metrics_of_two_applications_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    one.outbox_overflows.inc()
    one.pool_connections.labels(state="idle").set(3)
    assert b"chatty_outbox_overflows_total 1.0" in one.render()
    assert b'chatty_pool_connections{state="idle"} 3.0' in one.render()
    assert b"chatty_outbox_overflows_total 0.0" in other.render()


def test_every_metric_is_named_after_the_conventions() -> None:
    for name, kind, text in Metrics().describe():
        assert name.startswith(("chatty_", "process_"))  # the latter: as every exporter calls them
        assert name.endswith("_total") == (kind == "counter")
        assert text.endswith(".")


def test_a_power_histogram_counts_what_is_not_above_each_bound() -> None:
    metrics = Metrics()
    for size in (1, 2, 3, 4, 5, 256, 257, 100_000):
        metrics.journal_batch_size.observe(size)
    buckets = {
        sample.labels["le"]: sample.value
        for family in metrics.journal_batch_size.collect()
        for sample in family.samples
        if sample.name.endswith("_bucket")
    }
    assert buckets["1.0"] == 1
    assert (buckets["2.0"], buckets["4.0"], buckets["8.0"]) == (2, 4, 5)
    assert (buckets["128.0"], buckets["256.0"], buckets["+Inf"]) == (5, 6, 8)


def test_a_power_histogram_of_durations_is_in_seconds() -> None:
    metrics = Metrics()
    for duration_s in (0.0, 0.000_128, 0.000_129, 3_600.0):
        metrics.delivery_duration_seconds.observe(duration_s)
    text = metrics.render().decode()
    assert 'chatty_delivery_duration_seconds_bucket{le="0.000128"} 2.0' in text
    assert 'chatty_delivery_duration_seconds_bucket{le="0.000256"} 3.0' in text
    assert "chatty_delivery_duration_seconds_count 4.0" in text
    assert "chatty_delivery_duration_seconds_sum 3600.000257" in text


def test_states_are_looked_at_when_somebody_asks() -> None:
    metrics, count = Metrics(), iter((3, 7))
    metrics.look_before_render(lambda: metrics.sessions.set(next(count)))
    assert b"chatty_sessions 3.0" in metrics.render()
    assert b"chatty_sessions 7.0" in metrics.render()
