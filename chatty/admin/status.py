"""`chatty-admin status`: what the running server says of itself."""

import click

from chatty.admin import render
from chatty.admin.options import Place, json_option


@click.command(epilog="Example: chatty-admin status --json")
@json_option
@click.pass_obj
def status(place: Place, as_json: bool) -> None:
    """Show what the running server says of itself."""
    answer = place.ask("status")
    (render.print_json if as_json else render.print_facts)(answer)
