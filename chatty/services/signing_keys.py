"""The keys that sign access tokens, and how they take turns without a failed request.

    prepared ── its time has come ──> signing ── the next one's time has come ──> verifying ── nothing it signed lives ──> deleted

A key verifies from its making on. A new one is only a row with the time from which it signs, `prepare_s` ahead. Every node
reads the rows every few seconds, so all know it before anybody signs with it; a node that did not (its store was away) reads them
again when it meets a key that it does not know. Turns are taken by time alone: no step can be half done, and a kill at any moment
leaves rows that mean something.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from chatty.crypto.sealing import Random, Sealer, key_bytes
from chatty.crypto.tokens import Keyring, SigningKey, TokenKeys, access_lifetime_s_max, overlap_margin_s
from chatty.errors import StoreUnavailable
from chatty.services.jobs import Done
from chatty.services.units import Audit, Transactions

SIGNING_KEY = "signing_key"
reload_pause_s = 1.0  # between looks that unknown keys cause


@dataclass(frozen=True, kw_only=True)
class StoredKey:
    """signs_from_s: s since 1970, by the database's clock."""

    version: int
    signs_from_s: float
    age_s: float
    sealed: bytes = field(repr=False)


class SealedKeys(Protocol):
    """The store's keys, inside one transaction."""

    async def lock(self) -> None: ...

    async def keys_by_turn(self, purpose: str) -> Sequence[StoredKey]:
        """Of one purpose, in the order of their turns."""
        ...

    async def add_sealed_key(self, purpose: str, *, version: int, sealed: bytes, signs_in_s: float) -> None: ...

    async def delete_sealed_key(self, purpose: str, *, version: int) -> None: ...


class SigningKeysUnit(Protocol):
    @property
    def server(self) -> SealedKeys: ...
    @property
    def audit(self) -> Audit: ...


def open_keyring(sealer: Sealer, stored: Sequence[StoredKey]) -> Keyring:
    """Raises: SealBroken."""
    return Keyring([(_opened(sealer, one), one.signs_from_s) for one in stored])


def _opened(sealer: Sealer, stored: StoredKey) -> SigningKey:
    return SigningKey(sealer.open(stored.sealed, purpose=f"{SIGNING_KEY}/{stored.version}"))


class SigningKeys(TokenKeys):
    """One node's view of the ring. ring: as read at the start. turn: a lock, so that one looks for unknown keys at a time."""

    def __init__(
        self,
        ring: Keyring,
        *,
        units: Transactions[SigningKeysUnit],
        sealer: Sealer,
        clock_s: Callable[[], float],
        turn: AbstractAsyncContextManager[object],
    ) -> None:
        self._ring = ring
        self._units = units
        self._sealer = sealer
        self._clock_s = clock_s
        self._turn = turn
        self._looked_at_s, self._was_read = clock_s(), True

    def signing(self, *, now_s: float) -> SigningKey:
        return self._ring.signing(now_s=now_s)

    def verifying(self, key_id: str, *, now_s: float) -> Ed25519PublicKey | None:
        return self._ring.verifying(key_id, now_s=now_s)

    def published(self) -> list[SigningKey]:
        return self._ring.published(now_s=self._clock_s())

    async def read(self) -> None:
        """Raises: StoreUnavailable, Overloaded."""
        was_read = False
        try:
            async with self._units.snapshot() as unit:
                stored = await unit.server.keys_by_turn(SIGNING_KEY)
            self._ring, was_read = open_keyring(self._sealer, stored), True
        finally:
            self._looked_at_s, self._was_read = self._clock_s(), was_read

    async def read_for_unknown(self) -> None:
        """Somebody shows a token of a key that is not here: look once more, but not for everybody who makes one up.

        Whoever comes while somebody looks waits for that look and shares its outcome. Raises: StoreUnavailable, Overloaded.
        """
        async with self._turn:
            if self._clock_s() - self._looked_at_s >= reload_pause_s:
                await self.read()
            elif not self._was_read:
                raise StoreUnavailable("the signing keys could not be read a moment ago")


