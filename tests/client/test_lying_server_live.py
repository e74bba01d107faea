"""Lies over a real socket: the room is frozen, nobody gets a key, other rooms go on."""

from functools import partial
from typing import Any

import msgspec
import pytest

from chatty.client import Client, Invited, Lie, Message, Reason, RoomFrozen, ServerLied, Undecryptable, client, outbox
from chatty.client.device_lists import DeviceLists
from chatty.client.olm import OlmAccount
from chatty.client.room import Room
from chatty.client.room_links import InvitationLink
from chatty.client.rooms import RoomVerifier
from chatty.client.streams import UserStreamIntake
from chatty.ids import RoomId, Seq, UserId, UserSeq
from chatty.wire import chain
from chatty.wire.events import Action, TimelineEvent
from chatty.wire.frames import Ack, RoomEntry, Stretch, UserEvent
from chatty.wire.keys import KeyQuery
from chatty.wire.rooms import RoomCommitted
from tests.client.conftest import Open, lied, pair, seq_of, text, until
from tests.client.forge import Person
from tests.client.lies import REMOVABLE
from tests.client.small_server import Device, SmallServer


def keys_given(device: Device) -> list[str]:
    """Whom the room keys in this device's mailbox were encrypted for, acknowledged ones too: curve25519 keys."""
    return [key for row in device.given if row.kind == "m.room.encrypted" for key in row.content["ciphertext"]]


async def enter_uninvited(ghost: Client, room: RoomId) -> None:
    """The server takes it as it takes everything; the ghost's own client believes it as little as others do."""
    ghost._engine.book.add(room)
    try:
        await ghost.room(room).change(Action.JOIN, ghost.user)
    except RoomFrozen:
        return


