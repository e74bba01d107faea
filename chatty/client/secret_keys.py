"""Everything secret in a device's store, for one purpose: to look for it where it must not be.

Reads the file of a client that is closed. Left out: the private halves of one-time keys, of which there are fifty, each for one
message. The library gives private keys to nobody, so its pickle is opened here: AES-256-CBC and eight bytes of HMAC-SHA-256, keys
by HKDF (docs.rs/vodozemac, `pickle`); a version of it that does otherwise is refused by a test.
"""

import hmac

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from chatty.client.accounts import load_identity
from chatty.client.dpop import DPOP_KEY
from chatty.client.megolm import megolm_ratchets
from chatty.client.olm import load_account_pickle
from chatty.client.reasons import WrongStoreKey
from chatty.client.store import LocalStore
from chatty.client.tokens import load_tokens
from chatty.wire.canonical import decode_base64

_mac_bytes = 8


class SecretKey(Struct, frozen=True, kw_only=True):
    """value: the raw bytes, or a token as text."""

    name: str
    value: bytes | str

    def __repr__(self) -> str:
        return f"SecretKey({self.name})"


class _SigningKey(Struct, frozen=True, rename={"normal": "Normal"}):
    normal: list[int]


class _OlmAccount(Struct, frozen=True):
    signing_key: _SigningKey
    diffie_hellman_key: list[int]


def secret_keys(store: LocalStore) -> list[SecretKey]:
    """Nothing for a store that nobody is signed in with. Raises: WrongStoreKey."""
    identity, tokens = load_identity(store), load_tokens(store)
    if identity is None:
        return []
    found = {"identity key": identity.identity_seed, "recovery secret": identity.recovery_secret}
    dpop_key = store.get(DPOP_KEY, "", bytes)
    if dpop_key is not None:
        found["key of the tokens"] = dpop_key
    pickle = load_account_pickle(store, identity.device)
    if pickle is not None:
        account = msgspec.json.decode(_open_pickle(pickle, store.pickle_key), type=_OlmAccount)
        found["device's signing key"] = bytes(account.signing_key.normal)
        found["device's exchange key"] = bytes(account.diffie_hellman_key)
    keys = [SecretKey(name=name, value=value) for name, value in found.items()]
    keys += [SecretKey(name="message key", value=ratchet) for ratchet in megolm_ratchets(store)]
    if tokens is not None:
        # What stands before the last dot is no secret.
        for name, token in (("access token", tokens.access_token), ("refresh token", tokens.refresh_token)):
            keys.append(SecretKey(name=name, value=token.rsplit(".", 1)[-1]))
    return keys


def _open_pickle(pickle: str, key: bytes) -> bytes:
    sealed = decode_base64(pickle)
    expanded = HKDF(hashes.SHA256(), 80, None, b"Pickle").derive(key)
    cipher_key, mac_key, start = expanded[:32], expanded[32:64], expanded[64:]
    ciphertext, mac = sealed[:-_mac_bytes], sealed[-_mac_bytes:]
    if not hmac.compare_digest(hmac.digest(mac_key, ciphertext, "sha256")[:_mac_bytes], mac):
        raise WrongStoreKey("the Olm account's pickle does not open")
    opening = Cipher(algorithms.AES(cipher_key), modes.CBC(start)).decryptor()
    padded = opening.update(ciphertext) + opening.finalize()
    return padded[: -padded[-1]]
