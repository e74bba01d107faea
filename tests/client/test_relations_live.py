"""Reactions, edits, threads, mentions, names of rooms and people between two clients; of all that the server sees nothing."""

from pathlib import Path

import pytest
import trio

from chatty.client import Client, Deleted, Edit, Invited, Message, ProfileChanged, Retraction, RoomDetailsChanged
from chatty.client.details import made_details
from chatty.client.messages import Writing, new_mid
from chatty.client.relations import Announcement
from chatty.client.room import Room
from chatty.errors import BadRequest, Forbidden
from chatty.store.connection import open_connection
from chatty.wire.events import RoomRole
from tests.client.conftest import pair, text, until
from tests.server.sdk_people import open_origin, opener

_ALL_TEXT = """SELECT string_agg(t, ' ') FROM (
 SELECT r.policy::text || encode(r.create_body, 'escape') AS t FROM rooms r
 UNION ALL SELECT encode(body, 'escape') FROM bodies
 UNION ALL SELECT content::text FROM mailbox
 UNION ALL SELECT content::text FROM user_stream) x"""


async def updates_until(client: Client, wanted: str) -> list[Message]:
    """What the client is told, up to the message with this text."""
    found: list[Message] = []
    with trio.fail_after(20):
        async for update in client.messages():
            if isinstance(update, Message):
                found.append(update)
                if update.text == wanted:
                    break
    return found


async def test_two_people_edit_react_answer_and_mention(database: str, tmp_path: Path) -> None:
    async with open_origin(database, tmp_path) as origin:
        open_one = opener(origin, tmp_path)
        async with open_one("ann") as ann, open_one("bob") as bob:
            room, same = await pair(ann, bob)
            hello = await room.send("Helo", mentions=[bob.user])
            assert await text(bob) == "Helo"
            [message] = same.history()
            assert message.mentions == (bob.user,)
            await room.edit(hello, "Hello")
            reaction = await same.react(message, "+1")
            await same.react(message, "heart")
            answer = await same.send("in a thread", thread=message)
            await room.send("and another", thread=hello, reply_to=answer)
            await same.send("beside it", reply_to=message)
            await same.retract(reaction)
            await forge(same, Edit(of=hello.event_id), "Bob's words in Ann's mouth")
            await forge(room, Retraction(of=(await same.react(message, "ok")).event_id), "")
            await same.send("the end")
            await updates_until(ann, "the end")
            await updates_until(bob, "the end")
            for one in (room, same):
                first, threaded, second, reply, _ = one.timeline()
                assert (first.text, [edit.text for edit in first.edits]) == ("Hello", ["Hello"])
                assert first.reactions == {"heart": {bob.user}, "ok": {bob.user}}
                assert (first.replies_count, threaded.thread, second.thread) == (2, hello.event_id, hello.event_id)
                assert (second.reply_to, reply.reply_to) == (answer.event_id, hello.event_id)
                assert one.timeline(count_max=1)[0].text == "the end"
            with pytest.raises(BadRequest):
                await room.react(hello, "x" * 65)
            with pytest.raises(BadRequest):
                await room.send("all of you", mentions=[bob.user] * 101)
            await room.delete(hello)
            deleted = [await until(bob, Deleted), await until(bob, Deleted)]
            assert {one.event_id for one in deleted if isinstance(one, Deleted)} >= {hello.event_id}
            assert same.timeline()[0].text == "in a thread"
            assert all(edit.text != "Hello" for edit in same.history())


async def forge(room: Room, about: Edit | Retraction, said: str) -> None:
    """What no honest client writes: a change of what somebody else has said."""
    await room._engine.outbox.send(room.id, Writing(text=said, mid=new_mid(), about=about))


async def test_names_are_told_from_member_to_member_and_the_server_hears_none(database: str, tmp_path: Path) -> None:
    async with open_origin(database, tmp_path) as origin:
        open_one = opener(origin, tmp_path)
        async with open_one("ann") as ann, open_one("bob") as bob, open_one("cid") as cid:
            room, same = await pair(ann, bob)
            ann.set_display_name("Anna of Elsewhere")
            await room.set_details(name="Greenhouse", topic="of orchids")
            assert (room.name, room.topic) == ("Greenhouse", "of orchids")
            told = await until(bob, RoomDetailsChanged)
            assert isinstance(told, RoomDetailsChanged)
            assert (told.name, told.topic, told.by) == ("Greenhouse", "of orchids", ann.user)
            await until(bob, ProfileChanged)
            assert same.display_names == {ann.user: "Anna of Elsewhere"}
            with pytest.raises(Forbidden):
                await same.set_details(name="Bob's")
            await forge_name(same)
            await same.send("and that was all")
            assert await text(ann) == "and that was all"
            assert room.name == same.name == "Greenhouse"
            assert [view.text for view in room.timeline()] == ["and that was all"]

            await cid.register("cid", "a third password")
            await room.invite(cid.user)
            await until(cid, Invited)
            late = await cid.join(cid.invitations()[0])
            await room.read_up_to(late._verifier.position.seq)
            assert late.name == ""
            await room.send("welcome")
            assert await text(cid) == "welcome"
            assert (late.name, late.display_names) == ("Greenhouse", {ann.user: "Anna of Elsewhere"})
            assert set(late.members.values()) == {RoomRole.OWNER, RoomRole.MEMBER}
        async with open_one("bob") as bob:
            assert bob.room(room.id).name == "Greenhouse"
    async with open_connection(database) as connection:
        [[everything]] = await (await connection.execute(_ALL_TEXT)).fetchall()
    for secret in ("Greenhouse", "orchids", "Elsewhere", "Bob's"):
        assert secret not in everything
    assert ann.user in everything


async def forge_name(room: Room) -> None:
    details = made_details(name="Bob's", topic="")
    writing = Writing(text="", mid=new_mid(), about=Announcement(), details=details)
    sent = await room._engine.outbox.send(room.id, writing)
    await room.read_up_to(sent.seq)
