"""Log-in sessions: a device signs in, proves itself again, signs out. What becomes of its tokens, tokens.py says.

A log-in proves the log-in key, derived on the client from the password, over a nonce of ours that lives some minutes; then a
second factor, of a user who has one; or, in place of both, a passkey that verified its user (factor_check.py). It makes a new
device and a family of refresh tokens, bound to the client's DPoP key. What is signed names the device, whose id is never taken
twice, and the one that it replaces: whoever sees the request can send it again, and makes nothing of it. A step-up
proves the same again, for acts that a stolen device alone must not be able to do.
"""

from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from chatty.crypto.sealing import Sealer
from chatty.crypto.tokens import RefreshTokens, UnknownKey
from chatty.errors import ApprovalPending, LoginRefused, NotFound, RefreshRefused, TooManyDevices
from chatty.ids import DeviceId, DeviceNumber, FamilyId, ListVersion, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.devices import end_device, lock_caller, revoke, tell_own_devices
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.factor_check import Attempt, FactorCheck, FactorCheckUnit
from chatty.services.issuer import Issuer
from chatty.services.jobs import Done
from chatty.services.login_throttle import LoginThrottle
from chatty.services.quotas import Quotas
from chatty.services.registration import Registrations
from chatty.services.tokens import Lifetimes, TokensUnit, end_session
from chatty.services.units import Transactions
from chatty.wire.accounts import Login, NewDevice, PasskeyAssertion, StepUp, Tokens
from chatty.wire.canonical import encode_base64
from chatty.wire.signing import log_in_digest

# Any Ed25519 key: under an unknown name the same work is done, and refused whoever signs for it.
_ANY_KEY = "WGZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY"


@dataclass(frozen=True, kw_only=True)
class LoginRow:
    """login_key_sealed opens to the 32 bytes of the public log-in key."""

    user_number: UserNumber
    role: str
    is_locked: bool
    login_key_sealed: bytes = field(repr=False)
    list_version: ListVersion


@dataclass(frozen=True, kw_only=True)
class NewFamily:
    """Of refresh tokens, bound to this DPoP key; generation: of the store."""

    family: FamilyId
    dpop_thumbprint: str
    generation: int


def login_key_purpose(user: UserId) -> str:
    """Under which a log-in key is sealed."""
    return f"login_key/{user}"


def open_login_key(sealer: Sealer, user: UserId, sealed: bytes) -> str:
    """The public key, in base64."""
    return encode_base64(sealer.open(sealed, purpose=login_key_purpose(user)))


# Port ---------------------------------------------------------------------------------------------------------------


class Sessions(Protocol):
    """What the steps need of the store, inside one transaction."""

    async def find_login(self, user: UserId) -> LoginRow | None: ...

    async def lock_login(self, user: UserId) -> LoginRow | None:
        """As find_login(), and the user's row is locked."""
        ...

    async def add_session(self, user: UserNumber, device: NewDevice, family: NewFamily) -> DeviceNumber:
        """A device with its send row, live, outside the set; and its family of tokens. Raises: DeviceIdTaken."""
        ...


class SessionsUnit(TokensUnit, FactorCheckUnit, Protocol):
    """What these steps need of a transaction."""

    @property
    def sessions(self) -> Sessions: ...
    @property
    def registrations(self) -> Registrations: ...


# Steps --------------------------------------------------------------------------------------------------------------


