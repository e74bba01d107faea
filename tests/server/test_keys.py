"""Keys over HTTP: the routes' shapes, their refusals as problem details, and an Olm session made of what they answer."""

import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from vodozemac import Curve25519PublicKey

from tests.signed_in import Http, SignedIn, World, open_http, open_world


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with open_world(database) as world:
        yield world


@pytest.fixture
def http(world: World) -> Http:
    return open_http(world)


def claim_of(device: SignedIn) -> dict[str, Any]:
    return {"one_time_keys": {device.caller.user: {device.caller.device: "signed_curve25519"}}}


async def test_two_devices_agree_on_a_session_by_what_the_server_answers(http: Http, world: World) -> None:
    ann, bob = await world.sign_in("ann", "annsphone"), await world.sign_in("bob", "bobsphone")
    body = {"device_keys": bob.olm.device_keys(), "one_time_keys": bob.olm.one_time_keys(3)}
    answer = await http.post("/v1/keys/upload", body, bob)
    assert answer == {"one_time_key_counts": {"signed_curve25519": 3}, "unused_fallback_key_types": []}

    answer = await http.post("/v1/keys/query", {"device_keys": {bob.caller.user: []}}, ann)
    assert answer["device_keys"] == {bob.caller.user: {"bobsphone": bob.olm.device_keys()}}
    keys = answer["device_keys"][bob.caller.user]["bobsphone"]["keys"]
    identity = Curve25519PublicKey.from_base64(keys["curve25519:bobsphone"])

    answer = await http.post("/v1/keys/claim", claim_of(bob), ann, **ann.n())
    ((key_id, key),) = answer["one_time_keys"][bob.caller.user]["bobsphone"].items()
    assert key == body["one_time_keys"][key_id]
    session = ann.olm.account.create_outbound_session(identity, Curve25519PublicKey.from_base64(key["key"]))
    message = session.encrypt(b"hello").to_pre_key()
    assert message is not None
    _, plaintext = bob.olm.account.create_inbound_session(ann.olm.account.curve25519_key, message)
    assert plaintext == b"hello"


async def test_a_claim_needs_a_number_and_a_resend_gets_the_same(http: Http, world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone", one_time_keys_count=2)
    assert (await http.refused("/v1/keys/claim", claim_of(bob), ann, status=400))["code"] == "bad_request"
    number = ann.n()
    first = await http.post("/v1/keys/claim", claim_of(bob), ann, **number)
    assert await http.post("/v1/keys/claim", claim_of(bob), ann, **number) == first
    problem = await http.refused("/v1/keys/claim", claim_of(ann), ann, status=409, **number)
    assert (problem["code"], problem["highest_n"]) == ("message_id_conflict", number["n"])


async def test_what_matrix_libraries_send_is_taken_as_it_is(http: Http, world: World) -> None:
    """matrix-sdk-crypto puts a timeout (ms) into its claims, and may into its queries."""
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone", one_time_keys_count=1)
    answer = await http.post("/v1/keys/query", {"device_keys": {bob.caller.user: []}, "timeout": 10_000}, ann)
    assert list(answer["device_keys"][bob.caller.user]) == ["bobsphone"]
    answer = await http.post("/v1/keys/claim", claim_of(bob) | {"timeout": 10_000}, ann, **ann.n())
    assert list(answer["one_time_keys"][bob.caller.user]) == ["bobsphone"]


async def test_who_is_not_signed_in_gets_nothing(http: Http, world: World) -> None:
    for path in ("/v1/keys/upload", "/v1/keys/query", "/v1/keys/claim"):
        assert (await http.refused(path, {}, None, status=401))["code"] == "unauthenticated"


def _other_value(device: SignedIn) -> dict[str, Any]:
    """The id of a key that was uploaded, with a new value."""
    return {"one_time_keys": {"signed_curve25519:first": device.olm.signed({"key": _curve25519(b"\x02")})}}


def _low_order(device: SignedIn) -> dict[str, Any]:
    key = device.olm.signed({"key": base64.b64encode(bytes(32)).decode().rstrip("=")})
    return {"one_time_keys": {"signed_curve25519:A": key}}


def _unsigned(device: SignedIn) -> dict[str, Any]:
    return {"one_time_keys": {"signed_curve25519:A": {"key": _curve25519(b"\x03"), "signatures": {}}}}


def _unknown_field(device: SignedIn) -> dict[str, Any]:
    return {"device_keys": device.olm.device_keys() | {"unsigned": {"name": "mine"}}}


def _bad_base64(device: SignedIn) -> dict[str, Any]:
    return {"one_time_keys": {"signed_curve25519:A": device.olm.signed({"key": "=" * 43})}}


def _another_user(device: SignedIn) -> dict[str, Any]:
    return {"device_keys": device.olm.device_keys(user_id="@bob:example.org")}


def _too_many(device: SignedIn) -> dict[str, Any]:
    return {"one_time_keys": device.olm.one_time_keys(50)}


def _curve25519(point: bytes) -> str:
    return base64.b64encode(point.ljust(32, b"\x09")).decode().rstrip("=")


@pytest.mark.parametrize(
    ("make", "status", "code"),
    [
        (_other_value, 409, "key_conflict"),
        (_low_order, 400, "bad_key"),
        (_unsigned, 400, "bad_signature"),
        (_unknown_field, 400, "bad_request"),
        (_bad_base64, 400, "bad_request"),
        (_another_user, 400, "bad_request"),
        (_too_many, 403, "quota_exceeded"),
    ],
)
async def test_a_bad_upload_is_refused_by_name_and_changes_nothing(
    http: Http, world: World, make: Callable[[SignedIn], dict[str, Any]], status: int, code: str
) -> None:
    ann = await world.device("ann", "annsphone")
    first = {"signed_curve25519:first": ann.olm.signed({"key": _curve25519(b"\x01")})}
    before = await http.post("/v1/keys/upload", {"one_time_keys": first}, ann)
    assert (await http.refused("/v1/keys/upload", make(ann), ann, status=status))["code"] == code
    assert await http.post("/v1/keys/upload", {}, ann) == before
