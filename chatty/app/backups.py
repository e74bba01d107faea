"""Backups: made of a running server, proven before they count, and taken back as a new generation.

*Made* under another name beside the others: a manifest and a dump of one snapshot, encrypted while they are read. Then *proven*:
read back, restored into a PostgreSQL that is thrown away, compared with the manifest, every room's chain computed anew. Only what
is proven gets its name, so whatever is listed was proven.
*Restored*: the whole archive is read and authenticated before anything is touched. The embedded database is made beside its place
and put there as the last step; another one must be empty, and is emptied again if the restore breaks off.
*Cancelled, failed, disk full*: a run removes what it leaves unfinished. Unfinished files are locked while somebody works on them:
the next run removes what a killed one has left, and nothing else.
The master key is in no archive: without it an archive that was made under it is noise.
"""

import fcntl
import math
import os
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog
import trio

import chatty
from chatty.app.database import make_data_dir, master_reader
from chatty.app.generations import raise_generation
from chatty.config import Settings
from chatty.crypto.backups import ArchiveWriter, BackupKey, Header, OpenKey, Part, read_archive, read_header
from chatty.errors import (
    BackupDamaged,
    BackupFailed,
    BackupKeyWrong,
    ChattyError,
    RestoreRefused,
    ServerNameMismatch,
)
from chatty.ids import Seq
from chatty.services.generations import Raised
from chatty.services.server import ServerIdentity
from chatty.store import backups as store
from chatty.store import schema
from chatty.store.backups import Manifest
from chatty.store.connection import open_connection
from chatty.store.embedded import Places, open_embedded
from chatty.store.embedded.places import fallback_root_default, prepare_places
from chatty.store.embedded.process import lock_directory
from chatty.store.units import PostgresUnit
from chatty.telemetry import Metrics
from chatty.wire.frames import Generation

log = structlog.get_logger("chatty.backups")

suffix = ".chatty-backup"
look_interval_s_max = 60.0
_unfinished = ".part"
_not_kept = {"database_url", "database_url_file", "master_key", "master_key_file", "data_dir", "backup_dir"}

Progress = Callable[[str, int], None]  # what is done now, and of how many bytes: "dump", "read", "restore", "prove"


def no_progress(what: str, bytes_count: int) -> None:
    """For who does not watch."""


@dataclass(frozen=True, kw_only=True)
class Backup:
    """An archive in its place. manifest: where it was read."""

    path: Path
    bytes_count: int
    header: Header
    manifest: Manifest | None = None


def backup_dir(settings: Settings) -> Path:
    return settings.backup_dir or settings.data_dir / "backups"


async def making_key(settings: Settings) -> BackupKey:
    """For the operator's key, if the settings name one; else under the master key. Raises: BadConfiguration."""
    if settings.backup_recipient:
        return BackupKey(recipient=settings.backup_recipient)
    return BackupKey(await master_reader(settings)())


async def opening_key(settings: Settings, *, private: str = "") -> BackupKey:
    """private: the operator's, as text. Raises: BackupKeyWrong, BadConfiguration."""
    if private:
        return BackupKey(private=private)
    check_master_key(settings)
    return BackupKey(await master_reader(settings)())


# Making -------------------------------------------------------------------------------------------------------------


async def create(
    settings: Settings, address: str, *, directory: Path | None = None, progress: Progress = no_progress
) -> Backup:
    """Raises: BackupFailed, BackupUnproven, StoreUnavailable, DatabaseStartFailed. Cancelled: nothing is left."""
    folder = trio.Path(directory or backup_dir(settings))
    with disk_errors():
        await folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        await trio.to_thread.run_sync(_remove_leftovers, Path(folder))
        key = await making_key(settings)
        with _open_part(Path(folder)) as (part, file):
            async with store.open_snapshot(address) as snapshot:
                manifest = await snapshot.manifest(kept_settings(settings))
                secret = await _write(file, key, manifest, store.dump(address, snapshot.id), progress)
            await _prove(settings, part, lambda _: secret, manifest, progress)
            final = Path(folder) / f"{_name(manifest)}{suffix}"
            await trio.to_thread.run_sync(_settle, part, final)
        made = await trio.to_thread.run_sync(_look, final, manifest)
    await _record(address, "backup.created", made.path, {"bytes_count": made.bytes_count})
    return made


async def _record(address: str, action: str, path: Path, what: dict[str, int]) -> None:
    async with open_connection(address) as connection, connection.transaction():
        audit = PostgresUnit(connection).audit
        await audit.record(actor="", device="", action=action, object_=path.name, detail=what)


