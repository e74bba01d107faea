"""The journal waits for nobody, keeps nothing of a batch that failed, and comes back when PostgreSQL does.

What it decides is tested with the rooms and the crash test.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest
import trio
from psycopg import conninfo

from chatty.errors import MessageIdConflict, NotAMember, Overloaded, StoreUnavailable
from chatty.ids import RoomId, RoomNumber, SendNumber, Seq
from chatty.services.crash_points import CrashPoints
from chatty.services.messages import BatchFailed, Draft, Result
from chatty.services.timeline import NewEvent
from chatty.store.embedded import EmbeddedServer
from chatty.store.journal import PostgresJournal, lock_timeout_s, open_journal
from chatty.wire import chain
from chatty.wire.events import Committed, Kind
from tests.quiet_rooms import leave, make_room
from tests.signed_in import SignedIn, World, open_world

_END_BACKENDS = """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE application_name = 'chatty journal' AND datname = %s"""
_PREVIOUS = """SELECT seq, (convert_from(body, 'UTF8')::jsonb->>'previous')::bigint FROM timeline
JOIN bodies USING (room_number, seq) WHERE room_number = %s AND kind = 'devices' ORDER BY seq"""
EMPTY = Result(answers=[], appended=[])


def end_backends(server: EmbeddedServer, database: str) -> None:
    """The server ends the journal's connections, and has done so when this returns."""
    with psycopg.connect(server.superuser_address, autocommit=True) as connection:
        connection.execute(_END_BACKENDS, [conninfo.conninfo_to_dict(database)["dbname"]])


async def commit_nothing(journal: PostgresJournal, *, waits: bool) -> Result:
    return await journal.commit([], waits=waits)


@pytest.mark.parametrize("waits", [False, True], ids=["the group's", "the blocking one's"])
async def test_a_lost_connection_is_opened_anew(postgres: EmbeddedServer, database: str, waits: bool) -> None:
    async with open_journal(database, clock=lambda: 1) as journal:
        for _ in range(3):
            assert await commit_nothing(journal, waits=waits) == EMPTY
            await trio.to_thread.run_sync(end_backends, postgres, database)
            with pytest.raises(StoreUnavailable):
                await commit_nothing(journal, waits=waits)


async def test_without_a_server_it_says_so_each_time() -> None:
    async with open_journal("host=/nowhere user=nobody", clock=lambda: 1) as journal:
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await commit_nothing(journal, waits=False)


# Locks and failures -------------------------------------------------------------------------------------------------


@pytest.fixture
async def world(database: str) -> AsyncIterator[World]:
    async with open_world(database) as world:
        yield world


def draft(
    sender: SignedIn, room: RoomNumber, *, body: bytes = b"body", session_id: str = "session", epoch: int = 0
) -> Draft:
    number = sender.n()
    new = NewEvent(
        kind=Kind.MESSAGE,
        body=body,
        sender=sender.caller.user,
        sender_number=sender.caller.user_number,
        device=sender.caller.device,
        device_number=sender.number,
        n=number["n"],
        session_id=session_id,
        epoch=Seq(epoch),
    )
    return Draft(
        caller=sender.caller,
        room=RoomId(f"!{room}"),
        room_number=room,
        n=number["n"],
        low=SendNumber(1),
        digest=chain.request_digest("send", body),
        new=new,
    )


async def stored_seqs(world: World, room: RoomNumber) -> list[int]:
    async with world.pool.connection() as connection:
        rows = await (
            await connection.execute("SELECT seq FROM timeline WHERE room_number = %s ORDER BY seq", (room,))
        ).fetchall()
    return [row[0] for row in rows]


@asynccontextmanager
async def held(world: World, table: str, column: str, value: int) -> AsyncIterator[None]:
    """Somebody else has locked this row."""
    async with world.pool.transaction() as connection:
        await connection.execute(
            f"SELECT 1 FROM {table} WHERE {column} = %s FOR NO KEY UPDATE",  # constants
            (value,),
        )
        yield


@pytest.mark.parametrize("table", ["rooms", "device_send"])
async def test_what_somebody_else_holds_is_left_out_and_the_rest_committed(
    world: World, database: str, table: str
) -> None:
    ann, bob = await world.sign_in("ann", "annsphone"), await world.sign_in("bob", "bobsphone")
    rooms = [await make_room(world, ann, bob), await make_room(world, ann, bob)]
    mine, others = draft(ann, rooms[0]), draft(bob, rooms[1])
    row = ("rooms", "room_number", rooms[0]) if table == "rooms" else ("device_send", "device_number", ann.number)
    async with open_journal(database, clock=lambda: 1) as journal:
        async with held(world, *row):
            with trio.fail_after(5):
                result = await journal.commit([mine, others], waits=False)
            assert result.answers[0] is None
            assert isinstance(result.answers[1], Committed)
        [answer] = (await journal.commit([mine], waits=False)).answers
        assert isinstance(answer, Committed)
    assert [await stored_seqs(world, room) for room in rooms] == [[1], [1]]


async def test_the_blocking_one_waits_until_the_lock_is_free(world: World, database: str) -> None:
    ann = await world.sign_in("ann", "annsphone")
    room, results = await make_room(world, ann), []
    async with open_journal(database, clock=lambda: 1) as journal, trio.open_nursery() as nursery:

        async def commit() -> None:
            results.append(await journal.commit([draft(ann, room)], waits=True))

        async with held(world, "rooms", "room_number", room):
            nursery.start_soon(commit)
            with trio.fail_after(5):
                while not await world.value("SELECT count(*) FROM pg_locks WHERE NOT granted"):
                    pass
            assert results == []
    assert [type(answer) for answer in results[0].answers] == [Committed]


