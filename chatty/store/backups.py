"""The database as a stream and back, by PostgreSQL's own programs; and what is true of it, to compare the two.

One exported snapshot serves pg_dump and the manifest, so that both are of one moment whatever is written meanwhile. The row of
`server` is not dumped: it stands in the manifest, and is written with the raised generation (services/generations.py). So a
database that a restore has left half done has keys and no server, and no server starts on it.
*Cancelled*: the program is killed; what it had restored is rolled back, for it works in one transaction.
"""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from msgspec import Struct
from psycopg import conninfo, sql

from chatty.errors import BackupFailed, BackupUnproven, RestoreRefused
from chatty.ids import RoomId, Seq
from chatty.store.connection import TrioConnection, open_connection
from chatty.store.diagnosis import postgres_version_min
from chatty.store.embedded import installed_programs
from chatty.store.streams import EVENT, placed
from chatty.wire import chain
from chatty.wire.canonical import encode_base64
from chatty.wire.frames import Erased

read_bytes = 65_536
places_a_page = 5_000
not_dumped = "server"
_backup_lock, _restore_lock = 0x63686174_74790004, 0x63686174_74790005  # "chatty" and numbers of ours
_RULES = "SET statement_timeout = 0; SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'"
_SERVER = """SELECT server_name, generation, generation_id, (SELECT max(version) FROM schema_version),
 (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM server"""
_TABLES = """SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (SELECT FROM pg_depend d
 WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1"""  # extensions are not dumped
# In whatever order the rows lie. A text of a row is the same in every database of this major version.
_SUM = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {} t"
_AUDIT_HEAD = "SELECT position, head FROM audit_heads ORDER BY position DESC, time DESC LIMIT 1"
_ROOMS = "SELECT room_number, room_id, seq, head, horizon_seq FROM rooms ORDER BY room_number"
# The bodies are compared with the hashes of them in the database itself.
_PLACES = f"""SELECT t.room_number, t.head, r.room_id, {EVENT.replace("b.body", "NULL::bytea")} FROM timeline t
JOIN rooms r ON r.room_number = t.room_number
LEFT JOIN users u ON u.user_number = t.sender_number LEFT JOIN devices d ON d.device_number = t.device_number
WHERE (t.room_number, t.seq) > (%s, %s) ORDER BY t.room_number, t.seq LIMIT %s"""  # noqa: S608 # constants
_ALTERED = """SELECT count(*) FROM {table} b JOIN timeline t ON t.room_number = b.room_number AND t.seq = b.seq
WHERE sha256(b.body) <> t.body_hash"""
_IS_EMPTY = """SELECT NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')"""
_EMPTY = "DROP SCHEMA IF EXISTS passing CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public"


class TableSum(Struct, frozen=True, kw_only=True):
    """count: of rows. sum: of their hashes, as text."""

    count: int
    sum: str


class Manifest(Struct, frozen=True, kw_only=True):
    """What a backup holds. time: ms since 1970. audit_head: base64, empty before the first. settings: without secrets."""

    server: str
    generation: int
    generation_id: str
    schema_version: int
    time: int
    tables: dict[str, TableSum]
    audit_position: int = 0
    audit_head: str = ""
    settings: dict[str, Any] = {}


class Snapshot:
    """One moment of a database, held open. id: for pg_dump."""

    def __init__(self, connection: TrioConnection, id_: str) -> None:
        self._connection = connection
        self.id = id_

    async def manifest(self, settings: Mapping[str, Any]) -> Manifest:
        server = await _row(self._connection, _SERVER)
        audit = await (await self._connection.execute(_AUDIT_HEAD)).fetchone()
        return Manifest(
            server=server[0],
            generation=server[1],
            generation_id=server[2],
            schema_version=server[3],
            time=server[4],
            tables=await sums(self._connection),
            audit_position=audit[0] if audit else 0,
            audit_head=encode_base64(bytes(audit[1])) if audit else "",
            settings=dict(settings),
        )


@asynccontextmanager
async def open_snapshot(address: str) -> AsyncIterator[Snapshot]:
    """One backup of a database at a time. Raises: BackupFailed where another one is being made; StoreUnavailable."""
    async with open_connection(address, statement_timeout_s=None) as connection:
        await _obey(connection)
        if not (await _row(connection, f"SELECT pg_try_advisory_lock({_backup_lock})"))[0]:
            raise BackupFailed("another backup of this database is being made")
        async with connection.transaction(isolation="repeatable read"):
            yield Snapshot(connection, (await _row(connection, "SELECT pg_export_snapshot()"))[0])


async def sums(connection: TrioConnection) -> dict[str, TableSum]:
    """Of every table, by its name."""
    found = dict[str, TableSum]()
    for (table,) in await (await connection.execute(_TABLES)).fetchall():
        schema, name = re.findall(r'"?([^".]+)"?', table)
        row = await (await connection.execute(sql.SQL(_SUM).format(sql.Identifier(schema, name)))).fetchone()
        assert row is not None
        found[table] = TableSum(count=row[0], sum=row[1])
    return found


async def prove(address: str, manifest: Manifest) -> None:
    """What was restored is what the manifest says, and every room's chain holds. Raises: BackupUnproven, StoreUnavailable."""
    async with open_connection(address, statement_timeout_s=None) as connection:
        await _obey(connection)
        restored = await sums(connection)
        for table in sorted({*restored, *manifest.tables} - {f"public.{not_dumped}"}):
            if restored.get(table) != manifest.tables.get(table):
                raise BackupUnproven(f"the table {table} is not what was backed up")
        for table in ("bodies", "passing_bodies"):
            if (await _row(connection, _ALTERED.format(table=table)))[0]:
                raise BackupUnproven(f"the table {table} holds bodies that do not fit their hashes")
        await _prove_chains(connection)


