"""What a client does when the server itself removes somebody: it asks for the server's key, believes it, and shares no key."""

from pathlib import Path

import pytest
import trio

from chatty.client import Client, MembershipChanged, Reason, ServerLied
from chatty.client.server_keys import ServerKeys
from chatty.client.store import LocalStore
from chatty.crypto.successions import make_succession
from chatty.crypto.tokens import SigningKey, make_jwks
from chatty.ids import Seq, UserId, UserSeq
from chatty.wire import chain
from chatty.wire.accounts import Jwks
from chatty.wire.events import Action, TimelineEvent
from chatty.wire.frames import Erased, Resync, RoomEntry
from chatty.wire.successions import KeySuccession, margin_ms
from tests.client.conftest import Open, lied, pair, text, until
from tests.client.small_server import SERVER, SERVER_KEY_SEED, SmallServer, Told


def erasing(seq: int, *, removal_seq: int) -> Told:
    """All are told that this message is erased."""

    def told(user: UserId, entries: list[RoomEntry], *, is_live: bool) -> list[RoomEntry]:
        return [erased(entry) if isinstance(entry, TimelineEvent) and entry.seq == seq else entry for entry in entries]

    def erased(event: TimelineEvent) -> Erased:
        return Erased(room=event.room, seq=event.seq, leaf=chain.leaf(event), removal_seq=Seq(removal_seq))

    return told


async def changed(client: Client, action: Action) -> MembershipChanged:
    while True:
        update = await until(client, MembershipChanged)
        assert isinstance(update, MembershipChanged)
        if update.action is action:
            return update


