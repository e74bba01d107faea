"""Looks for needles in files, whatever their format: they are read as bytes, in overlapping parts, so nothing is too large.

Blocking and busy: run it in a thread. A file that vanishes between listing and reading (PostgreSQL drops some) is not counted.
Memory: one part of `part_bytes`, whatever the files' size.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatty.demo.needles import Needle

part_bytes = 262_144  # fits the processor's cache, which makes many needles quick


@dataclass(frozen=True, kw_only=True)
class Found:
    """The first place in one file where one needle stands. offset: bytes from the file's beginning."""

    needle: Needle
    file: Path
    offset: int


@dataclass(frozen=True, kw_only=True)
class Searched:
    """One place, searched through. file_count, byte_count: what was really read."""

    place: str
    file_count: int
    byte_count: int
    found: Sequence[Found]


def search(place: str, files: Iterable[Path], needles: Sequence[Needle]) -> Searched:
    """Every needle in every file. Raises: OSError for a file that is there and cannot be read."""
    file_count = byte_count = 0
    found: list[Found] = []
    for file in files:
        try:
            byte_count += _search_file(file, needles, found)
        except FileNotFoundError:
            continue
        file_count += 1
    return Searched(place=place, file_count=file_count, byte_count=byte_count, found=found)


def list_files(directory: Path) -> list[Path]:
    """All regular files below; sockets and links are left out. Raises: OSError for a folder that cannot be read."""
    return sorted(path for path in _walk(directory) if path.is_file() and not path.is_symlink())


def _walk(directory: Path) -> Iterator[Path]:
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            try:
                yield from _walk(entry)
            except FileNotFoundError:
                continue  # PostgreSQL removed it meanwhile
        else:
            yield entry


def _search_file(file: Path, needles: Sequence[Needle], found: list[Found]) -> int:
    """Appends to `found`. Returns: the bytes read."""
    missing = list(needles)
    overlap = max((len(needle.pattern) for needle in needles), default=1) - 1
    read_count, tail = 0, b""
    with file.open("rb") as opened:
        while part := opened.read(part_bytes):
            window = tail + part
            # Zeros, of which a write-ahead log is full, hold no needle.
            if window.strip(b"\0"):
                here = [(needle, at) for needle in missing if (at := window.find(needle.pattern)) >= 0]
                found += [Found(needle=n, file=file, offset=read_count - len(tail) + at) for n, at in here]
                gone = {id(needle) for needle, _ in here}
                missing = [needle for needle in missing if id(needle) not in gone] if gone else missing
            read_count += len(part)
            tail = window[-overlap:] if overlap else b""
    return read_count
