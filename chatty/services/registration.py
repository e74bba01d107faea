"""Who may make an account: the four modes, invitations, applications.

| mode | without an invitation | with a valid one |
|---|---|---|
| `closed` | nobody | the first owner alone, while there is no account |
| `invite` | nobody | its role |
| `approval` | an application, which waits for an admin | its role, at once |
| `open` | the role user, within limits | its role |

An invitation is a random token, of which the hash is kept, with a number of uses and an end. An application is no account yet: it
has no place among the users, so that nothing can find it but a log-in that proves its key. Several may want one name, taken or
not; none of them is told. What an admin approves becomes an account; the others stay until they are rejected or too old.

Full: `requests_max` applications refuse further ones (`overloaded`); of one name the newest `requests_a_name_max` are kept.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal, Protocol

from chatty.errors import BadRequest, NotFound, RegistrationClosed
from chatty.ids import UserId, UserNumber
from chatty.services.permissions import ROLES, USER_ROLE
from chatty.services.units import Audit, Transactions
from chatty.wire.accounts import KeyDerivation

Mode = Literal["closed", "invite", "approval", "open"]

OWNER_ROLE = "owner"
uses_max = 10_000
expires_days_max = 366
first_invitation_days = 7
requests_a_name_max = 8
request_age_s_max = 30 * 86_400.0
_DAY_S = 86_400

Console = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class NewUser:
    """What is stored of a registration."""

    user: UserId
    name_skeleton: str
    role: str
    identity_key: str
    key_derivation: KeyDerivation
    login_key_sealed: bytes = field(repr=False)
    wrapped_recovery: bytes = field(repr=False)
    wrapped_identity: bytes = field(repr=False)
    list_digest: bytes


@dataclass(frozen=True, kw_only=True)
class Pending:
    """An application. is_name_free: whether it could be approved now."""

    number: int
    user: UserId
    age_s: float
    is_name_free: bool


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An account, as the operator sees it. created_day: YYYY-MM-DD."""

    user: UserId
    role: str
    is_locked: bool
    created_day: str


def token_hash(token: str) -> bytes:
    """What is kept of an invitation: 32 bytes."""
    return sha256(b"chatty.registration_token.v1" + token.encode()).digest()


# Port ---------------------------------------------------------------------------------------------------------------


class Registrations(Protocol):
    """What the steps need of the store, inside one transaction."""

    async def lock_server(self) -> None:
        """One at a time from here to the end of the transaction."""
        ...

    async def has_users(self) -> bool: ...

    async def add_token(self, hashed: bytes, *, role: str, uses: int, lifetime_s: float) -> None: ...

    async def use_token(self, hashed: bytes) -> str | None:
        """Take one use of an invitation: the role that it gives, None if it is unknown, used up or too old."""
        ...

    async def has_live_token(self, role: str) -> bool: ...

    async def add_user(self, new: NewUser) -> UserNumber:
        """Raises: NameTaken, for a name with the same skeleton too."""
        ...

    async def requests_count(self) -> int: ...

    async def add_request(self, new: NewUser) -> None:
        """Keep an application, and of its name the newest requests_a_name_max."""
        ...

    async def request_keys(self, user: UserId) -> Sequence[bytes]:
        """The sealed log-in keys of the applications for this name."""
        ...

    async def pending(self) -> Sequence[Pending]:
        """The oldest first."""
        ...

    async def take_request(self, number: int) -> NewUser | None:
        """Delete it and return what it was, without its role and list digest."""
        ...

    async def forget_old(self, *, age_s: float, count_max: int) -> int:
        """Delete older applications, and invitations that are over. Returns how many."""
        ...

    async def users(self, *, after: str, count_max: int) -> Sequence[Listed]:
        """In the order of their ids."""
        ...


class RegistrationUnit(Protocol):
    """What these steps need of a transaction."""

    @property
    def audit(self) -> Audit: ...
    @property
    def registrations(self) -> Registrations: ...


# Steps --------------------------------------------------------------------------------------------------------------


async def admit(unit: RegistrationUnit, mode: Mode, token: str) -> str | None:
    """The role of whoever registers; None: it is an application. Raises: RegistrationClosed."""
    if token:
        role = await unit.registrations.use_token(token_hash(token))
        if role is None:
            raise RegistrationClosed("the invitation is unknown, used up or too old")
        if mode == "closed" and (role != OWNER_ROLE or await unit.registrations.has_users()):
            raise RegistrationClosed("registration is closed")
        return role
    if mode == "open":
        return USER_ROLE
    if mode == "approval":
        return None
    raise RegistrationClosed("registration needs an invitation" if mode == "invite" else "registration is closed")