async def test_nobody_waits_for_a_lock_longer_than_a_second(world: World, database: str) -> None:
    ann = await world.sign_in("ann", "annsphone")
    room = await make_room(world, ann)
    async with open_journal(database, clock=lambda: 1) as journal:
        one = draft(ann, room)
        async with held(world, "rooms", "room_number", room):
            with pytest.raises(Overloaded) as refused, trio.fail_after(lock_timeout_s + 3):
                await journal.commit([one], waits=True)
            assert refused.value.fields() == {"limiter": "room_lock"}
        [answer] = (await journal.commit([one], waits=True)).answers
        assert isinstance(answer, Committed)


async def test_a_batch_that_fails_keeps_nothing_and_no_lock(world: World, database: str) -> None:
    ann, bob = await world.sign_in("ann", "annsphone"), await world.sign_in("bob", "bobsphone")
    room = await make_room(world, ann, bob)
    good, poisonous = draft(ann, room), draft(bob, room, session_id="a\0b")
    async with open_journal(database, clock=lambda: 1) as journal:
        for _ in range(2):
            with pytest.raises(BatchFailed):
                await journal.commit([good, poisonous], waits=False)
            assert await stored_seqs(world, room) == []
        [answer] = (await journal.commit([good], waits=False)).answers
        assert isinstance(answer, Committed)
        assert answer.seq == 1


async def test_a_refusal_is_kept_without_an_event_and_a_conflict_not_at_all(world: World, database: str) -> None:
    ann, bob = await world.sign_in("ann", "annsphone"), await world.sign_in("bob", "bobsphone")
    room = await make_room(world, ann, bob)
    await leave(world, room, bob)
    async with open_journal(database, clock=lambda: 1) as journal:
        from_outside, inside = draft(bob, room), draft(ann, room)
        conflicting = Draft(**{**{name: getattr(inside, name) for name in Draft.__slots__}, "digest": b"other"})
        answers = (await journal.commit([from_outside, inside, conflicting], waits=False)).answers
        assert [type(answer) for answer in answers] == [NotAMember, Committed, MessageIdConflict]
        again = (await journal.commit([from_outside, inside, conflicting], waits=False)).answers
        assert [type(answer) for answer in again] == [NotAMember, Committed, MessageIdConflict]
        first, resent = answers[1], again[1]
        assert isinstance(first, Committed)
        assert isinstance(resent, Committed)
        assert (resent.seq, resent.time, resent.leaf) == (first.seq, first.time, first.leaf)
    assert await stored_seqs(world, room) == [1]
    assert await world.value("SELECT count(*) FROM requests") == 2
    assert await world.value("SELECT refusal FROM requests WHERE device_number = %s", bob.number) == "not_a_member"


async def test_a_batch_of_many_rooms_is_one_transaction_and_each_room_gapless(world: World, database: str) -> None:
    ann, bob = await world.sign_in("ann", "annsphone"), await world.sign_in("bob", "bobsphone")
    rooms = [await make_room(world, ann, bob) for _ in range(5)]
    batch = [draft(sender, room) for _ in range(4) for room in rooms for sender in (ann, bob)]
    before = await world.value("SELECT pg_current_xact_id()::text::bigint")
    async with open_journal(database, clock=lambda: 1) as journal:
        result = await journal.commit(batch, waits=False)
    assert await world.value("SELECT pg_current_xact_id()::text::bigint") == before + 2  # the batch, and this look
    assert {type(answer) for answer in result.answers} == {Committed}
    assert [await stored_seqs(world, room) for room in rooms] == [[Seq(seq) for seq in range(1, 9)]] * 5


async def test_devices_events_name_the_one_before_them_whatever_stands_between(world: World, database: str) -> None:
    ann, bob = await world.device("ann", "annsphone"), await world.device("bob", "bobsphone")
    room = await make_room(world, ann, bob)
    async with open_journal(database, clock=lambda: 1) as journal:
        for names, epoch in ((("ann", "bob"), 2), (("ann",), 5)):
            for name in names:
                await world.device(name, f"{name}slaptop{epoch}")
            batch = [draft(bob, room, epoch=epoch) for _ in range(2)]
            assert {type(answer) for answer in (await journal.commit(batch, waits=False)).answers} == {Committed}
    async with world.pool.connection() as connection:
        found = await (await connection.execute(_PREVIOUS, (room,))).fetchall()
    assert found == [(1, 0), (2, 1), (5, 2)]
    assert await world.value("SELECT state_seq FROM rooms") == 5


async def test_the_points_before_and_after_a_commit_are_where_they_say(world: World, database: str) -> None:
    ann = await world.sign_in("ann", "annsphone")
    room = await make_room(world, ann)
    seen: list[tuple[str, list[int]]] = []

    class Watching(CrashPoints):
        async def reach(self, point: str, message: object = None) -> None:
            seen.append((point, await stored_seqs(world, room)))

    async with open_journal(database, clock=lambda: 1, crash_points=Watching()) as journal:
        await journal.commit([draft(ann, room)], waits=False)
    assert seen == [("before_commit", []), ("after_commit", [1])]
