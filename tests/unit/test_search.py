"""The demo's search: every form of a secret, as other software writes it, in whatever surroundings, is found."""

import base64
import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatty.demo.needles import Secret, make_needles, piece_characters
from chatty.demo.search import list_files, part_bytes, search

SLY = 'Käse "kuchen" – it\'s 100 % \\u00e9, 🎉\\'
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
secrets_texts = anything.filter(lambda text: len(text.encode()) >= 8)
any_bytes = st.binary(max_size=40)


def found_forms(secret: str | bytes, haystack: bytes) -> list[str]:
    return [needle.form for needle in make_needles(Secret(name="it", value=secret)) if needle.pattern in haystack]


def encode_whole(encode: Callable[[str], str], before: str, secret: str, after: str) -> bytes:
    return encode(before + secret + after).encode()


def copy_line(text: str) -> bytes:
    """Source: PostgreSQL's documentation of COPY, "Text Format"."""
    for raw, escaped in zip("\\\b\f\n\r\t\v", ["\\\\", *(f"\\{letter}" for letter in "bfnrtv")], strict=True):
        text = text.replace(raw, escaped)
    return text.encode()


# How other software writes a text that has the secret in its middle.
WRITERS: dict[str, Callable[[str, str, str], bytes]] = {
    "UTF-8": lambda *parts: "".join(parts).encode(),
    "UTF-16, little-endian": lambda *parts: "".join(parts).encode("utf-16-le"),
    "UTF-16, big-endian": lambda *parts: "".join(parts).encode("utf-16-be"),
    "base64": lambda *parts: base64.b64encode("".join(parts).encode()),
    "base64 for URLs": lambda *parts: base64.urlsafe_b64encode("".join(parts).encode()).rstrip(b"="),
    "hex": lambda *parts: "".join(parts).encode().hex().encode(),
    "hex in capitals": lambda *parts: base64.b16encode("".join(parts).encode()),
    "URL": partial(encode_whole, partial(quote, safe="")),
    "URL of a form": partial(encode_whole, quote_plus),
    "URL by JavaScript": partial(encode_whole, partial(quote, safe="!'()*~")),
    "JSON": partial(encode_whole, json.dumps),
    "JSON with letters as they are": partial(encode_whole, partial(json.dumps, ensure_ascii=False)),
    "JSON by msgspec": lambda *parts: msgspec.json.encode("".join(parts)),
    "JSON in JSON": partial(encode_whole, lambda text: json.dumps(json.dumps(text))),
    "COPY": lambda *parts: copy_line("".join(parts)),
    "JSON with letters as they are, in COPY": lambda *parts: copy_line(json.dumps("".join(parts), ensure_ascii=False)),
    "Python's bytes in COPY": lambda *parts: copy_line(repr("".join(parts).encode())),
    "Python's bytes": lambda *parts: repr("".join(parts).encode()).encode(),
    "Python's bytes in JSON": lambda *parts: json.dumps(repr("".join(parts).encode())).encode(),
}


@pytest.mark.parametrize("writer", WRITERS)
@given(before=anything, secret=secrets_texts, after=anything)
@example(before="'", secret=SLY, after='"')
@example(before="", secret=SLY, after="")
@example(before="x", secret="/?>~" * 6, after="xy")
def test_a_text_is_found_in_each_form_wherever_it_stands(writer: str, before: str, secret: str, after: str) -> None:
    assert found_forms(secret, WRITERS[writer](before, secret, after)) != []


@given(before=any_bytes, secret=st.binary(min_size=8, max_size=64), after=any_bytes)
@example(before=b"x", secret=b"\xfb\xff\xbf" * 8, after=b"")
def test_a_key_is_found_as_bytes_hex_and_base64(before: bytes, secret: bytes, after: bytes) -> None:
    whole = before + secret + after
    encoders: list[Callable[[bytes], bytes]] = [
        bytes,
        base64.b64encode,
        base64.urlsafe_b64encode,
        base64.b16encode,
        lambda data: data.hex().encode(),
        lambda data: repr(data).encode(),
    ]
    assert [encode for encode in encoders if found_forms(secret, encode(whole)) == []] == []


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_base64_is_found_at_each_of_its_three_offsets_under_that_form(offset: int) -> None:
    secret = bytes(range(100, 132))
    standing = base64.b64encode(b"x" * offset + secret + b"and so on")
    assert f"base64, offset {offset}" in found_forms(secret, standing)


