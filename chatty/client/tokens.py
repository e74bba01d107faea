"""The tokens of this log-in session. The new refresh token is on disk before it, or its access token, is used.

One refresh at a time; a late answer never replaces a newer token, because there is no second one. A lost answer is asked for
again with the same token, for which the server gives the identical successor.
*Cancelled* while refreshing: the old token stays and is used again.
"""

import time
from collections.abc import Awaitable, Callable

import trio
from msgspec import Struct

from chatty.client.reasons import NotSignedIn
from chatty.client.store import LocalStore
from chatty.wire.accounts import Refresh, Tokens

_TOKENS = "tokens"
refresh_ahead_share = 0.2  # of its life that an access token has left when it is replaced

AskForTokens = Callable[[Refresh], Awaitable[Tokens]]


class SavedTokens(Struct, frozen=True, kw_only=True):
    """Times are s since 1970, by this machine's clock."""

    access_token: str
    refresh_token: str
    refresh_at_s: float


def load_tokens(store: LocalStore) -> SavedTokens | None:
    return store.get(_TOKENS, "", SavedTokens)


class TokenKeeper:
    """`ask`: POST /v1/token. `now_s`: the wall clock."""

    def __init__(self, store: LocalStore, *, ask: AskForTokens, now_s: Callable[[], float] = time.time) -> None:
        self._store = store
        self._ask = ask
        self._now_s = now_s
        self._saved = load_tokens(store)
        self._lock = trio.Lock()

    @property
    def is_signed_in(self) -> bool:
        return self._saved is not None

    @property
    def last_refresh_token(self) -> str:
        """Of the session in this store, over or not: at a log-in it shows that a known device asks. Empty: there is none."""
        return "" if self._saved is None else self._saved.refresh_token

    @property
    def refresh_in_s(self) -> float:
        """Until the access token is to be replaced."""
        return 0.0 if self._saved is None else max(self._saved.refresh_at_s - self._now_s(), 0.0)

    def save(self, tokens: Tokens) -> None:
        refresh_at_s = self._now_s() + tokens.expires_in_s * (1 - refresh_ahead_share)
        saved = SavedTokens(
            access_token=tokens.access_token, refresh_token=tokens.refresh_token, refresh_at_s=refresh_at_s
        )
        self._store.put(_TOKENS, "", saved)
        self._saved = saved

    def forget(self) -> None:
        self._store.delete(_TOKENS, "")
        self._saved = None

    async def access_token(self, *, refused: str = "") -> str:
        """A token that is good for a while. refused: one that the server called expired, whatever this clock says."""
        # Held across the request: two refreshes with one token would look like a theft.
        async with self._lock:
            saved = self._require()
            if self._now_s() >= saved.refresh_at_s or saved.access_token == refused:
                self.save(await self._ask(Refresh(refresh_token=saved.refresh_token)))
            return self._require().access_token

    def _require(self) -> SavedTokens:
        if self._saved is None:
            raise NotSignedIn("register or log in first")
        return self._saved
