"""Backups of a server under traffic, taken back elsewhere; and everything that can go wrong on the way."""

import fcntl
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from psycopg import conninfo

from chatty.app import backups
from chatty.client import Client, ServerLied, ServerRestored, SignedOut
from chatty.config import Settings
from chatty.crypto.backups import ArchiveWriter, BackupKey, Header
from chatty.crypto.sealing import MasterKey
from chatty.errors import (
    BackupDamaged,
    BackupFailed,
    BackupKeyWrong,
    BackupUnproven,
    ChattyError,
    RestoreRefused,
    RestoreUnfinished,
    ServerNameMismatch,
)
from chatty.ids import RoomId, RoomNumber, SendNumber, Seq
from chatty.services.timeline import NewEvent, RoomHead, append
from chatty.store import backups as store
from chatty.store.connection import open_connection
from chatty.store.embedded import EmbeddedServer, open_embedded
from chatty.store.timeline import write_rooms
from chatty.store.units import PostgresUnit
from chatty.telemetry import Metrics
from chatty.wire.events import MEGOLM, Kind
from tests.client.test_generations_live import Person, befriend, people, until
from tests.server.commands import as_url, chatty_admin, chatty_admin_json
from tests.server.sdk_people import open_origin, opener

pytestmark = pytest.mark.usefixtures("logging_as_before")


def settings_of(folder: Path, **changes: Any) -> Settings:
    return Settings(data_dir=folder / "data", registration="open", **changes)


@asynccontextmanager
async def served(address: str, folder: Path, stores: Path, *names: str) -> AsyncIterator[list[Person]]:
    async with open_origin(address, folder) as origin, people(opener(origin, stores), *names) as found:
        yield found


async def talk(client: Client, room: RoomId, acked: list[str], stop: trio.Event) -> None:
    """Send one message after the other, noting those that were acked."""
    while not stop.is_set():
        text = f"{client.user[1:4]} {len(acked)}"
        await client.room(room).send(text)
        acked.append(text)


async def fill(address: str, room: RoomId, sender: Client, count: int) -> None:
    """That many messages at the end of a room, as the journal would write them; nobody has their key."""
    find = "SELECT user_number, device_number FROM users JOIN devices USING (user_number) WHERE user_id = %s"
    lock = "SELECT room_number, seq, head, epoch, state_seq, last_time FROM rooms WHERE room_id = %s FOR UPDATE"
    async with open_connection(address) as connection:
        who = await (await connection.execute(find, (sender.user,))).fetchone()
        assert who is not None
        for at in range(0, count, 1_000):
            async with connection.transaction():
                row = await (await connection.execute(lock, (room,))).fetchone()
                assert row is not None
                number, seq, head, epoch, state_seq, time = row
                locked = RoomHead(
                    room_number=RoomNumber(number),
                    room=room,
                    seq=Seq(seq),
                    head=bytes(head),
                    epoch=Seq(epoch),
                    state_seq=Seq(state_seq),
                    last_time=time,
                )
                news = [
                    NewEvent(
                        kind=Kind.MESSAGE,
                        body=os.urandom(64),
                        sender=sender.user,
                        sender_number=who[0],
                        device=sender.device,
                        device_number=who[1],
                        n=SendNumber(1_000_000 + at + one),
                        algorithm=MEGOLM,
                        session_id="s" * 43,
                        epoch=Seq(epoch),
                    )
                    for one in range(min(1_000, count - at))
                ]
                await write_rooms(connection, [locked], [append(locked, new, now_ms=time) for new in news])


def what_is_there(folder: Path) -> set[str]:
    """Of a data directory; locks are no traces."""
    return {path.name for path in (folder / "data").iterdir()} - {"backup.lock"}