async def test_a_ghost_gets_no_key_and_the_other_room_goes_on(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("ghost") as ghost:
        room, same = await pair(ann, bob)
        other = await ann.direct(bob.user)
        await ghost.register("ghost", "the server's own")
        await enter_uninvited(ghost, room.id)
        for client_, one in ((ann, room), (bob, same)):
            caught = await lied(client_)
            assert (caught.reason, caught.room) == (Reason.FORGED_MEMBERSHIP, room.id)
            with pytest.raises(RoomFrozen):
                await one.send("secret")
        assert not keys_given(server.devices[ghost.device])
        await other.send("they added somebody")
        assert await text(bob) == "they added somebody"
        assert keys_given(server.devices[bob.device])
        assert not keys_given(server.devices[ghost.device])


async def test_without_the_check_the_ghost_gets_the_key_and_reads(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RoomVerifier, "check_authority", REMOVABLE["check_authority"])
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("ghost") as ghost:
        room, _same = await pair(ann, bob)
        await ghost.register("ghost", "the server's own")
        await enter_uninvited(ghost, room.id)
        await room.read_up_to(Seq(len(server.rooms[room.id].events)))
        await room.send("secret")
        assert await text(ghost) == "secret"
        assert keys_given(server.devices[ghost.device])


async def enter_by(entering: Client, room: RoomId, link: InvitationLink | None) -> None:
    """As enter_uninvited(), by a link or into a listed room."""
    try:
        await entering.room(room).join(link=link)
    except RoomFrozen:
        return


async def banned(ann: Client, bob: Client) -> Room:
    room, _ = await pair(ann, bob)
    await room.list_publicly("Open to all but Bob")
    await room.ban(bob.user)
    return room


async def test_whom_the_server_lets_in_against_a_ban_gets_no_key(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room = await banned(ann, bob)
        await enter_by(bob, room.id, None)
        for client_ in (ann, bob):
            caught = await lied(client_)
            assert (caught.reason, caught.room) == (Reason.BANNED_MEMBER, room.id)
        with pytest.raises(RoomFrozen):
            await room.send("not for Bob")
        assert not keys_given(server.devices[bob.device])


async def test_without_the_check_the_banned_one_gets_the_key_and_reads(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RoomVerifier, "check_authority", REMOVABLE["check_authority"])
    async with open_one("ann") as ann, open_one("bob") as bob:
        room = await banned(ann, bob)
        await enter_by(bob, room.id, None)
        await room.read_up_to(Seq(len(server.rooms[room.id].events)))
        await room.send("not for Bob")
        assert await text(bob) == "not for Bob"


async def used_up(ann: Client, bob: Client) -> tuple[Room, InvitationLink]:
    """Bob has come in by a link that was good for one."""
    await ann.register("ann", "a password")
    await bob.register("bob", "another password")
    room = await ann.create_room()
    link = await room.make_link(uses_max=1)
    same = await bob.join_by_link(link.text)
    await room.read_up_to(seq_of(same))
    return room, link


async def test_whom_the_server_lets_in_by_a_used_up_link_gets_no_key(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("ghost") as ghost:
        room, link = await used_up(ann, bob)
        await ghost.register("ghost", "has the link too")
        await enter_by(ghost, room.id, link)
        for client_ in (ann, bob, ghost):
            caught = await lied(client_)
            assert (caught.reason, caught.room) == (Reason.VOID_LINK, room.id)
        with pytest.raises(RoomFrozen):
            await room.send("secret")
        assert not keys_given(server.devices[ghost.device])


async def test_without_the_check_a_used_up_link_lets_in_and_read(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RoomVerifier, "check_authority", REMOVABLE["check_authority"])
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("ghost") as ghost:
        room, link = await used_up(ann, bob)
        await ghost.register("ghost", "has the link too")
        await enter_by(ghost, room.id, link)
        await room.read_up_to(Seq(len(server.rooms[room.id].events)))
        await room.send("secret")
        assert await text(ghost) == "secret"


async def test_an_altered_message_is_refused_and_the_fork_is_seen(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _same = await pair(ann, bob)
        await room.send("honest")
        last = len(server.rooms[room.id].events)

        def told(user: UserId, entries: list[RoomEntry], *, is_live: bool) -> list[RoomEntry]:
            return [damaged(entry) if user == bob.user and place(entry) == last + 1 else entry for entry in entries]

        server.told = told
        await room.send("altered")
        refused = await until(bob, Undecryptable)
        assert isinstance(refused, Undecryptable)
        assert refused.reason is Reason.ALTERED_EVENT
        await room.send("its sender knows another head")
        assert (await lied(bob)).reason is Reason.FORKED_HISTORY


def place(entry: RoomEntry) -> Seq:
    return entry.from_seq if isinstance(entry, Stretch) else entry.seq


def damaged(entry: RoomEntry) -> RoomEntry:
    assert isinstance(entry, TimelineEvent)
    assert entry.body
    return msgspec.structs.replace(entry, body=entry.body[:40] + b"!" + entry.body[41:])


# Two histories


class Fork:
    """A server that hides one place from a user and numbers for them what follows, so that nothing is missing there."""

    def __init__(self, server: SmallServer, user: UserId, room: RoomId, hidden: int) -> None:
        self._server, self._user, self._room, self._hidden = server, user, room, hidden
        server.told, server.acked = self.told, self.acked

    def told(self, user: UserId, entries: list[RoomEntry], *, is_live: bool) -> list[RoomEntry]:
        if user != self._user:
            return entries
        return [self._moved(entry) for entry in entries if place(entry) != self._hidden]

    def _moved(self, entry: RoomEntry) -> RoomEntry:
        if isinstance(entry, TimelineEvent) and entry.seq > self._hidden:
            return msgspec.structs.replace(entry, seq=Seq(entry.seq - 1))
        return entry

    def acked(self, ack: Ack) -> Ack:
        event = self._server.rooms[self._room].events[ack.seq - 1]
        if event.sender != self._user:
            return ack
        moved = self._moved(event)
        assert isinstance(moved, TimelineEvent)
        return msgspec.structs.replace(ack, seq=moved.seq, leaf=chain.leaf(moved))


async def forked(ann: Client, bob: Client, server: SmallServer) -> tuple[Room, Room]:
    """Ann sees a message that Bob is not shown. Where it stands for her, his first answer stands for him; his second says so."""
    room, same = await pair(ann, bob)
    await room.send("for both")
    assert await text(bob) == "for both"
    Fork(server, bob.user, room.id, len(server.rooms[room.id].events) + 1)
    sent = await room.send("hidden from Bob")
    await room.read_up_to(sent.seq)
    answer = await same.send("where Ann saw another")
    await same.read_up_to(answer.seq)
    await same.send("and behind it")
    return room, same


async def test_two_clients_that_are_shown_different_histories_find_out(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _same = await forked(ann, bob, server)
        caught = await lied(ann)
        assert (caught.reason, caught.room) == (Reason.FORKED_HISTORY, room.id)


async def test_without_the_check_two_histories_stand_side_by_side(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RoomVerifier, "check_head_claim", REMOVABLE["check_head_claim"])
    async with open_one("ann") as ann, open_one("bob") as bob:
        await forked(ann, bob, server)
        async for update in ann.messages():
            assert not isinstance(update, ServerLied)
            if isinstance(update, Message) and update.text == "and behind it":
                break


# Keys


async def swap_keys(server: SmallServer, bob: Client, second: Client) -> Person:
    """The server puts keys of its own under Bob's device, and makes the others ask for his list. Returns: whose they are."""
    record = server.devices[bob.device]
    fake = Person("bob", device=bob.device)
    record.published = fake.device_keys()
    record.one_time_keys = {f"signed_curve25519:{at}": fake.one_time_key() for at in range(5)}
    await second.login(bob.user, "another password")
    return fake


async def test_another_key_under_a_known_device_freezes(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("bob2") as second:
        room, _same = await pair(ann, bob)
        fake = await swap_keys(server, bob, second)
        with pytest.raises(RoomFrozen):
            await room.send("secret")
        assert (await lied(ann)).reason is Reason.DEVICE_KEY_CHANGED
        assert fake.curve25519 not in keys_given(server.devices[bob.device])


async def test_without_the_check_the_other_key_is_encrypted_for(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeviceLists, "check_keys_unchanged", lambda *_, **__: None)
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("bob2") as second:
        room, _same = await pair(ann, bob)
        fake = await swap_keys(server, bob, second)
        await room.send("secret")
        assert fake.curve25519 in keys_given(server.devices[bob.device])


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


async def test_an_ack_of_another_place_is_found_out_when_that_place_comes(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, same = await pair(ann, bob)

        def further(ack: Ack) -> Ack:
            event = msgspec.structs.replace(server.rooms[room.id].events[ack.seq - 1], seq=Seq(ack.seq + 1))
            return msgspec.structs.replace(ack, seq=event.seq, leaf=chain.leaf(event))

        server.acked = further
        await room.send("what I sent")
        assert await text(bob) == "what I sent"
        server.acked = lambda ack: ack
        await same.send("what stands there")
        assert (await lied(ann)).reason is Reason.FORKED_HISTORY


async def test_without_the_check_an_ack_of_something_else_is_believed(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "check_ack", lambda *_: None)
    async with open_one("ann") as ann:
        await ann.register("ann", "a password")
        room = await ann.create_room()
        server.acked = lambda ack: msgspec.structs.replace(ack, leaf=b"another leaf of the same length.")
        assert (await room.send("what I sent")).seq == 3


# Rooms and the own stream


async def another_room(ann: Client, eve: Client, server: SmallServer) -> Room:
    """Ann shares a room with Eve, and the server answers with it whatever room she asks for."""
    room, _ = await pair(ann, eve)
    server.created = lambda made: RoomCommitted(room=room.id, seq=made.seq, epoch=made.epoch, is_new=False)
    return room


async def test_another_room_than_the_one_that_was_asked_for_is_refused(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("eve") as eve, open_one("bob") as bob:
        await another_room(ann, eve, server)
        await bob.register("cleo", "the third password")
        for ask in (partial(ann.direct, bob.user), ann.create_room):
            with pytest.raises(Lie) as caught:
                await ask()
            assert caught.value.reason is Reason.WRONG_ROOM


async def test_without_the_check_the_other_room_is_taken_for_it(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "check_room", lambda *_: None)
    async with open_one("ann") as ann, open_one("eve") as eve, open_one("bob") as bob:
        room = await another_room(ann, eve, server)
        await bob.register("cleo", "the third password")
        assert (await ann.direct(bob.user)).id == room.id
        assert eve.user in room.members


async def test_a_hole_in_the_own_stream_is_told_and_what_follows_is_taken(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        await ann.register("ann", "a password")
        await bob.register("bob", "another password")
        await bob.wait_online()
        await hide_from_stream(server, bob)
        room = await ann.create_room(invite=[bob.user])
        assert isinstance(await until(bob, Invited), Invited)
        assert (await lied(bob)).reason is Reason.MISSING_EVENT
        assert (await bob.join(room.id)).frozen is None


async def test_without_the_check_a_hole_in_the_own_stream_stays_unseen(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UserStreamIntake, "check_next", lambda *_: None)
    async with open_one("ann") as ann, open_one("bob") as bob:
        await ann.register("ann", "a password")
        await bob.register("bob", "another password")
        await bob.wait_online()
        await hide_from_stream(server, bob)
        await ann.create_room(invite=[bob.user])
        await until(bob, Invited)
        await server.user_event(bob.user, "invitation", {"invitation": "none"})
        assert (await lied(bob)).reason is Reason.MALFORMED_EVENT  # the first lie that is seen


async def hide_from_stream(server: SmallServer, client_: Client) -> None:
    """The next place of the client's own stream passes without a word."""
    stream, socket = server.users[client_.user].stream, server.devices[client_.device].socket
    assert socket is not None
    stream.append(UserEvent(seq=UserSeq(len(stream) + 1), time=1, kind="devices", content={"list_version": 2}))
    socket.user_sent = len(stream)


async def test_a_word_of_a_room_that_makes_no_sense_is_a_lie_and_ends_nothing(
    open_one: Open, server: SmallServer
) -> None:
    async with open_one("ann") as ann:
        await ann.register("ann", "a password")
        contents: list[dict[str, Any]] = [{}, {"room": "none", "seq": 1}, {"room": 7, "seq": 1}]
        for content in contents:
            await server.user_event(ann.user, "room_joined", content)
            assert (await lied(ann)).reason is Reason.MALFORMED_EVENT
        assert (await ann.create_room()).frozen is None


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
        assert not keys_given(device)


async def test_without_the_check_one_time_keys_of_the_server_are_used(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OlmAccount, "check_one_time_key", lambda *_: None)
    async with open_one("ann") as ann, open_one("bob") as bob:
        await ann.register("ann", "a password")
        await bob.register("bob", "another password")
        device = server.devices[bob.device]
        device.one_time_keys = {name: Person("bob").one_time_key() for name in device.one_time_keys}
        room = await ann.direct(bob.user)
        await room.send("secret")
        assert keys_given(device)
