"""kill -9 of the server in the middle of each job and each key's rotation, while people talk.

What was begun is finished after the next start, people come back by themselves, and what was acked is there once.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from chatty.admin.db import open_database
from chatty.config import Settings
from chatty.errors import ServerUnreachable
from chatty.services.crash_points import Point
from chatty.services.server_keys import DATA, KINDS, SALT
from chatty.store.connection import open_connection
from tests.faults.chatty_process import open_installation
from tests.faults.server_program import Strike
from tests.faults.storm import Storm, all_faults, open_storm, recovery_timeout_s
from tests.server.commands import chatty_admin, chatty_admin_json

pytestmark = pytest.mark.usefixtures("logging_as_before")

finish_timeout_s = 60.0
poll_interval_s = 0.1  # another process: there is nothing to wait on
_DATA_ROWS: tuple[Point, ...] = ("before_commit", "after_commit")


class Operator:
    """At the console of a server that dies in the middle of what was asked of it."""

    def __init__(self, storm: Storm) -> None:
        self._storm = storm
        self.ask = partial(chatty_admin_json, storm.server.data_dir)

    async def killed(self, point: Point, subject: str, *words: str) -> None:
        """The server, at that point of what these words begin; then another is there, and acks come back."""
        storm = self._storm
        await storm.until_acked(20)
        await storm.server.tell(Strike(point=point, subject=subject, passed_count=0))
        with trio.fail_after(recovery_timeout_s):
            await self._say_until_it_is_dead(words)
        assert await storm.server.ended() == -9
        await storm.server.start()
        await storm.until_acked(len(storm.talkers) * storm.talkers[0].window_count + 1)

    async def _say_until_it_is_dead(self, words: Sequence[str]) -> None:
        """A key's turn may not have come yet; a job may be at work by itself."""
        while self._storm.server.running.poll() is None:
            said = await chatty_admin(self._storm.server.data_dir, *words)
            assert said.exit_code in (0, ServerUnreachable.exit_code) or "job_running" in said.stderr, said.stderr
            with trio.move_on_after(1):
                await self._storm.server.running.wait()

    async def until_run(self, job: str, *, after: int) -> None:
        """Until a run of the job that is newer is done."""
        with trio.fail_after(finish_timeout_s):
            while not any(run > after for run in await self.done_runs(job)):  # noqa: ASYNC110
                await trio.sleep(poll_interval_s)

    async def done_runs(self, job: str) -> list[int]:
        history = await self.ask("jobs", "history", "--count-max", "100", job)
        return [run["run"] for run in history["runs"] if run["outcome"] == "done"]

    async def newest_run(self, job: str) -> int:
        history = await self.ask("jobs", "history", "--count-max", "1", job)
        return max((run["run"] for run in history["runs"]), default=0)

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        async with (
            open_database(Settings(data_dir=self._storm.server.data_dir)) as address,
            open_connection(address) as connection,
        ):
            return await (await connection.execute(query)).fetchall()

    async def key_ids(self, kind: str) -> set[str]:
        return {key["id"] for key in (await self.ask("keys", "list"))["keys"] if key["kind"] == kind}


@pytest.mark.long
async def test_what_the_operator_began_is_finished_and_nobody_who_talks_loses_anything(
    open_directory: Path, seed: int, counts: Callable[[int, int], int]
) -> None:
    rng = random.Random(seed)
    async with (
        open_installation(open_directory, lease_lifetime_s=2.0, key_prepare_s=1.0) as server,
        open_storm(server, rng, names=("ann", "bob", "cid")) as storm,
    ):
        operator = Operator(storm)
        jobs = [job["job"] for job in (await operator.ask("jobs", "list"))["jobs"]]
        for job in rng.sample(jobs, min(len(jobs), counts(1, 100))):
            newest = await operator.newest_run(job)
            await operator.killed("job_step", job, "jobs", "run", "--no-wait", job)
            await chatty_admin(server.data_dir, "jobs", "run", "--no-wait", job)  # if it died before it had the order
            await operator.until_run(job, after=newest)
        kinds = [kind for kind in KINDS if kind not in (SALT, DATA)]
        for kind in rng.sample(kinds, counts(1, len(kinds))):
            before = await operator.key_ids(kind)
            await operator.killed("before_commit", "key_rotation", "keys", "rotate", kind)
            assert await operator.key_ids(kind) == before, "what was not committed is not there"
            await operator.ask("keys", "rotate", kind)
            assert len(await operator.key_ids(kind) - before) == 1
        for point in rng.sample(_DATA_ROWS, counts(1, 2)):
            await kill_while_rows_are_sealed_anew(operator, point)
        await kill_between_two_master_keys(operator, is_killed_after=bool(counts(0, 1)))
        await storm.settle()
        assert await all_faults(storm) == []
    print(f"{storm.acked_count} acks")


async def kill_while_rows_are_sealed_anew(operator: Operator, point: Point) -> None:
    """Under the next data key, in batches: what one server does not end, the next one does."""
    await operator.ask("keys", "rotate", "--no-wait", DATA)
    await operator.killed(point, "key_rotation", "jobs", "run", "--no-wait", "key_rotation")
    with trio.fail_after(finish_timeout_s):
        while await operator.rows("SELECT 1 FROM key_rotations WHERE finished_at IS NULL"):  # noqa: ASYNC110
            await trio.sleep(poll_interval_s)
    newest = await operator.rows("SELECT max(version) FROM sealed_keys WHERE purpose = 'data_key'")
    assert await operator.rows("SELECT max(version) FROM key_rotations WHERE kind = 'data'") == newest


async def kill_between_two_master_keys(operator: Operator, *, is_killed_after: bool) -> None:
    """Both open everything: a server that dies and starts then takes either."""
    await operator.ask("keys", "rotate", "--master", "--prepare")
    await operator.killed("job_step", "statistics", "jobs", "run", "--no-wait", "statistics")
    assert (await operator.ask("keys", "rotate", "--master"))["state"] == "replaced"
    if is_killed_after:
        await operator.killed("job_step", "statistics", "jobs", "run", "--no-wait", "statistics")
