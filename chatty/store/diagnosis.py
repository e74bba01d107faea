"""What a doctor asks a database: version, settings, clock, rights, age of keys. Reads alone, of one connection."""

from collections.abc import Mapping
from dataclasses import dataclass

from chatty.store.connection import TrioConnection

_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
_ABOUT = """SELECT extract(epoch FROM clock_timestamp())::float8, current_setting('server_version'),
current_setting('server_version_num')::int, has_database_privilege(current_database(), 'CREATE'),
(SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),
coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), inet_server_addr() IS NOT NULL
AND inet_server_addr() <> inet_client_addr()"""
_KEYS = """SELECT purpose, min(extract(epoch FROM clock_timestamp() - k.created_at))::float8 FROM sealed_keys k
GROUP BY purpose ORDER BY purpose"""  # a handful of rows
postgres_version_min = 17  # an older one does not understand what pg_restore says (transaction_timeout)
watched_settings = (
    "autovacuum",
    "data_checksums",
    "fsync",
    "full_page_writes",
    "log_error_verbosity",
    "log_min_duration_statement",
    "log_parameter_max_length",
    "log_statement",
    "max_connections",
    "server_encoding",
    "synchronous_commit",
    "transaction_read_only",
)


@dataclass(frozen=True, kw_only=True)
class DatabaseFacts:
    """clock_s: s since 1970. version_number: 180006 is 18.6. is_remote: reached over a network, from another address."""

    clock_s: float
    version: str
    version_number: int
    may_create_schemas: bool
    connections_count: int
    is_encrypted: bool
    is_remote: bool
    settings: Mapping[str, str]


async def read_facts(connection: TrioConnection) -> DatabaseFacts:
    """Raises: StoreUnavailable."""
    row = await (await connection.execute(_ABOUT)).fetchone()
    assert row is not None
    settings = await (await connection.execute(_SETTINGS, (list(watched_settings),))).fetchall()
    return DatabaseFacts(
        clock_s=row[0],
        version=row[1],
        version_number=row[2],
        may_create_schemas=row[3],
        connections_count=row[4],
        is_encrypted=row[5],
        is_remote=row[6],
        settings=dict(settings),
    )


async def key_ages_s(connection: TrioConnection) -> dict[str, float]:
    """Of the newest key of each purpose. Of a migrated database. Raises: StoreUnavailable."""
    return dict(await (await connection.execute(_KEYS)).fetchall())