class RegistrationSteps:
    """What an operator does; people register through AccountSteps. make_token: at least 16 random bytes as text."""

    def __init__(
        self,
        *,
        unit_of_work: Transactions[RegistrationUnit],
        mode: Mode,
        make_token: Callable[[], str] = lambda: f"chatty_i.{secrets.token_urlsafe(24)}",
    ) -> None:
        self._unit_of_work = unit_of_work
        self._mode = mode
        self._make_token = make_token

    async def invite(self, *, role: str = USER_ROLE, uses: int = 1, lifetime_s: float) -> str:
        """A new invitation. Raises: BadRequest for an unknown role, or no use or time at all; RegistrationClosed."""
        if role not in ROLES or not 1 <= uses <= uses_max or not 0 < lifetime_s <= expires_days_max * _DAY_S:
            raise BadRequest(
                f"an invitation needs a known role, 1 to {uses_max} uses and an end within {expires_days_max} days"
            )
        async with self._unit_of_work.begin() as unit:
            if self._mode == "closed" and (role != OWNER_ROLE or await unit.registrations.has_users()):
                raise RegistrationClosed("registration is closed: the setting must be invite, approval or open")
            return await self._invite(unit, role=role, uses=uses, lifetime_s=lifetime_s)

    async def _invite(self, unit: RegistrationUnit, *, role: str, uses: int, lifetime_s: float) -> str:
        token = self._make_token()
        await unit.registrations.add_token(token_hash(token), role=role, uses=uses, lifetime_s=lifetime_s)
        await _record(unit, "invitation.made", "", role=role, uses=uses, lifetime_s=round(lifetime_s))
        return token

    async def first_invitation(self) -> str | None:
        """For the first owner, of a server that has no account and no such invitation; else None. Once, whoever asks at once."""
        async with self._unit_of_work.begin() as unit:
            await unit.registrations.lock_server()
            if await unit.registrations.has_users() or await unit.registrations.has_live_token(OWNER_ROLE):
                return None
            return await self._invite(unit, role=OWNER_ROLE, uses=1, lifetime_s=first_invitation_days * _DAY_S)

    async def pending(self) -> Sequence[Pending]:
        async with self._unit_of_work.snapshot() as unit:
            return await unit.registrations.pending()

    async def users(self, *, after: str, count_max: int) -> Sequence[Listed]:
        async with self._unit_of_work.snapshot() as unit:
            return await unit.registrations.users(after=after, count_max=count_max)

    async def approve(self, wanted: str) -> UserId:
        """Make the account of an application; its owner can log in from now on.

        wanted: the application's number, or the user id if only one wants it. Raises: NotFound, BadRequest, NameTaken.
        """
        return await self._decide(wanted, is_approved=True)

    async def reject(self, wanted: str) -> UserId:
        """Delete an application; its name is as free as it was. Raises: NotFound, BadRequest."""
        return await self._decide(wanted, is_approved=False)

    async def _decide(self, wanted: str, *, is_approved: bool) -> UserId:
        async with self._unit_of_work.begin() as unit:
            number = _chosen(wanted, await unit.registrations.pending())
            request = await unit.registrations.take_request(number)
            if request is None:
                raise NotFound("no such application")
            if is_approved:
                await unit.registrations.add_user(request)
            action = "registration.approved" if is_approved else "registration.rejected"
            await _record(unit, action, request.user, number=number)
        return request.user

    def commands(self) -> dict[str, Console]:
        """What `chatty-admin users` asks, of the running server or beside it."""
        return {
            "users invite": self._console_invite,
            "users list": self._console_list,
            "users approve": self._console_approve,
            "users reject": self._console_reject,
        }

    async def _console_invite(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        role, uses, days = arguments.get("role"), arguments.get("uses"), arguments.get("expires_days")
        if not isinstance(role, str) or type(uses) is not int or type(days) is not int:
            raise BadRequest("role, uses and expires_days are needed")
        token = await self.invite(role=role, uses=uses, lifetime_s=days * _DAY_S)
        return {"invitation": token, "role": role, "uses": uses, "expires_in_s": days * _DAY_S}

    async def _console_list(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if arguments.get("pending"):
            pending = [
                {"request": one.number, "user": one.user, "age_s": round(one.age_s), "is_name_free": one.is_name_free}
                for one in await self.pending()
            ]
            return {"pending": pending}
        found = await self.users(after=str(arguments.get("after") or ""), count_max=1_000)
        users = [
            {"user": one.user, "role": one.role, "is_locked": one.is_locked, "created_day": one.created_day}
            for one in found
        ]
        return {"users": users}

    async def _console_approve(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"approved": await self.approve(str(arguments.get("request")))}

    async def _console_reject(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"rejected": await self.reject(str(arguments.get("request")))}


class CleanUpRegistrations:
    """The job registrations_cleanup: forgets applications that nobody decided on in time, and invitations that are over."""

    name = "registrations_cleanup"
    _count_max = 1_000

    def __init__(self, *, units: Transactions[RegistrationUnit]) -> None:
        self._units = units

    async def step(self) -> bool:
        """One transaction. Returns whether there may be more to do at once.

        Raises: StoreUnavailable, Overloaded, OutcomeUnknown.
        """
        async with self._units.begin() as unit:
            count = await unit.registrations.forget_old(age_s=request_age_s_max, count_max=self._count_max)
        return count >= self._count_max


def _chosen(wanted: str, pending: Sequence[Pending]) -> int:
    found = [one.number for one in pending if wanted in (str(one.number), one.user)]
    if not found:
        raise NotFound("no such application")
    if len(found) > 1:
        raise BadRequest(f"several want this name: choose one of {', '.join(map(str, found))}")
    return found[0]


async def _record(unit: RegistrationUnit, action: str, object_: str, **after: Any) -> None:
    """The operator's act."""
    await unit.audit.record(actor="", device="", action=action, object_=object_, after=after)
