"""Looks for needles in files, whatever their format: they are read as bytes, in overlapping parts, so nothing is too large.

Blocking and busy: run it in a thread. A file that vanishes between listing and reading (PostgreSQL drops some) is not counted.
Files with the same content (PostgreSQL copies its template databases) are gone through once; the first of them is named.
Memory: one part of `part_bytes`, whatever the files' size.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

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
    """One place, searched through. file_count, byte_count: all that was looked at, copies included."""

    place: str
    file_count: int
    byte_count: int
    found: Sequence[Found]


def search(place: str, files: Iterable[Path], needles: Sequence[Needle]) -> Searched:
    """Every needle in every file. Raises: OSError for a file that is there and cannot be read."""
    file_count = byte_count = 0
    found: list[Found] = []
    known: set[bytes] = set()
    for file in files:
        try:
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "blake2b").digest()
                byte_count += opened.tell()
                if digest not in known:
                    opened.seek(0)
                    found += _search_file(file, opened, needles)
        except FileNotFoundError:
            continue
        known.add(digest)
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


def _search_file(file: Path, opened: BinaryIO, needles: Sequence[Needle]) -> list[Found]:
    missing, found = list(needles), []
    overlap = max((len(needle.pattern) for needle in needles), default=1) - 1
    read_count, tail = 0, b""
    while part := opened.read(part_bytes):
        window = tail + part
        # Zeros, of which a write-ahead log is full, hold no needle.
        if window.strip(b"\0"):
            still_missing = []
            for needle in missing:
                at = window.find(needle.pattern)
                if at < 0:
                    still_missing.append(needle)
                else:
                    found.append(Found(needle=needle, file=file, offset=read_count - len(tail) + at))
            missing = still_missing
        read_count += len(part)
        tail = window[-overlap:] if overlap else b""
    return found
