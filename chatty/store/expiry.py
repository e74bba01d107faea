"""Ciphertexts that have an end, and horizons of rooms.

Owns passing_bodies, its partitions in the schema `passing`, and the columns horizon_… and swept_seq of rooms.

A partition holds what ends within one day (UTC). Rows are never moved between partitions, and a day is dropped some time after
the horizons that explain it were written: a reader's snapshot may be older than the list of partitions that its statement sees.
Making and dropping wait a moment for a lock at most, so that no sender waits for longer: Overloaded then, and the next step tries
again.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from chatty.errors import Overloaded
from chatty.ids import RoomId, RoomNumber, Seq
from chatty.services.expiry import Cleanup, Freed, Mark, Swept
from chatty.services.timeline import day_ms
from chatty.store.connection import TrioConnection

_LOCK_BRIEFLY = "SET LOCAL lock_timeout = '200ms'"
_TAKE_TURNS = "SELECT pg_advisory_xact_lock(hashtext('chatty.passing_bodies'))"
# Kinds that every member needs for as long as the room is there, as wire/events.py has them: for a statement's IN.
LASTING = "('create', 'member', 'policy', 'devices', 'deletion', 'restored')"

# Planned with its values: only the partitions that are named are looked at. index: passing_bodies_pkey
_BODIES = """SELECT seq, CASE WHEN sum(octet_length(body)) OVER (ORDER BY seq) <= %s OR row_number() OVER (ORDER BY seq) = 1
 THEN body END
FROM passing_bodies WHERE ends = ANY(%s) AND room_number = %s AND seq = ANY(%s)"""
_DROP = """DELETE FROM passing_bodies WHERE ends = ANY(%s) AND room_number = %s AND seq = ANY(%s)
RETURNING octet_length(body)"""
_EXPIRE = """DELETE FROM passing_bodies WHERE (ends, room_number, seq) IN (SELECT ends, room_number, seq FROM passing_bodies
 WHERE ends >= %s AND ends <= %s ORDER BY ends, room_number, seq LIMIT %s) AND ends >= %s AND ends <= %s
RETURNING octet_length(body)"""
_DAYS = """SELECT substr(c.relname, 5)::integer FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'passing_bodies'::regclass AND c.relname LIKE 'day\\_%%' ORDER BY 1"""
_DAYS_NOT_MADE = "SELECT DISTINCT ends / %s FROM passing.days_not_made"
_EXPIRE_NOT_MADE = """DELETE FROM passing.days_not_made d USING timeline t WHERE d.ends IN (
 SELECT ends FROM passing.days_not_made WHERE ends <= %s ORDER BY ends LIMIT %s)
AND t.room_number = d.room_number AND t.seq = d.seq AND t.expiry = d.ends RETURNING octet_length(d.body)"""
_LIFETIMES = """SELECT coalesce(max(retention_days), 0), coalesce(max((policy->>'message_timer_s')::bigint), 0) FROM rooms
WHERE retention_days > 0 OR policy->>'message_timer_s' IS NOT NULL"""  # index: rooms_ending
_LIKE = "CREATE TABLE {day} (LIKE passing_bodies INCLUDING STORAGE)"
_NO_SAMPLES = "ALTER TABLE {day} ALTER COLUMN body SET STATISTICS 0"
_LOCK_NOT_MADE = "LOCK TABLE passing.days_not_made IN ACCESS EXCLUSIVE MODE"
_IS_USED = "SELECT EXISTS (SELECT FROM passing.days_not_made WHERE ends >= %s AND ends < %s)"
_ATTACH = "ALTER TABLE passing_bodies ATTACH PARTITION {day} FOR VALUES FROM ({first}) TO ({end})"
_SIZE = "SELECT (SELECT count(*) FROM {day}), pg_total_relation_size({name}::regclass)"
_DROP_DAY = "DROP TABLE {day}"
_PROMISED = """SELECT p.room_number, max(p.seq) FROM {day} p
JOIN timeline t ON t.room_number = p.room_number AND t.seq = p.seq JOIN rooms r ON r.room_number = p.room_number
WHERE t.ends <> t.expiry AND p.seq > r.horizon_seq GROUP BY p.room_number LIMIT %s"""  # index: timeline_pkey, rooms_pkey
# The oldest event above the horizon tells whether a room is due; the retention of a room or of the server, whichever is shorter.
_DUE = """SELECT r.room_number, d.days FROM rooms r
CROSS JOIN LATERAL (SELECT coalesce(least(nullif(r.retention_days, 0), nullif(%(days)s, 0)), 0) AS days) d
CROSS JOIN LATERAL (SELECT t.time FROM timeline t WHERE t.room_number = r.room_number AND t.seq > r.horizon_seq
 ORDER BY t.seq LIMIT 1) oldest
