"""Changing the password, and with it perhaps how keys are derived from it: one request that puts all of it in place at once.

The server never sees a password. It swaps three things that belong together: the public log-in key, the parameters under which
the client derived it, and the recovery secret, wrapped anew under the other key that the same derivation gives. One without the
others would lock the user out, or leave what they saved unreadable.

One statement names all that is changed and is signed twice: by the log-in key so far, for a stolen device must not be able to
change it, and by the new one, for nobody can put a key there that he does not hold. It is decided under the lock of the user's
row: a log-in with the old key is before the change or refused.

Cancelled or crashed: all is changed, or nothing. A resend after an unknown outcome is refused, for the old key is no longer the
key; `GET /v1/account` then shows the new wrapped secret.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from chatty.crypto.sealing import Sealer
from chatty.crypto.signatures import check_ed25519_key, verify
from chatty.errors import BadRequest
from chatty.ids import UserNumber
from chatty.services.caller import Caller
from chatty.services.devices import revoke_others, tell_security
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.issuer import Issuer
from chatty.services.login_throttle import LoginThrottle
from chatty.services.sessions import SessionsUnit, check_own_password, login_key_purpose
from chatty.services.units import Transactions
from chatty.wire.accounts import Account, KeyDerivation, PasswordChange
from chatty.wire.canonical import decode_base64
from chatty.wire.signing import password_digest

# Ports --------------------------------------------------------------------------------------------------------------


class PasswordSecrets(Protocol):
    async def account(self, user: UserNumber) -> Account: ...

    async def set_password(
        self, user: UserNumber, *, login_key_sealed: bytes, key_derivation: KeyDerivation, wrapped_recovery: bytes
    ) -> None:
        """The user's row is locked."""
        ...


class PasswordsUnit(SessionsUnit, Protocol):
    """What these steps need of a transaction."""

    @property
    def accounts(self) -> PasswordSecrets: ...


# Steps --------------------------------------------------------------------------------------------------------------


class PasswordSteps:
    """key_derivations: what one may choose from."""

    def __init__(
        self,
        *,
        unit_of_work: Transactions[PasswordsUnit],
        doorbells: Doorbells,
        issuer: Issuer,
        sealer: Sealer,
        throttle: LoginThrottle,
        key_derivations: Sequence[KeyDerivation],
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._issuer = issuer
        self._sealer = sealer
        self._throttle = throttle
        self._key_derivations = key_derivations

    async def change(self, caller: Caller, body: PasswordChange, *, address: str = "") -> None:
        """The new key opens the account from now on, the old one no more; the user's devices are told.

        Raises: LoginRefused (the old password's signature, or the nonce), BadSignature (the new one's), BadKey, BadRequest,
        RateLimited.
        """
        if body.key_derivation not in self._key_derivations:
            raise BadRequest("not one of the server's key derivations")
        check_ed25519_key(body.login_key)
        what, device = "post_v1_account_password", caller.device
        with self._throttle.attempt(caller.user, what=what, address=address, known_device=device):
            async with self._unit_of_work.begin() as unit:
                doorbell = await self._change(unit, caller, body)
        self._doorbells.ring(doorbell)

    async def _change(self, unit: PasswordsUnit, caller: Caller, body: PasswordChange) -> Doorbell:
        await self._check_statement(unit, caller, body)
        before = await unit.accounts.account(caller.user_number)
        await unit.accounts.set_password(
            caller.user_number,
            login_key_sealed=self._sealer.seal(decode_base64(body.login_key), purpose=login_key_purpose(caller.user)),
            key_derivation=body.key_derivation,
            wrapped_recovery=body.wrapped_recovery,
        )
        now_ms = self._issuer.now_ms()
        ended = await revoke_others(unit, caller, now_ms=now_ms) if body.end_other_sessions else Doorbell()
        await unit.audit.record(
            actor=caller.user,
            device=caller.device,
            action="account.password_changed",
            object_=caller.user,
            detail={"ended_sessions_count": len(ended.revoked)},
            before=msgspec.to_builtins(before.key_derivation),
            after=msgspec.to_builtins(body.key_derivation),
        )
        told = await tell_security(
            unit, caller.user_number, what="password_changed", device=caller.device, now_ms=now_ms
        )
        return Doorbell(rooms=ended.rooms, users=told.users, revoked=ended.revoked)

    async def _check_statement(self, unit: PasswordsUnit, caller: Caller, body: PasswordChange) -> None:
        """The old key's signature first: whoever does not know the password learns nothing more."""
        about = password_digest(
            login_key=body.login_key,
            key_derivation=body.key_derivation,
            wrapped_recovery=body.wrapped_recovery,
            end_other_sessions=body.end_other_sessions,
        )
        statement, old_key = await check_own_password(
            unit,
            self._issuer,
            self._sealer,
            caller,
            nonce=body.nonce,
            signature=body.signature,
            purpose="change_password",
            about=about,
        )
        verify(body.login_key, statement, body.new_signature)
        if body.login_key == old_key:
            raise BadRequest("the new password is the old one")
