"""Device mailboxes against a real PostgreSQL: a set, given by what was not given yet, deleted by exact ids."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import trio

from chatty.errors import BadRequest, DeviceRevoked, MailboxQuotaExceeded, MessageIdConflict, TooLarge
from chatty.ids import DeviceId, MailboxId, SendNumber, UserId
from chatty.wire import frames, limits
from chatty.wire.keys import ToDevice, ToDeviceAnswer
from tests.signed_in import SignedIn, World, open_world

NOBODY = UserId("@nobody:example.org")


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with open_world(database, rows_per_sender_max=5, rows_max=8) as world:
        yield world


def olm(sender: SignedIn, body: str = "AAAA") -> dict[str, Any]:
    return {
        "algorithm": "m.olm.v1.curve25519-aes-sha2",
        "sender_key": sender.olm.curve25519,
        "ciphertext": {"A" * 43: {"type": 0, "body": body}},
    }


def to_device(content: dict[str, Any], *recipients: SignedIn, kind: str = "m.room.encrypted") -> ToDevice:
    messages: dict[UserId, dict[DeviceId, dict[str, Any]]] = {}
    for recipient in recipients:
        messages.setdefault(recipient.caller.user, {})[recipient.caller.device] = content
    return ToDevice(type=kind, messages=messages)


async def send(world: World, sender: SignedIn, *recipients: SignedIn, body: str = "AAAA") -> ToDeviceAnswer:
    return await world.mailbox.send(sender.caller, to_device(olm(sender, body), *recipients), **sender.n())


async def rows(
    world: World,
    device: SignedIn,
    *,
    given: list[MailboxId] | None = None,
    count_max: int = 100,
    bytes_max: int = 100_000,
) -> list[frames.Mailbox]:
    async with world.units.snapshot() as unit:
        return await unit.mailbox.rows(device.number, given=given or [], count_max=count_max, bytes_max=bytes_max)


async def acknowledge(world: World, device: SignedIn, *ids: int) -> None:
    async with world.units.begin() as unit:
        await unit.mailbox.acknowledge(device.number, [MailboxId(id_) for id_ in ids])


async def test_each_device_named_gets_one_row(world: World) -> None:
    ann, phone = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    laptop = await world.device("bob", "bobslaptop")
    world.doorbells.devices()
    assert (await send(world, ann, phone, laptop)).unknown == {}
    assert world.doorbells.devices() == {phone.number, laptop.number}
    for device in (phone, laptop):
        (row,) = await rows(world, device)
        assert (row.sender, row.sender_device, row.n, row.kind) == (ann.caller.user, "annsphone", 1, "m.room.encrypted")
        assert row.content == olm(ann)


async def test_devices_that_are_gone_are_named_and_get_nothing(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    gone = await world.device("bob", "bobsoldphone")
    new = await world.sign_in("bob", "bobstablet")
    await world.revoke(gone)
    body = to_device(olm(ann), bob, gone, new)
    body.messages[NOBODY] = {bob.caller.device: olm(ann)}
    answer = await world.mailbox.send(ann.caller, body, **ann.n())
    assert answer.unknown == {bob.caller.user: ["bobsoldphone", "bobstablet"], NOBODY: ["bobsphone"]}
    assert await world.value("SELECT count(*) FROM mailbox") == 1


async def test_a_resend_stores_nothing_and_gets_the_same_answer(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    number, body = ann.n(), to_device(olm(ann), bob)
    first = await world.mailbox.send(ann.caller, body, **number)
    await world.revoke(bob)
    assert await world.mailbox.send(ann.caller, body, **number) == first
    assert await world.value("SELECT count(*) FROM mailbox") == 1
    with pytest.raises(MessageIdConflict):
        await world.mailbox.send(ann.caller, to_device(olm(ann, "BBBB"), bob), **number)


async def test_a_revoked_device_sends_nothing(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    await world.revoke(ann)
    with pytest.raises(DeviceRevoked):
        await send(world, ann, bob)
    assert await rows(world, bob) == []


# What may be sent ---------------------------------------------------------------------------------------------------


async def test_a_withheld_key_may_be_sent(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    content = {"algorithm": "m.megolm.v1.aes-sha2", "code": "m.blacklisted", "sender_key": ann.olm.curve25519}
    await world.mailbox.send(ann.caller, to_device(content, bob, kind="m.room_key.withheld"), **ann.n())
    assert [(row.kind, row.content) for row in await rows(world, bob)] == [("m.room_key.withheld", content)]


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "m.megolm.v1.aes-sha2"},
        {"sender_key": "A" * 42},
        {"ciphertext": {}},
        {"ciphertext": {"A" * 43: {"type": 2, "body": "AAAA"}}},
        {"ciphertext": {"A" * 43: {"type": "0", "body": "AAAA"}}},
        {"ciphertext": {"A" * 43: {"type": 0, "body": "hello there"}}},
        {"ciphertext": {"A" * 43: {"type": 0, "body": "AAAA"}, "B" * 43: {"type": 0, "body": "AAAA"}}},
        {"plaintext": "hello"},
    ],
)
async def test_what_is_no_olm_envelope_is_refused_whole(world: World, change: dict[str, Any]) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    carol = await world.device("carol", "carolsphone")
    body = to_device(olm(ann), bob)
    body.messages[carol.caller.user] = {carol.caller.device: {**olm(ann), **change}}
    with pytest.raises(BadRequest):
        await world.mailbox.send(ann.caller, body, **ann.n())
    assert await rows(world, bob) == []


async def test_other_types_are_refused(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    with pytest.raises(BadRequest):
        await world.mailbox.send(ann.caller, to_device(olm(ann), bob, kind="m.room_key"), **ann.n())
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "m.room_key", "messages": {}}, ToDevice)


async def test_a_content_has_a_largest_size(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    with pytest.raises(TooLarge):
        await send(world, ann, bob, body="A" * limits.to_device_content_bytes_max)
    await send(world, ann, bob, body="A" * (limits.to_device_content_bytes_max - 300))
    assert len(await rows(world, bob)) == 1


async def test_a_request_names_at_most_250_devices_in_all(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    body = ToDevice(
        type="m.room.encrypted",
        messages={
            UserId(f"@user{i}:example.org"): {DeviceId(f"device-{i}-{j}"): olm(ann) for j in range(2)}
            for i in range(126)
        },
    )
    with pytest.raises(BadRequest):
        await world.mailbox.send(ann.caller, body, **ann.n())


# Bounds -------------------------------------------------------------------------------------------------------------


async def test_a_full_mailbox_refuses_the_new_request_whole(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    laptop = await world.device("bob", "bobslaptop")
    for _ in range(5):
        await send(world, ann, bob)
    number, body = ann.n(), to_device(olm(ann), laptop, bob)
    with pytest.raises(MailboxQuotaExceeded) as refusal:
        await world.mailbox.send(ann.caller, body, **number)
    assert refusal.value.fields() == {
        "quota": "mailbox_rows_per_sender_max",
        "count_max": 5,
        "devices": ["bobsphone"],
    }
    assert len(await rows(world, bob)) == 5
    assert await rows(world, laptop) == []

    await acknowledge(world, bob, (await rows(world, bob))[0].id)
    await world.mailbox.send(ann.caller, body, **number)  # the same request goes through once there is room
    assert len(await rows(world, bob)) == 5
    assert len(await rows(world, laptop)) == 1


async def test_one_sender_does_not_use_up_anothers_quota(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    carol = await world.device("carol", "carolsphone")
    for _ in range(5):
        await send(world, ann, bob)
    await send(world, carol, bob)
    assert len(await rows(world, bob)) == 6


async def test_a_mailbox_is_bounded_whoever_sends(world: World) -> None:
    bob = await world.device("bob", "bobsphone")
    senders = [await world.device(f"user{i}", f"phone-of-user-{i}") for i in range(3)]
    for sender in senders[:2]:
        for _ in range(4):
            await send(world, sender, bob)
    with pytest.raises(MailboxQuotaExceeded) as refusal:
        await send(world, senders[2], bob)
    assert refusal.value.fields() == {"quota": "mailbox_rows_max", "count_max": 8, "devices": ["bobsphone"]}


async def test_requests_at_once_do_not_pass_the_senders_bound_together(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    refused: list[SendNumber] = []

    async def try_to_send(n: SendNumber) -> None:
        try:
            await world.mailbox.send(ann.caller, to_device(olm(ann), bob), n=n, low=SendNumber(1))
        except MailboxQuotaExceeded:
            refused.append(n)

    async with trio.open_nursery() as nursery:
        for n in range(1, 11):
            nursery.start_soon(try_to_send, SendNumber(n))
    assert len(refused) == 5
    assert len(await rows(world, bob)) == 5


# Giving and acknowledging -------------------------------------------------------------------------------------------


async def test_rows_come_in_id_order_without_those_given_before(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    for _ in range(5):
        await send(world, ann, bob)
    ids = [row.id for row in await rows(world, bob)]
    assert ids == sorted(ids)
    assert [row.id for row in await rows(world, bob, given=[ids[1], ids[4]])] == [ids[0], ids[2], ids[3]]
    assert [row.id for row in await rows(world, bob, given=ids[:1], count_max=2)] == ids[1:3]
    assert await rows(world, bob, given=ids) == []


async def test_a_row_that_commits_late_under_a_smaller_id_is_given(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    carol = await world.device("carol", "carolsphone")
    async with world.units.begin() as unit:
        numbers = await unit.keys.usable_devices([(bob.caller.user, bob.caller.device)])
        insert = (
            "INSERT INTO mailbox (device_number, sender_device_number, n, kind, content) VALUES (%s, %s, 1, 'x', '{}')"
        )
        await unit.mailbox._connection.execute(insert, (*numbers.values(), carol.number))
        await send(world, ann, bob)  # a later id, committed earlier
        (first,) = await rows(world, bob)
    (late,) = await rows(world, bob, given=[first.id])
    assert late.id < first.id
    assert late.sender == carol.caller.user


async def test_a_page_is_bounded_in_bytes_and_holds_at_least_one_row(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    for _ in range(3):
        await send(world, ann, bob, body="A" * 1_000)
    assert len(await rows(world, bob, bytes_max=2_800)) == 2
    assert len(await rows(world, bob, bytes_max=1)) == 1


async def test_exactly_the_acknowledged_rows_go(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    for _ in range(3):
        await send(world, ann, bob)
    first, second, third = (row.id for row in await rows(world, bob))
    await acknowledge(world, ann, first, second, third)  # not the one they belong to
    assert len(await rows(world, bob)) == 3
    await acknowledge(world, bob, third, third, 999_999)
    assert [row.id for row in await rows(world, bob)] == [first, second]
    await acknowledge(world, bob)
    assert [row.id for row in await rows(world, bob)] == [first, second]


async def test_two_sockets_may_acknowledge_the_same_rows_at_once(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    for _ in range(5):
        await send(world, ann, bob)
    ids = [row.id for row in await rows(world, bob)]
    async with trio.open_nursery() as nursery:
        for order in (ids, ids[::-1], ids[2:]):
            nursery.start_soon(acknowledge, world, bob, *order)
    assert await rows(world, bob) == []


async def test_pending_names_the_devices_with_a_row_not_yet_given(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    carol = await world.device("carol", "carolsphone")
    await send(world, ann, bob, carol)
    await send(world, ann, bob)
    first, second = (row.id for row in await rows(world, bob))
    (of_carol,) = (row.id for row in await rows(world, carol))

    async def pending(*, bob_given: list[MailboxId], carol_given: list[MailboxId]) -> set[str]:
        async with world.units.snapshot() as unit:
            found = await unit.mailbox.pending({bob.number: bob_given, carol.number: carol_given, ann.number: []})
        return {device.caller.device for device in (ann, bob, carol) if device.number in found}

    assert await pending(bob_given=[], carol_given=[]) == {"bobsphone", "carolsphone"}
    assert await pending(bob_given=[second], carol_given=[of_carol]) == {"bobsphone"}  # the largest id is not enough
    assert await pending(bob_given=[first, second], carol_given=[]) == {"carolsphone"}
    assert await pending(bob_given=[first, second], carol_given=[of_carol]) == set()
