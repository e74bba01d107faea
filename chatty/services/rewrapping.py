"""Rewrapping: every secret in a row is sealed anew under the data key in use, in batches, beside all that goes on.

    its turn has come ──> sealed_keys ──> users ──> registration_requests ──> totp_secrets ──> none is left ──> finished
                             ^────────────────────────── some are left ──────────────────────────┘

Each batch is one transaction: rows are locked (those that somebody works on are skipped), sealed anew, and how far it came is
noted beside them; so a kill at any moment repeats nothing and leaves nothing out. The value does not change and no reader
notices: both data keys open. What was skipped, or sealed under the old key meanwhile, is found by counting at the end: then it
goes round again. Two holders of the lease take turns at the row of key_rotations.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from chatty.crypto.sealing import Sealer, sealing_version
from chatty.ids import UserId
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.factor_check import totp_purpose
from chatty.services.jobs import Done
from chatty.services.server_keys import DATA, KeyStore, ServerKeys
from chatty.services.sessions import login_key_purpose
from chatty.services.units import Audit, Transactions

rows_a_step_max = 200
_OWN = "sealed_keys"
STORES: Mapping[str, Callable[[UserId], str]] = {
    "users": login_key_purpose,
    "registration_requests": login_key_purpose,
    "totp_secrets": totp_purpose,
}
_ORDER = (_OWN, *STORES)


@dataclass(frozen=True, kw_only=True)
class SealedRow:
    """place: its number in its store."""

    place: int
    user: UserId
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """What is stored of work on keys. version: the key that it leads to. store, place: where it stands. finished_age_s: None
    while it is not.
    """

    version: int
    store: str
    place: int
    done_count: int
    total_count: int
    age_s: float
    finished_age_s: float | None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """version: of the data key that rows are sealed under anew; 0: that never happened."""

    version: int
    done_count: int
    total_count: int
    age_s: float
    is_finished: bool


class SealedRows(Protocol):
    """Sealed columns, inside one transaction."""

    async def rotation(self, kind: str) -> Rotation | None: ...

    async def lock_rotation(self, kind: str) -> Rotation | None: ...

    async def begin_rotation(self, kind: str, *, version: int, total_count: int) -> None:
        """From the beginning; what stood there is overwritten."""
        ...

    async def move_on(self, kind: str, *, store: str, place: int, done_count: int) -> None:
        """done_count: to be added."""
        ...

    async def finish_rotation(self, kind: str) -> None: ...

    async def lock_sealed(self, store: str, *, place: int, below: int, count_max: int) -> Sequence[SealedRow]:
        """Rows from this place on that are sealed under an older data key than `below`; those locked by others are skipped."""
        ...

    async def reseal(self, store: str, rows: Sequence[SealedRow]) -> None: ...

    async def count_sealed(self, store: str, *, below: int) -> int: ...

    async def living_families(self) -> int: ...


class OwnKeys(KeyStore, Protocol):
    async def reseal_key(self, purpose: str, *, version: int, sealed: bytes) -> None: ...


class RewrappingUnit(Protocol):
    @property
    def server(self) -> OwnKeys: ...
    @property
    def sealed_rows(self) -> SealedRows: ...
    @property
    def audit(self) -> Audit: ...


class Rewrapping:
    """The part of the job key_rotation that takes long."""

    def __init__(
        self,
        keys: ServerKeys,
        *,
        units: Transactions[RewrappingUnit],
        crash_points: CrashPoints = NO_CRASH_POINTS,
    ) -> None:
        self._keys = keys
        self._units = units
        self._crash_points = crash_points

    async def progress(self) -> Progress:
        async with self._units.snapshot() as unit:
            rotation = await unit.sealed_rows.rotation(DATA)
        if rotation is None:
            return Progress(version=0, done_count=0, total_count=0, age_s=0.0, is_finished=True)
        return Progress(
            version=rotation.version,
            done_count=rotation.done_count,
            total_count=max(rotation.total_count, rotation.done_count),
            age_s=rotation.age_s,
            is_finished=rotation.finished_age_s is not None,
        )

    async def step(self) -> Done:
        """One batch. Cancelled: all of the batch is sealed anew or nothing."""
        version = self._keys.sealer.version
        async with self._units.begin() as unit:
            rotation = await unit.sealed_rows.lock_rotation(DATA)
            if rotation is None or rotation.version < version:
                return await self._begin(unit, version)
            if rotation.finished_age_s is not None or rotation.version > version:
                return Done()
            done = await self._batch(unit, rotation)
            await self._crash_points.reach("before_commit", "key_rotation")
        await self._crash_points.reach("after_commit", "key_rotation")
        return done

    async def _begin(self, unit: RewrappingUnit, version: int) -> Done:
        left_count = await self.count_left(unit, below=version)
        await unit.sealed_rows.begin_rotation(DATA, version=version, total_count=left_count)
        if not left_count:
            await unit.sealed_rows.finish_rotation(DATA)
        return Done(has_more=left_count > 0)

    async def _batch(self, unit: RewrappingUnit, rotation: Rotation) -> Done:
        store = rotation.store or _OWN
        if store == _OWN:
            await unit.server.lock()
            count, place, is_over = await self.reseal_keys(unit, self._keys.sealer), 0, True
        else:
            rows = await unit.sealed_rows.lock_sealed(
                store, place=rotation.place, below=rotation.version, count_max=rows_a_step_max
            )
            await unit.sealed_rows.reseal(store, [self._resealed(store, row) for row in rows])
            count, place = len(rows), rows[-1].place if rows else 0
            is_over = count < rows_a_step_max
        if is_over and store == _ORDER[-1]:
            await self._finish(unit, rotation, count)
            return Done(count)
        following = _ORDER[_ORDER.index(store) + 1] if is_over else store
        await unit.sealed_rows.move_on(DATA, store=following, place=0 if is_over else place, done_count=count)
        return Done(count, has_more=True)

    async def _finish(self, unit: RewrappingUnit, rotation: Rotation, count: int) -> None:
        """Unless something is left: then round again, but not at once, for somebody holds it."""
        await unit.sealed_rows.move_on(DATA, store=_OWN, place=0, done_count=count)
        if not await self.count_left(unit, below=rotation.version):
            await unit.sealed_rows.finish_rotation(DATA)
            await unit.audit.record(
                actor="",
                device="",
                action="key.rows_resealed",
                object_=str(rotation.version),
                detail={"kind": DATA, "rows_count": rotation.done_count + count},
            )

    def _resealed(self, store: str, row: SealedRow) -> SealedRow:
        purpose, sealer = STORES[store](row.user), self._keys.sealer
        opened = sealer.open(row.sealed, purpose=purpose)
        return SealedRow(place=row.place, user=row.user, sealed=sealer.seal(opened, purpose=purpose))

    async def reseal_keys(self, unit: RewrappingUnit, sealer: Sealer) -> int:
        """The server's own keys, whose values stay; under the server's lock. Returns how many there were."""
        old = [one for one in await unit.server.keys() if 0 < sealing_version(one.sealed) < sealer.version]
        for one in old:
            opened = sealer.open(one.sealed, purpose=one.seal_purpose)
            sealed = sealer.seal(opened, purpose=one.seal_purpose)
            await unit.server.reseal_key(one.purpose, version=one.version, sealed=sealed)
        return len(old)

    async def count_left(self, unit: RewrappingUnit, *, below: int) -> int:
        """What is sealed under an older data key than this one."""
        own = sum(0 < sealing_version(one.sealed) < below for one in await unit.server.keys())
        return own + sum([await unit.sealed_rows.count_sealed(store, below=below) for store in STORES])
