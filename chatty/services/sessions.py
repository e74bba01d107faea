"""Log-in sessions: a device signs in, refreshes its tokens, signs out; and who is behind an access token.

A log-in proves the log-in key, derived on the client from the password, over a nonce of ours that lives a minute. It makes a
new device and a family of refresh tokens, bound to the client's DPoP key; what presenting one does, tokens.py says. A token that
comes long after it was retired ends the log-in session and its device, and the user is told; one that comes with another key
only tells the user.

An access token says who, a DPoP proof that it is used by whom it was given to; whether its log-in session still lives, the
database says, on every request.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from chatty.crypto import signatures
from chatty.crypto.nonces import Nonces
from chatty.crypto.sealing import Random, Sealer
from chatty.crypto.tokens import AccessClaims, AccessTokens, RefreshTokens, UnknownKey, make_family_id
from chatty.errors import (
    ApprovalPending,
    BadSignature,
    DeviceRevoked,
    InvalidDpopProof,
    LoginRefused,
    Overloaded,
    RefreshRefused,
    Unauthenticated,
)
from chatty.ids import DeviceId, DeviceNumber, FamilyId, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.devices import DevicesUnit, end_device, revoke, tell_own_devices, tell_security
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.dpop import Proofs, ProvenRequest
from chatty.services.limits import unlimited
from chatty.services.login_throttle import LoginThrottle
from chatty.services.registration import Registrations
from chatty.services.signing_keys import SigningKeys
from chatty.services.tokens import RefreshState, Reuse, note_use, present
from chatty.services.units import Transactions
from chatty.wire.accounts import Login, NewDevice, Refresh, Tokens
from chatty.wire.canonical import encode_base64, encode_base64url
from chatty.wire.signing import login_bytes

warning_pause_s = 3_600.0  # a user is told of a wrong key at most so often
# Any Ed25519 key: under an unknown name the same work is done, and refused whoever signs for it.
_ANY_KEY = "WGZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY"


@dataclass(frozen=True, kw_only=True)
class LoginRow:
    """login_key_sealed opens to the 32 bytes of the public log-in key."""

    user_number: UserNumber
    role: str
    is_locked: bool
    login_key_sealed: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class FamilyRow:
    """A log-in session and whose it is. Times by the database's clock; now_ms: when it was read."""

    user: UserId
    user_number: UserNumber
    role: str
    is_locked: bool
    device: DeviceId
    device_number: DeviceNumber
    is_live: bool
    thumbprint: str
    tokens: RefreshState
    generation: int
    is_revoked: bool
    age_s: float
    idle_s: float
    now_ms: int

    @property
    def has_ended(self) -> bool:
        return self.is_revoked or self.is_locked or not self.is_live


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

    async def add_family(
        self, family: FamilyId, device: DeviceNumber, *, dpop_thumbprint: str, generation: int
    ) -> None:
        """At k = 1."""
        ...

    async def lock_family(self, family: FamilyId) -> None: ...

    async def family(self, family: FamilyId) -> FamilyRow | None: ...

    async def set_tokens(self, family: FamilyId, tokens: RefreshState) -> None:
        """The family's row is locked."""
        ...

    async def note_refresh(self, family: FamilyId, *, generation: int) -> None:
        """It goes on from now, in this generation; the family's row is locked."""
        ...

    async def note_warning(self, family: FamilyId, *, pause_s: float) -> bool:
        """Whether the user is to be warned now: not more than once in pause_s."""
        ...

    async def mark_seen(self, device: DeviceNumber) -> None:
        """The day on which the device was last seen; at most one write a day."""
        ...


class SessionsUnit(DevicesUnit, Protocol):
    """What these steps need of a transaction."""

    @property
    def sessions(self) -> Sessions: ...
    @property
    def registrations(self) -> Registrations: ...


# Steps --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Lifetimes:
    """Of a log-in session: without a refresh, and altogether."""

    idle_s: float
    absolute_s: float


