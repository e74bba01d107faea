"""kill -9 of a server while every job of it is in its middle: the next one ends them all, and the books say what happened."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import trio

from chatty.services.jobs import seldom_s
from tests.faults.chatty_process import ChattyProcess, _opened, free_port
from tests.faults.jobs_program import JobsOrder
from tests.server.commands import chatty_admin_json

pytestmark = pytest.mark.usefixtures("logging_as_before")

ended_devices_count = 600  # a page is 500
_SCENE = f"""INSERT INTO users (user_id, role, login_key_sealed, key_derivation, identity_key, wrapped_recovery, wrapped_identity,
 list_digest) VALUES ('@ann:localhost', 'user', '', '{{}}', '', '', '', '');
INSERT INTO devices (device_id, user_number, name, is_live)
 SELECT 'device-' || i, (SELECT user_number FROM users), '', false FROM generate_series(1, {ended_devices_count}) AS i;
INSERT INTO device_send (device_number, is_live) SELECT device_number, false FROM devices;
INSERT INTO mailbox (device_number, sender_device_number, n, kind, content) SELECT device_number, 1, 1, '', '' FROM devices"""
_RUNS = "SELECT job, outcome, order_number FROM job_runs WHERE order_number IS NOT NULL ORDER BY run_number"


@asynccontextmanager
async def server(database: str, data_dir: Path, *, stands_still: bool) -> AsyncIterator[ChattyProcess]:
    port = free_port()
    order = JobsOrder(
        data_dir=str(data_dir),
        port=port,
        database=database,
        stands_still=stands_still,
        lease_lifetime_s=2.0,  # whoever comes next need not wait
    )
    command = [sys.executable, "-m", "tests.faults.jobs_program", msgspec.json.encode(order).decode()]
    async with _opened(ChattyProcess(command=command, data_dir=data_dir, port=port)) as opened:
        yield opened


async def rows(database: str, sql: str) -> list[tuple[Any, ...]]:
    def look() -> list[tuple[Any, ...]]:
        with psycopg.connect(database) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    return await trio.to_thread.run_sync(look)


async def until_all_stand_still(server: ChattyProcess, jobs: set[str]) -> None:
    with trio.fail_after(60):
        while any(f"stands still: {job}\n" not in server.log.read_text() for job in jobs):  # noqa: ASYNC110
            await trio.sleep(0.1)  # another process: there is nothing to wait on


async def test_each_job_that_was_killed_half_way_is_ended_by_the_next_server(
    database: str, open_directory: Path
) -> None:
    await rows(database, _SCENE)
    async with server(database, open_directory, stands_still=True) as killed:
        listed = (await chatty_admin_json(open_directory, "jobs", "list"))["jobs"]
        jobs = {job["job"]: job["interval_s"] for job in listed}
        for job in jobs:
            await chatty_admin_json(open_directory, "jobs", "run", "--no-wait", job)
        await until_all_stand_still(killed, set(jobs))
        await killed.kill()
    [(left_count,)] = await rows(database, "SELECT count(*) FROM mailbox")
    assert left_count == ended_devices_count - 500  # the first page is committed
    async with server(database, open_directory, stands_still=False):
        with trio.fail_after(60):
            while {job for job, outcome, _ in await rows(database, _RUNS) if outcome == "done"} != set(jobs):  # noqa: ASYNC110
                await trio.sleep(0.1)
        health = await chatty_admin_json(open_directory, "health")
    assert [check for check in health["checks"] if check.get("warning")] == []
    outcomes: dict[str, list[str]] = {}
    for job, outcome, order_number in await rows(database, _RUNS):
        assert order_number == 1
        outcomes.setdefault(job, []).append(outcome)
    seldom = {job for job, interval_s in jobs.items() if interval_s >= seldom_s}
    assert {job for job in seldom if outcomes[job] != ["lost", "done"]} == set()
    assert all(one in (["lost", "done"], ["done"]) for one in outcomes.values())
    assert await rows(database, "SELECT 1 FROM mailbox") == []
