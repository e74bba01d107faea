"""`chatty-admin --server ORIGIN login` and `logout`: an operator's log-in to a server elsewhere."""

import click

from chatty.admin import render
from chatty.admin.options import Place, json_option
from chatty.errors import BadConfiguration


@click.command(epilog="Example: chatty-admin --server https://chat.example.org login --user @ann:example.org")
@json_option
@click.option("--user", metavar="USER", required=True, help="Your user id; its role decides what you may do.")
@click.pass_obj
def login(place: Place, as_json: bool, user: str) -> None:
    """Sign in to the server of --server; the password is asked for, or read from the first line of stdin."""
    from chatty.admin import remote

    _require_server(place)
    answer = remote.sign_in(place.server, user, remote.ask_password())
    (render.print_json if as_json else render.print_facts)(answer)


@click.command(epilog="Example: chatty-admin --server https://chat.example.org logout")
@json_option
@click.pass_obj
def logout(place: Place, as_json: bool) -> None:
    """End the log-in to the server of --server, there and here."""
    from chatty.admin import remote

    _require_server(place)
    (render.print_json if as_json else render.print_facts)(remote.sign_out(place.server))


def _require_server(place: Place) -> None:
    if not place.server:
        raise BadConfiguration("--server ORIGIN says where: chatty-admin --server https://chat.example.org login")
