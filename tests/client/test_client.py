"""The client as an application uses it, against a small server in memory."""

import time
from pathlib import Path

import pytest
import trio

from chatty.client import (
    Client,
    Invited,
    MembershipChanged,
    NotSignedIn,
    Reason,
    SessionEnded,
    SignedOut,
    StoreRolledBack,
    Undecryptable,
    Unsent,
)
from chatty.errors import NotAMember, Overloaded
from chatty.ids import DeviceId
from chatty.wire.events import Action, RoomRole
from chatty.wire.frames import Encoding
from chatty.wire.limits import epoch_wait_s
from tests.client import small_server
from tests.client.conftest import Open, pair, text, until
from tests.client.small_server import SmallServer, one_time_keys_max


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_two_people_talk(open_one: Open, encoding: Encoding) -> None:
    async with open_one("ann", encoding=encoding) as ann, open_one("bob", encoding=encoding) as bob:
        room, same = await pair(ann, bob)
        sent = await room.send("hello Bob")
        assert await text(bob) == "hello Bob"
        await same.send("hello Ann")
        assert [await text(ann), await text(ann)] == ["hello Bob", "hello Ann"]
        assert room.members == same.members == {ann.user: RoomRole.OWNER, bob.user: RoomRole.MEMBER}
        assert room.history()[0].event_id == sent.event_id


async def test_a_direct_room_is_the_same_for_both(open_one: Open) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        await ann.register("ann", "a password")
        await bob.register("bob", "another password")
        room = await ann.direct(bob.user)
        await room.send("psst")
        assert await text(bob) == "psst"
        assert (await bob.direct(ann.user)).id == room.id


async def test_messages_of_before_are_hidden_and_history_is_verified(open_one: Open) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        await ann.register("ann", "a password")
        await bob.register("bob", "another password")
        room = await ann.create_room()
        await room.send("before Bob")
        await room.invite(bob.user)
        await until(bob, Invited)
        await bob.join(room.id)
        await room.send("after Bob")
        assert await text(bob) == "after Bob"


async def test_what_came_while_away_is_read_after_a_restart(open_one: Open) -> None:
    async with open_one("ann") as ann:
        async with open_one("bob") as bob:
            room, same = await pair(ann, bob)
            await room.send("one")
            assert await text(bob) == "one"
        await room.send("two")
        await room.send("three")
        async with open_one("bob") as bob:
            assert [await text(bob), await text(bob)] == ["two", "three"]
            [same] = bob.rooms()
            assert [message.text for message in same.history()] == ["one", "two", "three"]
            await same.send("here again")
        with trio.fail_after(5):
            while await text(ann) != "here again":
                pass


