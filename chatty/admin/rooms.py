"""`chatty-admin rooms`: how large they are and who is in them, never what is said. Asked of the running server, or of its
database when none runs.
"""

import click

from chatty.admin import render
from chatty.admin.acts import ask_or_do
from chatty.admin.options import Place, json_option
from chatty.admin.storage import print_storage


@click.group()
def rooms() -> None:
    """Look at rooms: members and sizes, never content."""


@rooms.command("list", epilog="Example: chatty-admin rooms list --json")
@json_option
@click.option("--after", metavar="ROOM", default="", help="The next 1,000 after this one.")
@click.pass_obj
def list_rooms(place: Place, as_json: bool, after: str) -> None:
    """Show rooms: how many members and events, since when it is quiet."""
    render.print_answer(ask_or_do(place, "rooms list", {"after": after}), "rooms", as_json=as_json)


@rooms.command(epilog="Example: chatty-admin rooms show '!fQ3kVq7…'")
@json_option
@click.argument("room")
@click.pass_obj
def show(place: Place, as_json: bool, room: str) -> None:
    """Show one room: its members and their roles, its size, and the name of its actor."""
    answer = ask_or_do(place, "rooms show", {"room": room})
    if as_json:
        render.print_json(answer)
    else:
        render.print_facts({name: value for name, value in answer.items() if name != "members"})
        render.print_rows(answer["members"])


@rooms.command(epilog="Example: chatty-admin rooms storage --count-max 5")
@json_option
@click.option("--count-max", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The largest so many.")
@click.pass_obj
def storage(place: Place, as_json: bool, count_max: int) -> None:
    """Show which rooms' ciphertexts take the most room."""
    print_storage(place, "room", count_max=count_max, as_json=as_json)
