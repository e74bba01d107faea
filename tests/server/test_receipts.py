"""Read cursors: taken, written once, told to members and own devices; what is unread; cursors that cannot be."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog.testing
import trio

from chatty.wire import frames, limits
from chatty.wire.receipts import Read, Receipts, Unread, UnreadRoom
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.wire_client import Refused, WireSocket, ciphertext, open_live_socket, open_raw_socket
from tests.server.wire_people import WireDevice, WireRoom, sign_in

STORED = """SELECT u.user_id, c.seq FROM read_cursors c JOIN users u USING (user_number) ORDER BY u.user_id"""


async def read(socket: WireSocket, room: WireRoom, seq: int) -> None:
    await socket.ask(Read(id=socket.request_id(), room=room.id, seq=seq))  # type: ignore[arg-type]


async def send(device: WireDevice, room: WireRoom, count: int) -> None:
    async with open_live_socket(device) as socket:
        for at in range(0, count, 100):
            await socket.send_all(room.id, [ciphertext() for _ in range(min(100, count - at))], epoch=room.epoch)


def shown(receipts: Receipts) -> dict[str, int]:
    return {receipt.user.split(":")[0]: receipt.seq for receipt in receipts.receipts}


async def receipt_of(socket: WireSocket, name: str) -> int:
    """The next that this user's cursor is told to be."""
    while True:
        told = shown(await socket.event(Receipts))
        if name in told:
            return told[name]


async def unread(device: WireDevice, room: WireRoom) -> tuple[int, int]:
    """read_seq and unread_count, by the room list and by the socket alike."""
    listed = next(one for one in (await device.get("/v1/rooms"))["rooms"] if one["room"] == room.id)
    async with open_live_socket(device) as socket:
        told = next(one for one in (await socket.event(Unread)).rooms if one.room == room.id)
    assert told == UnreadRoom(
        room=room.id, head_seq=listed["seq"], read_seq=listed["read_seq"], unread_count=listed["unread_count"]
    )
    return told.read_seq, told.unread_count


async def hide_receipts(device: WireDevice) -> None:
    body = {"shows_presence": True, "shows_receipts": False}
    assert (await device.answer("PUT", "/v1/account/preferences", body)).status_code == 200


