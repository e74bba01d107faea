"""Routes: the caller's own second factors. Whatever changes them needs a fresh proof of who the caller is."""

from chatty.errors import BadKey, KeyConflict, LoginRefused, NotFound, QuotaExceeded, SecondFactorRefused
from chatty.services.caller import Caller
from chatty.services.permissions import OWN_SECURITY, SIGNED_IN
from chatty.services.second_factors import SecondFactorSteps
from chatty.web.routes import Route, route
from chatty.wire.accounts import Empty
from chatty.wire.second_factors import (
    AddedPasskey,
    NewPasskey,
    NewTotp,
    OwnSecondFactors,
    PasskeyChange,
    PasskeyOptions,
    RecoveryCodes,
    TotpConfirmation,
)
from chatty.wire.types import PasskeyIdField


def routes(steps: SecondFactorSteps) -> list[Route]:
    return [*_of_codes(steps), *_of_passkeys(steps)]


def _of_codes(steps: SecondFactorSteps) -> list[Route]:
    @route("GET", "/v1/second-factors", permission=SIGNED_IN)
    async def list_own(caller: Caller) -> OwnSecondFactors:
        """The caller's second factors: kinds, names, days."""
        return await steps.list_own(caller)

    @route("POST", "/v1/totp", permission=OWN_SECURITY)
    async def begin_totp(caller: Caller, body: Empty) -> NewTotp:
        """A secret for an authenticator app; asked for at log-ins once it was confirmed."""
        return await steps.begin_totp(caller)

    @route("POST", "/v1/totp/confirm", permission=OWN_SECURITY, errors=(NotFound, SecondFactorRefused))
    async def confirm_totp(caller: Caller, body: TotpConfirmation) -> RecoveryCodes:
        """Show by a code that the app has the secret. With the first factor come recovery codes."""
        return await steps.confirm_totp(caller, body.code)

    @route("DELETE", "/v1/totp", permission=OWN_SECURITY, errors=(NotFound,))
    async def remove_totp(caller: Caller) -> Empty:
        """Ask for no codes any more."""
        await steps.remove_totp(caller)
        return Empty()

    @route("POST", "/v1/recovery-codes", permission=OWN_SECURITY, errors=(NotFound,))
    async def make_recovery_codes(caller: Caller, body: Empty) -> RecoveryCodes:
        """New recovery codes; the old ones are void."""
        return await steps.make_recovery_codes(caller)

    return [list_own, begin_totp, confirm_totp, remove_totp, make_recovery_codes]


def _of_passkeys(steps: SecondFactorSteps) -> list[Route]:
    @route("GET", "/v1/passkeys/options", permission=OWN_SECURITY)
    async def passkey_options(caller: Caller) -> PasskeyOptions:
        """What a client's WebAuthn call needs to make a passkey."""
        return await steps.passkey_options(caller)

    @route(
        "POST",
        "/v1/passkeys",
        permission=OWN_SECURITY,
        statuses=(201,),
        errors=(BadKey, LoginRefused, KeyConflict, QuotaExceeded),
    )
    async def add_passkey(caller: Caller, body: NewPasskey) -> AddedPasskey:
        """Keep a passkey that was made for a nonce of the options. With the first factor come recovery codes."""
        return await steps.add_passkey(caller, body)

    @route("PUT", "/v1/passkeys/{passkey}", permission=OWN_SECURITY, errors=(NotFound,))
    async def change_passkey(caller: Caller, passkey: PasskeyIdField, body: PasskeyChange) -> Empty:
        """Name one of the caller's passkeys, and keep what it unwraps."""
        await steps.change_passkey(caller, passkey, body)
        return Empty()

    @route("DELETE", "/v1/passkeys/{passkey}", permission=OWN_SECURITY, errors=(NotFound,))
    async def remove_passkey(caller: Caller, passkey: PasskeyIdField) -> Empty:
        """Forget one of the caller's passkeys."""
        await steps.remove_passkey(caller, passkey)
        return Empty()

    return [passkey_options, add_passkey, change_passkey, remove_passkey]
