"""Nonces without a memory: a time slot and a MAC over it. Any node accepts what any other gave out, for at most two slots."""

import hmac
import re
from hashlib import sha256

from chatty.crypto.tokens import MacKeys
from chatty.wire.canonical import encode_base64url

slot_s = 30  # a nonce of this slot or of the one before is taken: it lives 30 to 60 s
login_slot_s = 150  # for log-ins 2.5 to 5 minutes: time to find a phone and type its code
_FORM = re.compile(r"([0-9]{1,12})\.([A-Za-z0-9_-]{43})")


class Nonces:
    """keys: those of the moment, 32 bytes each; the first makes nonces, all are good for checking them. purpose keeps log-in
    nonces apart from those of DPoP proofs.
    """

    def __init__(self, keys: MacKeys, *, purpose: str, slot_s: int = slot_s) -> None:
        self._keys = keys
        self._purpose = purpose.encode()
        self._slot_s = slot_s

    def make(self, *, now_s: float) -> str:
        return self._text(self._keys()[0], int(now_s) // self._slot_s)

    def is_fresh(self, nonce: str, *, now_s: float) -> bool:
        """Ours, and not older than two slots."""
        return self.slot(nonce, now_s=now_s) is not None

    def slot(self, nonce: str, *, now_s: float) -> int | None:
        """The number of its slot; None: not ours, or older than two slots."""
        found = _FORM.fullmatch(nonce)
        if found is None:
            return None
        slot = int(found[1])
        is_ours = any(hmac.compare_digest(self._text(key, slot), nonce) for key in self._keys())
        return slot if is_ours and 0 <= int(now_s) // self._slot_s - slot <= 1 else None

    def _text(self, key: bytes, slot: int) -> str:
        mac = hmac.digest(key, b"chatty.nonce.v1/" + self._purpose + b"/%d" % slot, sha256)
        return f"{slot}.{encode_base64url(mac)}"
