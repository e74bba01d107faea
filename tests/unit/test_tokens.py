"""Access tokens, refresh tokens and nonces: every check has a token that only it refuses."""

import base64
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chatty.crypto.nonces import Nonces
from chatty.crypto.tokens import AccessTokens, Keyring, RefreshTokens, SigningKey, UnknownKey, make_family_id, make_jwks
from chatty.errors import RefreshRefused, TokenExpired, Unauthenticated
from chatty.ids import DeviceId, FamilyId, UserId

ORIGIN = "https://chat.example.org"
NOW_S = 1_800_000_000.5
KEY = SigningKey(b"k" * 32)
FAMILY = make_family_id(b"f" * 16)


THUMBPRINT = "T" * 43


def tokens(key: SigningKey = KEY) -> AccessTokens:
    return AccessTokens(Keyring([(key, 0.0)]), origin=ORIGIN, lifetime_s=600)


def issue(issuer: AccessTokens) -> str:
    return issuer.issue(
        user=UserId("@ann:x"),
        device=DeviceId("DEVICE01"),
        family=FAMILY,
        k=3,
        role="user",
        thumbprint=THUMBPRINT,
        token_id="one",
        now_s=NOW_S,
    )


def forge(*, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token signed with the right key, with other claims; None takes a claim away."""
    claims = jwt.decode(issue(tokens()), options={"verify_signature": False})
    claims = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    named = {"typ": "at+jwt", "kid": KEY.key_id, **(header or {})}
    return jwt.encode(claims, KEY.private, "EdDSA", headers=named)


def test_an_issued_token_says_who() -> None:
    claims = tokens().check(issue(tokens()), now_s=NOW_S + 599)
    assert (claims.user, claims.device, claims.family, claims.k) == ("@ann:x", "DEVICE01", FAMILY, 3)
    assert (claims.role, claims.thumbprint, claims.expires_at_s) == ("user", THUMBPRINT, 1_800_000_600.0)


def test_a_token_has_the_form_of_rfc_9068() -> None:
    token = issue(tokens())
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "at+jwt", "kid": KEY.key_id}
    claims = jwt.decode(token, options={"verify_signature": False})
    assert {"iss", "aud", "sub", "client_id", "jti", "iat", "exp"} <= claims.keys()
    assert claims["exp"] - claims["iat"] == 600


def test_a_forgery_that_changes_nothing_passes() -> None:
    assert tokens().check(forge(), now_s=NOW_S).user == "@ann:x"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://other.example.org"},
        {"aud": "https://other.example.org"},
        {"aud": [ORIGIN, "https://other.example.org"]},
        {"client_id": "other"},
        {"sub": 5},
        {"device": 5},
        {"fam": ["x"]},
        {"role": {}},
        {"k": "3"},
        {"k": True},
        {"exp": 1_800_000_601},
        {"exp": 1_800_000_000},
        {"iat": 1_800_000_100, "exp": 1_800_000_200},
        *(
            {name: None}
            for name in ("iss", "aud", "sub", "client_id", "jti", "iat", "exp", "cnf", "device", "fam", "k", "role")
        ),
        {"header": {"typ": "JWT"}},
        {"nbf": 1_800_000_100},
        {"cnf": "T" * 43},
        {"cnf": {}},
        {"cnf": {"jkt": 5}},
        {"cnf": {"jkt": "short"}},
        {"header": {"crit": ["b64"]}},
        {"header": {"jku": "https://evil.example.org"}},
        {"header": {"x5u": "https://evil.example.org"}},
        {"header": {"jwk": KEY.jwk()}},
    ],
    ids=str,
)
def test_whatever_is_not_ours_for_us_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated):
        tokens().check(forge(**changes), now_s=NOW_S)


def test_only_a_real_token_is_called_expired() -> None:
    with pytest.raises(TokenExpired):
        tokens().check(issue(tokens()), now_s=NOW_S + 600)
    with pytest.raises(Unauthenticated):
        tokens().check(issue(tokens())[:-6] + "AAAAAA", now_s=NOW_S + 600)


def test_the_algorithm_is_ours_to_choose() -> None:
    payload = issue(tokens()).split(".")[1]
    for algorithm in ("none", "HS256", "ES256"):
        header = json.dumps({"alg": algorithm, "typ": "at+jwt", "kid": KEY.key_id}).encode()
        token = f"{base64.urlsafe_b64encode(header).rstrip(b'=').decode()}.{payload}."
        with pytest.raises(Unauthenticated):
            tokens().check(token, now_s=NOW_S)


def test_another_key_under_our_key_id_is_refused() -> None:
    claims = jwt.decode(issue(tokens()), options={"verify_signature": False})
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    forged = jwt.encode(claims, other, "EdDSA", headers={"typ": "at+jwt", "kid": KEY.key_id})
    with pytest.raises(Unauthenticated):
        tokens().check(forged, now_s=NOW_S)


@pytest.mark.parametrize("text", ["", "x", "a.b", "a.b.c", "....", "\u00e9.b.c"])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        tokens().check(text, now_s=NOW_S)


@pytest.mark.parametrize("kid", ["unknown", "../../etc/passwd", "' OR 1=1 --", "", 5, None], ids=repr)
def test_a_key_id_is_looked_up_and_nothing_else(kid: Any) -> None:
    claims = jwt.decode(issue(tokens()), options={"verify_signature": False})
    header = base64.urlsafe_b64encode(json.dumps({"alg": "EdDSA", "typ": "at+jwt", "kid": kid}).encode())
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode())
    with pytest.raises((UnknownKey, Unauthenticated)):
        tokens().check(f"{header.decode().rstrip('=')}.{payload.decode().rstrip('=')}.AAAA", now_s=NOW_S)


def test_the_public_key_is_no_shared_secret() -> None:
    """HS256 over the public key, which everybody knows, under its own key id."""
    claims = jwt.decode(issue(tokens()), options={"verify_signature": False})
    header, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "at+jwt", "kid": KEY.key_id}, claims)
    )
    mac = hmac.digest(KEY.public.public_bytes_raw(), header + b"." + payload, "sha256")
    with pytest.raises(Unauthenticated):
        tokens().check(b".".join((header, payload, base64.urlsafe_b64encode(mac).rstrip(b"="))).decode(), now_s=NOW_S)


def test_keys_take_turns_and_older_tokens_live_on() -> None:
    old, new = KEY, SigningKey(b"n" * 32)
    turn_s = NOW_S + 60
    ring = Keyring([(new, turn_s), (old, 0.0)])
    issuer = AccessTokens(ring, origin=ORIGIN, lifetime_s=600)
    assert ring.signing(now_s=turn_s - 1) is old
    assert ring.signing(now_s=turn_s) is new
    assert issuer.check(issue(tokens(new)), now_s=NOW_S).user == "@ann:x", "a prepared key verifies"
    last = turn_s + 600
    assert issuer.check(issue(issuer), now_s=last - 61).user == "@ann:x"
    assert [key["kid"] for key in make_jwks(ring.published(now_s=last)).keys] == [old.key_id, new.key_id]
    assert ring.published(now_s=last + 121) == [new]
    assert ring.verifying(old.key_id, now_s=last + 121) is None


def test_a_clock_behind_all_turns_signs_with_the_oldest_key() -> None:
    assert Keyring([(KEY, NOW_S)]).signing(now_s=NOW_S - 100) is KEY


def test_no_access_token_lives_longer_than_ten_minutes() -> None:
    with pytest.raises(ValueError, match="600"):
        AccessTokens(Keyring([(KEY, 0.0)]), origin=ORIGIN, lifetime_s=601)


def test_a_key_id_is_the_thumbprint_of_rfc_8037() -> None:
    seed = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    assert SigningKey(seed).key_id == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_a_refresh_token_is_a_function_of_family_and_k() -> None:
    refresh = RefreshTokens(lambda: [b"r" * 32])
    assert refresh.make(FAMILY, 1) == RefreshTokens(lambda: [b"r" * 32]).make(FAMILY, 1)
    assert refresh.make(FAMILY, 1) != refresh.make(FAMILY, 2)
    assert refresh.check(refresh.make(FAMILY, 7)) == (FAMILY, 7)


def test_an_altered_refresh_token_is_refused() -> None:
    refresh = RefreshTokens(lambda: [b"r" * 32])
    token = refresh.make(FAMILY, 7)
    other = FamilyId("A" * 22)
    for altered in (
        "",
        token + "x",
        token[:-1],
        token.replace(".7.", ".8."),
        token.replace(".7.", ".07."),
        token.replace(FAMILY, other),
        RefreshTokens(lambda: [b"s" * 32]).make(FAMILY, 7),
        token + "\n",
    ):
        with pytest.raises((RefreshRefused, UnknownKey)):
            refresh.check(altered)


def test_a_nonce_is_fresh_for_at_least_half_a_minute_and_at_most_one() -> None:
    nonces = Nonces(lambda: [b"n" * 32], purpose="login")
    start_s = 1_800_000_000.0  # a slot begins here
    for made_s in (start_s, start_s + 29.9):
        nonce = nonces.make(now_s=made_s)
        assert nonces.is_fresh(nonce, now_s=made_s + 30)
        assert not nonces.is_fresh(nonce, now_s=made_s + 60.1)
        assert not nonces.is_fresh(nonce, now_s=start_s - 0.1), "a nonce of the future was not given by us"


def test_a_nonce_serves_its_own_purpose_and_key() -> None:
    nonce = Nonces(lambda: [b"n" * 32], purpose="login").make(now_s=NOW_S)
    assert not Nonces(lambda: [b"n" * 32], purpose="socket").is_fresh(nonce, now_s=NOW_S)
    assert not Nonces(lambda: [b"o" * 32], purpose="login").is_fresh(nonce, now_s=NOW_S)
    assert not Nonces(lambda: [b"n" * 32], purpose="login").is_fresh("0" + nonce, now_s=NOW_S)
    assert not Nonces(lambda: [b"n" * 32], purpose="login").is_fresh("", now_s=NOW_S)
