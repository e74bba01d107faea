"""`chatty-admin keys`: the keys, their ages and turns. Asked of the running server; the master key is replaced beside it."""

import os
import time
from typing import Any

import click
import trio

from chatty.admin import render
from chatty.admin.db import open_database
from chatty.admin.options import Place, TakesId, confirm, dry_run_option, json_option, yes_option
from chatty.config import Settings
from chatty.errors import BadConfiguration
from chatty.services.master_key import MasterKeyRotation
from chatty.services.server_keys import DATA, KINDS, open_data_keys
from chatty.store import schema
from chatty.store.connection import open_connection
from chatty.store.master_key import DiskMasterKeyFiles
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnitOfWork

poll_interval_s = 0.3
_COLUMNS = ("kind", "id", "state", "age", "next", "warning")


@click.group()
def keys() -> None:
    """Look at the server's keys, rotate them, revoke one."""


@keys.command("list", epilog="Example: chatty-admin keys list")
@json_option
@click.pass_obj
def list_keys(place: Place, as_json: bool) -> None:
    """Show every key: kind, age, state, when the next one comes, and a warning if it is old."""
    answer = place.ask("keys list")
    if as_json:
        render.print_json(answer)
    else:
        render.print_rows([_in_columns(one) for one in answer["keys"]])


@keys.command(epilog="Example: chatty-admin keys rotate signing")
@json_option
@dry_run_option
@click.option("--master", is_flag=True, help="The master key: a new file takes the old one's place.")
@click.option("--prepare", is_flag=True, help="With --master: stop while both master keys open everything.")
@click.option("--no-wait", is_flag=True, help="Do not wait until every row is sealed under the new data key.")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.pass_obj
def rotate(
    place: Place, as_json: bool, is_dry_run: bool, master: bool, prepare: bool, no_wait: bool, kind: str | None
) -> None:
    """Prepare the next key of a KIND; it is used as soon as every process knows it. Nobody is signed out."""
    if master == (kind is not None) or (prepare and not master):
        raise click.UsageError("name one KIND, or --master")
    if master:
        answer = trio.run(_rotate_master, place.settings(), prepare, is_dry_run)
    elif is_dry_run:
        answer = place.ask("rehearse keys rotate", {"kind": kind}) | {"is_dry_run": True}
    else:
        answer = place.ask("keys rotate", {"kind": kind})
    if kind == DATA and not no_wait and not is_dry_run:
        answer = {**answer, **_wait(place, answer["version"])}
    (render.print_json if as_json else render.print_facts)(answer)


@keys.command(cls=TakesId, epilog="Example: chatty-admin keys revoke --dry-run refresh 1")
@json_option
@yes_option
@dry_run_option
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("key_id", metavar="ID")
@click.pass_obj
def revoke(place: Place, as_json: bool, yes: bool, is_dry_run: bool, kind: str, key_id: str) -> None:
    """Take a compromised key out of use at once; what that does is told first."""
    arguments = {"kind": kind, "id": key_id}
    consequences = place.ask("keys consequences", arguments)["consequences"]
    answer = {"kind": kind, "id": key_id, "consequences": consequences, "is_dry_run": is_dry_run}
    if not is_dry_run:
        if not yes:
            render.print_talk({"consequences": consequences})
        confirm(yes, f"Revoke the {kind} key {key_id}?")
        answer |= {"active": place.ask("keys revoke", arguments)}
    if as_json:
        render.print_json(answer)
    elif is_dry_run:
        render.print_rows([{"consequence": one} for one in consequences])
    else:
        render.print_facts(answer["active"])


def _wait(place: Place, version: int) -> dict[str, Any]:
    """Until the rows are sealed under this data key. Interrupted: the server goes on."""
    with render.progress("sealing rows anew") as show:
        while True:
            answer = place.ask("keys progress")
            show(answer["done_count"], answer["total_count"])
            if answer["version"] >= version and answer["is_finished"]:
                return {"rows_count": answer["done_count"], "is_finished": True}
            time.sleep(poll_interval_s)


async def _rotate_master(settings: Settings, is_prepared_only: bool, is_dry_run: bool) -> dict[str, Any]:
    """Beside the database; running servers notice nothing. Raises: BadConfiguration, SealBroken, StoreUnavailable."""
    path = settings.master_key_path
    if path is None:
        raise BadConfiguration(
            "the master key stands in CHATTY_MASTER_KEY: put it into a file for CHATTY_MASTER_KEY_FILE"
        )
    async with open_database(settings) as address:
        async with open_connection(address) as connection:
            await schema.check(connection)
        async with open_pool(address) as pool:
            files, units = DiskMasterKeyFiles(path), PostgresUnitOfWork(pool)
            kept = ""
            if is_dry_run:
                async with units.snapshot() as unit:
                    open_data_keys(await unit.server.keys(), await files.current())
            else:
                rotation = MasterKeyRotation(files, units=units, random=os.urandom)
                await rotation.prepare()
                kept = "" if is_prepared_only else await rotation.finish()
    return {
        "kind": "master",
        "state": "prepared" if is_prepared_only else "replaced",
        "file": str(path),
        "old_file": kept or None,
        **({"is_dry_run": True} if is_dry_run else {}),
    }


def _in_columns(one: dict[str, Any]) -> dict[str, Any]:
    turn, due = one["turn_in_s"], one["rotates_in_s"]
    coming = f"used in {_span(turn)}" if turn else "-" if due is None else f"rotates in {_span(due)}"
    values = (one["kind"], one["id"], one["state"], _span(one["age_s"]), coming, one["warning"] or None)
    return dict(zip(_COLUMNS, values, strict=True))


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 3_600
        else f"{seconds / 3_600:.0f} h"
        if seconds < 172_800
        else f"{seconds / 86_400:.0f} d"
    )
