"""Sending: acks, epochs, numbers and their window, refusals that stay, and what is no message at all."""

import msgspec
import pytest
import trio

from chatty.errors import DeviceSetStale
from chatty.ids import RoomId
from chatty.wire import chain, frames, limits
from chatty.wire.events import Kind, TimelineEvent
from chatty.wire.megolm import check_megolm
from tests.server.app_fixtures import RunningApp
from tests.server.wire_client import (
    Refused,
    WireSocket,
    changed,
    ciphertext,
    ciphertext_of,
    open_live_socket,
    open_raw_socket,
)
from tests.server.wire_people import HttpRefused, WireDevice, WireRoom, sign_in


async def bodies(reader: WireDevice, room: WireRoom) -> list[bytes]:
    """Of all messages in the room's history."""
    entries = await reader.all_history(room.id)
    events = [entry for entry in entries if isinstance(entry, TimelineEvent) and entry.kind is Kind.MESSAGE]
    return [event.body or b"" for event in events]


async def refused(socket: WireSocket, draft: frames.Send) -> frames.Error:
    with pytest.raises(Refused) as found:
        await socket.ask(draft)
    return found.value.error


async def again(socket: WireSocket, draft: frames.Send, **changes: object) -> frames.Ack:
    answer = await socket.ask(changed(draft, **{"id": socket.request_id(), **changes}))
    assert isinstance(answer, frames.Ack)
    return answer


# Acks and order -----------------------------------------------------------------------------------------------------


