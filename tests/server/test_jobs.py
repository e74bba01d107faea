"""Background jobs as their operator sees them: `chatty-admin jobs` and `cleanup` beside two servers, health, metrics."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from chatty.admin.socket import Refused, ask
from chatty.telemetry import configure_logging
from chatty.wire.canonical import encode_base64
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.commands import as_url, chatty_admin, chatty_admin_json
from tests.server.wire_client import ciphertext, open_live_socket
from tests.server.wire_people import sign_in

pytestmark = pytest.mark.usefixtures("logging_as_before")

_ACTS = "SELECT action, actor, object FROM audit WHERE action LIKE 'job.%%' ORDER BY audit_id"
_ALL_RUNS = "SELECT holder, outcome FROM job_runs WHERE job = %s ORDER BY run_number"


class Operator:
    """At the console of one server."""

    def __init__(self, chat: RunningApp) -> None:
        self._directory = chat.settings.data_dir

    async def __call__(self, *words: str) -> dict[str, Any]:
        return await chatty_admin_json(self._directory, *words)

    async def text(self, *words: str, columns: int = 80) -> str:
        result = await chatty_admin(self._directory, *words, COLUMNS=str(columns))
        assert result.exit_code == 0, result.stderr
        return result.stdout

    async def refusal(self, *words: str) -> tuple[int, str, str]:
        """Exit code, the error's code, the next command to type."""
        result = await chatty_admin(self._directory, *words)
        assert result.stdout == ""
        said = dict(line.split(" ", 1) for line in result.stderr.splitlines() if line.startswith(("error ", "next: ")))
        return result.exit_code, said["error"].split(":")[0], said["next:"]

    async def jobs(self) -> dict[str, dict[str, Any]]:
        """Once this server has enrolled them."""
        with trio.fail_after(30):
            while not (jobs := (await self("jobs", "list"))["jobs"]):
                pass
        return {job["job"]: job for job in jobs}


@pytest.fixture
async def chats(database: str, tmp_path: Path) -> AsyncIterator[list[RunningApp]]:
    """Two servers on one database."""
    configure_logging("error")  # to stderr: the commands answer on stdout
    async with AsyncExitStack() as stack:
        nodes = []
        for name in ("one", "two"):
            chat = open_chat(
                database,
                tmp_path / name,
                master_key=encode_base64(b"m" * 32),
                job_failures_max=2,
                job_retry_delay_s=0.2,
                message_retention_days=7,
            )
            nodes.append(await stack.enter_async_context(chat))
        yield nodes


async def test_an_operators_day_with_the_jobs(chats: list[RunningApp]) -> None:
    """All in one, for a start of two servers costs more than what is looked at."""
    await lists_every_job(chats)
    await runs_pauses_and_resumes(chats)
    await lets_one_of_two_operators_run_a_job(chats)
    await buries_a_job_that_fails_and_revives_it(chats)
    await cleans_up_after_showing_what_goes(chats[0])
    await shows_the_days(chats[1])
    assert await acts(chats[0]) >= {
        ("job.run_ordered", "", "statistics"),
        ("job.paused", "", "integrity_check"),
        ("job.resumed", "", "integrity_check"),
        ("job.resumed", "", "audit_sealing"),
        ("job.run_ordered", "", "orphan_cleanup"),
    }


async def acts(chat: RunningApp) -> set[tuple[str, str, str]]:
    return set(await chat.rows(_ACTS))


async def lists_every_job(chats: list[RunningApp]) -> None:
    operator = Operator(chats[0])
    jobs = await operator.jobs()
    assert set(jobs) >= {
        *("account_erasure", "audit_addresses", "audit_sealing", "integrity_check", "message_cleanup"),
        *("orphan_cleanup", "owed_devices", "receipts_cleanup", "registrations_cleanup", "revocations_cleanup"),
        *("sessions_cleanup", "key_rotation", "statistics"),
    }
    assert {job["state"] for job in jobs.values()} == {"scheduled"}
    assert jobs["message_cleanup"]["interval_s"] == 5.0
    assert 0 <= jobs["message_cleanup"]["next_look_s"] < 10
    table = await operator.text("jobs", "list")
    assert table.splitlines()[0].split() == ["job", "state", "every_s", "next_s", "last", "rows", "failures"]
    assert {line.split()[0] for line in table.splitlines()[1:]} == set(jobs)
    assert await operator.refusal("jobs", "show", "laundry") == (1, "job_unknown", "chatty-admin jobs list")


