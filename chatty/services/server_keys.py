"""The server's own keys, kept sealed in the database: made at the first start, the same on every node, read every few seconds.

    prepared ── its time has come ──> active ── the next one's time has come ──> accepted ── nothing it made lives ──> deleted
                                                                                    └─ of checkpoints, audit heads ──> public

The data keys are sealed under the master key, every other key under a data key. A start with another master key fails here,
before anything is served. Keys of each kind take turns (services/key_rotation.py): a new one is only a row with the time from
which it is used. Every node reads the rows every few seconds, so all know a key before anybody uses it; a node that did not (its
store was away) reads them again when it meets something made with a key that it does not know. A sealed text of such a key is
refused for a moment (DataKeyUnknown).

What signs, seals and makes MACs here is one object each for the life of the process; a read changes what is inside. No step holds
a key over an `await`, so a name and a signature beside it are always of one key.
"""

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from chatty.crypto.audit import AuditKey
from chatty.crypto.rings import Ring, Turn
from chatty.crypto.sealing import MasterKey, Random, Sealer, key_bytes
from chatty.crypto.tokens import Keyring, SigningKey, TokenKeys, VerifyingKey, make_jwks
from chatty.errors import SealBroken, StoreUnavailable
from chatty.services.server import Server
from chatty.services.units import Transactions
from chatty.wire.accounts import Jwks
from chatty.wire.canonical import encode_base64
from chatty.wire.successions import AUDIT, CHECKPOINT, KeySuccession

DATA, SIGNING, REFRESH, NONCE, SALT = "data", "signing", "refresh", "nonce", "salt"
KINDS = (SIGNING, DATA, CHECKPOINT, AUDIT, REFRESH, NONCE, SALT)
SUCCEEDED = (CHECKPOINT, AUDIT)  # whose public half stays for ever, and which name their successor
NEXT_DATA = "next_data"  # the data keys under the master key that is to come
reload_pause_s = 1.0  # between looks that unknown keys cause

ReadMaster = Callable[[], Awaitable[MasterKey]]  # as its file says now


def purpose_of(kind: str) -> str:
    """What a key's row and its seal are named by."""
    return f"{kind}_key"


@dataclass(frozen=True, kw_only=True)
class StoredKey:
    """Times in s since 1970, by the database's clock. is_public: only the public half is left."""

    purpose: str
    version: int
    signs_from_s: float
    age_s: float
    is_public: bool = False
    revoked_at_s: float | None = None
    sealed: bytes = field(repr=False)

    @property
    def seal_purpose(self) -> str:
        return f"{self.purpose}/{self.version}{'/public' if self.is_public else ''}"


class KeyStore(Server, Protocol):
    """The store's keys, inside one transaction."""

    async def keys(self, purpose: str | None = None) -> Sequence[StoredKey]:
        """Of one purpose or all, in the order of their turns."""
        ...

    async def successions(self) -> Sequence[KeySuccession]:
        """The oldest first."""
        ...

    async def master_age_s(self) -> float:
        """Since the master key was replaced last, or since the first start."""
        ...


class ServerKeysUnit(Protocol):
    @property
    def server(self) -> KeyStore: ...


class LiveKeyring(TokenKeys):
    """The keys that sign access tokens. revoked: the ids of those that were revoked while tokens of theirs may live."""

    ring: Keyring
    revoked: frozenset[str]

    def signing(self, *, now_s: float) -> SigningKey:
        return self.ring.signing(now_s=now_s)

    def verifying(self, key_id: str, *, now_s: float) -> Ed25519PublicKey | None:
        return self.ring.verifying(key_id, now_s=now_s)

    def is_revoked(self, key_id: str) -> bool:
        return key_id in self.revoked


class LiveSigner:
    """The key that signs checkpoints, horizons and removals."""

    key: SigningKey

    @property
    def key_id(self) -> str:
        return self.key.key_id

    @property
    def public_text(self) -> str:
        return self.key.public_text

    def sign(self, message: bytes) -> bytes:
        return self.key.sign(message)


class LiveAuditKey:
    """The key that signs heads of the audit log. known: the public keys of all that did or will."""

    key: AuditKey
    known: frozenset[str]

    @property
    def public(self) -> str:
        return self.key.public

    def sign(self, message: bytes) -> str:
        return self.key.sign(message)


