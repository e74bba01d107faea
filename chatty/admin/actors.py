"""`chatty-admin actors`: the supervised actors, as they are now, also while one of them hangs; what memory they take."""

import click

from chatty.actors.console import children_count_max
from chatty.admin import render
from chatty.admin.acts import destroy
from chatty.admin.options import Place, dry_run_option, json_option, yes_option


@click.group()
def actors() -> None:
    """Look at the running server's actors, and restart one."""


@actors.command(epilog="Example: chatty-admin actors tree --children-max 10")
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
    answer = place.ask("actors", children_max=children_max)
    (render.print_json if as_json else render.print_tree)(answer)


@actors.command(epilog="Example: chatty-admin actors show journal/group")
@json_option
@click.argument("actor")
@click.pass_obj
def show(place: Place, as_json: bool, actor: str) -> None:
    """Show one actor by its path in the tree, and why it is slow."""
    answer = place.ask("actors show", {"actor": actor})
    if as_json:
        render.print_json(answer)
    else:
        render.print_facts({name: value for name, value in answer.items() if name != "reasons"})
        render.print_rows([{"why": reason} for reason in answer["reasons"]])


@actors.command(epilog="Example: chatty-admin actors memory")
@json_option
@click.pass_obj
def memory(place: Place, as_json: bool) -> None:
    """Estimate what each kind of actor takes, from a sample that is walked through; the server pauses for some ms an actor."""
    answer = place.ask("actors memory")
    if as_json:
        render.print_json(answer)
        return
    render.print_rows(answer["branches"])
    render.print_facts({"resident_bytes": answer["resident_bytes"], "actors_bytes": answer["actors_bytes"]})


@actors.command(epilog="Example: chatty-admin actors restart --yes 'rooms/room 12'")
@json_option
@yes_option
@dry_run_option
@click.argument("actor")
@click.pass_obj
def restart(place: Place, as_json: bool, yes: bool, is_dry_run: bool, actor: str) -> None:
    """Start one actor anew, as after a crash: no message is lost, and the audit log has it."""
    destroy(
        place, "actors restart", {"actor": actor}, f"Restart {actor}?", as_json=as_json, yes=yes, is_dry_run=is_dry_run
    )
