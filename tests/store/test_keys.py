"""Key uploads, queries and claims against a real PostgreSQL."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import nullcontext

import msgspec
import pytest
import trio

from chatty.crypto.signatures import verify_matrix_object
from chatty.errors import BadRequest, BadSignature, DeviceRevoked, KeyConflict, MessageIdConflict, QuotaExceeded
from chatty.ids import DeviceId, SendNumber, UserId
from chatty.wire.canonical import encode_base64
from chatty.wire.chain import device_list_digest
from chatty.wire.frames import OneTimeKeyCounts
from chatty.wire.keys import ClaimedKeys, DeviceKeys, KeyClaim, KeyQuery, KeyUpload
from tests.olm_devices import OlmDevice, as_keys
from tests.signed_in import SignedIn, World, open_world

_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
_NOT_LOCKED = "SELECT key_id FROM one_time_keys WHERE device_number = %s FOR UPDATE SKIP LOCKED"
NOBODY = UserId("@nobody:example.org")


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with open_world(database) as world:
        yield world


async def counts(world: World, device: SignedIn) -> OneTimeKeyCounts:
    async with world.units.snapshot() as unit:
        return await unit.keys.counts(device.number)


async def unclaimed_count(world: World, device: SignedIn) -> int:
    return (await counts(world, device)).counts["signed_curve25519"]


def claim_of(*devices: SignedIn) -> KeyClaim:
    wanted: dict[UserId, dict[DeviceId, str]] = {}
    for device in devices:
        wanted.setdefault(device.caller.user, {})[device.caller.device] = "signed_curve25519"
    return msgspec.convert({"one_time_keys": wanted}, KeyClaim)


def keys_of(claimed: ClaimedKeys, device: SignedIn) -> list[str]:
    return [*claimed.one_time_keys.get(device.caller.user, {}).get(device.caller.device, {})]


async def claim(world: World, claimer: SignedIn, *devices: SignedIn) -> ClaimedKeys:
    return await world.keys.claim(claimer.caller, claim_of(*devices), **claimer.n())


# Upload -------------------------------------------------------------------------------------------------------------


async def test_the_first_upload_puts_the_device_in_the_set(world: World) -> None:
    ann = await world.sign_in("ann", "annsphone")
    answer = await world.keys.upload(ann.caller, ann.olm.upload(one_time_keys_count=7, with_fallback=True))
    assert answer.one_time_key_counts == {"signed_curve25519": 7}
    assert answer.unused_fallback_key_types == ["signed_curve25519"]
    listed = (await world.keys.query(ann.caller, KeyQuery(device_keys={ann.caller.user: []}))).device_lists[
        ann.caller.user
    ]
    assert listed.list_version == 1
    expected = device_list_digest([("annsphone", ann.olm.curve25519, ann.olm.ed25519)])
    assert listed.list_digest == encode_base64(expected)
    assert ann.caller.user_number in world.doorbells.heard[0].users


async def test_the_same_upload_again_changes_nothing(world: World) -> None:
    ann = await world.sign_in("ann", "annsphone")
    upload = ann.olm.upload(one_time_keys_count=50, with_fallback=True)
    first = await world.keys.upload(ann.caller, upload)
    assert await world.keys.upload(ann.caller, upload) == first
    answer = await world.keys.query(ann.caller, KeyQuery(device_keys={ann.caller.user: []}))
    assert answer.device_lists[ann.caller.user].list_version == 1


async def test_other_keys_under_the_same_device_are_refused(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    impostor = OlmDevice(user=ann.caller.user, device=ann.caller.device)
    with pytest.raises(KeyConflict):
        await world.keys.upload(ann.caller, impostor.upload(one_time_keys_count=1))
    answer = await world.keys.query(ann.caller, KeyQuery(device_keys={ann.caller.user: []}))
    assert answer.device_keys[ann.caller.user][ann.caller.device].ed25519 == ann.olm.ed25519
    assert await unclaimed_count(world, ann) == 0


async def test_one_time_keys_need_device_keys_first(world: World) -> None:
    ann = await world.sign_in("ann", "annsphone")
    with pytest.raises(BadRequest, match="device_keys first"):
        await world.keys.upload(ann.caller, KeyUpload(one_time_keys=as_keys(ann.olm.one_time_keys(1))))


async def test_an_empty_upload_answers_the_counts(world: World) -> None:
    ann = await world.device("ann", "annsphone", one_time_keys_count=3)
    answer = await world.keys.upload(ann.caller, KeyUpload())
    assert (answer.one_time_key_counts, answer.unused_fallback_key_types) == ({"signed_curve25519": 3}, [])


async def test_later_keys_are_checked_against_the_published_device_key(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    forger = OlmDevice(user=ann.caller.user, device=ann.caller.device)
    with pytest.raises(BadSignature):
        await world.keys.upload(ann.caller, KeyUpload(one_time_keys=as_keys(forger.one_time_keys(1))))
    await world.keys.upload(ann.caller, KeyUpload(one_time_keys=as_keys(ann.olm.one_time_keys(1))))
    assert await unclaimed_count(world, ann) == 1


async def test_at_most_fifty_keys_wait_unclaimed(world: World) -> None:
    ann = await world.device("ann", "annsphone", one_time_keys_count=50)
    bob = await world.device("bob", "bobsphone")
    one_more = KeyUpload(one_time_keys=as_keys(ann.olm.one_time_keys(1)), fallback_keys=as_keys(ann.olm.fallback_key()))
    with pytest.raises(QuotaExceeded):
        await world.keys.upload(ann.caller, one_more)
    assert (await counts(world, ann)).unused_fallback_algorithms == []  # nothing of it was kept
    await claim(world, bob, ann)
    answer = await world.keys.upload(ann.caller, one_more)
    assert answer.one_time_key_counts == {"signed_curve25519": 50}


async def test_uploads_at_once_do_not_pass_the_bound_together(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    uploads = [KeyUpload(one_time_keys=as_keys(ann.olm.one_time_keys(20))) for _ in range(5)]
    refused = []

    async def upload(body: KeyUpload) -> None:
        try:
            await world.keys.upload(ann.caller, body)
        except QuotaExceeded as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for body in uploads:
            nursery.start_soon(upload, body)
    assert len(refused) == 3
    assert await unclaimed_count(world, ann) == 40


@pytest.mark.parametrize("is_claimed", [False, True])
async def test_a_key_id_keeps_its_value_for_ever(world: World, is_claimed: bool) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    keys = ann.olm.one_time_keys(1)
    await world.keys.upload(ann.caller, KeyUpload(one_time_keys=as_keys(keys)))
    if is_claimed:
        assert keys_of(await claim(world, bob, ann), ann) == [*keys]
    before = await counts(world, ann)

    await world.keys.upload(ann.caller, KeyUpload(one_time_keys=as_keys(keys)))
    assert await counts(world, ann) == before  # a claimed key does not come back
    other = dict(zip(keys, ann.olm.one_time_keys(1).values(), strict=True))
    with pytest.raises(KeyConflict):
        await world.keys.upload(ann.caller, KeyUpload(one_time_keys=as_keys({**ann.olm.one_time_keys(1), **other})))
    assert await counts(world, ann) == before


async def test_a_claimed_key_is_gone_from_the_table(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone", one_time_keys_count=1), await world.device("bob", "bobsphone")
    await claim(world, bob, ann)
    assert await world.value("SELECT count(*) FROM one_time_keys WHERE key_json IS NOT NULL") == 0
    assert await world.value("SELECT count(*) FROM one_time_keys") == 1


async def test_a_revoked_device_uploads_nothing(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    await world.revoke(ann)
    for body in (ann.olm.upload(), KeyUpload(one_time_keys=as_keys(ann.olm.one_time_keys(1)))):
        with pytest.raises(DeviceRevoked):
            await world.keys.upload(ann.caller, body)


async def test_a_new_fallback_key_replaces_the_old_and_is_unused(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone", with_fallback=True), await world.device("bob", "bobsphone")
    (old,) = keys_of(await claim(world, bob, ann), ann)
    assert (await counts(world, ann)).unused_fallback_algorithms == []
    new = ann.olm.fallback_key()
    await world.keys.upload(ann.caller, KeyUpload(fallback_keys=as_keys(new)))
    assert (await counts(world, ann)).unused_fallback_algorithms == ["signed_curve25519"]
    assert keys_of(await claim(world, bob, ann), ann) == [*new] != [old]


async def test_the_same_fallback_key_again_stays_used(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    upload = KeyUpload(fallback_keys=as_keys(ann.olm.fallback_key()))
    await world.keys.upload(ann.caller, upload)
    await claim(world, bob, ann)
    assert (await world.keys.upload(ann.caller, upload)).unused_fallback_key_types == []


# Query --------------------------------------------------------------------------------------------------------------


async def test_a_query_answers_keys_that_verify(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    answer = await world.keys.query(ann.caller, KeyQuery(device_keys={ann.caller.user: [], NOBODY: []}))
    keys = answer.device_keys[ann.caller.user][ann.caller.device]
    assert keys == msgspec.convert(ann.olm.device_keys(), DeviceKeys)
    verify_matrix_object(
        msgspec.to_builtins(keys), user=ann.caller.user, key_id="ed25519:annsphone", public_key=ann.olm.ed25519
    )
    assert [*answer.device_keys] == [*answer.device_lists] == [ann.caller.user]


async def test_a_query_may_name_devices(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    await world.device("ann", "annslaptop")
    named = KeyQuery(device_keys={ann.caller.user: [ann.caller.device, DeviceId("unknown1")]})
    assert [*(await world.keys.query(ann.caller, named)).device_keys[ann.caller.user]] == ["annsphone"]


async def test_removed_devices_are_named_with_their_signing_keys(world: World) -> None:
    ann = await world.device("ann", "annsphone")
    await world.sign_in("ann", "annstablet")  # never uploaded: in neither list
    await world.revoke(ann)
    answer = await world.keys.query(ann.caller, KeyQuery(device_keys={ann.caller.user: []}))
    assert answer.device_keys[ann.caller.user] == {}
    assert answer.device_lists[ann.caller.user].removed == {"annsphone": ann.olm.ed25519}


async def test_list_and_devices_are_of_one_moment(world: World) -> None:
    ann = await world.device("ann", "annsphone-0")
    query, done = KeyQuery(device_keys={ann.caller.user: []}), trio.Event()

    async def add_devices() -> None:
        for i in range(1, 15):
            await world.device("ann", f"annsphone-{i}")
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add_devices)
        while not done.is_set():
            answer = await world.keys.query(ann.caller, query)
            devices = answer.device_keys[ann.caller.user].values()
            digest = device_list_digest([(keys.device_id, keys.curve25519, keys.ed25519) for keys in devices])
            assert answer.device_lists[ann.caller.user].list_digest == encode_base64(digest)
            assert answer.device_lists[ann.caller.user].list_version == len(devices)


# Claim --------------------------------------------------------------------------------------------------------------


async def test_keys_are_handed_out_oldest_first_and_the_fallback_key_at_the_end(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone", with_fallback=True), await world.device("bob", "bobsphone")
    uploaded: list[str] = []
    for _ in range(3):
        keys = ann.olm.one_time_keys(2)
        uploaded += keys
        await world.keys.upload(ann.caller, KeyUpload(one_time_keys=as_keys(keys)))
    claimed = [await claim(world, bob, ann) for _ in range(8)]
    ids = [key_id for one in claimed for key_id in keys_of(one, ann)]
    assert ids[:6] == uploaded
    assert ids[6] == ids[7]
    is_fallback = [
        key.fallback for one in claimed for key in one.one_time_keys[ann.caller.user][ann.caller.device].values()
    ]
    assert is_fallback == [False] * 6 + [True] * 2


async def test_devices_without_a_key_are_left_out(world: World) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    gone = await world.device("ann", "annsoldphone", one_time_keys_count=1, with_fallback=True)
    new = await world.sign_in("ann", "annstablet")
    await world.revoke(gone)
    assert (await claim(world, bob, ann, gone, new)).one_time_keys == {}


async def test_a_device_is_found_under_its_own_user_only(world: World) -> None:
    ann = await world.device("ann", "annsphone", one_time_keys_count=1)
    bob = await world.device("bob", "bobsphone")
    of_another = KeyClaim(one_time_keys={bob.caller.user: {ann.caller.device: "signed_curve25519"}})
    assert (await world.keys.claim(bob.caller, of_another, **bob.n())).one_time_keys == {}
    assert await unclaimed_count(world, ann) == 1


async def test_a_resend_gets_the_same_keys(world: World) -> None:
    ann = await world.device("ann", "annsphone", one_time_keys_count=2)
    bob = await world.device("bob", "bobsphone")
    number = bob.n()
    first = await world.keys.claim(bob.caller, claim_of(ann), **number)
    assert await world.keys.claim(bob.caller, claim_of(ann), **number) == first
    assert await unclaimed_count(world, ann) == 1
    with pytest.raises(MessageIdConflict):
        await world.keys.claim(bob.caller, claim_of(ann, bob), **number)


async def test_resends_at_once_claim_one_key(world: World) -> None:
    ann = await world.device("ann", "annsphone", one_time_keys_count=10)
    bob = await world.device("bob", "bobsphone")
    number, claimed = bob.n(), []

    async def resend() -> None:
        claimed.extend(keys_of(await world.keys.claim(bob.caller, claim_of(ann), **number), ann))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(resend)
    assert len(claimed) == 10
    assert len(set(claimed)) == 1
    assert await unclaimed_count(world, ann) == 9


async def test_claimers_at_once_get_every_key_once_and_the_fallback_only_then(world: World) -> None:
    ann = await world.device("ann", "annsphone", one_time_keys_count=50, with_fallback=True)
    claimers = [await world.device(f"user{i}", f"phone-of-user-{i}") for i in range(20)]
    claimed: Counter[tuple[str, bool]] = Counter()

    async def claim_three(claimer: SignedIn) -> None:
        for _ in range(3):
            answer = await claim(world, claimer, ann)
            for key_id, key in answer.one_time_keys[ann.caller.user][ann.caller.device].items():
                claimed[key_id, key.fallback] += 1

    async with trio.open_nursery() as nursery:
        for claimer in claimers:
            nursery.start_soon(claim_three, claimer)
    one_time = {key_id: times for (key_id, is_fallback), times in claimed.items() if not is_fallback}
    assert len(one_time) == 50
    assert set(one_time.values()) == {1}
    assert sum(times for (_, is_fallback), times in claimed.items() if is_fallback) == 10


class RolledBackError(Exception):
    """The first claimer fails before its commit."""


@pytest.mark.parametrize("is_rolled_back", [False, True])
async def test_the_last_key_is_waited_for_while_another_claims_it(world: World, is_rolled_back: bool) -> None:
    ann = await world.device("ann", "annsphone", one_time_keys_count=1, with_fallback=True)
    bob = await world.device("bob", "bobsphone")
    got_fallback: list[bool] = []

    async def claim_second() -> None:
        answer = await claim(world, bob, ann)
        got_fallback.extend(key.fallback for key in answer.one_time_keys[ann.caller.user][ann.caller.device].values())

    async def claim_first(nursery: trio.Nursery) -> None:
        async with world.units.begin() as unit:
            await unit.keys.claim([ann.number])
            nursery.start_soon(claim_second)
            while not await world.value(_WAITING):
                pass
            if is_rolled_back:
                raise RolledBackError

    async with trio.open_nursery() as nursery:
        with pytest.raises(RolledBackError) if is_rolled_back else nullcontext():
            await claim_first(nursery)
    assert got_fallback == [not is_rolled_back]


async def test_keys_are_locked_in_the_order_of_the_devices_however_they_are_named(world: World) -> None:
    first = await world.device("ann", "annsphone", one_time_keys_count=1)
    second = await world.device("ann", "annslaptop", one_time_keys_count=1)

    async def claim_both() -> None:
        async with world.units.begin() as unit:
            await unit.keys.claim([second.number, first.number])

    async with trio.open_nursery() as nursery, world.units.begin() as unit:
        await unit.keys.claim([second.number])
        nursery.start_soon(claim_both)
        while not await world.value(_WAITING):
            pass
        assert await world.value(_NOT_LOCKED, first.number) is None  # taken before it began to wait


async def test_claims_of_many_devices_in_any_order_do_not_block_each_other_for_good(world: World) -> None:
    devices = [await world.device("ann", f"annsphone-{i}", one_time_keys_count=5, with_fallback=True) for i in range(6)]
    claimers = [await world.device(f"user{i}", f"phone-of-user-{i}") for i in range(10)]
    one_time: list[str] = []

    async def claim_all(i: int, claimer: SignedIn) -> None:
        order = devices if i % 2 else devices[::-1]
        answer = await claim(world, claimer, *order)
        for device, keys in answer.one_time_keys[UserId("@ann:example.org")].items():
            one_time.extend(f"{device} {key_id}" for key_id, key in keys.items() if not key.fallback)

    async with trio.open_nursery() as nursery:
        for i, claimer in enumerate(claimers):
            nursery.start_soon(claim_all, i, claimer)
    assert len(one_time) == len(set(one_time)) == 30


async def test_a_device_whose_keys_run_low_is_rung_for(world: World) -> None:
    ann = await world.device("ann", "annsphone", one_time_keys_count=26)
    bob = await world.device("bob", "bobsphone")
    world.doorbells.devices()
    await claim(world, bob, ann)
    assert world.doorbells.devices() == set()  # 25 are left
    await claim(world, bob, ann)
    assert world.doorbells.devices() == {ann.number}


async def test_a_claim_names_at_most_500_devices(world: World) -> None:
    bob = await world.device("bob", "bobsphone")
    wanted = {
        UserId(f"@user{i}:example.org"): {DeviceId(f"device-{i}-{j}"): "signed_curve25519" for j in range(2)}
        for i in range(251)
    }
    with pytest.raises(BadRequest):
        await world.keys.claim(
            bob.caller, msgspec.convert({"one_time_keys": wanted}, KeyClaim), n=SendNumber(1), low=SendNumber(1)
        )
