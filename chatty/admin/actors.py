"""`chatty-admin actors`: the supervised actors, as they are now, also while one of them hangs; what memory they take."""

import click

from chatty.actors.console import children_count_max
from chatty.admin import render
from chatty.admin.options import Place, json_option
from chatty.admin.socket import ask


@click.group()
def actors() -> None:
    """Look at the running server's actors."""


@actors.command()
@json_option
@click.option(
    "--children-max",
    type=click.IntRange(1, children_count_max),
    default=50,
    show_default=True,
    help="Actors shown of one branch; those with the most trouble are chosen.",
)
@click.pass_obj
def tree(place: Place, as_json: bool, children_max: int) -> None:
    """Draw the tree: state, mailbox, oldest message, handled, restarts, quarantined, last error."""
    answer = ask(place.data_dir, "actors", children_max=children_max)
    (render.print_json if as_json else render.print_tree)(answer)


@actors.command()
@json_option
@click.pass_obj
def memory(place: Place, as_json: bool) -> None:
    """Estimate what each kind of actor takes, from a sample that is walked through; the server pauses for some ms an actor."""
    answer = ask(place.data_dir, "actors memory")
    if as_json:
        render.print_json(answer)
        return
    render.print_rows(answer["branches"])
    render.print_facts({"resident_bytes": answer["resident_bytes"], "actors_bytes": answer["actors_bytes"]})
