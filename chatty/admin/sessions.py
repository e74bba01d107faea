"""`chatty-admin sessions`: who is logged in, and ending it. Asked of the running server, or done in its database."""

import click

from chatty.admin import render
from chatty.admin.acts import ask_or_do, destroy
from chatty.admin.options import Place, TakesId, dry_run_option, json_option, yes_option


@click.group()
def sessions() -> None:
    """Look at log-in sessions, and end them."""


@sessions.command("list", epilog="Example: chatty-admin sessions list --user @ann:example.org")
@json_option
@click.option("--user", metavar="USER", default="", help="Only those of this user.")
@click.option("--after", metavar="SESSION", default="", help="The next 1,000 after this one.")
@click.pass_obj
def list_sessions(place: Place, as_json: bool, user: str, after: str) -> None:
    """Show log-in sessions: whose, on which device, for how long, and whether it is connected."""
    render.print_answer(ask_or_do(place, "sessions list", {"user": user, "after": after}), "sessions", as_json=as_json)


@sessions.command(cls=TakesId, epilog="Example: chatty-admin sessions end --yes mFq0XJ2Yq5sM5q3v0yXb1w")
@json_option
@yes_option
@dry_run_option
@click.argument("session")
@click.pass_obj
def end(place: Place, as_json: bool, yes: bool, is_dry_run: bool, session: str) -> None:
    """End one log-in session, with its device, for ever; the user may log in anew."""
    question = "End this log-in session and its device?"
    destroy(place, "sessions end", {"session": session}, question, as_json=as_json, yes=yes, is_dry_run=is_dry_run)
