"""Typing, presence, receipts and unread counts between two clients and a whole server."""

from pathlib import Path
from typing import TypeVar

import trio

from chatty.client import Client, Notice, PresenceChanged, ReceiptMoved, TypingChanged, UnreadChanged
from chatty.wire.preferences import Preferences
from tests.client.conftest import pair, text
from tests.server.sdk_people import open_origin, opener

N = TypeVar("N", bound=Notice)


async def notice(client: Client, kind: type[N]) -> N:
    with trio.fail_after(15):
        async for one in client.notices:
            if isinstance(one, kind):
                return one
    raise AssertionError("notices never end")


async def test_two_people_see_each_other_type_read_come_and_go(database: str, tmp_path: Path) -> None:
    async with open_origin(database, tmp_path) as origin:
        open_one = opener(origin, tmp_path)
        async with open_one("ann") as ann:
            async with open_one("bob") as bob:
                room, same = await pair(ann, bob)
                await ann.notices.watch([bob.user])
                assert (await notice(ann, PresenceChanged)).state == "online"
                await same.set_typing()
                assert await notice(ann, TypingChanged) == TypingChanged(room=room.id, users=frozenset({bob.user}))
                sent = await room.send("read me")
                assert await text(bob) == "read me"
                assert same.unread_count == 1
                await same.mark_read(sent.seq)
                assert same.unread_count == 0
                moved = ReceiptMoved(room=room.id, user=bob.user, seq=sent.seq)
                while await notice(ann, ReceiptMoved) != moved:
                    pass
                assert room.receipts[bob.user] == sent.seq
                await bob.notices.set_presence("idle")
                assert (await notice(ann, PresenceChanged)).state == "idle"
                await bob.notices.set_preferences(shows_presence=False, shows_receipts=True)
                assert (await notice(ann, PresenceChanged)).state == "offline"
                assert await bob.notices.preferences() == Preferences(shows_presence=False, shows_receipts=True)
                await bob.notices.set_preferences(shows_presence=True, shows_receipts=True)
                assert (await notice(ann, PresenceChanged)).state == "idle"
            gone = await notice(ann, PresenceChanged)
            assert (gone.state, gone.last_active_ms > 0) == ("offline", True)
            await room.send("while he was away")
            async with open_one("bob") as bob:
                while (await notice(bob, UnreadChanged)).unread_count != 1:
                    pass
                assert bob.room(room.id).read_seq == sent.seq
