"""The file `audit_heads` in the data directory: each head of the audit log as a line of JSON, on disk before the next is signed.

It is there to be carried away, best at once and by another account: what lies on the server's own disk can be altered with the
database. It may be moved away at any time; a new one is begun. A line that a crash cut off is skipped by its readers.
"""

import errno
import os
from pathlib import Path

import msgspec
import structlog
import trio

from chatty.errors import AuditFileUnusable
from chatty.services.audit import HeadFile
from chatty.wire.audit import AuditHead

log = structlog.get_logger("chatty.store.audit_heads")


def heads_path(data_dir: Path) -> Path:
    return data_dir / "audit_heads"


class DiskHeadFile(HeadFile):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_failing = False

    async def append(self, head: AuditHead) -> None:
        try:
            await trio.to_thread.run_sync(_append, self._path, msgspec.json.encode(head) + b"\n")
        except OSError as error:
            if not self._is_failing:  # once for an outage, not once a second
                log.error("audit.export_failed", position=head.position, reason=error.strerror)
            self._is_failing = True
        else:
            self._is_failing = False


def read_heads(path: Path) -> list[AuditHead]:
    """Blocks. Raises: AuditFileUnusable: no such file, or no head in it."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise AuditFileUnusable(f"{path}: {error.strerror}") from None
    heads = [head for line in lines if (head := _decode(line)) is not None]
    if not heads:
        raise AuditFileUnusable(f"{path}: there is no head of an audit log in it")
    return heads


def _decode(line: bytes) -> AuditHead | None:
    try:
        return msgspec.json.decode(line, type=AuditHead)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _append(path: Path, line: bytes) -> None:
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line  # behind one that a crash cut off
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if is_new:
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
