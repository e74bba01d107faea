"""`chatty-admin db size` and `db slow`: what takes the database's room and time. Read from its catalogue, server up or down."""

from dataclasses import asdict
from typing import Any

import click
import trio

from chatty.admin import render
from chatty.admin.db import open_database
from chatty.admin.options import Place, json_option
from chatty.config import Settings
from chatty.store import schema
from chatty.store.connection import open_connection
from chatty.store.sizes import PostgresSizes, Sizes, SlowStatement

_enable = (
    "shared_preload_libraries = 'pg_stat_statements' in postgresql.conf, restart, CREATE EXTENSION pg_stat_statements"
)


@click.command(epilog="Example: chatty-admin db size")
@json_option
@click.pass_obj
def size(place: Place, as_json: bool) -> None:
    """Show how much room each feature takes, what a message costs, and how much is added a day."""
    found = trio.run(_sizes, place.settings())
    if as_json:
        render.print_json(asdict(found))
        return
    render.print_rows([_row(asdict(one)) for one in found.features])
    each = "-" if found.bytes_per_event is None else f"{found.bytes_per_event} bytes"
    render.print_facts({"all": _readable(found.total_bytes), "events": found.events_estimate, "an event": each})


@click.command(epilog="Example: chatty-admin db slow --count-max 50")
@json_option
@click.option(
    "--count-max", type=click.IntRange(1, 1_000), default=10, show_default=True, help="How many, the costliest first."
)
@click.pass_obj
def slow(place: Place, as_json: bool, count_max: int) -> None:
    """Show the statements that took most of the database's time, without values; needs pg_stat_statements there."""
    found = trio.run(_slowest, place.settings(), count_max)
    if as_json:
        render.print_json({"is_counted": found is not None, "statements": [asdict(one) for one in found or []]})
    elif found is None:
        render.print_facts({"pg_stat_statements": "not there", "to have it": _enable})
    else:
        render.print_rows([asdict(one) for one in found])


async def _sizes(settings: Settings) -> Sizes:
    async with open_database(settings) as address, open_connection(address) as connection:
        await schema.check(connection)
        return await PostgresSizes(connection).look()


async def _slowest(settings: Settings, count_max: int) -> list[SlowStatement] | None:
    async with open_database(settings) as address, open_connection(address) as connection:
        return await PostgresSizes(connection).slowest(count_max=count_max)


def _row(feature: dict[str, Any]) -> dict[str, Any]:
    grown = feature["growth_bytes_per_day"]
    return {
        "feature": feature["feature"],
        "size": _readable(feature["bytes"]),
        "rows, about": feature["rows_estimate"],
        "a day": "-" if grown is None else f"{'-' if grown < 0 else '+'}{_readable(abs(grown))}",
    }


def _readable(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
