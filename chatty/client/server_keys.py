"""The server's own public keys, with which it signs removals: kept for good once they were seen.

A key's id is the RFC 7638 thumbprint of the key, so nobody can show two keys under one id. That a key is the server's is the
server's word, and does not matter: whatever it signs is its own act, and can be held against it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from chatty.client.store import LocalStore
from chatty.crypto.dpop import thumbprint
from chatty.crypto.signatures import check_ed25519_key
from chatty.errors import BadKey, BadRequest
from chatty.wire.canonical import decode_base64url, encode_base64

_SERVER_KEYS = "server_keys"


class ServerKeys:
    """By their ids, as unpadded base64."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._keys = dict(store.items(_SERVER_KEYS, str))

    def key(self, key_id: str) -> str | None:
        """None: not seen yet."""
        return self._keys.get(key_id)

    def take(self, jwks: Iterable[Mapping[str, Any]]) -> None:
        """Keep the Ed25519 keys among these; what is none, or has another's id, is passed over. In the caller's transaction."""
        for jwk in jwks:
            key_id, key = jwk.get("kid"), _ed25519(jwk)
            if key is not None and isinstance(key_id, str) and key_id not in self._keys:
                self._keys[key_id] = key
                self._store.put(_SERVER_KEYS, key_id, key)


def _ed25519(jwk: Mapping[str, Any]) -> str | None:
    x = jwk.get("x")
    if (jwk.get("kty"), jwk.get("crv")) != ("OKP", "Ed25519") or not isinstance(x, str):
        return None
    try:
        key = encode_base64(decode_base64url(x, length=32))
        check_ed25519_key(key)
    except (BadRequest, BadKey):
        return None
    return key if jwk.get("kid") == thumbprint({"crv": "Ed25519", "kty": "OKP", "x": x}) else None