def kept_settings(settings: Settings) -> dict[str, object]:
    """What an operator wants to know again; no secret, and no path of this machine."""
    return settings.model_dump(mode="json", exclude=_not_kept)


def _header(manifest: Manifest) -> Header:
    return Header(
        server=manifest.server,
        generation=manifest.generation,
        generation_id=manifest.generation_id,
        schema_version=manifest.schema_version,
        chatty_version=chatty.__version__,
        time=manifest.time,
    )


def _name(manifest: Manifest) -> str:
    at = datetime.fromtimestamp(manifest.time / 1_000, UTC)
    return f"{manifest.server.replace(':', '_')}-{at:%Y%m%dT%H%M%S}{manifest.time % 1_000:03}Z"


async def _write(
    file: BinaryIO,
    key: BackupKey,
    manifest: Manifest,
    dump: AsyncGenerator[bytes, None],
    progress: Progress,
) -> bytes:
    """Returns the file's own key, to read it back with."""
    count = 0
    writer = ArchiveWriter(file, _header(manifest), key)
    writer.write(Part.MANIFEST, msgspec.json.encode(manifest))
    async with aclosing(dump) as pieces:
        async for data in pieces:
            await trio.to_thread.run_sync(writer.write, Part.DATABASE, data)
            count += len(data)
            progress("dump", count)
    writer.end()
    file.flush()
    await trio.to_thread.run_sync(os.fsync, file.fileno())
    return writer.secret


