"""One's own second factors: added, changed and removed. Each call but list() needs a log-in or step-up of the last minutes; else
StepUpRequired.
"""

from collections.abc import Sequence

from chatty.client.accounts import Enrolment, Identity
from chatty.client.http import Api
from chatty.client.passwords import WRAP_RECOVERY
from chatty.client.second_factors import MakePasskey, PasskeyToMake, check_rp_id
from chatty.crypto import passwords
from chatty.ids import PasskeyId
from chatty.wire.second_factors import (
    AddedPasskey,
    NewPasskey,
    NewTotp,
    OwnSecondFactors,
    PasskeyChange,
    TotpConfirmation,
)
from chatty.wire.signing import passkey_challenge


class OwnFactors:
    def __init__(self, api: Api, enrolment: Enrolment, identity: Identity) -> None:
        self._api = api
        self._enrolment = enrolment
        self._identity = identity

    async def list(self) -> OwnSecondFactors:
        """Kinds, names, days."""
        return await self._api.second_factors()

    async def begin_totp(self) -> NewTotp:
        """A secret for an authenticator app; nothing is asked for until confirm_totp()."""
        return await self._api.begin_totp()

    async def confirm_totp(self, code: str) -> Sequence[str]:
        """A code of the app. Returns the recovery codes, told once; none if there are some. Raises: SecondFactorRefused."""
        return (await self._api.confirm_totp(TotpConfirmation(code=code))).recovery_codes

    async def remove_totp(self) -> None:
        """Raises: NotFound."""
        await self._api.remove_totp()

    async def make_recovery_codes(self) -> Sequence[str]:
        """New ones, told once; the old ones are void. Raises: NotFound without a second factor."""
        return (await self._api.make_recovery_codes()).recovery_codes

    async def add_passkey(self, make: MakePasskey, *, name: str = "") -> AddedPasskey:
        """Its id, and recovery codes as confirm_totp() gives them. If it gives a wrapping key, it can log in alone.

        Raises: BadKey, KeyConflict, QuotaExceeded, WrongRelyingParty.
        """
        options = await self._api.passkey_options()
        check_rp_id(self._api.origin, options.rp_id)
        statement = self._enrolment.statement(
            self._identity.user, options.nonce, self._api.proofs.thumbprint, purpose="add_passkey"
        )
        asked = PasskeyToMake(
            rp_id=options.rp_id,
            challenge=passkey_challenge(statement),
            user=self._identity.user,
            user_handle=options.user_handle,
            algorithms=options.algorithms,
            exclude=options.exclude,
        )
        made = await make(asked)
        new = NewPasskey(
            nonce=options.nonce,
            client_data=made.client_data,
            attestation=made.attestation,
            transports=list(made.transports),
            name=name,
            wrapped_recovery=self._wrapped(made.wrapping_key),
        )
        return await self._api.add_passkey(new)

    async def change_passkey(self, passkey: PasskeyId, *, name: str, wrapping_key: bytes | None = None) -> None:
        """Name it anew; keep the recovery secret with it, or, without a wrapping key, keep none. Raises: NotFound."""
        change = PasskeyChange(name=name, wrapped_recovery=self._wrapped(wrapping_key))
        await self._api.change_passkey(passkey, change)

    async def remove_passkey(self, passkey: PasskeyId) -> None:
        """Raises: NotFound."""
        await self._api.remove_passkey(passkey)

    def _wrapped(self, wrapping_key: bytes | None) -> bytes | None:
        if wrapping_key is None:
            return None
        return passwords.wrap(self._identity.recovery_secret, key=wrapping_key, purpose=WRAP_RECOVERY)