async def runs_pauses_and_resumes(chats: list[RunningApp]) -> None:
    operator, other = Operator(chats[0]), Operator(chats[1])
    run = await operator("jobs", "run", "statistics")
    assert (run["outcome"], run["rows_count"], run["error_code"]) == ("done", 8, "")
    assert (await other("jobs", "history", "statistics"))["runs"][0]["run"] == run["run"]
    assert str(run["run"]) in await operator.text("jobs", "history", "--count-max", "1", "statistics")
    assert await operator("jobs", "pause", "integrity_check") == {"job": "integrity_check", "state": "paused"}
    assert await operator("jobs", "pause", "integrity_check") == {"job": "integrity_check", "state": "paused"}
    assert (await operator.refusal("jobs", "run", "integrity_check"))[:2] == (1, "job_stopped")
    assert (await operator.refusal("jobs", "abort", "integrity_check"))[:2] == (1, "job_idle")
    [check] = [one for one in (await operator("health"))["checks"] if one["name"] == "jobs"]
    assert (check["is_ready"], check["warning"]) == (True, "integrity_check is paused")
    assert (await other("jobs", "resume", "integrity_check"))["state"] == "scheduled"
    run = await other("jobs", "run", "integrity_check")
    assert (run["outcome"], run["error_code"]) == ("done", "")
    last = (await operator("jobs", "show", "integrity_check"))["notes"]["last"]
    assert set(last["found"].values()) == {0}
    assert last["rows_count"] == run["rows_count"] > 0
    metrics = (await chats[1].http.get("/metrics")).text + (await chats[0].http.get("/metrics")).text
    for line in (
        'chatty_job_runs_total{job="integrity_check",outcome="done"} ',
        'chatty_job_state{job="integrity_check",state="scheduled"} 1.0',
        'chatty_integrity_findings{check="chains"} 0.0',
        'chatty_job_rows_total{job="statistics"} ',
        'chatty_job_duration_seconds_count{job="statistics"} ',
        'chatty_job_last_look_timestamp_seconds{job="message_cleanup"} ',
    ):
        assert line in metrics


async def lets_one_of_two_operators_run_a_job(chats: list[RunningApp]) -> None:
    """At once, at two nodes: one run each time; the other operator is told."""
    codes: list[str] = []

    async def order(chat: RunningApp) -> None:
        arguments: dict[str, Any] = {"job": "receipts_cleanup"}
        try:
            await trio.to_thread.run_sync(partial(ask, chat.settings.data_dir, "jobs run", arguments=arguments))
            codes.append("")
        except Refused as refused:
            codes.append(refused.code)

    before = await chats[0].rows(_ALL_RUNS, "receipts_cleanup")
    async with trio.open_nursery() as nursery:
        for chat in chats:
            for _ in range(3):
                nursery.start_soon(order, chat)
    assert set(codes) == {"", "job_running"}
    with trio.fail_after(30):
        while len(runs := (await chats[0].rows(_ALL_RUNS, "receipts_cleanup"))[len(before) :]) < codes.count(""):
            await trio.lowlevel.checkpoint()
    assert (len(runs), {outcome for _, outcome in runs} <= {"running", "done"}) == (codes.count(""), True)


async def buries_a_job_that_fails_and_revives_it(chats: list[RunningApp]) -> None:
    """The sealer builds nothing on a head that somebody altered."""
    chat, operator = chats[0], Operator(chats[0])
    await operator("users", "invite")  # leaves a row to be sealed
    with trio.fail_after(30):
        while (shown := await operator("jobs", "show", "audit_sealing"))["state"] != "dead":
            await chat.execute("UPDATE audit_heads SET signature = %s", "A" * 86)
            await operator("users", "invite")
    assert (shown["failures_count"], shown["last"]["error_code"]) == (2, "audit_broken")
    checks = {check["name"]: check for check in (await operator("health"))["checks"]}
    assert checks["jobs"]["warning"] == "audit_sealing is dead"
    assert (await operator.refusal("jobs", "run", "audit_sealing"))[:2] == (1, "job_stopped")
    for statement in ("DELETE FROM audit_heads", "DELETE FROM audit_seals", "UPDATE audit SET is_sealed = false"):
        await chat.execute(statement)
    await operator("jobs", "resume", "audit_sealing")
    with trio.fail_after(30):
        while await chat.rows("SELECT 1 FROM audit WHERE NOT is_sealed"):
            await trio.lowlevel.checkpoint()
    assert (await operator("jobs", "show", "audit_sealing"))["failures_count"] == 0