def test_the_forms_of_a_text_with_quotes_and_foreign_letters_differ() -> None:
    needles = make_needles(Secret(name="it", value=SLY))
    assert len(needles) == len({needle.pattern for needle in needles}) >= 20


@given(st.text("aä🎉\"'", min_size=2 * piece_characters + 1, max_size=300))
def test_a_long_text_is_found_when_it_is_cut_short(secret: str) -> None:
    assert found_forms(secret, secret[: len(secret) // 2].encode()) != []
    assert found_forms(secret, secret[len(secret) // 2 :].encode()) != []


@given(before=st.binary(max_size=200), secret=st.binary(min_size=16, max_size=32), after=st.binary(max_size=200))
def test_what_is_not_there_is_not_found(before: bytes, secret: bytes, after: bytes) -> None:
    if secret not in before + after:
        assert "bytes" not in found_forms(secret, before + after)


def test_what_would_be_found_by_chance_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        make_needles(Secret(name="it", value="Käsek"))


def test_neither_a_secret_nor_its_needles_print_it() -> None:
    secret = Secret(name="her password", value="correct horse battery")
    assert "horse" not in repr([secret, *make_needles(secret)])


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:
        yield Path(name)


SECRET = Secret(name="it", value="kept between the two of us")


@pytest.mark.parametrize("shift", range(-30, 6, 5))
def test_a_secret_across_two_parts_of_a_file_is_found_at_its_place(folder: Path, shift: int) -> None:
    at = 2 * part_bytes + shift
    (folder / "log").write_bytes(bytes(at) + str(SECRET.value).encode() + b"\n")
    [found] = search("logs", [folder / "log"], make_needles(SECRET)).found
    assert (found.file.name, found.offset, found.needle.form) == ("log", at, "UTF-8")


def test_zeros_that_belong_to_a_secret_are_not_passed_over(folder: Path) -> None:
    key = Secret(name="it", value=bytes(20) + b"end of the key")
    (folder / "wal").write_bytes(bytes(part_bytes) + b"end of the key")
    assert [found.offset for found in search("wal", [folder / "wal"], make_needles(key)).found] == [part_bytes - 20]


def test_all_files_below_a_folder_are_searched_and_counted(folder: Path) -> None:
    (folder / "base" / "16384").mkdir(parents=True)
    (folder / "base" / "16384" / "1259").write_bytes(b"x" * 10 + str(SECRET.value).encode())
    (folder / "empty").touch()
    (folder / "link").symlink_to(folder / "base")
    searched = search("data", list_files(folder), make_needles(SECRET))
    assert (searched.file_count, searched.byte_count) == (2, 36)
    assert [(found.file.name, found.offset) for found in searched.found] == [("1259", 10)]


def test_a_copy_is_counted_and_its_original_named(folder: Path) -> None:
    for name in ("original", "the copy"):
        (folder / name).write_bytes(str(SECRET.value).encode())
    searched = search("data", list_files(folder), make_needles(SECRET))
    assert (searched.file_count, searched.byte_count) == (2, 52)
    assert [found.file.name for found in searched.found] == ["original"]


def test_a_file_that_vanished_is_not_counted(folder: Path) -> None:
    assert search("data", [folder / "gone"], make_needles(SECRET)).file_count == 0


def test_each_form_is_told_once_a_file(folder: Path) -> None:
    (folder / "log").write_bytes(
        b", ".join([str(SECRET.value).encode()] * 3 + [str(SECRET.value).encode().hex().encode()])
    )
    found = search("logs", list_files(folder), make_needles(SECRET)).found
    assert [one.needle.form for one in found] == ["UTF-8", "hex"]
    assert len(list(takewhile(lambda one: one.offset < 100, found))) == 2
