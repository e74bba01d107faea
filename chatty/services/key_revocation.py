"""Revoking a key that somebody else may have: at once, and its consequences are told before.

The next key takes its turn in the same transaction. Other processes read it within seconds; until then they refuse what it made,
and go on with the old one. What others were told of stays: a revoked signing key's name, so that its tokens count as expired and
clients refresh; the public halves of checkpoint and audit keys, whose successions say from when they are not believed.
"""

from collections.abc import Mapping, Sequence

from chatty.crypto.sealing import MasterKey
from chatty.errors import KeyChangeRefused, NotFound
from chatty.services.caller import Caller
from chatty.services.key_rotation import KeyRotation, KeyRotationUnit, KeyState, is_master_replaced, record
from chatty.services.rewrapping import Rewrapping
from chatty.services.server_keys import (
    DATA,
    NONCE,
    REFRESH,
    SALT,
    SIGNING,
    SUCCEEDED,
    ReadMaster,
    ServerKeys,
    StoredKey,
    ring_of,
)
from chatty.services.units import Transactions
from chatty.services.users import check_operator
from chatty.wire.successions import AUDIT, CHECKPOINT

CONSEQUENCES: Mapping[str, Sequence[str]] = {
    SIGNING: (
        "Access tokens that it signed are refused, their sockets closed; clients refresh by themselves. Nobody is signed out.",
    ),
    REFRESH: ("What was stolen with it is of no use to who has not the clients' own keys as well.",),
    NONCE: ("Requests and log-ins in hand are asked for another proof; clients do that by themselves.",),
    CHECKPOINT: (
        "It signs no checkpoint, horizon or removal any more; clients refuse what it signs from now on.",
        "What it signed before stays valid: nobody can sign that again.",
    ),
    AUDIT: (
        "It signs no head any more; the verifier refuses heads that it signs from now on.",
        "The log before is only as good as heads that were carried away in time: chatty-admin audit verify --head FILE.",
    ),
    DATA: (
        "Whoever has it and a copy of the database has what was sealed under it: public log-in keys, TOTP secrets, the keys.",
        "Rotate or revoke those as well: signing, refresh, nonce, checkpoint, audit.",
        "A process that is paused for longer than a minute meanwhile may seal under it too late, and lose that one secret.",
    ),
}


class KeyRevocation:
    """What the console asks. read_master: for sealing a new data key."""

    def __init__(
        self,
        keys: ServerKeys,
        *,
        units: Transactions[KeyRotationUnit],
        rotation: KeyRotation,
        rewrapping: Rewrapping,
        read_master: ReadMaster,
    ) -> None:
        self._keys = keys
        self._units = units
        self._rotation = rotation
        self._rewrapping = rewrapping
        self._read_master = read_master

    def found(self, kind: str, key_id: str) -> StoredKey:
        """As last read. Raises: NotFound; KeyChangeRefused for what is never revoked."""
        if kind == SALT:
            raise KeyChangeRefused("another salt key would lock every user out; keys rotate salt seals it anew")
        found = [one for one in self._rotation.of_kind(kind) if self._rotation.id_of(one, kind) == key_id]
        if not found or found[0].revoked_at_s is not None:
            raise NotFound(f"there is no {kind} key {key_id} that could be revoked")
        return found[0]

    async def consequences(self, kind: str, key_id: str) -> list[str]:
        """What revoking it does, one sentence each. Raises: as found()."""
        await self._keys.read()
        one = self.found(kind, key_id)
        word, told = self._rotation.word(one, kind), list(CONSEQUENCES[kind])
        if word == "prepared":
            return ["It was never used; nothing else changes."]
        if kind == REFRESH:
            async with self._units.snapshot() as unit:
                count = await unit.sealed_rows.living_families()
            told.insert(0, f"Up to {count} log-in sessions cannot be refreshed and must be begun anew by their users.")
        if kind == DATA:
            async with self._units.snapshot() as unit:
                count = await self._rewrapping.count_left(unit, below=one.version + 1)
            told.insert(0, f"{count} secrets are sealed under it or an older one; they are sealed anew at once.")
        if word == "active":
            told.append(
                "A new key takes its place now, before other processes have read it: for some seconds they may refuse."
            )
        return told

    async def revoke(self, by: Caller | None, kind: str, key_id: str) -> KeyState:
        """At once: it makes nothing any more, and what it made is not believed. Returns the one in use from now on.

        Raises: as found(); KeyChangeRefused: a data key while the master key is being replaced.
        """
        await self._keys.read()
        one = self.found(kind, key_id)
        master = await self._read_master() if kind == DATA else None
        async with self._units.begin() as unit:
            await unit.server.lock()
            await check_operator(unit, by)
            stored = await unit.server.keys()
            if kind == DATA and is_master_replaced(stored):
                raise KeyChangeRefused("the master key is being replaced: finish that first")
            if kind == DATA and self._rotation.word(one, kind) == "prepared":
                # Its version would be given to another key, and a process that knows it would go on with the wrong one.
                raise KeyChangeRefused("nothing is sealed under it yet: wait until it is active")
            if ring_of(stored, kind).current(now_s=self._keys.clock_s()).version == one.version:
                await self._succeed_now(unit, kind, stored, master)
            await self._end(unit, kind, one)
            await record(unit, "key.revoked", kind, key_id)
        await self._keys.read()
        return self._rotation.state(self._keys.active(kind))

    async def _succeed_now(
        self, unit: KeyRotationUnit, kind: str, stored: Sequence[StoredKey], master: MasterKey | None
    ) -> None:
        waiting = ring_of(stored, kind).turns[-1].key
        if waiting.signs_from_s <= self._keys.clock_s():
            await self._rotation.add(unit, kind, stored, in_s=0.0, master=master)
            return
        await unit.server.bring_forward(waiting.purpose, version=waiting.version)
        if kind in SUCCEEDED:
            seed = self._keys.sealer.open(waiting.sealed, purpose=waiting.seal_purpose)
            await self._rotation.name_successor(unit, kind, stored, seed, version=waiting.version, in_s=0.0)

    async def _end(self, unit: KeyRotationUnit, kind: str, one: StoredKey) -> None:
        if self._rotation.word(one, kind) == "prepared":
            await unit.server.delete_sealed_key(one.purpose, version=one.version)
            if kind in SUCCEEDED:
                await unit.server.delete_succession(kind, version=one.version)
        elif kind == DATA:
            await unit.server.note_revoked(one.purpose, version=one.version)
        elif kind in (SIGNING, *SUCCEEDED):
            await self._rotation.keep_public(unit, one)
            await unit.server.note_revoked(one.purpose, version=one.version)
        else:
            await unit.server.delete_sealed_key(one.purpose, version=one.version)
