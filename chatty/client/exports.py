"""The account's own data in a file: written beside it, checked, then put in its place.

An export that breaks off leaves nothing: its last line, which counts the others, is what makes it one.
"""

import os
from pathlib import Path

import msgspec
import trio
from msgspec import Struct

from chatty.client.errors import RemoteError
from chatty.client.http import Api


class _End(Struct, frozen=True, forbid_unknown_fields=True, tag="end"):
    lines_count: int


class _Lines:
    """Counts lines, and keeps the last one."""

    def __init__(self) -> None:
        self.count = 0
        self.last = b""
        self._rest = b""

    def take(self, piece: bytes) -> None:
        *whole, self._rest = (self._rest + piece).split(b"\n")
        self.count += len(whole)
        self.last = whole[-1] if whole else self.last

    def check(self) -> None:
        """Raises: RemoteError unless the export is complete."""
        try:
            end = msgspec.json.decode(self.last, type=_End)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise RemoteError("the export was cut off") from None
        if self._rest or end.lines_count != self.count:
            raise RemoteError("the export has lost lines")


async def write_export(api: Api, path: Path) -> int:
    """Only its owner may read the file. Returns the number of lines.

    Raises: StepUpRequired, RateLimited, Overloaded, Unreachable, RemoteError; then there is no file, or the old one.
    """
    unfinished, lines = path.with_name(path.name + ".unfinished"), _Lines()
    try:
        async with await trio.open_file(unfinished, "wb", opener=_private) as file:

            async def take(piece: bytes) -> None:
                lines.take(piece)
                await file.write(piece)

            await api.export(take)
        lines.check()
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return lines.count


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
