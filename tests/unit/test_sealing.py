"""Sealing: what is sealed opens only with its key, for its purpose, unaltered."""

import stat
from itertools import count
from pathlib import Path

import pytest

from chatty.crypto.sealing import MasterKey, Sealer, load_master_key
from chatty.errors import BadConfiguration, DataKeyUnknown, SealBroken
from chatty.wire.canonical import encode_base64

SECRET = b"a secret of ours"


def test_what_is_sealed_opens_again_and_does_not_show() -> None:
    sealer = Sealer({1: b"1" * 32}, version=1)
    sealed = sealer.seal(SECRET, purpose="login_key/@ann:x")
    assert SECRET not in sealed
    assert sealer.open(sealed, purpose="login_key/@ann:x") == SECRET


def test_the_same_secret_never_looks_the_same_twice() -> None:
    sealer = Sealer({1: b"1" * 32}, version=1)
    assert sealer.seal(SECRET, purpose="p") != sealer.seal(SECRET, purpose="p")


def test_it_opens_for_no_other_purpose_and_under_no_other_key() -> None:
    sealed = Sealer({1: b"1" * 32}, version=1).seal(SECRET, purpose="login_key/@ann:x")
    with pytest.raises(SealBroken):
        Sealer({1: b"1" * 32}, version=1).open(sealed, purpose="login_key/@bob:x")
    with pytest.raises(SealBroken):
        Sealer({1: b"2" * 32}, version=1).open(sealed, purpose="login_key/@ann:x")
    with pytest.raises(SealBroken, match="unknown data key"):
        Sealer({2: b"1" * 32}, version=2).open(sealed, purpose="login_key/@ann:x")


def test_every_bit_counts() -> None:
    sealer = Sealer({1: b"1" * 32}, version=1)
    sealed = sealer.seal(SECRET, purpose="p")
    for position in range(len(sealed)):
        altered = bytearray(sealed)
        altered[position] ^= 1
        with pytest.raises((SealBroken, DataKeyUnknown)):
            sealer.open(bytes(altered), purpose="p")


@pytest.mark.parametrize("length", [0, 1, 5, 28, 29, 44])
def test_a_shortened_text_is_broken(length: int) -> None:
    sealer = Sealer({1: b"1" * 32}, version=1)
    with pytest.raises(SealBroken):
        sealer.open(sealer.seal(SECRET, purpose="p")[:length], purpose="p")


def test_after_rotation_the_new_key_seals_and_older_ones_still_open() -> None:
    before, after = Sealer({1: b"1" * 32}, version=1), Sealer({1: b"1" * 32, 2: b"2" * 32}, version=2)
    assert after.open(before.seal(SECRET, purpose="p"), purpose="p") == SECRET
    with pytest.raises(DataKeyUnknown):
        before.open(after.seal(SECRET, purpose="p"), purpose="p")


def test_a_data_key_is_wrapped_for_its_version() -> None:
    master = MasterKey(b"m" * 32)
    wrapped = master.wrap(b"d" * 32, version=1)
    assert master.unwrap(wrapped, version=1) == b"d" * 32
    with pytest.raises(SealBroken):
        master.unwrap(wrapped, version=2)
    with pytest.raises(SealBroken):
        MasterKey(b"n" * 32).unwrap(wrapped, version=1)


def test_the_master_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    made = load_master_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    wrapped = made.wrap(b"d" * 32, version=1)
    assert load_master_key(path).unwrap(wrapped, version=1) == b"d" * 32
    assert [file.name for file in tmp_path.iterdir()] == ["master.key"]


def test_of_two_processes_that_make_the_master_key_the_first_one_counts(tmp_path: Path) -> None:
    path, numbers = tmp_path / "master.key", count()

    def random(length: int) -> bytes:
        if next(numbers) == 0:
            load_master_key(path, random=lambda _: b"f" * 32)  # the other process comes between look and write
        return b"s" * length

    second = load_master_key(path, random=random)
    wrapped = MasterKey(b"f" * 32).wrap(b"d" * 32, version=1)
    assert second.unwrap(wrapped, version=1) == b"d" * 32


@pytest.mark.parametrize("text", ["", "short", "!" * 43, encode_base64(b"m" * 31)])
def test_a_wrong_master_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(BadConfiguration) as refused:
        MasterKey.from_text(text)
    assert not text or text not in str(refused.value)


def test_a_master_key_does_not_print() -> None:
    assert "mmm" not in repr(MasterKey(b"m" * 32))
