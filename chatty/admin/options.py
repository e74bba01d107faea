"""What the commands share: where the server is and how it is asked, whether the answer is JSON, and what destroys is confirmed.

A command is asked of the running server: on the machine through its socket, from elsewhere over HTTPS. What needs nothing but the
database is done beside it when no server runs (acts.py). All three ways lead to the same handlers (chatty/app/console.py).
"""

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from chatty.admin.socket import ask
from chatty.config import Settings, load_settings
from chatty.errors import BadConfiguration, NotConfirmed
from chatty.wire.console import Argument

json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON, with stable keys.")
yes_option = click.option("--yes", is_flag=True, help="Do it without asking.")
dry_run_option = click.option(
    "--dry-run", "is_dry_run", is_flag=True, help="Only tell what would be done, and whether it would be refused."
)
Arguments = Mapping[str, Argument]
_hyphened_id = re.compile(r"-[A-Za-z0-9_-]{15,}")  # longer than any option of a command that takes an id
HERE_ONLY = frozenset({"audit", "backup", "config", "db", "doctor", "log", "privacy"})


def aimed(hint: str, server: str) -> str:
    """What to type next, for the server that was asked; what works on its own machine alone is said to."""

    def aim(found: re.Match[str]) -> str:
        if found[1] in HERE_ONLY:
            return f"on its machine {found[0]}"
        return f"chatty-admin --server {shlex.quote(server)} {found[1]}"

    return re.sub(r"chatty-admin ([a-z]+)", aim, hint) if server else hint


def confirm(yes: bool, question: str) -> None:
    """Before something is destroyed: asked on a terminal, refused elsewhere. Raises: NotConfirmed."""
    if yes or (sys.stdin.isatty() and click.confirm(question, err=True)):
        return
    raise NotConfirmed("nothing was changed; --yes does it without asking")


@dataclass(frozen=True)
class Place:
    """chosen_data_dir: by --data-dir or CHATTY_DATA_DIR; then no other setting is needed to find the socket. server: the origin
    of one elsewhere; empty: this machine's.
    """

    chosen_data_dir: Path | None
    server: str = ""

    @property
    def data_dir(self) -> Path:
        """Raises: BadConfiguration."""
        return self.chosen_data_dir if self.chosen_data_dir is not None else self.settings().data_dir

    def settings(self) -> Settings:
        """As the server reads them. Raises: BadConfiguration; also with --server, whose settings are not here."""
        self.refuse_elsewhere()
        chosen = {} if self.chosen_data_dir is None else {"data_dir": self.chosen_data_dir}
        try:
            return load_settings(**chosen)
        except ValueError as error:
            raise BadConfiguration(str(error)) from None

    def refuse_elsewhere(self) -> None:
        """Raises: BadConfiguration, with --server."""
        if self.server:
            raise BadConfiguration("this command works on the server's own machine alone, without --server")

    def ask(
        self,
        command: str,
        arguments: Arguments | None = None,
        *,
        children_max: int = 50,
        is_watched: bool = False,
    ) -> dict[str, Any]:
        """Of the running server. is_watched: the terminal is taken, nobody can be asked for a password.

        Raises: ServerUnreachable, NoServerRunning; OutcomeUnknown; Refused, or what it refuses with.
        """
        arguments = dict(arguments or {})
        if self.server:
            from chatty.admin import remote  # the client and its cryptography: 0.3 s

            return remote.ask(self.server, command, arguments, children_max=children_max, may_prompt=not is_watched)
        return ask(self.data_dir, command, children_max=children_max, arguments=arguments)


class TakesId(click.Command):
    """A command whose argument is an id, one in 64 of which begins with a hyphen: that is no option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ids = [one for one in args if _hyphened_id.fullmatch(one)]
        return super().parse_args(ctx, [*(one for one in args if one not in ids), "--", *ids] if ids else args)
