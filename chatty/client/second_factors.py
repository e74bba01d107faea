"""Second factors: what a log-in asks its user for, and what passkeys sign. How one adds and removes them: own_factors.py.

Passkeys live in an authenticator that the SDK knows nothing of: the application hands in functions that make a passkey and sign
with one, through a browser, an operating system or a key on USB. What is signed is always the challenge that this client made
itself of its log-in statement, for the domain of the server that its user typed: another domain is refused, because no browser
stands between.

A passkey that gives a secret of its own (WebAuthn's extension `prf`) can stand alone: the recovery secret is kept with it,
wrapped under a key that it alone gives.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from chatty.client.errors import RemoteError
from chatty.client.reasons import WrongRelyingParty
from chatty.errors import SecondFactorRequired
from chatty.ids import UserId
from chatty.wire.accounts import Login, PasskeyAssertion, SecondFactor, StepUp
from chatty.wire.second_factors import AllowedPasskey
from chatty.wire.signing import passkey_challenge

PRF_INPUT = b"chatty.wrap.v1/recovery"  # what the extension `prf` is asked with


@dataclass(frozen=True, kw_only=True)
class FactorAsked:
    """The password was right; the server wants one of `factors` ("totp", "recovery_code", "passkey").

    rp_id, allow_credentials, challenge: for a passkey, as WebAuthn's call takes them; no user verification is needed.
    """

    factors: Sequence[str]
    rp_id: str
    allow_credentials: Sequence[AllowedPasskey]
    challenge: bytes


@dataclass(frozen=True, kw_only=True)
class PasskeyAsked:
    """A passkey is to stand alone: user verification required, no list of credentials."""

    rp_id: str
    challenge: bytes


@dataclass(frozen=True, kw_only=True)
class SignedByPasskey:
    """wrapping_key: 32 bytes, the output of `prf` for PRF_INPUT; None: the authenticator has no such thing."""

    assertion: PasskeyAssertion
    wrapping_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class PasskeyToMake:
    """As WebAuthn's call takes it. user_handle: its user.id; algorithms: COSE's numbers, the best first."""

    rp_id: str
    challenge: bytes
    user: UserId
    user_handle: bytes
    algorithms: Sequence[int]
    exclude: Sequence[AllowedPasskey]


@dataclass(frozen=True, kw_only=True)
class PasskeyMade:
    """What the authenticator answered. wrapping_key: as in SignedByPasskey."""

    client_data: bytes
    attestation: bytes
    transports: Sequence[str] = ()
    wrapping_key: bytes | None = field(default=None, repr=False)


AskForFactor = Callable[[FactorAsked], Awaitable[SecondFactor]]
SignByPasskey = Callable[[PasskeyAsked], Awaitable[SignedByPasskey]]
MakePasskey = Callable[[PasskeyToMake], Awaitable[PasskeyMade]]

Body = TypeVar("Body", Login, StepUp)
Answer = TypeVar("Answer")


async def show_factor(
    send: Callable[[Body], Awaitable[Answer]],
    body: Body,
    *,
    origin: str,
    statement: bytes,
    second_factor: SecondFactor | AskForFactor | None,
) -> Answer:
    """Send the body, and once more with a second factor if the server wants one and there is somebody to ask.

    statement: what the body's signature is over. Raises: SecondFactorRequired when nobody can be asked; WrongRelyingParty.
    """
    if isinstance(second_factor, SecondFactor):
        return await send(msgspec.structs.replace(body, second_factor=second_factor))
    try:
        return await send(body)
    except SecondFactorRequired as required:
        if second_factor is None:
            raise
        asked = _asked(required, origin, statement)
    return await send(msgspec.structs.replace(body, second_factor=await second_factor(asked)))


def _asked(required: SecondFactorRequired, origin: str, statement: bytes) -> FactorAsked:
    check_rp_id(origin, required.rp_id)
    try:
        allowed = msgspec.convert(required.allow_credentials, list[AllowedPasskey])
    except msgspec.ValidationError as error:
        raise RemoteError(f"no list of passkeys: {error}") from None
    return FactorAsked(
        factors=required.factors,
        rp_id=required.rp_id,
        allow_credentials=allowed,
        challenge=passkey_challenge(statement),
    )


def check_rp_id(origin: str, rp_id: str) -> None:
    """What browsers check: a passkey of another domain must not sign for this server. Raises: WrongRelyingParty."""
    host = urlsplit(origin).hostname or ""
    if not rp_id or not f".{host}".endswith(f".{rp_id}"):
        raise WrongRelyingParty(f"{host} asks a passkey to sign for {rp_id!r}")