class Issuer:
    """Makes both tokens of a log-in session, and checks log-in statements. origin: the public one."""

    def __init__(
        self,
        *,
        access: AccessTokens,
        refresh: RefreshTokens,
        nonces: Nonces,
        origin: str,
        clock_s: Callable[[], float],
        generation: int = 1,
        random: Random = os.urandom,
    ) -> None:
        self.generation = generation
        self._access = access
        self._refresh = refresh
        self._nonces = nonces
        self._origin = origin
        self._clock_s = clock_s
        self._random = random

    def make_family(self) -> FamilyId:
        return make_family_id(self._random(16))

    def make_nonce(self) -> str:
        return self._nonces.make(now_s=self._clock_s())

    def now_ms(self) -> int:
        return int(self._clock_s() * 1000)

    def issue(self, *, user: UserId, device: DeviceId, family: FamilyId, k: int, role: str, thumbprint: str) -> Tokens:
        access_token = self._access.issue(
            user=user,
            device=device,
            family=family,
            k=k,
            role=role,
            thumbprint=thumbprint,
            token_id=encode_base64url(self._random(16)),
            now_s=self._clock_s(),
        )
        return Tokens(
            user=user,
            device=device,
            access_token=access_token,
            refresh_token=self._refresh.make(family, k),
            expires_in_s=self._access.lifetime_s,
        )

    def check_statement(
        self, *, login_key: str, user: UserId, nonce: str, dpop_thumbprint: str, purpose: str, signature: str
    ) -> None:
        """Did the holder of the log-in key sign this, within the last minute? Raises: LoginRefused."""
        statement = login_bytes(
            origin=self._origin, user=user, nonce=nonce, dpop_thumbprint=dpop_thumbprint, purpose=purpose
        )
        try:
            signatures.verify(login_key, statement, signature)
        except BadSignature:
            raise LoginRefused("unknown name or wrong password") from None
        if not self._nonces.is_fresh(nonce, now_s=self._clock_s()):
            raise LoginRefused("the nonce is not fresh: ask for the salt again")


