"""Clients of a small server, for tests: opened by the name of their store, and what they are told."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from chatty.client import (
    Client,
    Invited,
    Message,
    ServerLied,
    Update,
    open_client,
)
from chatty.client.room import Room
from chatty.ids import Seq
from chatty.wire.frames import Encoding
from tests.client.small_server import CHEAP_LIMITS, SmallServer, small_server

Open = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
async def server() -> AsyncIterator[SmallServer]:
    async with small_server() as server:
        yield server


@pytest.fixture
def open_one(server: SmallServer, tmp_path: Path) -> Open:
    """Open the client of a store by its name."""

    def open_one(store: str, *, encoding: Encoding = "msgpack") -> AbstractAsyncContextManager[Client]:
        return open_client(
            server.origin,
            tmp_path / store,
            store_key=store[:1].encode() * 32,
            encoding=encoding,
            transport=server.transport,
            derivation_limits=CHEAP_LIMITS,
            jitter=lambda ceiling_s: min(ceiling_s, 0.05),
        )

    return open_one


async def until(client: Client, kind: type[Update]) -> Update:
    """The next update of this kind."""
    with trio.fail_after(10):
        async for update in client.messages():
            if isinstance(update, kind):
                return update
    raise AssertionError("signed out")


async def text(client: Client) -> str:
    update = await until(client, Message)
    assert isinstance(update, Message)
    return update.text


async def lied(client: Client) -> ServerLied:
    """The next lie that the client tells of."""
    update = await until(client, ServerLied)
    assert isinstance(update, ServerLied)
    return update


async def pair(ann: Client, bob: Client) -> tuple[Room, Room]:
    """A room of two, joined by invitation."""
    await ann.register("ann", "a password")
    await bob.register("bob", "another password")
    room = await ann.create_room(invite=[bob.user])
    await until(bob, Invited)
    [invitation] = bob.invitations()
    same = await bob.join(invitation)
    await room.read_up_to(seq_of(same))
    return room, same


def seq_of(room: Room) -> Seq:
    return room._verifier.position.seq