class ServerKeys:
    """One node's view. sealer: for secrets at rest. signing: access tokens. checkpoint: rooms' heads. audit: the audit log's.

    clock_s: s since 1970; may be set. turn: a lock, so that one looks for unknown keys at a time.
    """

    salt_key: bytes

    def __init__(
        self,
        units: Transactions[ServerKeysUnit],
        read_master: ReadMaster,
        *,
        clock_s: Callable[[], float],
        turn: AbstractAsyncContextManager[object],
        random: Random,
    ) -> None:
        self.clock_s = clock_s
        self.sealer = Sealer({}, version=0, random=random)
        self.signing, self.checkpoint, self.audit = LiveKeyring(), LiveSigner(), LiveAuditKey()
        self._data_keys: Mapping[int, bytes] = {}
        self._units = units
        self._read_master = read_master
        self._turn = turn
        self.stored: Sequence[StoredKey] = ()
        self.successions: Sequence[KeySuccession] = ()
        self.master_age_s = 0.0
        self._macs: Mapping[str, Sequence[bytes]] = {}
        self._looked_at_s, self._was_read = -reload_pause_s, True

    def refresh_keys(self) -> Sequence[bytes]:
        """The first makes refresh tokens, all are good for checking them."""
        return self._macs[REFRESH]

    def nonce_keys(self) -> Sequence[bytes]:
        """As refresh_keys()."""
        return self._macs[NONCE]

    def published(self) -> list[SigningKey]:
        """Those that verify access tokens now."""
        return self.signing.ring.published(now_s=self.clock_s())

    def checkpoint_keys(self) -> list[VerifyingKey]:
        """All that ever signed, for what they signed stays."""
        return [VerifyingKey.from_bytes(self._public(one)) for one in self._of(CHECKPOINT)]

    def jwks(self) -> Jwks:
        """What clients are told."""
        shown = [one for one in self.successions if one.purpose == CHECKPOINT]
        return make_jwks(self.published(), checkpoint_keys=self.checkpoint_keys(), successions=shown)

    async def read(self) -> None:
        """Raises: StoreUnavailable, Overloaded; SealBroken, BadConfiguration: a new data key is another master key's."""
        was_read = False
        try:
            async with self._units.snapshot() as unit:
                stored, successions = await unit.server.keys(), await unit.server.successions()
                self.master_age_s = await unit.server.master_age_s()
            data_keys = await self._opened_data_keys(stored)
            self.stored, self.successions, self._data_keys = stored, successions, data_keys
            self._take()
            was_read = True
        finally:
            self._looked_at_s, self._was_read = self.clock_s(), was_read

    async def read_for_unknown(self) -> None:
        """Somebody shows a token of a key that is not here: look once more, but not for everybody who makes one up.

        Whoever comes while somebody looks waits for that look and shares its outcome. Raises: as read().
        """
        async with self._turn:
            if self.clock_s() - self._looked_at_s >= reload_pause_s:
                await self.read()
            elif not self._was_read:
                raise StoreUnavailable("the server's keys could not be read a moment ago")

    async def _opened_data_keys(self, stored: Sequence[StoredKey]) -> Mapping[int, bytes]:
        """The master key is read only when one is new here."""
        wanted = {one.version for one in stored if one.purpose == purpose_of(DATA)}
        known = self._data_keys
        if wanted - known.keys():
            known = open_data_keys(stored, await self._read_master())
        return {version: known[version] for version in wanted}

    def _take(self) -> None:
        """No await in here: nobody sees half of it."""
        self.sealer.take(self._data_keys, version=self.active(DATA).version)
        signing = [one for one in self._of(SIGNING) if not one.is_public]
        self.signing.ring = Keyring([(SigningKey(self._opened(one)), one.signs_from_s) for one in signing])
        self.signing.revoked = frozenset(
            VerifyingKey.from_bytes(self._public(one)).key_id for one in self._of(SIGNING) if one.is_public
        )
        self.checkpoint.key, self.audit.key = SigningKey(self._current(CHECKPOINT)), AuditKey(self._current(AUDIT))
        self.audit.known = frozenset(encode_base64(self._public(one)) for one in self._of(AUDIT))
        self.salt_key = self._current(SALT)
        self._macs = {kind: self._mac_keys(kind) for kind in (REFRESH, NONCE)}

    def _of(self, kind: str) -> list[StoredKey]:
        return [one for one in self.stored if one.purpose == purpose_of(kind)]

    def active(self, kind: str) -> StoredKey:
        """The one in use now."""
        return ring_of(self.stored, kind).current(now_s=self.clock_s()).key

    def _current(self, kind: str) -> bytes:
        return self._opened(self.active(kind))

    def _mac_keys(self, kind: str) -> list[bytes]:
        active = self.active(kind)
        others = [one for one in reversed(self._of(kind)) if one.version != active.version]
        return [self._opened(one) for one in (active, *others)]

    def _opened(self, one: StoredKey) -> bytes:
        return self.sealer.open(one.sealed, purpose=one.seal_purpose)

    def _public(self, one: StoredKey) -> bytes:
        return public_half(self.sealer, one)


