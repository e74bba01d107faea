"""The key that this store's tokens are bound to, and the proofs made with it (RFC 9449). It signs nothing else.

Each log-in makes a new one, which is kept together with the tokens that it gives: one that fails leaves the old key as it was.
The server's nonce for the next request comes with every answer; with none, or an old one, the server says so and the request is
made again.
"""

import secrets
import time
from collections.abc import Callable

from chatty.client.store import LocalStore
from chatty.crypto.dpop import DpopKey
from chatty.wire.canonical import encode_base64url

DPOP_KEY = "dpop_key"


def new_key() -> DpopKey:
    """For a new log-in session."""
    return DpopKey(secrets.token_bytes(32))


class ProofMaker:
    """nonce: for HTTP, as last heard. origin: as the user typed it, without a slash at the end."""

    def __init__(self, store: LocalStore, *, origin: str, now_s: Callable[[], float] = time.time) -> None:
        self._store = store
        self._origin = origin
        self._now_s = now_s
        seed = store.get(DPOP_KEY, "", bytes)
        self._key = None if seed is None else DpopKey(seed)
        self.nonce = ""

    @property
    def thumbprint(self) -> str:
        """Of the key that this store's tokens are bound to; empty: there is none."""
        return "" if self._key is None else self._key.thumbprint

    def adopt(self, key: DpopKey) -> None:
        """Prove with this one from now on: in one transaction with the tokens that are bound to it."""
        self._store.put(DPOP_KEY, "", key.seed)
        self._key = key

    def proof(self, method: str, path: str, *, access_token: str = "", nonce: str | None = None) -> str:
        """Empty without a key: nobody is signed in. path: without the query. nonce: a socket's own."""
        if self._key is None:
            return ""
        return self._key.proof(
            method=method,
            url=self._origin + path.partition("?")[0],
            nonce=self.nonce if nonce is None else nonce,
            jti=encode_base64url(secrets.token_bytes(12)),
            now_s=self._now_s(),
            access_token=access_token,
        )
