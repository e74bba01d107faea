"""Messages between devices over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.signed_in import Http, SignedIn, World, open_http, open_world


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with open_world(database, rows_per_sender_max=2) as world:
        yield world


@pytest.fixture
def http(world: World) -> Http:
    return open_http(world)


def to_device(sender: SignedIn, recipient: SignedIn, *, body: str = "AAAA", **changed: Any) -> dict[str, Any]:
    content = {
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": sender.olm.curve25519,
        "ciphertext": {recipient.olm.curve25519: {"type": 0, "body": body}},
        "org.matrix.msgid": "3f1a",
    }
    messages = {recipient.caller.user: {recipient.caller.device: content | changed}}
    return {"type": "m.room.encrypted", "messages": messages}


async def stored(world: World, device: SignedIn) -> list[dict[str, Any]]:
    async with world.units.snapshot() as unit:
        return [row.content for row in await unit.mailbox.rows(device.number, given=[], count_max=9, bytes_max=9_999)]


async def test_a_message_reaches_the_mailbox_as_it_was_sent(http: Http, world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    body, number = to_device(ann, bob), ann.n()
    assert await http.post("/v1/to-device", body, ann, **number) == {"unknown": {}}
    assert await http.post("/v1/to-device", body, ann, **number) == {"unknown": {}}
    assert await stored(world, bob) == [body["messages"][bob.caller.user]["bobsphone"]]


async def test_a_device_that_is_gone_is_named(http: Http, world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    await world.revoke(bob)
    answer = await http.post("/v1/to-device", to_device(ann, bob), ann, **ann.n())
    assert answer == {"unknown": {bob.caller.user: ["bobsphone"]}}


@pytest.mark.parametrize("changed", [{"plaintext": "hello"}, {"algorithm": "none"}, {"ciphertext": "hello"}])
async def test_what_is_not_encrypted_is_refused(http: Http, world: World, changed: dict[str, Any]) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    problem = await http.refused("/v1/to-device", to_device(ann, bob, **changed), ann, status=400, **ann.n())
    assert problem["code"] == "bad_request"
    assert await stored(world, bob) == []


async def test_other_types_are_refused(http: Http, world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    body = to_device(ann, bob) | {"type": "m.room_key"}
    assert (await http.refused("/v1/to-device", body, ann, status=400, **ann.n()))["code"] == "bad_request"


async def test_a_full_mailbox_says_which_device_it_is(http: Http, world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    for _ in range(2):
        await http.post("/v1/to-device", to_device(ann, bob), ann, **ann.n())
    problem = await http.refused("/v1/to-device", to_device(ann, bob), ann, status=403, **ann.n())
    assert (problem["code"], problem["devices"]) == ("mailbox_quota_exceeded", ["bobsphone"])


async def test_who_is_not_signed_in_sends_nothing(http: Http) -> None:
    assert (await http.refused("/v1/to-device", {}, None, status=401))["code"] == "unauthenticated"
