"""Runs `.sql` files through Alembic. Imported only to upgrade; blocking, so it runs in a thread.

A backfill runs after its migration and before the next one, a transaction a batch; how far it is stands in
`schema_backfills`, written with the batch. The way back runs only when nobody else is connected: a server that runs would find
its tables gone.

Alembic wants a Python module for each revision. Here the modules are made in memory from the files, each revision
following the one before it, so a migration is one `.sql` file and nothing else.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any

import psycopg
import sqlalchemy
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import Script, ScriptDirectory
from psycopg.pq import TransactionStatus

from chatty.errors import BackfillFailed, DatabaseInUse, MigrationFailed, SchemaTooNew, StoreUnavailable
from chatty.store.migrations import backfills
from chatty.store.migrations.files import Migration, Progress, SchemaVersion

turn_timeout_s = 60  # for another node's upgrade to end
lock_timeout_s = 2  # a migration never queues longer for a table's lock: behind it everybody else would queue
attempts_max = 5
_attempt_pause_s = 0.5
others_timeout_s = 3.0  # PostgreSQL ends a connection that was closed a moment later
_others_pause_s = 0.1
_advisory_lock = 0x63686174_74790001  # "chatty" and a number of ours
_CREATE = """CREATE TABLE IF NOT EXISTS schema_version (
    version integer PRIMARY KEY, compatible_from integer NOT NULL, file text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now())"""
# Whatever their names: an address may set another. Of another user's session a plain user is not told what it is.
_OTHERS = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
AND usesysid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend'"""
_DELETE = """DELETE FROM schema_version WHERE version = %s"""
_INSERT = """INSERT INTO schema_version (version, compatible_from, file) VALUES (%s, %s, %s)"""
_FOUND = """SELECT version, compatible_from FROM schema_version ORDER BY version DESC LIMIT 1"""


class SqlScripts(ScriptDirectory):
    """Alembic's set of revisions, from our files instead of Python modules."""

    def __init__(self, migrations: Sequence[Migration]) -> None:
        self._migrations = migrations
        super().__init__(dir=".")  # Alembic checks that it exists; nothing is read from it

    def _load_revisions(self) -> Iterator[Script]:
        for migration in self._migrations:
            yield Script(_as_module(migration), _revision(migration.version), str(migration.path))


def run(address: str, migrations: Sequence[Migration], on_progress: Progress) -> SchemaVersion:
    """Raises: MigrationFailed, BackfillFailed with the file's name; StoreUnavailable."""
    with _open_turn(address) as connection:
        return _run_missing(connection, migrations, on_progress)


def run_back(address: str, migrations: Sequence[Migration]) -> SchemaVersion:
    """Raises: MigrationFailed, SchemaTooNew, DatabaseInUse, StoreUnavailable."""
    with _open_turn(address) as connection:
        found = _found(connection)
        if found.version > len(migrations):
            raise SchemaTooNew(found=found.version, compatible_from=found.compatible_from, code_version=len(migrations))
        if found.version:
            _refuse_with_others(connection)
            _give_way(connection, migrations, migrations[found.version - 1], _run_back_through_alembic)
        return _found(connection)


def _refuse_with_others(connection: "psycopg.Connection[Any]") -> None:
    until = time.monotonic() + others_timeout_s
    while others_count := _others_count(connection):
        if time.monotonic() > until:
            raise DatabaseInUse(connections_count=others_count)
        time.sleep(_others_pause_s)


def _others_count(connection: "psycopg.Connection[Any]") -> int:
    row = connection.execute(_OTHERS).fetchone()
    connection.rollback()  # the next look sees anew
    return 0 if row is None else int(row[0])


@contextmanager
def _open_turn(address: str) -> "Iterator[psycopg.Connection[Any]]":
    try:
        with _connected(address) as connection, _turn(connection):
            yield connection
    except psycopg.OperationalError as error:
        raise StoreUnavailable(_first_line(error)) from error


def _connected(address: str) -> "psycopg.Connection[Any]":
    return psycopg.connect(address, connect_timeout=5, application_name="chatty upgrade")


@contextmanager
def _turn(connection: "psycopg.Connection[Any]") -> Iterator[None]:
    """One upgrade at a time in a database; the lock ends with the connection, however we end."""
    connection.autocommit = True
    connection.execute(f"SET lock_timeout = '{turn_timeout_s}s'")
    connection.execute("SELECT pg_advisory_lock(%s)", [_advisory_lock])
    connection.execute(f"SET lock_timeout = '{lock_timeout_s}s'")
    connection.execute(_CREATE)
    connection.execute(backfills.CREATE)
    connection.autocommit = False
    try:
        yield
    finally:
        connection.close()


