"""Migrations from `.sql` files: in order, each whole or not at all, one node at a time."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from chatty.errors import MigrationFailed, SchemaTooNew, SchemaTooOld, StoreUnavailable
from chatty.store.connection import TrioConnection, open_connection
from chatty.store.migrations.files import SchemaVersion
from chatty.store.schema import check, code_version, list_migrations, read_version, upgrade


def write(directory: Path, number: int, sql: str, *, compatible_from: int = 1) -> None:
    (directory / f"{number:04}_step.sql").write_text(f"-- compatible from: {compatible_from}\n{sql}")


@pytest.fixture
async def connection(empty_database: str) -> AsyncIterator[TrioConnection]:
    async with open_connection(empty_database) as opened:
        yield opened


async def tables(connection: TrioConnection) -> set[str]:
    found = await connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row[0] for row in await found.fetchall()} - {"schema_version", "alembic_version"}


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
