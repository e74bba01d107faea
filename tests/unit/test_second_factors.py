"""TOTP, recovery codes and passkeys: the pure checks, each with something that only it refuses."""

import re
import secrets
from base64 import b64decode
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import cbor2
import msgspec
import pyotp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from webauthn import verify_registration_response
from webauthn.helpers.structs import AuthenticatorAttestationResponse, RegistrationCredential

from chatty.crypto import cbor, passkeys, totp
from chatty.crypto.passkeys import ALGORITHMS, RelyingParty, check_assertion, check_made, went_back
from chatty.crypto.recovery_codes import code_hash, make_code
from chatty.errors import BadKey, BadSignature, RateLimited, SecondFactorRefused
from chatty.ids import UserId
from chatty.services.limits import Asker, unlimited
from chatty.services.login_throttle import FactorThrottle
from chatty.wire.accounts import PasskeyAssertion, SecondFactor
from chatty.wire.second_factors import NewPasskey
from tests.software_authenticator import USER_PRESENT, Authenticator, text

ANN, BEN = UserId("@ann:example.org"), UserId("@ben:example.org")
PARTY = RelyingParty(rp_id="chatty.test", origin="https://chatty.test")
CHALLENGE = b"c" * 32
HANDLE = b"h" * 32
NOW_S = 1_800_000_000.0
STEP = totp.step_at(NOW_S)
SECRET = b"12345678901234567890"

# TOTP ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at_s", "expected"), [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")]
)
def test_the_vectors_of_rfc_6238(at_s: int, expected: str) -> None:
    assert totp.code(SECRET, totp.step_at(at_s)) == expected


@pytest.mark.parametrize(("step", "is_taken"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_code_of_this_step_and_of_its_neighbours_is_taken(step: int, is_taken: bool) -> None:
    found = totp.matching_step(SECRET, totp.code(SECRET, STEP + step), now_s=NOW_S, after_step=0)
    assert found == (STEP + step if is_taken else None)


@pytest.mark.parametrize(("step", "is_taken"), [(-1, False), (0, False), (1, True)])
def test_after_a_step_only_later_ones_are_taken(step: int, is_taken: bool) -> None:
    shown = totp.code(SECRET, STEP + step)
    assert (totp.matching_step(SECRET, shown, now_s=NOW_S, after_step=STEP) is not None) is is_taken


def test_an_app_reads_the_secret_from_the_uri() -> None:
    app = pyotp.parse_uri(totp.app_uri(SECRET, user=ANN, issuer="example.org"))
    assert (app.name, app.issuer, app.secret) == (ANN, "example.org", totp.secret_text(SECRET))
    assert app.generate_otp(STEP) == totp.code(SECRET, STEP)


# Recovery codes -----------------------------------------------------------------------------------------------------


def test_a_code_has_a_hundred_bits_and_a_plain_form() -> None:
    codes = [make_code(secrets.token_bytes) for _ in range(100)]
    assert len(set(codes)) == 100
    assert all(re.fullmatch(r"[0-9a-hjkmnp-tv-z]{5}(-[0-9a-hjkmnp-tv-z]{5}){3}", code) for code in codes)
    assert make_code(lambda count: bytes(range(255, 255 - count, -1))) == "zyxwv-tsrqp-nmkjh-gfedc"


def test_a_code_is_the_same_however_it_was_written_down_and_another_for_another_user() -> None:
    written = ("7k2mq-0c9sx-1n4v8-hd3fa", "7K2MQ 0C9SX 1N4V8 HD3FA", "7k2mqoc9sxin4v8hd3fa", "7k2mqOc9sxLn4v8hd3fa")
    assert len({code_hash(ANN, code) for code in written}) == 1
    assert code_hash(BEN, written[0]) != code_hash(ANN, written[0]) != code_hash(ANN, written[0][:-1] + "b")


# Passkeys -----------------------------------------------------------------------------------------------------------


def authenticator(**changes: Any) -> Authenticator:
    return Authenticator(**{"rp_id": PARTY.rp_id, "origin": PARTY.origin, "user_handle": HANDLE, **changes})


def made(body: dict[str, Any]) -> passkeys.MadePasskey:
    new = msgspec.convert({"nonce": "n", **body}, NewPasskey)
    return check_made(PARTY, challenge=CHALLENGE, client_data=new.client_data, attestation=new.attestation)


def signed(
    by: Authenticator, *, challenge: bytes = CHALLENGE, is_alone: bool = True, public_key: bytes = b"", **changes: str
) -> int:
    return check_assertion(
        PARTY,
        msgspec.convert(by.sign(challenge) | changes, PasskeyAssertion),
        challenge=CHALLENGE,
        public_key=public_key or by.cose_key(),
        user_handle=HANDLE,
        is_alone=is_alone,
    )


RSA = rsa.generate_private_key(65537, 2048)
KEYS = [None, ed25519.Ed25519PrivateKey.generate(), RSA]


@pytest.mark.parametrize("key", KEYS, ids=["es256", "eddsa", "rs256"])
def test_a_passkey_is_made_and_signs(key: Any) -> None:
    by = authenticator(**({} if key is None else {"key": key}))
    new = made(by.make(CHALLENGE))
    assert (new.passkey, new.public_key, new.sign_count) == (by.passkey, by.cose_key(), 0)
    assert signed(by, public_key=new.public_key) == 1
    assert signed(by, public_key=new.public_key) == 2
    assert len(ALGORITHMS) == len(KEYS)


def test_what_an_authenticator_adds_is_no_hindrance() -> None:
    by = authenticator(extensions=cbor2.dumps({"hmac-secret": b"s" * 32, "credProtect": 2}))
    assert made(by.make(CHALLENGE)).passkey == by.passkey
    assert signed(by) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"rp_id": "test"},
        {"origin": "https://evil.test"},
        {"origin": "https://chatty.test:8443"},
        {"flags": 0},
        {"client_data_more": {"type": "webauthn.get"}},
        {"client_data_more": {"crossOrigin": True}},
        {"credential_id": b""},
        {"credential_id": b"i" * 1024},
    ],
)
def test_a_passkey_made_for_somebody_else_or_otherwise_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadKey):
        made(authenticator(**changes).make(CHALLENGE))


