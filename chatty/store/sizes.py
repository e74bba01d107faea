"""How large each feature's tables are, how they grow, which statements are slow. Owns size_samples.

Sizes are those of the disk: rows, indexes, TOAST, and the room that dead rows leave. Counts are PostgreSQL's estimates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chatty.services.sizes import SizeSamples
from chatty.store.connection import TrioConnection

# Every table belongs to one feature; tests/store/test_sizes.py compares. Those of the schema passing are messages.
FEATURES: dict[str, tuple[str, ...]] = {
    "messages": ("timeline", "bodies", "passing_bodies", "requests", "device_send"),
    "rooms": (
        "rooms",
        "members",
        "member_intervals",
        "room_links",
        "room_restorations",
        "read_cursors",
        "owed_devices",
    ),
    "keys": ("one_time_keys", "fallback_keys", "mailbox"),
    "accounts": (
        *("users", "devices", "user_stream", "blocks", "totp_secrets", "recovery_codes", "passkeys"),
        *("registration_tokens", "registration_requests", "refresh_families", "revocations"),
        *("deletions", "erasures", "erased_names"),
    ),
    "audit": ("audit", "audit_seals", "audit_heads"),
    "operations": (
        *("server", "sealed_keys", "key_successions", "key_rotations"),
        *("leases", "jobs", "job_runs", "statistics", "crashes", "size_samples"),
        *("schema_version", "schema_backfills", "alembic_version"),
    ),
}
other_feature = "other"  # what is no table of ours: an extension's, or one of a newer version
growth_days_max = 30

_OF_FEATURE = "coalesce(f.feature, CASE WHEN n.nspname = 'passing' THEN 'messages' ELSE 'other' END)"
_BY_FEATURE = f"""SELECT {_OF_FEATURE}, sum(pg_total_relation_size(c.oid))::bigint, sum(greatest(c.reltuples, 0))::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN unnest(%(tables)s::text[], %(features)s::text[]) AS f(relation, feature)
ON f.relation = c.relname AND n.nspname = 'public'
WHERE c.relkind = 'r' AND n.nspname IN ('public', 'passing') GROUP BY 1 ORDER BY 2 DESC"""  # noqa: S608  # constants
_SAMPLE = f"""INSERT INTO size_samples (day, feature, bytes)
SELECT (now() AT TIME ZONE 'UTC')::date, feature, bytes FROM ({_BY_FEATURE}) AS sized(feature, bytes, rows)
ON CONFLICT (day, feature) DO UPDATE SET bytes = EXCLUDED.bytes"""  # noqa: S608  # constants
_FORGET = "DELETE FROM size_samples WHERE day < (now() AT TIME ZONE 'UTC')::date - %s"
_OLDEST = """SELECT DISTINCT ON (feature) feature, bytes, (now() AT TIME ZONE 'UTC')::date - day FROM size_samples
WHERE day BETWEEN (now() AT TIME ZONE 'UTC')::date - %s AND (now() AT TIME ZONE 'UTC')::date - 1
ORDER BY feature, day"""  # index: size_samples_pkey
_WHOLE = "SELECT pg_database_size(current_database())"
_MESSAGES = """SELECT sum(pg_total_relation_size(c.oid))::bigint,
max(CASE WHEN c.relname = 'timeline' THEN c.reltuples END)::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r'
AND (n.nspname = 'passing' OR n.nspname = 'public' AND c.relname IN ('timeline', 'bodies', 'requests'))"""
_STATEMENTS = """SELECT calls, round(total_exec_time::numeric, 1)::float8, round(mean_exec_time::numeric, 3)::float8,
round(max_exec_time::numeric, 1)::float8, rows, regexp_replace(query, '\\s+', ' ', 'g') FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY total_exec_time DESC LIMIT %s"""
_HAS_STATEMENTS = """SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'pg_stat_statements')
AND 'pg_stat_statements' = ANY(string_to_array(replace(current_setting('shared_preload_libraries'), ' ', ''), ','))"""


@dataclass(frozen=True, kw_only=True)
class FeatureSize:
    """growth_bytes_per_day: since the oldest sample of the last growth_days_max days; None until there is one of another day."""

    feature: str
    bytes: int
    rows_estimate: int
    growth_bytes_per_day: int | None


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """events_estimate: rows of all timelines; bytes_per_event: what one costs with its ciphertext, indexes and outcome."""

    total_bytes: int
    events_estimate: int
    bytes_per_event: int | None
    features: Sequence[FeatureSize]


@dataclass(frozen=True, kw_only=True)
class SlowStatement:
    """Times in ms. query: with $1 in the place of values."""

    calls: int
    total_ms: float
    mean_ms: float
    max_ms: float
    rows: int
    query: str


class PostgresSizes(SizeSamples):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def sample(self, *, kept_days: int) -> int:
        written = await self._connection.execute(_SAMPLE.encode(), _features())
        await self._connection.execute(_FORGET, (kept_days,))
        return written.rowcount

    async def look(self) -> Sizes:
        """Reads the catalogue alone, however large the tables are."""
        features = await (await self._connection.execute(_BY_FEATURE.encode(), _features())).fetchall()
        oldest = await (await self._connection.execute(_OLDEST, (growth_days_max,))).fetchall()
        before = {feature: (size, days) for feature, size, days in oldest}
        events_count, bytes_per_event = await self._events()
        return Sizes(
            total_bytes=await self._number(_WHOLE),
            events_estimate=events_count,
            bytes_per_event=bytes_per_event,
            features=[
                FeatureSize(
                    feature=name, bytes=size, rows_estimate=rows, growth_bytes_per_day=growth(size, before.get(name))
                )
                for name, size, rows in features
            ],
        )

    async def _events(self) -> tuple[int, int | None]:
        """How many, about, and what one takes."""
        row = await (await self._connection.execute(_MESSAGES)).fetchone()
        assert row is not None
        events_count = max(row[1] or 0, 0)
        return events_count, row[0] // events_count if events_count else None

    async def _number(self, sql: str) -> int:
        row = await (await self._connection.execute(sql.encode())).fetchone()
        assert row is not None
        return int(row[0])

    async def slowest(self, *, count_max: int) -> list[SlowStatement] | None:
        """Those that took most time in all. None: this PostgreSQL does not count them."""
        row = await (await self._connection.execute(_HAS_STATEMENTS)).fetchone()
        if row != (True,):
            return None
        found = await (await self._connection.execute(_STATEMENTS, (count_max,))).fetchall()
        return [SlowStatement(**dict(zip(SlowStatement.__dataclass_fields__, row, strict=True))) for row in found]


def growth(size: int, before: tuple[int, int] | None) -> int | None:
    """before: bytes, and how many days ago."""
    return None if before is None else (size - before[0]) // before[1]


def _features() -> dict[str, list[str]]:
    pairs = [(table, feature) for feature, tables in FEATURES.items() for table in tables]
    return {"tables": [table for table, _ in pairs], "features": [feature for _, feature in pairs]}