@dataclass(frozen=True, kw_only=True)
class KeyState:
    """state: prepared, signing or verifying. age_s: since it was made. signs_in_s: 0 from its turn on."""

    version: int
    key_id: str
    state: str
    age_s: float
    signs_in_s: float


class SigningKeySteps:
    """prepare_s: from a key's making to its turn. rotation_age_s: a signing key of this age is due for the next one."""

    name = "signing_keys"

    def __init__(
        self,
        keys: SigningKeys,
        *,
        units: Transactions[SigningKeysUnit],
        sealer: Sealer,
        random: Random,
        clock_s: Callable[[], float],
        prepare_s: float,
        rotation_age_s: float,
    ) -> None:
        self._keys = keys
        self._units = units
        self._sealer = sealer
        self._random = random
        self._clock_s = clock_s
        self._prepare_s = prepare_s
        self._rotation_age_s = rotation_age_s

    async def listed(self) -> list[KeyState]:
        async with self._units.snapshot() as unit:
            stored = await unit.server.keys_by_turn(SIGNING_KEY)
        now_s = self._clock_s()
        signing = open_keyring(self._sealer, stored).signing(now_s=now_s).key_id
        return [self._state(one, signing, now_s) for one in stored]

    def _state(self, stored: StoredKey, signing: str, now_s: float) -> KeyState:
        key_id = _opened(self._sealer, stored).key_id
        state = "signing" if key_id == signing else "prepared" if stored.signs_from_s > now_s else "verifying"
        signs_in_s = max(0.0, stored.signs_from_s - now_s)
        return KeyState(version=stored.version, key_id=key_id, state=state, age_s=stored.age_s, signs_in_s=signs_in_s)

    async def rotate(self) -> KeyState:
        """Prepare the next key, unless one waits for its turn already: then that one. Returns it."""
        await self._prepare(even_if_young=True)
        return (await self.listed())[-1]

    async def step(self) -> Done:
        """The job signing_keys: prepare the next key when the newest is old enough, delete those that are over."""
        prepared_count = await self._prepare(even_if_young=False)
        return Done(prepared_count + await self._delete_old())

    async def _prepare(self, *, even_if_young: bool) -> int:
        async with self._units.begin() as unit:
            await unit.server.lock()
            newest = (await unit.server.keys_by_turn(SIGNING_KEY))[-1]
            waits = newest.signs_from_s > self._clock_s()
            if waits or not (even_if_young or newest.age_s > self._rotation_age_s):
                return 0
            version, seed = newest.version + 1, self._random(key_bytes)
            sealed = self._sealer.seal(seed, purpose=f"{SIGNING_KEY}/{version}")
            await unit.server.add_sealed_key(SIGNING_KEY, version=version, sealed=sealed, signs_in_s=self._prepare_s)
            await _record(unit, "signing_key.prepared", SigningKey(seed).key_id)
        await self._keys.read()
        return 1

    async def _delete_old(self) -> int:
        """Each key but the newest is over when nothing that it signed before the next one's turn lives any more."""
        async with self._units.begin() as unit:
            await unit.server.lock()
            stored = await unit.server.keys_by_turn(SIGNING_KEY)
            deleted_count, over_s = 0, self._clock_s() - access_lifetime_s_max - 2 * overlap_margin_s
            for one, following in pairwise(stored):
                if following.signs_from_s < over_s:
                    await unit.server.delete_sealed_key(SIGNING_KEY, version=one.version)
                    await _record(unit, "signing_key.retired", _opened(self._sealer, one).key_id)
                    deleted_count += 1
        return deleted_count


async def _record(unit: SigningKeysUnit, action: str, key_id: str) -> None:
    await unit.audit.record(actor="", device="", action=action, object_=key_id)