async def test_the_others_and_the_own_devices_are_told_of_a_cursor(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    phone = await sign_in(ann)
    phones_socket = open_live_socket(phone, encoding="json")
    async with open_live_socket(ann) as anns, phones_socket as phones, open_live_socket(bob) as bobs:
        await read(anns, room, 2)
        assert [await receipt_of(one, "@ann") for one in (anns, phones, bobs)] == [2, 2, 2]
    assert await chat.rows(STORED) == [(ann.user, 2)]


async def test_a_cursor_never_goes_back(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
        await read(anns, room, 2)
        assert await receipt_of(bobs, "@ann") == 2
        await read(anns, room, 1)
        await read(bobs, room, 1)
        assert await receipt_of(anns, "@bob") == 1, "written together with the one that went back"
        assert await chat.rows(STORED) == [(ann.user, 2), (bob.user, 1)]
        await read(anns, room, 3)
        assert await receipt_of(bobs, "@ann") == 3


async def test_many_cursors_are_one_write_and_one_telling(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await send(ann, room, 30)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
        requests = [Read(id=anns.request_id(), room=room.id, seq=seq) for seq in range(1, 31)]  # type: ignore[arg-type]
        await anns.write(*requests)
        for request in requests:
            assert isinstance(await anns.answer(request.id), frames.Done)
        assert await receipt_of(bobs, "@ann") == 30
        assert not [event for event in await bobs.settle() if isinstance(event, Receipts)]


@pytest.mark.parametrize(("beyond", "code"), [(1, "cursor_beyond_end"), (10**6, "cursor_beyond_end")])
async def test_a_cursor_from_the_future_is_refused(chat: RunningApp, beyond: int, code: str) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann) as anns:
        with pytest.raises(Refused, match=code) as refused:
            await read(anns, room, 2 + beyond)
        assert refused.value.error.details == {"head_seq": 2}
        with pytest.raises(Refused, match=code):
            await read(anns, room, limits.integer_max)
        await read(anns, room, 2)
        assert await receipt_of(anns, "@ann") == 2


@pytest.mark.parametrize("seq", [0, -1, limits.integer_max + 1, 2**64, 1.5, "1", None, True])
async def test_what_is_no_cursor_is_a_bad_request(chat: RunningApp, seq: Any) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_live_socket(ann, encoding="json") as anns:
        await anns.write_raw(frames.encode({"type": "read", "id": 9, "room": room.id, "seq": seq}, encoding="json"))
        assert (await anns.event(frames.Error)).code == "bad_request"
        await anns.settle()


async def test_nobody_outside_reads_or_is_told(chat: RunningApp) -> None:
    ann, bob, eve = await chat.sign_up_all("ann", "bob", "eve")
    room = await ann.create_room(bob)
    await room.kick(ann, bob)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs, open_live_socket(eve) as eves:
        for outsider in (bobs, eves):
            for seq in (1, 10**6):  # nor learns where the room ends
                with pytest.raises(Refused, match="not_found"):
                    await read(outsider, room, seq)
        await read(anns, room, 2)
        assert await receipt_of(anns, "@ann") == 2
        for outsider in (bobs, eves):
            assert not [event for event in await outsider.settle() if isinstance(event, Receipts | Unread)]


async def test_who_hides_receipts_is_seen_by_the_own_devices_alone(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await hide_receipts(ann)
    phone = await sign_in(ann)
    async with open_live_socket(ann) as anns, open_live_socket(phone) as phones, open_live_socket(bob) as bobs:
        await read(anns, room, 2)
        assert await receipt_of(phones, "@ann") == 2
        assert not [event for event in await bobs.settle() if isinstance(event, Receipts)]
    async with open_live_socket(bob) as bobs:
        assert not [event for event in bobs.pending if isinstance(event, Receipts)]
    async with open_live_socket(phone) as phones:
        assert await receipt_of(phones, "@ann") == 2


async def test_a_blocked_user_sees_no_receipt_of_who_blocked_them(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    await ann.answer("PUT", f"/v1/blocks/{bob.user}")
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs, open_live_socket(cid) as cids:
        await read(anns, room, 2)
        await read(bobs, room, 3)
        assert await receipt_of(cids, "@ann") == 2
        assert await receipt_of(anns, "@bob") == 3
        assert [shown(one) for one in await bobs.settle() if isinstance(one, Receipts)] in ([], [{"@bob": 3}])
    async with open_live_socket(bob) as bobs:
        assert shown(await bobs.event(Receipts)) == {"@bob": 3}


async def test_who_comes_back_is_told_where_all_are(chat: RunningApp) -> None:
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
        await read(anns, room, 3)
        await read(bobs, room, 4)
        assert await receipt_of(anns, "@bob") == 4
        assert await receipt_of(bobs, "@ann") == 3
    async with open_live_socket(cid) as cids:  # before `resumed`
        assert [shown(one) for one in cids.pending if isinstance(one, Receipts)] == [{"@bob": 4, "@ann": 3}]
    await room.leave(bob)
    async with open_live_socket(cid) as cids:
        assert shown(await cids.event(Receipts)) == {"@ann": 3}


async def test_after_hello_the_newest_receipts_of_a_room_and_the_own_are_told(
    chat: RunningApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "receipts_shown_max", 2)
    ann, bob, cid = await chat.sign_up_all("ann", "bob", "cid")
    room = await ann.create_room(bob, cid)
    for device, seq in ((ann, 1), (bob, 3), (cid, 4)):
        async with open_live_socket(device) as socket:
            await read(socket, room, seq)
            await receipt_of(socket, f"@{device.person.name}")
    async with open_live_socket(ann) as anns:
        assert shown(await anns.event(Receipts)) == {"@ann": 1, "@cid": 4}


async def test_unread_are_the_messages_of_others_above_the_cursor(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    assert await unread(bob, room) == (0, 0)
    await send(ann, room, 5)
    await send(bob, room, 2)
    assert [await unread(bob, room), await unread(ann, room)] == [(0, 5), (0, 2)]
    async with open_live_socket(bob) as bobs:
        await read(bobs, room, room.epoch + 3)
        assert await receipt_of(bobs, "@bob") == room.epoch + 3
    assert await unread(bob, room) == (room.epoch + 3, 2)


async def test_what_was_before_the_last_join_is_not_unread(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await send(ann, room, 4)
    await room.leave(bob)
    await send(ann, room, 4)
    await room.join(bob, invited_by=ann)
    await send(ann, room, 1)
    assert await unread(bob, room) == (0, 1)


async def test_what_is_counted_is_bounded(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    await send(ann, room, limits.unread_events_max + 20)
    assert await unread(bob, room) == (0, limits.unread_events_max)


async def test_a_flood_of_cursors_is_refused_by_name(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, limit_reads_device="1 per hour, burst 3") as chat:
        ann = await chat.sign_up("ann")
        room = await ann.create_room()
        async with open_live_socket(ann) as anns:
            for _ in range(3):
                await read(anns, room, 2)
            with pytest.raises(Refused, match="rate_limited") as refused:
                await read(anns, room, 2)
            assert refused.value.error.details == {"limiter": "reads_device"}
            await anns.send(room.id, ciphertext(), epoch=room.epoch)


async def test_a_cursor_needs_a_session(chat: RunningApp) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    async with open_raw_socket(chat.origin, device=ann) as socket:
        await socket.write(Read(id=1, room=room.id, seq=1))  # type: ignore[arg-type]
        assert (await socket.closed()).reason == "hello_expected"


async def test_a_store_that_is_away_loses_no_cursor(database: str, tmp_path: Path) -> None:
    async with open_chat(database, tmp_path, database_statement_timeout_s=0.3) as chat:
        ann = await chat.sign_up("ann")
        room = await ann.create_room()
        async with open_live_socket(ann) as anns:
            with structlog.testing.capture_logs() as logs:
                async with table_locked(chat):
                    await read(anns, room, 2)
                    with trio.fail_after(10):
                        while "watch.store_unavailable" not in {entry["event"] for entry in logs}:
                            await anns.ask(frames.Ping(id=anns.request_id()))
            assert await receipt_of(anns, "@ann") == 2


@asynccontextmanager
async def table_locked(chat: RunningApp) -> AsyncIterator[None]:
    """Nobody can write a cursor meanwhile."""

    def lock() -> psycopg.Connection[Any]:
        connection = psycopg.connect(chat.database)
        connection.execute("LOCK TABLE read_cursors")
        return connection

    connection = await trio.to_thread.run_sync(lock)
    try:
        yield
    finally:
        await trio.to_thread.run_sync(connection.close)