class SessionSteps:
    def __init__(
        self,
        *,
        unit_of_work: Transactions[SessionsUnit],
        doorbells: Doorbells,
        issuer: Issuer,
        access: AccessTokens,
        refresh: RefreshTokens,
        proofs: Proofs,
        signing_keys: SigningKeys,
        sealer: Sealer,
        lifetimes: Lifetimes,
        clock_s: Callable[[], float],
        throttle: LoginThrottle | None = None,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._throttle = throttle or LoginThrottle(unlimited(), free_count=1_000_000, delay_max_s=1)
        self._issuer = issuer
        self._access = access
        self._refresh = refresh
        self._proofs = proofs
        self._signing_keys = signing_keys
        self._sealer = sealer
        self._lifetimes = lifetimes
        self._clock_s = clock_s

    async def log_in(self, body: Login, *, address: str = "") -> Tokens:
        """A new device for this user. Raises: LoginRefused, ApprovalPending, DeviceIdTaken, RateLimited."""
        known = await self._known_device(body)
        with self._throttle.attempt(body.user, what="post_v1_login", address=address, known_device=known):
            return await self._log_in(body)

    async def _log_in(self, body: Login) -> Tokens:
        async with self._unit_of_work.begin() as unit:
            user = await self._verified(unit, body)
            family = await start_session(unit, self._issuer, user.user_number, body.new_device, body.dpop_thumbprint)
            await record_login(unit, body.user, body.new_device.device, "session.started", family)
            doorbell = await tell_own_devices(unit, user.user_number, now_ms=self._issuer.now_ms())
        self._doorbells.ring(doorbell)
        return self._issuer.issue(
            user=body.user,
            device=body.new_device.device,
            family=family,
            k=1,
            role=user.role,
            thumbprint=body.dpop_thumbprint,
        )

    async def _known_device(self, body: Login) -> DeviceId | None:
        """The user's device, living or not, whose refresh token the log-in shows: what it fails is counted apart."""
        try:
            family, _ = self._refresh.check(body.known_refresh_token)
        except RefreshRefused:
            return None
        async with self._unit_of_work.snapshot() as unit:
            row = await unit.sessions.family(family)
        return row.device if row is not None and row.user == body.user else None

    async def refresh(self, body: Refresh, proven: ProvenRequest, *, address: str = "") -> Tokens:
        """Both tokens anew, as tokens.py says.

        Raises: InvalidDpopProof, UseDpopNonce, RefreshRefused (nothing changes, or the log-in session was ended), Overloaded.
        """
        thumbprint = self._proofs.check(proven)
        family, k = self._refresh.check(body.refresh_token)
        try:
            row, tokens = await self._present(family, k, thumbprint)
        except Reuse:
            await self._end_reused(family, k)
            raise RefreshRefused("an old token came again: the log-in session was ended") from None
        if row is None or tokens is None:
            await self._warn(family)
            raise RefreshRefused("not this key's token, or the log-in session has ended")
        self._throttle.note_familiar(row.user, address)
        return self._issuer.issue(
            user=row.user, device=row.device, family=family, k=tokens.k, role=row.role, thumbprint=thumbprint
        )

    async def _present(self, family: FamilyId, k: int, thumbprint: str) -> tuple[FamilyRow | None, RefreshState | None]:
        """The family, and its tokens as they are now; no tokens: another key's. Raises: Reuse, RefreshRefused, Overloaded."""
        async with self._unit_of_work.begin() as unit:
            await unit.sessions.lock_family(family)
            row = await unit.sessions.family(family)
            if row is None or row.has_ended or self._is_over(row):
                raise RefreshRefused("the log-in session has ended")
            if row.thumbprint != thumbprint:
                return row, None
            tokens = self._after(row, k)
            if tokens != row.tokens:
                await unit.sessions.set_tokens(family, tokens)
                await unit.sessions.note_refresh(family, generation=self._issuer.generation)
                await unit.sessions.mark_seen(row.device_number)
        return row, tokens

    def _after(self, row: FamilyRow, k: int) -> RefreshState:
        may_jump = row.generation < self._issuer.generation
        return present(row.tokens, k, now_ms=row.now_ms, may_jump=may_jump)

    async def _end_reused(self, family: FamilyId, k: int) -> None:
        """In a transaction of its own: the user's row is locked before the family's, and all is looked at again."""
        row, doorbell = await self._read(family), Doorbell()
        if row is None:
            return
        async with self._unit_of_work.begin() as unit:
            await unit.devices.lock_user(row.user_number)
            await unit.sessions.lock_family(family)
            now = await unit.sessions.family(family)
            if now is not None and not now.has_ended and self._is_reuse(now, k):
                doorbell = await end_session(unit, now, family, why="refresh_token_reused", now_ms=now.now_ms)
        self._doorbells.ring(doorbell)

    def _is_reuse(self, row: FamilyRow, k: int) -> bool:
        with suppress(RefreshRefused, Overloaded):
            try:
                self._after(row, k)
            except Reuse:
                return True
        return False

    async def _warn(self, family: FamilyId) -> None:
        """Somebody shows this family's token with a key that is not its own. Told to the user, and not over and over."""
        row = await self._read(family)
        if row is None or row.has_ended:
            return
        async with self._unit_of_work.begin() as unit:
            await unit.devices.lock_user(row.user_number)
            await unit.sessions.lock_family(family)
            if not await unit.sessions.note_warning(family, pause_s=warning_pause_s):
                return
            await unit.audit.record(
                actor="", device="", action="session.wrong_key_shown", object_=row.device, family=family
            )
            doorbell = await tell_security(
                unit, row.user_number, what="wrong_key_shown", device=row.device, now_ms=row.now_ms
            )
        self._doorbells.ring(doorbell)

    async def _read(self, family: FamilyId) -> FamilyRow | None:
        async with self._unit_of_work.snapshot() as unit:
            return await unit.sessions.family(family)

    async def authenticate(self, access_token: str, proven: ProvenRequest) -> Caller:
        """Who sends this token over HTTP, with a proof of the key that it is bound to, if its log-in session lives now.

        Raises: Unauthenticated, TokenExpired, InvalidDpopProof, UseDpopNonce, DeviceRevoked.
        """
        claims = await self._claims(access_token)
        return await self._caller(claims, self._proofs.check(proven, access_token=access_token))

    async def authenticate_on_socket(self, access_token: str, proof: str, *, nonce: str) -> Caller:
        """nonce: of this connection's challenge. Raises: as authenticate(), but for UseDpopNonce."""
        claims = await self._claims(access_token)
        thumbprint = self._proofs.check_on_socket(proof, nonce=nonce, access_token=access_token)
        return await self._caller(claims, thumbprint)

    async def _claims(self, access_token: str) -> AccessClaims:
        try:
            return self._access.check(access_token, now_s=self._clock_s())
        except UnknownKey:
            await self._signing_keys.read_for_unknown()
        try:
            return self._access.check(access_token, now_s=self._clock_s())
        except UnknownKey:
            raise Unauthenticated("the access token's key is unknown") from None

    async def _caller(self, claims: AccessClaims, thumbprint: str) -> Caller:
        if thumbprint != claims.thumbprint:
            raise InvalidDpopProof("the access token is bound to another key")
        row = await self._read(claims.family)
        if row is None or row.has_ended or (row.user, row.device) != (claims.user, claims.device):
            raise DeviceRevoked("this log-in session was ended")
        if row.tokens.k == claims.k and not row.tokens.is_used:
            await self._note_use(claims)
        return Caller(
            user=row.user,
            user_number=row.user_number,
            device=row.device,
            device_number=row.device_number,
            family=claims.family,
            role=row.role,
            expires_at_s=claims.expires_at_s,
        )

    async def _note_use(self, claims: AccessClaims) -> None:
        """The first sight of an access token of the newest refresh token: the one before it retires."""
        async with self._unit_of_work.begin() as unit:
            await unit.sessions.lock_family(claims.family)
            row = await unit.sessions.family(claims.family)
            if row is not None:
                tokens = note_use(row.tokens, claims.k, now_ms=row.now_ms)
                await unit.sessions.set_tokens(claims.family, tokens)

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

    def _is_over(self, row: FamilyRow) -> bool:
        return row.idle_s > self._lifetimes.idle_s or row.age_s > self._lifetimes.absolute_s


async def start_session(
    unit: SessionsUnit, issuer: Issuer, user: UserNumber, device: NewDevice, dpop_thumbprint: str
) -> FamilyId:
    """A new device and its family of tokens, in the caller's transaction. Raises: DeviceIdTaken."""
    family = issuer.make_family()
    number = await unit.sessions.add_device(user, device)
    await unit.sessions.add_family(family, number, dpop_thumbprint=dpop_thumbprint, generation=issuer.generation)
    return family


async def end_session(unit: SessionsUnit, row: FamilyRow, family: FamilyId, *, why: str, now_ms: int) -> Doorbell:
    """End it and its device by the server's own decision, and tell the user why; the user's row is locked."""
    doorbell = await end_device(unit, row.user_number, row.device, now_ms=now_ms)
    await unit.audit.record(
        actor="", device="", action="session.ended", object_=row.device, after={"why": why}, family=family
    )
    told = await tell_security(unit, row.user_number, what=why, device=row.device, now_ms=now_ms)
    return Doorbell(rooms=doorbell.rooms, users=told.users, revoked=doorbell.revoked)


async def record_login(
    unit: SessionsUnit, user: UserId, device: DeviceId, action: str, family: FamilyId, *, role: str | None = None
) -> None:
    """role: of an account that was made just now."""
    after = {"role": role} if role is not None else None
    await unit.audit.record(actor=user, device=device, action=action, object_=user, after=after, family=family)