async def _prove_chains(connection: TrioConnection) -> None:
    """head(n) = H(head(n−1), leaf(n)) for every place that is kept, up to the head of every room."""
    rooms = {row[0]: row for row in await (await connection.execute(_ROOMS)).fetchall()}
    ends = dict[int, tuple[int, bytes]]()
    room, seq = 0, 0
    while rows := await (await connection.execute(_PLACES, (room, seq, places_a_page))).fetchall():
        for row in rows:
            entry = placed(RoomId(row[2]), row[3:], removal_seq=Seq(0))
            before_seq, before = ends.get(row[0], (0, chain.empty_head(RoomId(row[2]))))
            leaf = entry.leaf if isinstance(entry, Erased) else chain.leaf(entry)
            is_next = entry.seq == before_seq + 1
            if is_next and chain.next_head(before, leaf) != bytes(row[1]):
                raise BackupUnproven(f"the chain of {row[2]} is broken at {entry.seq}")
            if not is_next and entry.seq > rooms[row[0]][4] + 1:
                raise BackupUnproven(f"{row[2]} has a hole before {entry.seq}")
            ends[row[0]] = (entry.seq, bytes(row[1]))
            room, seq = row[0], entry.seq
    for number, room_id, head_seq, head, _ in rooms.values():
        if ends.get(number) != (head_seq, bytes(head)):
            raise BackupUnproven(f"{room_id} does not end where its row says")


class Target:
    """A database that one restore goes into. Raises, all: StoreUnavailable, also where the lock was lost with the connection."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def check_empty(self) -> None:
        """Raises: RestoreRefused: it holds a table, a view, an index, whatever has a name there and is not PostgreSQL's."""
        if not (await _row(self._connection, _IS_EMPTY))[0]:
            raise RestoreRefused("the database holds tables or views: restore into an empty one")

    async def make_empty(self) -> None:
        """After a restore that this one had put there and that was then not gone on from."""
        await self._connection.execute(_EMPTY)


@asynccontextmanager
async def open_target(address: str) -> AsyncIterator[Target]:
    """One restore into a database at a time. Raises: RestoreRefused where another one is going on, or PostgreSQL is too old;
    StoreUnavailable.
    """
    patience = {"idle_session_timeout": "0"}  # the lock is held while an archive is read
    async with open_connection(address, statement_timeout_s=None, session_options=patience) as connection:
        version = connection.info.server_version // 10_000
        if version < postgres_version_min:
            raise RestoreRefused(f"PostgreSQL {version} is too old: restore into {postgres_version_min} or newer")
        if not (await _row(connection, f"SELECT pg_try_advisory_lock({_restore_lock})"))[0]:
            raise RestoreRefused("another restore into this database is going on")
        yield Target(connection)


async def _obey(connection: TrioConnection) -> None:
    for rule in _RULES.split("; "):
        await connection.execute(rule)


async def _row(connection: TrioConnection, query: str) -> tuple[Any, ...]:
    row = await (await connection.execute(query)).fetchone()
    if row is None:
        raise BackupFailed("no server was ever started on this database")
    return row


# The programs --------------------------------------------------------------------------------------------------------


def _program(name: str) -> str:
    """PostgreSQL's own, of the embedded server's version; else the one on the path. Raises: BackupFailed."""
    installed = installed_programs()
    found = str(installed / name) if installed is not None else shutil.which(name)
    if found is None:
        raise BackupFailed(f"{name} is not installed")
    return found


def _reached(address: str) -> tuple[str, dict[str, str]]:
    """The address without its password, and an environment that holds it: what stands on a command line everybody can read."""
    parameters = {name: str(value) for name, value in conninfo.conninfo_to_dict(address).items() if value is not None}
    password = parameters.pop("password", None)
    kept = ("PATH", "LD_LIBRARY_PATH", "HOME")
    environment = {"LC_ALL": "C", **{name: os.environ[name] for name in kept if name in os.environ}}
    secret = {} if password is None else {"PGPASSWORD": password}
    return conninfo.make_conninfo("", **parameters), environment | secret


async def dump(address: str, snapshot: str) -> AsyncGenerator[bytes, None]:
    """pg_dump's custom format, piece by piece. Raises: BackupFailed. To be closed: use aclosing()."""
    reached, environment = _reached(address)
    command = [
        *(_program("pg_dump"), f"--dbname={reached}", f"--snapshot={snapshot}", "--format=custom", "--compress=gzip:1"),
        *("--no-owner", "--no-privileges", "--exclude-extension=*", f"--exclude-table-data=public.{not_dumped}"),
    ]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        while data := await process.stdout.receive_some(read_bytes):
            yield bytes(data)
        said = b"".join([part async for part in process.stderr])
        if await process.wait() != 0:
            raise BackupFailed(f"pg_dump failed: {_error_line(said)}")
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5.0):
            await process.stdout.aclose()
            await process.stderr.aclose()
            await process.wait()


async def restore(address: str, file: Path) -> None:
    """Into an empty database, all of it or nothing. Raises: BackupFailed."""
    reached, environment = _reached(address)
    command = [
        *(_program("pg_restore"), f"--dbname={reached}", "--no-owner", "--no-privileges"),
        *("--exit-on-error", "--single-transaction", str(file)),
    ]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False, env=environment)
    if done.returncode != 0:
        raise BackupFailed(f"pg_restore failed: {_error_line(done.stderr)}")


def _error_line(said: bytes) -> str:
    """The first that is one: hints and statements stand behind it."""
    lines = said.decode(errors="replace").strip().splitlines()
    errors = (line for line in lines if re.search(r"\b(error|fatal):", line, re.IGNORECASE))
    return next(errors, lines[-1] if lines else "it said nothing")
