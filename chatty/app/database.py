"""The store of a running application: its database, opened and checked, and the keys in it."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import trio

from chatty.app.process import Hooks, now_ms
from chatty.config import Settings
from chatty.crypto.sealing import MasterKey, load_master_key, read_master_key
from chatty.errors import BadConfiguration
from chatty.services.server import ServerIdentity, open_identity
from chatty.services.server_keys import ReadMaster, ServerKeys, open_server_keys
from chatty.store import schema
from chatty.store.connection import logs_tersely, open_connection
from chatty.store.journal import PostgresJournal, open_journal
from chatty.store.pool import Pool, PoolLimits, open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.telemetry import Metrics

log = structlog.get_logger("chatty.app")


@dataclass(frozen=True, kw_only=True)
class Store:
    pool: Pool
    units: PostgresUnitOfWork
    journal: PostgresJournal
    keys: ServerKeys
    identity: ServerIdentity


async def make_data_dir(path: Path) -> None:
    """Raises: BadConfiguration where no such directory can be."""
    try:
        await trio.Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BadConfiguration(f"CHATTY_DATA_DIR: {path} cannot be made: {error.strerror}") from None


@asynccontextmanager
async def open_store(settings: Settings, address: str, metrics: Metrics, hooks: Hooks) -> AsyncIterator[Store]:
    async with open_connection(address) as connection:
        await schema.check(connection)
        if not await logs_tersely(connection):
            log.warning("database.verbosity_noticed", setting="log_error_verbosity", wanted="terse")
    limits = PoolLimits(
        connections_max=settings.pool_connections_max,
        waiting_max=settings.pool_waiting_max,
        wait_timeout_s=settings.pool_wait_timeout_s,
    )
    async with open_pool(
        address,
        limits=limits,
        statement_timeout_s=settings.database_statement_timeout_s,
        on_wait=metrics.pool_wait_duration_seconds.observe,
    ) as pool:
        units = PostgresUnitOfWork(pool)
        identity = await open_identity(
            units, name=settings.server_name, make_generation_id=lambda: secrets.token_urlsafe(16)
        )
        path = settings.master_key_path
        if path is not None and settings.master_key is None:
            await trio.to_thread.run_sync(load_master_key, path)
        keys_ = await open_server_keys(units, master_reader(settings), turn=trio.Lock())
        async with open_journal(
            address,
            clock=now_ms,
            crash_points=hooks.crash_points,
            statement_timeout_s=settings.database_statement_timeout_s,
            retention_days=settings.message_retention_days,
        ) as journal:
            yield Store(pool=pool, units=units, journal=journal, keys=keys_, identity=identity)


def master_reader(settings: Settings) -> ReadMaster:
    """The master key that the settings name, or the one in the data directory. A file is read each time, for it may be replaced
    while the server runs, and never made: open_store() does that at the first start.
    """
    path = settings.master_key_path
    if path is not None:
        return partial(trio.to_thread.run_sync, read_master_key, path)
    assert settings.master_key is not None
    fixed = MasterKey.from_text(settings.master_key.get_secret_value())

    async def read() -> MasterKey:
        return fixed

    return read
