"""One's own second factors: added, confirmed, listed, removed. What a log-in does with them stands in factor_check.py.

    TOTP      none ── begin ──> pending ── confirm, with a right code ──> there ── remove ──> none
    passkey   none ── options, then what the authenticator made of them ──> there ── remove ──> none

A pending TOTP secret protects nothing and locks nobody out: the one that is there stays until a code shows that the new one is in
an app. The code that confirms counts as taken. With the first factor come recovery codes, told once and kept as hashes; they go
with the last one.

A passkey's challenge is made of a statement with a nonce of ours, so nothing is kept between the two requests.

Every step locks the user's row, records what was done and tells all devices of the user, in one transaction. Cancelled or failed:
nothing was done. Full: `passkeys_user_max` passkeys.
"""

import os
from collections.abc import Callable
from typing import Protocol

from chatty.crypto.passkeys import ALGORITHMS, MadePasskey, RelyingParty, check_made, user_handle
from chatty.crypto.recovery_codes import code_hash, make_code
from chatty.crypto.sealing import Random, Sealer
from chatty.crypto.totp import app_uri, matching_step, secret_bytes, secret_text
from chatty.errors import KeyConflict, NotFound, QuotaExceeded, SecondFactorRefused
from chatty.ids import PasskeyId, UserNumber
from chatty.services.caller import Caller
from chatty.services.devices import DevicesUnit, lock_caller
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.factor_check import FactorReads, Factors, Notice, StoredPasskey, tell, totp_purpose
from chatty.services.issuer import Issuer
from chatty.services.units import Transactions
from chatty.wire import second_factors as wire
from chatty.wire.limits import passkeys_user_max, recovery_codes_count
from chatty.wire.signing import passkey_challenge

# Port ---------------------------------------------------------------------------------------------------------------


class SecondFactors(FactorReads, Protocol):
    """What these steps need of the store, inside one transaction; the user's row is locked."""

    async def put_pending_totp(self, user: UserNumber, secret_sealed: bytes) -> None:
        """In the place of another pending one."""
        ...

    async def pending_totp(self, user: UserNumber) -> bytes | None:
        """Its sealed secret."""
        ...

    async def confirm_totp(self, user: UserNumber, *, last_step: int) -> None:
        """The pending one, in the place of the one that was there."""
        ...

    async def remove_totp(self, user: UserNumber) -> None:
        """And a pending one."""
        ...

    async def put_codes(self, user: UserNumber, hashes: list[bytes]) -> None:
        """In the place of all others."""
        ...

    async def add_passkey(
        self, user: UserNumber, made: MadePasskey, *, transports: list[str], name: str, wrapped_recovery: bytes | None
    ) -> bool:
        """False: the user has it already."""
        ...

    async def change_passkey(
        self, user: UserNumber, passkey: PasskeyId, *, name: str, wrapped_recovery: bytes | None
    ) -> None: ...

    async def remove_passkey(self, user: UserNumber, passkey: PasskeyId) -> None: ...


class SecondFactorsUnit(DevicesUnit, Protocol):
    """What these steps need of a transaction."""

    @property
    def second_factors(self) -> SecondFactors: ...


# Steps --------------------------------------------------------------------------------------------------------------


