"""Refresh tokens: what presenting one does (docs/protocol.md, "Tokens"). Pure rules; tests/models/test_tokens.py checks them
exhaustively, and shows what goes wrong without each.

A family is one log-in session's chain of tokens 1, 2, 3 …, each a function of the one before; the server keeps the newest, `k`.

    k issued ── presented, or an access token issued with it seen ──> k used, k - 1 retires ── presented ──> k + 1 issued

The newest token rotates. The one before it, while the newest was never used, gets the newest again: its answer was lost. A
retired one is refused without effect for `grace_ms` after its own retirement, for a copy that was under way may come late; after
that only a thief, or somebody from whom was stolen, can present it, and the family is revoked.

Full: `retired_max` retirements within the grace refuse a further rotation (`overloaded`); none is forgotten before its time.
"""

from dataclasses import dataclass, replace

from chatty.errors import Overloaded, RefreshRefused

grace_ms = 60_000  # as long as a DPoP nonce may live: no later copy of a request is looked at
retired_max = 64


@dataclass(frozen=True, kw_only=True)
class RefreshState:
    """retired_ms: when tokens retired, the oldest first, up to the newest retired one; those beyond the grace may be missing."""

    k: int = 1
    is_used: bool = False
    retired_ms: tuple[int, ...] = ()

    @property
    def newest_retired(self) -> int:
        return self.k - 1 if self.is_used else self.k - 2


class Reuse(Exception):
    """A token came that was retired long ago: the family is to be revoked."""


def present(state: RefreshState, k: int, *, now_ms: int, may_jump: bool = False) -> RefreshState:
    """Token k is presented for a refresh, with a fresh proof of the family's own key. The answer is the new state's k.

    may_jump: the database was restored from a backup since: then a token of ours that it has not heard of sets k.
    Raises: RefreshRefused (nothing changes), Reuse (the family is to be revoked), Overloaded.
    """
    if k > state.k:
        if not may_jump:
            raise RefreshRefused("not a token of this family yet")
        state = RefreshState(k=k)
    if k == state.k:
        return _rotated(state, now_ms)
    if k == state.k - 1 and not state.is_used:
        return state
    at = len(state.retired_ms) - 1 - (state.newest_retired - k)
    if at >= 0 and now_ms - state.retired_ms[at] <= grace_ms:
        raise RefreshRefused("this token was just retired: use the newer one")
    raise Reuse


def note_use(state: RefreshState, k: int, *, now_ms: int) -> RefreshState:
    """An access token that was issued with token k was seen: if k is the newest, the one before it retires."""
    if k != state.k or state.is_used:
        return state
    return replace(state, is_used=True, retired_ms=_kept(state, now_ms) + ((now_ms,) if k > 1 else ()))


def _rotated(state: RefreshState, now_ms: int) -> RefreshState:
    used = note_use(state, state.k, now_ms=now_ms)
    kept = _kept(used, now_ms)
    if len(kept) > retired_max:
        raise Overloaded(limiter="refresh_rotations", retry_after_s=(kept[0] + grace_ms - now_ms) / 1000 + 0.001)
    return RefreshState(k=state.k + 1, retired_ms=kept)


def _kept(state: RefreshState, now_ms: int) -> tuple[int, ...]:
    return tuple(at for at in state.retired_ms if now_ms - at <= grace_ms)
