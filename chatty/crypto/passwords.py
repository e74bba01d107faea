"""What a client does with a password; the server never sees it, nor anything as good as it.

salt = SHA-256("chatty.salt.v1" ‖ server name ‖ user id ‖ served salt), each of the three behind its length (4 bytes, big-endian).
Argon2id v1.3 (one lane, the first 16 bytes of that salt, the password in NFC as UTF-8) gives 64 bytes: a key that wraps the
recovery secret, and the seed of the Ed25519 key that signs log-ins. A served parameter that is too weak is refused: it would be
the server's way to the password. One that is too strong is refused too: it would be a way to stop the client.

A wrapped secret is: format (1 byte, 1), nonce (24 bytes), XChaCha20-Poly1305 ciphertext; its purpose is authenticated.
"""

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as aead_decrypt
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as aead_encrypt
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

from chatty.errors import BadRequest, SealBroken
from chatty.ids import UserId
from chatty.wire.accounts import KeyDerivation

ALGORITHM = "argon2id"
DEFAULT_DERIVATION = KeyDerivation(algorithm=ALGORITHM, memory_bytes=67_108_864, passes=3)
_FORMAT = b"\x01"
_nonce_bytes = 24
_tag_bytes = 16


@dataclass(frozen=True, kw_only=True)
class DerivationLimits:
    """What a client accepts from a server. Only tests have reason to pass others than the default."""

    memory_bytes_min: int = 67_108_864
    memory_bytes_max: int = 1_073_741_824
    passes_min: int = 2
    passes_max: int = 16


@dataclass(frozen=True, kw_only=True)
class PasswordKeys:
    """32 bytes each; not printed."""

    wrapping_key: bytes = field(repr=False)
    login_seed: bytes = field(repr=False)


def salt(*, server_name: str, user: UserId, served_salt: bytes) -> bytes:
    """32 bytes that no other user and no other server has."""
    parts = (server_name.encode(), user.encode(), served_salt)
    framed = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return sha256(b"chatty.salt.v1" + framed).digest()


def derive(
    password: str, *, salt: bytes, parameters: KeyDerivation, limits: DerivationLimits | None = None
) -> PasswordKeys:
    """Both keys of a password. Takes a tenth of a second or more of one core: run it in a thread.

    salt: 32 bytes, from salt(). Raises: BadRequest for parameters outside the limits.
    """
    check_parameters(parameters, limits or DerivationLimits())
    derived = argon2id.kdf(
        64,
        unicodedata.normalize("NFC", password).encode(),
        salt[: argon2id.SALTBYTES],
        opslimit=parameters.passes,
        memlimit=parameters.memory_bytes,
    )
    return PasswordKeys(wrapping_key=derived[:32], login_seed=derived[32:])


def check_parameters(parameters: KeyDerivation, limits: DerivationLimits) -> None:
    """Raises: BadRequest."""
    if parameters.algorithm != ALGORITHM:
        raise BadRequest(f"the server asks for {parameters.algorithm!r} instead of {ALGORITHM}")
    if not limits.memory_bytes_min <= parameters.memory_bytes <= limits.memory_bytes_max:
        raise BadRequest("the server asks for too little or too much memory to derive keys")
    if not limits.passes_min <= parameters.passes <= limits.passes_max:
        raise BadRequest("the server asks for too few or too many passes to derive keys")


def wrap(secret: bytes, *, key: bytes, purpose: str, random: Callable[[int], bytes] = os.urandom) -> bytes:
    """Wrap the recovery secret under the wrapping key, or the identity key under the recovery secret. key: 32 bytes."""
    nonce = random(_nonce_bytes)
    return _FORMAT + nonce + aead_encrypt(secret, _associated(purpose), nonce, key)


def unwrap(wrapped: bytes, *, key: bytes, purpose: str) -> bytes:
    """Raises: SealBroken: a wrong password, or a server that altered it."""
    nonce, ciphertext = wrapped[1 : 1 + _nonce_bytes], wrapped[1 + _nonce_bytes :]
    if wrapped[:1] != _FORMAT or len(ciphertext) < _tag_bytes:
        raise SealBroken("not a wrapped secret")
    try:
        return aead_decrypt(ciphertext, _associated(purpose), nonce, key)
    except CryptoError:
        raise SealBroken("a wrong password, or altered bytes") from None


def _associated(purpose: str) -> bytes:
    return b"chatty.wrap.v1/" + purpose.encode()
