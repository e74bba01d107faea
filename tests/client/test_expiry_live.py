"""Messages that end, between clients and a whole server: timers, deletions, retention; and a server that withholds by itself."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from chatty.app import database as app_database
from chatty.app import steps as app_steps
from chatty.app import tree
from chatty.client import Client, Deleted, Expired, Message, Reason
from chatty.client.room import Room
from chatty.ids import EventId, Seq
from chatty.services import expiry
from chatty.services.timeline import day_ms
from chatty.store.connection import open_connection
from chatty.wire.events import Policy
from tests.client.conftest import Open, lied, pair, text, until
from tests.server.sdk_people import open_origin, opener

message_timer_s = 8  # longer than a loaded machine needs to read a message
_IS_STORED = """SELECT (SELECT count(*) FROM bodies WHERE seq = %(seq)s)
 + (SELECT count(*) FROM passing_bodies WHERE seq = %(seq)s)"""
_DAYS_SIZE = """SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint FROM pg_inherits
WHERE inhparent = 'passing_bodies'::regclass"""
# Beside the partition for days that are not made.
_HAS_DAYS = "SELECT count(*) > 1 FROM pg_inherits WHERE inhparent = 'passing_bodies'::regclass"


@dataclass(kw_only=True)
class Scene:
    """A server and what opens its clients. database: to look into, or to do what an honest server would not."""

    open_one: Open
    database: str

    async def value(self, sql: str, **named: Any) -> Any:
        async with open_connection(self.database) as connection:
            [[value]] = await (await connection.execute(sql, named)).fetchall()
        return value

    async def patch(self, sql: str, **named: Any) -> None:
        async with open_connection(self.database) as connection:
            await connection.execute(sql, named)

    async def is_stored(self, seq: Seq) -> bool:
        """Is the ciphertext of the message at this place there? The scene has one room."""
        return bool(await self.value(_IS_STORED, seq=seq))


@pytest.fixture
async def scene(database: str, tmp_path: Path) -> AsyncIterator[Scene]:
    async with open_origin(database, tmp_path) as origin:
        yield Scene(open_one=opener(origin, tmp_path), database=database)


@asynccontextmanager
async def phone_of(scene: Scene, ann: Client, room: Room) -> AsyncIterator[tuple[Client, Room]]:
    """A new device of Ann's, which begins to read the room from its beginning."""
    async with scene.open_one("phone") as phone:
        await phone.login(ann.user, "a password")
        yield phone, phone.room(room.id)


