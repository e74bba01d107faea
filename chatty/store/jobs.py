"""The books of background jobs. Owns jobs and job_runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from chatty.services.jobs import EndedRun, JobRun, Jobs, ListedJob, Standing
from chatty.store.connection import TrioConnection

_ENROLL = """INSERT INTO jobs (job, interval_s) SELECT * FROM unnest(%s::text[], %s::double precision[]) AS u(job, interval_s)
ON CONFLICT (job) DO UPDATE SET interval_s = EXCLUDED.interval_s WHERE jobs.interval_s <> EXCLUDED.interval_s"""
_COLUMNS = "j.state, j.failures_count, j.order_number, j.begun_order, j.abort_number"
_LAST = """LEFT JOIN LATERAL (SELECT * FROM job_runs r WHERE r.job = j.job ORDER BY r.run_number DESC LIMIT 1) r
 ON true"""  # index: job_runs_job
_OUTCOME = """coalesce(r.outcome, ''),
coalesce(extract(epoch FROM clock_timestamp() - coalesce(r.ended_at, r.started_at)), 0)::float8"""
_STANDINGS = f"SELECT j.job, {_COLUMNS}, {_OUTCOME} FROM jobs j {_LAST}"  # noqa: S608 # constants
_LOCK = "SELECT 1 FROM jobs WHERE job = %s FOR UPDATE"
_WRITE = """UPDATE jobs SET state = %s, failures_count = %s, order_number = %s, begun_order = %s, abort_number = %s
WHERE job = %s"""
_OPEN_RUN = """INSERT INTO job_runs (job, holder, order_number, started_at, outcome, rows_count, steps_count)
VALUES (%s, %s, %s, clock_timestamp(), 'running', 0, 0) RETURNING run_number"""
_LOSE_RUNS = """UPDATE job_runs SET ended_at = clock_timestamp(), outcome = 'lost' WHERE job = %s AND ended_at IS NULL
RETURNING order_number"""
_NOTE_RUN = "UPDATE job_runs SET rows_count = %s, steps_count = %s WHERE run_number = %s AND ended_at IS NULL"
_CLOSE_RUN = """UPDATE job_runs SET ended_at = clock_timestamp(), outcome = %s, rows_count = %s, steps_count = %s, error_code = %s
WHERE run_number = %s AND ended_at IS NULL"""
_ADD_RUN = """INSERT INTO job_runs (job, holder, started_at, ended_at, outcome, rows_count, steps_count, error_code)
VALUES (%s, %s, clock_timestamp() - make_interval(secs => %s), clock_timestamp(), %s, %s, %s, %s)"""
_FORGET_RUNS = """DELETE FROM job_runs WHERE job = %s AND run_number <= (SELECT run_number FROM job_runs WHERE job = %s
 ORDER BY run_number DESC OFFSET %s LIMIT 1)"""  # index: job_runs_job
_TEXT = "to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
_RUN = f"""r.run_number, r.job, r.outcome, {_TEXT.format("r.started_at")}, {_TEXT.format("r.ended_at")},
round(extract(epoch FROM coalesce(r.ended_at, clock_timestamp()) - r.started_at), 3)::float8,
r.rows_count, r.steps_count, r.error_code, r.order_number, r.holder"""
_LISTED = f"""SELECT j.job, {_COLUMNS}, {_OUTCOME}, j.interval_s, {_RUN} FROM jobs j {_LAST}
ORDER BY j.job"""  # noqa: S608 # constants
_RUNS = f"""SELECT {_RUN} FROM job_runs r WHERE r.job = %s
ORDER BY r.run_number DESC LIMIT %s"""  # noqa: S608 # constants; index: job_runs_job
_RUN_OF_ORDER = f"""SELECT {_RUN} FROM job_runs r WHERE r.job = %s AND r.order_number = %s
ORDER BY r.run_number DESC LIMIT 1"""  # noqa: S608 # constants; index: job_runs_job
_NOTES = "SELECT notes::text FROM jobs WHERE job = %s"
_SET_NOTES = "UPDATE jobs SET notes = %s WHERE job = %s"


class PostgresJobs(Jobs):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def enroll(self, intervals_s: Mapping[str, float]) -> None:
        names = sorted(intervals_s)  # in one order, or two nodes that start at once might wait for each other
        await self._connection.execute(_ENROLL, (names, [intervals_s[name] for name in names]))

    async def standings(self) -> Mapping[str, Standing]:
        return {row[0]: _standing(row[1:]) for row in await self._rows(_STANDINGS)}

    async def lock(self, job: str) -> Standing | None:
        await self._connection.execute(_LOCK, (job,))
        rows = await self._rows(f"{_STANDINGS} WHERE j.job = %s", job)
        return _standing(rows[0][1:]) if rows else None

    async def write(self, job: str, standing: Standing) -> None:
        counts = (standing.failures_count, standing.order_number, standing.begun_order, standing.abort_number)
        await self._connection.execute(_WRITE, (standing.state, *counts, job))

    async def open_run(self, job: str, *, holder: str, order_number: int | None) -> int:
        return int((await self._rows(_OPEN_RUN, job, holder, order_number))[0][0])

    async def lose_runs(self, job: str) -> Sequence[int | None]:
        return [order for (order,) in await self._rows(_LOSE_RUNS, job)]

    async def note_run(self, run: int, *, rows_count: int, steps_count: int) -> None:
        await self._connection.execute(_NOTE_RUN, (rows_count, steps_count, run))

    async def close_run(self, job: str, run: EndedRun, *, holder: str) -> None:
        ended = (run.outcome, run.rows_count, run.steps_count, run.error_code)
        if run.number is not None:
            await self._connection.execute(_CLOSE_RUN, (*ended, run.number))
        else:
            await self._connection.execute(_ADD_RUN, (job, holder, run.duration_s, *ended))

    async def forget_runs(self, job: str, *, kept_max: int) -> None:
        await self._connection.execute(_FORGET_RUNS, (job, job, kept_max))

    async def listed(self) -> Sequence[ListedJob]:
        return [
            ListedJob(
                job=row[0],
                standing=_standing(row[1:8]),
                interval_s=row[8],
                last=None if row[9] is None else _run(row[9:]),
            )
            for row in await self._rows(_LISTED)
        ]

    async def runs(self, job: str, *, count_max: int) -> Sequence[JobRun]:
        return [_run(row) for row in await self._rows(_RUNS, job, count_max)]

    async def run_of_order(self, job: str, order_number: int) -> JobRun | None:
        rows = await self._rows(_RUN_OF_ORDER, job, order_number)
        return _run(rows[0]) if rows else None

    async def notes(self, job: str) -> Mapping[str, Any]:
        rows = await self._rows(_NOTES, job)
        return msgspec.json.decode(rows[0][0], type=dict[str, Any]) if rows else {}

    async def set_notes(self, job: str, notes: Mapping[str, Any]) -> None:
        await self._connection.execute(_SET_NOTES, (msgspec.json.encode(notes).decode(), job))

    async def _rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(sql, params)).fetchall()


def _standing(row: Sequence[Any]) -> Standing:
    state, failures_count, order_number, begun_order, abort_number, outcome, age_s = row
    return Standing(
        state=state,
        failures_count=failures_count,
        order_number=order_number,
        begun_order=begun_order,
        abort_number=abort_number,
        last_outcome=outcome,
        last_age_s=age_s,
    )


def _run(row: Sequence[Any]) -> JobRun:
    run, job, outcome, started_at, ended_at, duration_s, rows_count, steps_count, code, order_number, holder = row
    return JobRun(
        run=run,
        job=job,
        outcome=outcome,
        started_at=started_at,
        ended_at=ended_at,
        duration_s=duration_s,
        rows_count=rows_count,
        steps_count=steps_count,
        error_code=code,
        order_number=order_number,
        holder=holder,
    )
