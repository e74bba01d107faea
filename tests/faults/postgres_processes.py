"""The processes of an installation's embedded PostgreSQL, and their end."""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psycopg

from chatty.store.embedded import address_of_running

Victim = Literal["postmaster", "everything", "journal's backend"]


def postmaster_pid(data_dir: Path) -> int | None:
    """The one in its pid file, if it lives."""
    try:
        pid = int((data_dir / "postgres" / "data" / "postmaster.pid").read_text().split()[0])
    except (FileNotFoundError, IndexError):
        return None
    return pid if is_alive(pid) else None


def postgres_pids(data_dir: Path) -> list[int]:
    """The postmaster first, then its children."""
    postmaster = postmaster_pid(data_dir)
    return [] if postmaster is None else [postmaster, *children_of(postmaster)]


def is_alive(pid: int) -> bool:
    """Running, and no zombie that nobody has fetched."""
    status = _status(pid)
    return status is not None and status[0] != "Z"


def children_of(parent: int) -> list[int]:
    """Its children that live at this moment."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if (status := _status(pid)) is not None and status[1] == str(parent)]


def _status(pid: int) -> list[str] | None:
    """State, parent and what follows in the kernel's line about a process; None: there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def kill_all(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_postgres(data_dir: Path, victim: Victim) -> None:
    """SIGKILL. The death of one backend makes the postmaster end all others and recover."""
    match victim:
        case "postmaster":
            kill_all(postgres_pids(data_dir)[:1])
        case "everything":
            kill_all(postgres_pids(data_dir))
        case "journal's backend":
            kill_all(_journal_backends(data_dir))


def _journal_backends(data_dir: Path) -> list[int]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'chatty journal'"
    with psycopg.connect(address_of_running(data_dir / "postgres")) as connection:
        return [pid for (pid,) in connection.execute(query).fetchall()]
