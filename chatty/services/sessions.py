"""Log-in sessions: a device signs in, proves itself again, signs out. What becomes of its tokens, tokens.py says.

A log-in proves the log-in key, derived on the client from the password, over a nonce of ours that lives some minutes. It makes a
new device and a family of refresh tokens, bound to the client's DPoP key. A step-up proves the same key again, for acts that a
stolen device alone must not be able to do.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from chatty.crypto.sealing import Sealer
from chatty.crypto.tokens import RefreshTokens
from chatty.errors import ApprovalPending, LoginRefused, NotFound, RefreshRefused, TooManyDevices
from chatty.ids import DeviceId, DeviceNumber, FamilyId, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.devices import end_device, revoke, tell_own_devices
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.issuer import Issuer
from chatty.services.login_throttle import LoginThrottle
from chatty.services.quotas import Quotas
from chatty.services.registration import Registrations
from chatty.services.tokens import Lifetimes, TokensUnit, end_session
from chatty.services.units import Transactions
from chatty.wire.accounts import Login, NewDevice, StepUp, Tokens
from chatty.wire.canonical import encode_base64

# Any Ed25519 key: under an unknown name the same work is done, and refused whoever signs for it.
_ANY_KEY = "WGZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY"


@dataclass(frozen=True, kw_only=True)
class LoginRow:
    """login_key_sealed opens to the 32 bytes of the public log-in key."""

    user_number: UserNumber
    role: str
    is_locked: bool
    login_key_sealed: bytes = field(repr=False)


def login_key_purpose(user: UserId) -> str:
    """Under which a log-in key is sealed."""
    return f"login_key/{user}"


# Port ---------------------------------------------------------------------------------------------------------------


class Sessions(Protocol):
    """What the steps need of the store, inside one transaction."""

    async def find_login(self, user: UserId) -> LoginRow | None: ...

    async def add_device(self, user: UserNumber, device: NewDevice) -> DeviceNumber:
        """With its send row, live, outside the set. Raises: DeviceIdTaken."""
        ...


class SessionsUnit(TokensUnit, Protocol):
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
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._issuer = issuer
        self._refresh = refresh
        self._sealer = sealer
        self._throttle = throttle
        self._quotas = quotas

    async def log_in(self, body: Login, *, address: str = "") -> Tokens:
        """A new device for this user.

        Raises: LoginRefused, ApprovalPending, DeviceIdTaken, TooManyDevices, NotFound (what it replaces), RateLimited.
        """
        known = await self._known_device(body)
        with self._throttle.attempt(body.user, what="post_v1_login", address=address, known_device=known):
            return await self._log_in(body)

    async def _log_in(self, body: Login) -> Tokens:
        async with self._unit_of_work.begin() as unit:
            user = await self._verified(unit, body)
            ended = await self._make_room(unit, user, body)
            family = await start_session(unit, self._issuer, user.user_number, body.new_device, body.dpop_thumbprint)
            await record_login(unit, body.user, body.new_device.device, "session.started", family)
            doorbell = await tell_own_devices(unit, user.user_number, now_ms=self._issuer.now_ms())
        self._doorbells.ring(doorbell)
        self._doorbells.ring(ended)
        return self._issuer.issue(
            user=body.user,
            device=body.new_device.device,
            family=family,
            k=1,
            role=user.role,
            thumbprint=body.dpop_thumbprint,
        )

    async def _make_room(self, unit: SessionsUnit, user: LoginRow, body: Login) -> Doorbell:
        """For one more device: end the one that it replaces. The user's row is locked. Raises: TooManyDevices, NotFound."""
        live, doorbell, now_ms = await unit.devices.live(user.user_number), Doorbell(), self._issuer.now_ms()
        count_max = self._quotas.devices.of(user.role)
        if body.replaces:
            replaced = DeviceId(body.replaces)
            if replaced not in {one.device for one in live}:
                raise NotFound("you have no such device")
            await unit.audit.record(actor=body.user, device="", action="device.replaced", object_=replaced)
            doorbell = await end_device(unit, user.user_number, replaced, now_ms=now_ms)
            live = [one for one in live if one.device != replaced]
        if len(live) >= count_max:
            shown = [{"device": one.device, "name": one.name, "last_seen_day": one.last_seen_day} for one in live]
            raise TooManyDevices(count_max=count_max, devices=shown)
        return doorbell

    async def _known_device(self, body: Login) -> DeviceId | None:
        """The user's device, living or not, whose refresh token the log-in shows: what it fails is counted apart."""
        try:
            family, _ = self._refresh.check(body.known_refresh_token)
        except RefreshRefused:
            return None
        async with self._unit_of_work.snapshot() as unit:
            row = await unit.families.family(family)
        return row.device if row is not None and row.user == body.user else None

    async def step_up(self, caller: Caller, body: StepUp, *, address: str = "") -> None:
        """The caller proves the log-in key once more: its session is fresh again. Raises: LoginRefused, RateLimited."""
        what, device = "post_v1_step_up", caller.device
        with self._throttle.attempt(caller.user, what=what, address=address, known_device=device):
            async with self._unit_of_work.begin() as unit:
                found = await unit.sessions.find_login(caller.user)
                if found is None:
                    raise LoginRefused("wrong password")
                self._issuer.check_statement(
                    login_key=self._open_login_key(caller.user, found.login_key_sealed),
                    user=caller.user,
                    nonce=body.nonce,
                    dpop_thumbprint=caller.thumbprint,
                    purpose="step_up",
                    signature=body.signature,
                )
                await unit.families.note_step_up(caller.family)
                await record_login(unit, caller.user, caller.device, "session.stepped_up", caller.family)

    async def log_out(self, caller: Caller) -> None:
        """End the log-in session and revoke its device. Raises: NotFound when another request was first."""
        async with self._unit_of_work.begin() as unit:
            doorbell = await revoke(unit, caller, caller.device, now_ms=self._issuer.now_ms())
        self._doorbells.ring(doorbell)

    async def _verified(self, unit: SessionsUnit, body: Login) -> LoginRow:
        """The user, locked, after the proof: whoever cannot sign makes nobody wait."""
        found = await unit.sessions.find_login(body.user)
        login_key = _ANY_KEY if found is None else self._open_login_key(body.user, found.login_key_sealed)
        try:
            self._check_statement(body, login_key)
        except LoginRefused:
            await self._check_pending(unit, body)
            raise
        if found is not None:
            await unit.devices.lock_user(found.user_number)
            locked = await unit.sessions.find_login(body.user)
            if locked == found and not found.is_locked:
                return found
        raise LoginRefused("unknown name or wrong password")

    async def _check_pending(self, unit: SessionsUnit, body: Login) -> None:
        """Whoever applied for an account proves it by the password, and by nothing else. Raises: ApprovalPending."""
        for sealed in await unit.registrations.request_keys(body.user):
            with suppress(LoginRefused):
                self._check_statement(body, self._open_login_key(body.user, sealed))
                raise ApprovalPending("an admin has not decided yet")

    def _check_statement(self, body: Login, login_key: str) -> None:
        self._issuer.check_statement(
            login_key=login_key,
            user=body.user,
            nonce=body.nonce,
            dpop_thumbprint=body.dpop_thumbprint,
            purpose="login",
            signature=body.signature,
        )

    def _open_login_key(self, user: UserId, sealed: bytes) -> str:
        return encode_base64(self._sealer.open(sealed, purpose=login_key_purpose(user)))