async def cleans_up_after_showing_what_goes(chat: RunningApp) -> None:
    operator, paused = Operator(chat), ("message_cleanup", "orphan_cleanup", "registrations_cleanup")
    for job in paused:
        await operator("jobs", "pause", job)
    ann = await chat.sign_up("ann")
    phone = await sign_in(ann, one_time_keys_count=3, with_fallback=True)
    await ann.send_to_devices(phone)
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        for _ in range(3):
            await socket.send(room.id, ciphertext(), epoch=room.epoch)
    await ann.answer("DELETE", f"/v1/devices/{phone.device}")
    await chat.execute("UPDATE timeline SET time = seq")  # as if decades had passed
    await operator("users", "invite")
    await chat.execute("UPDATE registration_tokens SET expires_at = now() - interval '1 hour'")
    [(invitations_count,)] = await chat.rows("SELECT count(*) FROM registration_tokens")
    counted = {one["what"]: one for one in (await operator("cleanup", "--dry-run"))["leftovers"]}
    assert {what: one["rows_count"] for what, one in counted.items() if one["rows_count"]} == {
        "past_retention": 3,
        "orphans_of_ended_devices": 5,
        "old_invitations_and_applications": invitations_count,
    }
    assert counted["past_retention"]["bytes_count"] > 0
    assert "orphans_of_ended_devices" in await operator.text("cleanup", "--dry-run")
    assert (await operator.refusal("cleanup"))[:2] == (4, "not_confirmed")
    assert (await operator.refusal("cleanup", "--yes"))[:2] == (1, "job_stopped")
    for job in paused:
        await operator("jobs", "resume", job)
    answer = await operator("cleanup", "--yes")
    assert {run["outcome"] for run in answer["runs"]} <= {"done", "running"}
    with trio.fail_after(10):
        while any(job["last"] and job["last"]["outcome"] == "running" for job in (await operator.jobs()).values()):
            pass
    left = (await operator("cleanup", "--dry-run"))["leftovers"]
    assert {one["what"] for one in left if one["rows_count"]} <= {"below_horizons"}
    assert await chat.rows("SELECT 1 FROM mailbox UNION ALL SELECT 1 FROM one_time_keys") == []


async def shows_the_days(chat: RunningApp) -> None:
    operator = Operator(chat)
    await operator("jobs", "run", "statistics")
    [day] = (await operator("jobs", "statistics"))["days"]
    assert (day["users_count"], day["rooms_count"], day["devices_count"]) == (1, 1, 1)
    assert day["database_bytes"] > 1_000_000
    assert "users_count" in await operator.text("jobs", "statistics", "--days-max", "1", columns=160)


async def test_without_a_server_jobs_can_be_looked_at_and_paused_but_not_run(database: str, tmp_path: Path) -> None:
    configure_logging("error")
    async with open_chat(database, tmp_path) as chat:
        data_dir = chat.settings.data_dir
        assert "statistics" in await Operator(chat).jobs()
    environment = {"CHATTY_DATABASE_URL": as_url(database)}
    paused = await chatty_admin(data_dir, "jobs", "pause", "--json", "statistics", **environment)
    assert (paused.exit_code, json.loads(paused.stdout)["state"]) == (0, "paused")
    listed = await chatty_admin(data_dir, "jobs", "list", "--json", **environment)
    states = {job["job"]: (job["state"], job["next_look_s"]) for job in json.loads(listed.stdout)["jobs"]}
    assert states["statistics"] == ("paused", None)
    for words in (("jobs", "run", "statistics"), ("jobs", "abort", "statistics"), ("cleanup", "--dry-run")):
        refused = await chatty_admin(data_dir, *words, **environment)
        assert (refused.exit_code, refused.stdout, refused.stderr.splitlines()[-1]) == (3, "", "next: chatty up")
