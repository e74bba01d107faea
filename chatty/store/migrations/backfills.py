"""Backfills: what a migration leaves to be changed row by row, a batch a transaction; cut off anywhere, it goes on there.

The statement itself says what is not right yet, so no place is remembered; what is counted is for whoever waits.
"""

import re
import time
from typing import Any

import psycopg

from chatty.store.migrations.files import Migration, Progress

rows_a_batch = 1_000
attempts_max = 20  # of one batch, while others hold its rows
_attempt_pause_s = 0.5
CREATE = """CREATE TABLE IF NOT EXISTS schema_backfills (
    version integer PRIMARY KEY, rows_count bigint NOT NULL DEFAULT 0, finished_at timestamptz)"""
_BEGIN = "INSERT INTO schema_backfills (version) VALUES (%s) ON CONFLICT DO NOTHING"
DELETE = "DELETE FROM schema_backfills WHERE version = %s"
_STATE = "SELECT rows_count, finished_at IS NOT NULL FROM schema_backfills WHERE version = %s"
_ADVANCE = """UPDATE schema_backfills SET rows_count = rows_count + %(changed)s,
finished_at = CASE WHEN %(changed)s = 0 THEN now() END WHERE version = %(version)s RETURNING rows_count"""
_remaining = re.compile(r"-- remaining: (SELECT .*)")
_busy = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


def run(connection: "psycopg.Connection[Any]", migration: Migration, on_progress: Progress) -> None:
    """To its end, unless it is there already. Raises: psycopg.DatabaseError; what was done by then is kept."""
    assert migration.backfill is not None
    sql = migration.backfill.read_text(encoding="utf-8")
    if _is_finished(connection, migration.version):
        return
    name, left = migration.path.name, _count_remaining(connection, sql)
    while True:
        changed, done = _batch(connection, migration.version, sql)
        if not changed:
            return
        left = max(left - changed, 0)
        on_progress(name, done, left)


def _is_finished(connection: "psycopg.Connection[Any]", version: int) -> bool:
    with connection.transaction():
        connection.execute(_BEGIN, [version])
        row = connection.execute(_STATE, [version]).fetchone()
    return bool(row and row[1])


def _count_remaining(connection: "psycopg.Connection[Any]", sql: str) -> int:
    found = _remaining.match(sql)
    if found is None:
        return 0
    with connection.transaction():
        row = connection.execute(found[1].encode()).fetchone()
    return int(row[0]) if row else 0


def _batch(connection: "psycopg.Connection[Any]", version: int, sql: str) -> tuple[int, int]:
    """Rows changed now, and in all."""
    for _ in range(attempts_max - 1):
        try:
            return _batch_once(connection, version, sql)
        except _busy:
            time.sleep(_attempt_pause_s)
    return _batch_once(connection, version, sql)


def _batch_once(connection: "psycopg.Connection[Any]", version: int, sql: str) -> tuple[int, int]:
    with connection.transaction():
        changed = connection.execute(sql.encode(), {"count": rows_a_batch}).rowcount
        row = connection.execute(_ADVANCE, {"changed": changed, "version": version}).fetchone()
    return changed, int(row[0]) if row else 0
