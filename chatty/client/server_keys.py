"""The server's own public keys, with which it signs checkpoints, horizons and removals: kept for good once they were believed.

A key's id is the RFC 7638 thumbprint of the key, so nobody can show two keys under one id. At first sight a key is the
server's because the server says so. From then on a new one is believed only if a believed one signed that it follows
(crypto/successions.py): who can answer in the server's place, but has not its key, cannot slip in another. What a key signs
after it was succeeded, and a margin, is not believed; a server that was restored from before that shows no successor, and its key
counts again.
"""

from collections.abc import Mapping
from typing import Any

from chatty.client.store import LocalStore
from chatty.crypto.dpop import thumbprint
from chatty.crypto.signatures import check_ed25519_key
from chatty.crypto.successions import Successions
from chatty.errors import BadKey, BadRequest
from chatty.wire.accounts import Jwks
from chatty.wire.canonical import decode_base64url, encode_base64
from chatty.wire.successions import CHECKPOINT

_SERVER_KEYS = "server_keys"
_ENDS = "server_key_ends"


class ServerKeys:
    """By their ids, as unpadded base64. server: whose keys they are."""

    def __init__(self, store: LocalStore, *, server: str) -> None:
        self._store = store
        self._server = server
        self._keys = dict(store.items(_SERVER_KEYS, str))
        self._ends_ms = dict(store.items(_ENDS, int))

    def key(self, key_id: str, time: int) -> str | None:
        """time: ms since 1970, when it is said to have signed. None: not seen yet, or its turn was over."""
        end_ms = self._ends_ms.get(key_id)
        return None if end_ms is not None and time > end_ms else self._keys.get(key_id)

    def take(self, jwks: Jwks) -> None:
        """Keep those that are to be believed; what is none, or has another's id, is passed over. In the caller's transaction."""
        shown = {key: key_id for jwk in jwks.keys if (key := _checkpoint_key(jwk)) and (key_id := jwk["kid"])}
        successions = Successions(jwks.successions, server=self._server, purpose=CHECKPOINT)
        believed = successions.heirs(self._keys.values()) if self._keys else shown.keys()
        for key in shown.keys() & believed:
            self._keep(key, shown[key], end_ms=successions.ends_ms(key))

    def _keep(self, key: str, key_id: str, *, end_ms: int | None) -> None:
        if key_id not in self._keys:
            self._keys[key_id] = key
            self._store.put(_SERVER_KEYS, key_id, key)
        if end_ms is not None:
            self._ends_ms[key_id] = end_ms
            self._store.put(_ENDS, key_id, end_ms)
        elif self._ends_ms.pop(key_id, None) is not None:
            self._store.delete(_ENDS, key_id)


def _checkpoint_key(jwk: Mapping[str, Any]) -> str | None:
    x = jwk.get("x")
    if (jwk.get("kty"), jwk.get("crv"), jwk.get("purpose")) != ("OKP", "Ed25519", CHECKPOINT) or not isinstance(x, str):
        return None
    try:
        key = encode_base64(decode_base64url(x, length=32))
        check_ed25519_key(key)
    except (BadRequest, BadKey):
        return None
    return key if jwk.get("kid") == thumbprint({"crv": "Ed25519", "kty": "OKP", "x": x}) else None
