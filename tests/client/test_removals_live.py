"""What a client does when the server itself removes somebody: it asks for the server's key, believes it, and shares no key."""

from pathlib import Path

import msgspec
import trio

from chatty.client import Client, MembershipChanged, Reason, ServerLied
from chatty.client.server_keys import ServerKeys
from chatty.client.store import LocalStore
from chatty.crypto.tokens import SigningKey, make_jwks
from chatty.ids import UserId
from chatty.wire.canonical import encode_base64
from chatty.wire.events import Action
from tests.client.conftest import Open, pair, text, until
from tests.client.small_server import SmallServer


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
    keys = ServerKeys(store)
    jwks = [msgspec.to_builtins(one) for one in make_jwks([own]).keys]
    wrong = [
        {**jwks[0], "kid": other.key_id},
        {**jwks[0], "x": jwks[0]["x"][:-1] + "_"},
        {**jwks[0], "kty": "EC"},
        {**jwks[0], "x": "A" * 43},
        {"kid": own.key_id},
    ]
    keys.take(wrong)
    assert keys.key(own.key_id) is keys.key(other.key_id) is None
    keys.take(jwks)
    assert ServerKeys(store).key(own.key_id) == encode_base64(own.public.public_bytes_raw())
    store.close()