def _run_missing(
    connection: "psycopg.Connection[Any]", migrations: Sequence[Migration], on_progress: Progress
) -> SchemaVersion:
    found = _found(connection)
    for migration in migrations:
        if migration.version > found.version:
            _give_way(connection, migrations, migration, _run_through_alembic)
        if migration.backfill is not None:
            _run_backfill(connection, migration, on_progress)
    return _found(connection)


def _run_backfill(connection: "psycopg.Connection[Any]", migration: Migration, on_progress: Progress) -> None:
    try:
        backfills.run(connection, migration, on_progress)
    except psycopg.DatabaseError as error:
        if connection.closed:
            raise
        raise BackfillFailed(file=migration.path.name, reason=_first_line(error)) from error


def _found(connection: "psycopg.Connection[Any]") -> SchemaVersion:
    row = connection.execute(_FOUND).fetchone()
    connection.rollback()
    return SchemaVersion(version=row[0], compatible_from=row[1]) if row else SchemaVersion(version=0, compatible_from=0)


_Run = Callable[["psycopg.Connection[Any]", Sequence[Migration], Migration], None]


def _give_way(
    connection: "psycopg.Connection[Any]", migrations: Sequence[Migration], migration: Migration, run_one: _Run
) -> None:
    """A table that is busy is no failure yet: give way, then try again."""
    for attempt in range(1, attempts_max + 1):
        try:
            run_one(connection, migrations, migration)
            return
        except psycopg.errors.LockNotAvailable as error:
            if attempt == attempts_max:
                raise _failed(migration, error) from error
            time.sleep(_attempt_pause_s)
        except (psycopg.DatabaseError, _Refused) as error:
            if connection.closed:
                raise
            raise _failed(migration, error) from error


def _run_through_alembic(
    connection: "psycopg.Connection[Any]", migrations: Sequence[Migration], migration: Migration
) -> None:
    _run_revisions(connection, migrations, lambda scripts, at: scripts._upgrade_revs(_revision(migration.version), at))


def _run_back_through_alembic(
    connection: "psycopg.Connection[Any]", migrations: Sequence[Migration], migration: Migration
) -> None:
    target = _revision(migration.version - 1) if migration.version > 1 else "base"
    _run_revisions(connection, migrations, lambda scripts, at: scripts._downgrade_revs(target, at))


def _run_revisions(
    connection: "psycopg.Connection[Any]", migrations: Sequence[Migration], steps: Callable[[SqlScripts, Any], Any]
) -> None:
    scripts = SqlScripts(migrations)
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=lambda: connection, poolclass=sqlalchemy.StaticPool, pool_reset_on_return=None
    )
    with engine.connect() as bind, EnvironmentContext(Config(), scripts) as environment:
        environment.configure(connection=bind, fn=lambda at, _: steps(scripts, at))
        with bind.begin():
            environment.run_migrations()


def _as_module(migration: Migration) -> ModuleType:
    module: Any = ModuleType(f"migration_{migration.version:04}")
    module.revision = _revision(migration.version)
    module.down_revision = _revision(migration.version - 1) if migration.version > 1 else None
    module.upgrade = partial(_apply, migration)
    module.downgrade = partial(_take_back, migration)
    return module  # type: ignore[no-any-return]


def _apply(migration: Migration, **_: object) -> None:
    """The driver itself runs the file: SQLAlchemy would take `:x` and `%` in it for parameters."""
    from alembic import op

    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(migration.sql)
    if driver.pgconn.transaction_status != TransactionStatus.INTRANS:
        raise _Refused("a migration must not end its own transaction")
    driver.execute(_INSERT, [migration.version, migration.compatible_from, migration.path.name])


def _take_back(migration: Migration, **_: object) -> None:
    from alembic import op

    if migration.back is None:
        raise _Refused("there is no way back from it")
    driver: Any = op.get_bind().connection.driver_connection
    driver.execute(migration.back.read_text(encoding="utf-8"))
    driver.execute(_DELETE, [migration.version])
    driver.execute(backfills.DELETE, [migration.version])


class _Refused(Exception):
    pass


def _revision(version: int) -> str:
    return f"{version:04}"


def _failed(migration: Migration, error: Exception) -> MigrationFailed:
    return MigrationFailed(file=migration.path.name, reason=_first_line(error))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
