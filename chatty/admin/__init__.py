"""The command line `chatty-admin`, one file a command group.

Exit codes: 0 done or healthy · 1 refused or unhealthy · 2 usage · 3 server or database unreachable · 4 not confirmed ·
130 interrupted.
stdout is the answer, stderr the talk; an error ends with the next command to type. A fault of the program itself is an error too,
internal_error: its place is told, and the traceback only with --debug.
"""

import shlex
import sys
from itertools import pairwise
from pathlib import Path, PurePath
from traceback import extract_tb, print_exception
from types import TracebackType
from typing import Any

import click

from chatty import __version__
from chatty.admin import render
from chatty.admin.actors import actors
from chatty.admin.audit import audit
from chatty.admin.backups import backup
from chatty.admin.cleanup import cleanup
from chatty.admin.completion import completion
from chatty.admin.config import config
from chatty.admin.db import db
from chatty.admin.db_size import size, slow
from chatty.admin.devices import devices
from chatty.admin.doctor import doctor
from chatty.admin.health import health
from chatty.admin.jobs import jobs
from chatty.admin.keys import keys
from chatty.admin.limits import limits
from chatty.admin.log import log
from chatty.admin.login import login, logout
from chatty.admin.options import HERE_ONLY, Place, aimed
from chatty.admin.privacy import privacy
from chatty.admin.rooms import rooms
from chatty.admin.sessions import sessions
from chatty.admin.socket import Refused
from chatty.admin.status import status
from chatty.admin.top import top
from chatty.admin.users import users
from chatty.errors import ChattyError
from chatty.telemetry import configure_logging

interrupted_exit_code = 130
usage_exit_code = 2
_NEXT = {
    "audit_broken": "chatty-admin audit list",
    "audit_file_unusable": "chatty-admin audit export-head",
    "backfill_failed": "chatty-admin db upgrade",
    "backup_damaged": "chatty-admin backup list",
    "backup_failed": "chatty-admin backup create",
    "backup_key_wrong": "chatty-admin backup list",
    "backup_unproven": "chatty-admin backup create",
    "bad_configuration": "chatty-admin config check",
    "bad_request": "chatty-admin --help",
    "crash_unknown": "chatty-admin log errors",
    "forbidden": "chatty-admin --help",
    "job_failed": "chatty-admin jobs list",
    "job_idle": "chatty-admin jobs list",
    "job_running": "chatty-admin jobs list",
    "job_stopped": "chatty-admin jobs resume --help",
    "job_unknown": "chatty-admin jobs list",
    "key_change_refused": "chatty-admin keys list",
    "last_owner": "chatty-admin users list",
    "login_refused": "chatty-admin --help",
    "not_found": "chatty-admin users list",
    "name_taken": "chatty-admin users list",
    "registration_closed": "chatty-admin users invite --role owner",
    "outcome_unknown": "chatty-admin audit list",
    "database_in_use": "chatty-admin db downgrade --yes",
    "database_missing": "chatty up",
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


_LOG_IN = {"not_signed_in", "session_ended", "step_up_required", "device_revoked", "unauthenticated", "refresh_refused"}


class _Commands(click.Group):
    """The one place where errors become exit codes."""

    def main(self, *args: Any, **options: Any) -> Any:
        given = options.pop("args", args[0] if args else None)
        words = list(sys.argv[1:] if given is None else given)
        if given is None:  # the process is this command's
            sys.excepthook = _Crash(is_told_whole="--debug" in words)
        sys.exit(self._exit_code(words, options | {"prog_name": "chatty-admin", "standalone_mode": False}))

    def _exit_code(self, words: list[str], options: dict[str, Any]) -> int:
        code = 0
        try:
            code = super().main(words, **options) or 0
        except* (ChattyError, Refused) as group:
            error = _first_leaf(group)
            render.print_error(error.code, str(error), next_command=_next_command(error.code, words))
            code = error.exit_code
        except* click.ClickException as group:
            code = _tell_usage(group)
        except* (KeyboardInterrupt, click.Abort):
            render.print_error("interrupted", "stopped half-way", next_command=shlex.join(["chatty-admin", *words]))
            code = interrupted_exit_code
        return code


def _tell_usage(group: BaseExceptionGroup[click.ClickException]) -> int:
    error = group.exceptions[0]
    assert isinstance(error, click.ClickException)
    context = error.ctx if isinstance(error, click.UsageError) else None
    detail = error.format_message()
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        detail = "a command is wanted"
    path = context.command_path if context is not None else "chatty-admin"
    render.print_error("usage", detail, next_command=f"{path} --help")
    return usage_exit_code


def _next_command(code: str, words: list[str]) -> str:
    server = _server_in(words)
    if code == "not_confirmed":
        return shlex.join(["chatty-admin", *words, "--yes"])
    if code in _LOG_IN or (server and code in ("server_unreachable", "login_refused")):
        return f"chatty-admin --server {shlex.quote(server) or 'ORIGIN'} login"
    command = _NEXT.get(code, "chatty-admin health")
    if not server:
        return command
    if code == "bad_configuration":  # it is the option's, or nothing for a server elsewhere
        return "chatty-admin --help"
    is_there_alone = command == "chatty up" or command.split()[1] in HERE_ONLY
    return aimed("chatty-admin health" if is_there_alone else command, server)


def _server_in(words: list[str]) -> str:
    """As it was typed."""
    joined = [word.partition("=")[2] for word in words if word.startswith("--server=")]
    following = [after for word, after in pairwise(words) if word == "--server"]
    return next(iter([*joined, *following]), "")


class _Crash:
    """What is told of an error that nobody foresaw, in place of a traceback."""

    def __init__(self, *, is_told_whole: bool) -> None:
        self._is_told_whole = is_told_whole

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if self._is_told_whole:
            print_exception(kind, error, trace)
        frames = extract_tb(trace)
        place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        detail = f"{kind.__name__}{place}; --debug before the command shows the whole"
        render.print_error("internal_error", detail, next_command="chatty-admin --version")


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
@click.option(
    "--server", metavar="ORIGIN", default="", help="A server elsewhere, as https://chat.example.org; see login."
)
@click.option("--debug", is_flag=True, help="Show the traceback of a fault in this program.")
@click.version_option(__version__, prog_name="chatty-admin")
@click.pass_context
def main(context: click.Context, data_dir: Path | None, server: str, debug: bool) -> None:
    """Look after a Chatty server: on this machine, or elsewhere with --server."""
    configure_logging("debug" if debug else "warning", form="console")  # to stderr
    context.obj = Place(data_dir, server)


for _command in (size, slow):
    db.add_command(_command)
for _command in (
    status,
    health,
    top,
    actors,
    audit,
    backup,
    cleanup,
    completion,
    config,
    db,
    devices,
    doctor,
    jobs,
    keys,
    limits,
    log,
    login,
    logout,
    privacy,
    rooms,
    sessions,
    users,
):
    main.add_command(_command)
