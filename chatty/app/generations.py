"""Going on from a backup: the database is there, nobody is served yet, and its generation is raised."""

import secrets

import trio

from chatty.app.database import master_reader
from chatty.app.process import now_ms
from chatty.config import Settings
from chatty.services.generations import Raised, RaiseGeneration
from chatty.services.server import ServerIdentity
from chatty.services.server_keys import open_server_keys
from chatty.store.pool import PoolLimits, open_pool
from chatty.store.units import PostgresUnitOfWork

_LIMITS = PoolLimits(connections_max=2, waiting_max=2, wait_timeout_s=10.0)
_statement_timeout_s = 60.0  # of the look at the keys; the raise itself sets none


async def raise_generation(
    settings: Settings,
    address: str,
    *,
    backup: ServerIdentity | None = None,
    above: int = 0,
    end_sessions: bool = False,
    source: str = "",
) -> Raised:
    """address: of a restored and migrated database that no server runs on. See services/generations.py.

    Raises: SealBroken (another master key), ServerNameMismatch, StoreUnavailable.
    """
    async with open_pool(address, limits=_LIMITS, statement_timeout_s=_statement_timeout_s) as pool:
        units = PostgresUnitOfWork(pool)
        keys = await open_server_keys(units, master_reader(settings), turn=trio.Lock())
        raising = RaiseGeneration(units=units, signer=keys.checkpoint, clock=now_ms)
        return await raising.run(
            name=settings.server_name,
            generation_id=secrets.token_urlsafe(16),
            backup=backup,
            above=above,
            end_sessions=end_sessions,
            source=source,
        )
