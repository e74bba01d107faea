"""The schema's version: which migrations a database has, and whether this code may run on it.

A migration is one file `migrations/NNNN_name.sql`, plain SQL, whose first line says `-- compatible from: N`: the oldest
code (its own schema version) that may still run once the file has been applied. Numbers are 1, 2, 3, …; the code's
version is the highest number it ships. Migrations expand; what contracts comes one release later.

`upgrade()` applies each missing file in a transaction of its own, together with its row in `schema_version`: a failure
leaves nothing half done. One advisory lock makes two nodes that upgrade at once take turns. Alembic does the
bookkeeping; importing it costs 1.5 s, so only `upgrade()` does, and the server reads `schema_version` by a SELECT.
"""

import re
from pathlib import Path

import trio

from chatty.errors import SchemaTooNew, SchemaTooOld
from chatty.store.connection import TrioConnection
from chatty.store.migrations.files import Migration, SchemaVersion

migrations_default = Path(__file__).parent / "migrations"
_file_name = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_header = re.compile(r"-- compatible from: (\d+)")
# index: schema_version_pkey
_VERSION = """SELECT version, compatible_from FROM schema_version ORDER BY version DESC LIMIT 1"""


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


async def upgrade(address: str, *, directory: Path = migrations_default) -> SchemaVersion:
    """Apply what is missing. Returns the version that the database then has; a newer one than ours is left alone.

    Raises: MigrationFailed; StoreUnavailable.
    Cancelled: the cancellation waits for the migration's end; its thread has no safe way to stop in the middle.
    """
    return await trio.to_thread.run_sync(_upgrade, address, directory)


def _upgrade(address: str, directory: Path) -> SchemaVersion:
    from chatty.store.migrations.runner import run  # imports Alembic: 1.5 s

    return run(address, list_migrations(directory))


def _read_header(path: Path) -> Migration:
    named = _file_name.fullmatch(path.name)
    with path.open(encoding="utf-8") as file:
        headed = _header.match(file.readline())
    if named is None or headed is None:
        raise ValueError(f"{path.name}: a name NNNN_words.sql and a first line '-- compatible from: N' are expected")
    return Migration(version=int(named[1]), compatible_from=int(headed[1]), path=path)