def ring_of(stored: Sequence[StoredKey], kind: str) -> Ring[StoredKey]:
    """The keys of a kind that take turns."""
    keys = [one for one in stored if one.purpose == purpose_of(kind) and not one.is_public]
    return Ring([Turn(version=one.version, key=one, from_s=one.signs_from_s) for one in keys])


def public_half(sealer: Sealer, one: StoredKey) -> bytes:
    """Of a key that signs, or signed once. Raises: SealBroken."""
    opened = sealer.open(one.sealed, purpose=one.seal_purpose)
    return opened if one.is_public else SigningKey(opened).public.public_bytes_raw()


def open_data_keys(stored: Sequence[StoredKey], master: MasterKey) -> dict[int, bytes]:
    """By version. Raises: SealBroken: the master key is neither the one that they are sealed under nor the one to come."""
    try:
        return _unwrapped(stored, DATA, master)
    except SealBroken:
        following = _unwrapped(stored, NEXT_DATA, master)
        if not following:
            raise
        return following


def _unwrapped(stored: Sequence[StoredKey], kind: str, master: MasterKey) -> dict[int, bytes]:
    rows = [one for one in stored if one.purpose == purpose_of(kind)]
    return {one.version: master.unwrap(one.sealed, version=one.version) for one in rows}


async def open_server_keys(
    unit_of_work: Transactions[ServerKeysUnit],
    read_master: ReadMaster,
    *,
    turn: AbstractAsyncContextManager[object],
    clock_s: Callable[[], float] = time.time,
    random: Random = os.urandom,
) -> ServerKeys:
    """Raises: SealBroken: the master key is not the one that these keys were sealed under."""
    master = await read_master()
    async with unit_of_work.begin() as unit:
        await unit.server.lock()
        await _make_missing(unit.server, master, random)
    keys = ServerKeys(unit_of_work, read_master, clock_s=clock_s, turn=turn, random=random)
    await keys.read()
    return keys


async def _make_missing(server: KeyStore, master: MasterKey, random: Random) -> None:
    """At the first start all, later what a newer version needs beside."""
    stored = await server.keys()
    missing = [kind for kind in KINDS if not any(one.purpose == purpose_of(kind) for one in stored)]
    if DATA in missing:
        data_keys = {1: random(key_bytes)}
        await server.add_sealed_key(
            purpose_of(DATA), version=1, sealed=master.wrap(data_keys[1], version=1, random=random)
        )
    else:
        data_keys = open_data_keys(stored, master)
    sealer = Sealer(data_keys, version=min(data_keys), random=random)
    for purpose in (purpose_of(kind) for kind in missing if kind != DATA):
        sealed = sealer.seal(random(key_bytes), purpose=f"{purpose}/1")
        await server.add_sealed_key(purpose, version=1, sealed=sealed)


async def read_audit_keys(unit_of_work: Transactions[ServerKeysUnit], master: MasterKey) -> list[str]:
    """The public audit keys, as the master key vouches for them; none on a database that no server has started on.

    Raises: SealBroken.
    """
    async with unit_of_work.snapshot() as unit:
        stored = await unit.server.keys()
    data_keys = open_data_keys(stored, master)
    if not data_keys:
        return []
    sealer = Sealer(data_keys, version=max(data_keys))
    return [encode_base64(public_half(sealer, one)) for one in stored if one.purpose == purpose_of(AUDIT)]
