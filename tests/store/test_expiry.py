"""Ciphertexts go when their time has come, whole days with their files; a room's horizon is written before, its chain stays."""

from collections.abc import AsyncIterator

import pytest
import trio
from msgspec.structs import replace

from chatty.crypto.signatures import verify
from chatty.errors import ExpiryRefused, Overloaded
from chatty.ids import SendNumber, Seq
from chatty.services import expiry
from chatty.services.timeline import day_ms, end_of, ends_days_max
from chatty.store.expiry import LASTING
from chatty.store.timeline import lasting, passing
from chatty.wire.canonical import encode_base64
from chatty.wire.events import LASTING_KINDS, Committed, Kind, TimelineEvent
from chatty.wire.frames import Horizon
from chatty.wire.limits import message_timer_s_max
from chatty.wire.signing import horizon_bytes
from tests.store.expiry_scene import KEY, SERVER, START, Scene, open_scene, place

_SIZE = """SELECT coalesce(sum(pg_total_relation_size(inhrelid)), 0)::bigint FROM pg_inherits
WHERE inhparent = 'passing_bodies'::regclass"""


@pytest.fixture
async def scene(database: str) -> AsyncIterator[Scene]:
    async with open_scene(database) as scene:
        yield scene


def test_the_statements_name_every_lasting_kind() -> None:
    assert set(LASTING.strip("()").split(", ")) == {f"'{kind.value}'" for kind in LASTING_KINDS}


# Expiry -------------------------------------------------------------------------------------------------------------


async def test_an_expired_ciphertext_goes_and_its_event_stays(scene: Scene) -> None:
    expiry_ms, scene.is_patient = scene.now_ms + 60_000, False
    await scene.send(b"one", b"two", expiry=expiry_ms)
    await scene.send(b"for ever")
    await scene.clean()
    assert await scene.bodies() == [b"one", b"two", b"for ever"]
    scene.now_ms, scene.is_patient = expiry_ms - 1, False
    await scene.clean()
    assert scene.done == []
    scene.now_ms = expiry_ms
    await scene.clean()
    assert scene.reported == {"expired": 2}
    assert sum(one.freed.bytes_count for one in scene.done) == len(b"onetwo")
    first, *_ = (await scene.page()).entries
    assert isinstance(first, TimelineEvent)
    assert (first.body, first.expiry) == (None, expiry_ms)
    assert await scene.bodies() == [None, None, b"for ever"]
    assert b"one" not in [body for (body,) in await rows(scene, "SELECT body FROM passing_bodies")]
    await scene.check_chain()


async def rows(scene: Scene, sql: str) -> list[tuple[bytes]]:
    async with scene.world.pool.connection() as connection:
        return await (await connection.execute(sql)).fetchall()


@pytest.mark.parametrize("expiry_ms", [START, START - 1, 1, START + message_timer_s_max * 1_000 + 1, 2**53 - 1])
async def test_an_expiry_that_has_passed_or_is_too_far_ahead_is_refused_for_good(scene: Scene, expiry_ms: int) -> None:
    async with scene.journal() as journal:
        draft, good = scene.draft(expiry=expiry_ms), scene.draft(expiry=START + message_timer_s_max * 1_000)
        [refused, answer] = (await journal.commit([draft, good], waits=False)).answers
        assert isinstance(answer, Committed)
        assert isinstance(refused, ExpiryRefused)
        assert refused.fields() == {"time": START}
        scene.now_ms += 3_600_000  # what was too far ahead is not any more; the answer stays
        [again] = (await journal.commit([draft], waits=False)).answers
        assert isinstance(again, ExpiryRefused)
        assert again.fields() == {"time": START}
    assert await scene.world.value("SELECT count(*) FROM timeline") == 1


