"""The outbox: order kept, live events bounded, and what was dropped says where to begin again."""

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from chatty.actors.outbox import Item, Outbox, Shared
from chatty.ids import MailboxId, RoomId, RoomNumber, Seq
from chatty.wire import frames
from chatty.wire.events import Kind, TimelineEvent

ROOM = RoomNumber(1)


def live(data: bytes, *, room: int = 1, before: int = 0) -> Item:
    return Item(data, True, RoomNumber(room), Seq(before))


async def taken(outbox: Outbox) -> list[bytes]:
    """Everything, as the writer takes it."""
    found: list[bytes] = []
    while outbox.size_bytes:
        found += await outbox.take()
        outbox.written()
    return found


async def test_what_is_put_comes_out_in_order_as_one_frame() -> None:
    outbox = Outbox(bytes_max=1_000, frame_bytes_max=1_000)
    outbox.put(b"reply")
    assert outbox.offer(live(b"event"))
    outbox.offer_mailbox(b"row", mailbox_id=MailboxId(1))
    assert await outbox.take() == [b"reply", b"event", b"row"]


async def test_the_writer_is_woken_by_the_first_event() -> None:
    outbox, got = Outbox(bytes_max=1_000, frame_bytes_max=1_000), []
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            got.append(await outbox.take())

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        outbox.put(b"one")
        outbox.put(b"two")
    assert got == [[b"one", b"two"]]


async def test_a_frame_holds_as_much_as_fits_and_one_event_at_least() -> None:
    outbox = Outbox(bytes_max=1_000, frame_bytes_max=10)
    for data in (b"a" * 4, b"b" * 5, b"c" * 20, b"d"):
        outbox.put(data)
    assert [await outbox.take() for _ in range(3)] == [[b"a" * 4, b"b" * 5], [b"c" * 20], [b"d"]]


async def test_live_events_are_bounded_and_replies_are_not() -> None:
    outbox = Outbox(bytes_max=10, frame_bytes_max=100)
    assert outbox.offer(live(b"a" * 10))
    assert not outbox.offer(live(b"b"))
    outbox.put(b"c" * 50)
    assert outbox.size_bytes == 60
    await outbox.take()
    assert not outbox.offer(live(b"d")), "what is being written counts until it is written"
    outbox.written()
    assert outbox.offer(live(b"e"))


async def test_dropping_takes_what_is_live_and_keeps_the_replies() -> None:
    outbox = Outbox(bytes_max=1_000, frame_bytes_max=1_000)
    outbox.offer(live(b"a", room=1, before=4))
    outbox.put(b"reply")
    outbox.offer(live(b"b", room=2, before=7))
    outbox.offer(live(b"c", room=1, before=5))
    outbox.offer_mailbox(b"row", mailbox_id=MailboxId(9))
    outbox.drop_live()
    assert outbox.size_bytes == len(b"reply")
    assert await taken(outbox) == [b"reply"]


async def test_who_waits_for_room_goes_on_at_half_of_the_bound() -> None:
    outbox, order = Outbox(bytes_max=10, frame_bytes_max=3), []
    for data in (b"aaa", b"bbb", b"ccc"):
        outbox.put(data)
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            await outbox.wait_for_room()
            order.append("room")

        nursery.start_soon(wait)
        for step in ("first", "second"):
            await trio.testing.wait_all_tasks_blocked()
            await outbox.take()
            order.append(step)
            outbox.written()
    assert order == ["first", "second", "room"]


def test_an_event_is_encoded_once_for_each_encoding_and_shared() -> None:
    event = TimelineEvent(room=RoomId("!" + "A" * 43), seq=Seq(5), time=0, kind=Kind.MESSAGE, body=b"body")
    shared = Shared(event, ROOM)
    assert shared.item("json") is shared.item("json")
    assert shared.item("json").before == 4
    assert msgspec.json.decode(shared.item("json").data)["seq"] == 5
    assert frames.decode_events(b"\x91" + shared.item("msgpack").data, encoding="msgpack") == [event]


@pytest.mark.parametrize("bytes_max", [1, 30, 1_000])
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=30))
def test_what_was_taken_in_leaves_in_order_whatever_was_refused(bytes_max: int, offers: list[tuple[bool, int]]) -> None:
    async def run() -> None:
        outbox, expected = Outbox(bytes_max=bytes_max, frame_bytes_max=25), []
        for number, (is_live, size) in enumerate(offers):
            data = bytes([number]) * size
            if not is_live:
                outbox.put(data)
            elif not outbox.offer(live(data, before=number)):
                assert outbox.size_bytes + size > bytes_max
                continue
            expected.append(data)
        assert await taken(outbox) == expected

    trio.run(run)


# Notices ------------------------------------------------------------------------------------------------------------


async def test_notices_leave_when_nothing_else_waits_and_the_newest_of_a_key_alone() -> None:
    outbox = Outbox(bytes_max=1_000, frame_bytes_max=1_000)
    outbox.offer_notice("typing", b"ann")
    outbox.offer_notice("presence", b"online")
    outbox.offer_notice("typing", b"ben")
    outbox.put(b"reply")
    outbox.offer(live(b"event"))
    assert await outbox.take() == [b"reply", b"event"]
    outbox.written()
    assert await outbox.take() == [b"ben", b"online"]


async def test_a_notice_wakes_the_writer() -> None:
    outbox, got = Outbox(bytes_max=1_000, frame_bytes_max=1_000), []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def write() -> None:
            got.extend(await outbox.take())

        await trio.testing.wait_all_tasks_blocked()
        outbox.offer_notice("typing", b"ann")
    assert got == [b"ann"]


async def test_notices_are_the_first_to_go() -> None:
    dropped: list[int] = []
    outbox = Outbox(bytes_max=100, frame_bytes_max=1_000, on_notices_dropped=dropped.append)
    assert outbox.offer_notice(1, b"n" * 20)
    assert outbox.offer_notice(2, b"n" * 20)
    assert not outbox.offer_notice(3, b"n" * 20), "they take no more than half"
    assert outbox.offer(live(b"e" * 60))
    assert dropped == [1]
    assert outbox.offer(live(b"f" * 40)), "there is room once they are gone"
    assert dropped == [1, 2]
    assert not outbox.offer_notice(1, b"n")
    assert await outbox.take() == [b"e" * 60, b"f" * 40]


async def test_notices_share_the_bound_of_a_frame() -> None:
    outbox = Outbox(bytes_max=1_000, frame_bytes_max=50)
    for key in range(3):
        outbox.offer_notice(key, b"n" * 30)
    frames_ = []
    for _ in range(3):
        frames_.append(await outbox.take())
        outbox.written()
    assert [len(frame) for frame in frames_] == [1, 1, 1]
    assert outbox.size_bytes == 0
