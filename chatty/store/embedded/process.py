"""One run of the postgres program: start, wait until it is ready, know when all of it has gone, stop it.

Two things are inherited by postgres and all its children and so tell the truth about them without asking for pids:
a lock on `postgres.lock` (is anything of it alive, whoever started it?) and the writing end of a pipe (it ends when the
last one has gone, which also wakes us). Only then is its shared memory free and another start can succeed.
"""

import errno
import fcntl
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from chatty.errors import DatabaseStartFailed, DataDirectoryInUse
from chatty.store.embedded import cluster
from chatty.store.embedded.places import Places

log = structlog.get_logger("chatty.store.embedded")
_poll_interval_s = 0.005


@dataclass(frozen=True, kw_only=True)
class EmbeddedTimes:
    """start covers crash recovery; stop and quit are what each signal is given before the next harsher one."""

    start_timeout_s: float = 60.0
    stop_timeout_s: float = 10.0
    quit_timeout_s: float = 5.0
    restart_delay_s_min: float = 0.1
    restart_delay_s_max: float = 30.0
    calm_after_s: float = 60.0
    log_check_interval_s: float = 60.0


def lock_directory(places: Places) -> int:
    """Hold the directory for this process. Returns the descriptor that holds it; it ends with us, however we end.

    Raises: DataDirectoryInUse.
    """
    descriptor = _open_lock(places, places.chatty_lock)
    if _try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    raise DataDirectoryInUse(str(places.root))


async def stop_orphan(places: Places, times: EmbeddedTimes) -> None:
    """Stop a PostgreSQL that outlived its Chatty. Returns at once when none is alive.

    Raises: DatabaseStartFailed when it does not go.
    """
    descriptor = _open_lock(places, places.postgres_lock)
    try:
        if _try_lock(descriptor):
            cluster.forget_recorded_pid(places)
            return
        pid = cluster.recorded_pid(places)
        log.warning("embedded.orphan_found", pid=pid, directory=str(places.root))
        for sent, patience_s in _escalation(times):
            if pid is not None:
                _signal(pid, sent)
            with trio.move_on_after(patience_s):
                await _lock(descriptor)
                cluster.forget_recorded_pid(places)
                return
        raise DatabaseStartFailed(f"an older PostgreSQL (pid {pid}) is still running on {places.root}")
    finally:
        os.close(descriptor)


class Process:
    """A postgres program that was started. `wait_gone()` is how its end is noticed."""

    def __init__(self, popen: "subprocess.Popen[bytes]", gone: int, places: Places) -> None:
        self._popen = popen
        self._gone = gone
        self._places = places
        self._is_gone = False

    @property
    def pid(self) -> int:
        return self._popen.pid

    @classmethod
    def start(cls, places: Places, settings: Mapping[str, str]) -> "Process":
        """Blocking, about 2 ms. Raises: DatabaseStartFailed."""
        lock = _open_lock(places, places.postgres_lock)
        gone, alive = os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
        output = cluster.open_log(places)
        try:
            if not _try_lock(lock):
                raise DatabaseStartFailed(f"something of an older PostgreSQL is still alive on {places.root}")
            popen = subprocess.Popen(
                cluster.server_command(places, settings),
                cwd=places.root,
                env=cluster.process_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(lock, alive),
                **places.account.popen_options(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            os.close(gone)
            raise DatabaseStartFailed(f"postgres could not be started: {error}") from error
        except DatabaseStartFailed:
            os.close(gone)
            raise
        finally:
            for descriptor in (lock, alive, output):
                os.close(descriptor)
        return cls(popen, gone, places)

    async def wait_ready(self, *, timeout_s: float) -> None:
        """Raises: DatabaseStartFailed when it ends, or is not ready in time; cancelled: it goes on starting."""
        with trio.move_on_after(timeout_s):
            while self._popen.poll() is None:
                if cluster.ready_pid(self._places) == self.pid:
                    return
                await trio.sleep(_poll_interval_s)
            raise DatabaseStartFailed(f"postgres ended at once: {cluster.last_log_line(self._places)}")
        raise DatabaseStartFailed(f"postgres was not ready within {timeout_s:g} s")

    async def wait_gone(self) -> None:
        """Until every process of it has ended."""
        if not self._is_gone:
            await trio.lowlevel.wait_readable(self._gone)
            self._is_gone = True
            os.close(self._gone)
            self._popen.wait()

    async def stop(self, times: EmbeddedTimes) -> None:
        """SIGINT (ends sessions, writes a checkpoint), then SIGQUIT, then SIGKILL, each with its time."""
        for sent, patience_s in _escalation(times):
            if self._is_gone:
                return
            if self._popen.poll() is None:
                self._popen.send_signal(sent)
            with trio.move_on_after(patience_s):
                await self.wait_gone()
        if not self._is_gone:
            log.error("embedded.stop_failed", pid=self.pid)


def _escalation(times: EmbeddedTimes) -> tuple[tuple[signal.Signals, float], ...]:
    return (
        (signal.SIGINT, times.stop_timeout_s),
        (signal.SIGQUIT, times.quit_timeout_s),
        (signal.SIGKILL, times.quit_timeout_s),
    )


def _open_lock(places: Places, path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    places.account.own(path, mode=0o600)
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


async def _lock(descriptor: int) -> None:
    while not _try_lock(descriptor):  # noqa: ASYNC110  # another process holds it: there is nothing to wait on
        await trio.sleep(_poll_interval_s)


def _signal(pid: int, sent: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # its last children are ending: the lock says when
        os.kill(pid, sent)
