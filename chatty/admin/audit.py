"""`chatty-admin audit`: read the audit log, carry it away, and verify it without the server.

All of it reads the database itself, so it works while the server is down, and what it says does not rest on the server's word.
The verifier believes heads that were carried away and the audit key that the master key vouches for. Without either it can only
say that the log is in accord with itself; `trust` in its answer names what it had.
"""

import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec
import trio

from chatty.admin import render
from chatty.admin.db import open_database
from chatty.admin.options import Place, json_option
from chatty.config import Settings
from chatty.crypto.audit import Verdict, Verifier
from chatty.crypto.sealing import MasterKey, load_master_key
from chatty.errors import AuditBroken, AuditFileUnusable, NotFound
from chatty.services.server_keys import read_audit_keys
from chatty.store import schema
from chatty.store.audit_heads import heads_path, read_heads
from chatty.store.connection import open_connection
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnit, PostgresUnitOfWork
from chatty.wire.audit import ArchiveLine, ArchiveStart, AuditHead, AuditRow, ListedRow, archive_format
from chatty.wire.successions import AUDIT, KeySuccession

statement_timeout_s = 600.0
_existing_file = click.Path(path_type=Path, dir_okay=False, exists=True)
_time = click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])


@click.group()
def audit() -> None:
    """Read and verify the audit log; the server need not run."""


@audit.command("list", epilog="Example: chatty-admin audit list --actor @ann:example.org --since 2026-01-31")
@json_option
@click.option("--actor", metavar="USER", help="Only acts of this user id.")
@click.option("--action", metavar="ACTION", help="Only this action, as device.revoked, or all of its noun, as device.")
@click.option("--object", "object_", metavar="ID", help="Only acts on this object: a user, device or room id.")
@click.option("--family", metavar="ID", help="Only acts of this log-in session.")
@click.option("--address", metavar="ADDRESS", help="Only acts from this address, while it is kept.")
@click.option("--request-id", metavar="ID", help="Only what this request did.")
@click.option(
    "--since", type=_time, metavar="TIME", help="Only acts from this time on, UTC: 2026-01-31 or 2026-01-31T12:00."
)
@click.option("--until", type=_time, metavar="TIME", help="Only acts before this time, UTC.")
@click.option("--count-max", type=click.IntRange(1, 10_000), default=100, show_default=True, help="The newest so many.")
@click.pass_obj
def list_(place: Place, /, as_json: bool, object_: str | None, **wanted: Any) -> None:
    """Show acts, the newest first."""
    for name in ("since", "until"):
        wanted[name] = wanted[name] and wanted[name].replace(tzinfo=UTC)
    rows = [_shown_listed(one) for one in trio.run(_list, place.settings(), {**wanted, "object": object_})]
    if as_json:
        render.print_json({"rows": rows})
    else:
        render.print_rows([_in_columns(row) for row in rows])


@audit.command(epilog="Example: chatty-admin audit verify --head audit_heads")
@json_option
@click.option(
    "--head", "head_file", type=_existing_file, help="Heads carried away earlier; default: the data directory's."
)
@click.option("--archive", type=_existing_file, help="Verify this archive, made by export, instead of the database.")
@click.pass_context
def verify(context: click.Context, as_json: bool, head_file: Path | None, archive: Path | None) -> None:
    """Tell whether the log is what was signed; exit with 1 if it is not."""
    place = context.find_object(Place)
    assert place is not None
    carried = read_heads(head_file) if head_file is not None else []
    answer = verify_database(place.settings(), carried) if archive is None else verify_archive(archive, carried)
    if as_json:
        render.print_json(answer)
    else:
        render.print_facts({name: value for name, value in answer.items() if name not in ("findings", "unsealed")})
        for lines in (answer["findings"], [_without_details(row) for row in answer["unsealed"]]):
            if lines:
                render.print_rows(lines)
    if not answer["is_intact"]:
        codes = ", ".join(sorted({finding["finding"] for finding in answer["findings"]}))
        render.print_error(AuditBroken.code, codes, next_command="chatty-admin audit list")
        context.exit(AuditBroken.exit_code)


