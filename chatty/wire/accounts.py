"""HTTP bodies about accounts, log-in, tokens and devices (docs/protocol.md, "Identity")."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from chatty.wire import limits
from chatty.wire.frames import Generation
from chatty.wire.successions import KeySuccession
from chatty.wire.types import (
    DeviceIdField,
    KeyField,
    NameField,
    PasskeyIdField,
    RecoveryCodeField,
    SignatureField,
    TextField,
    ThumbprintField,
    TokenField,
    TotpCodeField,
    UserIdField,
)

WrappedField = Annotated[bytes, Meta(min_length=1, max_length=limits.wrapped_secret_bytes_max)]
PasskeyBytesField = Annotated[bytes, Meta(max_length=limits.passkey_bytes_max)]
DeviceNameField = Annotated[str, Meta(max_length=limits.device_name_chars_max, pattern=r"^[^\u0000-\u001f]*$(?!\n)")]


class HttpBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Root of all HTTP bodies: immutable, unknown fields refused."""


class KeyDerivation(HttpBody, frozen=True, kw_only=True):
    """Argon2id parameters, the same for everybody. The client refuses what is too weak or too strong."""

    algorithm: str
    memory_bytes: int
    passes: int


class ServerInfo(HttpBody, frozen=True, kw_only=True):
    """What a client must know before it speaks: GET /v1/server. rp_id: the domain that passkeys belong to (WebAuthn)."""

    server_name: str
    origin: str
    rp_id: str
    version: str
    generation: Generation
    registration: str
    key_derivation: list[KeyDerivation]


class SaltRequest(HttpBody, frozen=True, kw_only=True):
    user: UserIdField


class Salt(HttpBody, frozen=True, kw_only=True):
    """salt: MAC(sealed key, name), for known and unknown names alike; 16 bytes, unpadded base64."""

    salt: str
    nonce: str
    key_derivation: KeyDerivation


class NewDevice(HttpBody, frozen=True, kw_only=True):
    device: DeviceIdField
    name: DeviceNameField = ""


class Registration(HttpBody, frozen=True, kw_only=True):
    """POST /v1/register. `signature`: login_bytes with purpose "register"."""

    name: NameField
    login_key: KeyField
    identity_key: KeyField
    wrapped_recovery: WrappedField
    wrapped_identity: WrappedField
    key_derivation: KeyDerivation
    new_device: NewDevice
    nonce: TokenField
    signature: SignatureField
    dpop_thumbprint: ThumbprintField
    registration_token: TextField = ""


class PasskeyAssertion(HttpBody, frozen=True, kw_only=True):
    """What an authenticator signed: the parts of a WebAuthn assertion, over signing.passkey_challenge() of the log-in statement.

    Its extension results are no part of it: that of `prf` is the client's secret.
    """

    passkey: PasskeyIdField
    client_data: PasskeyBytesField
    authenticator_data: PasskeyBytesField
    signature: PasskeyBytesField
    user_handle: PasskeyBytesField = b""


class SecondFactor(HttpBody, frozen=True, kw_only=True):
    """Exactly one of the three."""

    totp: TotpCodeField | None = None
    recovery_code: RecoveryCodeField | None = None
    passkey: PasskeyAssertion | None = None

    def __post_init__(self) -> None:
        if sum(shown is not None for shown in (self.totp, self.recovery_code, self.passkey)) != 1:
            raise ValueError("exactly one second factor is wanted")

    def __repr__(self) -> str:
        return f"SecondFactor({self.kind})"

    @property
    def kind(self) -> str:
        if self.totp is not None:
            return "totp"
        return "recovery_code" if self.recovery_code is not None else "passkey"


class Login(HttpBody, frozen=True, kw_only=True):
    """POST /v1/login. known_refresh_token: the last of a device of this user.

    `signature`: of the log-in key, or an assertion by a passkey alone, over login_bytes with purpose "login" about
    log_in_digest(). second_factor: beside the log-in key's, of a user who has one. replaces: a device of this user that
    is ended for the new one; empty: none.
    """

    user: UserIdField
    new_device: NewDevice
    nonce: TokenField
    signature: SignatureField | PasskeyAssertion
    dpop_thumbprint: ThumbprintField
    known_refresh_token: TextField = ""
    replaces: TextField = ""
    second_factor: SecondFactor | None = None


class StepUp(HttpBody, frozen=True, kw_only=True):
    """POST /v1/step-up. As in a Login, with purpose "step_up" and the log-in session's own DPoP key."""

    nonce: TokenField
    signature: SignatureField | PasskeyAssertion
    second_factor: SecondFactor | None = None


class PasswordChange(HttpBody, frozen=True, kw_only=True):
    """POST /v1/account/password. `signature` and `new_signature`: of one statement, login_bytes with purpose "change_password"
    about password_digest(), by the log-in key so far and by the new one.
    """

    login_key: KeyField
    key_derivation: KeyDerivation
    wrapped_recovery: WrappedField
    end_other_sessions: bool = True
    nonce: TokenField
    signature: SignatureField
    new_signature: SignatureField


class Refresh(HttpBody, frozen=True, kw_only=True):
    """POST /v1/token, with a DPoP proof of the log-in session's key."""

    refresh_token: TokenField


class Tokens(HttpBody, frozen=True, kw_only=True):
    """Both tokens of a log-in session; the access token lives expires_in_s seconds."""

    user: UserIdField
    device: DeviceIdField
    access_token: str
    refresh_token: str
    expires_in_s: int


class Account(HttpBody, frozen=True, kw_only=True):
    """GET /v1/account: the caller's own. The wrapped secrets are opaque to the server."""

    user: UserIdField
    identity_key: KeyField
    wrapped_recovery: WrappedField
    wrapped_identity: WrappedField
    key_derivation: KeyDerivation


class Device(HttpBody, frozen=True, kw_only=True):
    device: DeviceIdField
    name: str
    last_seen_day: str
    is_verified: bool
    in_set: bool
    is_current: bool


class Devices(HttpBody, frozen=True, kw_only=True):
    devices: list[Device]


class DeviceRename(HttpBody, frozen=True, kw_only=True):
    """PUT /v1/devices/{device}/name."""

    name: DeviceNameField


class Empty(HttpBody, frozen=True, kw_only=True):
    """{}"""


class Jwks(HttpBody, frozen=True, kw_only=True):
    """RFC 7517. A key with `purpose` "checkpoint" signs, or signed once, checkpoints, horizons and removals of rooms; the others
    sign access tokens. successions: by which such a key named the one after it, oldest first.
    """

    keys: list[dict[str, Any]]
    successions: list[KeySuccession] = []
