"""Counts of a day. Owns statistics."""

from collections.abc import Mapping, Sequence

from chatty.services.statistics import Statistics
from chatty.store.connection import TrioConnection

# events_count: all that were ever numbered, so that the difference of two days is what was sent. Each is one pass over a small
# table, or PostgreSQL's own knowledge; nothing reads all messages.
_COUNT = """SELECT
(SELECT count(*) FROM users WHERE NOT is_deleted) AS users_count,
(SELECT count(DISTINCT user_number) FROM devices WHERE is_live AND last_seen_day >= current_date) AS users_active_count,
(SELECT count(*) FROM devices WHERE is_live) AS devices_count,
(SELECT count(*) FROM rooms) AS rooms_count,
(SELECT coalesce(sum(seq), 0)::bigint FROM rooms) AS events_count,
(SELECT pg_total_relation_size('timeline')) AS timeline_bytes,
(SELECT pg_total_relation_size('bodies')
 + coalesce((SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'passing_bodies'::regclass), 0)
)::bigint AS ciphertext_bytes,
(SELECT pg_database_size(current_database())) AS database_bytes"""
_WRITE = """INSERT INTO statistics (day, name, value)
SELECT (now() AT TIME ZONE 'UTC')::date, * FROM unnest(%s::text[], %s::bigint[])
ON CONFLICT (day, name) DO UPDATE SET value = EXCLUDED.value"""
_FORGET = "DELETE FROM statistics WHERE day < (now() AT TIME ZONE 'UTC')::date - %s::integer"
_LISTED = """SELECT day::text, jsonb_object_agg(name, value ORDER BY name) FROM statistics
GROUP BY day ORDER BY day DESC LIMIT %s"""


class PostgresStatistics(Statistics):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def count(self) -> Mapping[str, int]:
        cursor = await self._connection.execute(_COUNT)
        row = await cursor.fetchone()
        assert row is not None
        assert cursor.description is not None
        return {column.name: value for column, value in zip(cursor.description, row, strict=True)}

    async def write_today(self, counted: Mapping[str, int]) -> None:
        await self._connection.execute(_WRITE, (list(counted), list(counted.values())))

    async def forget(self, *, days_kept: int) -> None:
        await self._connection.execute(_FORGET, (days_kept,))

    async def listed(self, *, days_max: int) -> Sequence[tuple[str, Mapping[str, int]]]:
        cursor = await self._connection.execute(_LISTED, (days_max,))
        return [(day, numbers) for day, numbers in await cursor.fetchall()]