@pytest.mark.long
async def test_a_backup_under_traffic_is_proven_and_gone_on_from(
    database: str, tmp_path: Path, counts: Callable[[int, int], int]
) -> None:
    here, there, stores = tmp_path / "here", tmp_path / "there", tmp_path / "stores"
    for folder in (here, there, stores):
        folder.mkdir()
    count = counts(2_500, 100_000)
    acked: dict[str, list[str]] = {"ann": [], "bob": []}
    async with served(database, here, stores, "eve") as (eve,):
        await eve.client.register("eve", "the password of eve")
        full, sender = (await eve.client.create_room()).id, eve.client
        await fill(database, full, sender, count)
    async with served(database, here, stores, "ann", "bob") as (ann, bob):
        for name, person in (("ann", ann), ("bob", bob)):
            await person.client.register(name, f"the password of {name}")
        room = await ann.client.create_room()
        await befriend(ann.client, bob.client, room)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for name, person in (("ann", ann), ("bob", bob)):
                nursery.start_soon(talk, person.client, room.id, acked[name], stop)
            await until(lambda: all(len(texts) > 3 for texts in acked.values()))
            before = {name: list(texts) for name, texts in acked.items()}
            made = await backups.create(settings_of(here), database)
            await until(lambda: all(len(texts) > len(before[name]) + 3 for name, texts in acked.items()))
            stop.set()
        everything = sorted(acked["ann"] + acked["bob"])
        await until(lambda: ann.texts(room.id) == bob.texts(room.id) == everything)
    assert made.manifest is not None
    assert made.manifest.tables["public.timeline"].count > count
    [listed] = backups.listed(here / "data" / "backups")
    assert (listed.path, listed.header.generation) == (made.path, 1)
    assert await rows(database, "SELECT object FROM audit WHERE action = 'backup.created'") == [(made.path.name,)]

    (there / "data").mkdir()
    shutil.copy(here / "data" / "master.key", there / "data" / "master.key")
    facts = await chatty_admin_json(there / "data", "backup", "restore", "--yes", str(made.path))
    assert (facts["new_generation"], facts["rooms_count"], facts["sessions_count"]) == (2, 2, 3)
    async with open_embedded(there / "data" / "postgres") as postgres:
        [(held,)] = await rows(postgres.address, "SELECT count(*) FROM timeline WHERE kind = 'message'")
        assert held >= count + sum(map(len, before.values()))
        assert await rows(postgres.address, "SELECT count(*) FROM one_time_keys WHERE key_json IS NOT NULL") == [(0,)]
        [(fallbacks,)] = await rows(postgres.address, "SELECT count(*) FROM fallback_keys")
        assert fallbacks == 3
        async with served(postgres.address, there, stores, "ann", "bob") as (ann, bob):
            await until(lambda: ann.of(ServerRestored) and bob.of(ServerRestored))
            await until(lambda: ann.texts(room.id) == bob.texts(room.id) == everything)
            await ann.client.room(room.id).send("and on")
            await until(lambda: "and on" in bob.texts(room.id))
            assert not any(one.of(ServerLied) or one.of(SignedOut) for one in (ann, bob))


async def rows(address: str, query: str) -> list[tuple[Any, ...]]:
    async with open_connection(address) as connection:
        return await (await connection.execute(query)).fetchall()


@pytest.fixture
async def archive(database: str, tmp_path: Path) -> tuple[Path, Path]:
    """The folder of a server with a room and some messages, and an archive of it."""
    here = tmp_path / "here"
    here.mkdir()
    async with served(database, here, tmp_path, "ann") as (ann,):
        await ann.client.register("ann", "the password of ann")
        room = await ann.client.create_room()
        await fill(database, room.id, ann.client, 50)
    made = await backups.create(settings_of(here), database)
    return here, made.path


def copied(archive: Path, to: Path, change: Callable[[bytearray], object]) -> Path:
    data = bytearray(archive.read_bytes())
    change(data)
    to.write_bytes(data)
    return to


