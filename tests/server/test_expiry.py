"""Deletions, timers and retention over HTTP and the socket: what goes, what stays, and what is refused with nothing lost."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from chatty.ids import EventId, Seq
from chatty.services.timeline import end_of
from chatty.wire import chain
from chatty.wire.canonical import canonical_json
from chatty.wire.events import MEGOLM, Action, DeletionContent, Kind, Policy, RoomRole, TimelineEvent
from chatty.wire.frames import Send
from chatty.wire.limits import message_timer_s_max, retention_days_max
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.wire_client import Refused, WireSocket, changed, ciphertext, cursor, open_live_socket
from tests.server.wire_people import HttpRefused, WireDevice, WireRoom

_BODIES = "SELECT (SELECT count(*) FROM bodies WHERE body = %s) + (SELECT count(*) FROM passing_bodies WHERE body = %s)"


async def sent(chat: RunningApp, by: WireDevice, room: WireRoom, **changes: Any) -> TimelineEvent:
    """One message, as the server shows it."""
    async with open_live_socket(by) as socket:
        draft = changed(socket.draft(room.id, ciphertext(), epoch=room.epoch), **changes)
        await socket.ask(draft)
        return (await socket.messages(1))[0]


async def is_stored(chat: RunningApp, event: TimelineEvent) -> bool:
    return await chat.rows(_BODIES, event.body, event.body) == [(1,)]


async def shown(reader: WireDevice, room: WireRoom, seq: int) -> TimelineEvent:
    [event] = (await reader.history(room.id, after=seq - 1, limit=1)).entries
    assert isinstance(event, TimelineEvent)
    return event


async def refused(code: str, room: WireRoom, by: WireDevice, event: TimelineEvent, **changes: Any) -> None:
    deletion = await room.deletion(by, event, **changes)
    for _ in range(2):  # the same request again: the same answer
        with pytest.raises(HttpRefused) as found:
            await room.post_deletion(by, deletion)
        assert found.value.code == code


async def group(chat: RunningApp) -> tuple[WireDevice, WireDevice, WireDevice, WireRoom]:
    """Ann owns the room, Bob and Cid are members."""
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    return ann, bob, cid, await ann.create_room(bob, cid)


# Deletion -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_passing", [False, True])
async def test_a_deletion_drops_the_ciphertext_and_says_who_deleted(chat: RunningApp, is_passing: bool) -> None:
    ann, bob, _, room = await group(chat)
    if is_passing:
        await room.set_policy(ann, Policy(retention_days=5))
    event = await sent(chat, bob, room)
    assert await is_stored(chat, event)
    async with open_live_socket(ann, cursors=[cursor(room.id, event.seq)]) as socket:
        committed = await room.delete(bob, event)
        live = await socket.event(TimelineEvent)
    assert not await is_stored(chat, event)
    left, deletion = await shown(ann, room, event.seq), await shown(ann, room, committed.seq)
    assert live == deletion
    assert chain.leaf(left) == chain.leaf(event)
    assert (left.body, left.body_hash, left.deletion_seq) == (None, chain.body_hash(event), committed.seq)
    content = msgspec.json.decode(deletion.body or b"", type=DeletionContent)
    assert (deletion.kind, deletion.sender, content.signed.target) == (Kind.DELETION, bob.user, event_id(event))
    assert committed.epoch == room.epoch
    await ann.position(room.id)


def event_id(event: TimelineEvent) -> EventId:
    return chain.event_id(chain.leaf(event))


async def test_an_admin_deletes_anybodys_message_and_the_audit_log_knows(chat: RunningApp) -> None:
    ann, bob, cid, room = await group(chat)
    await room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
    event = await sent(chat, cid, room)
    await room.delete(bob, event)
    assert not await is_stored(chat, event)
    [(actor, detail)] = await chat.rows("SELECT actor, detail FROM audit WHERE action = 'room.message_deleted'")
    assert (actor, detail) == (bob.user, {"target": cid.user, "event": event_id(event)})


async def test_the_same_deletion_again_is_answered_alike(chat: RunningApp) -> None:
    _, bob, _, room = await group(chat)
    event = await sent(chat, bob, room)
    deletion = await room.deletion(bob, event)
    first = await room.post_deletion(bob, deletion)
    assert await room.post_deletion(bob, deletion) == first


async def test_what_cannot_be_deleted_is_refused_and_nothing_is_lost(chat: RunningApp) -> None:
    ann, bob, cid, room = await group(chat)
    event = await sent(chat, cid, room)
    created = await shown(ann, room, 1)
    head = (await ann.position(room.id))[0]
    await refused("forbidden", room, bob, event)
    await refused("bad_request", room, bob, event, target_sender=bob.user)
    await refused("not_found", room, ann, event, target=EventId("$" + "A" * 43))
    await refused("not_found", room, ann, event, target_seq=Seq(event.seq - 1))
    await refused("bad_request", room, ann, event, target_seq=Seq(event.seq + 1))
    await refused("bad_request", room, ann, event, last_seq=Seq(3))
    await refused("forbidden", room, ann, created)
    await refused("bad_signature", room, bob, event, sender=cid.user)
    assert await is_stored(chat, event)
    assert (await ann.position(room.id))[0] == head
    deletion = await room.delete(cid, event)
    await refused("message_gone", room, ann, event)
    await refused("forbidden", room, ann, await shown(ann, room, deletion.seq), target_sender=cid.user)
    assert (await ann.position(room.id))[0] == deletion.seq


async def test_whoever_is_outside_deletes_nothing(chat: RunningApp) -> None:
    ann, bob, cid, room = await group(chat)
    event, dan = await sent(chat, cid, room), await chat.sign_up("dan")
    await room.kick(ann, cid)
    for outsider in (cid, dan):
        deletion = await room.deletion(ann, event, sender=outsider.user, device=outsider.device, n=outsider.take_n())
        with pytest.raises(HttpRefused) as found:
            await room.post_deletion(outsider, deletion)
        assert found.value.code == "not_found"
    assert await is_stored(chat, event)
    assert (await shown(bob, room, event.seq)).body == event.body


async def test_deletions_are_shown_to_who_comes_later(chat: RunningApp) -> None:
    ann, bob, _, room = await group(chat)
    event = await sent(chat, bob, room)
    deletion = await room.delete(bob, event)
    dan = await chat.sign_up("dan")
    await room.join(dan, invited_by=ann)
    kinds = {entry.seq: entry.kind for entry in await dan.all_history(room.id) if isinstance(entry, TimelineEvent)}
    assert event.seq not in kinds
    assert kinds[deletion.seq] is Kind.DELETION


# Timers -------------------------------------------------------------------------------------------------------------


async def test_a_timer_is_a_signed_policy_and_its_bounds_are_kept(chat: RunningApp) -> None:
    ann, bob, _, room = await group(chat)
    await room.set_policy(ann, Policy(message_timer_s=message_timer_s_max, retention_days=retention_days_max))
    with pytest.raises(HttpRefused) as found:
        await room.set_policy(bob, Policy(message_timer_s=5))
    assert found.value.code == "forbidden"
    change = ann.signed(await room.policy_change(ann, Policy(message_timer_s=5)))
    for field, bound in (("message_timer_s", message_timer_s_max), ("retention_days", retention_days_max)):
        for wrong in (-1, 0, bound + 1, 2**63, 1.5, "5", None):
            body = change | {"signed": change["signed"] | {"policy": change["signed"]["policy"] | {field: wrong}}}
            answer = await ann.answer("POST", f"/v1/rooms/{room.id}/policy", body, n=change["signed"]["n"])
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), (field, wrong)
    assert canonical_json(change["signed"]["policy"]) == b'{"history":"joined","invite":"admin","message_timer_s":5}'
    policies = [policy for (policy,) in await chat.rows("SELECT policy FROM rooms")]
    assert policies == [
        {
            "history": "joined",
            "invite": "admin",
            "message_timer_s": message_timer_s_max,
            "retention_days": retention_days_max,
        }
    ]


async def test_an_expiry_that_cannot_be_is_refused_for_good(chat: RunningApp) -> None:
    ann, _, _, room = await group(chat)
    async with open_live_socket(ann) as socket:
        for wrong in (1, 2**53 - 1):
            draft = changed(socket.draft(room.id, ciphertext(), epoch=room.epoch), expiry=wrong)
            for _ in range(2):
                error = await error_of(socket, draft)
                assert error.code == "expiry_refused"
                assert error.details["time"] > 1_700_000_000_000
        for malformed in (-1, 2**53, "5", None):
            body = {"low": 1, "epoch": room.epoch, "algorithm": MEGOLM, "session_id": "S" * 43, "body": "AAAA"}
            answer = await ann.answer(
                "POST", f"/v1/rooms/{room.id}/messages", body | {"expiry": malformed}, n=ann.take_n()
            )
            assert answer.json()["code"] == "bad_request"
        await socket.send(room.id, ciphertext(), epoch=room.epoch)
    assert (await ann.position(room.id))[0] == room.epoch + 1


async def error_of(socket: WireSocket, draft: Send) -> Any:
    with pytest.raises(Refused) as found:
        await socket.ask(changed(draft, id=socket.request_id()))
    return found.value.error


async def test_the_running_server_drops_what_expires_and_counts_it(chat: RunningApp) -> None:
    ann, bob, _, room = await group(chat)
    expiry = await now_ms(chat) + 1_500
    event = await sent(chat, bob, room, expiry=expiry)
    assert await is_stored(chat, event)
    with trio.fail_after(20):
        while await is_stored(chat, event):  # noqa: ASYNC110  # it can only be asked for
            await trio.sleep(0.1)
    left = await shown(ann, room, event.seq)
    assert (left.body, left.expiry, chain.leaf(left)) == (None, expiry, chain.leaf(event))
    metrics = (await chat.http.get("/metrics")).text
    assert 'chatty_messages_dropped_total{what="expired"} 1.0' in metrics
    await refused("message_gone", room, bob, event)


async def now_ms(chat: RunningApp) -> int:
    [(now,)] = await chat.rows("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
    return int(now)


async def test_the_servers_retention_gives_each_message_an_end(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, message_retention_days=30) as chat:
        _, bob, _, room = await group(chat)
        event = await sent(chat, bob, room)
        ends = [ends for (ends,) in await chat.rows("SELECT ends FROM timeline WHERE ends > 0")]
        assert ends == [end_of(expiry=0, time=event.time, retention_days=30)]
        assert await is_stored(chat, event)


async def test_pages_of_impossible_sizes_are_refused_with_tombstones_in_the_room_too(chat: RunningApp) -> None:
    ann, bob, _, room = await group(chat)
    event = await sent(chat, bob, room)
    deletion = await room.delete(bob, event)
    for wrong in ("-1", "0", "501", "-9007199254740992", "9" * 400, "1e2", "1.0", "", "%00", "all"):
        answer = await ann.answer("GET", f"/v1/rooms/{room.id}/events?limit={wrong}")
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), wrong
    for wrong in ("-1", str(2**53), "9" * 400, "1.5", "x"):
        answer = await ann.answer("GET", f"/v1/rooms/{room.id}/events?after={wrong}")
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), wrong
    assert [entry.seq for entry in (await ann.history(room.id, limit=500)).entries if isinstance(entry, TimelineEvent)][
        -1
    ] == deletion.seq
    assert (await ann.history(room.id, after=2**53 - 1)).entries == []
