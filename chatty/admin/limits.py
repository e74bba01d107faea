"""`chatty-admin limits`: how often one may ask, and whom that refused."""

import click

from chatty.admin import render
from chatty.admin.options import Place, json_option


@click.group()
def limits() -> None:
    """Look at the limiters of the running server."""


@limits.command("list", epilog="Example: chatty-admin limits list")
@json_option
@click.pass_obj
def list_limits(place: Place, as_json: bool) -> None:
    """Show every limiter: its rate, how many are counted, how often it refused."""
    answer = place.ask("limits list")
    (render.print_json(answer) if as_json else render.print_rows(answer["limits"]))


@limits.command(epilog="Example: chatty-admin limits why @ann:example.org")
@json_option
@click.argument("subject", metavar="USER_OR_ADDRESS")
@click.pass_obj
def why(place: Place, as_json: bool, subject: str) -> None:
    """Show why a user (@ann:example.org), a device or an address was refused, the newest refusal first."""
    answer = place.ask("limits why", {"subject": subject})
    (render.print_json(answer) if as_json else render.print_rows(answer["refusals"]))
