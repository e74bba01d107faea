"""Migrations from `.sql` files: in order, each whole or not at all, one node at a time."""

from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg import conninfo

from chatty.errors import (
    BackfillFailed,
    DatabaseInUse,
    MigrationFailed,
    SchemaTooNew,
    SchemaTooOld,
    StoreUnavailable,
)
from chatty.store.connection import TrioConnection, open_connection
from chatty.store.embedded import EmbeddedServer
from chatty.store.migrations import runner
from chatty.store.migrations.backfills import rows_a_batch
from chatty.store.migrations.files import SchemaVersion
from chatty.store.schema import (
    check,
    code_version,
    downgrade,
    list_migrations,
    preview,
    read_version,
    unfinished_backfills,
    upgrade,
)


def write(directory: Path, number: int, sql: str, *, compatible_from: int = 1) -> None:
    (directory / f"{number:04}_step.sql").write_text(f"-- compatible from: {compatible_from}\n{sql}")


@pytest.fixture
async def connection(empty_database: str) -> AsyncIterator[TrioConnection]:
    async with open_connection(empty_database) as opened:
        yield opened


async def tables(connection: TrioConnection) -> set[str]:
    found = await connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row[0] for row in await found.fetchall()} - {"schema_version", "schema_backfills", "alembic_version"}


async def test_the_shipped_migrations_apply_and_this_code_runs_on_them(database: str) -> None:
    async with open_connection(database) as connection:
        assert (await check(connection)).version == code_version() >= 1


async def test_files_are_applied_in_order_and_once(
    empty_database: str, connection: TrioConnection, tmp_path: Path
) -> None:
    write(tmp_path, 1, "CREATE TABLE a (x int); INSERT INTO a VALUES (1); -- 100 % of :values %s\n")
    assert await upgrade(empty_database, directory=tmp_path) == SchemaVersion(version=1, compatible_from=1)
    write(tmp_path, 2, "ALTER TABLE a ADD y int; CREATE TABLE b (x int);")
    write(tmp_path, 3, "DROP TABLE b;", compatible_from=2)
    for _ in range(2):
        assert await upgrade(empty_database, directory=tmp_path) == SchemaVersion(version=3, compatible_from=2)
    assert await read_version(connection) == SchemaVersion(version=3, compatible_from=2)
    assert await (await connection.execute("SELECT x, y FROM a")).fetchall() == [(1, None)]
    assert await tables(connection) == {"a"}


async def test_a_failed_migration_leaves_nothing_half_done_and_may_be_mended(
    empty_database: str, connection: TrioConnection, tmp_path: Path
) -> None:
    write(tmp_path, 1, "CREATE TABLE a (x int);")
    write(tmp_path, 2, "CREATE TABLE b (x int); SELECT 1 / 0;")
    with pytest.raises(MigrationFailed, match=r"0002_step\.sql.*division by zero"):
        await upgrade(empty_database, directory=tmp_path)
    assert await tables(connection) == {"a"}
    assert (await read_version(connection)).version == 1
    write(tmp_path, 2, "CREATE TABLE b (x int);")
    assert (await upgrade(empty_database, directory=tmp_path)).version == 2


async def test_a_migration_that_ends_its_own_transaction_is_refused(empty_database: str, tmp_path: Path) -> None:
    write(tmp_path, 1, "CREATE TABLE a (x int); COMMIT;")
    with pytest.raises(MigrationFailed, match="must not end"):
        await upgrade(empty_database, directory=tmp_path)


async def test_two_nodes_upgrading_at_once_take_turns(empty_database: str, tmp_path: Path) -> None:
    write(tmp_path, 1, "CREATE TABLE a (x int); SELECT pg_sleep(0.1);")
    write(tmp_path, 2, "CREATE TABLE b (x int);")
    reached: list[int] = []

    async def node() -> None:
        reached.append((await upgrade(empty_database, directory=tmp_path)).version)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(node)
    assert reached == [2, 2, 2]


async def test_code_that_is_too_new_or_too_old_is_refused(
    empty_database: str, connection: TrioConnection, tmp_path: Path
) -> None:
    older, newer = tmp_path / "older", tmp_path / "newer"
    for directory in (older, newer):
        directory.mkdir()
        write(directory, 1, "CREATE TABLE a (x int);")
    write(newer, 2, "ALTER TABLE a ADD y int;", compatible_from=1)
    assert await read_version(connection) == SchemaVersion(version=0, compatible_from=0)
    with pytest.raises(SchemaTooOld):
        await check(connection, directory=older)
    await upgrade(empty_database, directory=newer)
    assert (await check(connection, directory=older)).version == 2
    write(newer, 3, "ALTER TABLE a DROP x;", compatible_from=2)
    await upgrade(empty_database, directory=newer)
    with pytest.raises(SchemaTooNew):
        await check(connection, directory=older)


