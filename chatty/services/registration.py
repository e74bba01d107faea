"""Who may make an account: the four modes, invitations, applications.

| mode | without an invitation | with a valid one |
|---|---|---|
| `closed` | nobody | the first owner alone, while there is no account |
| `invite` | nobody | its role |
| `approval` | an application, which waits for an admin | its role, at once |
| `open` | the role user, within limits | its role |

An invitation is a random token, of which the hash is kept, with a number of uses and an end. It gives no role that does not stand
below its maker's, and counts for as long as its maker may still make it: who was demoted or locked leaves none behind. The
operator's console makes any. Its id, the first bytes of the hash, opens nothing: it stands in the audit log where the invitation
was made, used and withdrawn.

An application is no account yet: it has no place among the users, so that nothing can find it but a log-in that proves its key.
Several may want one name, taken or not; none of them is told. What an admin approves becomes an account; the others stay until
they are rejected or too old.

Full: `requests_max` applications refuse further ones (`overloaded`); of one name the first `requests_a_name_max` are kept.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal, Protocol

from chatty.errors import BadRequest, NotFound, RegistrationClosed
from chatty.ids import InvitationId, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.jobs import Done
from chatty.services.permissions import MANAGE_USERS, OWNER_ROLE, USER_ROLE, holds, outranks
from chatty.services.units import Transactions
from chatty.services.users import ActingUnit, check_actor, record_act
from chatty.wire.accounts import KeyDerivation
from chatty.wire.registration import (
    Application,
    Applications,
    Decided,
    InvitationRequest,
    Invitations,
    ListedInvitation,
    MadeInvitation,
)

Mode = Literal["closed", "invite", "approval", "open"]

requests_a_name_max = 8
request_age_s_max = 30 * 86_400.0
id_bytes = 8
_DAY_S = 86_400


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
class UsedInvitation:
    """role: what it gives. inviter_role: of its maker now; None: locked or gone, or the operator made it."""

    role: str
    has_inviter: bool
    inviter_role: str | None

    @property
    def is_void(self) -> bool:
        """Its maker could not make it now."""
        if not self.has_inviter:
            return False
        role = self.inviter_role or ""
        return not holds(role, MANAGE_USERS) or not outranks(role, self.role)


def token_hash(token: str) -> bytes:
    """What is kept of an invitation: 32 bytes."""
    return sha256(b"chatty.registration_token.v1" + token.encode()).digest()


def invitation_id(hashed: bytes) -> InvitationId:
    """The first 8 bytes of what is kept of it."""
    return InvitationId(hashed[:id_bytes].hex())


# Port ---------------------------------------------------------------------------------------------------------------


class Registrations(Protocol):
    """What the steps need of the store, inside one transaction."""

    async def lock_server(self) -> None:
        """One at a time from here to the end of the transaction."""
        ...

    async def has_users(self) -> bool: ...

    async def add_token(
        self, hashed: bytes, *, role: str, uses: int, lifetime_s: float, inviter: UserNumber | None
    ) -> None: ...

    async def use_token(self, hashed: bytes) -> UsedInvitation | None:
        """Take one use of an invitation; None if it is unknown, used up or too old."""
        ...

    async def tokens(self, *, after: str, count_max: int) -> Sequence[ListedInvitation]:
        """Those that can be used still, in the order of their ids; after: an id, or empty."""
        ...

    async def take_token(self, invitation: InvitationId) -> ListedInvitation | None:
        """Delete it and return what it was, if it could be used still."""
        ...

    async def has_live_token(self, role: str) -> bool: ...

    async def add_user(self, new: NewUser) -> UserNumber:
        """Raises: NameTaken, for a name with the same skeleton too."""
        ...

    async def requests_count(self) -> int: ...

    async def add_request(self, new: NewUser) -> None:
        """Keep an application, and of its name the first requests_a_name_max."""
        ...

    async def request_keys(self, user: UserId) -> Sequence[bytes]:
        """The sealed log-in keys of the applications for this name."""
        ...

    async def pending(self) -> Sequence[Application]:
        """The oldest first."""
        ...

    async def take_request(self, number: int) -> NewUser | None:
        """Delete it and return what it was, without its role and list digest."""
        ...

    async def forget_old(self, *, age_s: float, count_max: int) -> int:
        """Delete older applications, and invitations that are over. Returns how many."""
        ...


class AdmissionUnit(Protocol):
    """What it takes to let somebody in."""

    @property
    def registrations(self) -> Registrations: ...


class RegistrationUnit(AdmissionUnit, ActingUnit, Protocol):
    """What these steps need of a transaction."""


# Steps --------------------------------------------------------------------------------------------------------------


async def admit(unit: AdmissionUnit, mode: Mode, token: str) -> str | None:
    """The role of whoever registers; None: it is an application. Raises: RegistrationClosed."""
    if token:
        invitation = await unit.registrations.use_token(token_hash(token))
        if invitation is None or invitation.is_void:
            raise RegistrationClosed("the invitation is unknown, used up or too old")
        if mode == "closed" and (invitation.role != OWNER_ROLE or await unit.registrations.has_users()):
            raise RegistrationClosed("registration is closed")
        return invitation.role
    if mode == "open":
        return USER_ROLE
    if mode == "approval":
        return None
    raise RegistrationClosed("registration needs an invitation" if mode == "invite" else "registration is closed")


class RegistrationSteps:
    """What those do who look after the server; people register through AccountSteps. by: who acts; None: the operator, at the
    console. make_token: at least 16 random bytes as text.
    """

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

    async def invite(self, by: Caller | None, body: InvitationRequest) -> MadeInvitation:
        """A new invitation. Raises: RegistrationClosed, Forbidden, Outranked, DeviceRevoked."""
        async with self._unit_of_work.begin() as unit:
            await self._check(unit, by, body.role)
            if self._mode == "closed" and (body.role != OWNER_ROLE or await unit.registrations.has_users()):
                raise RegistrationClosed("registration is closed: the setting must be invite, approval or open")
            return await self._invite(unit, by, body)

    async def _invite(self, unit: RegistrationUnit, by: Caller | None, body: InvitationRequest) -> MadeInvitation:
        token, lifetime_s = self._make_token(), body.expires_days * _DAY_S
        inviter, hashed = None if by is None else by.user_number, token_hash(token)
        await unit.registrations.add_token(
            hashed, role=body.role, uses=body.uses, lifetime_s=lifetime_s, inviter=inviter
        )
        after = {"role": body.role, "uses": body.uses, "lifetime_s": lifetime_s}
        made = invitation_id(hashed)
        await record_act(unit, by, "invitation.made", made, after=after)
        return MadeInvitation(id=made, invitation=token, role=body.role, uses=body.uses, expires_in_s=lifetime_s)

    async def invitations(self, *, after: str, count_max: int) -> Invitations:
        async with self._unit_of_work.autocommit() as unit:
            found = list(await unit.registrations.tokens(after=after, count_max=count_max))
        return Invitations(invitations=found, next_after=found[-1].id if len(found) == count_max else "")

    async def withdraw(self, by: Caller | None, invitation: InvitationId) -> None:
        """Nobody can use it from now on; accounts that were made with it stay.

        Raises: NotFound, Forbidden, Outranked (by the role that it gives), DeviceRevoked.
        """
        async with self._unit_of_work.begin() as unit:
            await self._check(unit, by, USER_ROLE)
            taken = await unit.registrations.take_token(invitation)
            if taken is None:
                raise NotFound("no such invitation, or it is over")
            await check_actor(unit, by, MANAGE_USERS, taken.role)
            before = {"role": taken.role, "uses_left": taken.uses_left}
            await record_act(unit, by, "invitation.withdrawn", invitation, before=before)

    async def first_invitation(self) -> str | None:
        """For the first owner, of a server that has no account and no such invitation; else None. Once, whoever asks at once."""
        async with self._unit_of_work.begin() as unit:
            await unit.registrations.lock_server()
            if await unit.registrations.has_users() or await unit.registrations.has_live_token(OWNER_ROLE):
                return None
            return (await self._invite(unit, None, InvitationRequest(role=OWNER_ROLE))).invitation

    async def pending(self) -> Applications:
        async with self._unit_of_work.autocommit() as unit:
            return Applications(pending=list(await unit.registrations.pending()))

    async def approve(self, by: Caller | None, wanted: str) -> Decided:
        """Make the account of an application; its owner can log in from now on.

        wanted: the application's number, or the user id if only one wants it.
        Raises: NotFound, BadRequest, NameTaken, Forbidden, Outranked, DeviceRevoked.
        """
        return await self._decide(by, wanted, is_approved=True)

    async def reject(self, by: Caller | None, wanted: str) -> Decided:
        """Delete an application; its name is as free as it was. Raises: as approve(), but for NameTaken."""
        return await self._decide(by, wanted, is_approved=False)

    async def _decide(self, by: Caller | None, wanted: str, *, is_approved: bool) -> Decided:
        async with self._unit_of_work.begin() as unit:
            await self._check(unit, by, USER_ROLE)
            number = _chosen(wanted, await unit.registrations.pending())
            request = await unit.registrations.take_request(number)
            if request is None:
                raise NotFound("no such application")
            if is_approved:
                await unit.registrations.add_user(request)
            action = "registration.approved" if is_approved else "registration.rejected"
            before, after = {"state": "pending"}, {"state": "approved" if is_approved else "rejected"}
            await record_act(unit, by, action, request.user, detail={"number": number}, before=before, after=after)
        return Decided(user=request.user)

    async def _check(self, unit: RegistrationUnit, by: Caller | None, role: str) -> None:
        """May `by` give this role now?"""
        if by is not None:
            await unit.users.lock([by.user_number])
            await check_actor(unit, by, MANAGE_USERS, role)


class CleanUpRegistrations:
    """The job registrations_cleanup: forgets applications that nobody decided on in time, and invitations that are over."""

    name = "registrations_cleanup"
    _count_max = 1_000

    def __init__(self, *, units: Transactions[AdmissionUnit]) -> None:
        self._units = units

    async def step(self) -> Done:
        """One transaction.

        Raises: StoreUnavailable, Overloaded, OutcomeUnknown.
        """
        async with self._units.begin() as unit:
            count = await unit.registrations.forget_old(age_s=request_age_s_max, count_max=self._count_max)
        return Done(count, has_more=count >= self._count_max)


def _chosen(wanted: str, pending: Sequence[Application]) -> int:
    found = [one.request for one in pending if wanted in (str(one.request), one.user)]
    if not found:
        raise NotFound("no such application")
    if len(found) > 1:
        raise BadRequest(f"several want this name: choose one of {', '.join(map(str, found))}")
    return found[0]
