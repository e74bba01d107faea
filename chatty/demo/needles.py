"""The forms in which a secret could stand in a file, as byte strings to look for.

A form is listed when software is known to write it: character encodings, base64 at each of its three offsets (a secret in the
middle of something that was encoded as a whole), hex, URLs, JSON, Python's print of bytes, the COPY lines of a database dump, and
what stands in JSON or COPY that is in one of these already. Not covered: line breaks within base64 or hex, compression.

Of a long secret its beginning and its end are looked for, so that a log line that cuts it short is found too.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

secret_bytes_min = 8  # shorter ones would be found by chance
piece_characters = 32

_javascript_unescaped = "!'()*~"
_COPY = str.maketrans({"\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"})
_to_urlsafe = bytes.maketrans(b"+/", b"-_")
_PERCENT = re.compile(r"%[0-9A-F]{2}")
_JSON_ESCAPE = re.compile(r"\\\\|\\u[0-9a-f]{4}")


@dataclass(frozen=True, kw_only=True)
class Secret:
    """What must not be found. name: for people, never the secret itself. value: text, or the bytes of a key."""

    name: str
    value: str | bytes

    def __repr__(self) -> str:
        return f"Secret({self.name})"


@dataclass(frozen=True, kw_only=True)
class Needle:
    """One secret in one form. pattern: the bytes that a file would hold."""

    secret: Secret
    form: str
    pattern: bytes

    def __repr__(self) -> str:
        return f"Needle({self.secret.name}, {self.form})"


def make_needles(secret: Secret) -> list[Needle]:
    """All forms of a secret, each pattern once, under the first form that gives it.

    Raises: ValueError for a secret of fewer than secret_bytes_min bytes.
    """
    if len(secret.value if isinstance(secret.value, bytes) else secret.value.encode()) < secret_bytes_min:
        raise ValueError(f"{secret.name}: too short to look for")
    form_of: dict[bytes, str] = {}
    for piece in _pieces(secret.value):
        for form, pattern in _forms(piece):
            form_of.setdefault(pattern, form)
    return [Needle(secret=secret, form=form, pattern=pattern) for pattern, form in form_of.items()]


def _pieces(value: str | bytes) -> Iterator[str | bytes]:
    if len(value) <= 2 * piece_characters:
        yield value
    else:
        yield value[:piece_characters]
        yield value[-piece_characters:]


def _forms(value: str | bytes) -> Iterator[tuple[str, bytes]]:
    if isinstance(value, str):
        yield "UTF-8", value.encode()
        yield "COPY", value.translate(_COPY).encode()
        yield "UTF-16, little-endian", value.encode("utf-16-le")
        yield "UTF-16, big-endian", value.encode("utf-16-be")
        yield from _url_forms(value)
        yield from _json_forms(value)
        value = value.encode()
    else:
        yield "bytes", value
    yield from _base64_forms(value)
    yield "hex", value.hex().encode()
    yield "hex, capitals", value.hex().upper().encode()
    yield from _python_forms(value)


def _base64_forms(value: bytes) -> Iterator[tuple[str, bytes]]:
    for offset in range(3):
        # Characters that hold only bits of the value: those mixed with a neighbour's bits are cut off.
        first, end = -(-8 * offset // 6), 8 * (offset + len(value)) // 6
        core = base64.b64encode(bytes(offset) + value)[first:end]
        yield f"base64, offset {offset}", core
        yield f"base64 for URLs, offset {offset}", core.translate(_to_urlsafe)


def _url_forms(value: str) -> Iterator[tuple[str, bytes]]:
    for escaped in (quote(value, safe=""), quote(value, safe=_javascript_unescaped), quote_plus(value)):
        yield "URL", escaped.encode()
        yield "URL, small letters", _PERCENT.sub(lambda found: found.group().lower(), escaped).encode()


def _json_forms(value: str) -> Iterator[tuple[str, bytes]]:
    escaped = json.dumps(value)[1:-1]
    capitals = _JSON_ESCAPE.sub(lambda found: found.group()[:2] + found.group()[2:].upper(), escaped)
    yield from _nested("JSON", json.dumps(value, ensure_ascii=False)[1:-1])
    yield from _nested("JSON, escaped", escaped)
    yield from _nested("JSON, escaped in capitals", capitals)


def _python_forms(value: bytes) -> Iterator[tuple[str, bytes]]:
    """An apostrophe is escaped or not, as the whole text has quotes in it or not."""
    escaped = repr(b"'\"" + value)[5:-1]
    yield from _nested("Python's bytes", escaped)
    yield from _nested("Python's bytes", escaped.replace("\\'", "'"))


def _nested(form: str, text: str) -> Iterator[tuple[str, bytes]]:
    """As it is, and as a value of something that escapes backslashes in its turn. text: without control characters."""
    doubled = text.replace("\\", "\\\\")
    yield form, text.encode()
    yield f"{form}, within COPY", doubled.encode()
    yield f"{form}, within JSON", doubled.replace('"', '\\"').encode()
