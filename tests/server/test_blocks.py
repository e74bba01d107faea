"""Blocks: what is kept out, what still comes through, and what the blocked one can see of it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chatty.ids import UserId
from chatty.wire.events import Policy
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.wire_people import HttpRefused, WireDevice


@pytest.fixture
async def chat(database: str, tmp_path: Path) -> AsyncIterator[RunningApp]:
    async with open_chat(database, tmp_path, quota_blocks="2") as running:
        yield running


async def block(blocker: WireDevice, blocked: WireDevice) -> None:
    assert (await blocker.answer("PUT", f"/v1/blocks/{blocked.user}")).json() == {}


async def blocked_by(device: WireDevice) -> list[str]:
    users: list[str] = (await device.get("/v1/blocks"))["users"]
    return users


async def kinds_of_stream(device: WireDevice) -> list[str]:
    return [event["kind"] for event in (await device.get("/v1/stream"))["events"]]


async def mailbox_rows(chat: RunningApp, device: WireDevice) -> list[tuple[Any, ...]]:
    sql = "SELECT n FROM mailbox JOIN devices USING (device_number) WHERE device_id = %s ORDER BY mailbox_id"
    return await chat.rows(sql, device.device)


async def problem_of(device: WireDevice, creation: dict[str, Any]) -> dict[str, Any]:
    with pytest.raises(HttpRefused) as refused:
        await device.post("/v1/rooms", **creation)
    return {name: value for name, value in refused.value.problem.items() if name != "request_id"}


async def test_blocks_are_listed_and_taken_back(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    assert await blocked_by(ann) == []
    await block(ann, cid)
    await block(ann, bob)
    await block(ann, bob)
    assert await blocked_by(ann) == [bob.user, cid.user]
    assert await blocked_by(bob) == []
    for _ in range(2):
        assert (await ann.answer("DELETE", f"/v1/blocks/{bob.user}")).status_code == 200
    assert await blocked_by(ann) == [cid.user]


async def test_a_block_is_for_the_account_and_not_in_the_audit_log(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    before = await chat.rows("SELECT count(*) FROM audit")
    await block(ann, bob)
    await ann.answer("DELETE", f"/v1/blocks/{bob.user}")
    assert await chat.rows("SELECT count(*) FROM audit") == before


async def test_nobody_blocks_himself_or_nobody(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    answers = {
        "bad_request": await ann.answer("PUT", f"/v1/blocks/{ann.user}"),
        "not_found": await ann.answer("PUT", "/v1/blocks/@nobody:localhost"),
    }
    assert {code: answer.json()["code"] for code, answer in answers.items()} == {code: code for code in answers}
    assert (await ann.answer("DELETE", "/v1/blocks/@nobody:localhost")).json()["code"] == "not_found"
    assert (await ann.answer("PUT", "/v1/blocks/nobody")).json()["code"] == "bad_request"
    assert await chat.rows("SELECT * FROM blocks") == []


async def test_no_more_can_be_blocked_than_the_quota_says(chat: RunningApp) -> None:
    ann, bob, cid, dan = await chat.sign_up_all("ann", "bob", "cid", "dan")
    await block(ann, bob)
    await block(ann, cid)
    await block(ann, bob)  # again, at the bound
    answer = (await ann.answer("PUT", f"/v1/blocks/{dan.user}")).json()
    assert (answer["code"], answer["quota"], answer["count_max"]) == ("quota_exceeded", "blocks", 2)


async def test_an_invitation_of_a_blocked_user_is_answered_and_not_delivered(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await bob.create_room()
    await block(ann, bob)
    for target in (ann, cid):
        invitation = await room.invitation(bob, target)
        answer = await bob.post(f"/v1/rooms/{room.id}/invitations", invitation, n=invitation.signed.n)
        assert answer == {}
    assert "invitation" in await kinds_of_stream(cid)
    assert "invitation" not in await kinds_of_stream(ann)
    await ann.answer("DELETE", f"/v1/blocks/{bob.user}")
    await room.invite(bob, ann)
    assert (await kinds_of_stream(ann)).count("invitation") == 1


async def test_an_invitation_that_is_wrong_is_refused_whether_one_is_blocked_or_not(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await bob.create_room()
    await block(ann, bob)
    codes = []
    for target in (ann, cid):
        invitation = await room.invitation(bob, replace(target, identity_key=bob.identity_key))
        with pytest.raises(HttpRefused) as refused:
            await bob.post(f"/v1/rooms/{room.id}/invitations", invitation, n=invitation.signed.n)
        codes.append(refused.value.code)
    assert codes == ["bad_signature", "bad_signature"]


async def test_a_direct_room_with_who_has_blocked_me_is_refused_as_with_nobody(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    nobody = replace(ann, olm=replace(ann.olm, user=UserId("@nobody:localhost")))
    policy = Policy(history="joined")
    expected = await problem_of(bob, bob.creation(policy, other=nobody))
    await block(ann, bob)
    assert await problem_of(bob, bob.creation(policy, other=ann)) == expected
    assert expected["code"] == "not_found"
    assert await chat.rows("SELECT rooms_created_count FROM users WHERE user_id = %s", bob.user) == [(0,)]
    await ann.create_direct(bob)  # who blocks may begin


async def test_the_direct_room_that_was_there_before_is_found_again(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_direct(bob)
    await block(ann, bob)
    assert (await bob.create_direct(ann)).id == room.id


async def test_to_device_messages_from_outside_shared_rooms_are_dropped_in_silence(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    await block(ann, bob)
    assert await bob.send_to_devices(ann, cid) == {"unknown": {}}
    assert await mailbox_rows(chat, ann) == []
    assert len(await mailbox_rows(chat, cid)) == 1
    await ann.send_to_devices(bob)
    assert len(await mailbox_rows(chat, bob)) == 1


@pytest.mark.parametrize("who_leaves", ["ann", "bob"])
async def test_in_a_shared_room_keys_still_come_through(chat: RunningApp, who_leaves: str) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await cid.create_room(ann, bob)
    await block(ann, bob)
    await bob.send_to_devices(ann)
    assert len(await mailbox_rows(chat, ann)) == 1
    await room.leave({"ann": ann, "bob": bob}[who_leaves])
    await bob.send_to_devices(ann)
    assert len(await mailbox_rows(chat, ann)) == 1


async def test_a_dropped_message_that_is_sent_again_gets_the_same_answer(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    await block(ann, bob)
    body = {"type": "m.room.encrypted", "messages": {ann.user: {ann.device: bob.olm_content(ann)}}}
    n = bob.take_n()
    assert await bob.post("/v1/to-device", body, n=n) == {"unknown": {}}
    await ann.answer("DELETE", f"/v1/blocks/{bob.user}")
    assert await bob.post("/v1/to-device", body, n=n) == {"unknown": {}}
    assert await mailbox_rows(chat, ann) == []


async def test_what_lay_in_the_mailbox_before_the_block_stays(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    await bob.send_to_devices(ann)
    await block(ann, bob)
    assert len(await mailbox_rows(chat, ann)) == 1