def test_a_passkey_made_for_another_challenge_is_refused() -> None:
    with pytest.raises(BadKey):
        made(authenticator().make(b"d" * 32))


@pytest.mark.parametrize(
    ("fmt", "statement"),
    [
        ("packed", {"alg": -7, "sig": b"s", "x5c": [b"certificate"]}),
        ("tpm", {}),
        ("fido-u2f", {}),
        ("none", {"sig": b"s"}),
        ("packed", {"alg": -7, "sig": b"s"}),
        (5, {}),
        ("none", None),
        ("none", []),
    ],
)
def test_an_attestation_is_not_wanted_and_a_wrong_one_refused(fmt: Any, statement: Any) -> None:
    by = authenticator()
    attestation = cbor2.dumps({"fmt": fmt, "attStmt": statement, "authData": by.authenticator_data(with_key=True)})
    body = by.make(CHALLENGE) | {"attestation": text(attestation)}
    if statement == []:
        assert made(body).passkey == by.passkey  # nothing in it, however it is written
        return
    with pytest.raises(BadKey):
        made(body)


def with_attestation(by: Authenticator, statement: dict[str, Any], signed_by: Any) -> dict[str, Any]:
    """A body with an attestation "packed" that is right."""
    body, data = by.make(CHALLENGE), by.authenticator_data(with_key=True)
    signed = data + sha256(b64decode(body["client_data"])).digest()
    statement = {"alg": -7, "sig": signed_by.sign(signed, ec.ECDSA(SHA256())), **statement}
    return body | {"attestation": text(cbor2.dumps({"fmt": "packed", "attStmt": statement, "authData": data}))}


def test_the_new_keys_own_attestation_is_taken_and_a_right_certificate_is_not_read() -> None:
    by = authenticator()
    assert made(with_attestation(by, {}, by.key)).passkey == by.passkey
    maker = ec.generate_private_key(ec.SECP256R1())
    names = {"C": "XX", "O": "Maker", "OU": "Authenticator Attestation", "CN": "Model"}
    name = x509.Name.from_rfc4514_string(",".join(f"{key}={value}" for key, value in names.items()))
    day = datetime(2026, 1, 1, tzinfo=UTC)
    certificate = (
        x509.CertificateBuilder(name, name, maker.public_key(), 1, day, day + timedelta(days=9_999))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(maker, SHA256())
        .public_bytes(Encoding.DER)
    )
    body = with_attestation(by, {"x5c": [certificate]}, maker)
    new = msgspec.convert({"nonce": "n", **body}, NewPasskey)
    response = AuthenticatorAttestationResponse(client_data_json=new.client_data, attestation_object=new.attestation)
    verify_registration_response(  # the library would take it
        credential=RegistrationCredential(id="", raw_id=b"", response=response),
        expected_challenge=CHALLENGE,
        expected_rp_id=PARTY.rp_id,
        expected_origin=PARTY.origin,
    )
    with pytest.raises(BadKey):
        made(body)


