"""`chatty-admin db upgrade`: bring the database's schema to this code's version, the embedded database's too."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import click
import trio

from chatty.admin import render
from chatty.admin.options import Place, json_option
from chatty.config import Settings
from chatty.errors import DataDirectoryInUse
from chatty.store import schema
from chatty.store.connection import open_connection
from chatty.store.embedded import address_of_running, open_embedded


@click.group()
def db() -> None:
    """Care for the database."""


@db.command(epilog="Example: chatty-admin db upgrade --dry-run")
@json_option
@click.option("--dry-run", is_flag=True, help="Only tell which migrations are missing.")
@click.pass_obj
def upgrade(place: Place, as_json: bool, dry_run: bool) -> None:
    """Apply the migrations that the database lacks. Safe beside running servers, and to run again."""
    answer = trio.run(_upgrade, place.settings(), dry_run)
    (render.print_json if as_json else render.print_facts)(answer)


async def _upgrade(settings: Settings, dry_run: bool) -> dict[str, Any]:
    async with open_database(settings) as address:
        async with open_connection(address) as connection:
            before = await schema.read_version(connection)
        missing = [one.path.name for one in schema.list_migrations()[before.version :]]
        if not dry_run:
            await schema.upgrade(address)
            async with open_connection(address) as connection:
                after = await schema.check(connection)
        else:
            after = before
    return {
        "version_before": before.version,
        "version": after.version,
        "compatible_from": after.compatible_from,
        "code_version": schema.code_version(),
        "missing" if dry_run else "applied": missing,
        "is_dry_run": dry_run,
    }


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[str]:
    """The configured database; else the embedded one, started for the block unless a server runs it already."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    root = settings.data_dir / "postgres"
    async with AsyncExitStack() as stack:
        try:
            address = (await stack.enter_async_context(open_embedded(root))).address
        except DataDirectoryInUse:
            address = address_of_running(root)
        yield address
