"""What the SDK calls a device's secrets are the real ones: they give the public keys, and open the messages."""

from pathlib import Path

import nacl.bindings

from chatty.client import Message
from chatty.client.accounts import load_identity
from chatty.client.secret_keys import SecretKey, secret_keys
from chatty.client.store import LocalStore
from chatty.crypto.signatures import public_key
from chatty.wire.canonical import encode_base64
from tests.client.conftest import Open, pair, until
from tests.client.small_server import SmallServer


async def test_they_are_the_private_halves_of_what_the_server_shows(
    open_one: Open, server: SmallServer, tmp_path: Path
) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _ = await pair(ann, bob)
        await room.send("for the message keys")
        await until(bob, Message)
        answer = server.users[ann.user].devices[ann.device].published
    assert answer is not None
    store = LocalStore(tmp_path / "ann", key=b"a" * 32)
    identity = load_identity(store)
    keys = {key.name: key.value for key in secret_keys(store)}
    store.close()
    assert identity is not None
    seeds = {name: value for name, value in keys.items() if isinstance(value, bytes)}
    assert public_key(seeds["identity key"]) == identity.identity_key
    assert public_key(seeds["device's signing key"]) == answer.keys[f"ed25519:{identity.device}"]
    exchange = nacl.bindings.crypto_scalarmult_base(seeds["device's exchange key"])
    assert encode_base64(exchange) == answer.keys[f"curve25519:{identity.device}"]
    assert seeds["recovery secret"] == identity.recovery_secret
    assert len(seeds["message key"]) == 96
    assert {"access token", "refresh token"} <= keys.keys()


async def test_both_sides_of_a_room_hold_the_same_message_keys(open_one: Open, tmp_path: Path) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, same = await pair(ann, bob)
        await room.send("one")
        await until(bob, Message)
        await same.send("two")
        await until(ann, Message)
        await until(ann, Message)
    held = []
    for name in ("ann", "bob"):
        store = LocalStore(tmp_path / name, key=name[:1].encode() * 32)
        held.append({key.value for key in secret_keys(store) if key.name == "message key"})
        store.close()
    assert held[0] == held[1]
    assert len(held[0]) == 2


def test_a_store_of_nobody_has_none(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "nobody", key=b"n" * 32)
    assert secret_keys(store) == []
    store.close()


def test_they_do_not_print_themselves() -> None:
    assert repr(SecretKey(name="identity key", value=b"secret")) == "SecretKey(identity key)"
