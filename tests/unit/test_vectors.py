"""The protocol's bytes, fixed in tests/vectors: computed by the product and, beside it, by a few lines of the standard library.

The files are never written by a test. Whoever changes a format breaks every client; what fails here shows it.
"""

import base64
import hmac
import json
import unicodedata
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import nacl.bindings
import nacl.pwhash.argon2id
import pytest
from nacl.exceptions import CryptoError
from nacl.signing import SigningKey as NaclKey
from nacl.signing import VerifyKey

from chatty.crypto import passwords, signatures
from chatty.crypto.dpop import DpopKey, check_proof
from chatty.crypto.events import verify_event
from chatty.crypto.nonces import Nonces
from chatty.crypto.sealing import MasterKey, Sealer
from chatty.crypto.successions import make_succession
from chatty.crypto.tokens import AccessTokens, Keyring, RefreshTokens, SigningKey
from chatty.errors import BadRequest
from chatty.ids import DeviceId, FamilyId, RoomId, UserId
from chatty.wire import chain, frames, signing
from chatty.wire.accounts import KeyDerivation
from chatty.wire.authority import RoomState, created_room
from chatty.wire.canonical import canonical_json
from chatty.wire.events import (
    CreateContent,
    Invitation,
    Kind,
    MemberChange,
    PolicyChange,
    Removal,
    Restoration,
    TimelineEvent,
    decode_content,
)
from chatty.wire.frames import ClientFrame, Encoding, ServerFrame
from chatty.wire.megolm import check_megolm
from chatty.wire.room_directory import Listing
from chatty.wire.room_links import LinkProof, LinkRevocation, NewLink

FOLDER = Path(__file__).parents[1] / "vectors"
VECTORS: dict[str, Any] = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(FOLDER.glob("*.json"))}
TEXT_FIELDS = ("kind", "sender", "device")
DOMAINS: dict[str, type[msgspec.Struct]] = {
    "chatty.create.v1": CreateContent,
    "chatty.invitation.v1": Invitation,
    "chatty.member.v1": MemberChange,
    "chatty.policy.v1": PolicyChange,
    "chatty.link.v1": NewLink,
    "chatty.link_revocation.v1": LinkRevocation,
    "chatty.listing.v1": Listing,
    "chatty.removal.v1": Removal,
    "chatty.restored.v1": Restoration,
}


