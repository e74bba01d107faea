"""Fixtures for every test that needs PostgreSQL: one embedded server a run, a fresh migrated database a test.

The server runs in a Trio loop of its own thread, because its life is the whole run and pytest-trio's fixtures live for one
test. It is the product's own embedded server; only fsync is off, for a test never pulls the machine's plug.
"""

import os
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg import conninfo, sql

from chatty.store.embedded import EmbeddedServer, open_embedded
from chatty.store.schema import upgrade

_template = "chatty_template"


@contextmanager
def make_open_directory(prefix: str, *, parent: Path | None = None) -> Iterator[Path]:
    """A temporary directory that other accounts may enter: pytest's own are 0700, and PostgreSQL never runs as root."""
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    directory.chmod(0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    with make_open_directory("chatty-test-") as directory:
        yield directory


def memory_directory() -> Path | None:
    """Where files live in memory, if there is plenty: a copy of a database takes 0.02 s there, 0.25 s on a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 2 * 1024**3:
        return None
    return memory


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedServer]:
    """A running embedded PostgreSQL without any database of ours."""
    with make_open_directory("chatty-tests-", parent=memory_directory()) as directory:
        settings = {"fsync": "off", "max_connections": "200", "max_wal_size": "128MB"}

        async def serve(ready: Callable[[EmbeddedServer], None], stop: trio.Event) -> None:
            async with open_embedded(directory / "postgres", settings=settings) as server:
                ready(server)
                await stop.wait()

        with _in_thread(serve) as server:
            yield server


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedServer) -> str:
    """The name of a database with all migrations applied, to make copies of."""
    _create_database(postgres, _template)
    trio.run(upgrade, database_address(postgres, _template))
    return _template


@pytest.fixture
def database(postgres: EmbeddedServer, migrated_template: str) -> Iterator[str]:
    """The address of a fresh, migrated database."""
    with temporary_database(postgres, template=migrated_template) as address:
        yield address


@pytest.fixture
def empty_database(postgres: EmbeddedServer) -> Iterator[str]:
    """The address of a fresh database without a table."""
    with temporary_database(postgres, template="template1") as address:
        yield address


def database_address(server: EmbeddedServer, name: str) -> str:
    return conninfo.make_conninfo(server.address, dbname=name)


_numbers = count(1)


@contextmanager
def temporary_database(server: EmbeddedServer, *, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _create_database(server, name, template=template)
    try:
        yield database_address(server, name)
    finally:
        _execute(server, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _create_database(server: EmbeddedServer, name: str, *, template: str = "template1") -> None:
    statement = sql.SQL("CREATE DATABASE {} OWNER chatty TEMPLATE {} STRATEGY FILE_COPY")  # a third less work
    _execute(server, statement.format(sql.Identifier(name), sql.Identifier(template)))


def _execute(server: EmbeddedServer, statement: sql.Composed) -> None:
    with psycopg.connect(server.superuser_address, autocommit=True) as connection:
        connection.execute(statement)


@contextmanager
def _in_thread(
    serve: Callable[[Callable[[EmbeddedServer], None], trio.Event], Awaitable[None]],
) -> Iterator[EmbeddedServer]:
    started: Future[tuple[EmbeddedServer, trio.Event, trio.lowlevel.TrioToken]] = Future()

    async def main() -> None:
        stop, token = trio.Event(), trio.lowlevel.current_trio_token()
        await serve(lambda server: started.set_result((server, stop, token)), stop)

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name="postgres of the tests")
    thread.start()
    try:
        server, stop, token = started.result(timeout=60)
        yield server
        token.run_sync_soon(stop.set)
    finally:
        thread.join(timeout=60)
