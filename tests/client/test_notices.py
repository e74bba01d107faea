"""Notices as a client takes them: shown, never believed about who is no member, bounded, and kept where they must be."""

from typing import Any

import pytest
import trio

from chatty.client import (
    Client,
    Notice,
    NoticeRefused,
    PresenceChanged,
    Reason,
    ReceiptMoved,
    TypingChanged,
    UnreadChanged,
)
from chatty.client.notices import Notices, RefusedNotice, notices_max
from chatty.client.room import Room
from chatty.errors import CursorBeyondEnd
from chatty.ids import Seq, UserId
from chatty.wire import limits
from chatty.wire.frames import ServerFrame
from chatty.wire.presence import Presence
from chatty.wire.receipts import Receipt, Receipts, Unread, UnreadRoom
from chatty.wire.typing_notices import TypingNow
from tests.client.conftest import Open, pair, seq_of, text
from tests.client.small_server import SmallServer

EVE = UserId("@eve:example.org")


async def next_notice(client: Client) -> Notice:
    with trio.fail_after(10):
        return await anext(client.notices)


async def tell(server: SmallServer, client: Client, *events: ServerFrame) -> None:
    await server.push(server.devices[client.device], list(events))


def refused(room: Room) -> NoticeRefused:
    return NoticeRefused(
        reason=Reason.UNAUTHORIZED_MEMBER, detail=f"a notice of {EVE}, who is no member", user=EVE, room=room.id
    )


async def test_who_is_no_member_is_dropped_with_a_reason_and_the_others_are_shown(
    open_one: Open, server: SmallServer
) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        both = [Receipt(user=EVE, seq=Seq(3)), Receipt(user=bob.user, seq=Seq(2))]
        await tell(server, ann, Receipts(room=room.id, receipts=both))
        assert await next_notice(ann) == refused(room)
        assert await next_notice(ann) == ReceiptMoved(room=room.id, user=bob.user, seq=Seq(2))
        await tell(server, ann, TypingNow(room=room.id, users=[EVE, bob.user, ann.user]))
        assert await next_notice(ann) == refused(room)
        assert await next_notice(ann) == TypingChanged(room=room.id, users=frozenset({bob.user}))
        assert room.receipts == {bob.user: 2}
        assert room.typing == {bob.user}
        assert room.frozen is None


async def test_with_the_check_taken_out_a_stranger_is_shown(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Notices, "check_member", lambda self, room, user: None)
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        await tell(server, ann, Receipts(room=room.id, receipts=[Receipt(user=EVE, seq=Seq(3))]))
        assert await next_notice(ann) == ReceiptMoved(room=room.id, user=EVE, seq=Seq(3))


async def test_presence_of_who_is_not_watched_is_dropped_with_a_reason(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        await pair(ann, bob)
        await tell(server, ann, Presence(user=bob.user, state="online"))
        told = await next_notice(ann)
        assert isinstance(told, NoticeRefused)
        assert (told.reason, told.user) == (Reason.NOT_WATCHED, bob.user)
        await ann.notices.watch([bob.user])
        await tell(server, ann, Presence(user=bob.user, state="idle", last_active=300_000))
        shown = PresenceChanged(user=bob.user, state="idle", last_active_ms=300_000)
        assert (await next_notice(ann), ann.notices.presence(bob.user)) == (shown, shown)
        await ann.notices.watch([])
        assert ann.notices.presence(bob.user) is None
        monkeypatch.setattr(Notices, "check_watched", lambda self, user: None)
        await tell(server, ann, Presence(user=bob.user, state="online"))
        assert isinstance(await next_notice(ann), PresenceChanged)


async def test_a_receipt_never_goes_back_and_a_cursor_cannot_pass_the_end(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, same = await pair(ann, bob)
        for seq in (3, 1, 3):
            await tell(server, ann, Receipts(room=room.id, receipts=[Receipt(user=bob.user, seq=Seq(seq))]))
        await tell(server, ann, TypingNow(room=room.id, users=[bob.user]))
        assert [type(await next_notice(ann)) for _ in range(2)] == [ReceiptMoved, TypingChanged]
        assert room.receipts == {bob.user: 3}
        with pytest.raises(CursorBeyondEnd):
            await same.mark_read(Seq(seq_of(same) + 1))
        assert same.read_seq == 0


async def test_typing_ends_by_itself_and_by_a_message(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, same = await pair(ann, bob)
        await tell(server, ann, TypingNow(room=room.id, users=[bob.user]))
        assert await next_notice(ann) == TypingChanged(room=room.id, users=frozenset({bob.user}))
        await same.send("what I typed")
        assert await text(ann) == "what I typed"
        assert await next_notice(ann) == TypingChanged(room=room.id, users=frozenset())
        monkeypatch.setattr(limits, "typing_lifetime_s", 0.0)
        await tell(server, ann, TypingNow(room=room.id, users=[bob.user]))
        await next_notice(ann)
        assert room.typing == frozenset()


async def test_what_is_unread_is_what_the_server_counted_and_what_came_since(
    open_one: Open, server: SmallServer
) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, same = await pair(ann, bob)
        told = UnreadRoom(room=room.id, head_seq=Seq(seq_of(room)), read_seq=Seq(1), unread_count=7)
        await tell(server, ann, Unread(rooms=[told]))
        assert await next_notice(ann) == UnreadChanged(room=room.id, unread_count=7)
        assert (room.unread_count, room.read_seq) == (7, 1)
        first = await same.send("one")
        await same.send("two")
        assert [await text(ann), await text(ann)] == ["one", "two"]
        await room.send("mine")
        assert room.unread_count == 9
        await room.mark_read(first.seq)
        assert room.unread_count == 1
        await room.mark_read(Seq(seq_of(room)))
        assert (room.unread_count, room.read_seq) == (0, seq_of(room))


async def test_a_cursor_that_was_moved_offline_is_told_after_the_next_hello(
    open_one: Open, server: SmallServer
) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        seq, room_id = Seq(seq_of(room)), room.id
        ann._engine.notices.read(room_id, seq)
        assert ann._engine.notices.untold() == [(room_id, seq)]
    async with open_one("ann") as ann:
        assert ann.room(room_id).read_seq == seq
        await ann.wait_online()
        with trio.fail_after(10):
            while ann._engine.notices.untold():
                await trio.lowlevel.checkpoint()


async def test_an_application_that_does_not_read_keeps_the_newest(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        many = [Receipt(user=bob.user, seq=Seq(seq)) for seq in range(1, notices_max + 11)]
        await tell(server, ann, Receipts(room=room.id, receipts=many))
        with trio.fail_after(10):
            while room.receipts.get(bob.user) != notices_max + 10:
                await trio.lowlevel.checkpoint()
        first = await next_notice(ann)
        assert isinstance(first, ReceiptMoved)
        assert first.seq == 11


def test_a_refusal_says_why() -> None:
    error: Any = RefusedNotice(Reason.NOT_WATCHED, "nobody asked")
    assert (error.reason, str(error)) == (Reason.NOT_WATCHED, "nobody asked")
