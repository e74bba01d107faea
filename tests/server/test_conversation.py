"""People who talk through the whole application: real client, real Hypercorn, real PostgreSQL, real cryptography."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chatty.app import Hooks
from chatty.client import Invited, Message
from tests.client.conftest import Open, text, until
from tests.server.sdk_people import open_origin, opener


@pytest.fixture(params=[False, True], ids=["bus", "silent bus"])
async def open_one(database: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """With a silent bus only the comparison with the store delivers what it had to carry."""
    async with open_origin(database, tmp_path, hooks=Hooks(is_bus_silent=request.param)) as origin:
        yield opener(origin, tmp_path)


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
