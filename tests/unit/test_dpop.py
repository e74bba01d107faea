"""DPoP proofs: every check of RFC 9449, section 4.3, has a proof that only it refuses; and no proof is taken twice."""

import base64
import json
import time
from hashlib import sha256
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from chatty.crypto.dpop import DpopKey, check_proof, thumbprint, token_hash
from chatty.crypto.nonces import Nonces
from chatty.errors import InvalidDpopProof, Overloaded, UseDpopNonce
from chatty.services.dpop import Proofs, ProvenRequest

ORIGIN = "https://chat.example.org"
URL = f"{ORIGIN}/v1/token"
SEED = b"d" * 32
PRIVATE = Ed25519PrivateKey.from_private_bytes(SEED)
JWK = {
    "crv": "Ed25519",
    "kty": "OKP",
    "x": base64.urlsafe_b64encode(PRIVATE.public_key().public_bytes_raw()).rstrip(b"=").decode(),
}
NOW_S = 1_800_000_000.0


def forge(*, header: dict[str, Any] | None = None, key: Any = PRIVATE, algorithm: str = "EdDSA", **changes: Any) -> str:
    """A proof for POST URL, signed with the right key, but for what changes say; None takes a claim away."""
    claims = {"jti": "identifier", "htm": "POST", "htu": URL, "iat": int(time.time()), "nonce": "n", **changes}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers={"typ": "dpop+jwt", "jwk": JWK, **(header or {})})


def check(proof: str, **changes: Any) -> str:
    return check_proof(proof, **{"method": "POST", "url": URL, **changes}).thumbprint


def test_a_proof_says_whose_it_is() -> None:
    found = check_proof(forge(), method="POST", url=URL)
    assert (found.thumbprint, found.jti, found.nonce) == (thumbprint(JWK), "identifier", "n")


def test_our_own_proofs_pass_with_and_without_a_token() -> None:
    key = DpopKey(SEED)
    for token in ("", "an.access.token"):
        made = key.proof(method="POST", url=URL, nonce="n", jti="identifier", now_s=NOW_S, access_token=token)
        assert check(made, access_token=token) == key.thumbprint == thumbprint(JWK)


def test_the_thumbprint_is_that_of_rfc_8037() -> None:
    seed = base64.urlsafe_b64decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
    assert DpopKey(seed).thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_es256_is_taken_too() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(ECAlgorithm.to_jwk(private.public_key()))
    proof = forge(header={"jwk": jwk}, key=private, algorithm="ES256")
    members = {name: jwk[name] for name in ("crv", "kty", "x", "y")}
    assert check(proof) == thumbprint(members)


@pytest.mark.parametrize(
    "changes",
    [
        {"htm": "GET"},
        {"htm": "post"},
        {"htu": "https://evil.example.org/v1/token"},
        {"htu": f"{ORIGIN}/v1/login"},
        {"htu": "/v1/token"},
        {"htu": 5},
        {"ath": token_hash("some.other.token")},
        {"ath": 5},
        {"ath": "\ud800"},
        {"nonce": "\ud800"},
        {"jti": "short"},
        {"jti": "x" * 129},
        {"jti": "with space"},
        {"jti": 5},
        {"iat": "now"},
        {"iat": True},
        {"nonce": 5},
        {"exp": 1_000_000_000},
        {"nbf": 9_000_000_000},
        *({name: None} for name in ("jti", "htm", "htu", "iat", "nonce")),
        {"header": {"typ": "JWT"}},
        {"header": {"kid": "x"}},
        {"header": {"crit": ["b64"]}},
        {"header": {"jku": "https://evil.example.org"}},
        {"header": {"jwk": None}},
        {"header": {"jwk": "text"}},
        {"header": {"jwk": {**JWK, "d": "A" * 43}}},
        {"header": {"jwk": {**JWK, "x": JWK["x"] + "="}}},
        {"header": {"jwk": {**JWK, "x": "A" * 43}}},
        {"header": {"jwk": {**JWK, "crv": "X25519"}}},
        {"header": {"jwk": {"kty": "OKP", "crv": "Ed25519"}}},
        {"header": {"jwk": {**JWK, "x": 5}}},
    ],
    ids=str,
)
def test_a_proof_with_anything_wrong_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidDpopProof):
        check(forge(**changes))


def test_a_key_of_low_order_is_refused_whatever_it_signed() -> None:
    """Under the neutral point R = identity, S = 0 fits every message, where it is let in."""
    jwk = {**JWK, "x": base64.urlsafe_b64encode(b"\x01" + bytes(31)).rstrip(b"=").decode()}
    head, body, _ = forge(header={"jwk": jwk}).split(".")
    signature = base64.urlsafe_b64encode(b"\x01" + bytes(63)).rstrip(b"=").decode()
    with pytest.raises(InvalidDpopProof):
        check(f"{head}.{body}.{signature}")


@pytest.mark.parametrize("token", ["", "other.access.token"])
def test_a_proof_is_for_one_access_token(token: str) -> None:
    proof = forge(ath=token_hash("an.access.token"))
    assert check(proof, access_token="an.access.token")
    with pytest.raises(InvalidDpopProof):
        check(proof, access_token=token)


def test_a_proof_without_a_token_is_none_for_one() -> None:
    with pytest.raises(InvalidDpopProof):
        check(forge(), access_token="an.access.token")


