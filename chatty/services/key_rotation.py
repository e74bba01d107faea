"""Rotation: how each kind of key gives way to the next without a failed request. Revoking one: services/key_revocation.py.

| kind       | what it makes                        | an old one is kept                                                     |
|------------|--------------------------------------|------------------------------------------------------------------------|
| signing    | access tokens                        | until those have expired                                               |
| refresh    | refresh tokens (MAC)                 | as long as a log-in session may last: an old token that comes again    |
|            |                                      | must still be known for one                                            |
| nonce      | nonces of proofs and log-ins (MAC)   | minutes                                                                |
| checkpoint | checkpoints, horizons, removals      | its public half for ever; it names its successor (crypto/successions)  |
| audit      | heads of the audit log               | the same                                                               |
| data       | seals secrets in rows                | until all is sealed anew (services/rewrapping.py), and a day           |
| salt       | served salts, user handles           | never replaced: another one would lock everybody out; only sealed anew |

A new key is a row with the time of its turn, `prepare_s` ahead, so that every node has read it by then. Turns are taken by time
alone: no step can be half done, and a kill at any moment leaves rows that mean something. The job `key_rotation` prepares what is
due by its age, puts away what is over and seals rows anew; a command only prepares earlier. All under the server's lock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from chatty.crypto.nonces import login_slot_s
from chatty.crypto.sealing import MasterKey, Random, key_bytes
from chatty.crypto.successions import make_succession
from chatty.crypto.tokens import VerifyingKey, access_lifetime_s_max, overlap_margin_s
from chatty.errors import KeyChangeRefused
from chatty.services.caller import Caller
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.jobs import Done
from chatty.services.rewrapping import Progress, Rewrapping, RewrappingUnit
from chatty.services.server_keys import (
    DATA,
    KINDS,
    NEXT_DATA,
    NONCE,
    REFRESH,
    SALT,
    SIGNING,
    SUCCEEDED,
    KeyStore,
    ReadMaster,
    ServerKeys,
    StoredKey,
    open_data_keys,
    public_half,
    purpose_of,
    ring_of,
)
from chatty.services.units import Transactions
from chatty.services.users import ActingUnit, check_operator
from chatty.wire.successions import AUDIT, CHECKPOINT, KeySuccession

data_key_kept_s = 86_400.0  # after the last row was sealed anew
revoked_data_key_kept_s = 60.0
late_after_s = 7 * 86_400.0  # beyond its age at which a key is due, for a warning: something hinders the job
MASTER = "master"
_master_first = "the master key is being replaced: finish that first"


@dataclass(frozen=True, kw_only=True)
class KeyState:
    """kind, id: as `keys rotate` and `keys revoke` take them. state: prepared, active, accepted, public or revoked.

    turn_in_s: 0 from its turn on. rotates_in_s: None for what does not rotate by itself. warning: empty if all is well.
    """

    kind: str
    id: str
    version: int
    state: str
    age_s: float
    turn_in_s: float
    rotates_in_s: float | None
    warning: str


@dataclass(frozen=True, kw_only=True)
class RotationPolicy:
    """rotation_age_s: by kind, when the job prepares the next one. refresh_kept_s: how long a log-in session may last."""

    rotation_age_s: Mapping[str, float]
    master_age_s_max: float
    prepare_s: float
    refresh_kept_s: float

    def kept_s(self, kind: str) -> float:
        """From the next one's turn on."""
        return {
            SIGNING: access_lifetime_s_max + 2 * overlap_margin_s,
            REFRESH: self.refresh_kept_s + 2 * overlap_margin_s,
            NONCE: 2 * login_slot_s + 2 * overlap_margin_s,
        }.get(kind, overlap_margin_s)


