"""The three streams: history pages and their gaps, resuming from cursors, the user's stream, the device mailbox."""

from collections.abc import Collection, Iterable
from pathlib import Path

import pytest
import trio

from chatty.ids import MailboxId, RoomId, UserSeq
from chatty.services.caller import Caller
from chatty.services.streams import RoomPosition, StreamSteps, page_bytes_max
from chatty.wire import frames, limits
from chatty.wire.events import Kind, Policy, TimelineEvent
from chatty.wire.frames import Mailbox, Resumed, RoomEntry, ServerFrame, Stretch, UserEvent
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.wire_client import WireSocket, ciphertext, cursor, open_live_socket, open_socket
from tests.server.wire_people import HttpRefused, WireDevice, WireRoom, fold_chain, sign_in


async def send(device: WireDevice, room: WireRoom, count: int, *, blocks_count: int = 1) -> list[bytes]:
    bodies = [ciphertext(blocks_count) for _ in range(count)]
    async with open_live_socket(device) as socket:
        step = min(50, limits.frame_bytes_max // (2 * len(bodies[0])))
        for at in range(0, count, step):
            await socket.send_all(room.id, bodies[at : at + step], epoch=room.epoch)
    return bodies


def messages(entries: Iterable[ServerFrame]) -> list[bytes]:
    events = [entry for entry in entries if isinstance(entry, TimelineEvent) and entry.kind is Kind.MESSAGE]
    return [event.body or b"" for event in events]


def of_room(entries: Iterable[ServerFrame], room: WireRoom) -> list[RoomEntry]:
    return [entry for entry in entries if isinstance(entry, RoomEntry) and entry.room == room.id]


def seqs(entries: Iterable[RoomEntry]) -> list[int]:
    return [
        seq
        for entry in entries
        for seq in (range(entry.from_seq, entry.to_seq + 1) if isinstance(entry, Stretch) else [entry.seq])
    ]


async def stored(socket: WireSocket) -> list[ServerFrame]:
    """Everything between welcome and `resumed`."""
    before: list[ServerFrame] = []
    with trio.fail_after(10):
        while True:
            event = socket.pending.popleft() if socket.pending else None
            if event is None:
                socket.pending.extend(await socket.read())
            elif isinstance(event, Resumed):
                return before
            else:
                before.append(event)


# History pages ------------------------------------------------------------------------------------------------------


async def test_pages_join_up_and_hold_no_more_than_was_asked_for(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    sent = await send(ann, room, 20)
    entries: list[RoomEntry] = []
    while page := (await ann.history(room.id, after=len(entries), limit=7)).entries:
        assert len(page) <= 7
        entries += page
    assert (seqs(entries), messages(entries)) == (list(range(1, 23)), sent)


async def test_a_page_holds_one_to_500_events(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    for limit, count in ((1, 1), (500, 2)):
        assert len((await ann.history(room.id, limit=limit)).entries) == count
    for limit in (0, 501, -1):
        assert (await ann.answer("GET", f"/v1/rooms/{room.id}/events?limit={limit}")).status_code == 400


async def test_a_page_is_bounded_in_bytes_and_never_empty_before_the_end(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    sent = await send(ann, room, 6, blocks_count=4_000)
    first = await ann.history(room.id)
    assert len(messages(first.entries)) == page_bytes_max // len(sent[0])
    assert messages(await ann.all_history(room.id)) == sent


async def test_beyond_the_end_there_is_an_empty_page_and_the_head(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    for after in (2, 3, limits.integer_max):
        page = await ann.history(room.id, after=after)
        assert (page.entries, page.head_seq) == ([], 2)
    assert (await ann.answer("GET", f"/v1/rooms/{room.id}/events?after={limits.integer_max + 1}")).status_code == 400


async def test_history_never_shows_what_came_after_a_leave(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    seen = await send(ann, room, 3)
    left = await room.leave(bob)
    await send(ann, room, 3)
    entries = await bob.all_history(room.id)
    assert (messages(entries), seqs(entries)[-1]) == (seen, left.seq)
    assert (await bob.history(room.id, after=left.seq)).entries == []


async def test_what_happened_between_a_leave_and_a_return_is_a_gap(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob)
    before = await send(ann, room, 3)
    await room.leave(bob)
    await send(ann, room, 3)
    await room.join(cid, invited_by=ann)  # a state event: everybody sees it, or nobody could check who may do what
    await send(ann, room, 3)
    await room.join(bob, invited_by=ann)
    after = await send(ann, room, 3)
    entries = await bob.all_history(room.id)
    assert messages(entries) == before + after
    assert [entry.to_seq - entry.from_seq + 1 for entry in entries if isinstance(entry, Stretch)] == [3, 3]
    assert fold_chain(room.id, entries) == fold_chain(room.id, await ann.all_history(room.id))


async def test_a_shared_history_is_there_for_who_joins_later(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    rooms = [await ann.create_room(policy=Policy(history=history)) for history in ("joined", "shared")]
    sent = [await send(ann, room, 3) for room in rooms]
    for room in rooms:
        await room.join(bob, invited_by=ann)
    assert messages(await bob.all_history(rooms[0].id)) == []
    assert messages(await bob.all_history(rooms[1].id)) == sent[1]


# Resuming -----------------------------------------------------------------------------------------------------------


async def test_a_client_gets_everything_after_its_cursor_then_live_events(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    sent = await send(ann, room, 10)
    epoch = room.epoch
    async with open_socket(bob, cursors=[cursor(room.id, epoch + 4)]) as bobs:
        before = of_room(await stored(bobs), room)
        assert messages(before) == sent[4:]
        live = await send(ann, room, 2)
        assert messages(await bobs.messages(2)) == live


async def test_every_cursor_gives_the_rest_without_a_hole_or_a_repeat(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    await send(ann, room, 5)
    for at in range(8):
        async with open_socket(ann, cursors=[cursor(room.id, at)]) as socket:
            assert seqs(of_room(await stored(socket), room)) == list(range(at + 1, 8))


async def test_a_room_too_large_for_a_page_comes_whole_and_in_order(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    sent = await send(ann, room, limits.page_events_max + 10)
    async with open_socket(ann, encoding="json") as socket:
        entries = of_room(await stored(socket), room)
        assert seqs(entries) == list(range(1, len(sent) + 3))
        assert messages(entries) == sent


@pytest.mark.parametrize("at", [limits.integer_max, 100])
async def test_a_cursor_from_the_future_counts_as_the_end(chat: RunningApp, at: int) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_socket(bob, cursors=[cursor(room.id, at)], user_seq=UserSeq(at)) as bobs:
        assert of_room(await stored(bobs), room) == []
        await bobs.ask(frames.Resync(id=bobs.request_id(), user_seq=UserSeq(at), cursors=[cursor(room.id, at)]))
        sent = await send(ann, room, 2)
        assert messages(await bobs.messages(2)) == sent
        await room.leave(bob)
        assert (await bobs.event(UserEvent)).kind == "room_left"


async def test_a_cursor_of_a_room_that_was_left_meanwhile_leads_up_to_the_leave(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    joined_at = room.epoch
    seen = await send(ann, room, 2)
    left = await room.kick(ann, bob)
    await send(ann, room, 2)
    async with open_socket(bob, cursors=[cursor(room.id, joined_at)]) as bobs:
        entries = of_room(await stored(bobs), room)
        assert (messages(entries), seqs(entries)[-1]) == (seen, left.seq)
        await send(ann, room, 1)
        assert of_room(await bobs.settle(), room) == []


async def test_who_comes_back_between_the_two_looks_for_rooms_goes_on_at_the_cursor(
    chat: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rooms one is in are read first, then those one has left: who joins between them is in neither."""
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await send(ann, room, 2)
    rooms_of, looks = StreamSteps.rooms_of, iter([False])

    async def between(self: StreamSteps, caller: Caller, named: Collection[RoomId]) -> list[RoomPosition]:
        return await rooms_of(self, caller, named) if next(looks, True) else []

    monkeypatch.setattr(StreamSteps, "rooms_of", between)
    async with open_socket(bob, cursors=[cursor(room.id, room.epoch + 1)]) as bobs:
        assert seqs(of_room(await stored(bobs), room)) == [room.epoch + 2]


async def test_cursors_of_strangers_rooms_are_as_those_of_none(chat: RunningApp) -> None:
    ann, eve = await chat.sign_up_all("ann", "eve")
    room = await ann.create_room()
    async with open_socket(eve, cursors=[cursor(room.id, 0)]) as eves:
        assert of_room(await stored(eves), room) == []
        await send(ann, room, 1)
        assert of_room(await eves.settle(), room) == []


async def test_a_room_that_is_joined_while_connected_comes_from_its_beginning(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room()
    async with open_live_socket(bob) as bobs:
        await room.join(bob, invited_by=ann)
        sent = await send(ann, room, 3)
        entries: list[RoomEntry] = []
        while len(messages(entries)) < 3:
            entries.append(await bobs.event(TimelineEvent))
        assert (seqs(entries), messages(entries)) == (list(range(1, room.epoch + 4)), sent)


async def test_a_resync_goes_back_to_its_cursor_and_on_from_there(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    rooms = [await ann.create_room() for _ in range(2)]
    sent = [await send(ann, room, 3) for room in rooms]
    async with open_live_socket(ann) as socket:
        socket.pending.clear()
        resync = frames.Resync(id=socket.request_id(), user_seq=UserSeq(0), cursors=[cursor(rooms[0].id, 3)])
        await socket.ask(resync)
        assert messages(await socket.messages(2)) == sent[0][1:]
        assert messages(await socket.settle()) == []  # the room that was not named stays where it was


async def test_resuming_amid_traffic_shows_each_event_once(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    seen: list[int] = []

    async def keep_sending() -> None:
        async with open_live_socket(ann) as anns:
            for _ in range(40):
                await anns.send_all(room.id, [ciphertext() for _ in range(5)], epoch=room.epoch)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep_sending)
        while len(seen) < room.epoch + 200:
            async with open_socket(bob, cursors=[cursor(room.id, len(seen))]) as bobs:
                for _ in range(30):
                    seen.append((await bobs.event(TimelineEvent)).seq)
                    if len(seen) == room.epoch + 200:
                        break
    assert seen == list(range(1, room.epoch + 201))


# The user's stream --------------------------------------------------------------------------------------------------


async def test_the_users_stream_comes_after_its_cursor(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await room.leave(bob)
    page = await bob.get("/v1/stream")
    kinds = [event["kind"] for event in page["events"]]
    assert kinds == ["devices", "invitation", "room_joined", "room_left"]
    for at in range(len(kinds) + 1):
        async with open_socket(bob, user_seq=UserSeq(at)) as socket:
            told = [event for event in await stored(socket) if isinstance(event, UserEvent)]
            assert ([event.kind for event in told], [event.seq for event in told]) == (
                kinds[at:],
                list(range(at + 1, page["head_seq"] + 1)),
            )


async def test_each_device_of_a_person_is_told_of_a_new_one(chat: RunningApp) -> None:
    laptop = await chat.sign_up("ann")
    async with open_live_socket(laptop) as socket:
        socket.pending.clear()
        await sign_in(laptop)
        assert (await socket.event(UserEvent)).kind == "devices"


# The device mailbox -------------------------------------------------------------------------------------------------


async def test_rows_come_in_order_until_they_are_acknowledged(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    for text in ("AAAA", "BBBB", "CCCC"):
        await ann.send_to_devices(bob, text=text)
    async with open_live_socket(bob) as bobs:
        rows = await bobs.events(Mailbox, 3)
        assert [row.content["ciphertext"][bob.olm.curve25519]["body"] for row in rows] == ["AAAA", "BBBB", "CCCC"]
        assert {(row.sender, row.sender_device, row.kind) for row in rows} == {
            (ann.user, ann.device, "m.room.encrypted")
        }
        assert [row.id for row in rows] == sorted(row.id for row in rows)
        await bobs.acknowledge(rows[1].id)
    async with open_live_socket(bob) as bobs:
        assert await bobs.events(Mailbox, 2) == [rows[0], rows[2]]
        await bobs.acknowledge(rows[0].id, rows[2].id)
        await bobs.acknowledge(rows[0].id)  # once more: no error
    async with open_live_socket(bob) as bobs:
        assert not [event for event in [*bobs.pending, *await bobs.settle()] if isinstance(event, Mailbox)]


async def test_a_row_is_given_once_on_a_connection_and_live(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    async with open_live_socket(bob) as bobs:
        for _ in range(5):
            await ann.send_to_devices(bob)
        rows = await bobs.events(Mailbox, 5)
        assert len({row.id for row in rows}) == 5
        assert not [event for event in await bobs.settle() if isinstance(event, Mailbox)]


async def test_nobody_acknowledges_anothers_rows(chat: RunningApp) -> None:
    ann, bob, eve = await chat.sign_up_all("ann", "bob", "eve")
    await ann.send_to_devices(bob)
    async with open_live_socket(bob) as bobs, open_live_socket(eve) as eves:
        row = await bobs.event(Mailbox)
        await eves.acknowledge(row.id)
    async with open_live_socket(bob) as bobs:
        assert await bobs.event(Mailbox) == row


async def test_an_acknowledgement_names_at_most_1000_rows(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    ids = [MailboxId(at) for at in range(1, limits.mailbox_ack_ids_max + 2)]
    async with open_live_socket(ann) as socket:
        await socket.acknowledge(*ids[:-1])
        await socket.write(frames.MailboxAck(id=socket.request_id(), ids=ids))
        assert (await socket.event(frames.Error)).code == "bad_request"


async def test_keys_come_before_the_messages_that_need_them(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await send(ann, room, 1)
    await ann.send_to_devices(bob)
    async with open_socket(bob) as bobs:
        kinds = [type(event) for event in await stored(bobs)]
        assert kinds.index(Mailbox) < kinds.index(TimelineEvent)


async def test_a_resend_puts_no_second_row(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    body = {"type": "m.room.encrypted", "messages": {bob.user: {bob.device: ann.olm_content(bob)}}}
    n = ann.take_n()
    for _ in range(2):
        await ann.post("/v1/to-device", body, n=n)
        ann.unsettled.add(n)
    assert await chat.rows("SELECT count(*) FROM mailbox") == [(1,)]


async def test_the_new_row_is_refused_when_the_mailbox_is_full_and_no_old_one_dropped(
    database: str, tmp_path: Path
) -> None:
    async with open_chat(database, tmp_path, mailbox_rows_per_sender_max=2, mailbox_rows_max=3) as chat:
        ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
        for _ in range(2):
            await ann.send_to_devices(bob)
        with pytest.raises(HttpRefused) as refused:
            await ann.send_to_devices(bob, cid)
        assert refused.value.code == "mailbox_quota_exceeded"
        quota = {key: refused.value.problem[key] for key in ("quota", "count_max", "devices")}
        assert quota == {"quota": "mailbox_rows_per_sender_max", "count_max": 2, "devices": [bob.device]}
        await cid.send_to_devices(bob)
        with pytest.raises(HttpRefused, match="mailbox_rows_max"):
            await cid.send_to_devices(bob)
        async with open_live_socket(cid) as cids:
            assert not [event for event in cids.pending if isinstance(event, Mailbox)], "all of a request, or nothing"
        async with open_live_socket(bob) as bobs:
            rows = await bobs.events(Mailbox, 3)
            await bobs.acknowledge(rows[0].id)
            await ann.send_to_devices(bob)
            await bobs.event(Mailbox)


async def test_a_device_that_is_gone_is_named_and_the_others_get_theirs(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    phone = await sign_in(bob)
    await bob.answer("DELETE", f"/v1/devices/{phone.device}")
    answer = await ann.send_to_devices(bob, phone)
    assert answer["unknown"] == {bob.user: [phone.device]}
    async with open_live_socket(bob) as bobs:
        await bobs.event(Mailbox)


async def test_a_mailbox_acknowledged_on_the_socket_of_another_device_stays(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    phone = await sign_in(bob)
    await ann.send_to_devices(bob, phone)
    async with open_live_socket(bob) as laptops:
        await laptops.acknowledge((await laptops.event(Mailbox)).id)
    async with open_live_socket(phone) as phones:
        await phones.event(Mailbox)
