"""Secrets at rest: sealed with XChaCha20-Poly1305 under data keys, which are sealed under the one master key.

A sealed text is: format (1 byte, 1), version of the sealing key (4 bytes, big-endian; 0: the master key), nonce (24 bytes),
ciphertext with its tag. The purpose is authenticated beside it, so that a sealed text moved to another row or column does not
open. Only the master key is kept outside the database; to change it, the data keys alone are sealed anew.
"""

import contextlib
import hashlib
import hmac
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as aead_decrypt
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as aead_encrypt
from nacl.exceptions import CryptoError

from chatty.errors import BadConfiguration, BadRequest, SealBroken
from chatty.wire.canonical import decode_base64, encode_base64

key_bytes = 32
_FORMAT = 1
_MASTER_VERSION = 0
_nonce_bytes = 24
_tag_bytes = 16
_header_bytes = 5

Random = Callable[[int], bytes]  # that many bytes nobody can guess


class MasterKey:
    """32 bytes that open everything sealed; never printed."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != key_bytes:
            raise BadConfiguration(f"the master key must be {key_bytes} bytes as base64")
        self._secret = secret

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From base64, padded or not. Raises: BadConfiguration, without the text."""
        try:
            return cls(decode_base64(text.strip().rstrip("="), length=key_bytes))
        except BadRequest:
            raise BadConfiguration(f"the master key must be {key_bytes} bytes as base64") from None

    def derive(self, purpose: str) -> bytes:
        """A key of its own for something that is not in the database; 32 bytes."""
        return hmac.digest(self._secret, purpose.encode(), hashlib.sha256)

    def wrap(self, data_key: bytes, *, version: int, random: Random = os.urandom) -> bytes:
        """Seal a data key."""
        return _seal(self._secret, _MASTER_VERSION, data_key, purpose=f"data_key/{version}", random=random)

    def unwrap(self, sealed: bytes, *, version: int) -> bytes:
        """Raises: SealBroken: another master key, or altered bytes."""
        return _open(self._secret, sealed, purpose=f"data_key/{version}")


class Sealer:
    """Seals with the newest data key, opens with any. data_keys: by version, from 1; 32 bytes each."""

    def __init__(self, data_keys: Mapping[int, bytes], *, random: Random = os.urandom) -> None:
        self._keys = dict(data_keys)
        self._newest = max(data_keys)
        self._random = random

    def seal(self, plaintext: bytes, *, purpose: str) -> bytes:
        """purpose: what it is and whose, such as "login_key/@ann:localhost"; needed again to open."""
        return _seal(self._keys[self._newest], self._newest, plaintext, purpose=purpose, random=self._random)

    def open(self, sealed: bytes, *, purpose: str) -> bytes:
        """Raises: SealBroken, also for a data key that is not known."""
        key = self._keys.get(int.from_bytes(sealed[1:_header_bytes], "big"))
        if key is None:
            raise SealBroken(f"{purpose}: sealed under an unknown data key")
        return _open(key, sealed, purpose=purpose)


def load_master_key(path: Path, *, random: Random = os.urandom) -> MasterKey:
    """The key in this file; made there, readable by its owner alone, if there is none. Blocks; for the start of the process.

    Raises: BadConfiguration, OSError.
    """
    if not path.exists():
        _create(path, encode_base64(random(key_bytes)).encode())
    return MasterKey.from_text(path.read_text(encoding="ascii", errors="replace"))


def _create(path: Path, content: bytes) -> None:
    """Whole or not at all, and never over an older one: a lost master key is a lost database."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content + b"\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):  # another process was first: its key counts
        os.link(temporary, path)
    temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _seal(key: bytes, version: int, plaintext: bytes, *, purpose: str, random: Random) -> bytes:
    header, nonce = bytes([_FORMAT]) + version.to_bytes(4, "big"), random(_nonce_bytes)
    return header + nonce + aead_encrypt(plaintext, _associated(header, purpose), nonce, key)


def _open(key: bytes, sealed: bytes, *, purpose: str) -> bytes:
    header, rest = sealed[:_header_bytes], sealed[_header_bytes:]
    if len(rest) < _nonce_bytes + _tag_bytes or header[0] != _FORMAT:
        raise SealBroken(f"{purpose}: not a sealed text")
    try:
        return aead_decrypt(rest[_nonce_bytes:], _associated(header, purpose), rest[:_nonce_bytes], key)
    except CryptoError:
        raise SealBroken(f"{purpose}: another key, or altered bytes") from None


def _associated(header: bytes, purpose: str) -> bytes:
    return b"chatty.seal.v1" + header + purpose.encode()