async def test_the_ack_names_what_was_sent(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        body = ciphertext()
        ack = await socket.send(room.id, body, epoch=room.epoch)
        [event] = await socket.messages(1)
        assert ack.leaf == chain.leaf(event)
        assert (ack.room, ack.seq, ack.time) == (room.id, event.seq, event.time)
        assert (event.body, event.n, event.epoch, event.algorithm) == (body, ack.n, room.epoch, "m.megolm.v1.aes-sha2")


async def test_a_batch_is_committed_in_its_order_and_seen_so_by_everyone(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    sent = [ciphertext() for _ in range(100)]
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
        acks = await anns.send_all(room.id, sent, epoch=room.epoch)
        assert [ack.seq for ack in acks] == list(range(acks[0].seq, acks[0].seq + 100))
        seen = await bobs.messages(100)
        assert ([event.body for event in seen], [event.seq for event in seen]) == (sent, [ack.seq for ack in acks])
        assert await anns.messages(100) == seen
    assert await bodies(bob, room) == sent


async def test_two_senders_share_one_order_without_a_gap(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
        async with trio.open_nursery() as nursery:
            for socket in (anns, bobs):
                nursery.start_soon(_send_many, socket, room)
        seen = await anns.messages(60)
        assert await bobs.messages(60) == seen
        assert [event.seq for event in seen] == list(range(seen[0].seq, seen[0].seq + 60))


async def _send_many(socket: WireSocket, room: WireRoom) -> None:
    for _ in range(6):
        await socket.send_all(room.id, [ciphertext() for _ in range(5)], epoch=room.epoch)


async def test_a_message_over_http_is_like_one_over_the_socket(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    body, n = ciphertext(), ann.take_n()
    fields = {"low": n, "epoch": room.epoch, "algorithm": "m.megolm.v1.aes-sha2", "session_id": "S" * 43, "body": body}
    async with open_live_socket(bob) as bobs, open_live_socket(ann) as anns:
        committed = await ann.post(f"/v1/rooms/{room.id}/messages", fields, n=n)
        [event] = await bobs.messages(1)
        assert (event.seq, event.body, event.n) == (committed["seq"], body, n)
        resent = await anns.ask(anns.draft(room.id, body, epoch=room.epoch, n=n, low=n))
        assert isinstance(resent, frames.Ack)
        assert (resent.seq, resent.leaf) == (event.seq, chain.leaf(event))
    assert await bodies(bob, room) == [body]


# (device, n) --------------------------------------------------------------------------------------------------------


async def test_a_resend_gets_the_same_ack_and_makes_no_second_event(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann, encoding="json") as socket:
        draft = socket.draft(room.id, ciphertext(), epoch=room.epoch)
        first = await again(socket, draft)
        second = await again(socket, draft)
        assert changed(second, id=first.id) == first
    async with open_live_socket(ann, encoding="msgpack") as socket:  # on another socket, in the other encoding
        assert changed(await again(socket, draft), id=first.id) == first
    assert await bodies(bob, room) == [draft.body]


async def test_copies_in_one_frame_are_one_message(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        draft = socket.draft(room.id, ciphertext(), epoch=room.epoch)
        copies = [changed(draft, id=socket.request_id()) for _ in range(20)]
        await socket.write(*copies)
        acks = [await socket.answer(copy.id) for copy in copies]
        assert len({ack.seq for ack in acks if isinstance(ack, frames.Ack)}) == 1
    assert await bodies(ann, room) == [draft.body]


async def test_a_resend_with_a_later_low_is_the_same_request(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        await socket.send(room.id, ciphertext(), epoch=room.epoch)
        draft = socket.draft(room.id, ciphertext(), epoch=room.epoch, low=1)
        first = await again(socket, draft)
        assert (await again(socket, draft, low=draft.n)).seq == first.seq


async def test_other_bytes_under_a_used_number_are_a_conflict(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room, other_room = await ann.create_room(), await ann.create_room()
    others = {"body": ciphertext(), "room": other_room.id, "epoch": 1, "session_id": "T" * 43}
    async with open_live_socket(ann) as socket:
        draft = socket.draft(room.id, ciphertext(), epoch=room.epoch)
        await again(socket, draft)
        for field, value in others.items():
            error = await refused(socket, changed(draft, **{"id": socket.request_id(), field: value}))
            assert error.code == "message_id_conflict", field
            assert error.details == {"highest_n": draft.n, "low": draft.low}
            assert not error.is_retryable
        await socket.send(room.id, ciphertext(), epoch=room.epoch)
    assert (await bodies(ann, room))[0] == draft.body
    assert await bodies(ann, other_room) == []


async def test_a_number_below_low_is_closed(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        old = socket.draft(room.id, ciphertext(), epoch=room.epoch)
        await again(socket, old)
        await again(socket, socket.draft(room.id, ciphertext(), epoch=room.epoch, low=old.n + 1))
        for copy in (old, changed(old, body=ciphertext())):
            error = await refused(socket, changed(copy, id=socket.request_id()))
            assert error.code == "message_id_closed"
            assert error.details == {"highest_n": old.n + 1, "low": old.n + 1}
    [(count,)] = await chat.rows("SELECT count(*) FROM requests")
    assert count == 1, "what is settled is forgotten"
    assert len(await bodies(ann, room)) == 2


async def test_the_window_holds_256_open_numbers(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        low = ann.low
        last = socket.draft(room.id, ciphertext(), epoch=room.epoch, n=low + limits.send_window - 1, low=low)
        await again(socket, last)
        beyond = socket.draft(room.id, ciphertext(), epoch=room.epoch, n=low + limits.send_window, low=low)
        error = await refused(socket, beyond)
        assert error.code == "send_window_full"
        assert error.is_retryable
        assert error.details == {"highest_n": last.n, "low": low}
        await again(socket, beyond, low=low + 1)
        await again(socket, last, low=low + 1)


async def test_low_above_n_is_no_request(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        error = await refused(socket, socket.draft(room.id, ciphertext(), epoch=room.epoch, n=5, low=6))
        assert (error.code, error.is_retryable) == ("bad_request", False)


async def test_hello_answers_the_highest_number_that_was_committed(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        await again(socket, socket.draft(room.id, ciphertext(), epoch=room.epoch, n=41, low=7))
        welcome = await _welcome(ann)
        assert (welcome.highest_n, welcome.low) == (41, 7)
        state = await ann.get("/v1/device")
        assert (state["highest_n"], state["low"]) == (41, 7)


async def _welcome(device: WireDevice) -> frames.Welcome:
    async with open_raw_socket(device.origin, device=device) as socket:
        answer = await socket.ask(socket.hello())
        assert isinstance(answer, frames.Welcome)
        return answer


async def test_each_device_counts_for_itself(chat: RunningApp) -> None:
    laptop = await chat.sign_up("ann")
    room = await laptop.create_room()
    phone = await sign_in(laptop)
    epoch = (await laptop.get(f"/v1/rooms/{room.id}/members"))["epoch"]
    async with open_live_socket(laptop) as one, open_live_socket(phone) as other:
        epoch = await _current_epoch(one, room, epoch)
        first = await one.ask(one.draft(room.id, ciphertext(), epoch=epoch, n=200, low=200))
        second = await other.ask(other.draft(room.id, ciphertext(), epoch=epoch, n=200, low=200))
        assert isinstance(first, frames.Ack)
        assert isinstance(second, frames.Ack)
        assert second.seq == first.seq + 1


async def _current_epoch(socket: WireSocket, room: WireRoom, epoch: int) -> int:
    """By trying: the refusal names it."""
    try:
        ack = await socket.send(room.id, ciphertext(), epoch=epoch)
    except Refused as stale:
        return int(stale.error.details["epoch"])
    assert ack.seq
    return epoch


# Epochs -------------------------------------------------------------------------------------------------------------


async def test_a_message_for_an_older_epoch_is_stale_and_is_told_what_changed(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob)
    old = room.epoch
    await room.join(cid, invited_by=ann)
    await room.kick(ann, bob)
    async with open_live_socket(ann) as socket:
        draft = socket.draft(room.id, ciphertext(), epoch=old)
        error = await refused(socket, draft)
        assert (error.code, error.is_retryable) == (DeviceSetStale.code, False)
        changes = {one["user"]: one["list_version"] for one in error.details["changed"]}
        assert error.details["epoch"] == room.epoch
        assert changes == {bob.user: None, cid.user: 1}
        fresh = changed(draft, id=socket.request_id(), epoch=room.epoch, body=ciphertext())
        assert isinstance(await socket.ask(fresh), frames.Ack)  # the same n, for the newer epoch


async def test_an_epoch_from_the_future_is_stale_too(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        error = await refused(socket, socket.draft(room.id, ciphertext(), epoch=room.epoch + 1))
        assert (error.code, error.details) == ("device_set_stale", {"epoch": room.epoch, "changed": []})


async def test_a_new_device_makes_the_older_epoch_stale_before_its_event_is_written(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as socket:
        await sign_in(bob)
        error = await refused(socket, socket.draft(room.id, ciphertext(), epoch=room.epoch))
        assert error.code == "device_set_stale"
        assert error.details["changed"] == [{"user": bob.user, "list_version": 2}]
        await socket.send(room.id, ciphertext(), epoch=error.details["epoch"])


async def test_a_message_itself_changes_no_epoch(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        for _ in range(3):
            await socket.send(room.id, ciphertext(), epoch=room.epoch)


# Who may send -------------------------------------------------------------------------------------------------------


async def test_who_left_sends_nothing_and_a_resend_is_refused_again_even_after_a_return(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await room.leave(bob)
    async with open_live_socket(bob) as socket:
        draft = socket.draft(room.id, ciphertext(), epoch=room.epoch)
        assert (await refused(socket, draft)).code == "not_a_member"
        await room.join(bob, invited_by=ann)
        assert (await refused(socket, changed(draft, id=socket.request_id()))).code == "not_a_member"
        await socket.send(room.id, ciphertext(), epoch=room.epoch)
    assert draft.body not in await bodies(bob, room)


async def test_a_kicked_member_that_guesses_the_epoch_gets_nothing_in(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(bob) as socket:
        await room.kick(ann, bob)
        for epoch in (room.epoch - 1, room.epoch, room.epoch + 1):
            assert (await refused(socket, socket.draft(room.id, ciphertext(), epoch=epoch))).code == "not_a_member"
    assert await bodies(ann, room) == []


async def test_a_stranger_cannot_tell_a_room_from_none(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    room = await ann.create_room()
    async with open_live_socket(eve) as socket:
        errors = [
            await refused(socket, socket.draft(one, ciphertext(), epoch=room.epoch, id=9))
            for one in (room.id, RoomId("!" + "A" * 43))
        ]
        assert errors[0] == errors[1]
        assert errors[0].code == "not_found"


# What is no message -------------------------------------------------------------------------------------------------


async def test_a_body_that_is_no_ciphertext_is_refused(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    wrong = {
        "empty": b"",
        "text": b"hello",
        "json": b'{"text":"hello"}',
        "no signature": b"\x03\x08\x00\x12\x10" + bytes(16),
        "a byte more": ciphertext() + b"\x00",
        "a byte less": ciphertext()[:-1],
    }
    async with open_live_socket(ann) as socket:
        for name, body in wrong.items():
            draft = socket.draft(room.id, body, epoch=room.epoch)
            assert (await refused(socket, draft)).code == "not_encrypted", name
            await socket.ask(changed(draft, id=socket.request_id(), body=ciphertext()))  # the number was not used up
    assert len(await bodies(ann, room)) == len(wrong)


async def test_a_ciphertext_may_be_as_large_as_the_limit(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    largest = ciphertext_of(limits.ciphertext_bytes_max)
    assert limits.ciphertext_bytes_max - 16 < len(largest) <= limits.ciphertext_bytes_max
    larger = ciphertext((len(largest) // 16) + 1)
    check_megolm(larger)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
        await anns.write(anns.draft(room.id, larger, epoch=room.epoch))
        error = await anns.event(frames.Error)
        assert (error.id, error.code) == (0, "bad_request")
        await anns.send(room.id, largest, epoch=room.epoch)
        [event] = await bobs.messages(1)
        assert event.body == largest


async def test_what_is_reserved_is_refused(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as socket:
        for field, value in {"silent": True, "target": "$" + "A" * 43}.items():
            error = await refused(socket, socket.draft(room.id, ciphertext(), epoch=room.epoch, **{field: value}))
            assert error.code == "bad_request", field


async def test_both_lows_of_a_message_over_http_are_the_same(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    fields = {
        "low": 1,
        "epoch": room.epoch,
        "algorithm": "m.megolm.v1.aes-sha2",
        "session_id": "S" * 43,
        "body": ciphertext(),
    }
    with pytest.raises(HttpRefused, match="bad_request"):
        await ann.post(f"/v1/rooms/{room.id}/messages", msgspec.json.encode(fields), n=9)


# Checkpoints --------------------------------------------------------------------------------------------------------


async def test_a_member_is_given_a_signed_head_on_the_socket_and_a_stranger_is_not(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    room = await ann.create_room()
    position = await ann.position(room.id)
    async with open_live_socket(ann) as socket:
        answer = await socket.ask(frames.CheckpointRequest(id=socket.request_id(), room=room.id))
        assert isinstance(answer, frames.Checkpoint)
        assert (answer.seq, answer.head) == position
    async with open_live_socket(eve) as socket:
        with pytest.raises(Refused, match="not_found"):
            await socket.ask(frames.CheckpointRequest(id=socket.request_id(), room=room.id))
