"""Tokens: what presenting a refresh token does, and who is behind an access token (docs/protocol.md, "Identity").

The rules are pure; tests/models/test_tokens.py checks them exhaustively, and shows what goes wrong without each.

A family is one log-in session's chain of tokens 1, 2, 3 …, each a function of the one before; the server keeps the newest, `k`.

    k issued ── presented, or an access token issued with it seen ──> k used, k - 1 retires ── presented ──> k + 1 issued

The newest token rotates. The one before it, while the newest was never used, gets the newest again: its answer was lost. A
retired one is refused without effect for `grace_ms` after its own retirement, for a copy that was under way may come late; after
that only a thief, or somebody from whom was stolen, can present it, and the family is revoked.

A revoked family's device is ended with it and its user told; who shows a token with another key than the family's ends nothing,
and the user is told of that. An access token says who, a DPoP proof that it is used by whom it was given to; whether its log-in
session still lives, the database says, on every request.

Full: `retired_max` retirements within the grace refuse a further rotation (`overloaded`); none is forgotten before its time.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from chatty.crypto.tokens import AccessClaims, AccessTokens, RefreshTokens, UnknownKey
from chatty.errors import DeviceRevoked, InvalidDpopProof, Overloaded, RefreshRefused, Unauthenticated
from chatty.ids import DeviceId, DeviceNumber, FamilyId, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.devices import DevicesUnit, end_device, tell_security
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.dpop import Proofs, ProvenRequest
from chatty.services.issuer import Issuer
from chatty.services.login_throttle import LoginThrottle
from chatty.services.server_keys import ServerKeys
from chatty.services.units import Transactions
from chatty.wire.accounts import Refresh, Tokens

grace_ms = 60_000  # as long as a DPoP nonce may live: no later copy of a request is looked at
retired_max = 64
warning_pause_s = 3_600.0  # a user is told of a wrong key at most so often


# Rules --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class RefreshState:
    """retired_ms: when tokens retired, the oldest first, up to the newest retired one; those beyond the grace may be missing."""

    k: int = 1
    is_used: bool = False
    retired_ms: tuple[int, ...] = ()

    @property
    def newest_retired(self) -> int:
        return self.k - 1 if self.is_used else self.k - 2


class Reuse(Exception):
    """A token came that was retired long ago: the family is to be revoked."""


def present(state: RefreshState, k: int, *, now_ms: int, may_jump: bool = False) -> RefreshState:
    """Token k is presented for a refresh, with a fresh proof of the family's own key. The answer is the new state's k.

    may_jump: the database was restored from a backup since: then a token of ours that it has not heard of sets k.
    Raises: RefreshRefused (nothing changes), Reuse (the family is to be revoked), Overloaded.
    """
    if k > state.k:
        if not may_jump:
            raise RefreshRefused("not a token of this family yet")
        state = RefreshState(k=k)
    if k == state.k:
        return _rotated(state, now_ms)
    if k == state.k - 1 and not state.is_used:
        return state
    at = len(state.retired_ms) - 1 - (state.newest_retired - k)
    if at >= 0 and now_ms - state.retired_ms[at] <= grace_ms:
        raise RefreshRefused("this token was just retired: use the newer one")
    raise Reuse


def note_use(state: RefreshState, k: int, *, now_ms: int) -> RefreshState:
    """An access token that was issued with token k was seen: if k is the newest, the one before it retires."""
    if k != state.k or state.is_used:
        return state
    return replace(state, is_used=True, retired_ms=_kept(state, now_ms) + ((now_ms,) if k > 1 else ()))


def _rotated(state: RefreshState, now_ms: int) -> RefreshState:
    used = note_use(state, state.k, now_ms=now_ms)
    kept = _kept(used, now_ms)
    if len(kept) > retired_max:
        raise Overloaded(limiter="refresh_rotations", retry_after_s=(kept[0] + grace_ms - now_ms) / 1000 + 0.001)
    return RefreshState(k=state.k + 1, retired_ms=kept)


def _kept(state: RefreshState, now_ms: int) -> tuple[int, ...]:
    return tuple(at for at in state.retired_ms if now_ms - at <= grace_ms)


# Port ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FamilyRow:
    """A log-in session and whose it is. Times by the database's clock; now_ms: when it was read.

    step_up_age_s: since its user last proved who they are, at the log-in or later.
    """

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
    step_up_age_s: float
    now_ms: int

    @property
    def has_ended(self) -> bool:
        return self.is_revoked or self.is_locked or not self.is_live


@dataclass(frozen=True, kw_only=True)
class Lifetimes:
    """Of a log-in session: without a refresh, and altogether."""

    idle_s: float
    absolute_s: float

    def are_over(self, row: FamilyRow) -> bool:
        return row.idle_s > self.idle_s or row.age_s > self.absolute_s


class Families(Protocol):
    """What the steps need of the store, inside one transaction."""

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

    async def expired(self, lifetimes: Lifetimes, *, count_max: int) -> Sequence[FamilyId]:
        """Those whose time is over and that were not ended yet, unused for longest first."""
        ...

    async def note_step_up(self, family: FamilyId) -> None:
        """Its user proved who they are just now."""
        ...


class TokensUnit(DevicesUnit, Protocol):
    """What these steps need of a transaction."""

    @property
    def families(self) -> Families: ...


# Steps --------------------------------------------------------------------------------------------------------------


class TokenSteps:
    def __init__(
        self,
        *,
        unit_of_work: Transactions[TokensUnit],
        doorbells: Doorbells,
        issuer: Issuer,
        access: AccessTokens,
        refresh: RefreshTokens,
        proofs: Proofs,
        keys: ServerKeys,
        lifetimes: Lifetimes,
        throttle: LoginThrottle,
        clock_s: Callable[[], float],
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._issuer = issuer
        self._access = access
        self._refresh = refresh
        self._proofs = proofs
        self._keys = keys
        self._lifetimes = lifetimes
        self._throttle = throttle
        self._clock_s = clock_s

    async def refresh(self, body: Refresh, proven: ProvenRequest, *, address: str = "") -> Tokens:
        """Both tokens anew, as tokens.py says.

        Raises: InvalidDpopProof, UseDpopNonce, RefreshRefused (nothing changes, or the log-in session was ended), Overloaded.
        """
        thumbprint = self._proofs.check(proven)
        family, k = await self._checked(body.refresh_token)
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

    async def _checked(self, token: str) -> tuple[FamilyId, int]:
        """Raises: RefreshRefused."""
        with suppress(UnknownKey):
            return self._refresh.check(token)
        await self._keys.read_for_unknown()
        try:
            return self._refresh.check(token)
        except UnknownKey:
            raise RefreshRefused("not a refresh token of this server") from None

    async def _present(self, family: FamilyId, k: int, thumbprint: str) -> tuple[FamilyRow | None, RefreshState | None]:
        """The family, and its tokens as they are now; no tokens: another key's. Raises: Reuse, RefreshRefused, Overloaded."""
        async with self._unit_of_work.begin() as unit:
            await unit.families.lock_family(family)
            row = await unit.families.family(family)
            if row is None or row.has_ended or self._lifetimes.are_over(row):
                raise RefreshRefused("the log-in session has ended")
            if row.thumbprint != thumbprint:
                return row, None
            tokens = self._after(row, k)
            if tokens != row.tokens:
                await unit.families.set_tokens(family, tokens)
                await unit.families.note_refresh(family, generation=self._issuer.generation)
                await unit.families.mark_seen(row.device_number)
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
            await unit.families.lock_family(family)
            now = await unit.families.family(family)
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
            await unit.families.lock_family(family)
            if not await unit.families.note_warning(family, pause_s=warning_pause_s):
                return
            await unit.audit.record(
                actor="", device="", action="session.wrong_key_shown", object_=row.device, family=family
            )
            doorbell = await tell_security(
                unit, row.user_number, what="wrong_key_shown", device=row.device, now_ms=row.now_ms
            )
        self._doorbells.ring(doorbell)

    async def _read(self, family: FamilyId) -> FamilyRow | None:
        async with self._unit_of_work.autocommit() as unit:
            return await unit.families.family(family)

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

    async def look_again(self, caller: Caller) -> Caller:
        """The same caller as it stands now, for a request that waited since. Raises: DeviceRevoked."""
        row = await self._living(caller.family)
        return replace(caller, role=row.role, step_up_age_s=row.step_up_age_s)

    async def _living(self, family: FamilyId) -> FamilyRow:
        row = await self._read(family)
        if row is None or row.has_ended:
            raise DeviceRevoked("this log-in session was ended")
        return row

    async def _claims(self, access_token: str) -> AccessClaims:
        try:
            return self._access.check(access_token, now_s=self._clock_s())
        except UnknownKey:
            await self._keys.read_for_unknown()
        try:
            return self._access.check(access_token, now_s=self._clock_s())
        except UnknownKey:
            raise Unauthenticated("the access token's key is unknown") from None

    async def _caller(self, claims: AccessClaims, thumbprint: str) -> Caller:
        if thumbprint != claims.thumbprint:
            raise InvalidDpopProof("the access token is bound to another key")
        row = await self._living(claims.family)
        if (row.user, row.device) != (claims.user, claims.device):
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
            thumbprint=row.thumbprint,
            step_up_age_s=row.step_up_age_s,
            expires_at_s=claims.expires_at_s,
            token_key_id=claims.key_id,
        )

    async def _note_use(self, claims: AccessClaims) -> None:
        """The first sight of an access token of the newest refresh token: the one before it retires."""
        async with self._unit_of_work.begin() as unit:
            await unit.families.lock_family(claims.family)
            row = await unit.families.family(claims.family)
            if row is not None:
                tokens = note_use(row.tokens, claims.k, now_ms=row.now_ms)
                await unit.families.set_tokens(claims.family, tokens)


async def end_session(unit: TokensUnit, row: FamilyRow, family: FamilyId, *, why: str, now_ms: int) -> Doorbell:
    """End it and its device by the server's own decision, and tell the user why; the user's row is locked."""
    doorbell = await end_device(unit, row.user_number, row.device, now_ms=now_ms)
    await unit.audit.record(
        actor="", device="", action="session.ended", object_=row.device, after={"why": why}, family=family
    )
    told = await tell_security(unit, row.user_number, what=why, device=row.device, now_ms=now_ms)
    return Doorbell(rooms=doorbell.rooms, users=told.users, revoked=doorbell.revoked)