async def test_what_comes_before_its_day_was_made_is_kept_and_goes_in_time(scene: Scene) -> None:
    expiry_ms = scene.now_ms + 3 * day_ms
    await scene.send(b"early", expiry=expiry_ms)
    scene.retention_days = 10
    await scene.clean()
    await scene.send(b"late", expiry=expiry_ms)
    await scene.send(b"the day after", expiry=expiry_ms + day_ms)
    assert await scene.world.value("SELECT count(*) FROM passing.days_not_made") == 2
    assert await scene.world.value(f"SELECT count(*) FROM passing.day_{expiry_ms // day_ms + 1}") == 1
    assert await scene.bodies() == [b"early", b"late", b"the day after"]
    scene.now_ms, scene.is_patient = expiry_ms + day_ms - 1, False
    await scene.clean()
    assert await scene.bodies() == [None, None, b"the day after"]
    assert await scene.world.value("SELECT count(*) FROM passing.days_not_made") == 0


async def test_a_reader_that_began_before_the_horizon_was_there_finds_everything(scene: Scene) -> None:
    scene.retention_days = 1
    await scene.clean()
    await scene.send(b"one")
    scene.now_ms += 3 * day_ms
    async with scene.world.units.snapshot() as unit:
        await unit.streams.heads([scene.room])
        job = scene.job()
        while await job.step():
            pass
        page = await unit.streams.page(
            scene.room, scene.ann.caller.user_number, after=Seq(0), count_max=9, bytes_max=1_000
        )
    assert page is not None
    [event] = page.entries
    assert isinstance(event, TimelineEvent)
    assert event.body == b"one"
    await scene.clean()
    assert await scene.world.value("SELECT count(*) FROM passing_bodies") == 0


async def test_days_are_made_ahead_for_the_longest_timer_and_retention_in_use(scene: Scene) -> None:
    async with scene.world.pool.transaction() as connection:
        await connection.execute("""UPDATE rooms SET retention_days = 4, policy = '{"message_timer_s": 518400}'""")
    await scene.clean()
    async with scene.world.units.begin() as unit:
        days = await unit.cleanup.days()
    today = scene.now_ms // day_ms
    assert list(days) == list(range(today, today + 7 + expiry.days_ahead + 1))


async def test_a_sender_waits_a_moment_at_most_for_a_day_to_be_made(scene: Scene) -> None:
    await scene.send(b"early", expiry=scene.now_ms + day_ms)
    scene.retention_days = 5
    async with scene.world.pool.transaction() as connection:
        await connection.execute("SELECT 1 FROM passing_bodies")
        with pytest.raises(Overloaded), trio.fail_after(3):
            await scene.clean()
    await scene.clean()
    assert await scene.bodies() == [b"early"]


async def test_pages_are_as_large_as_they_may_be_with_ciphertexts_from_both_tables(scene: Scene) -> None:
    await scene.send(b"a" * 400)
    await scene.send(b"b" * 400, b"c" * 400, expiry=scene.now_ms + 60_000)
    await scene.send(b"d" * 400)
    found, after = list[bytes | None](), 0
    while page := (await scene.page(after=after, bytes_max=900)).entries:
        assert len(page) <= 2
        found += [entry.body for entry in page if isinstance(entry, TimelineEvent)]
        after += len(page)
    assert [(body or b"")[:1] for body in found] == [b"a", b"b", b"c", b"d"]


# Retention ----------------------------------------------------------------------------------------------------------


async def test_days_that_are_over_are_dropped_and_their_bytes_are_given_back(scene: Scene) -> None:
    scene.retention_days = 1
    await scene.clean()
    for _ in range(6):
        await scene.send(*[bytes([n]) * 8_000 for n in range(50)])
    size = await scene.world.value(_SIZE)
    assert size > 6 * 50 * 8_000
    scene.now_ms += day_ms
    await scene.clean()
    assert len(await scene.bodies()) == 125  # as many as fit a page: the day after the first is not over
    scene.now_ms += day_ms
    await scene.clean()
    assert await scene.world.value(_SIZE) < size - 6 * 50 * 8_000
    dropped = [one for one in scene.done if one.what == "day_dropped" and one.freed.rows_count]
    assert [one.freed.rows_count for one in dropped] == [300]
    assert dropped[0].freed.bytes_count > 6 * 50 * 8_000
    assert (
        await scene.world.value("SELECT count(*) FROM timeline WHERE kind = 'message'") == 1
    )  # the head at the horizon
    await scene.check_chain()