WHERE d.days > 0 AND oldest.time < %(today)s - d.days::bigint * %(day_ms)s
ORDER BY r.room_number LIMIT %(limit)s"""  # index: timeline_pkey
_IS_MARKED_SINCE = """SELECT EXISTS (SELECT FROM {day} p JOIN rooms r ON r.room_number = p.room_number
WHERE r.horizon_time > %s)"""  # index: rooms_pkey
_LOCK_ROOM = "SELECT room_id, horizon_seq FROM rooms WHERE room_number = %s FOR NO KEY UPDATE SKIP LOCKED"
_LAST_BEFORE = """SELECT seq, head FROM timeline WHERE room_number = %s AND seq > %s AND time < %s
ORDER BY seq DESC LIMIT 1"""  # index: timeline_pkey
_TIME_AT = "SELECT time FROM timeline WHERE room_number = %s AND seq = %s"
_MARK = """UPDATE rooms SET horizon_seq = %s, horizon_head = %s, horizon_before = %s, horizon_time = %s, horizon_key_id = %s,
horizon_signature = %s WHERE room_number = %s"""
_UNSWEPT = """SELECT room_number, swept_seq, horizon_seq FROM rooms WHERE swept_seq < horizon_seq
ORDER BY room_number LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED"""  # index: rooms_unswept
_MESSAGES = f"""SELECT seq, ends FROM timeline WHERE room_number = %s AND seq BETWEEN %s AND %s
AND kind NOT IN {LASTING}"""  # noqa: S608 # constants; index: timeline_pkey
_SWEEP_NOT_MADE = """DELETE FROM passing.days_not_made WHERE room_number = %s AND seq = ANY(%s)
RETURNING octet_length(body)"""
_SWEEP_BODIES = (
    "DELETE FROM bodies WHERE room_number = %s AND seq = ANY(%s) RETURNING octet_length(body)"  # index: bodies_pkey
)
# A row before an event that stays has the head that the stretch in front of that event ends with.
_SWEEP = f"""DELETE FROM timeline t WHERE t.room_number = %s AND t.seq = ANY(%s) AND t.seq <> %s AND EXISTS (
 SELECT FROM timeline n WHERE n.room_number = t.room_number AND n.seq = t.seq + 1 AND n.kind NOT IN {LASTING})"""  # noqa: S608
_SWEPT = "UPDATE rooms SET swept_seq = %s WHERE room_number = %s"


async def passing_bodies(
    connection: TrioConnection, room: RoomNumber, places: Sequence[tuple[Seq, int]], *, bytes_max: int
) -> dict[Seq, bytes | None]:
    """Of these (seq, ends) those that are there, by seq; None: left out, for those before it hold bytes_max already."""
    seqs, ends = [seq for seq, _ in places], sorted({ends for _, ends in places})
    cursor = await connection.execute(_BODIES, (bytes_max, ends, room, seqs), prepare=False)
    return {Seq(seq): body for seq, body in await cursor.fetchall()}


async def drop_passing(connection: TrioConnection, room: RoomNumber, places: Collection[tuple[Seq, int]]) -> Freed:
    """Drop these (seq, ends), those that are there."""
    passing = [(seq, ends) for seq, ends in places if ends]
    if not passing:
        return Freed()
    params = (sorted({ends for _, ends in passing}), room, [seq for seq, _ in passing])
    return _freed(await (await connection.execute(_DROP, params, prepare=False)).fetchall())


class PostgresCleanup(Cleanup):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    # Days ------------------------------------------------------------------------------------------------------------

    async def days(self) -> Sequence[int]:
        return [day for (day,) in await self._rows(_DAYS)]

    async def days_not_made(self) -> Sequence[int]:
        return [day for (day,) in await self._rows(_DAYS_NOT_MADE, day_ms)]

    async def longest_days(self) -> tuple[int, int]:
        [(retention_days, timer_s)] = await self._rows(_LIFETIMES)
        return retention_days, timer_s * 1_000 // day_ms + 1 if timer_s else 0

    async def make_day(self, day: int) -> None:
        first, end = day * day_ms, (day + 1) * day_ms
        async with _briefly(self._connection):
            await self._connection.execute(_LOCK_NOT_MADE)
            [(is_used,)] = await self._rows(_IS_USED, first, end)
            if is_used or day in await self.days():
                return  # something came for it just now, or somebody else was faster
            await self._connection.execute(_named(_LIKE, day))
            await self._connection.execute(_named(_NO_SAMPLES, day))
            bounds = {"first": sql.Literal(first), "end": sql.Literal(end)}
            await self._connection.execute(_named(_ATTACH, day, **bounds))

    async def drop_day(self, day: int) -> Freed:
        async with _briefly(self._connection):
            if day not in await self.days():
                return Freed()  # somebody else was faster
            [(rows_count, bytes_count)] = await self._rows(_named(_SIZE, day, name=sql.Literal(_relation(day))))
            await self._connection.execute(_named(_DROP_DAY, day))
        return Freed(rows_count=rows_count, bytes_count=bytes_count)

    async def expire(self, *, first_ms: int, now_ms: int, count_max: int) -> Freed:
        params = (first_ms, now_ms, count_max, first_ms, now_ms)
        cursor = await self._connection.execute(_EXPIRE, params, prepare=False)
        freed = _freed(await cursor.fetchall())
        return freed + _freed(await self._rows(_EXPIRE_NOT_MADE, now_ms, count_max))

    # Horizons --------------------------------------------------------------------------------------------------------

    async def rooms_due(
        self, *, today_ms: int, retention_days: int, count_max: int
    ) -> Sequence[tuple[RoomNumber, int]]:
        params = {"days": retention_days, "today": today_ms, "day_ms": day_ms, "limit": count_max}
        cursor = await self._connection.execute(_DUE, params)
        return [(RoomNumber(room), days) for room, days in await cursor.fetchall()]

    async def rooms_promised(self, day: int, *, count_max: int) -> Sequence[tuple[RoomNumber, Seq]]:
        async with _briefly(self._connection):
            if day not in await self.days():
                return ()
            return [(RoomNumber(room), Seq(seq)) for room, seq in await self._rows(_named(_PROMISED, day), count_max)]

    async def is_marked_since(self, day: int, time_ms: int) -> bool:
        async with _briefly(self._connection):
            return day in await self.days() and (await self._rows(_named(_IS_MARKED_SINCE, day), time_ms))[0][0]

    async def time_at(self, room: RoomNumber, seq: Seq) -> int:
        [(time,)] = await self._rows(_TIME_AT, room, seq)
        return int(time)

    async def lock_horizon(self, room: RoomNumber, *, before: int) -> tuple[RoomId, Seq, bytes] | None:
        rows = await self._rows(_LOCK_ROOM, room)
        if not rows:
            return None
        room_id, horizon_seq = rows[0]
        last = await self._rows(_LAST_BEFORE, room, horizon_seq, before)
        return (RoomId(room_id), Seq(last[0][0]), bytes(last[0][1])) if last else None

    async def mark(self, room: RoomNumber, mark: Mark) -> None:
        await self._connection.execute(
            _MARK, (mark.seq, mark.head, mark.before, mark.time, mark.key_id, mark.signature, room)
        )

    async def sweep(self, *, today_ms: int, count_max: int) -> Swept | None:
        unswept = await self._rows(_UNSWEPT)
        if not unswept:
            return None
        room, swept_seq, horizon_seq = unswept[0]
        last = min(swept_seq + count_max, horizon_seq)
        places = [(Seq(seq), ends) for seq, ends in await self._rows(_MESSAGES, room, swept_seq, last)]
        seqs = [seq for seq, _ in places]
        lasting = [(seq, ends) for seq, ends in places if ends >= today_ms]
        freed = await drop_passing(self._connection, RoomNumber(room), lasting)
        freed += _freed(await self._rows(_SWEEP_NOT_MADE, room, seqs))
        freed += _freed(await self._rows(_SWEEP_BODIES, room, seqs))
        removed = await self._connection.execute(_SWEEP, (room, seqs, horizon_seq))
        await self._connection.execute(_SWEPT, (last, room))
        return Swept(freed=freed, events_count=removed.rowcount)

    async def _rows(self, query: LiteralString | sql.Composed, *params: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(query, params)).fetchall()


@asynccontextmanager
async def _briefly(connection: TrioConnection) -> AsyncIterator[None]:
    """One at a time. Raises: Overloaded, where a table's lock is not to be had at once."""
    await connection.execute(_LOCK_BRIEFLY)
    try:
        await connection.execute(_TAKE_TURNS)
        yield
    except psycopg.errors.LockNotAvailable:
        raise Overloaded(limiter="table_lock", retry_after_s=1.0) from None


def _relation(day: int) -> str:
    return f"passing.day_{day}"


def _named(query: LiteralString, day: int, **parts: sql.Composable) -> sql.Composed:
    return sql.SQL(query).format(day=sql.Identifier("passing", f"day_{day}"), **parts)


def _freed(rows: Iterable[tuple[Any, ...]]) -> Freed:
    sizes = [size for (size,) in rows]
    return Freed(rows_count=len(sizes), bytes_count=sum(sizes))