class RotatedKeys(KeyStore, Protocol):
    """The store's keys, inside one transaction, after lock()."""

    async def reseal_key(self, purpose: str, *, version: int, sealed: bytes) -> None: ...

    async def keep_public_half(self, purpose: str, *, version: int, sealed: bytes) -> None:
        """In the place of the key."""
        ...

    async def bring_forward(self, purpose: str, *, version: int) -> None:
        """Its turn begins now."""
        ...

    async def note_revoked(self, purpose: str, *, version: int) -> None: ...

    async def delete_sealed_key(self, purpose: str, *, version: int) -> None: ...

    async def put_succession(self, succession: KeySuccession, *, version: int) -> None:
        """version: of the new key."""
        ...

    async def delete_succession(self, purpose: str, *, version: int) -> None: ...


class KeyRotationUnit(RewrappingUnit, ActingUnit, Protocol):
    @property
    def server(self) -> RotatedKeys: ...


class KeyRotation:
    """The job key_rotation, and what the console asks. read_master: for sealing a new data key."""

    name = "key_rotation"

    def __init__(
        self,
        keys: ServerKeys,
        *,
        units: Transactions[KeyRotationUnit],
        rewrapping: Rewrapping,
        read_master: ReadMaster,
        server_name: str,
        policy: RotationPolicy,
        random: Random,
        crash_points: CrashPoints = NO_CRASH_POINTS,
    ) -> None:
        self._keys = keys
        self._units = units
        self._rewrapping = rewrapping
        self._read_master = read_master
        self._server_name = server_name
        self._policy = policy
        self._random = random
        self._crash_points = crash_points

    async def progress(self) -> Progress:
        """Of sealing rows under the newest data key."""
        return await self._rewrapping.progress()

    async def listed(self) -> list[KeyState]:
        """As they are stored, the master key first."""
        await self._keys.read()
        return self._states()

    def warnings(self) -> list[str]:
        """Of keys that are older than they should be, as last read."""
        return [f"{one.kind} key {one.id}: {one.warning}" for one in self._states() if one.warning]

    def _states(self) -> list[KeyState]:
        return [self._master_state(), *(self.state(one) for kind in KINDS for one in self.of_kind(kind))]

    def of_kind(self, kind: str) -> list[StoredKey]:
        return [one for one in self._keys.stored if one.purpose == purpose_of(kind)]

    def _master_state(self) -> KeyState:
        age_s = self._keys.master_age_s
        warning = "being replaced: finish with chatty-admin keys rotate --master"
        if not is_master_replaced(self._keys.stored):
            is_old = age_s > self._policy.master_age_s_max
            warning = f"{age_s / 86_400:.0f} days old: chatty-admin keys rotate --master" if is_old else ""
        return KeyState(
            kind=MASTER,
            id="-",
            version=0,
            state="active",
            age_s=age_s,
            turn_in_s=0.0,
            rotates_in_s=None,
            warning=warning,
        )

    def state(self, one: StoredKey) -> KeyState:
        kind, now_s = one.purpose.removesuffix("_key"), self._keys.clock_s()
        state = self.word(one, kind)
        due_age_s = self._policy.rotation_age_s.get(kind)
        is_due = state == "active" and due_age_s is not None
        late = is_due and one.age_s > (due_age_s or 0.0) + late_after_s
        return KeyState(
            kind=kind,
            id=self.id_of(one, kind),
            version=one.version,
            state=state,
            age_s=one.age_s,
            turn_in_s=max(0.0, one.signs_from_s - now_s),
            rotates_in_s=max(0.0, (due_age_s or 0.0) - one.age_s) if is_due else None,
            warning=f"{one.age_s / 86_400:.0f} days old: chatty-admin keys rotate {kind}" if late else "",
        )

    def word(self, one: StoredKey, kind: str) -> str:
        if one.revoked_at_s is not None:
            return "revoked"
        if one.is_public:
            return "public"
        if one.version == self._keys.active(kind).version:
            return "active"
        return "prepared" if one.signs_from_s > self._keys.clock_s() else "accepted"

    def id_of(self, one: StoredKey, kind: str) -> str:
        """The key id where clients see one; else the version."""
        if kind not in (SIGNING, *SUCCEEDED):
            return str(one.version)
        return VerifyingKey.from_bytes(public_half(self._keys.sealer, one)).key_id

    # Rotating

    async def rotate(self, by: Caller | None, kind: str) -> KeyState:
        """Prepare the next key, unless one waits for its turn already: then that one. Returns it.

        Raises: KeyChangeRefused: a data key while the master key is being replaced.
        """
        if kind == SALT:
            async with self._units.begin() as unit:
                await unit.server.lock()
                await check_operator(unit, by)
                await self._rewrapping.reseal_keys(unit, self._keys.sealer)
                await record(unit, "key.resealed", SALT, "1")
        else:
            await self._prepare(kind, is_ordered=True, by=by)
        await self._keys.read()
        return self.state(self._keys.active(SALT) if kind == SALT else ring_of(self._keys.stored, kind).turns[-1].key)

    async def planned(self, by: Caller | None, kind: str) -> KeyState:
        """What rotate() would return; a key that is not made yet has no id. Raises: as rotate()."""
        await self._keys.read()
        async with self._units.begin() as unit:
            await check_operator(unit, by)
            stored = await unit.server.keys()
        newest = self.state(ring_of(stored, kind).turns[-1].key)
        if kind == SALT or newest.turn_in_s:
            return newest
        if kind == DATA and is_master_replaced(stored):
            raise KeyChangeRefused(_master_first)
        version = 1 + max(one.version for one in stored if one.purpose == purpose_of(kind))
        coming = replace(newest, id="-", version=version, state="prepared", rotates_in_s=None, warning="")
        return replace(coming, age_s=0.0, turn_in_s=self._policy.prepare_s)

    async def step(self) -> Done:
        """The job: prepare the next key of each kind that is old enough, put away those that are over, seal rows anew.

        Raises: StoreUnavailable, Overloaded, OutcomeUnknown; SealBroken, BadConfiguration: the master key is not the server's.
        """
        await self._keys.read()
        changed_count = 0
        for kind in self._policy.rotation_age_s:
            if self._keys.active(kind).age_s > self._policy.rotation_age_s[kind]:
                changed_count += await self._prepare(kind)
        changed_count += await self._put_away()
        done = await self._rewrapping.step()
        return Done(changed_count + done.rows_count, has_more=done.has_more)

    async def _prepare(self, kind: str, *, is_ordered: bool = False, by: Caller | None = None) -> int:
        """is_ordered: even if the newest is young. Returns how many keys are new."""
        master = await self._read_master() if kind == DATA else None
        async with self._units.begin() as unit:
            await unit.server.lock()
            await check_operator(unit, by)
            stored = await unit.server.keys()
            newest = ring_of(stored, kind).turns[-1].key
            is_pending = kind == DATA and is_master_replaced(stored)
            if is_pending and is_ordered:
                raise KeyChangeRefused(_master_first)
            waits = newest.signs_from_s > self._keys.clock_s()
            is_young = newest.age_s <= self._policy.rotation_age_s[kind]
            if waits or is_pending or (is_young and not is_ordered):
                return 0
            await self.add(unit, kind, stored, in_s=self._policy.prepare_s, master=master)
            await self._crash_points.reach("before_commit", self.name)
        await self._keys.read()
        return 1

    async def add(
        self,
        unit: KeyRotationUnit,
        kind: str,
        stored: Sequence[StoredKey],
        *,
        in_s: float,
        master: MasterKey | None,
    ) -> None:
        """The next key, whose turn begins in in_s. master: of data keys; it must be the one that they are sealed under."""
        purpose, seed = purpose_of(kind), self._random(key_bytes)
        version = 1 + max(one.version for one in stored if one.purpose == purpose)
        sealer = self._keys.sealer
        if master is not None:
            open_data_keys(stored, master)
            sealed = master.wrap(seed, version=version, random=self._random)
        else:
            sealed = sealer.seal(seed, purpose=f"{purpose}/{version}")
        await unit.server.add_sealed_key(purpose, version=version, sealed=sealed, signs_in_s=in_s)
        if kind in SUCCEEDED:
            await self.name_successor(unit, kind, stored, seed, version=version, in_s=in_s)
        added = next(one for one in await unit.server.keys(purpose) if one.version == version)
        await record(unit, "key.prepared", kind, str(version) if kind == DATA else self.id_of(added, kind))

    async def name_successor(
        self,
        unit: KeyRotationUnit,
        kind: str,
        stored: Sequence[StoredKey],
        seed: bytes,
        *,
        version: int,
        in_s: float,
    ) -> None:
        """The key whose turn it is now signs that this one follows."""
        old = ring_of(stored, kind).current(now_s=self._keys.clock_s()).key
        succession = make_succession(
            server=self._server_name,
            purpose=CHECKPOINT if kind == CHECKPOINT else AUDIT,
            old_seed=self._keys.sealer.open(old.sealed, purpose=old.seal_purpose),
            new_seed=seed,
            time=int((self._keys.clock_s() + in_s) * 1000),
        )
        await unit.server.put_succession(succession, version=version)

    async def _put_away(self) -> int:
        """A key is over when nothing that it made before the next one's turn lives any more. Returns how many were."""
        if not any(self._over(self._keys.stored)):
            return 0
        retired_count = 0
        async with self._units.begin() as unit:
            await unit.server.lock()
            for kind, one in self._over(await unit.server.keys()):
                if kind == DATA and not await self._is_unused(unit, one):
                    continue
                await self._retire(unit, kind, one)
                await record(unit, "key.retired", kind, self.id_of(one, kind))
                retired_count += 1
        await self._keys.read()
        return retired_count

    def _over(self, stored: Sequence[StoredKey]) -> list[tuple[str, StoredKey]]:
        now_s, over = self._keys.clock_s(), []
        for kind in KINDS:
            turns = [turn.key for turn in ring_of(stored, kind).turns]
            for one, following in pairwise(turns):
                if following.signs_from_s < now_s - self._kept_s(kind, one):
                    over.append((kind, one))
        over += [
            (SIGNING, one)
            for one in stored
            if one.purpose == purpose_of(SIGNING)
            and one.revoked_at_s is not None
            and one.revoked_at_s < now_s - self._policy.kept_s(SIGNING)
        ]
        return over

    def _kept_s(self, kind: str, one: StoredKey) -> float:
        if kind == DATA:
            return data_key_kept_s if one.revoked_at_s is None else revoked_data_key_kept_s
        return self._policy.kept_s(kind)

    async def _is_unused(self, unit: KeyRotationUnit, one: StoredKey) -> bool:
        """Everything was sealed anew, and has been for a while; counted once more, for a paused process may have been late."""
        rotation = await unit.sealed_rows.rotation(DATA)
        if rotation is None or rotation.finished_age_s is None or rotation.finished_age_s < self._kept_s(DATA, one):
            return False
        if not await self._rewrapping.count_left(unit, below=one.version + 1):
            return True
        await unit.sealed_rows.begin_rotation(DATA, version=rotation.version, total_count=0)
        return False

    async def _retire(self, unit: KeyRotationUnit, kind: str, one: StoredKey) -> None:
        if kind in SUCCEEDED:
            await self.keep_public(unit, one)
        else:
            await unit.server.delete_sealed_key(one.purpose, version=one.version)

    async def keep_public(self, unit: KeyRotationUnit, one: StoredKey) -> None:
        if not one.is_public:
            sealer = self._keys.sealer
            sealed = sealer.seal(public_half(sealer, one), purpose=f"{one.seal_purpose}/public")
            await unit.server.keep_public_half(one.purpose, version=one.version, sealed=sealed)


def is_master_replaced(stored: Sequence[StoredKey]) -> bool:
    return any(one.purpose == purpose_of(NEXT_DATA) for one in stored)


async def record(unit: KeyRotationUnit, action: str, kind: str, key_id: str) -> None:
    await unit.audit.record(actor="", device="", action=action, object_=key_id, detail={"kind": kind})
