"""The archive of a backup: it comes back as it was, or not at all."""

import io
from collections.abc import Callable
from functools import partial

import pytest

from chatty.crypto.backups import (
    ArchiveWriter,
    BackupKey,
    Header,
    Part,
    chunk_bytes,
    make_recipient,
    read_archive,
    read_header,
)
from chatty.crypto.sealing import MasterKey
from chatty.errors import BackupDamaged, BackupKeyWrong, BadConfiguration

HEADER = Header(
    server="example.org",
    generation=3,
    generation_id="id",
    schema_version=14,
    chatty_version="0.1",
    time=1_700_000_000_000,
)
KEY = BackupKey(MasterKey(b"k" * 32))
MANIFEST, DATABASE = b'{"all": "of it"}', bytes(range(256)) * 600


def written(key: BackupKey = KEY) -> bytes:
    file = io.BytesIO()
    writer = ArchiveWriter(file, HEADER, key)
    writer.write(Part.MANIFEST, MANIFEST)
    writer.write(Part.DATABASE, DATABASE)
    writer.end()
    return file.getvalue()


def read(data: bytes, key: BackupKey = KEY) -> dict[Part, bytes]:
    found = {Part.MANIFEST: b"", Part.DATABASE: b""}
    for part, piece in read_archive(io.BytesIO(data), key.open):
        assert len(piece) <= chunk_bytes
        found[part] += piece
    return found


def test_what_was_written_comes_back_and_its_header_needs_no_key() -> None:
    data = written()
    assert read(data) == {Part.MANIFEST: MANIFEST, Part.DATABASE: DATABASE}
    header = read_header(io.BytesIO(data))
    assert (header.server, header.generation, header.time) == ("example.org", 3, 1_700_000_000_000)
    assert MANIFEST not in data
    assert DATABASE[:64] not in data


def test_two_archives_of_the_same_have_nothing_in_common_behind_the_names() -> None:
    assert written()[-1_000:] != written()[-1_000:]


def test_an_operators_archive_opens_with_the_private_half_alone() -> None:
    private, public = make_recipient()
    data = written(BackupKey(recipient=public))
    assert read(data, BackupKey(private=private))[Part.DATABASE] == DATABASE
    for other in (KEY, BackupKey(private=make_recipient()[0]), BackupKey(recipient=public)):
        with pytest.raises(BackupKeyWrong):
            read(data, other)
    with pytest.raises(BadConfiguration):
        BackupKey(recipient="no key")


def test_another_master_key_is_told_from_damage() -> None:
    with pytest.raises(BackupKeyWrong):
        read(written(), BackupKey(MasterKey(b"o" * 32)))
    with pytest.raises(BackupKeyWrong):
        read(written(), BackupKey(private=make_recipient()[0]))


def test_no_byte_can_be_changed() -> None:
    data = written()
    for at in [*range(600), *range(600, len(data), 997), len(data) - 1]:
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises((BackupDamaged, BackupKeyWrong)):
            read(bytes(changed))


def test_it_cannot_be_cut_off_or_gone_on_with() -> None:
    data = written()
    for end in [*range(600), *range(600, len(data), 997), len(data) - 1]:
        with pytest.raises(BackupDamaged):
            read(data[:end])
    with pytest.raises(BackupDamaged):
        read(data + b"\0")


def frames(data: bytes) -> tuple[bytes, list[bytes]]:
    """What stands before the frames, and they."""
    length = int.from_bytes(data[15:19], "big")
    at = 19 + length + 24
    start, found = data[:at], []
    while at < len(data):
        size = 4 + int.from_bytes(data[at : at + 4], "big")
        found.append(data[at : at + size])
        at += size
    return start, found


Change = Callable[[list[bytes]], list[bytes]]


@pytest.mark.parametrize(
    "change",
    [
        lambda pieces: pieces[1:],
        lambda pieces: pieces[:1] + pieces[2:],
        lambda pieces: [pieces[0], pieces[2], pieces[1], *pieces[3:]],
        lambda pieces: [*pieces[:2], pieces[1], *pieces[2:]],
        lambda pieces: [pieces[0], pieces[-1]],
    ],
    ids=["drops the first", "drops one", "swaps two", "repeats one", "ends early"],
)
def test_frames_stand_where_they_were_written(change: Change) -> None:
    start, pieces = frames(written())
    assert len(pieces) >= 4
    with pytest.raises(BackupDamaged):
        read(start + b"".join(change(pieces)))


def test_frames_of_another_archive_do_not_fit() -> None:
    start, pieces = frames(written())
    _, others = frames(written())
    with pytest.raises(BackupDamaged):
        read(start + b"".join([pieces[0], *others[1:]]))


def test_what_is_no_archive_is_called_so() -> None:
    for data in (
        b"",
        b"PK\x03\x04" + b"\0" * 100,
        b"CHATTY-BACKUP\n\x02" + b"\0" * 100,
        b"CHATTY-BACKUP\n\x01\xff\xff\xff\xff",
    ):
        for look in (partial(read_header, io.BytesIO(data)), partial(read, data)):
            with pytest.raises(BackupDamaged):
                look()