class SessionSteps:
    def __init__(
        self,
        *,
        unit_of_work: Transactions[SessionsUnit],
        doorbells: Doorbells,
        issuer: Issuer,
        refresh: RefreshTokens,
        sealer: Sealer,
        throttle: LoginThrottle,
        quotas: Quotas,
        factors: FactorCheck,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._issuer = issuer
        self._refresh = refresh
        self._sealer = sealer
        self._throttle = throttle
        self._quotas = quotas
        self._factors = factors

    async def log_in(self, body: Login, *, address: str = "") -> Tokens:
        """A new device for this user.

        Raises: LoginRefused, SecondFactorRequired, SecondFactorRefused, ApprovalPending, DeviceIdTaken, TooManyDevices,
        NotFound (what it replaces), RateLimited.
        """
        attempt = Attempt(
            user=body.user,
            what="post_v1_login",
            address=address,
            device=body.new_device.device,
            known_device=await self._known_device(body),
            nonce=body.nonce,
            statement=self._issuer.statement(
                user=body.user,
                nonce=body.nonce,
                dpop_thumbprint=body.dpop_thumbprint,
                purpose="login",
                about=log_in_digest(device=body.new_device.device, name=body.new_device.name, replaces=body.replaces),
            ),
        )
        with self._trying(attempt):
            async with self._factors.telling(attempt):
                return await self._log_in(attempt, body)

    async def _log_in(self, attempt: Attempt, body: Login) -> Tokens:
        async with self._unit_of_work.begin() as unit:
            user, factor = await self._proven(unit, attempt, body)
            ended = await self._make_room(unit, user, body)
            family = await start_session(unit, self._issuer, user.user_number, body.new_device, body.dpop_thumbprint)
            await record_login(unit, body.user, attempt.device, "session.started", family, factor=factor)
            doorbell = await tell_own_devices(
                unit, user.user_number, now_ms=self._issuer.now_ms(), list_version=user.list_version
            )
        self._doorbells.ring(doorbell)
        self._doorbells.ring(ended)
        return self._issuer.issue(
            user=body.user,
            device=attempt.device,
            family=family,
            k=1,
            role=user.role,
            thumbprint=body.dpop_thumbprint,
        )

    async def _make_room(self, unit: SessionsUnit, user: LoginRow, body: Login) -> Doorbell:
        """For one more device: end the one that it replaces. The user's row is locked. Raises: TooManyDevices, NotFound."""
        doorbell, count_max = Doorbell(), self._quotas.devices.of(user.role)
        if body.replaces:
            replaced = DeviceId(body.replaces)
            doorbell = await end_device(unit, user.user_number, replaced, now_ms=self._issuer.now_ms())
            if not doorbell.revoked:
                raise NotFound("you have no such device")
            await unit.audit.record(actor=body.user, device="", action="device.replaced", object_=replaced)
        if await unit.devices.live_count(user.user_number) >= count_max:
            live = await unit.devices.live(user.user_number)
            shown = [{"device": one.device, "name": one.name, "last_seen_day": one.last_seen_day} for one in live]
            raise TooManyDevices(count_max=count_max, devices=shown)
        return doorbell

    async def _known_device(self, body: Login) -> DeviceId | None:
        """The user's device, living or not, whose refresh token the log-in shows: what it fails is counted apart."""
        try:
            family, _ = self._refresh.check(body.known_refresh_token)
        except (RefreshRefused, UnknownKey):
            return None
        async with self._unit_of_work.autocommit() as unit:
            row = await unit.families.family(family)
        return row.device if row is not None and row.user == body.user else None

    async def step_up(self, caller: Caller, body: StepUp, *, address: str = "") -> None:
        """The caller proves who they are once more: its session is fresh again.

        Raises: LoginRefused, SecondFactorRequired, SecondFactorRefused, RateLimited.
        """
        attempt = Attempt(
            user=caller.user,
            what="post_v1_step_up",
            address=address,
            device=caller.device,
            known_device=caller.device,
            nonce=body.nonce,
            statement=self._issuer.statement(
                user=caller.user, nonce=body.nonce, dpop_thumbprint=caller.thumbprint, purpose="step_up"
            ),
        )
        with self._trying(attempt):
            async with self._factors.telling(attempt):
                await self._step_up(attempt, caller, body)

    async def _step_up(self, attempt: Attempt, caller: Caller, body: StepUp) -> None:
        async with self._unit_of_work.begin() as unit:
            user, factor = await self._proven(unit, attempt, body)
            await lock_caller(unit, caller)
            await unit.families.note_step_up(caller.family)
            await record_login(unit, caller.user, caller.device, "session.stepped_up", caller.family, factor=factor)
        self._doorbells.ring(Doorbell(users=[user.user_number]))

    def _trying(self, attempt: Attempt) -> AbstractContextManager[None]:
        return self._throttle.attempt(
            attempt.user, what=attempt.what, address=attempt.address, known_device=attempt.known_device
        )

    async def log_out(self, caller: Caller) -> None:
        """End the log-in session and revoke its device. Raises: NotFound when another request was first."""
        async with self._unit_of_work.begin() as unit:
            doorbell = await revoke(unit, caller, caller.device, now_ms=self._issuer.now_ms())
        self._doorbells.ring(doorbell)

    async def _proven(self, unit: SessionsUnit, attempt: Attempt, body: Login | StepUp) -> tuple[LoginRow, str]:
        """The user, locked, after the proof, for whoever cannot sign makes nobody wait; and the factor, if there was one."""
        if isinstance(body.signature, PasskeyAssertion):
            return await self._proven_by_passkey(unit, attempt, body.signature), "passkey_alone"
        user = await self._proven_by_password(unit, attempt, body.signature)
        return user, await self._factors.check_beside_password(unit, attempt, user.user_number, body.second_factor)

    async def _proven_by_password(self, unit: SessionsUnit, attempt: Attempt, signature: str) -> LoginRow:
        found = await unit.sessions.find_login(attempt.user)
        login_key = _ANY_KEY if found is None else open_login_key(self._sealer, attempt.user, found.login_key_sealed)
        try:
            self._check_signed(attempt, login_key, signature)
        except LoginRefused:
            await self._check_pending(unit, attempt, signature)
            raise
        return await self._locked(unit, attempt, found)

    async def _proven_by_passkey(self, unit: SessionsUnit, attempt: Attempt, shown: PasskeyAssertion) -> LoginRow:
        found = await unit.sessions.find_login(attempt.user)
        await self._factors.check_passkey_alone(unit, attempt, shown)
        self._issuer.check_nonce(attempt.nonce)
        user = await self._locked(unit, attempt, found)
        await self._factors.take_passkey_alone(unit, attempt, user.user_number, shown)
        return user

    async def _locked(self, unit: SessionsUnit, attempt: Attempt, found: LoginRow | None) -> LoginRow:
        if found is not None:
            now = await unit.sessions.lock_login(attempt.user)
            if now is not None and not now.is_locked and self._is_same_key(attempt.user, found, now):
                return now
        raise LoginRefused("unknown name or wrong password")

    def _is_same_key(self, user: UserId, found: LoginRow, now: LoginRow) -> bool:
        """It may have been sealed anew in between."""
        both = {one.login_key_sealed for one in (found, now)}
        return len({open_login_key(self._sealer, user, sealed) for sealed in both}) == 1

    async def _check_pending(self, unit: SessionsUnit, attempt: Attempt, signature: str) -> None:
        """Whoever applied for an account proves it by the password, and by nothing else. Raises: ApprovalPending."""
        for sealed in await unit.registrations.request_keys(attempt.user):
            with suppress(LoginRefused):
                self._check_signed(attempt, open_login_key(self._sealer, attempt.user, sealed), signature)
                raise ApprovalPending("an admin has not decided yet")

    def _check_signed(self, attempt: Attempt, login_key: str, signature: str) -> None:
        """Raises: LoginRefused."""
        self._issuer.check_signature(attempt.statement, login_key=login_key, signature=signature)
        self._issuer.check_nonce(attempt.nonce)


async def check_own_password(
    unit: SessionsUnit,
    issuer: Issuer,
    sealer: Sealer,
    caller: Caller,
    *,
    nonce: str,
    signature: str,
    purpose: str,
    about: bytes,
) -> tuple[bytes, str]:
    """Lock the caller; the password's key must have signed this. Returns the statement and that key.

    Raises: DeviceRevoked, LoginRefused (the signature, or the nonce).
    """
    await lock_caller(unit, caller)
    found = await unit.sessions.find_login(caller.user)
    if found is None or found.is_locked:
        raise LoginRefused("wrong password")
    statement = issuer.statement(
        user=caller.user, nonce=nonce, dpop_thumbprint=caller.thumbprint, purpose=purpose, about=about
    )
    login_key = open_login_key(sealer, caller.user, found.login_key_sealed)
    issuer.check_signature(statement, login_key=login_key, signature=signature)
    issuer.check_nonce(nonce)
    return statement, login_key


async def start_session(
    unit: SessionsUnit, issuer: Issuer, user: UserNumber, device: NewDevice, dpop_thumbprint: str
) -> FamilyId:
    """A new device and its family of tokens, in the caller's transaction. Raises: DeviceIdTaken."""
    family = issuer.make_family()
    new_family = NewFamily(family=family, dpop_thumbprint=dpop_thumbprint, generation=issuer.generation)
    await unit.sessions.add_session(user, device, new_family)
    return family


async def record_login(
    unit: SessionsUnit,
    user: UserId,
    device: DeviceId,
    action: str,
    family: FamilyId,
    *,
    role: str | None = None,
    factor: str = "",
    invitation: str = "",
) -> None:
    """role, invitation: of an account that was made just now. factor: which was shown beside the password, or "passkey_alone"."""
    detail = {name: value for name, value in (("factor", factor), ("invitation", invitation)) if value}
    await unit.audit.record(
        actor=user,
        device=device,
        action=action,
        object_=user,
        detail=detail or None,
        after={"role": role} if role is not None else None,
        family=family,
    )


class EndExpiredSessions:
    """The job sessions_cleanup: log-in sessions that nobody can refresh any more end with their devices, so that nobody encrypts
    for them.
    """

    name = "sessions_cleanup"
    _count_max = 100

    def __init__(self, *, units: Transactions[SessionsUnit], doorbells: Doorbells, lifetimes: Lifetimes) -> None:
        self._units = units
        self._doorbells = doorbells
        self._lifetimes = lifetimes

    async def step(self) -> Done:
        """Each in a transaction of its own.

        Raises: StoreUnavailable, Overloaded, OutcomeUnknown.
        """
        async with self._units.autocommit() as unit:
            expired = await unit.families.expired(self._lifetimes, count_max=self._count_max)
        for family in expired:
            await self._end(family)
        return Done(len(expired), has_more=len(expired) == self._count_max)

    async def _end(self, family: FamilyId) -> None:
        async with self._units.autocommit() as unit:
            row = await unit.families.family(family)
        if row is None:
            return
        doorbell = Doorbell()
        async with self._units.begin() as unit:
            await unit.devices.lock_user(row.user_number)
            await unit.families.lock_family(family)
            now = await unit.families.family(family)
            if now is not None and not now.has_ended and self._lifetimes.are_over(now):
                doorbell = await end_session(unit, now, family, why="expired", now_ms=now.now_ms)
        self._doorbells.ring(doorbell)
