"""What the ports behind sending and resuming promise, held against PostgreSQL and against the double in memory alike.

Only so do the simulation's findings speak of the product.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import pytest
import trio

from chatty.errors import (
    DeviceRevoked,
    DeviceSetStale,
    MessageIdClosed,
    MessageIdConflict,
    NotAMember,
    NotFound,
    Overloaded,
    SendWindowFull,
)
from chatty.ids import (
    DeviceId,
    DeviceNumber,
    MailboxId,
    RoomId,
    RoomNumber,
    SendNumber,
    Seq,
    UserId,
    UserNumber,
    UserSeq,
)
from chatty.services.mailbox import Parcel
from chatty.services.messages import BatchFailed
from chatty.services.preferences import Shown
from chatty.services.requests import SendRow
from chatty.services.rooms import StoredPlace
from chatty.wire import chain
from chatty.wire.authority import Standing
from chatty.wire.events import Committed, Kind, Policy, RoomRole, decode_content
from chatty.wire.limits import send_window, unread_events_max
from chatty.wire.preferences import Preferences
from chatty.wire.room_links import Link
from chatty.wire.signing import body_bytes
from tests.store.either_store import (
    KEY,
    NOW_MS,
    Person,
    Room,
    Store,
    creation,
    draft,
    make_empty_room,
    make_room,
    membership,
    write,
)


class Undone(Exception):
    """Ends a unit of work."""


async def two_people(store: Store) -> tuple[Person, Person]:
    return await store.sign_in("ann", "annsphone"), await store.sign_in("bob", "bobsphone")


async def head(store: Store, room: Room) -> int:
    async with store.units.autocommit() as unit:
        return int((await unit.streams.heads([room.number]))[room.number])


# Transactions -------------------------------------------------------------------------------------------------------


async def test_a_unit_that_ends_in_an_error_leaves_nothing(store: Store) -> None:
    ann, _ = await two_people(store)
    room = await make_room(store, ann)

    async def break_off() -> None:
        async with store.units.begin() as unit:
            await unit.rooms.set_policy(room.number, Policy(history="shared"))
            await unit.rooms.append_user_event(ann.user, kind="x", content={}, time_ms=1)
            raise Undone

    with pytest.raises(Undone):
        await break_off()
    async with store.units.begin() as unit:
        assert (await unit.rooms.lock(room.number, [])).policy.history == "joined"
        assert await unit.streams.stream_seqs([ann.user]) == {ann.user: 0}


async def test_a_unit_sees_its_own_writes_and_others_none_before_the_commit(store: Store) -> None:
    ann, _ = await two_people(store)
    async with store.units.begin() as unit:
        await unit.rooms.append_user_event(ann.user, kind="x", content={}, time_ms=1)
        assert await unit.streams.stream_seqs([ann.user]) == {ann.user: 1}
        async with store.units.autocommit() as other:
            assert await other.streams.stream_seqs([ann.user]) == {ann.user: 0}
    async with store.units.autocommit() as other:
        assert await other.streams.stream_seqs([ann.user]) == {ann.user: 1}


async def test_a_snapshot_is_of_its_first_moment_and_a_unit_sees_each_commit(store: Store) -> None:
    ann, _ = await two_people(store)
    room = await make_room(store, ann)
    async with store.units.snapshot() as snapshot, store.units.begin() as unit:
        assert await snapshot.streams.heads([room.number]) == {room.number: 0}
        assert await unit.streams.heads([room.number]) == {room.number: 0}
        await write(store, room, ann, Kind.MESSAGE)
        assert await snapshot.streams.heads([room.number]) == {room.number: 0}
        assert await unit.streams.heads([room.number]) == {room.number: 1}
        assert await unit.streams.heads_beyond({room.number: 0}) == {room.number: 1}
        assert await unit.streams.heads_beyond({room.number: 1}) == await unit.streams.heads_beyond({}) == {}


async def test_who_locks_a_row_waits_for_who_has_it_and_reads_what_that_one_wrote(store: Store) -> None:
    ann, _ = await two_people(store)
    room, order = await make_room(store, ann), list[str]()
    locked = trio.Event()

    async def first() -> None:
        async with store.units.begin() as unit:
            await unit.rooms.lock(room.number, [])
            locked.set()
            await unit.rooms.set_policy(room.number, Policy(history="shared"))
            order.append("first")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await locked.wait()
        async with store.units.begin() as unit:
            assert (await unit.rooms.lock(room.number, [])).policy.history == "shared"
            order.append("second")
    assert order == ["first", "second"]


async def test_a_lock_is_free_after_an_error_and_after_a_cancellation(store: Store) -> None:
    ann, _ = await two_people(store)

    async def break_off() -> None:
        async with store.units.begin() as unit:
            await unit.rooms.lock_users([ann.user])
            raise Undone

    with pytest.raises(Undone):
        await break_off()
    with trio.CancelScope() as scope:
        async with store.units.begin() as unit:
            await unit.rooms.lock_users([ann.user])
            scope.cancel()
            await trio.lowlevel.checkpoint()
    with trio.fail_after(5):
        async with store.units.begin() as unit:
            await unit.rooms.lock_users([ann.user])


# The journal --------------------------------------------------------------------------------------------------------


async def test_a_batch_is_numbered_in_order_and_a_resend_gets_the_same_answer(store: Store) -> None:
    ann, bob = await two_people(store)
    rooms = [await make_room(store, ann, bob) for _ in range(2)]
    batch = [replace(draft(sender, room), low=SendNumber(1)) for room in rooms for sender in (ann, bob, ann)]
    result = await store.journal.commit(batch, waits=False)
    assert [answer.seq for answer in result.answers if isinstance(answer, Committed)] == [1, 2, 3, 1, 2, 3]
    assert [one.event.seq for one in result.appended] == [1, 2, 3, 1, 2, 3]
    for waits in (False, True):
        again = await store.journal.commit(batch, waits=waits)
        assert list(again.answers) == list(result.answers)
        assert list(again.appended) == []
    assert [await head(store, room) for room in rooms] == [3, 3]


async def test_what_the_journal_stored_is_read_as_it_was_answered(store: Store) -> None:
    ann, _ = await two_people(store)
    room = await make_room(store, ann)
    result = await store.journal.commit([draft(ann, room), draft(ann, room)], waits=False)
    async with store.units.autocommit() as unit:
        assert await unit.streams.events(room.number, after=Seq(0), count_max=9, bytes_max=99) == [
            one.event for one in result.appended
        ]
        assert await unit.streams.signable_head(room.id, ann.user) == (2, result.appended[-1].head)
        assert await unit.rooms.head_at(room.number, Seq(1)) == result.appended[0].head
        assert await unit.rooms.head_at(room.number, Seq(3)) is None


async def test_refusals_are_kept_and_what_is_not_final_is_not(store: Store) -> None:
    ann, bob = await two_people(store)
    room = await make_room(store, ann)
    outside, stale = draft(bob, room), draft(ann, room, epoch=7)
    for _ in range(2):
        refused, not_final = (await store.journal.commit([outside, stale], waits=False)).answers
        assert isinstance(refused, NotAMember)
        assert isinstance(not_final, DeviceSetStale)
        assert not_final.fields()["epoch"] == 0
    async with store.units.begin() as unit:
        await unit.rooms.set_membership(room.number, bob.user, membership(0), seq=Seq(0))
    (still,) = (await store.journal.commit([outside], waits=False)).answers
    assert isinstance(still, NotAMember)
    (fresh,) = (await store.journal.commit([draft(ann, room, n=stale.n)], waits=False)).answers
    assert isinstance(fresh, Committed)


async def test_a_number_names_one_request_until_low_passes_it(store: Store) -> None:
    ann, _ = await two_people(store)
    room = await make_room(store, ann)
    first = draft(ann, room)
    other = draft(ann, room, n=first.n, body=b"other")
    far = draft(ann, room, n=SendNumber(first.n + send_window), low=1)
    answers = (await store.journal.commit([first, other, far], waits=False)).answers
    assert [type(answer) for answer in answers] == [Committed, MessageIdConflict, SendWindowFull]
    await store.journal.commit([draft(ann, room)], waits=False)  # its low is above the first
    (closed,) = (await store.journal.commit([first], waits=False)).answers
    assert isinstance(closed, MessageIdClosed)
    assert closed.fields() == {"highest_n": 2, "low": 2}


async def test_a_batch_that_fails_keeps_nothing_and_no_lock(store: Store) -> None:
    ann, bob = await two_people(store)
    room = await make_room(store, ann, bob)
    good, poisonous = draft(ann, room), draft(bob, room, session_id="a\0b")
    with pytest.raises(BatchFailed):
        await store.journal.commit([good, poisonous], waits=False)
    assert await head(store, room) == 0
    (answer,) = (await store.journal.commit([good], waits=False)).answers
    assert isinstance(answer, Committed)


@asynccontextmanager
async def held(store: Store, room: Room) -> AsyncIterator[None]:
    async with store.units.begin() as unit:
        await unit.rooms.lock(room.number, [])
        yield


async def test_the_journal_skips_what_is_locked_or_waits_for_a_second(store: Store) -> None:
    ann, bob = await two_people(store)
    rooms = [await make_room(store, ann, bob), await make_room(store, ann, bob)]
    mine, others = draft(ann, rooms[0]), draft(bob, rooms[1])
    async with held(store, rooms[0]):
        result = await store.journal.commit([mine, others], waits=False)
        assert [type(answer) for answer in result.answers] == [type(None), Committed]
        with pytest.raises(Overloaded) as refused, trio.fail_after(5):
            await store.journal.commit([mine], waits=True)
        assert refused.value.fields() == {"limiter": "room_lock"}
    (answer,) = (await store.journal.commit([mine], waits=True)).answers
    assert isinstance(answer, Committed)


async def test_the_blocking_journal_goes_on_when_the_lock_is_free(store: Store) -> None:
    ann, _ = await two_people(store)
    room, answers = await make_room(store, ann), list[object]()

    async def commit() -> None:
        answers.extend((await store.journal.commit([draft(ann, room)], waits=True)).answers)

    async with trio.open_nursery() as nursery, held(store, room):
        nursery.start_soon(commit)
        await trio.sleep(0.1)
        assert answers == []
    assert [type(answer) for answer in answers] == [Committed]


async def test_owed_devices_events_come_first_and_make_what_follows_stale(store: Store) -> None:
    ann, bob = await two_people(store)
    room = await make_room(store, ann, bob)
    await store.change_devices(bob)
    result = await store.journal.commit([draft(ann, room)], waits=False)
    (stale,), (owed,) = result.answers, result.appended
    assert isinstance(stale, DeviceSetStale)
    assert stale.fields() == {"epoch": 1, "changed": [{"user": bob.caller.user, "list_version": 1}]}
    assert (owed.event.kind, owed.event.target) == (Kind.DEVICES, bob.caller.user)
    assert decode_content(owed.event).previous == 0  # type: ignore[union-attr]
    result = await store.journal.commit([draft(ann, room, epoch=1), draft(ann, room)], waits=False)
    assert [one.event.kind for one in result.appended] == [Kind.MESSAGE]
    assert isinstance(result.answers[0], Committed)
    late = result.answers[1]
    assert isinstance(late, DeviceSetStale)
    assert late.fields()["changed"] == [{"user": bob.caller.user, "list_version": 1}]


async def test_what_is_owed_to_a_room_that_was_left_is_forgotten(store: Store) -> None:
    ann, bob = await two_people(store)
    room = await make_room(store, ann, bob)
    await store.change_devices(bob)
    async with store.units.begin() as unit:
        await unit.rooms.set_membership(room.number, bob.user, membership(0, standing=Standing.LEFT), seq=Seq(0))
    (answer,) = (await store.journal.commit([draft(ann, room)], waits=False)).answers
    assert isinstance(answer, Committed)
    async with store.units.begin() as unit:
        await unit.rooms.set_membership(room.number, bob.user, membership(1), seq=Seq(1))
    result = await store.journal.commit([draft(ann, room)], waits=False)
    assert [one.event.kind for one in result.appended] == [Kind.MESSAGE]


# The register -------------------------------------------------------------------------------------------------------


async def test_a_durable_write_is_answered_again_from_the_register(store: Store) -> None:
    ann, _ = await two_people(store)
    one = {"n": SendNumber(3), "low": SendNumber(2), "digest": b"d"}
    async with store.units.begin() as unit:
        assert await unit.requests.open(ann.number, **one) is None
        await unit.requests.record(ann.number, n=one["n"], digest=b"d", answer=b"answer")
    async with store.units.begin() as unit:
        assert await unit.requests.open(ann.number, **one) == b"answer"
        state = await unit.streams.returning(ann.number, ann.user, named=[])
    assert state is not None
    assert state.send_row == SendRow(low=SendNumber(2), highest_n=SendNumber(3), is_live=True)
    for number, error in ((3, MessageIdConflict), (1, MessageIdClosed), (2 + send_window, SendWindowFull)):
        with pytest.raises(error):
            async with store.units.begin() as unit:
                await unit.requests.open(ann.number, n=SendNumber(number), low=SendNumber(1), digest=b"other")


async def test_a_device_that_is_not_there_opens_nothing(store: Store) -> None:
    with pytest.raises(DeviceRevoked):
        async with store.units.begin() as unit:
            await unit.requests.open(DeviceNumber(999), n=SendNumber(1), low=SendNumber(1), digest=b"d")
    async with store.units.snapshot() as unit:
        assert await unit.streams.returning(DeviceNumber(999), UserNumber(999), named=[]) is None


async def test_a_send_and_another_write_share_the_numbers(store: Store) -> None:
    ann, _ = await two_people(store)
    room = await make_room(store, ann)
    sent = draft(ann, room)
    await store.journal.commit([sent], waits=False)
    with pytest.raises(MessageIdConflict):
        async with store.units.begin() as unit:
            await unit.requests.open(ann.number, n=sent.n, low=sent.low, digest=b"another write")
    async with store.units.begin() as unit:
        await unit.requests.open(ann.number, n=ann.next_n(), low=SendNumber(1), digest=b"another write")
        await unit.requests.record(ann.number, n=SendNumber(ann.last_n), digest=b"another write", answer=b"")
    (answer,) = (await store.journal.commit([draft(ann, room, n=SendNumber(ann.last_n), low=1)], waits=False)).answers
    assert isinstance(answer, MessageIdConflict)


# Rooms --------------------------------------------------------------------------------------------------------------


async def test_a_room_is_found_by_what_names_it(store: Store) -> None:
    ann, bob = await two_people(store)
    room = await make_room(store, ann)
    async with store.units.begin() as unit:
        assert await unit.rooms.room_number(room.id) == room.number
        assert await unit.rooms.room_number(RoomId("!nowhere")) is None
        assert await unit.rooms.created(room.id) == (room.id, 0, 0)
        assert await unit.rooms.created(RoomId("!nowhere")) is None
        pair = (ann.caller.user, bob.caller.user)
        create = msgspec.structs.replace(creation(ann), direct=pair)
        head_ = (await unit.rooms.lock(room.number, [])).head
        direct = chain.room_id(body_bytes(create))
        await unit.rooms.insert(replace(head_, room=direct), create, body_bytes(create))
        assert await unit.rooms.direct_room(" ".join(pair)) == (direct, 0, 0)
        assert await unit.rooms.direct_room("nobody nobody") is None
        with pytest.raises(NotFound):
            await unit.rooms.lock(RoomNumber(999), [])


async def test_a_locked_room_shows_those_concerned_and_its_owners(store: Store) -> None:
    ann, bob = await two_people(store)
    cid = await store.sign_in("cid", "cidsphone")
    room = await make_room(store, ann, bob, cid)
    async with store.units.begin() as unit:
        left = membership(4, standing=Standing.LEFT)
        await unit.rooms.set_membership(room.number, bob.user, left, seq=Seq(4))
        locked = await unit.rooms.lock(room.number, [bob.caller.user])
        assert locked.memberships == {
            ann.caller.user: membership(0, role=RoomRole.OWNER),
            bob.caller.user: left,
        }
        assert (locked.joined_count, locked.create.creator) == (2, ann.caller.user)
        assert not await unit.rooms.is_joined(room.number, bob.user)
        assert await unit.rooms.was_inside(room.number, bob.caller.user)
        assert not await unit.rooms.was_inside(room.number, UserId("@nobody:example.org"))
        assert [one.user for one in (await unit.rooms.members(room.number)).members] == [
            ann.caller.user,
            cid.caller.user,
        ]


async def test_users_and_their_keys_are_found(store: Store) -> None:
    ann, bob = await two_people(store)
    async with store.units.begin() as unit:
        row = await unit.rooms.user(ann.caller.user)
        assert (row.user_number, row.identity_key, row.is_locked) == (ann.user, "A" * 43, False)
        assert await unit.rooms.user(UserId("@nobody:example.org")) is None
        assert await unit.rooms.role_of(ann.caller.user) == "user"
        assert await unit.rooms.role_of(UserId("@nobody:example.org")) is None
        assert await unit.rooms.device_key(ann.caller.user, ann.caller.device) == KEY
        assert await unit.rooms.device_key(ann.caller.user, bob.caller.device) is None
        assert [await unit.rooms.note_creation(ann.user) for _ in range(2)] == [1, 2]


async def test_a_membership_begins_and_ends_intervals(store: Store) -> None:
    ann, bob = await two_people(store)
    room = await make_room(store, ann)
    await write(store, room, ann, *[Kind.MESSAGE] * 9)
    async with store.units.begin() as unit:
        for seq, standing in ((2, Standing.JOINED), (3, Standing.JOINED), (4, Standing.LEFT), (7, Standing.JOINED)):
            await unit.rooms.set_membership(room.number, bob.user, membership(seq, standing=standing), seq=Seq(seq))
    async with store.units.snapshot() as unit:
        page = await unit.streams.page(room.number, bob.user, after=Seq(0), count_max=99, bytes_max=9_999)
    assert [getattr(entry, "to_seq", None) or entry.seq for entry in page.entries] == [1, 2, 3, 4, 6, 7, 8, 9]


async def test_a_ban_from_outside_gives_nothing_to_see(store: Store) -> None:
    ann, bob = await two_people(store)
    room = await make_room(store, ann)
    async with store.units.begin() as unit:
        banned = membership(1, standing=Standing.BANNED)
        await unit.rooms.set_membership(room.number, bob.user, banned, seq=Seq(1))
    async with store.units.snapshot() as unit:
        assert await unit.streams.room_number(room.id, bob.user) is None
        assert await unit.streams.left_rooms(bob.user, [room.id]) == []
        assert await unit.streams.page(room.number, bob.user, after=Seq(0), count_max=9, bytes_max=99) is None


async def test_where_a_user_is_and_was(store: Store) -> None:
    ann, bob = await two_people(store)
    first, second = await make_room(store, ann, bob), await make_room(store, ann, bob)
    await write(store, second, ann, *[Kind.MESSAGE] * 5)
    async with store.units.begin() as unit:
        left = membership(3, standing=Standing.LEFT)
        await unit.rooms.set_membership(second.number, bob.user, left, seq=Seq(3))
    async with store.units.snapshot() as unit:
        rooms = await unit.streams.rooms_of(bob.user)
        assert [(one.room_number, one.head_seq, one.is_joined) for one in rooms] == [(first.number, 0, True)]
        rooms = await unit.streams.left_rooms(bob.user, [first.id, second.id])
        assert [(one.room_number, one.head_seq, one.is_joined) for one in rooms] == [(second.number, 3, False)]
        assert await unit.streams.room_number(second.id, bob.user) == second.number
        assert await unit.streams.room_number(RoomId("!nowhere"), bob.user) is None
        assert await unit.streams.signable_head(second.id, bob.user) is None
        returning = await unit.streams.returning(bob.number, bob.user, named=[first.id, second.id])
        assert [(one.room_number, one.head_seq, one.is_joined) for one in returning.rooms] == [
            (first.number, 0, True),
            (second.number, 3, False),
        ]
        found = await unit.rooms.summaries(bob.user, after="", count_max=9)
        assert [(one.room, one.seq, one.role) for one in found] == [(first.id, 0, RoomRole.MEMBER)]


async def test_summaries_come_in_pages(store: Store) -> None:
    ann, _ = await two_people(store)
    rooms = sorted([(await make_room(store, ann)).id for _ in range(3)])
    async with store.units.snapshot() as unit:
        found = await unit.rooms.summaries(ann.user, after="", count_max=2)
        assert [one.room for one in found] == rooms[:2]
        found = await unit.rooms.summaries(ann.user, after=rooms[1], count_max=2)
        assert [one.room for one in found] == rooms[2:]


async def test_a_message_is_taken_out_and_its_place_stays(store: Store) -> None:
    ann, _ = await two_people(store)
    room = await make_room(store, ann)
    first, deletion = await write(store, room, ann, Kind.MESSAGE, Kind.DELETION)
    async with store.units.begin() as unit:
        assert await unit.rooms.place(room.number, Seq(1)) == StoredPlace(entry=first.event, has_body=True)
        assert await unit.rooms.place(room.number, Seq(3)) is None
        await unit.rooms.take_out(room.number, Seq(1), deletion_seq=deletion.event.seq)
        place = await unit.rooms.place(room.number, Seq(1))
    assert (place.entry.body, place.entry.deletion_seq, place.has_body) == (None, 2, False)
    assert chain.leaf(place.entry) == first.leaf
    async with store.units.snapshot() as unit:
        assert (await unit.streams.page(room.number, ann.user, after=Seq(0), count_max=9, bytes_max=99)).entries == [
            place.entry,
            deletion.event,
        ]


async def test_a_link_is_put_and_changed_and_its_maker_is_concerned(store: Store) -> None:
    ann, bob = await two_people(store)
    room = await make_room(store, ann, bob)
    (made,) = await write(store, room, bob, Kind.POLICY)
    link = Link(maker=bob.caller.user, made_seq=made.event.seq, expires_at=NOW_MS, uses_max=2)
    async with store.units.begin() as unit:
        await unit.links.put(room.number, KEY, link)
        assert await unit.links.has(room.number, KEY)
        assert not await unit.links.has(room.number, "another")
        assert await unit.links.open_count(room.number, at_ms=NOW_MS - 1) == 1
        assert await unit.links.open_count(room.number, at_ms=NOW_MS) == 0
        locked = await unit.rooms.lock(room.number, [], link=KEY)
        assert locked.links == {KEY: link}
        assert locked.memberships.keys() == {ann.caller.user, bob.caller.user}
        for change in ({"uses_count": 2}, {"is_revoked": True}):
            await unit.links.put(room.number, KEY, replace(link, **change))
            assert await unit.links.open_count(room.number, at_ms=0) == 0
        assert (await unit.rooms.lock(room.number, [], link="another")).links == {}


async def test_listed_rooms_are_found_by_a_part_of_their_titles(store: Store) -> None:
    ann, _ = await two_people(store)
    rooms = sorted([await make_room(store, ann) for _ in range(3)], key=lambda one: one.id)
    left = await make_empty_room(store, ann)
    async with store.units.begin() as unit:
        for one, title in zip([*rooms, left], ("Gardening", "old gardens", "Chess", "Garden"), strict=True):
            await unit.directory.set_title(one.number, title)
    async with store.units.snapshot() as unit:
        found = await unit.directory.page(after="", title="GARDEN", count_max=9)
        assert [(one.room, one.title, one.members_count) for one in found] == [
            (rooms[0].id, "Gardening", 1),
            (rooms[1].id, "old gardens", 1),
        ]
        found = await unit.directory.page(after=rooms[0].id, title="", count_max=1)
        assert [one.room for one in found] == [rooms[1].id]
        assert await unit.directory.is_listed(left.number)
    async with store.units.begin() as unit:
        await unit.directory.set_title(left.number, "")
        assert not await unit.directory.is_listed(left.number)
        assert (await unit.rooms.lock(rooms[2].number, [])).public_title == "Chess"


# Streams of users ---------------------------------------------------------------------------------------------------


async def test_a_user_stream_is_numbered_and_read_in_pages(store: Store) -> None:
    ann, _ = await two_people(store)
    async with store.units.begin() as unit:
        for kind in ("one", "two", "three"):
            await unit.rooms.append_user_event(ann.user, kind=kind, content={"kind": kind}, time_ms=5)
    async with store.units.snapshot() as unit:
        events = await unit.streams.user_page(ann.user, after=UserSeq(1), count_max=1)
        assert [(one.seq, one.time, one.kind, one.content) for one in events] == [(2, 5, "two", {"kind": "two"})]
        assert await unit.streams.user_page(ann.user, after=UserSeq(9), count_max=9) == []
        state = await unit.streams.returning(ann.number, ann.user, named=[])
        assert (state.user_head, state.has_mail) == (3, False)
        assert await unit.streams.changed_standings(within_s=60) == []


async def test_what_users_show_is_kept(store: Store) -> None:
    ann, bob = await two_people(store)
    await store.block(ann, bob)
    async with store.units.begin() as unit:
        assert await unit.preferences.read(ann.user) == Preferences(shows_presence=True, shows_receipts=True)
        await unit.preferences.write(ann.user, Preferences(shows_presence=False, shows_receipts=True))
        await unit.preferences.append_user_event(ann.user, kind="settings", content={}, time_ms=1)
        await unit.audit.record(actor="", device="", action="thing.done", object_="x")
    async with store.units.autocommit() as unit:
        shown = Shown(presence=False, receipts=True, hidden_from=frozenset({bob.user}))
        assert await unit.preferences.shown(ann.user) == shown
        assert (await unit.streams.returning(ann.number, ann.user, named=[])).shown == shown
        assert await unit.preferences.shown(UserNumber(999)) == Shown(presence=False, receipts=False)
        assert await unit.streams.stream_seqs([ann.user, bob.user]) == {ann.user: 1, bob.user: 0}
        assert await unit.streams.stream_seqs_beyond({ann.user: 0, bob.user: 0}) == {ann.user: 1}
        assert await unit.streams.stream_seqs_beyond({ann.user: 1}) == {}


async def test_a_block_makes_deaf_unless_a_room_is_shared(store: Store) -> None:
    ann, bob = await two_people(store)
    await store.block(bob, ann)
    async with store.units.begin() as unit:
        assert await unit.blocks.is_blocked(ann.user, by=bob.user)
        assert not await unit.blocks.is_blocked(bob.user, by=ann.user)
        assert await unit.blocks.deaf_devices([bob.number, ann.number], sender=ann.user) == {bob.number}
    await make_room(store, ann, bob)
    async with store.units.begin() as unit:
        assert await unit.blocks.deaf_devices([bob.number], sender=ann.user) == set()


# Mailboxes ----------------------------------------------------------------------------------------------------------


async def put(store: Store, sender: Person, *recipients: Person, content: str = "{}") -> None:
    async with store.units.begin() as unit:
        parcels = [Parcel(recipient=one.number, content=content) for one in recipients]
        await unit.mailbox.put(parcels, sender=sender.number, n=sender.next_n(), kind="kind")


async def ids(
    store: Store, person: Person, *given: MailboxId, count_max: int = 99, bytes_max: int = 999
) -> list[MailboxId]:
    async with store.units.autocommit() as unit:
        rows = await unit.mailbox.rows(person.number, given=given, count_max=count_max, bytes_max=bytes_max)
    return [row.id for row in rows]


async def test_rows_are_given_in_order_by_what_was_not_given(store: Store) -> None:
    ann, bob = await two_people(store)
    for _ in range(4):
        await put(store, ann, bob, ann, content='{"k": 1}')
    first, second, third, fourth = await ids(store, bob)
    assert [first, second, third, fourth] == sorted([first, second, third, fourth])
    assert await ids(store, bob, second, fourth) == [first, third]
    assert await ids(store, bob, first, count_max=2) == [second, third]
    assert await ids(store, bob, bytes_max=1) == [first]
    assert await ids(store, bob, bytes_max=16) == [first, second]
    async with store.units.autocommit() as unit:
        row = (await unit.mailbox.rows(bob.number, given=[], count_max=1, bytes_max=9))[0]
    assert (row.sender, row.sender_device, row.n, row.kind, row.content) == (
        ann.caller.user,
        ann.caller.device,
        1,
        "kind",
        {"k": 1},
    )


async def test_exactly_the_acknowledged_rows_go(store: Store) -> None:
    ann, bob = await two_people(store)
    for _ in range(3):
        await put(store, ann, bob)
    first, second, third = await ids(store, bob)
    async with store.units.autocommit() as unit:
        await unit.mailbox.acknowledge(ann.number, [first, second, third])
        await unit.mailbox.acknowledge(bob.number, [third, third, MailboxId(999_999)])
    assert await ids(store, bob) == [first, second]
    async with store.units.snapshot() as unit:
        assert await unit.mailbox.pending({bob.number: [second], ann.number: []}) == {bob.number}
        assert await unit.mailbox.pending({bob.number: [first, second]}) == set()
        state = await unit.streams.returning(bob.number, bob.user, named=[])
        assert state.has_mail


async def test_a_full_mailbox_is_named(store: Store) -> None:
    ann, bob = await two_people(store)
    await put(store, ann, bob)
    await put(store, bob, bob)
    async with store.units.begin() as unit:
        full = await unit.mailbox.full([bob.number, ann.number], sender=ann.number, of_sender_max=1, in_all_max=2)
        assert [list(one) for one in full] == [[bob.number], [bob.number]]
        full = await unit.mailbox.full([bob.number], sender=ann.number, of_sender_max=2, in_all_max=3)
        assert [list(one) for one in full] == [[], []]


async def test_usable_devices_are_those_of_their_users(store: Store) -> None:
    ann, bob = await two_people(store)
    mine, wrong = (ann.caller.user, ann.caller.device), (ann.caller.user, bob.caller.device)
    async with store.units.autocommit() as unit:
        assert await unit.keys.usable_devices([mine, wrong, (ann.caller.user, DeviceId("none"))]) == {mine: ann.number}
        counts = await unit.keys.counts(ann.number)
    assert (counts.counts, counts.unused_fallback_algorithms) == ({"signed_curve25519": 0}, [])


# Read cursors -------------------------------------------------------------------------------------------------------


async def test_a_read_cursor_moves_forward_for_members_only(store: Store) -> None:
    ann, bob = await two_people(store)
    room = await make_room(store, ann)
    await write(store, room, ann, *[Kind.MESSAGE] * 5)
    async with store.units.autocommit() as unit:
        moves = [(room.number, ann.user, Seq(3)), (room.number, bob.user, Seq(3))]
        assert [(one.user, one.seq, one.is_shown) for one in await unit.read_cursors.move(moves)] == [
            (ann.caller.user, 3, True)
        ]
        assert await unit.read_cursors.move([(room.number, ann.user, Seq(2))]) == []
        assert [one.seq for one in await unit.read_cursors.move([(room.number, ann.user, Seq(99))])] == [5]
        assert await unit.read_cursors.head(room.number, ann.user) == 5
        assert await unit.read_cursors.head(room.number, bob.user) is None


async def test_unread_are_others_messages_above_the_cursor_and_since_the_join(store: Store) -> None:
    ann, bob = await two_people(store)
    room = await make_room(store, ann)
    await write(store, room, ann, Kind.MESSAGE, Kind.MESSAGE, Kind.POLICY, Kind.MESSAGE, Kind.MESSAGE)
    await write(store, room, bob, Kind.MESSAGE)
    async with store.units.begin() as unit:
        await unit.rooms.set_membership(room.number, bob.user, membership(1), seq=Seq(1))

    async def unread() -> list[tuple[int, int, int]]:
        async with store.units.autocommit() as unit:
            found = await unit.read_cursors.unread(bob.user, [room.number])
            return [(one.head_seq, one.read_seq, one.unread_count) for one in found]

    assert await unread() == [(6, 0, 3)]
    async with store.units.autocommit() as unit:
        await unit.read_cursors.move([(room.number, bob.user, Seq(4))])
    assert await unread() == [(6, 4, 1)]
    await write(store, room, ann, *[Kind.MESSAGE] * (unread_events_max + 3))
    assert await unread() == [(unread_events_max + 9, 4, unread_events_max)]


async def test_receipts_are_ones_own_first_and_those_that_are_shown(store: Store) -> None:
    ann, bob = await two_people(store)
    cid, dan = await store.sign_in("cid", "cidsphone"), await store.sign_in("dan", "dansphone")
    room = await make_room(store, ann, bob, cid, dan)
    await write(store, room, ann, *[Kind.MESSAGE] * 5)
    await store.block(dan, ann)
    async with store.units.begin() as unit:
        await unit.preferences.write(cid.user, Preferences(shows_presence=True, shows_receipts=False))
        cursors = [(room.number, one.user, Seq(seq)) for seq, one in enumerate((ann, bob, cid, dan), start=1)]
        await unit.read_cursors.move(cursors)
    async with store.units.autocommit() as unit:
        (found,) = await unit.read_cursors.receipts(ann.user, [room.number])
        assert [(one.user, one.seq) for one in found.receipts] == [(ann.caller.user, 1), (bob.caller.user, 2)]
        (found,) = await unit.read_cursors.receipts(bob.user, [room.number])
        assert [(one.user, one.seq) for one in found.receipts] == [
            (bob.caller.user, 2),
            (dan.caller.user, 4),
            (ann.caller.user, 1),
        ]
