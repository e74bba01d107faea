"""Ed25519 signatures and public-key checks over PyNaCl. Pure functions; keys and signatures are unpadded base64 on the wire."""

from typing import Any

import nacl.bindings
from nacl.exceptions import BadSignatureError
from nacl.exceptions import RuntimeError as SodiumError
from nacl.signing import SigningKey, VerifyKey

from chatty.errors import BadKey, BadRequest, BadSignature
from chatty.wire.canonical import decode_base64, encode_base64
from chatty.wire.signing import matrix_signed_bytes


def verify(public_key: str, message: bytes, signature: str) -> None:
    """Raises: BadSignature, also for a malformed or low-order key. Source: RFC 8032, checked as libsodium does."""
    try:
        VerifyKey(decode_base64(public_key, length=32)).verify(message, decode_base64(signature, length=64))
    except (BadSignatureError, BadRequest, ValueError):
        raise BadSignature("the signature does not fit") from None


def sign(seed: bytes, message: bytes) -> str:
    """seed: 32 bytes. Returns the signature as unpadded base64."""
    return encode_base64(SigningKey(seed).sign(message).signature)


def public_key(seed: bytes) -> str:
    """The Ed25519 public key of a 32-byte seed."""
    return encode_base64(bytes(SigningKey(seed).verify_key))


def check_ed25519_key(key: str) -> None:
    """Raises: BadKey unless it is a canonical point of the main subgroup."""
    try:
        is_point = nacl.bindings.crypto_core_ed25519_is_valid_point(decode_base64(key, length=32))
    except BadRequest:
        is_point = False
    if not is_point:
        raise BadKey("not an Ed25519 public key")


def check_curve25519_key(key: str) -> None:
    """Raises: BadKey for malformed, all-zero and other low-order keys: they give a shared secret that everybody knows.

    libsodium refuses a result of all zero, which is what a low-order point gives with every scalar.
    """
    try:
        nacl.bindings.crypto_scalarmult(b"\x42" * 32, decode_base64(key, length=32))
    except (BadRequest, SodiumError):
        raise BadKey("not a Curve25519 public key, or one of low order") from None


def verify_matrix_object(value: dict[str, Any], *, user: str, key_id: str, public_key: str) -> None:
    """Check value["signatures"][user][key_id] over the object, as Matrix signs JSON.

    Raises: BadSignature, also when there is none. Source: Matrix specification, appendix "Signing JSON".
    """
    signature = value.get("signatures", {}).get(user, {}).get(key_id)
    if not isinstance(signature, str):
        raise BadSignature(f"no signature by {key_id}")
    verify(public_key, matrix_signed_bytes(value), signature)
