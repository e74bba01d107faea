"""Crashes in PostgreSQL, and how an operator reads them. Owns crashes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatty.services.crashes import CrashGroup, CrashRows, stored_max, unseen_days_max
from chatty.store.connection import TrioConnection

_ADD = """INSERT INTO crashes (crash_id, module, function, line, kind, met_in, frames, release, count, first_seen, last_seen)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, to_timestamp(%s / 1000.0), to_timestamp(%s / 1000.0))
ON CONFLICT (crash_id) DO UPDATE SET met_in = EXCLUDED.met_in, frames = EXCLUDED.frames, release = EXCLUDED.release,
count = crashes.count + EXCLUDED.count, last_seen = greatest(crashes.last_seen, EXCLUDED.last_seen)"""  # index: crashes_pkey
_FORGET = """DELETE FROM crashes WHERE last_seen < now() - make_interval(days => %s)
OR crash_id IN (SELECT crash_id FROM crashes ORDER BY last_seen DESC OFFSET %s)"""  # at most stored_max rows
_UTC = """'YYYY-MM-DD"T"HH24:MI:SS"Z"'"""
_READ = f"""SELECT crash_id, kind, module, function, line, met_in, count, release,
to_char(first_seen AT TIME ZONE 'UTC', {_UTC}), to_char(last_seen AT TIME ZONE 'UTC', {_UTC}), frames FROM crashes"""  # noqa: S608
_NEWEST = _READ + " ORDER BY last_seen DESC, crash_id LIMIT %s"
_ONE = _READ + " WHERE crash_id = %s"


@dataclass(frozen=True, kw_only=True)
class StoredCrash:
    """In the order of _READ. first_seen, last_seen: UTC, to the second."""

    crash_id: str
    kind: str
    module: str
    function: str
    line: int
    met_in: str
    count: int
    release: str
    first_seen: str
    last_seen: str
    frames: Sequence[str]


class PostgresCrashes(CrashRows):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def add(self, groups: Sequence[CrashGroup]) -> None:
        for group in sorted(
            groups, key=lambda one: one.place.id
        ):  # in order, as nodes on one database take rows' locks
            place = group.place
            seen = (group.count, group.first_seen_ms, group.last_seen_ms)
            where = (place.id, place.module, place.function, place.line, place.kind)
            await self._connection.execute(_ADD, (*where, group.met_in, list(group.frames), group.release, *seen))
        await self._connection.execute(_FORGET, (unseen_days_max, stored_max))

    async def newest(self, *, count_max: int) -> list[StoredCrash]:
        found = await self._connection.execute(_NEWEST, (count_max,))
        return [_stored(*row) for row in await found.fetchall()]

    async def find(self, crash_id: str) -> StoredCrash | None:
        row = await (await self._connection.execute(_ONE, (crash_id,))).fetchone()
        return None if row is None else _stored(*row)


def _stored(*row: Any) -> StoredCrash:
    return StoredCrash(**dict(zip(StoredCrash.__dataclass_fields__, row, strict=True)))
