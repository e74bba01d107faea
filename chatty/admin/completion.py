"""`chatty-admin completion`: what a shell needs to complete this program's commands, options and choices."""

import click
from click.shell_completion import get_completion_class

from chatty.admin import render

shells = ("bash", "zsh", "fish")
_VARIABLE = "_CHATTY_ADMIN_COMPLETE"


@click.command(epilog='Example: eval "$(chatty-admin completion bash)"')
@click.argument("shell", type=click.Choice(shells))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the lines that make a shell complete chatty-admin, for its start-up file."""
    kind = get_completion_class(shell)
    assert kind is not None, "one of those above"
    render.write(kind(context.find_root().command, {}, "chatty-admin", _VARIABLE).source() + "\n")
