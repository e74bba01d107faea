"""Passkeys: what an authenticator made or signed is checked as WebAuthn Level 2 says, sections 7.1 and 7.2.

Which authenticator it is nobody asks: an attestation is "none", or the new key's own signature. Certificates are refused
unread, so that no stranger's certificate is ever parsed here.

The counter of signatures is not looked at here: what one that went back means, its caller decides by went_back().
"""

import hmac
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256

import cbor2
from cryptography.exceptions import InvalidSignature
from webauthn import verify_authentication_response, verify_registration_response
from webauthn.helpers import (
    decode_credential_public_key,
    decoded_public_key_to_cryptography,
    parse_client_data_json,
    verify_signature,
)
from webauthn.helpers.cose import COSEAlgorithmIdentifier
from webauthn.helpers.decode_credential_public_key import DecodedOKPPublicKey
from webauthn.helpers.exceptions import WebAuthnException
from webauthn.helpers.structs import (
    AuthenticationCredential,
    AuthenticatorAssertionResponse,
    AuthenticatorAttestationResponse,
    RegistrationCredential,
)

from chatty.crypto.cbor import check_authenticator_data, check_item
from chatty.crypto.signatures import check_ed25519_key
from chatty.errors import BadKey, BadRequest, BadSignature
from chatty.ids import PasskeyId, UserId
from chatty.wire.accounts import PasskeyAssertion
from chatty.wire.canonical import decode_base64url, encode_base64, encode_base64url

credential_bytes_max = 1_023
_OF_PARSERS = (TypeError, KeyError, IndexError, AttributeError, RecursionError)
_ALGORITHMS = [
    COSEAlgorithmIdentifier.EDDSA,
    COSEAlgorithmIdentifier.ECDSA_SHA_256,
    COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
]
ALGORITHMS = tuple(int(one) for one in _ALGORITHMS)

# The generator of P-256 as a COSE key: for the work that is done under an unknown name, and refused whoever signs for it.
ANY_KEY = bytes.fromhex(
    "a50102032620012158206b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    "2258204fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
)


@dataclass(frozen=True, kw_only=True)
class RelyingParty:
    """Whose passkeys they are. rp_id: a domain; origin: the public one, at that domain or below it."""

    rp_id: str
    origin: str


@dataclass(frozen=True, kw_only=True)
class MadePasskey:
    """public_key: COSE, as CBOR. sign_count: 0 for an authenticator that counts nothing."""

    passkey: PasskeyId
    public_key: bytes
    sign_count: int


def check_made(party: RelyingParty, *, challenge: bytes, client_data: bytes, attestation: bytes) -> MadePasskey:
    """A passkey that was just made for this challenge. Raises: BadKey."""
    credential = RegistrationCredential(
        id="",  # what the browser says beside it; the id is read from what the authenticator made
        raw_id=b"",
        response=AuthenticatorAttestationResponse(client_data_json=client_data, attestation_object=attestation),
    )
    with _malformed_as(BadKey):
        _check_not_embedded(client_data)
        _check_attestation(attestation)
        made = verify_registration_response(
            credential=credential,
            expected_challenge=challenge,
            expected_rp_id=party.rp_id,
            expected_origin=party.origin,
            supported_pub_key_algs=_ALGORITHMS,
        )
        _check_usable(made.credential_public_key)
    if not 1 <= len(made.credential_id) <= credential_bytes_max:
        raise BadKey("the credential's id is too long")
    return MadePasskey(
        passkey=PasskeyId(encode_base64url(made.credential_id)),
        public_key=made.credential_public_key,
        sign_count=made.sign_count,
    )


def check_assertion(
    party: RelyingParty,
    assertion: PasskeyAssertion,
    *,
    challenge: bytes,
    public_key: bytes,
    user_handle: bytes,
    is_alone: bool,
) -> int:
    """Did this passkey sign this challenge? Its count of signatures. Raises: BadSignature, also for what is malformed.

    is_alone: there is no password beside it, so the authenticator must know its user (verification), and name them (a
    discoverable credential does).
    """
    with _malformed_as(BadSignature):
        _check_not_embedded(assertion.client_data)
        check_authenticator_data(assertion.authenticator_data)
        _check_handle(assertion.user_handle, user_handle, is_wanted=is_alone)
        verified = verify_authentication_response(
            credential=_as_credential(assertion),
            expected_challenge=challenge,
            expected_rp_id=party.rp_id,
            expected_origin=party.origin,
            credential_public_key=public_key,
            credential_current_sign_count=0,
            require_user_verification=is_alone,
        )
    return verified.new_sign_count


def user_handle(key: bytes, user: UserId) -> bytes:
    """What authenticators know a user by: 32 bytes that say nothing without the key. Source: WebAuthn Level 2, section 14.6.1."""
    return hmac.digest(key, b"chatty.user_handle.v1/" + user.encode(), sha256)


def went_back(*, stored: int, shown: int) -> bool:
    """Did the counter of signatures not grow, though it counts? Then there are two of this authenticator, or an old answer."""
    return (stored, shown) != (0, 0) and shown <= stored


def _as_credential(assertion: PasskeyAssertion) -> AuthenticationCredential:
    return AuthenticationCredential(
        id=assertion.passkey,
        raw_id=decode_base64url(assertion.passkey),
        response=AuthenticatorAssertionResponse(
            client_data_json=assertion.client_data,
            authenticator_data=assertion.authenticator_data,
            signature=assertion.signature,
        ),
    )


def _check_attestation(attestation: bytes) -> None:
    """In this order: nothing is decoded before its form is known to be harmless."""
    check_item(attestation)
    decoded = cbor2.loads(attestation)
    check_authenticator_data(decoded["authData"])
    if decoded["fmt"] not in ("none", "packed") or "x5c" in decoded["attStmt"]:
        raise ValueError("no attestation is wanted")


def _check_usable(public_key: bytes) -> None:
    """A key that no signature fits would be found out at the next log-in; one of low order fits many."""
    decoded = decode_credential_public_key(public_key)
    if isinstance(decoded, DecodedOKPPublicKey):
        check_ed25519_key(encode_base64(decoded.x))
    key = decoded_public_key_to_cryptography(decoded)
    with suppress(InvalidSignature):
        verify_signature(public_key=key, signature_alg=decoded.alg, signature=bytes(64), data=b"")


def _check_not_embedded(client_data: bytes) -> None:
    """A page of ours inside somebody else's could be made to ask without its user's knowledge."""
    if parse_client_data_json(client_data).cross_origin:
        raise ValueError("asked for from within another origin's page")


def _check_handle(shown: bytes, expected: bytes, *, is_wanted: bool) -> None:
    if shown != expected and (shown or is_wanted):
        raise ValueError("a passkey of somebody else")


@contextmanager
def _malformed_as(error: type[BadKey] | type[BadSignature]) -> Iterator[None]:
    """The libraries' parsers let errors of Python through."""
    try:
        yield
    except (WebAuthnException, cbor2.CBORError, BadRequest, BadKey, ValueError, *_OF_PARSERS):
        raise error("not what an authenticator makes for this request") from None