@pytest.mark.parametrize(
    "key",
    [
        {1: 2, 3: -7, -1: 1, -2: b"x" * 32, -3: b"y" * 32},
        {1: 2, 3: -8, -1: 1, -2: b"x" * 32, -3: b"y" * 32},
        {1: 1, 3: -8, -1: 6, -2: b"short"},
        {1: 1, 3: -8, -1: 6, -2: b"\x01" + bytes(31)},
        {1: 3, 3: -257, -1: b"\x03", -2: b"\x01"},
        {1: 3, 3: -258, -1: RSA.public_key().public_numbers().n.to_bytes(256, "big"), -2: b"\x01\x00\x01"},
        {1: 2, 3: -7},
        {1: "two", 3: -7, -1: "one", -2: "x", -3: None},
        [],
        5,
    ],
)
def test_a_key_that_could_never_be_checked_is_refused(key: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    by = authenticator()
    monkeypatch.setattr(by, "cose_key", lambda: cbor2.dumps(key))
    with pytest.raises(BadKey):
        made(by.make(CHALLENGE))


@pytest.mark.parametrize(
    "changes",
    [
        {"rp_id": "test"},
        {"origin": "https://evil.test"},
        {"flags": USER_PRESENT},
        {"flags": 0},
        {"user_handle": b""},
        {"user_handle": b"g" * 32},
        {"client_data_more": {"type": "webauthn.create"}},
        {"client_data_more": {"crossOrigin": True}},
    ],
)
def test_alone_everything_must_fit(changes: dict[str, Any]) -> None:
    with pytest.raises(BadSignature):
        signed(authenticator(**changes))


@pytest.mark.parametrize("changes", [{"flags": USER_PRESENT}, {"user_handle": b""}])
def test_beside_a_password_neither_verification_nor_a_handle_is_needed(changes: dict[str, Any]) -> None:
    assert signed(authenticator(**changes), is_alone=False) == 1


@pytest.mark.parametrize("changes", [{"flags": 0x04}, {"user_handle": b"g" * 32}, {"rp_id": "test"}])
def test_beside_a_password_all_else_must_fit(changes: dict[str, Any]) -> None:
    with pytest.raises(BadSignature):
        signed(authenticator(**changes), is_alone=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"challenge": b"d" * 32},
        {"public_key": authenticator().cose_key()},
        {"public_key": passkeys.ANY_KEY},
        {"signature": text(b"s" * 64)},
        {"authenticator_data": text(b"short")},
        {"client_data": text(b"[" * 5_000)},
        {"client_data": text(b"\xff")},
        {"passkey": "A" * 41},
        {"passkey": "AB"},
    ],
)
def test_a_signature_over_something_else_or_by_another_key_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadSignature):
        signed(authenticator(), **changes)


def test_a_counter_must_grow_if_it_counts() -> None:
    assert [went_back(stored=stored, shown=shown) for stored, shown in [(0, 0), (0, 1), (4, 5)]] == [False] * 3
    assert [went_back(stored=stored, shown=shown) for stored, shown in [(5, 5), (5, 4), (5, 0)]] == [True] * 3


# How fast they may be tried -----------------------------------------------------------------------------------------


class Tries:
    """Two are free, and the longest wait is four seconds."""

    def __init__(self) -> None:
        self.now_s, self.told = 1_000.0, 0
        self.limits = unlimited()
        self.throttle = FactorThrottle(self.limits, free_count=2, delay_max_s=4, clock_s=lambda: self.now_s)

    def attempt(self, kind: str = "totp", *, device: str = "") -> AbstractContextManager[None]:
        return self.throttle.attempt(Asker(what="login", user=ANN, device=device), kind, on_many=self._tell)

    def _tell(self) -> None:
        self.told += 1

    def fail(self, kind: str = "totp", *, device: str = "") -> None:
        with pytest.raises(SecondFactorRefused), self.attempt(kind, device=device):
            raise SecondFactorRefused

    def wait_s(self, kind: str = "totp", *, device: str = "") -> float:
        try:
            with self.attempt(kind, device=device):
                raise BadSignature
        except RateLimited as refused:
            return refused.retry_after_s or 0.0
        except BadSignature:
            return 0.0


def test_waits_double_up_to_a_bound_and_the_user_is_told_once() -> None:
    tries, waits = Tries(), []
    for _ in range(6):
        waits.append(tries.wait_s())
        tries.now_s += waits[-1]
        tries.fail()
    assert waits == [0, 0, 1, 2, 4, 4]
    assert tries.told == 1


def test_a_right_one_clears_the_count_and_all_else_counts_for_nothing() -> None:
    tries = Tries()
    tries.fail()
    with tries.attempt():
        pass
    tries.fail()
    assert [tries.wait_s() for _ in range(5)] == [0] * 5
    assert tries.told == 0


def test_only_codes_wait_and_devices_are_counted_apart() -> None:
    tries = Tries()
    for kind in ("recovery_code", "passkey"):
        tries.fail(kind)
    assert [tries.wait_s(kind) for kind in ("totp", "recovery_code", "passkey")] == [1, 0, 0]
    assert tries.wait_s(device="KNOWNDEVICE") == 0
    for _ in range(2):
        tries.fail(device="KNOWNDEVICE")
    assert [tries.wait_s(device=device) for device in ("KNOWNDEVICE", "OTHERDEVICE")] == [1, 0]


