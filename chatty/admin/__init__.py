"""The command line `chatty-admin`, one file a command group.

Exit codes: 0 done or healthy · 1 refused or unhealthy · 2 usage · 3 server or database unreachable · 4 not confirmed ·
130 interrupted.
stdout is the answer, stderr the talk; an error ends with the next command to type.
"""

from pathlib import Path
from typing import Any

import click

from chatty import __version__
from chatty.admin import render
from chatty.admin.actors import actors
from chatty.admin.audit import audit
from chatty.admin.backups import backup
from chatty.admin.db import db
from chatty.admin.health import health
from chatty.admin.keys import keys
from chatty.admin.limits import limits
from chatty.admin.options import Place
from chatty.admin.privacy import privacy
from chatty.admin.socket import Refused
from chatty.admin.status import status
from chatty.admin.users import users
from chatty.errors import ChattyError
from chatty.telemetry import configure_logging

interrupted_exit_code = 130
_NEXT = {
    "audit_broken": "chatty-admin audit list",
    "audit_file_unusable": "chatty-admin audit export-head",
    "backup_damaged": "chatty-admin backup list",
    "backup_failed": "chatty-admin backup create",
    "backup_key_wrong": "chatty-admin backup list",
    "backup_unproven": "chatty-admin backup create",
    "bad_configuration": "chatty-admin --help",
    "last_owner": "chatty-admin users list",
    "not_confirmed": "chatty-admin users --help",
    "not_found": "chatty-admin users list",
    "name_taken": "chatty-admin users list",
    "registration_closed": "chatty-admin users invite --role owner",
    "data_directory_in_use": "chatty-admin status",
    "database_start_failed": "chatty-admin --help",
    "migration_failed": "chatty-admin db upgrade",
    "restore_refused": "chatty-admin backup restore --help",
    "restore_unfinished": "chatty-admin backup restore --help",
    "schema_too_new": "chatty-admin --version",
    "schema_too_old": "chatty-admin db upgrade",
    "server_unreachable": "chatty up",
    "store_unavailable": "chatty-admin health",
}


class _Commands(click.Group):
    """The one place where errors become exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        code = 0
        try:
            super().invoke(ctx)
        except* (ChattyError, Refused) as group:
            error = _first_leaf(group)
            render.print_error(error.code, str(error), next_command=_NEXT.get(error.code, "chatty-admin health"))
            code = error.exit_code
        except* KeyboardInterrupt:
            code = interrupted_exit_code
        ctx.exit(code)


def _first_leaf(error: BaseException) -> ChattyError | Refused:
    """A task's error comes in groups of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ChattyError | Refused)
    return error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="CHATTY_DATA_DIR",
    help="The server's data directory; default: as the settings say.",
)
@click.version_option(__version__, prog_name="chatty-admin")
@click.pass_context
def main(context: click.Context, data_dir: Path | None) -> None:
    """Look after a Chatty server on this machine."""
    configure_logging("warning", form="console")  # to stderr
    context.obj = Place(data_dir)


for _command in (status, health, actors, audit, backup, db, keys, limits, privacy, users):
    main.add_command(_command)
