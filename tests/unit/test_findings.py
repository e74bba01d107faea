"""What the doctor makes of what was read: each finding that is not well says how to mend it."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import pytest

from chatty.admin import _NEXT, findings, main
from chatty.admin.findings import Finding
from chatty.admin.health import ADVICE
from chatty.config import Settings
from chatty.store.diagnosis import DatabaseFacts

WELL = {
    "autovacuum": "on",
    "data_checksums": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "log_error_verbosity": "terse",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "-1",
    "log_statement": "none",
    "max_connections": "100",
    "server_encoding": "UTF8",
    "synchronous_commit": "on",
    "transaction_read_only": "off",
}


def facts(*, version_number: int = 180_003, is_remote: bool = False, **settings: str) -> DatabaseFacts:
    return DatabaseFacts(
        clock_s=0.0,
        version="18.3",
        version_number=version_number,
        may_create_schemas=True,
        connections_count=3,
        is_encrypted=False,
        is_remote=is_remote,
        settings=WELL | settings,
    )


def states(found: object) -> dict[str, str]:
    return {one.check: one.state for one in found}  # type: ignore[attr-defined]


def test_a_database_as_it_should_be_is_well() -> None:
    assert set(states(findings.judge_database(facts(), Settings())).values()) == {"ok"}


@pytest.mark.parametrize(
    ("wrong", "check", "state"),
    [
        ({"fsync": "off"}, "postgresql_settings", "failed"),
        ({"synchronous_commit": "off"}, "postgresql_settings", "failed"),
        ({"transaction_read_only": "on"}, "postgresql_settings", "failed"),
        ({"log_error_verbosity": "default"}, "postgresql_settings", "warning"),
        ({"log_min_duration_statement": "100"}, "postgresql_settings", "warning"),
        ({"max_connections": "12"}, "postgresql_connections", "failed"),
        ({"version_number": 160_010}, "postgresql_version", "failed"),
        ({"is_remote": True}, "postgresql_tls", "failed"),
    ],
)
def test_what_is_wrong_with_a_database_is_found_with_its_mend(wrong: dict[str, object], check: str, state: str) -> None:
    bad = [one for one in findings.judge_database(facts(**wrong), Settings()) if one.state != "ok"]  # type: ignore[arg-type]
    assert [(one.check, one.state) for one in bad] == [(check, state)]
    assert all(one.mend for one in bad)


def test_slow_statements_may_be_logged_without_their_values() -> None:
    logged = facts(log_min_duration_statement="100", log_parameter_max_length="0")
    assert states(findings.judge_database(logged, Settings()))["postgresql_settings"] == "ok"


@pytest.mark.parametrize(("off_s", "state"), [(0.1, "ok"), (-2.0, "warning"), (9.0, "failed")])
def test_a_clock_that_is_off(off_s: float, state: str) -> None:
    assert findings.judge_clock(off_s=off_s).state == state


@pytest.mark.parametrize(
    ("origin", "state"),
    [("http://127.0.0.1:8000", "ok"), ("http://chat.example.org", "failed"), ("https://chat.example.org", None)],
)
def test_http_is_for_one_machine(origin: str, state: str | None) -> None:
    judged = findings.judge_origin(origin)
    assert (judged.state if judged else None) == state


@pytest.mark.parametrize(("days_left", "state"), [(60.0, "ok"), (10.0, "warning"), (-1.0, "failed")])
def test_a_certificate_that_ends(days_left: float, state: str) -> None:
    assert findings.judge_certificate("https://a.example", days_left=days_left).state == state


@pytest.mark.parametrize(
    ("found", "compatible_from", "code", "state"),
    [(14, 12, 14, "ok"), (12, 12, 14, "failed"), (15, 14, 14, "warning"), (15, 15, 14, "failed")],
)
def test_the_schema_against_the_code(found: int, compatible_from: int, code: int, state: str) -> None:
    assert findings.judge_schema(found=found, compatible_from=compatible_from, code=code).state == state


def test_a_signing_key_that_did_not_rotate() -> None:
    days = {"signing": 90.0, "data": 365.0}
    ages_s = {"signing_key": 120 * 86_400.0, "data_key": 380 * 86_400.0, "salt_key": 4_000 * 86_400.0}
    [bad] = [one for one in findings.judge_keys(ages_s, rotation_days=days) if one.state != "ok"]
    assert (bad.state, bad.mend) == ("warning", "chatty-admin keys rotate signing")
    assert states(findings.judge_keys({"signing_key": 80 * 86_400.0}, rotation_days=days)) == {"key_ages": "ok"}


@pytest.mark.parametrize(
    ("free_gib", "total_gib", "state"), [(50, 100, "ok"), (5, 100, "warning"), (1, 10, "warning"), (0.1, 10, "failed")]
)
def test_a_disk_that_fills(free_gib: float, total_gib: float, state: str) -> None:
    judged = findings.judge_disk("data", free_bytes=int(free_gib * 1024**3), total_bytes=int(total_gib * 1024**3))
    assert judged.state == state


@pytest.mark.parametrize(("mode", "state"), [(0o100600, "ok"), (0o100640, "failed"), (0o100604, "failed")])
def test_a_secret_that_others_can_read(mode: int, state: str) -> None:
    assert findings.judge_secret("master.key", mode=mode).state == state


def test_a_public_server_with_what_is_meant_for_trying() -> None:
    trying = Settings(public_origin="https://chat.example.org", registration="open", data_dir=Path("x"))
    found: list[Finding] = list(findings.judge_configuration(trying))
    assert [one.state for one in found] == ["ok", "warning", "warning", "failed"]
    assert [one.state for one in findings.judge_configuration(Settings(registration="open"))] == ["ok"]


def test_every_hint_ends_with_a_command_that_there_is() -> None:
    """Of the doctor, of health, and of what is told below an error."""
    sick = facts(is_remote=True, version_number=150_008, **dict.fromkeys(WELL, "0"))
    days = {"signing": 90.0, "data": 365.0}
    found = [
        *findings.judge_configuration(Settings(public_origin="https://chat.example.org", registration="open")),
        *findings.judge_database(replace(sick, may_create_schemas=False), Settings()),
        *findings.judge_keys({"signing_key": 1e9}, rotation_days=days),
        findings.judge_master_key(1e9, days_max=730.0),
        findings.judge_clock(off_s=9.0),
        findings.judge_origin("http://chat.example.org"),
        findings.judge_certificate("https://a.example", days_left=-1.0),
        findings.judge_no_certificate("https://a.example", reason="x", is_untrusted=True),
        findings.judge_no_certificate("https://a.example", reason="x", is_untrusted=False),
        findings.judge_schema(found=12, compatible_from=12, code=14),
        findings.judge_schema(found=15, compatible_from=14, code=14),
        findings.judge_schema(found=15, compatible_from=15, code=14),
        findings.judge_disk("data", free_bytes=0, total_bytes=1),
        findings.judge_secret("master.key", mode=0o100640),
        findings.judge_backups(None, interval_s=1.0),
        findings.judge_unreachable("x", is_embedded=True),
        findings.judge_unreachable("x", is_embedded=False),
        findings.judge_unreadable("disk", file="x", reason="y"),
    ]
    mends = [one.mend for one in found if one is not None and one.state != "ok"]
    assert len(mends) > 25
    for hint in [*mends, *ADVICE.values(), *_NEXT.values()]:
        ends = re.search(r"(chatty-admin|chatty up|chmod|apt-get|certbot)([^;:]*)$", hint)
        assert ends is not None, hint
        if ends[1] == "chatty-admin":
            assert_is_command(ends[2].split())


def assert_is_command(words: Sequence[str]) -> None:
    """To its last word: groups, the command, its arguments and options."""
    one: click.Command = main
    while words and isinstance(one, click.Group) and not words[0].startswith("-"):
        one, words = one.commands[words[0]], words[1:]
    assert words == ["--version"] or not isinstance(one, click.Group) or words == ["--help"], words
    if not {"--help", "--version"} & set(words):
        one.make_parser(click.Context(one)).parse_args(list(words))