async def test_a_second_device_reads_and_a_revoked_one_is_signed_out(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("bob2") as second:
        room, _same = await pair(ann, bob)
        await second.login(bob.user, "another password")
        assert second.device != bob.device
        await room.send("to both")  # stale at first: the list changed
        assert await text(bob) == "to both"
        assert await text(second) == "to both"
        session = server.sends_seen[-1].session_id
        await bob.revoke_device(second.device)
        await until(second, SignedOut)
        await room.send("to one")
        assert await text(bob) == "to one"
        assert server.sends_seen[-1].session_id != session
        assert not server.devices[second_device(server, bob)].mailbox


def second_device(server: SmallServer, bob: Client) -> DeviceId:
    return next(device for device in server.users[bob.user].devices if device != bob.device)


async def test_a_lost_ack_is_settled_by_the_same_bytes(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _same = await pair(ann, bob)
        server.failing = ["break", Overloaded(limiter="journal", retry_after_s=0.01)]
        await room.send("once")
        await room.send("and then")
        assert [await text(bob), await text(bob)] == ["once", "and then"]
        first, second, third, *_ = server.sends_seen
        assert (first.n, first.body) == (second.n, second.body) == (third.n, third.body)


async def test_one_who_lagged_gets_everything_after_the_resync(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        await room.send("one")
        assert await text(bob) == "one"
        await server.lag(bob.device)
        await room.send("two")
        await room.send("three")
        assert [await text(bob), await text(bob)] == ["two", "three"]


async def test_cursors_of_many_rooms_go_in_pages_of_a_resync(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        direct = await ann.direct(bob.user)
        monkeypatch.setattr("chatty.wire.limits.cursors_per_frame_max", 1)
        await server.lag(bob.device)
        await room.send("in the one")
        await direct.send("in the other")
        assert {await text(bob), await text(bob)} == {"in the one", "in the other"}


async def test_a_key_count_from_before_the_last_upload_does_no_harm(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann:
        await ann.register("ann", "a password")
        await ann.create_room()  # its events came over the socket: it is open
        stock, asked = server.devices[ann.device].one_time_keys, len(server.uploads_seen)
        await server.tell_key_count(ann.device, 0)
        while len(server.uploads_seen) == asked:
            await server.upload_came.wait()
        assert [upload.one_time_keys for upload in server.uploads_seen[1:] if upload.one_time_keys] == []

        for key_id in list(stock)[10:]:
            del stock[key_id]
        await server.tell_key_count(ann.device, 10)
        while len(stock) < one_time_keys_max:
            await server.upload_came.wait()


async def test_a_server_that_keeps_fewer_keys_gets_fewer(
    open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_server, "one_time_keys_max", 10)
    async with open_one("ann") as ann:
        with trio.fail_after(10):
            await ann.register("ann", "a password")
        stock = server.devices[ann.device].one_time_keys
        assert len(stock) == 10
        await ann.create_room()
        for key_id in list(stock)[3:]:
            del stock[key_id]
        await server.tell_key_count(ann.device, 3)
        while len(stock) < 10:
            await server.upload_came.wait()


async def test_a_fresh_token_goes_over_the_open_socket(open_one: Open, server: SmallServer) -> None:
    server.expires_in_s = 1
    async with open_one("ann") as ann:
        await ann.register("ann", "a password")
        with trio.fail_after(10):
            await server.token_came.wait()
        assert (await ann.create_room()).frozen is None


async def test_a_final_refusal_is_raised(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _same = await pair(ann, bob)
        server.failing = [NotAMember("no")]
        with pytest.raises(NotAMember):
            await room.send("refused")
        await room.send("accepted")
        assert await text(bob) == "accepted"


async def test_who_was_kicked_cannot_send_and_gets_no_more_keys(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, same = await pair(ann, bob)
        await room.send("one")
        session = server.sends_seen[-1].session_id
        await room.kick(bob.user)
        while not (
            isinstance(update := await until(bob, MembershipChanged), MembershipChanged)
            and update.action is Action.KICK
        ):
            pass
        with pytest.raises(NotAMember):
            await same.send("still here?")
        await room.send("alone")
        assert server.sends_seen[-1].session_id != session
        assert not server.devices[bob.device].mailbox


async def test_who_was_kicked_may_come_back_with_a_new_invitation(open_one: Open) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, same = await pair(ann, bob)
        await room.kick(bob.user)
        await room.send("while Bob is outside")
        await room.invite(bob.user)
        await until(bob, Invited)
        await bob.join(room.id)
        await room.send("welcome back")
        assert await text(bob) == "welcome back"
        assert set(same.members) == {ann.user, bob.user}
        assert same.frozen is None


async def test_a_rolled_back_store_goes_on_with_new_sessions(
    open_one: Open, server: SmallServer, tmp_path: Path
) -> None:
    async with open_one("bob") as bob:
        async with open_one("ann") as ann:
            room, _same = await pair(ann, bob)
            await room.send("one")
        old = (tmp_path / "ann").read_bytes()
        async with open_one("ann") as ann:
            await ann.rooms()[0].send("two")
        (tmp_path / "ann").write_bytes(old)
        async with open_one("ann") as ann:
            await until(ann, StoreRolledBack)
            await ann.rooms()[0].send("three")
        assert [await text(bob), await text(bob), await text(bob)] == ["one", "two", "three"]
        sessions = [send.session_id for send in server.sends_seen]
        assert sessions[0] == sessions[1] != sessions[2]


async def test_a_device_without_one_time_keys_is_told_why_it_cannot_read(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        device = server.devices[bob.device]
        device.one_time_keys, device.fallback = {}, {}
        await room.send("out of keys")
        bob._engine.messages._now_s = lambda: time.time() + epoch_wait_s
        update = await until(bob, Undecryptable)
        assert isinstance(update, Undecryptable)
        assert (update.reason, update.detail) == (Reason.WITHHELD, "m.no_olm")
        assert bob._engine.undecryptables.counts == {"withheld": 1}  # told in a while


async def test_after_logging_out_nothing_is_sent(open_one: Open) -> None:
    async with open_one("ann") as ann:
        await ann.register("ann", "a password")
        room = await ann.create_room()
        await ann.logout()
        await until(ann, SignedOut)
        with pytest.raises(SessionEnded):
            await room.send("anybody?")
    async with open_one("ann") as ann:
        with pytest.raises(NotSignedIn):
            ann.rooms()


async def test_rooms_members_and_messages_are_there_offline(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        await room.send("kept")
        assert await text(ann) == "kept"
        members = dict(room.members)
    server.is_down = True
    async with open_one("ann") as ann:
        [again] = ann.rooms()
        assert again.members == members
        assert [message.text for message in again.history()] == ["kept"]


async def test_a_message_written_before_a_crash_is_sent_after_it(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        await room.send("one")
        server.failing = [Overloaded(limiter="journal", retry_after_s=0.0)] * 1_000
        with trio.move_on_after(0.3):
            await room.send("two")
        assert ann.unsent() == [Unsent(room=room.id, text="two")]
    written = server.sends_seen[-1]
    async with open_one("ann") as ann, open_one("bob") as bob:
        assert ann.unsent() == [Unsent(room=room.id, text="two")]
        server.failing = []
        assert [await text(bob), await text(bob)] == ["one", "two"]
        assert [await text(ann), await text(ann)] == ["one", "two"]
        assert (server.sends_seen[-1].n, server.sends_seen[-1].body) == (written.n, written.body)
        await ann.room(room.id).send("three")
        assert ann.unsent() == []


async def test_an_error_inside_the_block_comes_out_bare(open_one: Open) -> None:
    with pytest.raises(KeyError):
        async with open_one("ann"):
            raise KeyError