@pytest.mark.parametrize(
    ("name", "content"),
    [("1_x.sql", "-- compatible from: 1"), ("0001_x.sql", "SELECT 1"), ("0002_x.sql", "-- compatible from: 1")],
)
def test_badly_named_or_numbered_files_are_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"\.sql"):
        list_migrations(tmp_path)


async def test_no_server_is_a_typed_error(open_directory: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await upgrade(f"host={open_directory} user=nobody dbname=none")


# The way back --------------------------------------------------------------------------------------------------------

_SHAPE = """SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull
|| ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '') || ' ' || a.attstorage::text || ' ' || coalesce(a.attstattarget, -1)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p')
AND c.relnamespace::regnamespace::text IN ('public', 'passing')
UNION ALL SELECT 'index', tablename, indexname, indexdef FROM pg_indexes WHERE schemaname IN ('public', 'passing')
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid <> 0
AND connamespace::regnamespace::text IN ('public', 'passing')"""


async def shape(connection: TrioConnection) -> set[tuple[str, ...]]:
    """Columns, indexes and constraints; the order of columns is nobody's business."""
    found = await (await connection.execute(_SHAPE)).fetchall()
    return {row for row in found if row[1] not in {"schema_version", "schema_backfills", "alembic_version"}}


async def test_each_migration_has_a_way_back_to_the_schema_before_it(
    empty_database: str, connection: TrioConnection, tmp_path: Path
) -> None:
    shapes: list[set[tuple[str, ...]]] = []
    (tmp_path / "back").mkdir()
    await upgrade(empty_database, directory=tmp_path)
    for migration in list_migrations():
        assert migration.back is not None, migration.path.name
        assert migration.back.read_text().startswith("-- "), migration.path.name
        shapes.append(await shape(connection))
        for path in (migration.path, migration.back):
            (tmp_path / path.relative_to(migration.path.parent)).write_text(path.read_text())
        await upgrade(empty_database, directory=tmp_path)
    newest = await shape(connection)
    await connection.close()
    for version, before in reversed(list(enumerate(shapes))):
        assert (await downgrade(empty_database)).version == version
        async with open_connection(empty_database) as looking:
            assert await shape(looking) == before, f"back to {version}"
    await upgrade(empty_database)
    async with open_connection(empty_database) as looking:
        assert await shape(looking) == newest


async def test_the_way_back_refuses_what_older_code_would_misread(database: str) -> None:
    async with open_connection(database) as connection:
        await connection.execute("INSERT INTO room_links VALUES (1, 'link', 1, 0, 1, 0, false)")
    newest = code_version()
    while (await downgrade(database)).version > 13:
        pass
    with pytest.raises(MigrationFailed, match=r"0013_room_administration\.sql: rooms have invitation links"):
        await downgrade(database)
    async with open_connection(database) as connection:
        assert (await read_version(connection)).version == 13
        assert await (await connection.execute("SELECT count(*) FROM room_links")).fetchone() == (1,)
    assert (await upgrade(database)).version == newest


@pytest.mark.parametrize(
    ("version", "change", "reason"),
    [
        (15, "INSERT INTO sealed_keys (purpose, version, sealed) VALUES ('refresh_key', 2, 'x')", "keys of the server"),
        (
            15,
            "INSERT INTO sealed_keys (purpose, version, sealed, revoked_at) VALUES ('nonce_key', 1, 'x', now())",
            "keys",
        ),
        (17, "INSERT INTO room_restorations VALUES (1, 2, 7)", "went on from a backup"),
    ],
)
async def test_keys_and_generations_that_older_code_would_misread_stay(
    database: str, version: int, change: str, reason: str
) -> None:
    async with open_connection(database) as connection:
        await connection.execute(change)
    while (await version_of(database)) > version:
        await downgrade(database)
    with pytest.raises(MigrationFailed, match=reason):
        await downgrade(database)


async def version_of(database: str) -> int:
    async with open_connection(database) as connection:
        return (await read_version(connection)).version


async def test_nothing_goes_back_under_a_running_server(
    database: str, tmp_path: Path, postgres: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it calls itself, and whoever it is."""
    monkeypatch.setattr(runner, "others_timeout_s", 0.2)
    name = conninfo.conninfo_to_dict(database)["dbname"]
    theirs = conninfo.make_conninfo(postgres.superuser_address, dbname=name)
    renamed = conninfo.make_conninfo(database, application_name="mine")
    async with open_connection(renamed) as connection, open_connection(theirs):
        with pytest.raises(DatabaseInUse, match=r"others hold 2 connections .* stop them first"):
            await downgrade(database)
        assert (await read_version(connection)).version == code_version()
    write(tmp_path, 1, "")
    with pytest.raises(SchemaTooNew):
        await downgrade(database, directory=tmp_path)


async def test_a_migration_without_a_way_back_stays(empty_database: str, tmp_path: Path) -> None:
    write(tmp_path, 1, "CREATE TABLE a (x int);")
    await upgrade(empty_database, directory=tmp_path)
    with pytest.raises(MigrationFailed, match="no way back"):
        await downgrade(empty_database, directory=tmp_path)


# Backfills -----------------------------------------------------------------------------------------------------------


def write_backfill(directory: Path, number: int, sql: str, *, remaining: str) -> None:
    (directory / "backfill").mkdir(exist_ok=True)
    (directory / "backfill" / f"{number:04}_step.sql").write_text(f"-- remaining: {remaining}\n{sql}")


_DOUBLE = """UPDATE a SET y = 2 * x, times = times + 1
WHERE x IN (SELECT x FROM a WHERE y IS NULL ORDER BY x LIMIT %(count)s)"""


async def test_a_backfill_that_is_cut_off_goes_on_where_it_was(
    empty_database: str, connection: TrioConnection, tmp_path: Path
) -> None:
    rows_count = 2 * rows_a_batch + 500
    write(tmp_path, 1, f"CREATE TABLE a (x int PRIMARY KEY); INSERT INTO a SELECT generate_series(1, {rows_count});")
    write(tmp_path, 2, "ALTER TABLE a ADD y int, ADD times int NOT NULL DEFAULT 0;")
    write_backfill(tmp_path, 2, _DOUBLE, remaining="SELECT count(*) FROM a WHERE y IS NULL")
    seen: list[tuple[str, int, int]] = []

    def cut_off(name: str, done: int, left: int) -> None:
        seen.append((name, done, left))
        with psycopg.connect(empty_database) as killer:
            killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'chatty upgrade'"
            )

    with pytest.raises(StoreUnavailable):
        await upgrade(empty_database, directory=tmp_path, on_progress=cut_off)
    assert seen == [("0002_step.sql", rows_a_batch, rows_count - rows_a_batch)]
    assert (await read_version(connection)).version == 2
    assert await unfinished_backfills(connection, directory=tmp_path) == ["0002_step.sql"]
    for _ in range(2):  # the second time there is nothing left to do
        await upgrade(empty_database, directory=tmp_path, on_progress=lambda *one: seen.append(one))
    assert [one[1:] for one in seen[1:]] == [(2 * rows_a_batch, 500), (rows_count, 0)]
    assert await unfinished_backfills(connection, directory=tmp_path) == []
    found = await connection.execute("SELECT count(*), min(times), max(times) FROM a WHERE y = 2 * x")
    assert await found.fetchone() == (rows_count, 1, 1)


async def test_a_backfill_that_fails_keeps_what_it_did_and_no_later_migration_runs(
    empty_database: str, connection: TrioConnection, tmp_path: Path
) -> None:
    write(tmp_path, 1, "CREATE TABLE a (x int, y int, times int DEFAULT 0); INSERT INTO a VALUES (1), (2147483647);")
    write_backfill(tmp_path, 1, _DOUBLE.replace("%(count)s", "least(1, %(count)s)"), remaining="SELECT 2")
    write(tmp_path, 2, "CREATE TABLE b (x int);")
    with pytest.raises(BackfillFailed, match=r"0001_step\.sql: integer out of range"):
        await upgrade(empty_database, directory=tmp_path)
    assert (await read_version(connection)).version == 1
    assert await (await connection.execute("SELECT y FROM a WHERE x = 1")).fetchone() == (2,)
    await connection.execute("UPDATE a SET x = 2 WHERE x > 1")
    assert (await upgrade(empty_database, directory=tmp_path)).version == 2


async def test_a_preview_names_what_is_missing_and_how_large_the_tables_are(
    empty_database: str, connection: TrioConnection, tmp_path: Path
) -> None:
    write(tmp_path, 1, "CREATE TABLE a (x int); INSERT INTO a SELECT generate_series(1, 500);")
    await upgrade(empty_database, directory=tmp_path)
    await connection.execute("ANALYZE a")
    (tmp_path / "0002_wide.sql").write_text("-- compatible from: 1. Wider rows.\nALTER TABLE a ADD y int;")
    [step] = await preview(connection, directory=tmp_path)
    assert (step.file, step.about, step.has_way_back, step.has_backfill) == (
        "0002_wide.sql",
        "Wider rows.",
        False,
        False,
    )
    [table] = step.tables
    assert (table.table, table.rows_estimate, table.bytes > 8_000) == ("a", 500, True)
