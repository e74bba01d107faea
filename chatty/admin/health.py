"""`chatty-admin health`: whether the running server can serve, dependency by dependency; exit code 1 if not."""

import click

from chatty.admin import render
from chatty.admin.options import Place, json_option

unhealthy_exit_code = 1


@click.command(epilog="Example: chatty-admin health --json")
@json_option
@click.pass_context
def health(context: click.Context, as_json: bool) -> None:
    """Tell whether the running server can serve; exit with 1 if it cannot."""
    place = context.find_object(Place)
    assert place is not None
    answer = place.ask("health")
    (render.print_json if as_json else render.print_health)(answer)
    if not answer["is_ready"]:
        failed = ", ".join(check["name"] for check in answer["checks"] if not check["is_ready"])
        render.print_error("not_ready", failed, next_command="chatty-admin actors tree")
        context.exit(unhealthy_exit_code)
