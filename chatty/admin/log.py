"""`chatty-admin log`: where the server crashed. Read from the database itself, so it works while the server is down."""

from dataclasses import asdict
from typing import Any

import click
import trio

from chatty.admin import render
from chatty.admin.db import open_database
from chatty.admin.options import Place, json_option
from chatty.config import Settings
from chatty.errors import CrashUnknown
from chatty.services.crashes import stored_max
from chatty.store import schema
from chatty.store.connection import open_connection
from chatty.store.crashes import PostgresCrashes, StoredCrash


@click.group()
def log() -> None:
    """Look at exceptions that nobody foresaw, by where they were raised."""


@log.command(epilog="Example: chatty-admin log errors --count-max 100")
@json_option
@click.option(
    "--count-max", type=click.IntRange(1, stored_max), default=20, show_default=True, help="How many, the newest first."
)
@click.pass_obj
def errors(place: Place, as_json: bool, count_max: int) -> None:
    """Show exceptions by place: how often, since when, in which release; what they said is never kept."""
    found = trio.run(_newest, place.settings(), count_max)
    rows = [_row(one) for one in found]
    render.print_json({"errors": rows}) if as_json else render.print_rows([_short(row) for row in rows])


@log.command(epilog="Example: chatty-admin log show 0123456789abcdef")
@json_option
@click.argument("crash", metavar="ID")
@click.pass_obj
def show(place: Place, as_json: bool, crash: str) -> None:
    """Show one of them with the way that led there."""
    found = trio.run(_find, place.settings(), crash)
    answer = {**_row(found), "frames": list(found.frames)}
    (render.print_json if as_json else render.print_facts)(answer)


async def _newest(settings: Settings, count_max: int) -> list[StoredCrash]:
    async with open_database(settings) as address, open_connection(address) as connection:
        await schema.check(connection)
        return await PostgresCrashes(connection).newest(count_max=count_max)


async def _find(settings: Settings, crash_id: str) -> StoredCrash:
    """Raises: CrashUnknown."""
    async with open_database(settings) as address, open_connection(address) as connection:
        await schema.check(connection)
        found = await PostgresCrashes(connection).find(crash_id)
    if found is None:
        raise CrashUnknown("no such exception is kept")
    return found


def _row(crash: StoredCrash) -> dict[str, Any]:
    row = asdict(crash)
    del row["frames"]
    return row


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """What fits a terminal."""
    place = f"{row['module'].removeprefix('chatty.')}.{row['function']}:{row['line']}"
    kept = ("count", "last_seen", "first_seen", "release", "met_in")
    return {"id": row["crash_id"], "error": row["kind"], "place": place, **{name: row[name] for name in kept}}
