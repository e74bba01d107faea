"""What the operator's console shows of sessions, devices, rooms and storage, and ends; sizes and places, never content.

Users themselves are services/users.py. An act here locks and checks as acts there do: the server, the user's row, then the
devices' send rows. `by` None is the operator on the machine, who stands above everybody and has no name in the audit log.

A rehearsal is the act itself in a transaction that is rolled back: what it refuses, and how many it would end, is what the act
would. Nobody is told, and nothing is recorded.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from chatty.errors import NotFound
from chatty.ids import DeviceId, DeviceNumber, FamilyId, RoomNumber, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.devices import end_device
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.permissions import MODERATE_USERS
from chatty.services.quotas import Quotas
from chatty.services.units import Transactions
from chatty.services.users import UserRows, UsersUnit, check_actor, check_operator, lock_with_actor, record_act

page_count = 1_000
storage_rooms_max = 200  # of one page
storage_events_max = 50_000  # of one page, or one room that has more
UnitT = TypeVar("UnitT")


@dataclass(frozen=True, kw_only=True)
class ShownSession:
    """A log-in session that lives, and its device. refreshed_age_s: since it was last heard of."""

    session: FamilyId
    user: UserId
    device: DeviceId
    started_age_s: int
    refreshed_age_s: int
    stepped_up_age_s: int
    number: DeviceNumber


@dataclass(frozen=True, kw_only=True)
class ShownDevice:
    """A live device. in_set: others encrypt for it. last_seen_day: YYYY-MM-DD. waiting_count: to-device messages for it."""

    device: DeviceId
    user: UserId
    name: str
    in_set: bool
    last_seen_day: str
    waiting_count: int
    one_time_keys_count: int
    number: DeviceNumber


@dataclass(frozen=True, kw_only=True)
class ShownRoom:
    """events_count: ever, by the newest event's place. quiet_s: since then. retention_days: its own; 0: none."""

    room: str
    members_count: int
    events_count: int
    quiet_s: int
    retention_days: int
    is_direct: bool
    is_listed: bool
    number: RoomNumber


@dataclass(frozen=True, kw_only=True)
class ShownMember:
    user: UserId
    role: str
    standing: str


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What one user's ciphertexts take in one room, bytes. user: empty for whoever is gone."""

    room: str
    user: str
    messages_count: int
    stored_bytes: int


@dataclass(frozen=True, kw_only=True)
class UsedQuotas:
    """How much an account has; None: counted elsewhere."""

    role: str
    devices_count: int
    rooms_created_count: int
    blocks_count: int


# Port ---------------------------------------------------------------------------------------------------------------


class ConsoleRows(Protocol):
    """What the steps need of the store. after: the id that the page before ended with; empty: the beginning."""

    async def sessions(self, *, user: str, after: str, count_max: int) -> Sequence[ShownSession]: ...
    async def devices(self, *, user: str, after: str, count_max: int) -> Sequence[ShownDevice]: ...
    async def rooms(self, *, room: str, after: str, count_max: int) -> Sequence[ShownRoom]:
        """room: that one alone; empty: all."""
        ...

    async def members(self, room: RoomNumber) -> Sequence[ShownMember]: ...
    async def stored_in_room(self, room: RoomNumber) -> Sequence[Stored]: ...
    async def stored(self, *, after: int, rooms_max: int, events_max: int) -> tuple[Sequence[Stored], int, int]:
        """Of the next rooms; after which room the next page begins (0: the end); how many rooms come after it."""
        ...

    async def used_quotas(self, user: UserNumber) -> UsedQuotas: ...
    async def owner_of_device(self, device: DeviceId) -> UserId | None: ...
    async def owner_of_session(self, session: FamilyId) -> tuple[UserId, DeviceId] | None: ...


class ConsoleUnit(UsersUnit, Protocol):
    @property
    def console(self) -> ConsoleRows: ...
    @property
    def users(self) -> UserRows: ...


# Rehearsals ---------------------------------------------------------------------------------------------------------


class _RolledBack(Exception):
    pass


class Rehearsal(Transactions[UnitT], Generic[UnitT]):
    """Transactions of which nothing stays."""

    def __init__(self, units: Transactions[UnitT]) -> None:
        self._units = units

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[UnitT]:
        try:
            async with self._units.begin() as unit:
                yield unit
                raise _RolledBack
        except _RolledBack:
            pass

    def snapshot(self) -> AbstractAsyncContextManager[UnitT]:
        return self._units.snapshot()

    def autocommit(self) -> AbstractAsyncContextManager[UnitT]:
        return self.begin()


