"""Replacing the master key: it seals the data keys alone, so these few rows are all that changes.

    1. a new key is made in a file beside the old one     the old one opens everything
    2. the data keys are sealed under the new one as well  either opens everything; both sets of rows stand side by side
    3. the new file takes the old one's name               the new one opens everything
    4. the rows under the old one are replaced             the same

A server that starts, or reads a new data key, tries both sets of rows; so one that is killed anywhere in between starts with the
file that it finds, and the same command goes on where the last one stopped. Between 2 and 4 no data key is made, for it would
have to be sealed under both. Running servers hold data keys, not the master key: they notice nothing. Several processes on
machines of their own: stop after 2 (`prepare`), give each other one the new file, then go on.
"""

from collections.abc import Sequence
from typing import Protocol

from chatty.crypto.sealing import MasterKey, Random
from chatty.errors import SealBroken
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.key_rotation import MASTER, KeyRotationUnit
from chatty.services.server_keys import DATA, NEXT_DATA, StoredKey, open_data_keys, purpose_of
from chatty.services.units import Transactions


class MasterKeyFiles(Protocol):
    """The file that the server reads, and the one beside it. Raises, all: BadConfiguration."""

    async def current(self) -> MasterKey: ...

    async def following(self) -> MasterKey:
        """The one that is to replace it, and so another; made if there is none."""
        ...

    async def drop_used(self) -> None:
        """The one beside it goes if it is the same: it has its place already."""
        ...

    async def replace(self) -> str:
        """It takes the other's name, in one step. Returns where the old one is kept."""
        ...


class MasterKeyRotation:
    """One run of `chatty-admin keys rotate --master`, beside the database; the server need not run."""

    def __init__(
        self,
        files: MasterKeyFiles,
        *,
        units: Transactions[KeyRotationUnit],
        random: Random,
        crash_points: CrashPoints = NO_CRASH_POINTS,
    ) -> None:
        self._files = files
        self._units = units
        self._random = random
        self._crash_points = crash_points

    async def prepare(self) -> None:
        """Steps 1 and 2, as far as they are not done. Raises: SealBroken: the file's key is not this database's."""
        async with self._units.snapshot() as unit:
            stored = await unit.server.keys()
        current = await self._files.current()
        open_data_keys(stored, current)
        if self._is_replaced(stored, current):
            return
        following = await self._files.following()
        await self._crash_points.reach("before_commit", "master_key made")
        async with self._units.begin() as unit:
            await unit.server.lock()
            await self._wrap_again(unit, current, following)
            await self._crash_points.reach("before_commit", "master_key wrapped")
        await self._crash_points.reach("after_commit", "master_key wrapped")

    def _is_replaced(self, stored: Sequence[StoredKey], current: MasterKey) -> bool:
        """Whether step 3 is done: the file's key opens the second set of rows."""
        return any(one.purpose == purpose_of(NEXT_DATA) for one in stored) and _opens(stored, NEXT_DATA, current)

    async def _wrap_again(self, unit: KeyRotationUnit, current: MasterKey, following: MasterKey) -> None:
        """Under the lock: no data key is added meanwhile. Rows of an older attempt whose file is lost are replaced."""
        stored = await unit.server.keys()
        purpose = purpose_of(NEXT_DATA)
        waiting = [one for one in stored if one.purpose == purpose]
        if waiting and _opens(stored, NEXT_DATA, following):
            return
        for one in waiting:
            await unit.server.delete_sealed_key(purpose, version=one.version)
        for version, data_key in open_data_keys(stored, current).items():
            sealed = following.wrap(data_key, version=version, random=self._random)
            await unit.server.add_sealed_key(purpose, version=version, sealed=sealed)
        await unit.audit.record(actor="", device="", action="master_key.prepared", object_=MASTER)

    async def finish(self) -> str:
        """Steps 3 and 4. Returns where the old key is kept; empty: that was told before. Raises: SealBroken."""
        async with self._units.snapshot() as unit:
            stored = await unit.server.keys()
        kept = ""
        if not self._is_replaced(stored, await self._files.current()):
            kept = await self._files.replace()
            await self._crash_points.reach("before_commit", "master_key replaced")
        async with self._units.begin() as unit:
            await unit.server.lock()
            await self._put_in_place(unit, await self._files.current())
            await self._crash_points.reach("before_commit", "master_key finished")
        await self._files.drop_used()
        return kept

    async def _put_in_place(self, unit: KeyRotationUnit, current: MasterKey) -> None:
        stored = await unit.server.keys()
        if not _opens(stored, NEXT_DATA, current):
            raise SealBroken("the master key's file is not the one that was prepared")
        for one in stored:
            if one.purpose == purpose_of(NEXT_DATA):
                await unit.server.reseal_key(purpose_of(DATA), version=one.version, sealed=one.sealed)
                await unit.server.delete_sealed_key(one.purpose, version=one.version)
        await unit.sealed_rows.begin_rotation(MASTER, version=0, total_count=0)
        await unit.sealed_rows.finish_rotation(MASTER)
        await unit.audit.record(actor="", device="", action="master_key.replaced", object_=MASTER)


def _opens(stored: Sequence[StoredKey], kind: str, master: MasterKey) -> bool:
    try:
        for one in stored:
            if one.purpose == purpose_of(kind):
                master.unwrap(one.sealed, version=one.version)
    except SealBroken:
        return False
    return True