async def test_who_was_removed_gets_no_key_and_the_room_goes_on(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("cid") as cid:
        room, _ = await pair(ann, bob)
        await cid.register("cid", "a third password")
        await room.invite(cid.user)
        with trio.fail_after(10):
            while not cid.invitations():
                await trio.lowlevel.checkpoint()
        same = await cid.join(cid.invitations()[0])
        await changed(ann, Action.JOIN)
        await room.send("to both")
        assert await text(cid) == "to both"
        gone = bob.user
        mailbox_count = len(server.devices[bob.device].mailbox)
        placed = await server.remove(server.rooms[room.id], gone)
        for client in (ann, cid):
            told = await changed(client, Action.REMOVE)
            assert (told.target, told.actor, told.seq, told.role) == (gone, UserId(""), placed.seq, None)
        assert set(room.members) == set(same.members) == {ann.user, cid.user}
        await room.send("to the one who is left")
        assert await text(cid) == "to the one who is left"
        assert len(server.devices[bob.device].mailbox) == mailbox_count


async def test_the_key_is_kept_and_asked_for_once(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        await server.remove(server.rooms[room.id], bob.user)
        await changed(ann, Action.REMOVE)
    asked_count = server.requests_seen.count(("GET", "/v1/jwks"))
    assert asked_count > 0
    async with open_one("ann") as ann:
        await ann.wait_online()
        await server.remove(server.rooms[room.id], UserId("@bob:example.org"))
        await changed(ann, Action.REMOVE)
    assert server.requests_seen.count(("GET", "/v1/jwks")) == asked_count


async def test_a_new_device_reads_past_what_was_erased(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("phone") as phone:
        room, same = await pair(ann, bob)
        sent = await same.send("to be forgotten")
        assert await text(ann) == "to be forgotten"
        removal = await server.remove(server.rooms[room.id], bob.user)
        after = await room.send("after it")
        server.told = erasing(sent.seq, removal_seq=removal.seq)
        server.requests_seen.clear()
        await phone.login(ann.user, "a password")
        own = phone.room(room.id)
        await own.read_up_to(after.seq)
        assert own.frozen is None
        assert set(own.members) == {ann.user}
        assert phone._engine.messages._erased == {}
        assert ("GET", f"/v1/rooms/{room.id}/events") not in server.requests_seen
        await ann._engine.link.tell(lambda id_: Resync(id=id_, user_seq=UserSeq(0), cursors=[]))
        await room.send("still in order")
        assert room.frozen is None


async def test_what_is_called_erased_without_a_removal_is_noted(open_one: Open, server: SmallServer) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("phone") as phone:
        room, same = await pair(ann, bob)
        sent = await same.send("withheld from the phone")
        server.told = erasing(sent.seq, removal_seq=sent.seq + 99)
        await phone.login(ann.user, "a password")
        await phone.room(room.id).read_up_to(sent.seq)
        assert phone._engine.messages._erased[room.id].seq == sent.seq
        assert phone._engine.messages.has_unreported


async def test_a_removal_by_a_key_that_the_server_does_not_publish_is_a_lie(
    open_one: Open, server: SmallServer
) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        server.published_keys.clear()
        await server.remove(server.rooms[room.id], bob.user)
        lied = await until(ann, ServerLied)
        assert isinstance(lied, ServerLied)
        assert (lied.reason, lied.room) == (Reason.BAD_SIGNATURE, room.id)


def test_a_key_is_kept_under_its_own_name_alone(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store", key=b"k" * 32)
    own, other = SigningKey(b"a" * 32), SigningKey(b"b" * 32)
    keys = ServerKeys(store, server=SERVER)
    shown = make_jwks([other], checkpoint_keys=[own])
    [token_key, jwk] = shown.keys
    wrong = [
        token_key,
        {**jwk, "kid": other.key_id},
        {**jwk, "x": jwk["x"][:-1] + "_"},
        {**jwk, "kty": "EC"},
        {**jwk, "x": "A" * 43},
        {"kid": own.key_id},
    ]
    keys.take(Jwks(keys=wrong))
    assert keys.key(own.key_id, 1) is keys.key(other.key_id, 1) is None
    keys.take(shown)
    assert ServerKeys(store, server=SERVER).key(own.key_id, 1) == own.public_text
    assert keys.key(other.key_id, 1) is None
    store.close()


def follows(old: bytes, new: bytes, *, time: int = 0, server: str = SERVER) -> KeySuccession:
    return make_succession(server=server, purpose="checkpoint", old_seed=old, new_seed=new, time=time)


def test_a_new_key_is_believed_because_the_old_one_signed_for_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store", key=b"k" * 32)
    seeds = [letter * 32 for letter in (b"a", b"b", b"c", b"d")]
    first, second, third, other = [SigningKey(seed) for seed in seeds]
    keys = ServerKeys(store, server=SERVER)
    keys.take(make_jwks([], checkpoint_keys=[first]))
    alone = [follows(seeds[0], seeds[1], server="example.com"), follows(seeds[3], seeds[1])]
    keys.take(make_jwks([], checkpoint_keys=[second, other], successions=alone))
    assert keys.key(second.key_id, 1) is keys.key(other.key_id, 1) is None
    chain_ = [follows(seeds[0], seeds[1], time=1_000), follows(seeds[1], seeds[2], time=2_000)]
    keys.take(make_jwks([], checkpoint_keys=[first, second, third, other], successions=chain_))
    for seen in (keys, ServerKeys(store, server=SERVER)):
        assert seen.key(third.key_id, 1) == third.public_text
        assert seen.key(other.key_id, 1) is None
        assert seen.key(first.key_id, 1_000 + margin_ms) == first.public_text
        assert seen.key(first.key_id, 1_001 + margin_ms) is None
    keys.take(make_jwks([], checkpoint_keys=[first]))
    assert ServerKeys(store, server=SERVER).key(first.key_id, 1_001 + margin_ms) == first.public_text
    store.close()


@pytest.mark.parametrize("is_named", [True, False])
async def test_a_room_goes_on_under_the_servers_next_key_if_the_one_before_named_it(
    open_one: Open, server: SmallServer, is_named: bool
) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("cid") as cid:
        room, _ = await pair(ann, bob)
        await cid.register("cid", "a third password")
        await room.invite(cid.user)
        with trio.fail_after(10):
            while not cid.invitations():
                await trio.lowlevel.checkpoint()
        await cid.join(cid.invitations()[0])
        await changed(ann, Action.JOIN)
        await server.remove(server.rooms[room.id], bob.user)
        await changed(ann, Action.REMOVE)
        new_seed = b"n" * 32
        server.successions = [follows(SERVER_KEY_SEED, new_seed, time=2**40)] if is_named else []
        server.key = SigningKey(new_seed)
        server.published_keys.append(server.key)
        await server.remove(server.rooms[room.id], cid.user)
        if is_named:
            assert (await changed(ann, Action.REMOVE)).target == cid.user
        else:
            assert (await lied(ann)).reason is Reason.BAD_SIGNATURE
