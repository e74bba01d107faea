"""`chatty-admin keys`: the keys that sign access tokens, and their turns."""

import click

from chatty.admin import render
from chatty.admin.options import Place, json_option


@click.group()
def keys() -> None:
    """Look at the signing keys of the running server, and rotate them."""


@keys.command("list", epilog="Example: chatty-admin keys list")
@json_option
@click.pass_obj
def list_keys(place: Place, as_json: bool) -> None:
    """Show the keys that sign access tokens, in the order of their turns."""
    answer = place.ask("keys list")
    (render.print_json(answer) if as_json else render.print_rows(answer["keys"]))


@keys.command(epilog="Example: chatty-admin keys rotate")
@json_option
@click.pass_obj
def rotate(place: Place, as_json: bool) -> None:
    """Prepare the next signing key; it signs as soon as every process knows it. Nobody is signed out."""
    answer = place.ask("keys rotate")
    (render.print_json if as_json else render.print_facts)(answer)
