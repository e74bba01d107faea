"""The archive of a backup: one file, encrypted and authenticated as a stream (libsodium's secretstream, XChaCha20-Poly1305).

    "CHATTY-BACKUP" 0x0A · format (1 byte, 1) · length (4) · header, JSON · secretstream header (24) · frames
    frame = length (4) · ciphertext of kind (1 byte) ‖ data of at most chunk_bytes

Integers are big-endian. The header stands in clear, so that a list needs no key; its bytes are associated data of every frame,
so it cannot be changed. Frames cannot be dropped, swapped or repeated, and the last one is marked: a file that was cut off has no
end.
The file's key is BLAKE2b of 32 random bytes (`salt`) under a key made of the master key; or random, sealed for the operator's
X25519 key (`recipient`), whose private half need not be on this machine. The master key is in no archive.
Source: libsodium's documentation, "Encrypted streams" and "Sealed boxes".
"""

import os
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import BinaryIO

import msgspec
from msgspec import Struct
from nacl import bindings as sodium
from nacl.encoding import RawEncoder
from nacl.exceptions import CryptoError
from nacl.exceptions import RuntimeError as SodiumError
from nacl.hash import blake2b
from nacl.public import PrivateKey, PublicKey, SealedBox

from chatty.crypto.sealing import MasterKey
from chatty.errors import BackupDamaged, BackupKeyWrong, BadConfiguration, BadRequest
from chatty.wire.canonical import decode_base64, encode_base64

format_version = 1
chunk_bytes = 65_536
_MAGIC = b"CHATTY-BACKUP\n"
_header_bytes_max = 65_536
_DOMAIN = "chatty.backup.v1"
_MESSAGE, _FINAL = (
    sodium.crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
    sodium.crypto_secretstream_xchacha20poly1305_TAG_FINAL,
)
_frame_bytes_max = chunk_bytes + 1 + sodium.crypto_secretstream_xchacha20poly1305_ABYTES


OpenKey = Callable[["Header"], bytes]  # the file's key; BackupKey.open


class Part(IntEnum):
    """What a frame holds a piece of: the manifest, JSON; the database, pg_dump's custom format."""

    MANIFEST = 1
    DATABASE = 2


class Header(Struct, frozen=True, kw_only=True):
    """What can be read without the key. time: ms since 1970, of the snapshot. salt or sealed_key: base64, the other one empty.

    key_check: tells a wrong key from a damaged file; base64.
    """

    server: str
    generation: int
    generation_id: str
    schema_version: int
    chatty_version: str
    time: int
    salt: str = ""
    sealed_key: str = ""
    key_check: str = ""


class BackupKey:
    """Who makes and opens archives: the master key, an operator's public key (makes only), or the private one (opens only)."""

    def __init__(self, master: MasterKey | None = None, *, recipient: str = "", private: str = "") -> None:
        """recipient, private: base64. Raises: BadConfiguration, without the text."""
        self._root = None if master is None else master.derive(_DOMAIN)
        self._recipient = PublicKey(_key(recipient)) if recipient else None
        self._private = PrivateKey(_key(private)) if private else None

    def make(self, header: Header) -> tuple[Header, bytes]:
        """A fresh file key, and the header by which it is found again."""
        if self._recipient is not None:
            key = os.urandom(32)
            sealed = encode_base64(SealedBox(self._recipient).encrypt(key))
            return msgspec.structs.replace(header, sealed_key=sealed, key_check=_check(key)), key
        salt = os.urandom(32)
        key = self._of_salt(salt)
        return msgspec.structs.replace(header, salt=encode_base64(salt), key_check=_check(key)), key

    def open(self, header: Header) -> bytes:
        """Raises: BackupKeyWrong, BackupDamaged."""
        try:
            key = self._unsealed(header) if header.sealed_key else self._of_salt(decode_base64(header.salt, length=32))
        except CryptoError:
            raise BackupKeyWrong("it is sealed for another key") from None
        except BadRequest:
            raise BackupDamaged("its header makes no sense") from None
        if _check(key) != header.key_check:
            raise BackupKeyWrong("it was made under another master key")
        return key

    def _unsealed(self, header: Header) -> bytes:
        if self._private is None:
            raise BackupKeyWrong("it is sealed for an operator's key: name the file that holds it with --identity")
        return SealedBox(self._private).decrypt(decode_base64(header.sealed_key))

    def _of_salt(self, salt: bytes) -> bytes:
        if self._root is None:
            raise BackupKeyWrong("it was made under the master key, which is not here")
        return blake2b(salt, key=self._root, person=b"chatty.backup.v1", encoder=RawEncoder)


