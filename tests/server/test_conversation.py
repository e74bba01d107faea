"""People who talk through the whole application: real client, real Hypercorn, real PostgreSQL, real cryptography."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from chatty.app import Hooks
from chatty.cli import run_server
from chatty.client import Client, Invited, Message, open_client
from chatty.config import Settings
from tests.client.conftest import Open, text, until
from tests.client.small_server import CHEAP_LIMITS


@pytest.fixture(params=[False, True], ids=["bus", "silent bus"])
async def origin(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A server on a free port. With a silent bus only the comparison with the store delivers what it had to carry."""
    with trio.socket.socket() as probe:
        await probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    origin = f"http://127.0.0.1:{port}"
    settings = Settings(
        data_dir=tmp_path / "data",
        port=port,
        public_origin=origin,
        registration="open",
        compare_interval_s=0.2,
        revocation_poll_interval_s=0.2,
    )
    hooks = Hooks(is_bus_silent=request.param)

    async def serve(*, task_status: trio.TaskStatus[str]) -> None:
        await run_server(settings, address=database, hooks=hooks, task_status=task_status)

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield origin
        nursery.cancel_scope.cancel()


@pytest.fixture
def open_one(origin: str, tmp_path: Path) -> Open:
    def open_one(store: str) -> AbstractAsyncContextManager[Client]:
        return open_client(origin, tmp_path / store, store_key=store[:1].encode() * 32, derivation_limits=CHEAP_LIMITS)

    return open_one


async def test_a_group_talks_grows_and_shrinks(open_one: Open) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("cid") as cid:
        for name, client in (("ann", ann), ("bob", bob), ("cid", cid)):
            await client.register(name, f"the long password of {name}")
        room = await ann.create_room(invite=[bob.user])
        await until(bob, Invited)
        same = await bob.join(room.id)
        await same.send("hello Ann")
        assert await text(ann) == "hello Ann"
        await room.invite(cid.user)
        await until(cid, Invited)
        third = await cid.join(room.id)
        await third.send("hello both")
        assert await text(bob) == "hello Ann"
        assert await text(bob) == "hello both"
        await room.kick(bob.user)
        await third.send("without Bob")
        assert await text(ann) == "hello both"
        assert await text(ann) == "without Bob"
        assert set(room.members) == {ann.user, cid.user}


async def test_who_was_away_catches_up_in_order(open_one: Open) -> None:
    async with open_one("ann") as ann:
        await ann.register("ann", "the long password of ann")
        async with open_one("bob") as bob:
            await bob.register("bob", "the long password of bob")
            room = await ann.direct(bob.user)
            await room.send("0")
            assert await text(bob) == "0"
        for number in range(1, 30):
            await room.send(str(number))
        async with open_one("bob") as bob:
            assert [await text(bob) for _ in range(1, 30)] == [str(number) for number in range(1, 30)]


async def test_a_second_device_reads_what_is_sent_after_it_joined(open_one: Open) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("phone") as phone:
        await ann.register("ann", "the long password of ann")
        await bob.register("bob", "the long password of bob")
        room = await ann.direct(bob.user)
        await room.send("before the phone")
        assert await text(bob) == "before the phone"
        await phone.login(bob.user, "the long password of bob")
        await phone.wait_online()
        await room.send("on both")
        assert await text(bob) == "on both"
        update = await until(phone, Message)
        assert isinstance(update, Message)
        assert update.text == "on both"
