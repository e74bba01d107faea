"""HTTP bodies about one's own second factors (docs/protocol.md, "Identity"). What a log-in shows of them: accounts.py."""

from typing import Annotated

from msgspec import Meta

from chatty.wire.accounts import DeviceNameField, HttpBody, PasskeyBytesField, WrappedField
from chatty.wire.types import PasskeyIdField, TokenField, TotpCodeField

TransportsField = Annotated[list[Annotated[str, Meta(pattern=r"^[a-z-]{1,32}$(?!\n)")]], Meta(max_length=8)]


class AllowedPasskey(HttpBody, frozen=True, kw_only=True):
    """transports: how its authenticator can be reached, in WebAuthn's words; a hint for the client."""

    passkey: PasskeyIdField
    transports: TransportsField = []


class OwnPasskey(HttpBody, frozen=True, kw_only=True):
    """wrapped_recovery: opaque; the recovery secret, wrapped by the client under a key that only this passkey gives it."""

    passkey: PasskeyIdField
    name: str
    added_day: str
    transports: TransportsField = []
    wrapped_recovery: WrappedField | None = None


class OwnSecondFactors(HttpBody, frozen=True, kw_only=True):
    """GET /v1/second-factors. totp_day: YYYY-MM-DD, when TOTP was added; empty: there is none."""

    totp_day: str
    recovery_codes_left: int
    passkeys: list[OwnPasskey]


class NewTotp(HttpBody, frozen=True, kw_only=True):
    """POST /v1/totp: what an authenticator app must be told, once. secret: base32; uri: the same for a QR code."""

    secret: str
    uri: str

    def __repr__(self) -> str:
        return "NewTotp(…)"


class TotpConfirmation(HttpBody, frozen=True, kw_only=True):
    """POST /v1/totp/confirm."""

    code: TotpCodeField


class RecoveryCodes(HttpBody, frozen=True, kw_only=True):
    """Told once. Empty where there are some already."""

    recovery_codes: list[str]

    def __repr__(self) -> str:
        return f"RecoveryCodes({len(self.recovery_codes)})"


class PasskeyOptions(HttpBody, frozen=True, kw_only=True):
    """GET /v1/passkeys/options: what a client's WebAuthn call needs to make a passkey.

    user_handle: names the user to authenticators, and to nobody else. algorithms: COSE's numbers, the best first. exclude: a
    second passkey of one authenticator is of no use.
    """

    nonce: str
    rp_id: str
    user_handle: bytes
    algorithms: list[int]
    exclude: list[AllowedPasskey]


class NewPasskey(HttpBody, frozen=True, kw_only=True):
    """POST /v1/passkeys. The challenge in client_data: signing.passkey_challenge() of login_bytes, purpose "add_passkey"."""

    nonce: TokenField
    client_data: PasskeyBytesField
    attestation: PasskeyBytesField
    transports: TransportsField = []
    name: DeviceNameField = ""
    wrapped_recovery: WrappedField | None = None


class AddedPasskey(HttpBody, frozen=True, kw_only=True):
    """recovery_codes: as in RecoveryCodes."""

    passkey: PasskeyIdField
    recovery_codes: list[str]

    def __repr__(self) -> str:
        return f"AddedPasskey({self.passkey})"


class PasskeyChange(HttpBody, frozen=True, kw_only=True):
    """PUT /v1/passkeys/{passkey}: both are replaced."""

    name: DeviceNameField = ""
    wrapped_recovery: WrappedField | None = None