@audit.command(epilog="Example: chatty-admin audit export audit.jsonl")
@json_option
@click.option(
    "--with-addresses", is_flag=True, help="Addresses and their salts too; keep such a file no longer than they."
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def export(place: Place, as_json: bool, with_addresses: bool, file: Path) -> None:
    """Write the whole log to a new FILE, one JSON object a line, which verify takes."""
    answer = trio.run(_export, place.settings(), file, with_addresses)
    (render.print_json if as_json else render.print_facts)(answer)


@audit.command("export-head", epilog="Example: chatty-admin audit export-head >> heads")
@json_option
@click.pass_obj
def export_head(place: Place, as_json: bool) -> None:
    """Print the newest signed head as one line of JSON, to be kept elsewhere."""
    click.echo(msgspec.json.encode(trio.run(_newest_head, place.settings())).decode())


# The database -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _open_units(settings: Settings) -> AsyncIterator[PostgresUnitOfWork]:
    async with open_database(settings) as address:
        async with open_connection(address) as connection:
            await schema.check(connection)
        async with open_pool(address, statement_timeout_s=statement_timeout_s) as pool:
            yield PostgresUnitOfWork(pool)


async def _list(settings: Settings, wanted: dict[str, Any]) -> list[ListedRow]:
    async with _open_units(settings) as units, units.snapshot() as unit:
        return await unit.audit.listed(**wanted)


async def _newest_head(settings: Settings) -> AuditHead:
    async with _open_units(settings) as units, units.snapshot() as unit:
        head = await unit.audit.newest_head()
    if head is None:
        raise NotFound("no head was signed yet: the server signs one when it starts")
    return head


async def _server_name(unit: PostgresUnit) -> str:
    identity = await unit.server.identity()
    if identity is None:
        raise NotFound("no server has started on this database yet")
    return identity.name


async def _successions(unit: PostgresUnit) -> list[KeySuccession]:
    return [one for one in await unit.server.successions() if one.purpose == AUDIT]


def verify_database(settings: Settings, carried: Sequence[AuditHead]) -> dict[str, Any]:
    own = heads_path(settings.data_dir)
    if not carried and own.exists():
        carried = read_heads(own)
    return trio.run(_verify_database, settings, carried, find_master_key(settings))


async def _verify_database(
    settings: Settings, carried: Sequence[AuditHead], master: MasterKey | None
) -> dict[str, Any]:
    async with _open_units(settings) as units:
        keys = await read_audit_keys(units, master) if master is not None else []
        async with units.snapshot() as unit:
            server = await _server_name(unit)
            verifier = Verifier(server=server, keys=keys, carried=carried)
            for succession in await _successions(unit):
                verifier.take(succession)
            async with aclosing(unit.audit.lines()) as lines:
                async for line in lines:
                    verifier.take(line)
    return _shown_verdict(verifier.finish(), server=server, source="database", keys=keys, carried=carried)


def find_master_key(settings: Settings) -> MasterKey | None:
    """The server's, if it is here; never makes one."""
    if settings.master_key is not None:
        return MasterKey.from_text(settings.master_key.get_secret_value())
    path = settings.data_dir / "master.key"
    return load_master_key(path) if path.exists() else None


# Archives -----------------------------------------------------------------------------------------------------------


async def _export(settings: Settings, path: Path, with_addresses: bool) -> dict[str, Any]:
    counts = {"sealed": 0, "unsealed": 0, "head": 0}
    with _new_archive(path) as file:
        async with _open_units(settings) as units, units.snapshot() as unit:
            now_ms = int(datetime.now(UTC).timestamp() * 1000)
            _write(file, ArchiveStart(format=archive_format, server=await _server_name(unit), time=now_ms))
            for succession in await _successions(unit):
                _write(file, succession)
            async with aclosing(unit.audit.lines(with_addresses=with_addresses)) as lines:
                async for line in lines:
                    counts[str(line.__struct_config__.tag)] += 1
                    _write(file, line)
    return {
        "file": str(path),
        "sealed_count": counts["sealed"],
        "unsealed_count": counts["unsealed"],
        "heads_count": counts["head"],
        "has_addresses": with_addresses,
    }


@contextmanager
def _new_archive(path: Path) -> Iterator[BinaryIO]:
    """On disk at the end of the block, or not there at all. Raises: AuditFileUnusable."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AuditFileUnusable(f"{path}: {error.strerror}; an archive is always a new file") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink()
        raise


def _write(file: BinaryIO, line: ArchiveLine) -> None:
    try:
        file.write(msgspec.json.encode(line) + b"\n")
    except OSError as error:
        raise AuditFileUnusable(f"the archive cannot be written: {error.strerror}") from None


def read_archive(path: Path) -> Iterator[ArchiveLine]:
    """Raises: AuditFileUnusable."""
    decoder = msgspec.json.Decoder(ArchiveLine)
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            try:
                yield decoder.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise AuditFileUnusable(f"{path}, line {number}: {error}") from None


def verify_archive(path: Path, carried: Sequence[AuditHead]) -> dict[str, Any]:
    lines = read_archive(path)
    start = next(lines, None)
    if not isinstance(start, ArchiveStart) or start.format != archive_format:
        raise AuditFileUnusable(f"{path} is no archive of this version")
    verifier = Verifier(server=start.server, carried=carried)
    for line in lines:
        if isinstance(line, ArchiveStart):
            raise AuditFileUnusable(f"{path} is more than one archive")
        verifier.take(line)
    return _shown_verdict(verifier.finish(), server=start.server, source="archive", keys=[], carried=carried)


# What is shown ------------------------------------------------------------------------------------------------------

_COLUMNS = ("time", "position", "actor", "action", "object", "before", "after", "address", "request_id")


def _shown_verdict(
    verdict: Verdict, *, server: str, source: str, keys: Sequence[str], carried: Sequence[AuditHead]
) -> dict[str, Any]:
    trust = (["master_key"] if keys else []) + (["carried_heads"] if carried else [])
    return {
        "is_intact": verdict.is_intact,
        "source": source,
        "server": server,
        "trust": trust or ["log_itself"],
        "carried_heads_count": len(carried),
        "carried_position": max((head.position for head in carried), default=None),
        "sealed_count": verdict.sealed_count,
        "unsealed_count": verdict.unsealed_count,
        "heads_count": verdict.heads_count,
        "newest_head": msgspec.to_builtins(verdict.newest) if verdict.newest is not None else None,
        "findings_count": verdict.findings_count,
        "findings": [
            {"finding": one.code, "position": one.position, "upto": one.upto, "audit_id": one.audit_id}
            for one in verdict.findings
        ],
        "unsealed": [{"unsealed": one.audit_id, **_shown_row(one.row)} for one in verdict.unsealed],
    }


def _shown_listed(one: ListedRow) -> dict[str, Any]:
    return {"audit_id": one.audit_id, "position": one.position, **_shown_row(one.row), "address": one.address}


def _shown_row(row: AuditRow) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(row)
    at = datetime.fromtimestamp(values.pop("time_us") / 1_000_000, UTC)
    del values["address_hash"]
    return {"time": at.isoformat(timespec="milliseconds"), **values}


def _in_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """For eyes: not every column, and what is empty shows nothing."""
    shown = {**row, "position": row["position"] or "unsealed"}
    return {name: shown[name] or None for name in _COLUMNS}


def _without_details(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("unsealed", "time", "actor", "action", "object")}