async def test_below_the_horizon_there_is_a_signed_mark_that_fits_the_chain(scene: Scene) -> None:
    scene.retention_days = 2
    await scene.clean()
    await scene.send(b"one", b"two")
    scene.now_ms += 2 * day_ms
    await scene.send(b"three")
    scene.now_ms += day_ms
    await scene.clean()
    beyond, event = (await scene.page()).entries
    assert isinstance(beyond, Horizon)
    assert isinstance(event, TimelineEvent)
    assert (beyond.from_seq, beyond.to_seq, event.body) == (1, 2, b"three")
    mark = beyond.mark
    assert (mark.seq, mark.head) == (2, beyond.head)
    assert mark.before == (scene.now_ms // day_ms - 2) * day_ms
    statement = horizon_bytes(
        server=SERVER,
        room=event.room,
        seq=mark.seq,
        head=mark.head,
        before=mark.before,
        time=mark.time,
        key_id=KEY.key_id,
    )
    verify(encode_base64(KEY.public.public_bytes_raw()), statement, encode_base64(mark.signature))
    await scene.check_chain()
    assert (await scene.page(after=2)).entries == [event]
    [rest, _] = (await scene.page(after=1)).entries
    assert rest == replace(beyond, from_seq=Seq(2))


async def test_a_room_of_which_nothing_is_left_ends_with_the_mark(scene: Scene) -> None:
    scene.retention_days = 1
    await scene.clean()
    await scene.send(b"one", b"two", b"three")
    scene.now_ms += 3 * day_ms
    await scene.clean()
    page = await scene.page()
    [beyond] = page.entries
    assert isinstance(beyond, Horizon)
    assert (beyond.from_seq, beyond.to_seq, page.to_seq) == (1, 3, 3)
    await scene.send(b"four")
    scene.now_ms += 3 * day_ms
    await scene.clean()
    [beyond] = (await scene.page()).entries
    assert isinstance(beyond, Horizon)
    assert (beyond.from_seq, beyond.to_seq) == (1, 4)
    assert await scene.world.value("SELECT count(*) FROM timeline") == 1


async def test_what_is_gone_below_the_horizon_is_not_unread(scene: Scene) -> None:
    scene.retention_days = 1
    await scene.clean()
    await scene.send(b"where she came in", b"two")
    scene.now_ms += 3 * day_ms
    await scene.send(b"three")
    async with scene.world.pool.transaction() as connection:
        await connection.execute("UPDATE timeline SET sender_number = 0")  # somebody else's, not Ann's
    assert await unread_count(scene) == 2
    await scene.clean()
    assert await unread_count(scene) == 1


async def unread_count(scene: Scene) -> int:
    async with scene.world.units.snapshot() as unit:
        [found] = await unit.read_cursors.unread(scene.ann.caller.user_number, [scene.room])
    return found.unread_count


async def test_state_events_stay_and_hold_the_stretches_apart(scene: Scene) -> None:
    scene.retention_days = 1
    await scene.clean()
    await scene.send(b"one", b"two", b"three")
    await scene.world.device("ann", "annslaptop")
    async with scene.journal() as journal:
        await journal.commit([scene.draft()], waits=True)  # for the older set: refused, and the new one noted
    scene.now_ms += 5 * day_ms
    async with scene.world.pool.transaction() as connection:
        await connection.execute("UPDATE rooms SET epoch = 0")
    await scene.send(b"five", b"six")
    scene.now_ms += 5 * day_ms
    await scene.clean()
    entries = (await scene.page()).entries
    kinds = [(place(entry), getattr(entry, "kind", Kind.MESSAGE)) for entry in entries]
    assert kinds == [((1, 3), Kind.MESSAGE), ((4, 4), Kind.DEVICES), ((5, 6), Kind.MESSAGE)]
    await scene.check_chain()


async def test_a_room_may_have_a_shorter_retention_than_the_server(scene: Scene) -> None:
    scene.retention_days = 30
    await scene.send(b"under thirty days")
    async with scene.world.pool.transaction() as connection:
        await connection.execute("UPDATE rooms SET retention_days = 1")
    await scene.send(b"under one day")
    scene.now_ms += 2 * day_ms
    await scene.clean()
    assert await scene.bodies() == []
    assert await scene.world.value("SELECT count(*) FROM passing_bodies") == 0


async def test_a_shorter_retention_counts_for_what_was_sent_without_any(scene: Scene) -> None:
    await scene.send(b"one", b"two")
    assert await scene.world.value("SELECT count(*) FROM bodies") == 2
    scene.now_ms += 5 * day_ms
    await scene.send(b"three")
    scene.retention_days = 3
    await scene.clean()
    assert await scene.bodies() == [b"three"]
    assert scene.reported == {"swept": 2}
    await scene.check_chain()


async def test_what_was_promised_holds_after_a_longer_retention_was_set(scene: Scene) -> None:
    scene.retention_days = 1
    await scene.clean()
    await scene.send(b"for a day")
    scene.retention_days = 90
    scene.now_ms += 1
    await scene.send(b"for ninety")
    scene.now_ms += 2 * day_ms
    await scene.clean()
    beyond, event = (await scene.page()).entries
    assert isinstance(beyond, Horizon)
    assert (beyond.to_seq, beyond.mark.before) == (1, START + 1)
    assert isinstance(event, TimelineEvent)
    assert event.body == b"for ninety"
    await scene.check_chain()


async def test_pieces_as_small_as_one_row_come_to_the_same(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "rows_a_step_max", 1)
    monkeypatch.setattr(expiry, "rooms_a_step_max", 1)
    await scene.send(b"kept without an end")
    scene.retention_days = 1
    await scene.send(b"one", b"two")
    await scene.send(b"three", b"four", expiry=scene.now_ms + 1_000)
    scene.now_ms += 2 * day_ms
    await scene.send(b"five")
    await scene.clean()
    assert await scene.bodies() == [b"five"]
    assert await scene.world.value("SELECT count(*) FROM timeline") == 2
    await scene.check_chain()


async def test_a_room_that_somebody_works_on_is_waited_for_before_a_day_is_dropped(scene: Scene) -> None:
    scene.retention_days = 1
    await scene.clean()
    await scene.send(b"one")
    scene.now_ms += 3 * day_ms
    async with scene.world.pool.transaction() as connection:
        await connection.execute("SELECT 1 FROM rooms FOR NO KEY UPDATE")
        await scene.clean()
        assert await scene.bodies() == [b"one"]
    await scene.clean()
    assert await scene.bodies() == []


async def test_two_that_clean_at_once_do_nothing_twice(scene: Scene) -> None:
    scene.retention_days = 1
    await scene.clean()
    await scene.send(*[b"body"] * 100)
    scene.now_ms += 3 * day_ms

    async def clean() -> None:
        job = scene.job()
        while True:
            try:
                if not await job.step():
                    return
            except Overloaded:
                continue

    for _ in range(2):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(clean)
        scene.now_ms += expiry.readers_ms + 1
    assert scene.reported["day_dropped"] == 100
    await scene.check_chain()


def test_ends_are_counted_in_whole_days_and_the_earlier_one_counts() -> None:
    assert end_of(expiry=0, time=START, retention_days=0) == 0
    assert end_of(expiry=START + 5, time=START, retention_days=0) == START + 5
    ends = end_of(expiry=0, time=START, retention_days=1)
    assert (ends + 1) % day_ms == 0
    assert day_ms <= ends - START < 2 * day_ms
    assert end_of(expiry=START + 5, time=START, retention_days=1) == START + 5
    assert end_of(expiry=ends + 1, time=START, retention_days=1) == ends
    assert end_of(expiry=0, time=START, retention_days=ends_days_max + 1) == 0


async def test_without_an_end_nothing_is_written_that_was_not_written_before(scene: Scene) -> None:
    """So the journal's cost is what it was where nothing expires: one statement for all bodies."""
    async with scene.journal() as journal:
        result = await journal.commit([scene.draft(), scene.draft(expiry=scene.now_ms + 1_000)], waits=False)
    assert [len(lasting(result.appended)), len(passing(result.appended))] == [1, 1]
    assert (lasting(result.appended[1:]), passing(result.appended[:1])) == ([], [])
    assert SendNumber(1) == result.appended[0].new.n
