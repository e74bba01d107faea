"""Canonical JSON and unpadded base64, as the Matrix specification's appendices define them."""

import base64
import binascii
import json
from typing import Any

from chatty.errors import BadRequest
from chatty.wire.limits import integer_max


def canonical_json(value: Any) -> bytes:
    """The one encoding that is signed and hashed: sorted keys, no white space, UTF-8, integers within ±(2^53 − 1).

    Raises: BadRequest for floats, too large integers, lone surrogates and other types.
    Source: Matrix specification, appendix "Canonical JSON".
    """
    _refuse_what_has_no_one_form(value)
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise BadRequest("text with a lone surrogate") from None


def _refuse_what_has_no_one_form(value: Any) -> None:
    match value:
        case None | bool() | str():
            return
        case int():
            if not -integer_max <= value <= integer_max:
                raise BadRequest("integer beyond 2^53 - 1")
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise BadRequest("object key that is no text")
                _refuse_what_has_no_one_form(item)
        case list() | tuple():
            for item in value:
                _refuse_what_has_no_one_form(item)
        case _:
            raise BadRequest(f"{type(value).__name__} has no canonical form")


def encode_base64(data: bytes) -> str:
    """Standard alphabet, no padding."""
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64(text: str, *, length: int | None = None) -> bytes:
    """The inverse of encode_base64, strict: one text for each value.

    Raises: BadRequest for padding, other characters, stray bits, or another length in bytes than `length`.
    """
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest("not unpadded base64") from None
    if encode_base64(data) != text:
        raise BadRequest("not the one base64 form of its value")
    if length is not None and len(data) != length:
        raise BadRequest(f"{len(data)} bytes where {length} are expected")
    return data


def encode_base64url(data: bytes) -> str:
    """URL-safe alphabet, no padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode_base64url(text: str, *, length: int | None = None) -> bytes:
    """The inverse of encode_base64url, as strict as decode_base64(). Raises: BadRequest."""
    if "+" in text or "/" in text:
        raise BadRequest("not base64url")
    return decode_base64(text.translate(_URL_TO_STANDARD), length=length)


_URL_TO_STANDARD = str.maketrans("-_", "+/")
