"""Rooms over HTTP: creation, membership, policy, and what a stranger learns of them."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from chatty.ids import Seq
from chatty.wire import chain
from chatty.wire.chain import device_list_digest
from chatty.wire.events import (
    Action,
    CreateContent,
    MemberChange,
    Policy,
    RoomRole,
    SignedInvitation,
    TimelineEvent,
)
from chatty.wire.frames import RoomEntry, UserEvent
from chatty.wire.limits import send_window
from chatty.wire.signing import body_bytes
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.wire_client import Refused, changed, ciphertext, open_live_socket
from tests.server.wire_people import HttpRefused, WireDevice, WireRoom, fold_chain, sign_in

ABSENT = "!" + "A" * 43


async def names(reader: WireDevice, room: WireRoom) -> list[str]:
    members = await reader.get(f"/v1/rooms/{room.id}/members")
    return [member["user"].split(":")[0][1:] for member in members["members"]]


async def stream_kinds(device: WireDevice) -> list[str]:
    return [event["kind"] for event in (await device.get("/v1/stream"))["events"]]


# Creation -----------------------------------------------------------------------------------------------------------


async def test_a_room_begins_with_its_creation_and_its_creators_join(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    entries = await ann.all_history(room.id)
    events = [entry for entry in entries if isinstance(entry, TimelineEvent)]
    assert [(event.seq, event.kind.value, event.target) for event in events] == [
        (1, "create", ""),
        (2, "member", ann.user),
    ]
    [summary] = (await ann.get("/v1/rooms"))["rooms"]
    assert (summary["room"], summary["seq"], summary["epoch"], summary["role"]) == (room.id, 2, 2, "owner")


async def test_the_same_creation_again_gives_the_same_room(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    creation = ann.creation(Policy())
    first = await ann.answer("POST", "/v1/rooms", **creation)
    again = await ann.answer("POST", "/v1/rooms", **creation)
    assert (first.status_code, again.json()) == (201, first.json())
    assert len((await ann.get("/v1/rooms"))["rooms"]) == 1


async def test_two_who_start_their_conversation_at_once_get_one_room(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    made: list[WireRoom] = []

    async def start(one: WireDevice, other: WireDevice) -> None:
        made.append(await one.create_direct(other))

    async with trio.open_nursery() as nursery:
        for one, other in ((ann, bob), (bob, ann)) * 2:
            nursery.start_soon(start, one, other)
    [anns] = {room.id: room for room in made}.values()
    assert await names(ann, anns) == ["ann", "bob"]
    again = await ann.post("/v1/rooms", **ann.creation(Policy(), other=bob))
    assert (again["room"], again["is_new"]) == (anns.id, False)


async def test_a_direct_room_takes_nobody_else_in(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_direct(bob)
    with pytest.raises(HttpRefused, match="invitation_void"):
        await room.invite(ann, cid)
    with pytest.raises(HttpRefused, match="forbidden"):
        await room.change(ann, Action.ADD, cid)
    with pytest.raises(HttpRefused, match="forbidden"):
        await room.set_policy(ann, Policy(invite=RoomRole.MEMBER))
    assert await names(ann, room) == ["ann", "bob"]


async def test_a_direct_room_with_nobody_is_not_made(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    creation = ann.creation(Policy(), other=bob)
    text = msgspec.json.encode(creation["body"]).replace(b"@bob:", b"@nobody:")
    with pytest.raises(HttpRefused) as refused:
        await ann.post("/v1/rooms", text, n=creation["n"])
    assert refused.value.status in (400, 404)
    assert (await ann.get("/v1/rooms"))["rooms"] == []


async def test_the_changes_of_a_creation_have_growing_n_within_the_window(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")

    def creation(join_n: int) -> dict[str, Any]:
        usual = ann.creation(Policy())
        signed = msgspec.convert(usual["body"]["members"][0]["signed"] | {"n": join_n}, MemberChange)
        return {"body": usual["body"] | {"members": [ann.signed(signed)]}, "n": usual["n"]}

    ann.settle(ann.take_n())
    for ahead, status in ((-1, 400), (0, 400), (send_window, 400), (send_window - 1, 201)):
        n = ann.last_n + 1
        assert (await ann.answer("POST", "/v1/rooms", **creation(n + ahead))).status_code == status, ahead
        ann.settle(n)


async def test_nobody_makes_a_direct_room_of_two_others(chat: RunningApp) -> None:
    ann, bob, eve = await chat.sign_up_all("ann", "bob", "eve")
    usual = eve.creation(Policy(), other=bob)
    create = msgspec.convert(usual["body"]["create"]["signed"] | {"direct": [ann.user, bob.user]}, CreateContent)
    room = chain.room_id(body_bytes(create))
    start = (Seq(0), chain.empty_head(room))
    members = [eve.signed(eve.change(room, *who, start)) for who in ((Action.JOIN, eve), (Action.ADD, bob))]
    with pytest.raises(HttpRefused, match="bad_request"):
        await eve.post("/v1/rooms", {"create": eve.signed(create), "members": members}, n=usual["n"])
    assert (await bob.get("/v1/rooms"))["rooms"] == []


# Joining and leaving ------------------------------------------------------------------------------------------------


async def test_the_invited_is_told_joins_and_reads_from_then_on(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room()
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
        hidden = await anns.send(room.id, ciphertext(), epoch=room.epoch)
        invitation = await room.invite(ann, bob)
        told = await bobs.event(UserEvent)
        while told.kind != "invitation":
            told = await bobs.event(UserEvent)
        assert told.content["invitation"] == msgspec.to_builtins(invitation)
        await room.change(bob, Action.JOIN, bob, invitation=invitation)
        shown = await anns.send(room.id, ciphertext(), epoch=room.epoch)
        [first] = await bobs.messages(1)
        assert first.seq == shown.seq > hidden.seq
    assert (await stream_kinds(bob))[-2:] == ["invitation", "room_joined"]


async def test_a_join_names_the_device_list_as_it_is(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    await sign_in(bob)
    room = await ann.create_room(bob)
    lists = (await ann.post("/v1/keys/query", {"device_keys": {bob.user: []}}))["device_lists"][bob.user]
    [joined] = [one for one in (await ann.get(f"/v1/rooms/{room.id}/members"))["members"] if one["user"] == bob.user]
    assert (joined["list_version"], joined["list_digest"]) == (lists["list_version"], lists["list_digest"])
    assert lists["list_version"] == 2
    assert device_list_digest([]) != lists["list_digest"]


async def test_without_an_invitation_nobody_joins(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room()
    with pytest.raises(HttpRefused, match="not_found"):  # a stranger learns nothing
        await room.change(bob, Action.JOIN, bob)


async def test_an_invitation_counts_for_its_target_and_room_alone(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room, other = await ann.create_room(), await ann.create_room()
    for_bob = await room.invitation(ann, bob)
    with pytest.raises(HttpRefused, match="invitation_void"):
        await room.change(cid, Action.JOIN, cid, invitation=for_bob)
    with pytest.raises(HttpRefused, match="not_found"):  # of this one he was told nothing
        await other.change(bob, Action.JOIN, bob, invitation=for_bob)
    assert await names(ann, room) == await names(ann, other) == ["ann"]


async def test_a_member_may_invite_only_where_the_policy_says_so(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob)
    with pytest.raises(HttpRefused, match="invitation_void"):
        await room.invite(bob, cid)
    await room.set_policy(ann, Policy(invite=RoomRole.MEMBER))
    await room.join(cid, invited_by=bob)
    assert await names(ann, room) == ["ann", "bob", "cid"]


async def test_an_invitation_by_one_who_lost_the_right_is_void(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob)
    await room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
    invitation = await room.invite(bob, cid)
    await room.change(ann, Action.ROLE, bob, role=RoomRole.MEMBER)
    with pytest.raises(HttpRefused, match="invitation_void"):
        await room.change(cid, Action.JOIN, cid, invitation=invitation)


async def test_one_who_was_kicked_cannot_come_back_with_the_old_invitation(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room()
    old = await room.invite(ann, bob)
    await room.change(bob, Action.JOIN, bob, invitation=old)
    await room.kick(ann, bob)
    with pytest.raises(HttpRefused, match="invitation_void"):
        await room.change(bob, Action.JOIN, bob, invitation=old)
    await room.join(bob, invited_by=ann)
    assert await names(ann, room) == ["ann", "bob"]


async def test_a_banned_user_stays_out_until_the_ban_is_lifted(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await room.change(ann, Action.BAN, bob)
    assert await names(ann, room) == ["ann"]
    with pytest.raises(HttpRefused, match="banned"):
        await room.join(bob, invited_by=ann)
    await room.change(ann, Action.UNBAN, bob)
    await room.join(bob, invited_by=ann)
    assert await names(ann, room) == ["ann", "bob"]


async def test_the_last_owner_stays_while_others_do(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    with pytest.raises(HttpRefused, match="last_owner"):
        await room.leave(ann)
    await room.leave(bob)
    await room.leave(ann)
    assert (await ann.get("/v1/rooms"))["rooms"] == []


async def test_a_room_is_handed_over_at_one_stroke(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob)
    for by, target, code in ((bob, ann, "forbidden"), (ann, cid, "not_a_member"), (ann, ann, "forbidden")):
        with pytest.raises(HttpRefused, match=code):
            await room.change(by, Action.TRANSFER, target)
    before = room.epoch
    committed = await room.change(ann, Action.TRANSFER, bob)
    roles = {one["user"]: one["role"] for one in (await ann.get(f"/v1/rooms/{room.id}/members"))["members"]}
    assert (roles, committed.epoch) == ({ann.user: "admin", bob.user: "owner"}, before)
    with pytest.raises(HttpRefused, match="last_owner"):
        await room.leave(bob)
    await room.leave(ann)


async def test_a_room_is_not_handed_over_to_a_locked_account(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await chat.execute("UPDATE users SET is_locked = true WHERE user_id = %s", bob.user)
    with pytest.raises(HttpRefused, match="not_found"):
        await room.change(ann, Action.TRANSFER, bob)
    await room.kick(ann, bob)


async def test_a_room_is_handed_over_once_however_often_at_once(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    found: list[str] = []

    async def hand_over(target: WireDevice) -> None:
        try:
            await room.change(ann, Action.TRANSFER, target)
            found.append("done")
        except HttpRefused as refused:
            found.append(refused.code)

    async with trio.open_nursery() as nursery:
        for one in (bob, cid):
            nursery.start_soon(hand_over, one)
    assert sorted(found) == ["done", "forbidden"]
    members = (await ann.get(f"/v1/rooms/{room.id}/members"))["members"]
    assert sorted(one["role"] for one in members) == ["admin", "member", "owner"]


async def test_only_a_superior_kicks(chat: RunningApp) -> None:
    ann, bob, cid, dan = await chat.sign_up_all("ann", "bob", "cid", "dan")
    room = await ann.create_room(bob, cid, dan)
    await room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
    await room.change(ann, Action.ROLE, cid, role=RoomRole.ADMIN)
    for by, target in ((dan, bob), (bob, cid), (bob, ann)):
        with pytest.raises(HttpRefused, match="forbidden"):
            await room.kick(by, target)
    await room.kick(bob, dan)
    assert await names(ann, room) == ["ann", "bob", "cid"]


async def test_a_role_is_the_owners_to_give_and_changes_no_epoch(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    before = room.epoch
    with pytest.raises(HttpRefused, match="forbidden"):
        await room.change(bob, Action.ROLE, cid, role=RoomRole.ADMIN)
    await room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
    assert room.epoch == before
    roles = {one["user"]: one["role"] for one in (await ann.get(f"/v1/rooms/{room.id}/members"))["members"]}
    assert roles == {ann.user: "owner", bob.user: "admin", cid.user: "member"}


async def test_who_was_removed_gets_the_removal_and_nothing_after_it(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
        removed = await room.kick(ann, bob)
        await anns.send(room.id, ciphertext(), epoch=room.epoch)
        await anns.messages(1)
        event = await bobs.event(TimelineEvent)
        while event.seq < removed.seq:
            event = await bobs.event(TimelineEvent)
        assert (event.seq, event.target) == (removed.seq, bob.user)
        assert not [event for event in await bobs.settle() if isinstance(event, TimelineEvent)]
        with pytest.raises(Refused, match="not_a_member"):
            await bobs.send(room.id, ciphertext(), epoch=room.epoch)


async def test_the_members_of_a_room_are_for_its_members(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await room.leave(bob)
    with pytest.raises(HttpRefused, match="not_found"):
        await names(bob, room)


# Limits -------------------------------------------------------------------------------------------------------------


async def test_a_room_has_no_more_members_than_the_limit(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, quota_room_members="2") as chat:
        ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
        room = await ann.create_room(bob)
        invitation = await room.invite(ann, cid)
        position = await ann.position(room.id)
        join = cid.change(room.id, Action.JOIN, cid, position, invitation=invitation)
        with pytest.raises(HttpRefused) as refused:
            await room.post_change(cid, join)
        assert refused.value.code == "quota_exceeded"
        assert (refused.value.problem["quota"], refused.value.problem["count_max"]) == ("room_members", 2)
        await room.leave(bob)
        await room.post_change(cid, join)  # the very same request: nothing of it was kept
        assert await names(ann, room) == ["ann", "cid"]


async def test_the_limit_of_members_holds_when_many_join_at_once(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, quota_room_members="4") as chat:
        ann, *others = await chat.sign_up_all("ann", "bob", "cid", "dan", "eve", "fay", "gus")
        room = await ann.create_room()
        invitations = [await room.invite(ann, other) for other in others]
        outcomes: list[str] = []

        async def join(device: WireDevice, invitation: SignedInvitation) -> None:
            try:
                await room.change(device, Action.JOIN, device, invitation=invitation)
                outcomes.append("joined")
            except HttpRefused as refused:
                outcomes.append(refused.code)

        async with trio.open_nursery() as nursery:
            for device, invitation in zip(others, invitations, strict=True):
                nursery.start_soon(join, device, invitation)
        assert sorted(outcomes) == ["joined"] * 3 + ["quota_exceeded"] * 3
        assert len(await names(ann, room)) == 4
        fold_chain(room.id, await ann.all_history(room.id))


async def test_rooms_are_listed_in_pages(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    made = sorted([(await ann.create_room()).id for _ in range(3)])
    first = await ann.get("/v1/rooms?limit=2")
    assert [room["room"] for room in first["rooms"]] == made[:2]
    rest = await ann.get(f"/v1/rooms?limit=2&after={first['next_after']}")
    assert [room["room"] for room in rest["rooms"]] == made[2:]
    assert "next_after" not in rest
    for limit in ("0", "501", "x", "1.0"):
        assert (await ann.answer("GET", f"/v1/rooms?limit={limit}")).json()["code"] == "bad_request"


# Strangers ----------------------------------------------------------------------------------------------------------


async def test_a_strangers_room_looks_like_one_that_is_not_there(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    room = await ann.create_room()

    async def answers(room_id: str) -> list[tuple[int, str, str]]:
        kick = eve.change(room.id, Action.KICK, ann, await ann.position(room.id))
        change = msgspec.structs.replace(kick, room=room_id)
        found = [
            await eve.answer("GET", f"/v1/rooms/{room_id}/events"),
            await eve.answer("GET", f"/v1/rooms/{room_id}/members"),
            await eve.answer("GET", f"/v1/rooms/{room_id}/checkpoint"),
            await eve.answer("POST", f"/v1/rooms/{room_id}/members", eve.signed(change), n=change.n),
        ]
        return [(one.status_code, one.json()["code"], one.json()["detail"]) for one in found]

    assert await answers(room.id) == await answers(ABSENT)
    assert {code for _, code, _ in await answers(ABSENT)} == {"not_found"}


# Finality and idempotence -------------------------------------------------------------------------------------------


async def test_the_same_change_again_gives_the_same_answer_and_no_second_event(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    kick = ann.change(room.id, Action.KICK, bob, await ann.position(room.id))
    first = await room.post_change(ann, kick)
    ann.unsettled.add(kick.n)
    assert await room.post_change(ann, kick) == first
    assert (await ann.position(room.id))[0] == first.seq


async def test_a_change_sent_again_by_who_is_outside_by_now_gives_the_same_answer(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob)
    await room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
    invitation, policy = await room.invitation(bob, cid), await room.policy_change(bob, Policy())
    requests: list[tuple[str, object, int]] = [
        ("invitations", invitation, invitation.signed.n),
        ("policy", bob.signed(policy), policy.n),
    ]
    leave = bob.change(room.id, Action.LEAVE, bob, await bob.position(room.id))
    requests.append(("members", bob.signed(leave), leave.n))
    answers = [await bob.answer("POST", f"/v1/rooms/{room.id}/{path}", body, n=n) for path, body, n in requests]
    again = [await bob.answer("POST", f"/v1/rooms/{room.id}/{path}", body, n=n) for path, body, n in requests]
    assert [one.status_code for one in answers] == [200, 200, 200]
    assert [one.json() for one in again] == [one.json() for one in answers]
    n = bob.take_n()
    refused = await bob.answer("POST", f"/v1/rooms/{room.id}/members", bob.signed(changed(leave, n=n)), n=n)
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert (await bob.get("/v1/device"))["highest_n"] == leave.n


async def test_a_refused_change_stays_refused_when_it_would_be_right_by_now(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    kick = bob.change(room.id, Action.KICK, cid, await bob.position(room.id))
    policy_change = await room.policy_change(bob, Policy(invite=RoomRole.MEMBER))
    invitation = await room.invitation(bob, await chat.sign_up("dan"))
    requests = [
        ("members", bob.signed(kick), kick.n, "forbidden"),
        ("policy", bob.signed(policy_change), policy_change.n, "forbidden"),
        ("invitations", msgspec.to_builtins(invitation), invitation.signed.n, "invitation_void"),
    ]
    for _ in range(2):
        for path, body, n, code in requests:
            with pytest.raises(HttpRefused, match=code):
                await bob.post(f"/v1/rooms/{room.id}/{path}", body, n=n)
        await room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
    assert await names(ann, room) == ["ann", "bob", "cid"]


async def test_another_change_under_a_used_number_is_a_conflict(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    position = await ann.position(room.id)
    kick = ann.change(room.id, Action.KICK, bob, position)
    await room.post_change(ann, kick)
    ann.unsettled.add(kick.n)
    with pytest.raises(HttpRefused, match="message_id_conflict"):
        await room.post_change(ann, msgspec.structs.replace(kick, target=cid.user, target_identity=cid.identity_key))
    assert await names(ann, room) == ["ann", "cid"]


# The chain ----------------------------------------------------------------------------------------------------------


async def test_every_member_computes_the_head_that_the_server_signs(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room()
    async with open_live_socket(ann) as anns:
        await anns.send_all(room.id, [ciphertext() for _ in range(5)], epoch=room.epoch)
    await room.join(bob, invited_by=ann)
    position = fold_chain(room.id, await ann.all_history(room.id))
    assert fold_chain(room.id, await bob.all_history(room.id)) == position
    signed = await ann.get(f"/v1/rooms/{room.id}/checkpoint")
    assert signed["seq"] == position[0]
    assert msgspec.json.decode(msgspec.json.encode(signed["head"]), type=bytes) == position[1]


async def test_each_state_event_names_the_one_before_it(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as anns:
        await anns.send(room.id, ciphertext(), epoch=room.epoch)
        await room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
        await anns.send(room.id, ciphertext(), epoch=room.epoch)
        await room.set_policy(bob, Policy(invite=RoomRole.OWNER))
        await sign_in(bob)
        while (event := await anns.event(TimelineEvent)).kind.value != "devices":
            pass
        await anns.send(room.id, ciphertext(), epoch=event.seq)
        await room.change(bob, Action.BAN, cid)
        await room.change(bob, Action.UNBAN, cid)
        await anns.send(room.id, ciphertext(), epoch=room.epoch)
        await room.join(cid, invited_by=ann)
    assert previous_of(await cid.all_history(room.id)) == {1: None, 2: 1, 3: 2, 5: 3, 7: 5, 8: 7, 10: 8, 11: 10, 13: 11}
    direct = await ann.create_direct(cid)
    assert previous_of(await cid.all_history(direct.id)) == {1: None, 2: 1, 3: 2}


def previous_of(entries: list[RoomEntry]) -> dict[int, int | None]:
    """Of each state event by its seq: which it names."""
    events = [entry for entry in entries if isinstance(entry, TimelineEvent) and entry.kind.value != "message"]
    return {event.seq: msgspec.json.decode(event.body or b"").get("previous") for event in events}


async def test_a_device_change_reaches_every_room_of_its_user(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    rooms = [await ann.create_room(bob) for _ in range(2)]
    async with open_live_socket(ann) as anns:
        phone = await sign_in(bob)
        for _ in rooms:
            event = await anns.event(TimelineEvent)
            while event.kind.value != "devices":
                event = await anns.event(TimelineEvent)
            assert msgspec.json.decode(event.body or b"")["user"] == bob.user
        assert phone.device not in (bob.device, ann.device)