class SecondFactorSteps:
    """issuer_name: what an authenticator app shows beside the user. handle_key: of user handles. clock_s: s since 1970."""

    def __init__(
        self,
        *,
        unit_of_work: Transactions[SecondFactorsUnit],
        doorbells: Doorbells,
        issuer: Issuer,
        sealer: Sealer,
        party: RelyingParty,
        handle_key: bytes,
        issuer_name: str,
        clock_s: Callable[[], float],
        random: Random = os.urandom,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._issuer = issuer
        self._sealer = sealer
        self._party = party
        self._handle_key = handle_key
        self._issuer_name = issuer_name
        self._clock_s = clock_s
        self._random = random

    async def list_own(self, caller: Caller) -> wire.OwnSecondFactors:
        """Kinds, names and days; no secret."""
        async with self._unit_of_work.snapshot() as unit:
            factors = await unit.second_factors.factors(caller.user_number)
        return wire.OwnSecondFactors(
            totp_day="" if factors.totp is None else factors.totp.day,
            recovery_codes_left=factors.codes_left,
            passkeys=[_shown(one) for one in factors.passkeys],
        )

    async def begin_totp(self, caller: Caller) -> wire.NewTotp:
        """A pending secret, told this once."""
        secret = self._random(secret_bytes)
        sealed = self._sealer.seal(secret, purpose=totp_purpose(caller.user))
        async with self._unit_of_work.begin() as unit:
            await lock_caller(unit, caller)
            await unit.second_factors.put_pending_totp(caller.user_number, sealed)
        uri = app_uri(secret, user=caller.user, issuer=self._issuer_name)
        return wire.NewTotp(secret=secret_text(secret), uri=uri)

    async def confirm_totp(self, caller: Caller, code: str) -> wire.RecoveryCodes:
        """Raises: NotFound when none is pending, SecondFactorRefused."""
        async with self._unit_of_work.begin() as unit:
            factors = await self._locked(unit, caller)
            sealed = await unit.second_factors.pending_totp(caller.user_number)
            if sealed is None:
                raise NotFound("begin with POST /v1/totp")
            secret = self._sealer.open(sealed, purpose=totp_purpose(caller.user))
            step = matching_step(secret, code, now_s=self._clock_s(), after_step=0)
            if step is None:
                raise SecondFactorRefused("not this app's code; is its clock right?")
            await unit.second_factors.confirm_totp(caller.user_number, last_step=step)
            doorbell = await self._tell(unit, caller, "totp_added")
            codes = await self._first_codes(unit, caller, factors)
        self._doorbells.ring(doorbell)
        return wire.RecoveryCodes(recovery_codes=codes)

    async def remove_totp(self, caller: Caller) -> None:
        """Raises: NotFound."""
        async with self._unit_of_work.begin() as unit:
            factors = await self._locked(unit, caller)
            if factors.totp is None:
                raise NotFound("there is no TOTP")
            await unit.second_factors.remove_totp(caller.user_number)
            doorbell = await self._tell(unit, caller, "totp_removed")
            await self._forget_codes(unit, caller)
        self._doorbells.ring(doorbell)

    async def make_recovery_codes(self, caller: Caller) -> wire.RecoveryCodes:
        """New ones; the old ones are void. Raises: NotFound without a second factor."""
        async with self._unit_of_work.begin() as unit:
            factors = await self._locked(unit, caller)
            if not factors.are_there:
                raise NotFound("recovery codes come with a second factor")
            codes, doorbell = await self._make_codes(unit, caller)
        self._doorbells.ring(doorbell)
        return wire.RecoveryCodes(recovery_codes=codes)

    async def passkey_options(self, caller: Caller) -> wire.PasskeyOptions:
        """What the client's WebAuthn call needs; nothing is kept."""
        async with self._unit_of_work.snapshot() as unit:
            factors = await unit.second_factors.factors(caller.user_number)
        return wire.PasskeyOptions(
            nonce=self._issuer.make_nonce(),
            rp_id=self._party.rp_id,
            user_handle=user_handle(self._handle_key, caller.user),
            algorithms=list(ALGORITHMS),
            exclude=factors.allowed,
        )

    async def add_passkey(self, caller: Caller, body: wire.NewPasskey) -> wire.AddedPasskey:
        """Raises: BadKey, LoginRefused (the nonce), KeyConflict, QuotaExceeded."""
        made = self._made(caller, body)
        async with self._unit_of_work.begin() as unit:
            factors = await self._locked(unit, caller)
            if len(factors.passkeys) >= passkeys_user_max:
                raise QuotaExceeded(quota="passkeys_user_max", count_max=passkeys_user_max)
            is_new = await unit.second_factors.add_passkey(
                caller.user_number,
                made,
                transports=body.transports,
                name=body.name,
                wrapped_recovery=body.wrapped_recovery,
            )
            if not is_new:
                raise KeyConflict("this passkey is there already")
            doorbell = await self._tell(unit, caller, "passkey_added", made.passkey)
            codes = await self._first_codes(unit, caller, factors)
        self._doorbells.ring(doorbell)
        return wire.AddedPasskey(passkey=made.passkey, recovery_codes=codes)

    async def change_passkey(self, caller: Caller, passkey: PasskeyId, body: wire.PasskeyChange) -> None:
        """Raises: NotFound."""
        async with self._unit_of_work.begin() as unit:
            await self._locked_passkey(unit, caller, passkey)
            await unit.second_factors.change_passkey(
                caller.user_number, passkey, name=body.name, wrapped_recovery=body.wrapped_recovery
            )
            doorbell = await self._tell(unit, caller, "passkey_changed", passkey)
        self._doorbells.ring(doorbell)

    async def remove_passkey(self, caller: Caller, passkey: PasskeyId) -> None:
        """Raises: NotFound."""
        async with self._unit_of_work.begin() as unit:
            await self._locked_passkey(unit, caller, passkey)
            await unit.second_factors.remove_passkey(caller.user_number, passkey)
            doorbell = await self._tell(unit, caller, "passkey_removed", passkey)
            await self._forget_codes(unit, caller)
        self._doorbells.ring(doorbell)

    def _made(self, caller: Caller, body: wire.NewPasskey) -> MadePasskey:
        statement = self._issuer.statement(
            user=caller.user, nonce=body.nonce, dpop_thumbprint=caller.thumbprint, purpose="add_passkey"
        )
        made = check_made(
            self._party,
            challenge=passkey_challenge(statement),
            client_data=body.client_data,
            attestation=body.attestation,
        )
        self._issuer.check_nonce(body.nonce)
        return made

    async def _locked(self, unit: SecondFactorsUnit, caller: Caller) -> Factors:
        await lock_caller(unit, caller)
        return await unit.second_factors.factors(caller.user_number)

    async def _locked_passkey(self, unit: SecondFactorsUnit, caller: Caller, passkey: PasskeyId) -> None:
        if (await self._locked(unit, caller)).passkey(passkey) is None:
            raise NotFound("you have no such passkey")

    async def _first_codes(self, unit: SecondFactorsUnit, caller: Caller, before: Factors) -> list[str]:
        """With the first factor; empty: there were others before."""
        if before.are_there:
            return []
        codes, _ = await self._make_codes(unit, caller)
        return codes

    async def _make_codes(self, unit: SecondFactorsUnit, caller: Caller) -> tuple[list[str], Doorbell]:
        codes = [make_code(self._random) for _ in range(recovery_codes_count)]
        await unit.second_factors.put_codes(caller.user_number, [code_hash(caller.user, code) for code in codes])
        return codes, await self._tell(unit, caller, "recovery_codes_made")

    async def _forget_codes(self, unit: SecondFactorsUnit, caller: Caller) -> None:
        """If the last factor has just gone."""
        if not (await unit.second_factors.factors(caller.user_number)).are_there:
            await unit.second_factors.put_codes(caller.user_number, [])

    async def _tell(self, unit: SecondFactorsUnit, caller: Caller, what: str, passkey: str = "") -> Doorbell:
        notice = Notice(user_number=caller.user_number, what=what, passkey=passkey)
        return await tell(
            unit, notice, user=caller.user, actor=caller.user, device=caller.device, now_ms=self._issuer.now_ms()
        )


def _shown(stored: StoredPasskey) -> wire.OwnPasskey:
    return wire.OwnPasskey(
        passkey=stored.passkey,
        name=stored.name,
        added_day=stored.day,
        transports=list(stored.transports),
        wrapped_recovery=stored.wrapped_recovery,
    )
