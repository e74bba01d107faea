"""`chatty-admin users`: who may have an account, and as what. Asked of the running server, or done in its database when none
runs.
"""

import click

from chatty.admin import render
from chatty.admin.acts import act, ask_or_do, destroy
from chatty.admin.options import Arguments, Place, dry_run_option, json_option, yes_option
from chatty.admin.storage import print_storage
from chatty.services.permissions import ROLES, USER_ROLE
from chatty.wire.registration import expires_days_max, uses_max


@click.group()
def users() -> None:
    """Invite people, decide on who asked for an account, give roles, lock people out."""


@users.command(epilog="Example: chatty-admin users invite --role moderator --uses 5")
@json_option
@dry_run_option
@click.option("--role", type=click.Choice(ROLES), default=USER_ROLE, show_default=True, help="Role that it gives.")
@click.option("--uses", type=click.IntRange(1, uses_max), default=1, show_default=True, help="Accounts it is good for.")
@click.option(
    "--expires-days", type=click.IntRange(1, expires_days_max), default=7, show_default=True, help="Days until it ends."
)
@click.pass_obj
def invite(place: Place, as_json: bool, is_dry_run: bool, role: str, uses: int, expires_days: int) -> None:
    """Make an invitation and print it, this once: only its hash is kept."""
    wanted: Arguments = {"role": role, "uses": uses, "expires_days": expires_days}
    act(place, "users invite", wanted, as_json=as_json, is_dry_run=is_dry_run)


@users.command(epilog="Example: chatty-admin users invitations --json")
@json_option
@click.option("--after", metavar="ID", default="", help="The next 1,000 invitations after this one.")
@click.pass_obj
def invitations(place: Place, as_json: bool, after: str) -> None:
    """Show the invitations that can be used still: role, uses, end, who made them."""
    answer = ask_or_do(place, "users invitations", {"after": after})
    render.print_answer(answer, "invitations", as_json=as_json)


@users.command(epilog="Example: chatty-admin users withdraw 0123456789abcdef")
@json_option
@dry_run_option
@click.argument("invitation", metavar="ID")
@click.pass_obj
def withdraw(place: Place, as_json: bool, is_dry_run: bool, invitation: str) -> None:
    """Make an invitation void; accounts that were made with it stay."""
    act(place, "users withdraw", {"invitation": invitation}, as_json=as_json, is_dry_run=is_dry_run)


@users.command("list", epilog="Example: chatty-admin users list --pending")
@json_option
@click.option("--pending", is_flag=True, help="Who asked for an account and waits, instead of who has one.")
@click.option("--after", metavar="USER", default="", help="The next 1,000 accounts after this one.")
@click.pass_obj
def list_users(place: Place, as_json: bool, pending: bool, after: str) -> None:
    """Show accounts, or who waits for one."""
    if pending:
        render.print_answer(ask_or_do(place, "users pending"), "pending", as_json=as_json)
    else:
        render.print_answer(ask_or_do(place, "users list", {"after": after}), "users", as_json=as_json)


@users.command(epilog="Example: chatty-admin users approve @ann:example.org")
@json_option
@dry_run_option
@click.argument("request", metavar="USER_OR_REQUEST")
@click.pass_obj
def approve(place: Place, as_json: bool, is_dry_run: bool, request: str) -> None:
    """Give somebody who waits the account; they can log in from now on."""
    act(place, "users approve", {"request": request}, as_json=as_json, is_dry_run=is_dry_run)


@users.command(epilog="Example: chatty-admin users reject @ann:example.org")
@json_option
@dry_run_option
@click.argument("request", metavar="USER_OR_REQUEST")
@click.pass_obj
def reject(place: Place, as_json: bool, is_dry_run: bool, request: str) -> None:
    """Refuse somebody who waits; nothing is kept."""
    act(place, "users reject", {"request": request}, as_json=as_json, is_dry_run=is_dry_run)


@users.command(epilog="Example: chatty-admin users role @ann:example.org moderator")
@json_option
@dry_run_option
@click.argument("user")
@click.argument("role", type=click.Choice(ROLES))
@click.pass_obj
def role(place: Place, as_json: bool, is_dry_run: bool, user: str, role: str) -> None:
    """Give a user another role; it counts within a second, on open sockets too."""
    act(place, "users role", {"user": user, "role": role}, as_json=as_json, is_dry_run=is_dry_run)


@users.command(epilog="Example: chatty-admin users lock --yes @ann:example.org")
@json_option
@yes_option
@dry_run_option
@click.argument("user")
@click.pass_obj
def lock(place: Place, as_json: bool, yes: bool, is_dry_run: bool, user: str) -> None:
    """Lock a user out: all log-in sessions end, for ever, and none can begin."""
    question = f"Lock {user} and end all of the user's devices?"
    destroy(
        place,
        "users lock",
        {"user": user},
        question,
        as_json=as_json,
        yes=yes,
        is_dry_run=is_dry_run,
        affecting="users end-sessions",
    )


@users.command(epilog="Example: chatty-admin users unlock @ann:example.org")
@json_option
@dry_run_option
@click.argument("user")
@click.pass_obj
def unlock(place: Place, as_json: bool, is_dry_run: bool, user: str) -> None:
    """Let a locked user log in again; sessions that ended stay over."""
    act(place, "users unlock", {"user": user}, as_json=as_json, is_dry_run=is_dry_run)


@users.command("end-sessions", epilog="Example: chatty-admin users end-sessions --dry-run @ann:example.org")
@json_option
@yes_option
@dry_run_option
@click.argument("user")
@click.pass_obj
def end_sessions(place: Place, as_json: bool, yes: bool, is_dry_run: bool, user: str) -> None:
    """End all log-in sessions of a user, with their devices; the user may log in anew."""
    question = f"End all devices of {user}?"
    destroy(place, "users end-sessions", {"user": user}, question, as_json=as_json, yes=yes, is_dry_run=is_dry_run)


@users.command(epilog="Example: chatty-admin users delete --dry-run @ann:example.org")
@json_option
@yes_option
@dry_run_option
@click.argument("user")
@click.pass_obj
def delete(place: Place, as_json: bool, yes: bool, is_dry_run: bool, user: str) -> None:
    """End an account for ever and erase it, while a server runs; print what opens the receipt, this once."""
    question = f"Delete {user}? The name is never free again, and nothing brings the account back."
    destroy(
        place,
        "users delete",
        {"user": user},
        question,
        as_json=as_json,
        yes=yes,
        is_dry_run=is_dry_run,
        affecting="users end-sessions",
    )


@users.command(epilog="Example: chatty-admin users quotas @ann:example.org")
@json_option
@click.argument("user")
@click.pass_obj
def quotas(place: Place, as_json: bool, user: str) -> None:
    """Show how much a user may have, by the role, and has."""
    render.print_answer(ask_or_do(place, "users quotas", {"user": user}), "quotas", as_json=as_json)


@users.command(epilog="Example: chatty-admin users storage --count-max 5")
@json_option
@click.option("--count-max", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The largest so many.")
@click.pass_obj
def storage(place: Place, as_json: bool, count_max: int) -> None:
    """Show whose ciphertexts take the most room, over all rooms; never what is in them."""
    print_storage(place, "user", count_max=count_max, as_json=as_json)
