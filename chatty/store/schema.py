"""The schema's version: which migrations a database has, and whether this code may run on it.

A migration is one file `migrations/NNNN_name.sql`, plain SQL, whose first line says `-- compatible from: N`: the oldest
code (its own schema version) that may still run once the file has been applied. Numbers are 1, 2, 3, …; the code's
version is the highest number it ships. Migrations expand; what contracts comes one release later.

Two files may lie beside it under the same name. `back/` holds the way back to the version before, with its reasons to
refuse: what older code would misread or lose. `backfill/` holds what is too much for one transaction: a statement that
changes at most `%(count)s` rows which are not right yet, run until it finds none; so it can be cut off anywhere and goes
on where it was. Its first line says `-- remaining: SELECT …`, how many rows are left. A code must work with a backfill
that is half done.

`upgrade()` and `downgrade()` wait 2 s for a table's lock, give way, and try again a few times: behind a migration that waits
all others would wait. `upgrade()` applies each missing file in a transaction of its own, together with its row in
`schema_version`: a failure leaves nothing half done. One advisory lock makes two nodes that upgrade at once take turns. Alembic
does the bookkeeping; importing it costs 0.5 s or more, so only these two do, where something is missing, and the server reads
`schema_version` by a SELECT.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from chatty.errors import SchemaTooNew, SchemaTooOld
from chatty.store.connection import TrioConnection, open_connection
from chatty.store.migrations.files import Migration, Progress, SchemaVersion

migrations_default = Path(__file__).parent / "migrations"
_file_name = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_header = re.compile(r"-- compatible from: (\d+)(?:\. (.*))?")
_touched = re.compile(r"\b(?:ALTER TABLE|INDEX \w+ ON|^UPDATE|DELETE FROM) (\w+)", re.MULTILINE)
_SIZES = """SELECT relname, greatest(reltuples, 0)::bigint, pg_total_relation_size(oid) FROM pg_class
WHERE relname = ANY(%s) AND relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace ORDER BY relname"""
_DONE = "SELECT version FROM schema_backfills WHERE finished_at IS NOT NULL"
# index: schema_version_pkey
_VERSION = """SELECT version, compatible_from FROM schema_version ORDER BY version DESC LIMIT 1"""


@dataclass(frozen=True, kw_only=True)
class TouchedTable:
    """One that a migration locks for a moment or longer."""

    table: str
    rows_estimate: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """A migration that is missing."""

    file: str
    about: str
    compatible_from: int
    has_way_back: bool
    has_backfill: bool
    tables: Sequence[TouchedTable]


@dataclass(frozen=True, kw_only=True)
class WayBack:
    """what_goes: the first line of the file that leads back; empty when there is none."""

    file: str
    what_goes: str


def list_migrations(directory: Path = migrations_default) -> list[Migration]:
    """All migrations in order. Raises: ValueError for a file whose name, number or first line is wrong."""
    migrations = [_read_header(path) for path in sorted(directory.glob("*.sql"))]
    for expected, migration in enumerate(migrations, start=1):
        if migration.version != expected:
            raise ValueError(f"{migration.path.name}: number {expected} expected")
    return migrations


def code_version(directory: Path = migrations_default) -> int:
    """The schema version that this code is written for."""
    return len(list_migrations(directory))


async def read_version(connection: TrioConnection) -> SchemaVersion:
    """Raises: StoreUnavailable."""
    known = await (await connection.execute("SELECT to_regclass('schema_version') IS NOT NULL")).fetchone()
    row = await (await connection.execute(_VERSION)).fetchone() if known == (True,) else None
    if row is None:
        return SchemaVersion(version=0, compatible_from=0)
    return SchemaVersion(version=row[0], compatible_from=row[1])


async def check(connection: TrioConnection, *, directory: Path = migrations_default) -> SchemaVersion:
    """Refuse to run on a schema that this code does not know.

    Raises: SchemaTooOld (upgrade it first); SchemaTooNew (it says that this code is too old for it); StoreUnavailable.
    """
    found, ours = await read_version(connection), code_version(directory)
    if found.version < ours:
        raise SchemaTooOld(found=found.version, needed=ours)
    if ours < found.compatible_from:
        raise SchemaTooNew(found=found.version, compatible_from=found.compatible_from, code_version=ours)
    return found


async def upgrade(
    address: str, *, directory: Path = migrations_default, on_progress: Progress = lambda *_: None
) -> SchemaVersion:
    """Apply what is missing. Returns the version that the database then has; a newer one than ours is left alone.

    on_progress: told of each batch of a backfill, in another thread: the file, rows done, rows left.
    Raises: MigrationFailed; BackfillFailed; StoreUnavailable.
    Cancelled: the cancellation waits for the migration's end; its thread has no safe way to stop in the middle.
    """

    def work() -> SchemaVersion:
        from chatty.store.migrations.runner import run  # imports Alembic: 0.5 to 1.5 s

        return run(address, list_migrations(directory), on_progress)

    async with open_connection(address) as connection:
        found = await read_version(connection)
        if found.version >= code_version(directory) and not await unfinished_backfills(connection, directory=directory):
            return found  # as at almost every start
    return await trio.to_thread.run_sync(work)


async def downgrade(address: str, *, directory: Path = migrations_default) -> SchemaVersion:
    """One version back. Returns the version that the database then has.

    Raises: MigrationFailed (its own reason to refuse, or there is no way back); DatabaseInUse; SchemaTooNew (a newer code has
    to do it); StoreUnavailable.
    Cancelled: as upgrade().
    """

    def work() -> SchemaVersion:
        from chatty.store.migrations.runner import run_back

        return run_back(address, list_migrations(directory))

    return await trio.to_thread.run_sync(work)


async def preview(connection: TrioConnection, *, directory: Path = migrations_default) -> list[Step]:
    """What upgrade() would do. Raises: StoreUnavailable."""
    found = await read_version(connection)
    return [await _step(connection, one) for one in list_migrations(directory)[found.version :]]


async def _step(connection: TrioConnection, migration: Migration) -> Step:
    names = sorted(set(_touched.findall(migration.sql)))
    rows = await (await connection.execute(_SIZES, (names,))).fetchall()
    return Step(
        file=migration.path.name,
        about=migration.about,
        compatible_from=migration.compatible_from,
        has_way_back=migration.back is not None,
        has_backfill=migration.backfill is not None,
        tables=[TouchedTable(table=name, rows_estimate=count, bytes=size) for name, count, size in rows],
    )


async def way_back(connection: TrioConnection, *, directory: Path = migrations_default) -> WayBack | None:
    """What downgrade() would take back; None: there is nothing. Raises: SchemaTooNew; StoreUnavailable."""
    found, ours = await read_version(connection), list_migrations(directory)
    if found.version > len(ours):
        raise SchemaTooNew(found=found.version, compatible_from=found.compatible_from, code_version=len(ours))
    if found.version == 0:
        return None
    newest = ours[found.version - 1]
    first = "" if newest.back is None else newest.back.read_text(encoding="utf-8").partition("\n")[0]
    return WayBack(file=newest.path.name, what_goes=first.removeprefix("-- "))


async def unfinished_backfills(connection: TrioConnection, *, directory: Path = migrations_default) -> list[str]:
    """Files of those that were cut off, or wait for the next upgrade. Raises: StoreUnavailable."""
    found = await read_version(connection)
    wanted = {one.version: one.path.name for one in list_migrations(directory)[: found.version] if one.backfill}
    known = await (await connection.execute("SELECT to_regclass('schema_backfills') IS NOT NULL")).fetchone()
    done = await (await connection.execute(_DONE)).fetchall() if known == (True,) else []
    return [name for version, name in wanted.items() if (version,) not in done]


def _read_header(path: Path) -> Migration:
    named = _file_name.fullmatch(path.name)
    with path.open(encoding="utf-8") as file:
        headed = _header.match(file.readline())
    if named is None or headed is None:
        raise ValueError(f"{path.name}: a name NNNN_words.sql and a first line '-- compatible from: N' are expected")
    back, backfill = path.parent / "back" / path.name, path.parent / "backfill" / path.name
    return Migration(
        version=int(named[1]),
        compatible_from=int(headed[1]),
        about=headed[2] or "",
        path=path,
        back=back if back.is_file() else None,
        backfill=backfill if backfill.is_file() else None,
    )
