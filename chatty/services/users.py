"""Users, for those who look after the server: listed, given a role, locked and unlocked, their log-in sessions ended.

What the policy said when the request came is decided once more under the locks, by the roles that both sides have then
(`permissions.check_act`): whoever acts may have been demoted or locked since. The operator's console acts without an account
and stands above everybody. The last owner that is not locked keeps role and access, whoever asks.

A lock ends all log-in sessions with their devices, for ever: tokens, sockets, the right to send. Unlocking revives none; the user
logs in again. A new role reaches open sockets through what every node reads twice a second (actors/watch.py).

Order of locks: the server's row, by which two last owners cannot unmake each other; the users' rows; the devices' send rows.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from chatty.errors import DeviceRevoked, LastOwner, NotFound
from chatty.ids import UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.devices import end_devices
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.permissions import MANAGE_USERS, MODERATE_USERS, OPERATE, OWNER_ROLE, Permission, check_act
from chatty.services.tokens import Families, TokensUnit
from chatty.services.units import Audit, Transactions
from chatty.wire.users import EndedSessions, ListedUser, Users

State = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class UserStanding:
    """What decides about an act on a user."""

    user: UserId
    number: UserNumber
    role: str
    is_locked: bool


# Port ---------------------------------------------------------------------------------------------------------------


class UserRows(Protocol):
    """What the steps need of the store, inside one transaction."""

    async def lock_server(self) -> None:
        """One at a time from here to the end of the transaction."""
        ...

    async def lock(self, users: Collection[UserNumber]) -> None: ...
    async def find(self, user: UserId) -> UserStanding | None: ...

    async def listed(self, *, after: str, count_max: int) -> Sequence[ListedUser]:
        """In the order of their ids."""
        ...

    async def unlocked_count(self, role: str) -> int: ...
    async def set_role(self, user: UserNumber, role: str) -> None: ...
    async def set_locked(self, user: UserNumber, is_locked: bool) -> None: ...


class ActingUnit(Protocol):
    """What it takes to act with the rights of a role, and to record it."""

    @property
    def audit(self) -> Audit: ...
    @property
    def families(self) -> Families: ...
    @property
    def users(self) -> UserRows: ...


class UsersUnit(ActingUnit, TokensUnit, Protocol):
    """What these steps need of a transaction."""


# Steps --------------------------------------------------------------------------------------------------------------


async def lock_with_actor(unit: ActingUnit, by: Caller | None, user: UserId) -> UserStanding:
    """The server, whoever acts and whom it is about, locked; the last as it is then. Raises: NotFound."""
    await unit.users.lock_server()
    found = await unit.users.find(user)
    if found is None:
        raise NotFound("no such user")
    await unit.users.lock({found.number} if by is None else {found.number, by.user_number})
    now = await unit.users.find(user)
    if now is None:
        raise NotFound("no such user")  # deleted meanwhile
    return now


async def check_actor(unit: ActingUnit, by: Caller | None, permission: Permission, *others: str) -> None:
    """May `by`, whose user's row is locked, do this to these roles now? None: the operator may.

    Raises: DeviceRevoked, Forbidden, Outranked.
    """
    if by is None:
        return
    now = await unit.families.family(by.family)
    if now is None or now.has_ended:
        raise DeviceRevoked("this log-in session was ended")
    check_act(permission, now.role, *others)


async def check_operator(unit: ActingUnit, by: Caller | None) -> None:
    """Whoever operates the server from elsewhere is locked, and may do so still? None: the operator on the machine.

    Raises: DeviceRevoked, Forbidden.
    """
    if by is not None:
        await unit.users.lock({by.user_number})
        await check_actor(unit, by, OPERATE)


async def record_act(
    unit: ActingUnit,
    by: Caller | None,
    action: str,
    object_: str,
    *,
    detail: State | None = None,
    before: State | None = None,
    after: State | None = None,
) -> None:
    """In the audit log; the operator has no name there."""
    actor, device = ("", "") if by is None else (by.user, by.device)
    await unit.audit.record(
        actor=actor, device=device, action=action, object_=object_, detail=detail, before=before, after=after
    )


class UserSteps:
    """by: who acts; None: the operator, at the console. clock_ms: milliseconds since 1970."""

    def __init__(
        self, *, unit_of_work: Transactions[UsersUnit], doorbells: Doorbells, clock_ms: Callable[[], int]
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._clock_ms = clock_ms

    async def listed(self, *, after: str, count_max: int) -> Users:
        """A page of all users, after this user id."""
        async with self._unit_of_work.autocommit() as unit:
            found = list(await unit.users.listed(after=after, count_max=count_max))
        return Users(users=found, next_after=found[-1].user if len(found) == count_max else "")

    async def require(self, user: UserId) -> None:
        """Raises: NotFound."""
        async with self._unit_of_work.autocommit() as unit:
            if await unit.users.find(user) is None:
                raise NotFound("no such user")

    async def set_role(self, by: Caller | None, user: UserId, role: str) -> None:
        """The same role again changes nothing. Raises: NotFound, Forbidden, Outranked, LastOwner, DeviceRevoked."""
        async with self._unit_of_work.begin() as unit:
            now = await lock_with_actor(unit, by, user)
            await check_actor(unit, by, MANAGE_USERS, now.role, role)
            if role == now.role:
                return
            await check_other_owner(unit, now)
            await unit.users.set_role(now.number, role)
            await unit.devices.tell_nodes(now.number)
            await record_act(unit, by, "user.role_changed", user, before={"role": now.role}, after={"role": role})

    async def set_locked(self, by: Caller | None, user: UserId, is_locked: bool) -> None:
        """A lock ends all log-in sessions. The same state again changes nothing. Raises: as set_role()."""
        doorbell = Doorbell()
        async with self._unit_of_work.begin() as unit:
            now = await lock_with_actor(unit, by, user)
            await check_actor(unit, by, MODERATE_USERS, now.role)
            if is_locked == now.is_locked:
                return
            if is_locked:
                await check_other_owner(unit, now)
                doorbell = await end_devices(unit, now.number, now_ms=self._clock_ms())
            await unit.users.set_locked(now.number, is_locked)
            await record_act(
                unit,
                by,
                "user.locked" if is_locked else "user.unlocked",
                user,
                detail={"ended_count": len(doorbell.revoked)},
                before={"is_locked": now.is_locked},
                after={"is_locked": is_locked},
            )
        self._doorbells.ring(doorbell)

    async def end_sessions(self, by: Caller | None, user: UserId) -> EndedSessions:
        """All of the user's, with their devices. Raises: NotFound, Forbidden, Outranked, DeviceRevoked."""
        async with self._unit_of_work.begin() as unit:
            now = await lock_with_actor(unit, by, user)
            await check_actor(unit, by, MODERATE_USERS, now.role)
            doorbell = await end_devices(unit, now.number, now_ms=self._clock_ms())
            ended_count = len(doorbell.revoked)
            if ended_count:
                before, after = {"sessions_count": ended_count}, {"sessions_count": 0}
                await record_act(unit, by, "user.sessions_ended", user, before=before, after=after)
        self._doorbells.ring(doorbell)
        return EndedSessions(ended_count=ended_count)


async def check_other_owner(unit: ActingUnit, now: UserStanding) -> None:
    """The server is locked. Raises: LastOwner, if nobody else could look after the server."""
    if now.role == OWNER_ROLE and not now.is_locked and await unit.users.unlocked_count(OWNER_ROLE) == 1:
        raise LastOwner("the server's last owner; make somebody else an owner first")