def test_tries_at_once_are_counted_before_their_outcome() -> None:
    tries = Tries()
    with tries.attempt(), tries.attempt(), pytest.raises(RateLimited), tries.attempt():
        pass


# CBOR ---------------------------------------------------------------------------------------------------------------


def lists_that_name_each_other(levels: int) -> bytes:
    """Tags 28 and 29: level n is a list that names level n - 1 twice, so encoded again it is twice as long as that."""
    first = b"\xd8\x1c\x82\x00\x00"
    others = [b"\xd8\x1c\x82" + 2 * (b"\xd8\x1d" + cbor2.dumps(level)) for level in range(levels - 1)]
    return bytes([0x80 + levels]) + first + b"".join(others)


def test_lists_that_name_each_other_are_refused_before_anybody_follows_them() -> None:
    shared = lists_that_name_each_other(4)  # four are harmless and forty fill the memory; a decoder takes both
    assert len(cbor2.dumps(cbor2.loads(shared))) > len(lists_that_name_each_other(3))
    by = authenticator(extensions=shared)
    with pytest.raises(BadSignature):
        signed(by)
    with pytest.raises(BadKey):
        made(by.make(CHALLENGE))
    by.extensions = b""
    data = by.authenticator_data(with_key=True)
    head = cbor2.dumps({"fmt": "none", "authData": data})[1:]
    attestation = b"\xa3" + head + cbor2.dumps("attStmt") + b"\xa1" + cbor2.dumps("more") + shared
    with pytest.raises(BadKey):
        made(by.make(CHALLENGE) | {"attestation": text(attestation)})


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0\x00",
        b"\x82\xc0\x00",
        b"\x9f\xff",
        b"\x81" * 20 + b"\x00",
        b"\x42a",
        b"\x9b" + b"\xff" * 8,
        b"\x00\x00",
        b"\x1c",
        b"",
        b"\x18",
    ],
)
def test_what_ctap2_does_not_write_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        cbor.check_item(data)


_plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.binary(max_size=300) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(-9, 9), inner, max_size=4),
    max_leaves=12,
)


@given(_plain)
def test_what_ctap2_writes_is_let_through(value: Any) -> None:
    data = cbor2.dumps(value)
    try:
        cbor.check_item(data)
    except ValueError:
        depth = max(len(str(value).split("[")), len(str(value).split("{")))
        assert depth > 3 or isinstance(value, int)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_bytes_make_another_error_than_a_refusal(client_data: bytes, data: bytes) -> None:
    by = authenticator()
    right = by.make(CHALLENGE)
    for body in ({"attestation": text(data)}, {"client_data": text(client_data), "attestation": text(data)}):
        with pytest.raises(BadKey):
            made(right | body)
    with pytest.raises(BadSignature):
        signed(by, authenticator_data=text(data))
    with pytest.raises(BadSignature):
        signed(by, client_data=text(client_data))


@given(st.dictionaries(st.sampled_from([1, 3, -1, -2, -3]), _plain, max_size=5), _plain, _plain)
def test_no_well_formed_nonsense_makes_another_error_than_a_refusal(key: Any, statement: Any, fmt: Any) -> None:
    by = authenticator()
    data = by.authenticator_data(with_key=True).removesuffix(by.cose_key()) + cbor2.dumps(key)
    for attestation in (
        {"fmt": "none", "attStmt": {}, "authData": data},
        {"fmt": fmt, "attStmt": statement, "authData": data},
        {"fmt": "packed", "attStmt": {"sig": statement, "alg": fmt}, "authData": by.authenticator_data(with_key=True)},
        fmt,
    ):
        with pytest.raises(BadKey):
            made(by.make(CHALLENGE) | {"attestation": text(cbor2.dumps(attestation))})


# The wire -----------------------------------------------------------------------------------------------------------


def test_exactly_one_second_factor_is_shown_and_none_is_printed() -> None:
    for wrong in (
        {},
        {"totp": "123456", "recovery_code": "7k2mq-0c9sx-1n4v8-hd3fa"},
        {"totp": "12345"},
        {"totp": "１２３４５６"},
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, SecondFactor)
    assert "123456" not in repr(SecondFactor(totp="123456"))


def test_wrong_ones_are_kept_for_a_day() -> None:
    tries = Tries()
    tries.fail()
    tries.now_s += 86_399
    for left_count in (1, 0):
        tries.throttle.forget_old()
        assert [one["buckets_count"] for one in tries.limits.shown()["limits"] if one["buckets_count"]] == [
            1
        ] * left_count
        tries.now_s += 1
