"""Commands that need nothing but the database, when no server runs. The embedded database is started for them."""

from typing import Any

import trio

from chatty.actors.bus import SilentBus
from chatty.admin.db import open_database
from chatty.admin.options import Arguments
from chatty.app.console import database_commands
from chatty.config import Settings
from chatty.errors import ServerUnreachable
from chatty.store import schema
from chatty.store.connection import open_connection
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnitOfWork


def do(settings: Settings, command: str, arguments: Arguments) -> dict[str, Any]:
    """Raises: ServerUnreachable for what needs a running server; SchemaTooOld, SchemaTooNew, StoreUnavailable; as the command."""
    return trio.run(_do, settings, command, arguments)


async def _do(settings: Settings, command: str, arguments: Arguments) -> dict[str, Any]:
    async with open_database(settings) as address:
        async with open_connection(address) as connection:
            await schema.check(connection)
        async with open_pool(address) as pool:
            commands = database_commands(settings, PostgresUnitOfWork(pool), SilentBus())
            if command not in commands:
                raise ServerUnreachable(f"{command} needs a running server")
            return dict(await commands[command](arguments))