# Steps --------------------------------------------------------------------------------------------------------------


class ConsoleSteps:
    """clock_ms: milliseconds since 1970."""

    def __init__(
        self,
        *,
        unit_of_work: Transactions[ConsoleUnit],
        doorbells: Doorbells,
        quotas: Quotas,
        clock_ms: Callable[[], int],
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._quotas = quotas
        self._clock_ms = clock_ms

    async def sessions(self, *, user: str, after: str) -> Sequence[ShownSession]:
        """Raises: NotFound for a user that is named and not there."""
        async with self._unit_of_work.autocommit() as unit:
            await _require(unit, user)
            return await unit.console.sessions(user=user, after=after, count_max=page_count)

    async def devices(self, *, user: str, after: str) -> Sequence[ShownDevice]:
        """Raises: as sessions()."""
        async with self._unit_of_work.autocommit() as unit:
            await _require(unit, user)
            return await unit.console.devices(user=user, after=after, count_max=page_count)

    async def rooms(self, *, after: str) -> Sequence[ShownRoom]:
        async with self._unit_of_work.autocommit() as unit:
            return await unit.console.rooms(room="", after=after, count_max=page_count)

    async def room(self, room: str) -> tuple[ShownRoom, Sequence[ShownMember], Sequence[Stored]]:
        """Raises: NotFound."""
        async with self._unit_of_work.snapshot() as unit:
            found = await unit.console.rooms(room=room, after="", count_max=1)
            if not found:
                raise NotFound("no such room")
            number = found[0].number
            return found[0], await unit.console.members(number), await unit.console.stored_in_room(number)

    async def stored(self, *, after: int) -> tuple[Sequence[Stored], int, int]:
        """A page, as ConsoleRows.stored() gives it."""
        async with self._unit_of_work.snapshot() as unit:
            return await unit.console.stored(after=after, rooms_max=storage_rooms_max, events_max=storage_events_max)

    async def quotas(self, user: UserId) -> list[tuple[str, int | None, int]]:
        """Name, how much is used (None: not of an account as a whole), how much there may be. Raises: NotFound."""
        async with self._unit_of_work.snapshot() as unit:
            found = await unit.users.find(user)
            if found is None:
                raise NotFound("no such user")
            used = await unit.console.used_quotas(found.number)
        counts = {"devices": used.devices_count, "rooms": used.rooms_created_count, "blocks": used.blocks_count}
        return [(name, counts.get(name), count_max) for name, count_max in self._quotas.shown(used.role).items()]

    async def end_session(self, by: Caller | None, session: FamilyId) -> tuple[UserId, DeviceId]:
        """With its device, for ever. Raises: NotFound, Forbidden, Outranked, DeviceRevoked."""
        async with self._unit_of_work.autocommit() as unit:
            found = await unit.console.owner_of_session(session)
        if found is None:
            raise NotFound("no such session, or it has ended")
        await self._end(by, *found, action="session.ended", family=session)
        return found

    async def revoke_device(self, by: Caller | None, device: DeviceId) -> UserId:
        """Raises: as end_session()."""
        async with self._unit_of_work.autocommit() as unit:
            user = await unit.console.owner_of_device(device)
        if user is None:
            raise NotFound("no such device, or it was revoked")
        await self._end(by, user, device, action="device.revoked", family=None)
        return user

    async def _end(
        self, by: Caller | None, user: UserId, device: DeviceId, *, action: str, family: FamilyId | None
    ) -> None:
        async with self._unit_of_work.begin() as unit:
            found = await lock_with_actor(unit, by, user)
            await check_actor(unit, by, MODERATE_USERS, found.role)
            doorbell: Doorbell = await end_device(unit, found.number, device, now_ms=self._clock_ms())
            if not doorbell.revoked:
                raise NotFound("it was ended meanwhile")
            await record_act(
                unit, by, action, device, detail={"user": user} if family is None else {"user": user, "session": family}
            )
        self._doorbells.ring(doorbell)

    async def record_restart(self, by: Caller | None, actor: str) -> None:
        """Before an actor is restarted: what cannot be recorded is not done. Raises: Forbidden, DeviceRevoked."""
        async with self._unit_of_work.begin() as unit:
            await check_operator(unit, by)
            await record_act(unit, by, "actor.restarted", actor)


async def _require(unit: ConsoleUnit, user: str) -> None:
    if user and await unit.users.find(UserId(user)) is None:
        raise NotFound("no such user")
