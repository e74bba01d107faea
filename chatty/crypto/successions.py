"""Successions of the server's keys: made by who has both keys, checked by whoever believes the old one."""

from collections.abc import Iterable
from typing import Literal

from chatty.crypto.signatures import public_key, sign, verify
from chatty.errors import BadSignature
from chatty.wire.successions import KeySuccession, margin_ms, succession_bytes


def make_succession(
    *, server: str, purpose: Literal["checkpoint", "audit"], old_seed: bytes, new_seed: bytes, time: int
) -> KeySuccession:
    """time: from when the new key signs, ms since 1970."""
    old, new = public_key(old_seed), public_key(new_seed)
    statement = succession_bytes(server=server, purpose=purpose, old=old, new=new, time=time)
    return KeySuccession(
        server=server,
        purpose=purpose,
        old=old,
        new=new,
        time=time,
        signature=sign(old_seed, statement),
        new_signature=sign(new_seed, statement),
    )


class Successions:
    """Those that both keys signed, of one server and purpose. The others are passed over."""

    def __init__(self, shown: Iterable[KeySuccession], *, server: str, purpose: str) -> None:
        self._genuine = [
            one for one in shown if (one.server, one.purpose) == (server, purpose) and _is_signed_by_both(one)
        ]

    def heirs(self, believed: Iterable[str]) -> set[str]:
        """The believed keys and all that follow from them."""
        found = set(believed)
        while new := {one.new for one in self._genuine if one.old in found} - found:
            found |= new
        return found

    def ends_ms(self, key: str) -> int | None:
        """What this key signs is good up to then; None: it has no successor."""
        # The last counts: a server that was restored from a backup may name another successor.
        return max((one.time + margin_ms for one in self._genuine if one.old == key), default=None)


def _is_signed_by_both(one: KeySuccession) -> bool:
    statement = succession_bytes(server=one.server, purpose=one.purpose, old=one.old, new=one.new, time=one.time)
    try:
        verify(one.old, statement, one.signature)
        verify(one.new, statement, one.new_signature)
    except BadSignature:
        return False
    return True
