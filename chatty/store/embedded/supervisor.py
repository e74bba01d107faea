"""Keeps the embedded PostgreSQL running for the length of a block. The theory stands in the package's own text."""

import os
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from psycopg import sql

from chatty.errors import DatabaseStartFailed, StoreUnavailable
from chatty.store.connection import open_connection
from chatty.store.embedded import cluster
from chatty.store.embedded.places import Places, fallback_root_default, prepare_places
from chatty.store.embedded.process import EmbeddedTimes, Process, lock_directory, log, stop_orphan
from chatty.store.nursery import open_plain_nursery


class EmbeddedServer:
    """A running PostgreSQL.

    Its addresses stay the same over restarts and hold no secret (they name the password file).
    """

    def __init__(self, places: Places, process: Process) -> None:
        self.places = places
        self.restart_count = 0
        self.last_error: str | None = None
        self._process = process
        self._is_running = True

    @property
    def address(self) -> str:
        """For the product: a role without any privilege but its own database, `chatty`."""
        return cluster.address(self.places, user=cluster.role, dbname=cluster.database)

    @property
    def superuser_address(self) -> str:
        """For making databases in tests; the product does not use it."""
        return cluster.address(self.places, user=cluster.superuser, dbname="postgres")

    @property
    def pid(self) -> int:
        """The postmaster's, at this moment."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._is_running

    @property
    def data_directory(self) -> Path:
        return self.places.data

    @property
    def log_file(self) -> Path:
        return self.places.log

    def program(self, name: str) -> Path:
        """The path of a client program of the same version: pg_dump, psql, pg_basebackup."""
        return self.places.binaries / name


@asynccontextmanager
async def open_embedded(
    root: Path,
    *,
    settings: Mapping[str, str] | None = None,
    times: EmbeddedTimes | None = None,
    fallback_root: Path = fallback_root_default,
    jitter: Callable[[], float] = random.random,
) -> AsyncIterator[EmbeddedServer]:
    """PostgreSQL on the directory `root`, made when it is not there, started again when it crashes, stopped at the end.

    Enter it first and it is stopped last. settings: of PostgreSQL, over our own.
    Raises: DataDirectoryInUse; DatabaseStartFailed.
    Cancelled: stopped in order all the same, within stop_timeout_s + 2 × quit_timeout_s.
    """
    times = times or EmbeddedTimes()
    settings = settings or {}
    places = prepare_places(root, fallback_root=fallback_root)
    if places.was_moved:
        log.warning("embedded.moved", wanted=str(root), account=places.account.name, directory=str(places.root))
    lock = lock_directory(places)
    try:
        await trio.to_thread.run_sync(cluster.make_cluster, places)
        await stop_orphan(places, times)
        server = EmbeddedServer(places, Process.start(places, settings))
        try:
            await server._process.wait_ready(timeout_s=times.start_timeout_s)
            await _make_role_and_database(server)
            async with open_plain_nursery() as nursery:
                nursery.start_soon(_keep_running, server, settings, times, jitter)
                nursery.start_soon(_keep_log_bounded, places, times)
                yield server
                nursery.cancel_scope.cancel()
        finally:
            # Shielded: it must be stopped in order whatever ended the block; stop() has its own deadlines.
            with trio.CancelScope(shield=True):
                await server._process.stop(times)
            server._is_running = False
    finally:
        os.close(lock)


def address_of_running(root: Path, *, fallback_root: Path = fallback_root_default) -> str:
    """The product's address in a server that another process runs on `root`; for who got DataDirectoryInUse.

    Raises: DatabaseStartFailed.
    """
    return cluster.address(
        prepare_places(root, fallback_root=fallback_root), user=cluster.role, dbname=cluster.database
    )


async def _keep_running(
    server: EmbeddedServer, settings: Mapping[str, str], times: EmbeddedTimes, jitter: Callable[[], float]
) -> None:
    delay_s = times.restart_delay_s_min
    while True:
        started_at = trio.current_time()
        await server._process.wait_gone()
        server._is_running = False
        if trio.current_time() - started_at > times.calm_after_s:
            delay_s = times.restart_delay_s_min
        log.error("embedded.crashed", pid=server.pid, restart_count=server.restart_count, delay_s=delay_s)
        await trio.sleep(delay_s * (0.5 + 0.5 * jitter()))
        delay_s = min(2 * delay_s, times.restart_delay_s_max)
        await _start_again(server, settings, times)


async def _start_again(server: EmbeddedServer, settings: Mapping[str, str], times: EmbeddedTimes) -> None:
    server.restart_count += 1
    try:
        await stop_orphan(server.places, times)
        server._process = Process.start(server.places, settings)
        await server._process.wait_ready(timeout_s=times.start_timeout_s)
    except DatabaseStartFailed as error:
        server.last_error = str(error)
        log.error("embedded.restart_failed", reason=str(error), restart_count=server.restart_count)
        return  # the next round finds it gone, and waits longer
    server._is_running = True
    server.last_error = None
    log.warning("embedded.restarted", pid=server.pid, restart_count=server.restart_count)


async def _keep_log_bounded(places: Places, times: EmbeddedTimes) -> None:
    while True:
        await trio.sleep(times.log_check_interval_s)
        cluster.bound_log(places)


async def _make_role_and_database(server: EmbeddedServer) -> None:
    try:
        async with open_connection(server.superuser_address) as connection:
            found = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [cluster.role])
            if await found.fetchone() is None:
                verifier = _verifier(connection.pgconn.encrypt_password, cluster.role_password(server.places))
                create = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
                await connection.execute(create.format(sql.Identifier(cluster.role), sql.Literal(verifier)))
            found = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [cluster.database])
            if await found.fetchone() is None:
                create = sql.SQL("CREATE DATABASE {} OWNER {}")
                await connection.execute(create.format(sql.Identifier(cluster.database), sql.Identifier(cluster.role)))
    except StoreUnavailable as error:
        raise DatabaseStartFailed(f"the new PostgreSQL was lost: {error}") from error


def _verifier(encrypt: Callable[[bytes, bytes, bytes], bytes], password: str) -> str:
    """What the server stores for SCRAM: the password itself is not sent."""
    return encrypt(password.encode(), cluster.role.encode(), b"scram-sha-256").decode()
