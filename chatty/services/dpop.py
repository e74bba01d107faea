"""DPoP on this node: nonces of the server's own, and no proof twice (RFC 9449, sections 8 and 11.1; docs/protocol.md,
"Identity").

Over HTTP a nonce is a MAC over half a minute's number, so any node takes what any other gave out, for at most a minute; within
it a node remembers each proof that it took. On a WebSocket the nonce is the connection's own and its proof counts there alone,
so nothing is remembered.

The memory is this node's: a proof that was stolen on its way could be repeated at another one, within the minute. What a refresh
does is the same however often it is repeated.

Full: beyond `proofs_max` in a minute further requests are refused (`overloaded`), for a forgotten proof would be good again.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from chatty.crypto.dpop import Proof, check_proof
from chatty.crypto.nonces import Nonces, slot_s
from chatty.errors import InvalidDpopProof, Overloaded, UseDpopNonce

SOCKET_PATH = "/v1/ws"
proofs_max = 500_000


@dataclass(frozen=True, kw_only=True)
class ProvenRequest:
    """A request over HTTP and its proof; path: without the query. proof: empty if none was sent."""

    method: str
    path: str
    proof: str


class Proofs:
    """origin: the public one, never from a Host header."""

    def __init__(
        self, nonces: Nonces, *, origin: str, clock_s: Callable[[], float], count_max: int = proofs_max
    ) -> None:
        self._nonces = nonces
        self._origin = origin
        self._clock_s = clock_s
        self._count_max = count_max
        self._taken: dict[int, set[bytes]] = {}

    def make_nonce(self) -> str:
        """For the next requests, of whomever."""
        return self._nonces.make(now_s=self._clock_s())

    def check(self, request: ProvenRequest, *, access_token: str = "") -> str:
        """The thumbprint of the key that made the proof. Raises: InvalidDpopProof, UseDpopNonce, Overloaded."""
        if not request.proof:
            raise InvalidDpopProof("no DPoP proof")
        url = self._origin + request.path
        proof = check_proof(request.proof, method=request.method, url=url, access_token=access_token)
        slot = self._nonces.slot(proof.nonce, now_s=self._clock_s())
        if slot is None:
            raise UseDpopNonce("the proof's nonce is none of ours, or too old")
        self._remember(proof, slot)
        return proof.thumbprint

    def check_on_socket(self, proof: str, *, nonce: str, access_token: str) -> str:
        """nonce: of this connection's challenge. Raises: InvalidDpopProof."""
        if not proof:
            raise InvalidDpopProof("no DPoP proof")
        url = self._origin + SOCKET_PATH
        checked = check_proof(proof, method="GET", url=url, access_token=access_token)
        if not hmac.compare_digest(checked.nonce.encode(), nonce.encode()):
            raise InvalidDpopProof("the proof's nonce is not that of this connection's challenge")
        return checked.thumbprint

    def _remember(self, proof: Proof, slot: int) -> None:
        now_slot = int(self._clock_s()) // slot_s
        for old in [one for one in self._taken if now_slot - one > 1]:
            del self._taken[old]
        taken = self._taken.setdefault(slot, set())
        name = sha256(f"{proof.thumbprint}/{proof.jti}".encode()).digest()[:16]
        if name in taken:
            raise InvalidDpopProof("this DPoP proof came before")
        if sum(map(len, self._taken.values())) >= self._count_max:
            raise Overloaded(limiter="dpop_proofs", retry_after_s=float(slot_s))
        taken.add(name)
