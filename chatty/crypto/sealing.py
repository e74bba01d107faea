"""Secrets at rest: sealed with XChaCha20-Poly1305 under data keys, which are sealed under the one master key.

A sealed text is: format (1 byte, 1), version of the sealing key (4 bytes, big-endian; 0: the master key), nonce (24 bytes),
ciphertext with its tag. The purpose is authenticated beside it, so that a sealed text moved to another row or column does not
open. Only the master key is kept outside the database; to change it, the data keys alone are sealed anew
(services/master_key.py).
"""

import contextlib
import hashlib
import hmac
import os
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Self

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as aead_decrypt
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as aead_encrypt
from nacl.exceptions import CryptoError

from chatty.errors import BadConfiguration, BadRequest, DataKeyUnknown, SealBroken
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

    def is_same(self, other: Self) -> bool:
        return hmac.compare_digest(self._secret, other._secret)

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
    """Seals with one data key, opens with any. data_keys: by version, from 1; 32 bytes each. version: of the one that seals."""

    def __init__(self, data_keys: Mapping[int, bytes], *, version: int, random: Random = os.urandom) -> None:
        self._random = random
        self.take(data_keys, version=version)

    def take(self, data_keys: Mapping[int, bytes], *, version: int) -> None:
        """The data keys as they are from now on."""
        self._keys, self.version = dict(data_keys), version

    @property
    def versions(self) -> Collection[int]:
        """Of the data keys that are known."""
        return self._keys.keys()

    def seal(self, plaintext: bytes, *, purpose: str) -> bytes:
        """purpose: what it is and whose, such as "login_key/@ann:localhost"; needed again to open."""
        return _seal(self._keys[self.version], self.version, plaintext, purpose=purpose, random=self._random)

    def open(self, sealed: bytes, *, purpose: str) -> bytes:
        """Raises: SealBroken; DataKeyUnknown: a newer one than is known here."""
        version = sealing_version(sealed)
        key = self._keys.get(version)
        if key is None and version > max(self._keys):
            raise DataKeyUnknown(f"sealed under data key {version}, which this process has not read")
        if key is None:
            raise SealBroken(f"{purpose}: sealed under an unknown data key")
        return _open(key, sealed, purpose=purpose)


def sealing_version(sealed: bytes) -> int:
    """Of the data key that it was sealed under; 0: the master key."""
    return int.from_bytes(sealed[1:_header_bytes], "big")


def load_master_key(path: Path, *, random: Random = os.urandom) -> MasterKey:
    """The key in this file; made there, readable by its owner alone, if there is none. Blocks; for the start of the process.

    Raises: BadConfiguration, OSError.
    """
    if not path.exists():
        _create(path, encode_base64(random(key_bytes)).encode())
    return read_master_key(path)


def read_master_key(path: Path) -> MasterKey:
    """The key in this file, which must be there. Blocks. Raises: BadConfiguration."""
    try:
        return MasterKey.from_text(path.read_text(encoding="ascii", errors="replace"))
    except OSError as error:
        raise BadConfiguration(f"{path}: the master key cannot be read: {error.strerror}") from None


def load_next_master_key(path: Path, *, random: Random = os.urandom) -> MasterKey:
    """The one that is to replace the one in this file, kept beside it; made if there is none. Blocks.

    Raises: BadConfiguration, OSError.
    """
    drop_used_master_key(path)
    return load_master_key(_beside(path, "next"), random=random)


def drop_used_master_key(path: Path) -> None:
    """Of two files with one key the one beside goes: it was copied over the other by hand, and would replace nothing. Blocks.

    Raises: BadConfiguration, OSError.
    """
    waiting = _beside(path, "next")
    if waiting.exists() and read_master_key(waiting).is_same(read_master_key(path)):
        waiting.unlink()
        _sync_directory(path)


def replace_master_key(path: Path) -> Path:
    """The next one takes the file's name in one step; the one so far stays beside it. Returns where. Blocks. Raises: OSError."""
    digest = sha256(b"chatty.master.v1" + path.read_bytes().strip()).hexdigest()
    kept = _beside(path, f"old-{digest[:8]}")
    with contextlib.suppress(FileExistsError):  # as far as an interrupted run had come
        os.link(path, kept)
    _beside(path, "next").replace(path)
    _sync_directory(path)
    return kept


def _beside(path: Path, word: str) -> Path:
    return path.with_name(f"{path.name}.{word}")


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
    _sync_directory(path)


def _sync_directory(path: Path) -> None:
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