async def until_so(is_so: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(60):
        while not await is_so():  # noqa: ASYNC110  # the server can only be asked
            await trio.sleep(0.1)


async def test_a_message_goes_for_both_at_its_time_and_a_new_device_believes_it(scene: Scene) -> None:
    async with scene.open_one("ann") as ann, scene.open_one("bob") as bob:
        room, same = await pair(ann, bob)
        await room.set_policy(Policy(message_timer_s=message_timer_s))
        await same.read_up_to(room._verifier.position.seq)
        sent = await same.send("gone soon")
        read = await until(ann, Message)
        assert isinstance(read, Message)
        assert (read.text, read.seq) == ("gone soon", sent.seq)
        assert 0 < read.expiry_ms - read.time_ms <= message_timer_s * 1_000 + 2_000
        assert await text(bob) == "gone soon"
        with trio.fail_after(60):
            for client, one in ((ann, room), (bob, same)):
                async for update in client.messages():
                    if isinstance(update, Expired):
                        assert (update.seq, update.event_id, update.sender) == (sent.seq, sent.event_id, bob.user)
                        break
                assert one.history() == []
        await until_so(lambda: _not(scene.is_stored(sent.seq)))
        async with phone_of(scene, ann, room) as (phone, own):
            gone = await until(phone, Expired)
            assert isinstance(gone, Expired)
            assert gone.event_id == sent.event_id
            await check_still_trusted(same, phone, own)


async def _not(answer: Awaitable[bool]) -> bool:
    return not await answer


async def check_still_trusted(by: Room, phone: Client, own: Room) -> None:
    """What is said from now on arrives, with its sender's word about the whole chain before it."""
    await by.send("after all that")
    while await text(phone) != "after all that":
        pass
    assert own.frozen is None
    assert set(own.members) == set(by.members)


async def deleted(client: Client, event_id: EventId) -> Deleted:
    while True:
        update = await until(client, Deleted)
        assert isinstance(update, Deleted)
        if update.event_id == event_id:
            return update


async def test_a_deleted_message_says_who_deleted_it_also_to_a_new_device(scene: Scene) -> None:
    async with scene.open_one("ann") as ann, scene.open_one("bob") as bob:
        room, same = await pair(ann, bob)
        own, others = await same.send("his own to delete"), await same.send("for an admin to delete")
        assert [await text(ann), await text(ann)] == ["his own to delete", "for an admin to delete"]
        await same.delete(own)
        first = await deleted(ann, own.event_id)
        [message] = room.history()
        await room.delete(message)
        second = await deleted(bob, others.event_id)
        assert (first.sender, first.by) == (bob.user, bob.user)
        assert (second.sender, second.by) == (bob.user, ann.user)
        assert room.history() == same.history() == []
        assert not await scene.is_stored(own.seq)
        assert not await scene.is_stored(others.seq)
        async with phone_of(scene, ann, room) as (phone, on_phone):
            assert (await deleted(phone, own.event_id)).by == bob.user
            assert (await deleted(phone, others.event_id)).by == ann.user
            await check_still_trusted(same, phone, on_phone)


# Retention ----------------------------------------------------------------------------------------------------------


class Clock:
    """The server's. offset_ms: how far it is ahead of the true time."""

    def __init__(self, *, offset_ms: int) -> None:
        self.offset_ms = offset_ms

    def __call__(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset_ms


async def test_below_the_horizon_a_new_device_finds_a_mark_that_it_verifies(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "look_interval_ms", 0)
    monkeypatch.setattr(tree, "cleanup_interval_s", 0.2)
    clock = Clock(offset_ms=-3 * day_ms)
    for module in (app_database, tree):
        monkeypatch.setattr(module, "now_ms", clock)
    monkeypatch.setattr(app_steps._Maker, "clock_ms", lambda _: clock())  # of rooms; tokens keep theirs
    async with open_origin(database, tmp_path) as origin:
        scene = Scene(open_one=opener(origin, tmp_path), database=database)
        async with scene.open_one("ann") as ann, scene.open_one("bob") as bob:
            room, same = await pair(ann, bob)
            await room.set_policy(Policy(retention_days=1))
            await until_so(lambda: scene.value(_HAS_DAYS))
            old = [await room.send(f"of a day that is over {n} " + "x" * 20_000) for n in range(20)]
            size = await scene.value(_DAYS_SIZE)
            assert size > 20 * 20_000
            clock.offset_ms = 0
            await room.send("of today")
            await until_so(lambda: scene.value("SELECT horizon_seq > 0 FROM rooms"))
            clock.offset_ms = expiry.readers_ms + 1_000  # every reader from before has had its time
            await until_so(lambda: _not(scene.is_stored(old[0].seq)))
            # The whole day goes, with its file; the days to come have empty ones.
            await until_so(lambda: scene.value(f"SELECT ({_DAYS_SIZE}) < {size - 15 * 20_000}"))
            assert await scene.value("SELECT horizon_seq FROM rooms") == old[-1].seq
            async with phone_of(scene, ann, room) as (phone, own):
                await check_still_trusted(same, phone, own)
                assert own._verifier.position.horizon == old[-1].seq
            assert room.frozen is same.frozen is None


# A server that withholds by itself ----------------------------------------------------------------------------------

_DROP = "DELETE FROM bodies WHERE seq = %(seq)s"


async def withheld(scene: Scene, how: str, **named: Any) -> Reason:
    """What a new device of Ann's makes of it, when the server has dropped one message of Bob's and says this of it."""
    async with scene.open_one("ann") as ann, scene.open_one("bob") as bob:
        room, same = await pair(ann, bob)
        sent = await same.send("withheld")
        await same.send("the one after it")
        await scene.patch(_DROP, seq=sent.seq)
        await scene.patch(how, seq=sent.seq, **named)
        async with phone_of(scene, ann, room) as (phone, own):
            with trio.fail_after(30):
                await phone._engine.book.wait_until(
                    lambda: own.frozen is not None or own._verifier.position.seq > sent.seq + 1
                )
            if own.frozen is None:
                await same.send("says which head he knows")
            caught = await lied(phone)
            assert caught.room == room.id
            assert own.frozen is caught.reason
            assert room.frozen is None
            return caught.reason


async def test_a_server_that_drops_a_message_by_itself_is_named(scene: Scene) -> None:
    assert await withheld(scene, "SELECT 1") is Reason.CONTENT_WITHHELD_BY_SERVER


async def test_a_server_that_names_a_deletion_that_nobody_signed_is_named(scene: Scene) -> None:
    how = "UPDATE timeline SET deletion_seq = seq + 1 WHERE seq = %(seq)s"
    assert await withheld(scene, how) is Reason.CONTENT_WITHHELD_BY_SERVER


async def test_a_server_that_claims_an_expiry_far_ahead_is_caught(scene: Scene) -> None:
    assert await withheld(scene, _EXPIRY, expiry=2**53 - 1) is Reason.FORKED_HISTORY


async def test_a_server_that_claims_an_expiry_that_nobody_set_is_caught(scene: Scene) -> None:
    assert await withheld(scene, _EXPIRY, expiry=1) is Reason.FORKED_HISTORY


_EXPIRY = "UPDATE timeline SET expiry = %(expiry)s WHERE seq = %(seq)s"


async def test_a_server_that_says_a_single_message_is_old_is_named(scene: Scene) -> None:
    """Its horizon is not signed: it has no mark to show that fits."""
    how = """UPDATE rooms SET horizon_seq = %(seq)s, horizon_head = head, horizon_before = 1, horizon_time = 2,
 horizon_key_id = 'none', horizon_signature = ''"""
    assert await withheld(scene, how) is Reason.BAD_SIGNATURE
