"""XChaCha20-Poly1305 under keys that never leave the client. A sealed text is nonce (24 bytes) || ciphertext || tag (16 bytes).

The context binds a sealed text to its place, so that one cannot stand for another.
"""

import hashlib
import hmac
import secrets

import nacl.bindings
from nacl.exceptions import CryptoError

from chatty.errors import SealBroken

_NONCE_BYTES = 24
_encrypt = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt
_decrypt = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt


def seal(key: bytes, plaintext: bytes, *, context: bytes) -> bytes:
    """key: 32 bytes."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + bytes(_encrypt(plaintext, context, nonce, key))


def unseal(key: bytes, sealed: bytes, *, context: bytes) -> bytes:
    """Raises: SealBroken."""
    try:
        return bytes(_decrypt(sealed[_NONCE_BYTES:], context, sealed[:_NONCE_BYTES], key))
    except (CryptoError, ValueError):
        raise SealBroken("another key, another place, or altered bytes") from None


def subkey(key: bytes, purpose: str) -> bytes:
    """A 32-byte key for one purpose."""
    return hmac.digest(key, purpose.encode(), hashlib.sha256)
