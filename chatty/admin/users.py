"""`chatty-admin users`: who may have an account. Asked of the running server, or done in its database when none runs."""

from typing import Any

import click
import trio

from chatty.admin import render
from chatty.admin.db import open_database
from chatty.admin.options import Place, json_option
from chatty.admin.socket import ask
from chatty.config import Settings
from chatty.errors import ServerUnreachable
from chatty.services.permissions import ROLES, USER_ROLE
from chatty.services.registration import RegistrationSteps, expires_days_max, uses_max
from chatty.store import schema
from chatty.store.connection import open_connection
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnitOfWork

Arguments = dict[str, str | int | bool | None]


@click.group()
def users() -> None:
    """Invite people, and decide on who asked for an account."""


@users.command()
@json_option
@click.option("--role", type=click.Choice(ROLES), default=USER_ROLE, show_default=True, help="Role that it gives.")
@click.option("--uses", type=click.IntRange(1, uses_max), default=1, show_default=True, help="Accounts it is good for.")
@click.option(
    "--expires-days", type=click.IntRange(1, expires_days_max), default=7, show_default=True, help="Days until it ends."
)
@click.pass_obj
def invite(place: Place, as_json: bool, role: str, uses: int, expires_days: int) -> None:
    """Make an invitation and print it, this once: only its hash is kept."""
    answer = _ask(place, "users invite", {"role": role, "uses": uses, "expires_days": expires_days})
    (render.print_json if as_json else render.print_facts)(answer)


@users.command("list")
@json_option
@click.option("--pending", is_flag=True, help="Who asked for an account and waits, instead of who has one.")
@click.option("--after", metavar="USER", default="", help="The next 1,000 accounts after this one.")
@click.pass_obj
def list_users(place: Place, as_json: bool, pending: bool, after: str) -> None:
    """Show accounts, or who waits for one."""
    answer = _ask(place, "users list", {"pending": pending, "after": after})
    (render.print_json(answer) if as_json else render.print_rows(answer["pending" if pending else "users"]))


@users.command()
@json_option
@click.argument("request", metavar="USER_OR_REQUEST")
@click.pass_obj
def approve(place: Place, as_json: bool, request: str) -> None:
    """Give somebody who waits the account; they can log in from now on."""
    _decide(place, "users approve", request, as_json=as_json)


@users.command()
@json_option
@click.argument("request", metavar="USER_OR_REQUEST")
@click.pass_obj
def reject(place: Place, as_json: bool, request: str) -> None:
    """Refuse somebody who waits; nothing is kept."""
    _decide(place, "users reject", request, as_json=as_json)


def _decide(place: Place, command: str, request: str, *, as_json: bool) -> None:
    answer = _ask(place, command, {"request": request})
    (render.print_json if as_json else render.print_facts)(answer)


def _ask(place: Place, command: str, arguments: Arguments) -> dict[str, Any]:
    """Raises: ServerUnreachable when there is neither a server nor a database of one."""
    try:
        return ask(place.data_dir, command, arguments=arguments)
    except ServerUnreachable:
        settings = place.settings()
        if settings.is_embedded and not settings.data_dir.exists():
            raise
        return trio.run(_do, settings, command, arguments)


async def _do(settings: Settings, command: str, arguments: Arguments) -> dict[str, Any]:
    async with open_database(settings) as address:
        async with open_connection(address) as connection:
            await schema.check(connection)
        async with open_pool(address) as pool:
            steps = RegistrationSteps(unit_of_work=PostgresUnitOfWork(pool), mode=settings.registration_mode)
            return dict(await steps.commands()[command](arguments))
