"""`chatty-admin users`: who may have an account, and as what. Asked of the running server, or done in its database when none
runs.
"""

from typing import Any

import click
import trio

from chatty.actors.bus import SilentBus
from chatty.admin import render
from chatty.admin.db import open_database
from chatty.admin.options import Place, confirm, json_option, yes_option
from chatty.admin.socket import ask
from chatty.config import Settings
from chatty.errors import ServerUnreachable
from chatty.services.deletions import OperatorDeletion
from chatty.services.permissions import ROLES, USER_ROLE
from chatty.services.registration import RegistrationSteps
from chatty.services.users import UserSteps
from chatty.store import schema
from chatty.store.connection import open_connection
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.wire.registration import expires_days_max, uses_max

Arguments = dict[str, str | int | bool | None]


@click.group()
def users() -> None:
    """Invite people, decide on who asked for an account, give roles, lock people out."""


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
    _act(place, "users invite", {"role": role, "uses": uses, "expires_days": expires_days}, as_json=as_json)


@users.command()
@json_option
@click.option("--after", metavar="ID", default="", help="The next 1,000 invitations after this one.")
@click.pass_obj
def invitations(place: Place, as_json: bool, after: str) -> None:
    """Show the invitations that can be used still: role, uses, end, who made them."""
    answer = _ask(place, "users invitations", {"after": after})
    (render.print_json(answer) if as_json else render.print_rows(answer["invitations"]))


@users.command()
@json_option
@click.argument("invitation", metavar="ID")
@click.pass_obj
def withdraw(place: Place, as_json: bool, invitation: str) -> None:
    """Make an invitation void; accounts that were made with it stay."""
    _act(place, "users withdraw", {"invitation": invitation}, as_json=as_json)


@users.command("list")
@json_option
@click.option("--pending", is_flag=True, help="Who asked for an account and waits, instead of who has one.")
@click.option("--after", metavar="USER", default="", help="The next 1,000 accounts after this one.")
@click.pass_obj
def list_users(place: Place, as_json: bool, pending: bool, after: str) -> None:
    """Show accounts, or who waits for one."""
    answer = _ask(place, "users pending", {}) if pending else _ask(place, "users list", {"after": after})
    (render.print_json(answer) if as_json else render.print_rows(answer["pending" if pending else "users"]))


@users.command()
@json_option
@click.argument("request", metavar="USER_OR_REQUEST")
@click.pass_obj
def approve(place: Place, as_json: bool, request: str) -> None:
    """Give somebody who waits the account; they can log in from now on."""
    _act(place, "users approve", {"request": request}, as_json=as_json)


@users.command()
@json_option
@click.argument("request", metavar="USER_OR_REQUEST")
@click.pass_obj
def reject(place: Place, as_json: bool, request: str) -> None:
    """Refuse somebody who waits; nothing is kept."""
    _act(place, "users reject", {"request": request}, as_json=as_json)


@users.command()
@json_option
@click.argument("user")
@click.argument("role", type=click.Choice(ROLES))
@click.pass_obj
def role(place: Place, as_json: bool, user: str, role: str) -> None:
    """Give a user another role; it counts within a second, on open sockets too."""
    _act(place, "users role", {"user": user, "role": role}, as_json=as_json)


@users.command()
@json_option
@yes_option
@click.argument("user")
@click.pass_obj
def lock(place: Place, as_json: bool, yes: bool, user: str) -> None:
    """Lock a user out: all log-in sessions end, for ever, and none can begin."""
    confirm(yes, f"Lock {user} and end all of the user's devices?")
    _act(place, "users lock", {"user": user}, as_json=as_json)


@users.command()
@json_option
@click.argument("user")
@click.pass_obj
def unlock(place: Place, as_json: bool, user: str) -> None:
    """Let a locked user log in again; sessions that ended stay over."""
    _act(place, "users unlock", {"user": user}, as_json=as_json)


@users.command("end-sessions")
@json_option
@yes_option
@click.argument("user")
@click.pass_obj
def end_sessions(place: Place, as_json: bool, yes: bool, user: str) -> None:
    """End all log-in sessions of a user, with their devices; the user may log in anew."""
    confirm(yes, f"End all devices of {user}?")
    _act(place, "users end-sessions", {"user": user}, as_json=as_json)


@users.command()
@json_option
@yes_option
@click.argument("user")
@click.pass_obj
def delete(place: Place, as_json: bool, yes: bool, user: str) -> None:
    """End an account for ever and erase it, while a server runs; print what opens the receipt, this once."""
    confirm(yes, f"Delete {user}? The name is never free again, and nothing brings the account back.")
    _act(place, "users delete", {"user": user}, as_json=as_json)


def _act(place: Place, command: str, arguments: Arguments, *, as_json: bool) -> None:
    answer = _ask(place, command, arguments)
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
    """Beside the database; nodes that run elsewhere see what changed when they next look."""
    from chatty.app.console import user_commands  # imports the whole application: 0.4 s
    from chatty.app.process import now_ms

    async with open_database(settings) as address:
        async with open_connection(address) as connection:
            await schema.check(connection)
        async with open_pool(address) as pool:
            units = PostgresUnitOfWork(pool)
            commands = user_commands(
                UserSteps(unit_of_work=units, doorbells=SilentBus(), clock_ms=now_ms),
                RegistrationSteps(unit_of_work=units, mode=settings.registration_mode),
                OperatorDeletion(unit_of_work=units, doorbells=SilentBus(), clock_ms=now_ms),
            )
            return dict(await commands[command](arguments))