def named(cases: list[dict[str, Any]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


# The other side: what a client's author writes after docs/protocol.md.


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def unpadded(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def behind_length(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part


def integer(value: int) -> bytes:
    return behind_length(value.to_bytes(8, "big"))


def meta_of(event: dict[str, Any]) -> bytes:
    def text(name: str) -> bytes:
        return behind_length(event.get(name, "").encode())

    def number(name: str) -> bytes:
        return integer(event.get(name, 0))

    silent = behind_length(b"\x01" if event.get("silent") else b"\x00")
    signature = behind_length(base64.b64decode(event.get("signature", "")))
    first = [text("room"), number("seq"), number("time"), *map(text, TEXT_FIELDS), number("n"), text("algorithm")]
    rest = [text("session_id"), number("epoch"), silent, number("expiry"), text("target"), signature]
    return b"".join((*first, *rest))


def leaf_of(event: dict[str, Any]) -> bytes:
    body = event.get("body")
    hashed = base64.b64decode(event["body_hash"]) if body is None else sha256(base64.b64decode(body)).digest()
    return sha256(b"\x00" + meta_of(event) + hashed).digest()


# Canonical JSON


@pytest.mark.parametrize("case", VECTORS["canonical_json"]["cases"])
def test_canonical_json_has_one_form(case: dict[str, Any]) -> None:
    assert canonical_json(case["value"]) == canonical(case["value"]) == case["canonical"].encode()
    assert sha256(canonical_json(case["value"])).hexdigest() == case["sha256"]


@pytest.mark.parametrize("value", VECTORS["canonical_json"]["refused"])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    with pytest.raises(BadRequest):
        canonical_json(value)


# The chain

CHAIN = VECTORS["chain"]


def test_a_room_is_named_by_its_creation() -> None:
    for body, room in ((CHAIN["create_body"], CHAIN["room"]), (CHAIN["direct_create_body"], CHAIN["direct_room"])):
        assert chain.room_id(body.encode()) == "!" + url(sha256(body.encode()).digest()) == room


def test_each_event_extends_the_chain() -> None:
    head = chain.empty_head(RoomId(CHAIN["room"]))
    assert head == sha256(b"chatty.room.v1" + CHAIN["room"].encode()).digest() == bytes.fromhex(CHAIN["head_0"])
    for case in [*CHAIN["events"], CHAIN["removal"]]:
        event = msgspec.convert(case["event"], TimelineEvent)
        assert chain.meta(event) == meta_of(case["event"]) == bytes.fromhex(case["meta"])
        assert chain.body_hash(event).hex() == case["body_sha256"]
        leaf = chain.leaf(event)
        assert leaf == leaf_of(case["event"]) == bytes.fromhex(case["leaf"])
        assert chain.event_id(leaf) == "$" + url(leaf) == case["event_id"]
        head, before = chain.next_head(head, leaf), head
        assert head == sha256(b"\x01" + before + leaf).digest() == bytes.fromhex(case["head"])


def test_an_event_without_its_body_keeps_its_leaf() -> None:
    withheld = msgspec.convert(CHAIN["withheld"], TimelineEvent)
    assert withheld.body is None
    assert chain.leaf(withheld) == leaf_of(CHAIN["withheld"]) == bytes.fromhex(CHAIN["events"][3]["leaf"])


def test_each_state_event_names_the_one_before_it() -> None:
    before = None
    for case in [*CHAIN["events"], CHAIN["removal"]]:
        event = case["event"]
        if event["kind"] != "message":
            assert json.loads(base64.b64decode(event["body"])).get("previous") == before
            before = event["seq"]
    assert before == 9


def test_an_erased_message_keeps_its_leaf_and_names_the_removal_that_explains_it() -> None:
    erased = msgspec.convert(CHAIN["erased"], frames.Erased)
    case = CHAIN["events"][erased.seq - 1]
    assert base64.b64decode(CHAIN["erased"]["leaf"]) == erased.leaf == bytes.fromhex(case["leaf"])
    before = bytes.fromhex(CHAIN["events"][erased.seq - 2]["head"])
    assert chain.next_head(before, erased.leaf) == sha256(b"\x01" + before + erased.leaf).digest()
    assert chain.next_head(before, erased.leaf) == bytes.fromhex(case["head"])
    assert erased.removal_seq == CHAIN["removal"]["event"]["seq"]


def test_a_client_believes_the_room() -> None:
    keys = {
        case["object"]["device"]: case["public_key"]
        for case in VECTORS["signatures"]["objects"]
        if "device" in case["object"]
    }
    state: RoomState | None = None
    for case in CHAIN["events"]:
        event = msgspec.convert(case["event"], TimelineEvent)
        if event.kind is Kind.MESSAGE:
            continue
        assert signing.body_bytes(decode_content(event)) == event.body
        verified = verify_event(event, server="example.org", device_key=lambda _, device: keys.get(device))
        if state is None:
            state = created_room(verified)
        else:
            state.apply(verified)
    assert state is not None
    assert (state.epoch, set(state.joined())) == (8, {"@ann:example.org"})
    removal = msgspec.convert(CHAIN["removal"]["event"], TimelineEvent)
    assert signing.body_bytes(decode_content(removal)) == removal.body
    state.apply(
        verify_event(
            removal,
            server="example.org",
            device_key=lambda *_: None,
            server_key=lambda key_id, _: server_keys().get(key_id),
        )
    )
    assert (state.epoch, state.memberships[UserId("@ben:example.org")].removed_seq) == (9, 9)


def server_keys() -> dict[str, str]:
    """By the RFC 7638 thumbprints that name them in /v1/jwks."""
    key = VECTORS["signatures"]["checkpoint"]["public_key"]
    members = {"crv": "Ed25519", "kty": "OKP", "x": url(unpadded(key))}
    return {url(sha256(canonical(members)).digest()): key}


# Signatures


def check_signature(case: dict[str, Any]) -> None:
    seed, message = bytes.fromhex(case["seed"]), case["message"].encode()
    assert signatures.sign(seed, message) == case["signature"]
    assert unpadded(case["signature"]) == NaclKey(seed).sign(message).signature
    VerifyKey(unpadded(case["public_key"])).verify(message, unpadded(case["signature"]))


@named(VECTORS["signatures"]["objects"])
def test_a_signed_object_is_signed_over_its_canonical_json(case: dict[str, Any]) -> None:
    signable: Any = msgspec.convert(case["object"], DOMAINS[case["object"]["domain"]])
    assert signing.signed_bytes(signable) == canonical(case["object"]) == case["message"].encode()
    check_signature(case)


def test_a_links_key_signs_who_joins_which_room_with_which_device_and_n() -> None:
    case = VECTORS["signatures"]["link_proof"]
    [join] = [one["object"] for one in VECTORS["signatures"]["objects"] if one["name"] == "join by link"]
    change = msgspec.convert(join, MemberChange)
    statement = {"domain": "chatty.link_proof.v1", "link": case["public_key"], "user": join["target"]}
    statement |= {"identity": join["target_identity"]} | {
        name: join[name] for name in ("server", "room", "device", "n")
    }
    assert signing.link_proof_bytes(change, case["public_key"]) == canonical(statement) == case["message"].encode()
    assert change.link == LinkProof(link=case["public_key"], signature=case["signature"])
    check_signature(case)


@named(VECTORS["signatures"]["logins"])
def test_a_log_in_is_signed_over_origin_user_nonce_purpose_and_what_it_does(case: dict[str, Any]) -> None:
    parts, about = case["parts"], bytes.fromhex(case.get("about", ""))
    statement = {"domain": "chatty.login.v1", "dpop": parts["dpop_thumbprint"]}
    statement |= {name: parts[name] for name in ("origin", "user", "nonce", "purpose")}
    if parts["purpose"] == "login":
        assert canonical({**case["log_in"], "domain": "chatty.log_in.v1"}) == case["log_in_text"].encode()
        assert signing.log_in_digest(**case["log_in"]) == sha256(case["log_in_text"].encode()).digest() == about
        statement["about"] = text_of(about)
    signed = signing.login_bytes(**parts, about=about)
    assert signed == canonical(statement) == case["message"].encode()
    challenge = bytes.fromhex(case["passkey_challenge"])
    assert signing.passkey_challenge(signed) == sha256(canonical(statement)).digest() == challenge
    check_signature(case)


def test_a_change_of_password_is_signed_twice_over_all_that_it_changes() -> None:
    case = VECTORS["signatures"]["password_change"]
    change, parts, about = case["change"], case["parts"], bytes.fromhex(case["about"])
    wrapped = bytes.fromhex(change["wrapped_recovery"])
    text = {**change, "domain": "chatty.password.v1", "wrapped_recovery": text_of(wrapped)}
    assert canonical(text) == case["change_text"].encode()
    assert sha256(canonical(text)).digest() == about
    derivation = KeyDerivation(**change["key_derivation"])
    assert signing.password_digest(**{**change, "key_derivation": derivation, "wrapped_recovery": wrapped}) == about
    statement = {"domain": "chatty.login.v1", "dpop": parts["dpop_thumbprint"], "about": text_of(about)}
    statement |= {name: parts[name] for name in ("origin", "user", "nonce", "purpose")}
    assert signing.login_bytes(**parts, about=about) == canonical(statement) == case["message"].encode()
    assert case["new"]["public_key"] == change["login_key"] != case["old"]["public_key"]
    for key in ("old", "new"):
        assert case[key]["message"] == case["message"]
        check_signature(case[key])


def test_a_deletion_is_signed_over_the_hash_of_its_receipts_token() -> None:
    case = VECTORS["signatures"]["account_deletion"]
    parts, about = case["parts"], bytes.fromhex(case["about"])
    assert sha256(base64.urlsafe_b64decode(case["receipt_token"] + "=")).digest() == about
    statement = {"domain": "chatty.login.v1", "dpop": parts["dpop_thumbprint"], "about": text_of(about)}
    statement |= {name: parts[name] for name in ("origin", "user", "nonce", "purpose")}
    assert signing.login_bytes(**parts, about=about) == canonical(statement) == case["message"].encode()
    check_signature(case)


def test_a_checkpoint_is_signed_over_server_room_generation_and_head() -> None:
    case = VECTORS["signatures"]["checkpoint"]
    parts = case["parts"]
    head = bytes.fromhex(parts["head"])
    assert parts["head"] == CHAIN["events"][-1]["head"]
    statement = {
        **parts,
        "domain": "chatty.checkpoint.v1",
        "head": text_of(head),
    }
    assert signing.checkpoint_bytes(**{**parts, "head": head}) == canonical(statement) == case["message"].encode()
    assert SigningKey(bytes.fromhex(case["seed"])).sign(case["message"].encode()) == unpadded(case["signature"])
    check_signature(case)


def test_a_succession_is_signed_by_both_keys() -> None:
    case = VECTORS["signatures"]["succession"]
    check_signature(case)
    shown = make_succession(
        server="example.org",
        purpose="checkpoint",
        old_seed=bytes.fromhex(case["seed"]),
        new_seed=bytes.fromhex(case["new_seed"]),
        time=json.loads(case["message"])["time"],
    )
    assert (shown.signature, shown.new_signature) == (case["signature"], case["new_signature"])
    statement = {name: getattr(shown, name) for name in ("server", "purpose", "old", "new", "time")}
    assert canonical({"domain": "chatty.succession.v1", **statement}) == case["message"].encode()
    check_signature({**case, "seed": case["new_seed"], "public_key": shown.new, "signature": case["new_signature"]})


@named(VECTORS["signatures"]["matrix"])
def test_key_objects_are_signed_as_matrix_does(case: dict[str, Any]) -> None:
    covered = {name: value for name, value in case["object"].items() if name != "signatures"}
    assert signing.matrix_signed_bytes(case["object"]) == canonical(covered) == case["message"].encode()
    check_signature(case)
    signatures.verify_matrix_object(
        case["object"], user="@ann:example.org", key_id="ed25519:ANNLAPTOP1", public_key=case["public_key"]
    )


# Digests

DIGESTS = VECTORS["digests"]


@pytest.mark.parametrize("case", DIGESTS["device_lists"])
def test_a_device_list_has_one_digest_in_any_order(case: dict[str, Any]) -> None:
    devices = [(one[0], one[1], one[2]) for one in case["devices"]]
    hashed = canonical(["chatty.device_list.v1", sorted(case["devices"])])
    assert chain.device_list_digest(devices) == chain.device_list_digest(devices[::-1])
    assert chain.device_list_digest(devices) == sha256(hashed).digest() == bytes.fromhex(case["digest"])
    assert hashed == case["hashed"].encode()


def test_a_send_is_named_by_all_its_fields() -> None:
    parts = DIGESTS["send"]["parts"]
    body = bytes.fromhex(parts["body"])
    texts = [behind_length(parts[name].encode()) for name in ("kind", "room", "algorithm", "session_id", "target")]
    numbers = [integer(int(parts[name])) for name in ("epoch", "silent", "expiry")]
    framed = b"".join([*texts, *numbers, behind_length(body)])
    digest = chain.send_digest(**{**parts, "kind": Kind(parts["kind"]), "body": body})
    assert digest == sha256(framed).digest() == bytes.fromhex(DIGESTS["send"]["digest"])


def test_another_write_is_named_by_its_operation_and_body() -> None:
    case = DIGESTS["request"]
    operation, body = case["operation"], case["body"].encode()
    framed = behind_length(b"http") + behind_length(operation.encode()) + behind_length(body)
    assert chain.request_digest(operation, body) == sha256(framed).digest() == bytes.fromhex(case["digest"])


# Passwords

PASSWORD = VECTORS["password"]


def test_a_password_gives_two_keys() -> None:
    parameters = msgspec.convert(PASSWORD["key_derivation"], KeyDerivation)
    served = unpadded(PASSWORD["served_salt"])
    salt = passwords.salt(server_name=PASSWORD["server"], user=UserId(PASSWORD["user"]), served_salt=served)
    parts = (PASSWORD["server"].encode(), PASSWORD["user"].encode(), served)
    assert salt == sha256(b"chatty.salt.v1" + b"".join(map(behind_length, parts))).digest()
    assert salt.hex() == PASSWORD["salt"]

    keys = passwords.derive(PASSWORD["password"], salt=salt, parameters=parameters)
    normal = unicodedata.normalize("NFC", PASSWORD["password"]).encode()
    assert normal != PASSWORD["password"].encode()
    derived = nacl.pwhash.argon2id.kdf(
        64, normal, salt[:16], opslimit=parameters.passes, memlimit=parameters.memory_bytes
    )
    assert keys.wrapping_key + keys.login_seed == derived
    assert (keys.wrapping_key.hex(), keys.login_seed.hex()) == (PASSWORD["wrapping_key"], PASSWORD["login_seed"])
    assert signatures.public_key(keys.login_seed) == PASSWORD["login_public_key"]


@pytest.mark.parametrize(
    ("secret", "key", "purpose"),
    [("recovery_secret", "wrapping_key", "recovery"), ("identity_seed", "recovery_secret", "identity")],
)
def test_secrets_are_wrapped_for_one_purpose(secret: str, key: str, purpose: str) -> None:
    plain, wrapping = bytes.fromhex(PASSWORD[secret]), bytes.fromhex(PASSWORD[key])
    wrapped, nonce = bytes.fromhex(PASSWORD[f"wrapped_{purpose}"]), bytes.fromhex(PASSWORD[f"{purpose}_nonce"])
    assert passwords.wrap(plain, key=wrapping, purpose=purpose, random=lambda _: nonce) == wrapped
    assert passwords.unwrap(wrapped, key=wrapping, purpose=purpose) == plain
    assert wrapped[:25] == b"\x01" + nonce
    opened = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
        wrapped[25:], b"chatty.wrap.v1/" + purpose.encode(), nonce, wrapping
    )
    assert opened == plain
    with pytest.raises(CryptoError):
        nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(wrapped[25:], b"chatty.wrap.v1/x", nonce, wrapping)


# What only the server opens

TOKENS = VECTORS["tokens"]


def test_each_refresh_token_is_a_function_of_family_and_number() -> None:
    case = TOKENS["refresh"]
    key, family = bytes.fromhex(case["key"]), FamilyId(case["family"])
    tokens = RefreshTokens(lambda: [key])
    for one in case["tokens"]:
        mac = hmac.digest(key, f"chatty.refresh.v1/{family}/{one['k']}".encode(), "sha256")
        assert tokens.make(family, one["k"]) == f"chatty_r.{family}.{one['k']}.{url(mac)}" == one["token"]
        assert tokens.check(one["token"]) == (family, one["k"])


def test_an_access_token_has_its_form() -> None:
    case = TOKENS["access"]
    key = SigningKey(bytes.fromhex(case["seed"]))
    tokens = AccessTokens(Keyring([(key, 0.0)]), origin=case["origin"], lifetime_s=600)
    user, device, family = UserId(case["user"]), DeviceId(case["device"]), FamilyId(case["family"])
    issued = tokens.issue(
        user=user,
        device=device,
        family=family,
        k=case["k"],
        role=case["role"],
        thumbprint=case["thumbprint"],
        token_id=case["token_id"],
        now_s=case["issued_at_s"],
    )
    assert issued == case["token"]
    assert tokens.check(issued, now_s=case["issued_at_s"] + 599).device == device
    assert key.jwk() == case["jwk"]


def test_an_access_token_is_signed_with_the_published_key() -> None:
    case = TOKENS["access"]
    jwk = case["jwk"]
    thumbprint = canonical({name: jwk[name] for name in ("crv", "kty", "x")})
    assert url(sha256(thumbprint).digest()) == case["key_id"] == jwk["kid"]
    header, claims, signature = case["token"].split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    VerifyKey(base64.urlsafe_b64decode(jwk["x"] + "=")).verify(f"{header}.{claims}".encode(), raw)
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {
        "alg": "EdDSA",
        "typ": "at+jwt",
        "kid": case["key_id"],
    }
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["exp"] == case["issued_at_s"] + 600


def test_a_dpop_proof_has_its_form() -> None:
    case = TOKENS["dpop"]
    key = DpopKey(bytes.fromhex(case["seed"]))
    made = key.proof(
        method=case["method"],
        url=case["url"],
        nonce=case["nonce"],
        jti=case["jti"],
        now_s=case["issued_at_s"],
        access_token=case["access_token"],
    )
    assert made == case["proof"]
    assert url(sha256(canonical(case["jwk"])).digest()) == case["thumbprint"] == key.thumbprint
    assert url(sha256(case["access_token"].encode()).digest()) == case["ath"]
    checked = check_proof(made, method=case["method"], url=case["url"], access_token=case["access_token"])
    assert (checked.thumbprint, checked.jti, checked.nonce) == (case["thumbprint"], case["jti"], case["nonce"])


def test_a_dpop_proof_is_an_ordinary_jwt() -> None:
    case = TOKENS["dpop"]
    header, claims, signature = case["proof"].split(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    VerifyKey(base64.urlsafe_b64decode(case["jwk"]["x"] + "=")).verify(f"{header}.{claims}".encode(), raw)
    assert json.loads(base64.urlsafe_b64decode(header + "==")) == {
        "alg": "EdDSA",
        "typ": "dpop+jwt",
        "jwk": case["jwk"],
    }
    assert json.loads(base64.urlsafe_b64decode(claims + "==")) == {
        "jti": case["jti"],
        "htm": case["method"],
        "htu": case["url"],
        "iat": case["issued_at_s"],
        "nonce": case["nonce"],
        "ath": case["ath"],
    }


def test_a_nonce_is_a_time_slot_and_a_mac() -> None:
    case = TOKENS["nonce"]
    key = bytes.fromhex(case["key"])
    slot = case["now_s"] // 30
    mac = hmac.digest(key, f"chatty.nonce.v1/{case['purpose']}/{slot}".encode(), "sha256")
    nonces = Nonces(lambda: [key], purpose=case["purpose"])
    assert nonces.make(now_s=case["now_s"]) == f"{slot}.{url(mac)}" == case["nonce"]


def test_secrets_at_rest_have_their_form() -> None:
    case = TOKENS["sealed"]
    nonce, data_key = bytes.fromhex(case["nonce"]), bytes.fromhex(case["data_key"])
    master = MasterKey(bytes.fromhex(case["master_key"]))
    sealer = Sealer({case["version"]: data_key}, version=case["version"], random=lambda _: nonce)
    assert master.wrap(data_key, version=case["version"], random=lambda _: nonce).hex() == case["wrapped_data_key"]
    sealed = sealer.seal(bytes.fromhex(case["plaintext"]), purpose=case["purpose"])
    assert sealed.hex() == case["sealed"]
    header = b"\x01" + case["version"].to_bytes(4, "big")
    opened = nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
        sealed[29:], b"chatty.seal.v1" + header + case["purpose"].encode(), sealed[5:29], data_key
    )
    assert (sealed[:5], opened.hex()) == (header, case["plaintext"])


# Frames

FRAMES = VECTORS["frames"]
ENCODINGS: tuple[Encoding, ...] = ("json", "msgpack")


def on_the_wire(case: dict[str, str], encoding: Encoding) -> bytes:
    return case["json"].encode() if encoding == "json" else bytes.fromhex(case["msgpack"])


def frame_names(kind: Any) -> set[str]:
    return {str(one.__struct_config__.tag) for one in kind.__args__}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("case", FRAMES["requests"])
def test_a_request_reads_the_same_in_both_encodings(case: dict[str, str], encoding: Encoding) -> None:
    [request] = frames.decode_requests(on_the_wire(case, encoding), encoding=encoding)
    assert frames.encode(request, encoding=encoding) == on_the_wire(case, encoding)
    assert [request] == frames.decode_requests(case["json"], encoding="json")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("case", FRAMES["events"])
def test_an_event_reads_the_same_in_both_encodings(case: dict[str, str], encoding: Encoding) -> None:
    one = frames.join_events([on_the_wire(case, encoding)], encoding=encoding)
    [event] = frames.decode_events(one, encoding=encoding)
    assert frames.encode(event, encoding=encoding) == on_the_wire(case, encoding)
    assert [event] == frames.decode_events(f"[{case['json']}]", encoding="json")


def test_every_frame_has_a_vector() -> None:
    for kind, cases in ((ClientFrame, FRAMES["requests"]), (ServerFrame, FRAMES["events"])):
        assert {json.loads(case["json"])["type"] for case in cases} == frame_names(kind)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_server_joins_events_to_one_frame(encoding: Encoding) -> None:
    first = [on_the_wire(case, encoding) for case in FRAMES["events"][:2]]
    assert frames.join_events(first, encoding=encoding) == on_the_wire(FRAMES["server_frame"], encoding)


def test_the_shape_of_a_megolm_message_is_known() -> None:
    assert check_megolm(bytes.fromhex(FRAMES["megolm"]["body"])) == FRAMES["megolm"]["message_index"]


def test_the_protocol_page_names_every_file_of_vectors() -> None:
    page = (FOLDER.parents[1] / "docs" / "protocol.md").read_text("utf-8")
    assert [name for name in VECTORS if f"`{name}.json`" not in page] == []
