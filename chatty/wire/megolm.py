"""The outer shape of a Megolm message, so that the server can refuse what is no ciphertext.

version (1 byte, 3) | 0x08 varint: message index | 0x12 varint length, ciphertext | MAC (8 bytes) | Ed25519 signature (64 bytes)
Source: Megolm specification, "Message format". Nothing here decrypts.
"""

from chatty.errors import NotEncrypted

_MAC_AND_SIGNATURE = 8 + 64


def check_megolm(body: bytes) -> int:
    """Returns the message index. Raises: NotEncrypted unless the body has exactly the shape above."""
    if len(body) < 5 + 16 + _MAC_AND_SIGNATURE or body[0] != 3 or body[1] != 0x08:
        raise NotEncrypted("the body is no Megolm message")
    index, at = _varint(body, 2)
    if body[at] != 0x12:
        raise NotEncrypted("the body is no Megolm message")
    length, at = _varint(body, at + 1)
    if length == 0 or length % 16 or at + length + _MAC_AND_SIGNATURE != len(body):
        raise NotEncrypted("the body's ciphertext has another length than it says")
    return index


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 35 and at < len(body):
        value |= (body[at] & 0x7F) << shift
        at += 1
        if body[at - 1] < 0x80:
            return value, at
        shift += 7
    raise NotEncrypted("the body is no Megolm message")