def _new_file(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _settle(part: Path, final: Path) -> None:
    part.rename(final)
    directory = os.open(final.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raises: BackupFailed for an OSError inside, with the file's name."""
    try:
        yield
    except OSError as error:
        raise BackupFailed(f"{error.filename or 'the disk'}: {error.strerror or error}") from None


@contextmanager
def _open_part(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """An unfinished archive, gone at the end unless it got its name."""
    path, file = _held_part(folder)
    with file:
        try:
            yield path, file
        finally:
            path.unlink(missing_ok=True)


def _held_part(folder: Path) -> tuple[Path, BinaryIO]:
    """Locked for as long as it is open."""
    while True:
        path = folder / f"unfinished{_unfinished}-{secrets.token_hex(8)}"
        file = _new_file(path)
        # Who removes leftovers may have come between the two.
        if _is_locked(file) and os.fstat(file.fileno()).st_nlink:
            return path, file
        file.close()


def _remove_leftovers(folder: Path) -> None:
    """What was left by runs that were killed: nobody holds it."""
    for part in folder.glob(f"*{_unfinished}-*"):
        with suppress(FileNotFoundError, PermissionError), part.open("rb+") as file:
            if _is_locked(file):
                part.unlink(missing_ok=True)


def _is_locked(file: BinaryIO) -> bool:
    """Whether this run has the lock now."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def newest_time_s(settings: Settings, *, limiter: trio.CapacityLimiter | None = None) -> float | None:
    """When the newest that is proven was made, of this server's archives: others' may lie beside them. None: there is none.

    Raises: OSError. Cancelled: a disk that hangs is left alone.
    """
    read = partial(listed, backup_dir(settings), server=settings.server_name)
    found = await trio.to_thread.run_sync(read, limiter=limiter, abandon_on_cancel=True)
    return found[0].header.time / 1_000 if found else None


class NewestBackup:
    """Until when everything is saved; told in /metrics as well."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._limiter = trio.CapacityLimiter(1)  # a disk that hangs keeps one thread, whoever asks and how often
        metrics.backup_interval_seconds.set(settings.backup_interval_s)

    async def age_s(self) -> float | None:
        """Raises, and cancelled: as newest_time_s()."""
        time_s = await newest_time_s(self._settings, limiter=self._limiter)
        self._metrics.backup_last_timestamp_seconds.set(math.nan if time_s is None else time_s)
        return None if time_s is None else max(time.time() - time_s, 0.0)


class Schedule:
    """Makes a backup whenever the newest is older than settings.backup_interval_s, and keeps the newest of them.

    Without an interval it only looks. No job of the janitor's: a step of those ends with its lease, and this may take hours. The
    database's own lock sees to it that one process at a time makes one.
    """

    def __init__(self, settings: Settings, address: str, newest: NewestBackup) -> None:
        self._settings = settings
        self._address = address
        self._newest = newest
        self.look_interval_s = min(settings.backup_interval_s / 10 or look_interval_s_max, look_interval_s_max)

    async def look(self) -> None:
        """Whatever is wrong with the disk or the database is told and tried again. Cancelled: nothing is left of a new one."""
        try:
            with disk_errors():
                age_s = await self._newest.age_s()
                if not self._is_due(age_s):
                    return
                made = await create(self._settings, self._address)
                for path in await trio.to_thread.run_sync(prune, self._settings):
                    await _record(self._address, "backup.removed", path, {})
                await self._newest.age_s()
        except ChattyError as error:
            log.warning("backup.failed", error=error.code)
        else:
            log.info("backup.made", bytes_count=made.bytes_count)

    def _is_due(self, age_s: float | None) -> bool:
        interval_s = self._settings.backup_interval_s
        return interval_s > 0 and (age_s is None or age_s >= interval_s)


# Looking ------------------------------------------------------------------------------------------------------------


def listed(folder: Path, *, server: str = "") -> list[Backup]:
    """The archives of a directory, the newest first; what is none is passed over. server: whose. Blocks. Raises: OSError."""
    found = []
    for path in folder.glob(f"*{suffix}") if folder.is_dir() else ():
        try:
            found.append(_look(path))
        except (BackupDamaged, OSError):
            continue
    wanted = [one for one in found if server in ("", one.header.server)]
    return sorted(wanted, key=lambda one: one.header.time, reverse=True)


def _look(path: Path, manifest: Manifest | None = None) -> Backup:
    with path.open("rb") as file:
        return Backup(path=path, bytes_count=path.stat().st_size, header=read_header(file), manifest=manifest)


async def verify(settings: Settings, path: Path, key: BackupKey, *, progress: Progress = no_progress) -> Backup:
    """Read it all, restore it into a PostgreSQL that is thrown away, and compare.

    Raises: BackupDamaged, BackupKeyWrong, BackupUnproven, BackupFailed, DatabaseStartFailed.
    """
    with disk_errors():
        manifest = await _prove(settings, path, key.open, None, progress)
        return await trio.to_thread.run_sync(_look, path, manifest)


def prune(settings: Settings) -> list[Path]:
    """Remove all but the newest of this server's. Blocks. Returns which. Raises: OSError."""
    gone = [one.path for one in listed(backup_dir(settings), server=settings.server_name)[settings.backups_kept :]]
    for path in gone:
        path.unlink(missing_ok=True)
    return gone


# Proving ------------------------------------------------------------------------------------------------------------


async def _prove(
    settings: Settings, path: Path, key: OpenKey, written: Manifest | None, progress: Progress
) -> Manifest:
    async with _scratch(settings.data_dir) as scratch:
        dump = scratch / "database.dump"
        manifest = await trio.to_thread.run_sync(_unpack, path, key, dump, progress)
        if written is not None and manifest != written:
            raise BackupDamaged("its manifest is not the one that was written")
        async with open_embedded(scratch / "postgres", settings={"fsync": "off"}) as server:
            await _take_back(server.address, dump, manifest, progress)
    return manifest


def _unpack(path: Path, key: OpenKey, dump: Path, progress: Progress) -> Manifest:
    """All of it, authenticated, with the database in a file of its own. Blocks."""
    said, count = b"", 0
    with path.open("rb") as file, _new_file(dump) as out:
        for part, data in read_archive(file, key):
            trio.from_thread.check_cancelled()
            if part is Part.MANIFEST:
                said += data
            else:
                out.write(data)
            count += len(data)
            progress("read", count)
    try:
        return msgspec.json.decode(said, type=Manifest)
    except msgspec.DecodeError:
        raise BackupDamaged("its manifest makes no sense") from None


async def _take_back(address: str, dump: Path, manifest: Manifest, progress: Progress) -> None:
    progress("restore", 0)
    await store.restore(address, dump)
    progress("prove", 0)
    await store.prove(address, manifest)


@asynccontextmanager
async def _scratch(data_dir: Path) -> AsyncIterator[Path]:
    """The one directory for proofs and restores, gone at the end; what a killed process has left goes first."""
    await make_data_dir(data_dir)
    folder = Path(await trio.Path(data_dir).absolute()) / "backup-scratch"
    # Who does not get the lock must touch nothing: what is there is the work of who has it.
    with os.fdopen(os.open(data_dir / "backup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+") as lock:
        if not _is_locked(lock):
            raise BackupFailed("another backup is being made, verified or restored here")
        try:
            await trio.to_thread.run_sync(_remove_scratch, folder)
            await trio.Path(folder).mkdir(mode=0o711)
            yield folder
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove_scratch, folder)


def _remove_scratch(folder: Path) -> None:
    if folder.exists():
        elsewhere = _places(folder / "postgres").root  # where its account can reach it
        shutil.rmtree(elsewhere, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def _places(root: Path) -> Places:
    return prepare_places(root, fallback_root=fallback_root_default)


# Restoring ----------------------------------------------------------------------------------------------------------


async def restore(
    settings: Settings,
    path: Path,
    key: BackupKey,
    *,
    above: int = 0,
    end_sessions: bool = False,
    progress: Progress = no_progress,
) -> tuple[Backup, Raised]:
    """Into the place that the settings name, where there is no database yet. above: see services/generations.py.

    Raises: RestoreRefused, DataDirectoryInUse, BackupDamaged, BackupKeyWrong, BackupUnproven, BackupFailed, SealBroken,
    ServerNameMismatch. Cancelled, or anything of these: nothing is left.
    """

    async def raise_it(address: str, manifest: Manifest) -> Raised:
        await schema.upgrade(address)
        was = Generation(number=Seq(manifest.generation), id=manifest.generation_id)
        return await raise_generation(
            settings,
            address,
            backup=ServerIdentity(name=manifest.server, generation=was),
            above=above,
            end_sessions=end_sessions,
            source=path.name,
        )

    with disk_errors():
        check_master_key(settings)
        header = await trio.to_thread.run_sync(_header_of, path)
        if header.server != settings.server_name:
            raise ServerNameMismatch(stored=header.server, configured=settings.server_name)
        key.open(header)
        async with _scratch(settings.data_dir) as scratch:
            dump = scratch / "database.dump"
            if settings.database_url is not None:
                address = settings.database_url.get_secret_value()
                manifest, raised = await _into_empty(address, path, key, dump, raise_it, progress)
            else:
                manifest, raised = await _into_place(settings, path, key, dump, raise_it, progress)
        return await trio.to_thread.run_sync(_look, path, manifest), raised


def check_master_key(settings: Settings) -> None:
    """None is made here: a new one would open nothing. Raises: BackupKeyWrong."""
    file = settings.master_key_path
    if file is not None and not file.exists():
        raise BackupKeyWrong(f"the master key is not here: put it into {file}, or set CHATTY_MASTER_KEY_FILE")


RaiseIt = Callable[[str, Manifest], Awaitable[Raised]]


async def _into_place(
    settings: Settings, path: Path, key: BackupKey, dump: Path, raise_it: RaiseIt, progress: Progress
) -> tuple[Manifest, Raised]:
    """A new embedded database, made beside its place; its rename is what makes it one."""
    target = _places(settings.data_dir / "postgres")
    lock = lock_directory(target)
    try:
        if target.data.exists():
            raise RestoreRefused(f"{target.root} holds a database: move it away first")
        manifest = await trio.to_thread.run_sync(_unpack, path, key.open, dump, progress)
        async with open_embedded(dump.with_name("postgres")) as server:
            await _take_back(server.address, dump, manifest, progress)
            raised = await raise_it(server.address, manifest)
            made = server.places
        await trio.to_thread.run_sync(_put, made, target)
    finally:
        os.close(lock)
    return manifest, raised


def _put(made: Places, target: Places) -> None:
    made.passwords.rename(target.passwords)
    made.data.rename(target.data)
    directory = os.open(target.root, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


async def _into_empty(
    address: str, path: Path, key: BackupKey, dump: Path, raise_it: RaiseIt, progress: Progress
) -> tuple[Manifest, Raised]:
    """Another PostgreSQL's empty database."""
    async with store.open_target(address) as target:
        await target.check_empty()
        manifest = await trio.to_thread.run_sync(_unpack, path, key.open, dump, progress)
        await target.check_empty()  # that took minutes
        progress("restore", 0)
        await store.restore(address, dump)  # all or nothing: only what is there from here on is ours to remove
        try:
            progress("prove", 0)
            await store.prove(address, manifest)
            return manifest, await raise_it(address, manifest)
        except BaseException:
            # Shielded: a half restored database is refused by every start, and is better none.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 60.0):
                await target.make_empty()
            raise


def _header_of(path: Path) -> Header:
    with path.open("rb") as file:
        return read_header(file)
