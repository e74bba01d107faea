"""Second factors at a log-in or step-up: which a user has, and whether the one that is shown is right.

    password right ── has factors? ──no──> in
                          └─yes── one is shown? ──no──> second_factor_required, with what there is
                                      └─yes── right? ──no──> second_factor_refused, counted
                                                └─yes──> taken ──> in

Nobody gets here without the password, but with a passkey alone: that one must have verified its user, and is refused like a wrong
password. A user without factors is let in whatever is shown beside the password.

A factor is taken under the user's row lock and in the transaction of what it opens, so that it is of no use again: a TOTP step's
code, a recovery code, a passkey's signature by its counter, and by the nonce and the DPoP key that it is over. If the transaction
fails, nothing was taken. A refusal rolls it back; what the user is to be told of it, many wrong ones or a counter that went back,
is therefore told in a transaction of its own.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from chatty.crypto.passkeys import ANY_KEY, RelyingParty, check_assertion, user_handle, went_back
from chatty.crypto.recovery_codes import code_hash
from chatty.crypto.sealing import Sealer
from chatty.crypto.totp import matching_step
from chatty.errors import BadSignature, LoginRefused, SecondFactorRefused, SecondFactorRequired
from chatty.ids import DeviceId, PasskeyId, UserId, UserNumber
from chatty.services.devices import DevicesUnit, tell_security
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.limits import Asker
from chatty.services.login_throttle import FactorThrottle
from chatty.services.units import Transactions
from chatty.wire.accounts import PasskeyAssertion, SecondFactor
from chatty.wire.second_factors import AllowedPasskey
from chatty.wire.signing import passkey_challenge


@dataclass(frozen=True, kw_only=True)
class StoredTotp:
    """secret_sealed opens to the secret. last_step: the newest whose code was taken. day: YYYY-MM-DD."""

    secret_sealed: bytes = field(repr=False)
    last_step: int
    day: str


@dataclass(frozen=True, kw_only=True)
class StoredPasskey:
    """public_key: COSE, as CBOR. wrapped_recovery: opaque; None: it has none. day: YYYY-MM-DD."""

    passkey: PasskeyId
    public_key: bytes
    sign_count: int
    transports: Sequence[str]
    name: str
    day: str
    wrapped_recovery: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Factors:
    """What one user has. codes_left: recovery codes, which are no factor of their own."""

    user_number: UserNumber
    totp: StoredTotp | None = None
    codes_left: int = 0
    passkeys: Sequence[StoredPasskey] = ()

    @property
    def are_there(self) -> bool:
        return self.totp is not None or bool(self.passkeys)

    @property
    def kinds(self) -> list[str]:
        """In the protocol's words."""
        there = {"totp": self.totp, "recovery_code": self.codes_left, "passkey": self.passkeys}
        return [kind for kind, one in there.items() if one]

    def passkey(self, wanted: PasskeyId) -> StoredPasskey | None:
        return next((one for one in self.passkeys if one.passkey == wanted), None)

    @property
    def allowed(self) -> list[AllowedPasskey]:
        return [AllowedPasskey(passkey=one.passkey, transports=list(one.transports)) for one in self.passkeys]


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something that the user is told of and the audit log keeps. what: past, as in "totp_added". passkey: which, if any."""

    user_number: UserNumber
    what: str
    passkey: str = ""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Somebody proves who they are. what: the operation. statement: what is signed, with its nonce in it.

    device: the one that is made or that asks. known_device: proven to be the user's, whatever else fails. noticed: what the user
    is to be told of if it fails.
    """

    user: UserId
    what: str
    address: str
    device: DeviceId
    known_device: DeviceId | None
    nonce: str
    statement: bytes = field(repr=False)
    noticed: list[Notice] = field(default_factory=list)

    def notice(self, user: UserNumber, what: str, passkey: str = "") -> None:
        self.noticed.append(Notice(user_number=user, what=what, passkey=passkey))

    @property
    def asker(self) -> Asker:
        return Asker(what=self.what, address=self.address, user=self.user, device=self.known_device or "")


def totp_purpose(user: UserId) -> str:
    """Under which a TOTP secret is sealed."""
    return f"totp/{user}"


# Port ---------------------------------------------------------------------------------------------------------------


class FactorReads(Protocol):
    """What a check needs of the store, inside one transaction. But for passkey(), the user's row is locked."""

    async def factors(self, user: UserNumber) -> Factors: ...

    async def passkey(self, user: UserId, passkey: PasskeyId) -> StoredPasskey | None:
        """One look, whether or not there is such a user."""
        ...

    async def note_totp_step(self, user: UserNumber, step: int) -> None: ...

    async def take_code(self, user: UserNumber, hashed: bytes) -> bool:
        """Whether it was there; now it is gone."""
        ...

    async def note_sign_count(self, user: UserNumber, passkey: PasskeyId, count: int) -> None: ...


class FactorCheckUnit(DevicesUnit, Protocol):
    """What a check needs of a transaction."""

    @property
    def second_factors(self) -> FactorReads: ...


# Steps --------------------------------------------------------------------------------------------------------------


