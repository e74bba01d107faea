"""`chatty-admin doctor`: what is wrong with this installation, and how to mend it; with the server up or down.

Each check reads for itself and gives findings; what it finds is judged in findings.py. One that cannot look says so and is no
reason for the others not to. To add a check, write a function that takes a Patient and gives findings, put it into CHECKS, and a
row into docs/operations.md, "Doctor".
"""

import os
import re
import shutil
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import trio

from chatty.admin import findings, render
from chatty.admin.db import open_database
from chatty.admin.findings import Finding
from chatty.admin.options import Place, json_option
from chatty.config import Settings
from chatty.errors import BadConfiguration, ChattyError, DatabaseMissing
from chatty.store import diagnosis, schema
from chatty.store.connection import TrioConnection, open_connection
from chatty.store.server import PostgresServer

look_timeout_s = 5.0
failed_exit_code = 1
_secret_setting = re.compile(r"^\s*(database_url|master_key|sentry_dsn)\s*=", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Patient:
    """database: None when it cannot be reached; one connection, used by one check at a time."""

    settings: Settings
    database: TrioConnection | None


Check = Callable[[Patient], Awaitable[Sequence[Finding]]]


@click.command(epilog="Example: chatty-admin doctor --json")
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Look for what is wrong with this installation, and say how to mend it; exit with 1 if something is."""
    place = context.find_object(Place)
    assert place is not None
    place.refuse_elsewhere()
    found = trio.run(examine, place)
    rows = [asdict(finding) for finding in found]
    is_well = not any(finding.state == "failed" for finding in found)
    if as_json:
        render.print_json({"is_well": is_well, "findings": rows})
    else:
        render.print_findings(rows)
    if not is_well:
        worst = next(finding for finding in found if finding.state == "failed")
        render.print_error("not_well", f"{worst.check}: {worst.detail}", next_command=worst.mend)
        context.exit(failed_exit_code)


async def examine(place: Place) -> list[Finding]:
    try:
        settings = place.settings()
    except BadConfiguration as error:
        mend = "set it right, as docs/operations.md says; then: chatty-admin config check"
        return [Finding(check="configuration", state="failed", detail=str(error), mend=mend)]
    found: list[Finding] = []
    async with _open_database(settings, found) as database:
        for check in CHECKS:
            found += await _looked(check, Patient(settings=settings, database=database))
    return found


async def _looked(check: Check, patient: Patient) -> Sequence[Finding]:
    """One that takes too long, or loses the database, costs its own findings alone."""
    name = check.__name__.removeprefix("check_")
    with trio.move_on_after(2 * look_timeout_s):
        try:
            return await check(patient)
        except ChattyError as error:
            return [Finding(check=name, state="failed", detail=f"{error.code}: {error}", mend="chatty-admin health")]
        except OSError as error:
            return [
                findings.judge_unreadable(name, file=str(error.filename or ""), reason=error.strerror or str(error))
            ]
    return [Finding(check=name, state="failed", detail="not answered in time", mend="chatty-admin health")]


@asynccontextmanager
async def _open_database(settings: Settings, found: list[Finding]) -> AsyncIterator[TrioConnection | None]:
    """The configured one, or the embedded one, which is started if no server runs it; none is made."""
    async with open_reachable(settings) as opened:
        match opened:
            case DatabaseMissing():
                detail = "not made yet: the first start makes it"
                found.append(Finding(check="database", state="skipped", detail=detail, mend="chatty up"))
                yield None
            case ChattyError():
                found.append(findings.judge_unreachable(f"{opened.code}: {opened}", is_embedded=settings.is_embedded))
                yield None
            case _:
                found.append(Finding(check="database", state="ok", detail="answers"))
                yield opened


@asynccontextmanager
async def open_reachable(settings: Settings) -> AsyncIterator[TrioConnection | ChattyError]:
    """A connection, or why there is none."""
    opened: TrioConnection | ChattyError
    async with AsyncExitStack() as stack:
        try:
            opened = await stack.enter_async_context(_opened(settings))
        except* ChattyError as group:
            opened = _first(group)
        yield opened


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[TrioConnection]:
    async with open_database(settings) as address, open_connection(address) as connection:
        yield connection


def _first(group: BaseExceptionGroup[ChattyError]) -> ChattyError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ChattyError)
    return error


# The checks ---------------------------------------------------------------------------------------------------------


async def check_configuration(patient: Patient) -> Sequence[Finding]:
    return list(findings.judge_configuration(patient.settings))


async def check_permissions(patient: Patient) -> Sequence[Finding]:
    return look_at_secrets(patient.settings) or [
        Finding(check="permissions", state="skipped", detail="no secret is on this machine yet")
    ]


def look_at_secrets(settings: Settings) -> list[Finding]:
    config = Path(os.environ.get("CHATTY_CONFIG", "chatty.toml"))
    files = [settings.data_dir / "master.key", settings.master_key_file, settings.database_url_file]
    if config.is_file() and _secret_setting.search(config.read_text(encoding="utf-8")):
        files.append(config)
    there = [path for path in files if path is not None and path.is_file()]
    found = [findings.judge_secret(str(path), mode=path.stat().st_mode) for path in there]
    if settings.data_dir.is_dir():
        mode = settings.data_dir.stat().st_mode
        found.append(findings.judge_secret(str(settings.data_dir), mode=mode, is_directory=True))
    return found


async def check_disk(patient: Patient) -> Sequence[Finding]:
    directory = patient.settings.data_dir.absolute()
    while not directory.exists():
        directory = directory.parent
    usage = shutil.disk_usage(directory)
    return [findings.judge_disk(str(directory), free_bytes=usage.free, total_bytes=usage.total)]


async def check_tls(patient: Patient) -> Sequence[Finding]:
    origin = patient.settings.public_origin
    judged = findings.judge_origin(origin)
    if judged is None:
        judged = await trio.to_thread.run_sync(partial(look_at_certificate, origin), abandon_on_cancel=True)
    return [judged]


def look_at_certificate(origin: str, *, context: ssl.SSLContext | None = None) -> Finding:
    """As a client sees it, through whatever proxy there is. context: whom it trusts; the system's authorities if None."""
    parts = urlsplit(origin)
    assert parts.hostname is not None
    trusting = context or ssl.create_default_context()
    try:
        with (
            socket.create_connection((parts.hostname, parts.port or 443), timeout=look_timeout_s) as plain,
            trusting.wrap_socket(plain, server_hostname=parts.hostname) as secure,
        ):
            certificate: Any = secure.getpeercert()
    except ssl.SSLError as error:
        reason = getattr(error, "verify_message", "") or error.reason or "TLS failed"
        return findings.judge_no_certificate(origin, reason=reason, is_untrusted=True)
    except OSError as error:
        return findings.judge_no_certificate(origin, reason=error.strerror or str(error), is_untrusted=False)
    days_left = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86_400
    return findings.judge_certificate(origin, days_left=days_left)


async def check_database(patient: Patient) -> Sequence[Finding]:
    if patient.database is None:
        return []
    before = time.time()
    facts = await diagnosis.read_facts(patient.database)
    ours = (before + time.time()) / 2
    return [findings.judge_clock(off_s=ours - facts.clock_s), *findings.judge_database(facts, patient.settings)]


async def check_migrations(patient: Patient) -> Sequence[Finding]:
    if patient.database is None:
        return []
    version = await schema.read_version(patient.database)
    code = schema.code_version()
    return [findings.judge_schema(found=version.version, compatible_from=version.compatible_from, code=code)]


async def check_keys(patient: Patient) -> Sequence[Finding]:
    if patient.database is None or (await schema.read_version(patient.database)).version == 0:
        return []
    ages_s = await diagnosis.key_ages_s(patient.database)
    master_age_s = await PostgresServer(patient.database).master_age_s()
    settings = patient.settings
    return [
        *findings.judge_keys(ages_s, rotation_days=settings.key_rotation_days),
        findings.judge_master_key(master_age_s, days_max=settings.master_key_days_max),
    ]


async def check_backups(patient: Patient) -> Sequence[Finding]:
    from chatty.app import backups  # the whole application: 0.4 s

    settings = patient.settings
    time_s = await backups.newest_time_s(settings)
    age_s = None if time_s is None else time.time() - time_s
    return [findings.judge_backups(age_s, interval_s=settings.backup_interval_s)]


CHECKS: Sequence[Check] = (
    check_configuration,
    check_permissions,
    check_disk,
    check_tls,
    check_database,
    check_migrations,
    check_keys,
    check_backups,
)
