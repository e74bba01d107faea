"""CBOR as authenticators may write it (CTAP2's canonical form): no tags, no lengths left open, little nesting.

Looked at before a decoder is. A decoder follows tags that share a value: a few hundred bytes of lists that name each other twice
become more than any memory holds when they are encoded again, and anybody may send some.
"""

depth_max = 8  # CTAP2 allows 4; an attestation object holds more
_BYTES, _TEXT, _LIST, _MAP, _TAG = 2, 3, 4, 5, 6
_WIDTHS = {24: 1, 25: 2, 26: 4, 27: 8}  # in bytes, of a value that follows
_HEAD_BYTES = 37  # of authenticator data: hash of the rp id, flags, counter
_HAS_KEY, _HAS_EXTENSIONS = 0x40, 0x80


def check_item(data: bytes) -> None:
    """One item and nothing behind it. Raises: ValueError, IndexError."""
    if _end(data, 0) != len(data):
        raise ValueError("bytes behind the item")


def check_authenticator_data(data: bytes) -> None:
    """What of it is CBOR: a new key, extensions. Raises: ValueError, IndexError. Source: WebAuthn Level 2, section 6.1."""
    flags, at = data[32], _HEAD_BYTES
    if flags & _HAS_KEY:
        id_at = at + 18  # behind the authenticator's kind and the id's length
        at = _end(data, id_at + int.from_bytes(data[id_at - 2 : id_at], "big"))
    if flags & _HAS_EXTENSIONS:
        at = _end(data, at)
    if at != len(data):
        raise ValueError("authenticator data of another length")


def _end(data: bytes, at: int, depth: int = 0) -> int:
    """Where the item that begins at `at` ends. Each turn of its loop takes a byte, so that a long count is no work."""
    kind, value, at = _head(data, at)
    if kind == _TAG or depth > depth_max:
        raise ValueError("a tag, or nested too deep")
    if kind in (_BYTES, _TEXT):
        at += value
    for _ in range({_LIST: value, _MAP: 2 * value}.get(kind, 0)):
        at = _end(data, at, depth + 1)
    return at


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """Kind, value or length, and what comes behind both."""
    kind, value = data[at] >> 5, data[at] & 31
    if value < min(_WIDTHS):
        return kind, value, at + 1
    width = _WIDTHS.get(value)
    if width is None:
        raise ValueError("a length left open")
    return kind, int.from_bytes(data[at + 1 : at + 1 + width], "big"), at + 1 + width