def test_algorithms_are_ours_to_choose() -> None:
    secret = sha256(b"x").digest()
    rsa_key = rsa.generate_private_key(65_537, 2048)
    rsa_jwk = json.loads(RSAAlgorithm.to_jwk(rsa_key.public_key()))
    p384 = ec.generate_private_key(ec.SECP384R1())
    proofs = [
        forge(key=secret, algorithm="HS256", header={"jwk": {"kty": "oct", "k": "eA"}}),
        forge(key=secret, algorithm="HS256"),
        forge(key=rsa_key, algorithm="RS256", header={"jwk": rsa_jwk}),
        forge(key=p384, algorithm="ES384", header={"jwk": json.loads(ECAlgorithm.to_jwk(p384.public_key()))}),
        jwt.encode({}, "", "none", headers={"typ": "dpop+jwt", "jwk": JWK}),
    ]
    for proof in proofs:
        with pytest.raises(InvalidDpopProof):
            check(proof)


def test_another_key_than_the_one_it_shows_is_refused() -> None:
    with pytest.raises(InvalidDpopProof):
        check(forge(key=Ed25519PrivateKey.generate()))


@pytest.mark.parametrize(
    "text", ["", "x", "a.b.c", "é.é.é", "." * 50, "a" * 5_000, forge() + "x", forge() + "." + forge()]
)
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(InvalidDpopProof):
        check(text)


def test_a_nested_header_is_refused_without_a_crash() -> None:
    head = base64.urlsafe_b64encode(b'{"a":' * 700 + b"1" + b"}" * 700).rstrip(b"=").decode()
    with pytest.raises(InvalidDpopProof):
        check(f"{head}.e30.AAAA")


def test_query_fragment_and_percent_encoding_make_no_difference() -> None:
    room = f"{ORIGIN}/v1/rooms/!room/events"
    for htu in (room, f"{room}?after=3", f"{room}#x", f"{ORIGIN}/v1/rooms/%21room/events"):
        assert check(forge(htu=htu), url=room)


# On this node -------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def proofs(clock: Clock, **options: Any) -> Proofs:
    return Proofs(Nonces(lambda: [b"n" * 32], purpose="dpop"), origin=ORIGIN, clock_s=clock, **options)


def request(proof: str) -> ProvenRequest:
    return ProvenRequest(method="POST", path="/v1/token", proof=proof)


def test_a_fresh_proof_is_taken_once(clock: Clock) -> None:
    taking = proofs(clock)
    proof = forge(nonce=taking.make_nonce())
    assert taking.check(request(proof)) == thumbprint(JWK)
    for later_s in (0, 31):
        clock.now_s = NOW_S + later_s
        with pytest.raises(InvalidDpopProof, match="before"):
            taking.check(request(proof))
    clock.now_s = NOW_S + 61
    with pytest.raises(UseDpopNonce):
        taking.check(request(proof))


def test_a_proof_needs_a_nonce_of_ours_of_this_minute(clock: Clock) -> None:
    taking = proofs(clock)
    for nonce in ("", "n", Nonces(lambda: [b"n" * 32], purpose="login").make(now_s=NOW_S)):
        with pytest.raises(UseDpopNonce):
            taking.check(request(forge(nonce=nonce)))
    with pytest.raises(InvalidDpopProof):
        taking.check(request(""))


def test_two_keys_may_choose_one_identifier(clock: Clock) -> None:
    taking, other = proofs(clock), DpopKey(b"o" * 32)
    nonce = taking.make_nonce()
    taking.check(request(forge(nonce=nonce)))
    second = other.proof(method="POST", url=URL, nonce=nonce, jti="identifier", now_s=NOW_S)
    assert taking.check(request(second)) == other.thumbprint


def test_when_no_more_can_be_remembered_no_more_is_taken(clock: Clock) -> None:
    taking = proofs(clock, count_max=2)
    nonce = taking.make_nonce()
    for jti in ("identifier1", "identifier2"):
        taking.check(request(forge(nonce=nonce, jti=jti)))
    with pytest.raises(Overloaded, match="dpop_proofs"):
        taking.check(request(forge(nonce=nonce, jti="identifier3")))
    clock.now_s += 60
    assert taking.check(request(forge(nonce=taking.make_nonce(), jti="identifier3")))


def test_on_a_socket_the_challenge_is_the_nonce(clock: Clock) -> None:
    taking, key = proofs(clock), DpopKey(SEED)

    def proof(nonce: str, *, path: str = "/v1/ws", token: str = "token") -> str:
        url = ORIGIN + path
        return key.proof(method="GET", url=url, nonce=nonce, jti="identifier", now_s=NOW_S, access_token=token)

    assert taking.check_on_socket(proof("c"), nonce="c", access_token="token") == key.thumbprint
    for wrong in (proof("d"), proof(taking.make_nonce()), proof("c", path="/v1/token"), proof("c", token="other"), ""):
        with pytest.raises(InvalidDpopProof):
            taking.check_on_socket(wrong, nonce="c", access_token="token")


def test_a_private_key_never_leaves_its_client() -> None:
    private = PRIVATE.private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    proof = DpopKey(private).proof(method="GET", url=URL, nonce="n", jti="identifier", now_s=NOW_S)
    assert base64.urlsafe_b64encode(private).rstrip(b"=").decode() not in proof
    assert jwt.get_unverified_header(proof)["jwk"].keys() == {"crv", "kty", "x"}