def make_recipient() -> tuple[str, str]:
    """A new pair of an operator's: private and public, base64."""
    private = PrivateKey.generate()
    return encode_base64(bytes(private)), encode_base64(bytes(private.public_key))


def _key(text: str) -> bytes:
    try:
        return decode_base64(text.strip().rstrip("="), length=32)
    except BadRequest:
        raise BadConfiguration("a key for backups must be 32 bytes as base64") from None


def _check(key: bytes) -> str:
    return encode_base64(blake2b(b"check", digest_size=16, key=key, person=b"chatty.backup.v1", encoder=RawEncoder))


class ArchiveWriter:
    """Blocks. end() makes the archive whole; without it nobody will take the file for one. secret: the file's own key."""

    def __init__(self, file: BinaryIO, header: Header, key: BackupKey) -> None:
        self._file = file
        header, self.secret = key.make(header)
        plain = msgspec.json.encode(header)
        self._associated = _MAGIC + bytes([format_version]) + plain
        self._state = sodium.crypto_secretstream_xchacha20poly1305_state()
        stream_header = sodium.crypto_secretstream_xchacha20poly1305_init_push(self._state, self.secret)
        file.write(_MAGIC + bytes([format_version]) + len(plain).to_bytes(4, "big") + plain + stream_header)

    def write(self, part: Part, data: bytes) -> None:
        for at in range(0, len(data), chunk_bytes):
            self._push(bytes([part]) + data[at : at + chunk_bytes], _MESSAGE)

    def end(self) -> None:
        self._push(b"\0", _FINAL)

    def _push(self, plain: bytes, tag: int) -> None:
        sealed = sodium.crypto_secretstream_xchacha20poly1305_push(self._state, plain, self._associated, tag)
        self._file.write(len(sealed).to_bytes(4, "big") + sealed)


def read_header(file: BinaryIO) -> Header:
    """Blocks; the file then stands behind it. What it says is proven by reading the frames alone. Raises: BackupDamaged."""
    return _read_header(file)[0]


def _read_header(file: BinaryIO) -> tuple[Header, bytes]:
    if file.read(len(_MAGIC)) != _MAGIC:
        raise BackupDamaged("it does not begin as an archive of Chatty does")
    version = file.read(1)
    if version != bytes([format_version]):
        raise BackupDamaged("it is of a format that this version does not know")
    length = int.from_bytes(_exactly(file, 4), "big")
    if length > _header_bytes_max:
        raise BackupDamaged("its header is too long")
    plain = _exactly(file, length)
    try:
        return msgspec.json.decode(plain, type=Header), _MAGIC + version + plain
    except msgspec.DecodeError:
        raise BackupDamaged("its header makes no sense") from None


def read_archive(file: BinaryIO, key: OpenKey) -> Iterator[tuple[Part, bytes]]:
    """What was written, piece by piece; each is authentic, and once the iterator is at its end, the whole is.

    Blocks. Raises: BackupDamaged, BackupKeyWrong.
    """
    header, associated = _read_header(file)
    state = sodium.crypto_secretstream_xchacha20poly1305_state()
    secret = key(header)
    stream_header = _exactly(file, sodium.crypto_secretstream_xchacha20poly1305_HEADERBYTES)
    sodium.crypto_secretstream_xchacha20poly1305_init_pull(state, stream_header, secret)
    while True:
        plain, tag = _pulled(state, file, associated)
        if tag == _FINAL:
            break
        try:
            yield Part(plain[0]), plain[1:]
        except ValueError:
            raise BackupDamaged("it holds a part that this version does not know") from None
    if file.read(1):
        raise BackupDamaged("something stands behind its end")


def _pulled(state: sodium.crypto_secretstream_xchacha20poly1305_state, file: BinaryIO, ad: bytes) -> tuple[bytes, int]:
    length = int.from_bytes(_exactly(file, 4), "big")
    if length > _frame_bytes_max:
        raise BackupDamaged("its bytes were changed")
    try:
        plain, tag = sodium.crypto_secretstream_xchacha20poly1305_pull(state, _exactly(file, length), ad)
    except (CryptoError, SodiumError, ValueError, TypeError):
        raise BackupDamaged("its bytes were changed") from None
    return plain, tag


def _exactly(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise BackupDamaged("it was cut off")
    return data