def flip(data: bytearray) -> None:
    data[len(data) // 2] ^= 1


def cut(data: bytearray) -> None:
    del data[-1]


async def test_what_goes_wrong_leaves_nothing(
    archive: tuple[Path, Path],
    tmp_path: Path,
    empty_database: str,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, file = archive
    there = tmp_path / "there"
    (there / "data").mkdir(parents=True)
    settings = settings_of(there)
    with pytest.raises(BackupKeyWrong):
        await backups.opening_key(settings)
    assert what_is_there(there) == set()
    (there / "data" / "master.key").write_bytes(b"d3JvbmcgbWFzdGVyIGtleSwgb2YgMzIgYnl0ZXMhISE\n")
    await refused(settings, file, BackupKeyWrong)
    shutil.copy(here / "data" / "master.key", there / "data" / "master.key")
    await refused(settings, copied(file, tmp_path / "flipped", flip), BackupDamaged)
    await refused(settings, copied(file, tmp_path / "cut", cut), BackupDamaged)
    await refused(
        settings_of(there, server_name="another.example.org", public_origin="http://another.example.org"),
        file,
        ServerNameMismatch,
    )
    external = settings_of(there, database_url=as_url(database))
    await refused(external, file, RestoreRefused)
    empty = settings_of(there, database_url=as_url(empty_database))
    await refused(empty, copied(file, tmp_path / "flipped", flip), BackupDamaged)
    await refused_and_not_written_over(empty, file, empty_database, monkeypatch)
    await backups.restore(empty, file, await backups.opening_key(empty))
    assert await rows(empty_database, "SELECT generation FROM server") == [(2,)]
    await backups.restore(settings, file, await backups.opening_key(settings), above=7, end_sessions=True)
    await refused(settings, file, RestoreRefused)
    async with open_embedded(there / "data" / "postgres") as postgres:
        assert await rows(postgres.address, "SELECT generation FROM server") == [(8,)]
        assert await rows(postgres.address, "SELECT count(*) FROM devices WHERE is_live") == [(0,)]
        await rows_changed(postgres.address, "DELETE FROM server")
        with pytest.raises(RestoreUnfinished):
            async with unwrapped(), served(postgres.address, there, tmp_path):
                raise AssertionError("it is served")


@asynccontextmanager
async def unwrapped() -> AsyncIterator[None]:
    """A task's only error, out of its groups."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def rows_changed(address: str, query: str) -> None:
    async with open_connection(address) as connection:
        await connection.execute(query)


async def refused_and_not_written_over(
    settings: Settings, file: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever somebody else puts there, and whenever."""

    def does(what: str, at: str) -> Callable[[str, int], None]:
        def note(now: str, _: int) -> None:
            if now == at:
                with psycopg.connect(address) as connection:
                    connection.execute(what)

        return note

    table = "CREATE TABLE IF NOT EXISTS users AS SELECT 1 AS theirs"
    for at, error in (("read", RestoreRefused), ("restore", BackupFailed)):
        await refused(settings, file, error, progress=does(table, at))
        assert await rows(address, "SELECT theirs FROM users") == [(1,)]
        await rows_changed(address, "DROP TABLE users")
    await rows_changed(address, "CREATE VIEW seen AS SELECT 1")
    await refused(settings, file, RestoreRefused)
    await rows_changed(address, "DROP VIEW seen")
    await refused(settings, file, BackupUnproven, progress=does("UPDATE rooms SET seq = seq + 1", "prove"))
    async with store.open_target(address) as target:
        await refused(settings, file, RestoreRefused)
        await target.check_empty()
    with monkeypatch.context() as patch:
        patch.setattr(store, "postgres_version_min", 99)
        await refused(settings, file, RestoreRefused)


async def refused(settings: Settings, file: Path, error: type[ChattyError], **more: Any) -> None:
    before = what_is_there(settings.data_dir.parent)
    with pytest.raises(error):
        async with unwrapped():
            await backups.restore(settings, file, await backups.opening_key(settings), **more)
    assert what_is_there(settings.data_dir.parent) - {"postgres"} == before - {"postgres"}


async def test_a_run_removes_what_nobody_holds_and_never_the_work_of_another(
    archive: tuple[Path, Path], database: str
) -> None:
    here, file = archive
    settings, folder = settings_of(here), file.parent
    (folder / "x.part-killed").write_bytes(b"what was written by then")
    is_restoring = trio.Event()

    def note(what: str, _: int) -> None:
        if what == "restore":
            is_restoring.set()

    with (folder / "y.part-held").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        async with unwrapped(), trio.open_nursery() as nursery:
            nursery.start_soon(partial(backups.create, settings, database, progress=note))
            await is_restoring.wait()
            with pytest.raises(BackupFailed, match="another backup"):
                await backups.verify(settings, file, await backups.opening_key(settings))
            backups._remove_leftovers(folder)
        assert {path.name for path in folder.glob("*.part-*")} == {"y.part-held"}
    made = backups.listed(folder)
    assert (len(made), made[1].path) == (2, file)


async def test_what_does_not_fit_its_manifest_is_not_proven(archive: tuple[Path, Path], database: str) -> None:
    """Of a restored database: each kind of damage that a dump could hide."""
    here, file = archive
    settings = settings_of(here)
    made = await backups.verify(settings, file, await backups.opening_key(settings))
    assert made.manifest is not None
    await store.prove(database, await now(database))
    async with store.open_snapshot(database), open_connection(database) as connection, connection.transaction():
        assert await PostgresUnit(connection).audit.try_lock(), "a backup does not keep the audit log from being sealed"
    damages = [
        "UPDATE bodies SET body = body || '\\x00'::bytea WHERE seq = 5",
        "UPDATE timeline SET time = time + 1 WHERE seq = 5",
        "UPDATE timeline SET head = sha256(head) WHERE seq = 5",
        "DELETE FROM timeline WHERE seq = 5",
        "UPDATE rooms SET seq = seq - 1",
    ]
    for damage in damages:
        await rows_changed(database, "CREATE SCHEMA kept")
        await rows_changed(database, "CREATE TABLE kept.timeline AS TABLE timeline")
        await rows_changed(database, "CREATE TABLE kept.bodies AS TABLE bodies")
        await rows_changed(database, "CREATE TABLE kept.rooms AS SELECT room_number, seq FROM rooms")
        await rows_changed(database, damage)
        with pytest.raises(BackupUnproven):
            await store.prove(database, await now(database))
        for table in ("timeline", "bodies"):
            await rows_changed(database, f"DELETE FROM {table}")
            await rows_changed(database, f"INSERT INTO {table} SELECT * FROM kept.{table}")
        await rows_changed(
            database, "UPDATE rooms SET seq = k.seq FROM kept.rooms k WHERE k.room_number = rooms.room_number"
        )
        await rows_changed(database, "DROP SCHEMA kept CASCADE")
        await store.prove(database, await now(database))


async def now(address: str) -> store.Manifest:
    async with store.open_snapshot(address) as snapshot:
        return await snapshot.manifest({})


ROOT = Path(__file__).parents[2]
PROGRAM = "import sys; from chatty.admin import main; sys.argv[0] = 'chatty-admin'; main()"


async def test_a_full_disk_and_ctrl_c_are_said_and_leave_nothing(
    archive: tuple[Path, Path], tmp_path: Path, database: str
) -> None:
    here, file = archive
    # A file that is cut off at the limit must be no module's.
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    before = sorted((here / "data" / "backups").iterdir())

    def start(*words: str, **more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            words,
            env=environment | more,
            text=True,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    admin = (sys.executable, "-c", PROGRAM, "--data-dir")
    creating = start(
        *("prlimit", "--fsize=4096", *admin, str(here / "data"), "backup", "create"),
        CHATTY_DATABASE_URL=as_url(database),
    )
    full = await trio.to_thread.run_sync(ended, creating)
    assert full[0] == 1, full
    assert "backup_failed" in full[1]
    assert "chatty-admin" in full[1]
    assert "Traceback" not in full[1]
    assert sorted((here / "data" / "backups").iterdir()) == before
    there = tmp_path / "there"
    (there / "data").mkdir(parents=True)
    shutil.copy(here / "data" / "master.key", there / "data" / "master.key")
    process = start(*admin, str(there / "data"), "backup", "restore", "--yes", str(file))
    await until((there / "data" / "backup-scratch").exists)
    process.send_signal(signal.SIGINT)
    interrupted = await trio.to_thread.run_sync(ended, process)
    assert interrupted[0] == 130, interrupted
    assert "Traceback" not in interrupted[1]
    assert what_is_there(there) - {"postgres"} == {"master.key"}
    facts = await chatty_admin_json(there / "data", "backup", "restore", "--yes", str(file))
    assert facts["new_generation"] == 2


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    return process.returncode, said


async def test_the_commands(
    archive: tuple[Path, Path], tmp_path: Path, database: str, postgres: EmbeddedServer
) -> None:
    here, file = archive
    data = here / "data"
    listed = await chatty_admin_json(data, "backup", "list")
    assert [one["file"] for one in listed["backups"]] == [str(file)]
    sick = await chatty_admin(data, "backup", "list", "--dir", str(tmp_path / ("x" * 300)))
    assert (sick.exit_code, "backup_failed" in sick.stderr) == (1, True)
    verified = await chatty_admin_json(data, "backup", "verify", str(file))
    assert verified["is_proven"]
    refused = await chatty_admin(data, "backup", "verify", str(copied(file, tmp_path / "flipped", flip)))
    assert (refused.exit_code, "backup_damaged" in refused.stderr) == (1, True)
    unconfirmed = await chatty_admin(data, "backup", "restore", str(file))
    assert (unconfirmed.exit_code, "not_confirmed" in unconfirmed.stderr) == (4, True)
    key = await chatty_admin_json(data, "backup", "make-key", str(tmp_path / "key"))
    name = conninfo.conninfo_to_dict(database)["dbname"]
    as_superuser = conninfo.make_conninfo(postgres.superuser_address, dbname=name)
    await rows_changed(as_superuser, "CREATE EXTENSION pg_stat_statements")
    await rows_changed(as_superuser, "CREATE TABLE its AS SELECT 1")
    await rows_changed(as_superuser, "ALTER EXTENSION pg_stat_statements ADD TABLE its")
    sealed = {"CHATTY_DATABASE_URL": as_url(database), "CHATTY_BACKUP_RECIPIENT": key["backup_recipient"]}
    made = await chatty_admin_json(data, "backup", "create", "--dir", str(tmp_path / "sealed"), **sealed)
    assert made["is_proven"]
    without = await chatty_admin(data, "backup", "verify", made["file"])
    assert (without.exit_code, "backup_key_wrong" in without.stderr) == (1, True)
    opened = await chatty_admin_json(data, "backup", "verify", "--identity", str(tmp_path / "key"), made["file"])
    assert opened["is_proven"]


async def test_the_server_makes_its_own_and_keeps_the_newest(database: str, tmp_path: Path) -> None:
    """Beside another server's, which neither counts nor goes."""
    settings = settings_of(tmp_path, backup_interval_s=0.001, backups_kept=1)
    async with served(database, tmp_path, tmp_path, "ann"):
        pass
    folder, metrics = tmp_path / "data" / "backups", Metrics()

    def looking(settings: Settings) -> backups.Schedule:
        return backups.Schedule(settings, database, backups.NewestBackup(settings, metrics))

    folder.mkdir()
    write_header(folder / f"another{backups.suffix}", server="another.example.org", time=4_000_000_000_000)
    assert math.isnan(seconds(metrics, "chatty_backup_last_timestamp_seconds"))
    for _ in range(2):
        await looking(settings).look()
    another, *kept = backups.listed(folder)
    assert (another.header.server, len(kept)) == ("another.example.org", 1)
    assert seconds(metrics, "chatty_backup_last_timestamp_seconds") == kept[0].header.time / 1_000
    assert await rows(database, "SELECT count(*) FROM audit WHERE action = 'backup.removed'") == [(1,)]
    for interval_s in (3_600.0, 0.0):
        await looking(settings_of(tmp_path, backup_interval_s=interval_s)).look()
    assert backups.listed(folder) == [another, *kept]
    await looking(settings_of(tmp_path, backup_interval_s=1.0, backup_dir=tmp_path / ("x" * 300))).look()


def write_header(path: Path, *, server: str, time: int) -> None:
    header = Header(server=server, generation=1, generation_id="", schema_version=1, chatty_version="", time=time)
    with path.open("wb") as file:
        ArchiveWriter(file, header, BackupKey(MasterKey(bytes(32)))).end()


def seconds(metrics: Metrics, name: str) -> float:
    found = metrics.registry.get_sample_value(name)
    assert found is not None
    return found
