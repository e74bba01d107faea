"""Servers to measure: started on a core of their own, and what they used, from /proc.

CPU is utime + stime of a whole process tree, its ended children included, in the kernel's ticks of 10 ms. PostgreSQL is found in
the tree by its name and counted apart. On a machine with one core, or without sched_setaffinity, nothing is pinned.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")
_other_descriptors_count = 512  # of a process: libraries, pipes, PostgreSQL
stop_timeout_s = 15.0


@dataclass(frozen=True, kw_only=True)
class Cores:
    """server: for what is measured; generator: for what measures. None: not pinned."""

    server: int | None
    generator: int | None

    @property
    def are_pinned(self) -> bool:
        return self.server is not None


def choose_cores() -> Cores:
    """The first two that this process may use."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(usable) < 2:
        return Cores(server=None, generator=None)
    return Cores(server=usable[0], generator=usable[1])


def pin(core: int | None) -> None:
    """This thread, and every process that it starts from now on."""
    if core is not None:
        os.sched_setaffinity(0, {core})


def allow_sockets(count: int) -> None:
    """For this process and those that it starts. Raises: SystemExit where the system does not allow so many."""
    wanted = count + _other_descriptors_count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        is_enough = hard == resource.RLIM_INFINITY or hard >= wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard if is_enough else wanted))
    except (OSError, ValueError):
        raise SystemExit(
            f"{count:,} sockets need {wanted:,} file descriptors, and the hard limit is {hard:,}: raise it, as root with "
            f"`ulimit -Hn {wanted}`, or choose other scenarios with --only"
        ) from None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Seconds of CPU so far, PostgreSQL's apart, and the time when it was looked."""

    server_s: float
    database_s: float
    at_s: float

    def __sub__(self, before: "Usage") -> "Usage":
        return Usage(
            server_s=self.server_s - before.server_s,
            database_s=self.database_s - before.database_s,
            at_s=self.at_s - before.at_s,
        )


@dataclass(frozen=True)
class _Process:
    parent: int
    name: str
    cpu_s: float


class Served:
    """A started server and everything below it."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child

    def tell_line(self) -> None:
        """What it waits for on its stdin."""
        assert self._child.stdin is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()

    def read_line(self) -> str:
        """The next line that it prints. Raises: RuntimeError when it has ended."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with {self._child.wait()}")
        return line.strip()

    def check_running(self) -> None:
        """Raises: RuntimeError when it has ended."""
        code = self._child.poll()
        if code is not None:
            raise RuntimeError(f"the server ended with {code}")

    def usage(self) -> Usage:
        processes = _processes()
        server_s = database_s = 0.0
        todo = [(self._child.pid, False)]
        while todo:
            pid, is_below_database = todo.pop()
            process = processes.get(pid)
            if process is None:
                continue
            is_database = is_below_database or process.name == "postgres"
            if is_database:
                database_s += process.cpu_s
            else:
                server_s += process.cpu_s
            todo += [(child, is_database) for child, one in processes.items() if one.parent == pid]
        return Usage(server_s=server_s, database_s=database_s, at_s=time.perf_counter())

    def rss_bytes(self) -> int:
        """Of the server process itself, now."""
        return self._status_bytes("VmRSS")

    def forget_rss_peak(self) -> None:
        """From now on rss_peak_bytes() is the largest since this call."""
        (_PROC / str(self._child.pid) / "clear_refs").write_text("5")

    def rss_peak_bytes(self) -> int:
        return self._status_bytes("VmHWM")

    def _status_bytes(self, name: str) -> int:
        for line in (_PROC / str(self._child.pid) / "status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"the kernel does not tell {name}")

    def stop(self) -> None:
        self._child.send_signal(signal.SIGTERM)
        try:
            self._child.wait(stop_timeout_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _processes() -> dict[int, _Process]:
    found = {}
    for directory in _PROC.iterdir():
        if directory.name.isdigit():
            try:
                text = (directory / "stat").read_text()
            except OSError:
                continue  # ended meanwhile
            name = text[text.index("(") + 1 : text.rindex(")")]
            fields = text[text.rindex(")") + 2 :].split()
            ticks = sum(int(field) for field in fields[11:15])
            found[int(directory.name)] = _Process(int(fields[1]), name, ticks / _TICKS_PER_S)
    return found


@contextmanager
def serving(
    arguments: Sequence[str],
    *,
    cores: Cores,
    log: Path,
    environment: Mapping[str, str] | None = None,
    program: str = sys.executable,
    account: tuple[int, int] | None = None,
) -> Iterator[Served]:
    """`program arguments` on the server's core; its stderr goes to `log`. Stopped at the end of the block.

    account: user and group that it runs as; None: ours.
    """
    identity: dict[str, Any] = {}
    if account is not None:
        identity = {"user": account[0], "group": account[1], "extra_groups": []}
    pin(cores.server)
    try:
        with log.open("ab") as errors:
            child = subprocess.Popen(
                [program, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **(environment or {})},
                process_group=0,
                **identity,
            )
    finally:
        pin(cores.generator)
    served = Served(child)
    try:
        yield served
    finally:
        served.stop()
