"""Sealed columns in PostgreSQL, and how far the work on them came. Owns key_rotations; in the others it changes one column.

To add a sealed column, add a line to _COLUMNS and its purpose to services/rewrapping.py; a test compares them with the schema.
"""

from collections.abc import Sequence
from typing import NamedTuple

from chatty.ids import UserId
from chatty.services.rewrapping import Rotation, SealedRow, SealedRows
from chatty.store.connection import TrioConnection


class _Column(NamedTuple):
    """place: SQL of a row's number. begin: the rows from that place on, by the primary key `key`. is_at: the row at n.place."""

    name: str
    source: str
    place: str
    begin: str
    key: str
    is_at: str


_COLUMNS = {
    "users": _Column(
        name="login_key_sealed",
        source="users t",
        place="t.user_number",
        begin="t.user_number >= %(place)s",
        key="t.user_number",
        is_at="t.user_number = n.place",
    ),
    "registration_requests": _Column(
        name="login_key_sealed",
        source="registration_requests t",
        place="t.request_number",
        begin="t.request_number >= %(place)s",
        key="t.request_number",
        is_at="t.request_number = n.place",
    ),
    "totp_secrets": _Column(
        name="secret_sealed",
        source="totp_secrets t JOIN users u USING (user_number)",
        place="t.user_number * 2 + t.is_confirmed::int",
        begin="t.user_number >= %(place)s / 2",
        key="t.user_number, t.is_confirmed",
        is_at="t.user_number = n.place / 2 AND t.is_confirmed::int = mod(n.place, 2)",
    ),
}
# Byte 1 is the format; an account that was deleted has nothing sealed.
_OLD = "length(t.{name}) > 0 AND substring(t.{name} FROM 2 FOR 4) < int4send(%(below)s)"
_LOCK = """SELECT {place}, user_id, t.{name} FROM {source} WHERE {begin} AND {old} ORDER BY {key} LIMIT %(count_max)s
FOR NO KEY UPDATE OF t SKIP LOCKED"""  # index: each table's primary key
_RESEAL = """UPDATE {table} t SET {name} = n.sealed FROM unnest(%s::bigint[], %s::bytea[]) AS n (place, sealed)
WHERE {is_at}"""
_COUNT = "SELECT count(*) FROM {source} WHERE {old}"
_ROTATION = """SELECT version, store, place, done_count, total_count,
extract(epoch FROM clock_timestamp() - started_at)::float8, extract(epoch FROM clock_timestamp() - finished_at)::float8
FROM key_rotations WHERE kind = %s"""  # index: key_rotations_pkey
_LOCK_ROTATION = f"{_ROTATION} FOR UPDATE"
_BEGIN = """INSERT INTO key_rotations (kind, version, total_count) VALUES (%s, %s, %s) ON CONFLICT (kind) DO UPDATE
SET version = excluded.version, started_at = clock_timestamp(), finished_at = NULL, store = '', place = 0, done_count = 0,
total_count = excluded.total_count"""
_MOVE_ON = "UPDATE key_rotations SET store = %s, place = %s, done_count = done_count + %s WHERE kind = %s"
_FINISH = "UPDATE key_rotations SET finished_at = clock_timestamp() WHERE kind = %s"
_LIVING_FAMILIES = """SELECT count(*) FROM refresh_families f JOIN devices d USING (device_number)
WHERE NOT f.is_revoked AND d.is_live"""


def _statement(text: str, store: str) -> str:
    column = _COLUMNS[store]
    return text.format(**column._asdict(), table=store, old=_OLD.format(name=column.name))


class PostgresSealedRows(SealedRows):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def rotation(self, kind: str) -> Rotation | None:
        return await self._rotation(_ROTATION, kind)

    async def lock_rotation(self, kind: str) -> Rotation | None:
        return await self._rotation(_LOCK_ROTATION, kind)

    async def _rotation(self, statement: str, kind: str) -> Rotation | None:
        row = await (await self._connection.execute(statement, (kind,))).fetchone()
        if row is None:
            return None
        return Rotation(
            version=row[0],
            store=row[1],
            place=row[2],
            done_count=row[3],
            total_count=row[4],
            age_s=row[5],
            finished_age_s=row[6],
        )

    async def begin_rotation(self, kind: str, *, version: int, total_count: int) -> None:
        await self._connection.execute(_BEGIN, (kind, version, total_count))

    async def move_on(self, kind: str, *, store: str, place: int, done_count: int) -> None:
        await self._connection.execute(_MOVE_ON, (store, place, done_count, kind))

    async def finish_rotation(self, kind: str) -> None:
        await self._connection.execute(_FINISH, (kind,))

    async def lock_sealed(self, store: str, *, place: int, below: int, count_max: int) -> list[SealedRow]:
        wanted = {"place": place, "below": below, "count_max": count_max}
        rows = await (await self._connection.execute(_statement(_LOCK, store), wanted)).fetchall()
        return [SealedRow(place=row[0], user=UserId(row[1]), sealed=bytes(row[2])) for row in rows]

    async def reseal(self, store: str, rows: Sequence[SealedRow]) -> None:
        if rows:
            values = ([row.place for row in rows], [row.sealed for row in rows])
            await self._connection.execute(_statement(_RESEAL, store), values)

    async def count_sealed(self, store: str, *, below: int) -> int:
        row = await (await self._connection.execute(_statement(_COUNT, store), {"below": below})).fetchone()
        return 0 if row is None else int(row[0])

    async def living_families(self) -> int:
        row = await (await self._connection.execute(_LIVING_FAMILIES)).fetchone()
        return 0 if row is None else int(row[0])
