"""`chatty-admin backup`: make proven archives, look at them, and go on from one. What happens: app/backups.py."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from chatty.admin import render
from chatty.admin.db import open_database
from chatty.admin.options import Place, confirm, json_option, yes_option
from chatty.crypto.backups import make_recipient, read_header
from chatty.errors import BackupFailed

if TYPE_CHECKING:
    from chatty.app.backups import Backup

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
_identity = click.option(
    "--identity",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File with the operator's private key, for an archive that was sealed for it.",
)


@click.group()
def backup() -> None:
    """Make proven backups, and go on from one."""


@backup.command(epilog="Example: chatty-admin backup create --dir /mnt/backups")
@json_option
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help="Where to; else as the settings say."
)
@click.pass_obj
def create(place: Place, as_json: bool, folder: Path | None) -> None:
    """Back up a running server, or a stopped one, and prove that the archive gives everything back."""
    from chatty.app import backups  # imports the whole application: 0.4 s

    settings = place.settings()

    async def work(progress: Callable[[str, int], None]) -> "Backup":
        async with open_database(settings) as address:
            return await backups.create(settings, address, directory=folder, progress=progress)

    with render.transfer() as progress:
        made = trio.run(work, progress)
    _show(_facts(made) | {"is_proven": True}, as_json=as_json)


@backup.command("list", epilog="Example: chatty-admin backup list")
@json_option
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help="Where; else as the settings say."
)
@click.pass_obj
def list_(place: Place, as_json: bool, folder: Path | None) -> None:
    """Archives, the newest first. What is listed was proven when it was made."""
    from chatty.app import backups

    with backups.disk_errors():
        found = [_facts(one) for one in backups.listed(folder or backups.backup_dir(place.settings()))]
    if as_json:
        render.print_json({"backups": found})
    else:
        render.print_rows(found)


@backup.command(epilog="Example: chatty-admin backup verify localhost-20260102T030405678Z.chatty-backup")
@json_option
@_identity
@_file
@click.pass_obj
def verify(place: Place, as_json: bool, identity: Path | None, file: Path) -> None:
    """Read an archive, restore it into a database that is thrown away, and check it against its manifest."""
    from chatty.app import backups

    settings, private = place.settings(), _private(identity)

    async def work(progress: Callable[[str, int], None]) -> "Backup":
        key = await backups.opening_key(settings, private=private)
        return await backups.verify(settings, file, key, progress=progress)

    with render.transfer(bytes_count=file.stat().st_size) as progress:
        found = trio.run(work, progress)
    _show(_facts(found) | {"is_proven": True}, as_json=as_json)


@backup.command(epilog="Example: chatty-admin backup restore --yes localhost-20260102T030405678Z.chatty-backup")
@json_option
@yes_option
@_identity
@click.option("--above", default=0, help="A generation that clients have seen since: the new one is above it.")
@click.option("--end-sessions", is_flag=True, help="End every log-in session: those ended after the backup live again.")
@_file
@click.pass_obj
def restore(
    place: Place, as_json: bool, yes: bool, identity: Path | None, above: int, end_sessions: bool, file: Path
) -> None:
    """Put a backup where there is no database yet, as a new generation. The server must be stopped."""
    from chatty.app import backups

    settings, private = place.settings(), _private(identity)
    key = trio.run(partial(backups.opening_key, settings, private=private))
    with file.open("rb") as opened:
        at = _time(read_header(opened).time)
    confirm(yes, f"Restore the backup of {at}? What was sent after it is lost to the server.")

    async def work(progress: Callable[[str, int], None]) -> dict[str, Any]:
        found, raised = await backups.restore(
            settings, file, key, above=above, end_sessions=end_sessions, progress=progress
        )
        return _facts(found) | {
            "new_generation": raised.generation.number,
            "rooms_count": raised.rooms_count,
            "users_count": raised.users_count,
            "one_time_keys_purged_count": raised.one_time_keys_count,
            "sessions_count": raised.sessions_count,
            "is_sessions_ended": end_sessions,
        }

    with render.transfer(bytes_count=file.stat().st_size) as progress:
        facts = trio.run(work, progress)
    _show(facts, as_json=as_json)
    if not end_sessions and not as_json:
        click.echo(f"{facts['sessions_count']} log-in sessions live, also those ended after the backup.", err=True)


@backup.command("make-key", epilog="Example: chatty-admin backup make-key operator.key")
@json_option
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def make_key(as_json: bool, file: Path) -> None:
    """Make an operator's key: the private half into FILE, to be kept elsewhere; the public one for CHATTY_BACKUP_RECIPIENT."""
    private, public = make_recipient()
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
            opened.write(private + "\n")
    except OSError as error:
        raise BackupFailed(f"{file}: {error.strerror}") from None
    _show({"backup_recipient": public, "file": str(file)}, as_json=as_json)


def _private(identity: Path | None) -> str:
    return "" if identity is None else identity.read_text(encoding="ascii", errors="replace")


def _show(facts: dict[str, Any], *, as_json: bool) -> None:
    (render.print_json if as_json else render.print_facts)(facts)


def _facts(one: "Backup") -> dict[str, Any]:
    header = one.header
    return {
        "file": str(one.path),
        "bytes_count": one.bytes_count,
        "server": header.server,
        "generation": header.generation,
        "schema_version": header.schema_version,
        "chatty_version": header.chatty_version,
        "time": _time(header.time),
        "age_s": round(datetime.now(UTC).timestamp() - header.time / 1_000),
    }


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1_000, UTC).isoformat(timespec="seconds")
