"""Lies over a real socket: the room is frozen, nobody gets a key, other rooms go on."""

import msgspec
import pytest
import trio

from chatty.client import (
    Client,
    Invited,
    Lie,
    Reason,
    RoomFrozen,
    ServerLied,
    Undecryptable,
)
from chatty.wire.events import Action
from chatty.wire.keys import KeyQuery
from tests.client.conftest import Open, pair, text, until
from tests.client.forge import Person
from tests.client.small_server import SmallServer


async def lied(client: Client) -> ServerLied:
    update = await until(client, ServerLied)
    assert isinstance(update, ServerLied)
    return update


async def test_a_ghost_gets_no_key_and_the_other_room_goes_on(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("ghost") as ghost:
        room, _same = await pair(ann, bob)
        other = await ann.direct(bob.user)
        await ghost.register("ghost", "the server's own")
        ghost._engine.book.add(room.id)
        with trio.move_on_after(0.5):  # its own client does not believe it either
            with pytest.raises(RoomFrozen):
                await ghost.room(room.id).change(Action.JOIN, ghost.user)
        caught = await lied(ann)
        assert (caught.reason, caught.room) == (Reason.FORGED_MEMBERSHIP, room.id)
        with pytest.raises(RoomFrozen):
            await room.send("secret")
        assert not server.devices[ghost.device].mailbox
        assert ghost.device not in [device for send in server.requests_seen for device in send]
        await other.send("they added somebody")
        assert await text(bob) == "they added somebody"


async def test_a_dropped_event_is_missed(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _same = await pair(ann, bob)
        sent = await room.send("dropped for Bob")
        assert sent.seq
        server.shown = lambda user, event: None if user == bob.user and event.seq == sent.seq + 1 else event
        await room.send("really dropped")
        await room.send("after it")
        assert (await lied(bob)).reason is Reason.MISSING_EVENT


async def test_an_altered_message_is_refused_and_the_fork_is_seen(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _same = await pair(ann, bob)
        await room.send("honest")
        last = len(server.rooms[room.id].events)
        server.shown = lambda user, event: (
            msgspec.structs.replace(event, body=event.body[:40] + b"!" + event.body[41:])
            if user == bob.user and event.seq == last + 1 and event.body
            else event
        )
        await room.send("altered")
        refused = await until(bob, Undecryptable)
        assert isinstance(refused, Undecryptable)
        assert refused.reason is Reason.ALTERED_EVENT
        await room.send("its sender knows another head")
        assert (await lied(bob)).reason is Reason.FORKED_HISTORY


async def test_another_key_under_a_known_device_freezes(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("eve") as eve, open_one("bob2") as second:
        room, _same = await pair(ann, bob)
        await eve.register("eve", "evil password")
        record = server.devices[bob.device]
        fake = Person("bob", device=bob.device)
        record.published = fake.device_keys()
        await second.login(bob.user, "another password")
        with pytest.raises(RoomFrozen):
            await room.send("secret")
        assert (await lied(ann)).reason is Reason.DEVICE_KEY_CHANGED


async def test_an_ack_of_something_else_is_a_lie(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann:
        await ann.register("ann", "a password")
        room = await ann.create_room()
        server.acked = lambda ack: msgspec.structs.replace(ack, leaf=b"another leaf of the same length.")
        with pytest.raises(Lie) as caught:
            await room.send("what I sent")
        assert caught.value.reason is Reason.ALTERED_EVENT
        assert (await lied(ann)).room == room.id
        with pytest.raises(RoomFrozen):
            await room.send("more")


async def test_an_invitation_that_nobody_signed_is_a_lie_and_no_invitation(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        await ann.register("ann", "a password")
        await bob.register("bob", "another password")
        room = await ann.create_room(invite=[bob.user])
        await until(bob, Invited)
        [event] = server.users[bob.user].stream
        forged = msgspec.to_builtins(event.content)
        forged["invitation"]["signed"]["n"] = 99
        await server.user_event(bob.user, "invitation", forged)
        await server.user_event(bob.user, "invitation", {"invitation": "none"})
        assert [(await lied(bob)).reason, (await lied(bob)).reason] == [Reason.BAD_SIGNATURE, Reason.MALFORMED_EVENT]
        assert (await bob.join(room.id)).frozen is None


async def test_an_older_list_than_the_chain_names_gets_no_keys(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("bob2") as second:
        room, _ = await pair(ann, bob)
        older = server.key_answer(KeyQuery(device_keys={bob.user: []}))
        server.query = lambda asker, answer: older if asker == ann.user else answer
        await second.login(bob.user, "another password")
        with pytest.raises(RoomFrozen):
            await room.send("not for a part of Bob")
        assert (await lied(ann)).reason is Reason.DEVICE_LIST_MISMATCH


async def test_one_time_keys_that_the_server_made_are_refused(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        await ann.register("ann", "a password")
        await bob.register("bob", "another password")
        device = server.devices[bob.device]
        made = {name: msgspec.structs.replace(key, key="A" * 42 + "E") for name, key in device.one_time_keys.items()}
        device.one_time_keys = made
        room = await ann.direct(bob.user)
        with pytest.raises(RoomFrozen):
            await room.send("secret")
        assert (await lied(ann)).reason is Reason.BAD_ONE_TIME_KEY
        assert not device.mailbox