async def start_session(
    unit: SessionsUnit, issuer: Issuer, user: UserNumber, device: NewDevice, dpop_thumbprint: str
) -> FamilyId:
    """A new device and its family of tokens, in the caller's transaction. Raises: DeviceIdTaken."""
    family = issuer.make_family()
    number = await unit.sessions.add_device(user, device)
    await unit.families.add_family(family, number, dpop_thumbprint=dpop_thumbprint, generation=issuer.generation)
    return family


async def record_login(
    unit: SessionsUnit, user: UserId, device: DeviceId, action: str, family: FamilyId, *, role: str | None = None
) -> None:
    """role: of an account that was made just now."""
    after = {"role": role} if role is not None else None
    await unit.audit.record(actor=user, device=device, action=action, object_=user, after=after, family=family)


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

    async def step(self) -> bool:
        """Each in a transaction of its own. Returns whether there may be more to do at once.

        Raises: StoreUnavailable, Overloaded, OutcomeUnknown.
        """
        async with self._units.snapshot() as unit:
            expired = await unit.families.expired(self._lifetimes, count_max=self._count_max)
        for family in expired:
            await self._end(family)
        return len(expired) == self._count_max

    async def _end(self, family: FamilyId) -> None:
        async with self._units.snapshot() as unit:
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
