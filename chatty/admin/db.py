"""`chatty-admin db`: the schema's version, the way forward and one back, the embedded database's too."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any

import click
import trio

from chatty.admin import render
from chatty.admin.options import Place, confirm, json_option, yes_option
from chatty.config import Settings
from chatty.errors import ChattyError, DatabaseMissing, DataDirectoryInUse, SchemaTooNew, SchemaTooOld, StoreUnavailable
from chatty.store import schema
from chatty.store.connection import TrioConnection, open_connection
from chatty.store.embedded import address_of_running, has_cluster, open_embedded

refused_exit_code = 1


@click.group()
def db() -> None:
    """Care for the database."""


@db.command(epilog="Example: chatty-admin db status")
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Show the schema's version and whether this code may run on it; exit with 1 if not."""
    place = context.find_object(Place)
    assert place is not None
    answer, refusal = trio.run(_status, place.settings())
    (render.print_json if as_json else render.print_facts)(answer)
    if refusal is not None:
        next_command = "chatty-admin db upgrade" if answer["missing"] else "chatty-admin --version"
        render.print_error(refusal.code, str(refusal), next_command=next_command)
        context.exit(refused_exit_code)


@db.command(epilog="Example: chatty-admin db upgrade --dry-run")
@json_option
@click.option(
    "--dry-run", is_flag=True, help="Only tell what the missing migrations would do, and to how large tables."
)
@click.pass_obj
def upgrade(place: Place, as_json: bool, dry_run: bool) -> None:
    """Apply the migrations that the database lacks. Safe beside running servers, and to run again."""
    answer = trio.run(_upgrade, place.settings(), dry_run)
    (render.print_json if as_json else render.print_facts)(answer)


@db.command(epilog="Example: chatty-admin db downgrade --dry-run")
@json_option
@yes_option
@click.option("--dry-run", is_flag=True, help="Only tell what would be taken back.")
@click.pass_obj
def downgrade(place: Place, as_json: bool, yes: bool, dry_run: bool) -> None:
    """Take the newest migration back: for an older Chatty, while no server runs. It refuses where something would be lost."""
    settings = place.settings()
    answer = trio.run(_downgrade_preview, settings)
    if not dry_run and answer["file"] is not None:
        confirm(yes, f"Take {answer['file']} back? {answer['what_goes']}")
        answer |= trio.run(_downgrade, settings)
    (render.print_json if as_json else render.print_facts)({**answer, "is_dry_run": dry_run})


async def _status(settings: Settings) -> tuple[dict[str, Any], ChattyError | None]:
    async with open_database(settings) as address, open_connection(address) as connection:
        found = await schema.read_version(connection)
        missing = await schema.preview(connection)
        backfills = await schema.unfinished_backfills(connection)
        refusal = await _refusal(connection)
    answer = {
        "version": found.version,
        "compatible_from": found.compatible_from,
        "code_version": schema.code_version(),
        "is_usable": refusal is None,
        "missing": [step.file for step in missing],
        "unfinished_backfills": backfills,
    }
    return answer, refusal


async def _refusal(connection: TrioConnection) -> ChattyError | None:
    """Why a server would not start on it."""
    try:
        await schema.check(connection)
    except (SchemaTooOld, SchemaTooNew) as error:
        return error
    return None


async def _upgrade(settings: Settings, dry_run: bool) -> dict[str, Any]:
    async with open_database(settings, may_make=not dry_run) as address:
        async with open_connection(address) as connection:
            before = await schema.read_version(connection)
            steps = await schema.preview(connection)
        if not dry_run:
            await schema.upgrade(address, on_progress=render.print_progress)
            async with open_connection(address) as connection:
                after = await schema.check(connection)
        else:
            after = before
    return {
        "version_before": before.version,
        "version": after.version,
        "compatible_from": after.compatible_from,
        "code_version": schema.code_version(),
        "missing" if dry_run else "applied": [step.file for step in steps],
        **({"steps": [asdict(step) for step in steps]} if dry_run else {}),
        "is_dry_run": dry_run,
    }


async def _downgrade_preview(settings: Settings) -> dict[str, Any]:
    """Raises: SchemaTooNew."""
    async with open_database(settings) as address, open_connection(address) as connection:
        way_back = await schema.way_back(connection)
        version = (await schema.read_version(connection)).version
    return {
        "version_before": version,
        "version": version,
        "file": None if way_back is None else way_back.file,
        "what_goes": "" if way_back is None else way_back.what_goes,
    }


async def _downgrade(settings: Settings) -> dict[str, Any]:
    async with open_database(settings) as address:
        return {"version": (await schema.downgrade(address)).version}


@asynccontextmanager
async def open_database(settings: Settings, *, may_make: bool = False) -> AsyncIterator[str]:
    """The configured database; else the embedded one, started for the block unless a server runs it already.

    may_make: where there is none; a restore would refuse one that was made by a look.
    Raises: DatabaseMissing; DatabaseStartFailed; StoreUnavailable when the directory is another account's.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    root = settings.data_dir / "postgres"
    async with AsyncExitStack() as stack:
        try:
            if not may_make and not has_cluster(root):
                raise DatabaseMissing(f"there is no database yet in {settings.data_dir}: the first start makes it")
            address = (await stack.enter_async_context(open_embedded(root))).address
        except DataDirectoryInUse:
            address = address_of_running(root)
        except OSError as error:
            raise StoreUnavailable(f"{error.filename or root}: {error.strerror or error}") from None
        yield address