class FactorCheck:
    """handle_key: of user handles. clock_s: s since 1970."""

    def __init__(
        self,
        *,
        unit_of_work: Transactions[FactorCheckUnit],
        doorbells: Doorbells,
        sealer: Sealer,
        party: RelyingParty,
        handle_key: bytes,
        throttle: FactorThrottle,
        clock_s: Callable[[], float],
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._sealer = sealer
        self._party = party
        self._handle_key = handle_key
        self._throttle = throttle
        self._clock_s = clock_s

    @asynccontextmanager
    async def telling(self, attempt: Attempt) -> AsyncIterator[None]:
        """The block makes the attempt, in a transaction that a refusal rolls back; what was noticed is told then."""
        try:
            yield
        except (LoginRefused, SecondFactorRefused):
            for notice in attempt.noticed:
                await self._tell_alone(attempt, notice)
            raise

    async def check_beside_password(
        self, unit: FactorCheckUnit, attempt: Attempt, user: UserNumber, shown: SecondFactor | None
    ) -> str:
        """The kind that was taken; empty: none is asked for. The password was right, and the user's row is locked.

        Raises: SecondFactorRequired, SecondFactorRefused, RateLimited.
        """
        factors = await unit.second_factors.factors(user)
        if not factors.are_there:
            return ""
        if shown is None:
            raise self._required(factors)

        def on_many() -> None:
            attempt.notice(user, "codes_guessed")

        with self._throttle.attempt(attempt.asker, shown.kind, on_many=on_many):
            await self._take(unit, attempt, factors, shown)
        return shown.kind

    async def check_passkey_alone(self, unit: FactorCheckUnit, attempt: Attempt, shown: PasskeyAssertion) -> None:
        """Before the user's row is locked: whoever cannot sign makes nobody wait. The same work is done under an unknown name.

        Raises: LoginRefused.
        """
        found = await unit.second_factors.passkey(attempt.user, shown.passkey)
        count = self._count(attempt, shown, ANY_KEY if found is None else found.public_key, is_alone=True)
        if found is None or count is None:
            raise LoginRefused("unknown name, or not its passkey")

    async def take_passkey_alone(
        self, unit: FactorCheckUnit, attempt: Attempt, user: UserNumber, shown: PasskeyAssertion
    ) -> None:
        """The user's row is locked now. Raises: LoginRefused."""
        factors = await unit.second_factors.factors(user)
        if not await self._take_passkey(unit, attempt, factors, shown, is_alone=True):
            raise LoginRefused("unknown name, or not its passkey")

    def _required(self, factors: Factors) -> SecondFactorRequired:
        return SecondFactorRequired(
            factors=factors.kinds, rp_id=self._party.rp_id, allow_credentials=msgspec.to_builtins(factors.allowed)
        )

    async def _take(self, unit: FactorCheckUnit, attempt: Attempt, factors: Factors, shown: SecondFactor) -> None:
        """Raises: SecondFactorRefused."""
        is_right = False
        if shown.totp is not None:
            is_right = await self._take_totp(unit, attempt, factors, shown.totp)
        elif shown.recovery_code is not None:
            is_right = await self._take_code(unit, attempt, factors, shown.recovery_code)
        elif shown.passkey is not None:
            is_right = await self._take_passkey(unit, attempt, factors, shown.passkey, is_alone=False)
        if not is_right:
            raise SecondFactorRefused("wrong, or used before")

    async def _take_totp(self, unit: FactorCheckUnit, attempt: Attempt, factors: Factors, shown: str) -> bool:
        if factors.totp is None:
            return False
        secret = self._sealer.open(factors.totp.secret_sealed, purpose=totp_purpose(attempt.user))
        step = matching_step(secret, shown, now_s=self._clock_s(), after_step=factors.totp.last_step)
        if step is None:
            return False
        await unit.second_factors.note_totp_step(factors.user_number, step)
        return True

    async def _take_code(self, unit: FactorCheckUnit, attempt: Attempt, factors: Factors, shown: str) -> bool:
        if not await unit.second_factors.take_code(factors.user_number, code_hash(attempt.user, shown)):
            return False
        notice = Notice(user_number=factors.user_number, what="recovery_code_used")
        await tell(unit, notice, user=attempt.user, actor=attempt.user, device=attempt.device, now_ms=self._now_ms())
        return True

    async def _take_passkey(
        self, unit: FactorCheckUnit, attempt: Attempt, factors: Factors, shown: PasskeyAssertion, *, is_alone: bool
    ) -> bool:
        stored = factors.passkey(shown.passkey)
        count = None if stored is None else self._count(attempt, shown, stored.public_key, is_alone=is_alone)
        if stored is None or count is None:
            return False
        if went_back(stored=stored.sign_count, shown=count):
            attempt.notice(factors.user_number, "passkey_count_went_back", shown.passkey)
            return False
        await unit.second_factors.note_sign_count(factors.user_number, shown.passkey, count)
        return True

    def _count(self, attempt: Attempt, shown: PasskeyAssertion, public_key: bytes, *, is_alone: bool) -> int | None:
        """Of signatures, as a right one says it; None: it is wrong."""
        try:
            return check_assertion(
                self._party,
                shown,
                challenge=passkey_challenge(attempt.statement),
                public_key=public_key,
                user_handle=user_handle(self._handle_key, attempt.user),
                is_alone=is_alone,
            )
        except BadSignature:
            return None

    async def _tell_alone(self, attempt: Attempt, notice: Notice) -> None:
        async with self._unit_of_work.begin() as unit:
            await unit.devices.lock_user(notice.user_number)
            device = attempt.known_device or DeviceId("")
            doorbell = await tell(unit, notice, user=attempt.user, actor="", device=device, now_ms=self._now_ms())
        self._doorbells.ring(doorbell)

    def _now_ms(self) -> int:
        return int(self._clock_s() * 1000)


async def tell(
    unit: DevicesUnit, notice: Notice, *, user: UserId, actor: str, device: DeviceId, now_ms: int
) -> Doorbell:
    """Record it and tell the user's devices, in the acting transaction; the user's row is locked."""
    detail = {"passkey": notice.passkey} if notice.passkey else None
    await unit.audit.record(actor=actor, device=device, action=f"factor.{notice.what}", object_=user, detail=detail)
    return await tell_security(unit, notice.user_number, what=notice.what, device=device, now_ms=now_ms)
