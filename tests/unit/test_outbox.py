"""The outbox: order kept, live events bounded, and what was dropped says where to begin again."""

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage

from chatty.actors.outbox import Item, Outbox, Shared, SharedNotice, framed, run_bytes_max, runs
from chatty.ids import MailboxId, RoomId, RoomNumber, Seq
from chatty.wire import frames
from chatty.wire.events import Kind, TimelineEvent
from chatty.wire.websocket import server_frame

ROOM = RoomNumber(1)


def live(data: bytes, *, room: int = 1, before: int = 0) -> Item:
    return Item(data, True, RoomNumber(room), Seq(before))


async def take(outbox: Outbox) -> list[bytes]:
    return [bytes(item.data) for item in await outbox.take()]


async def taken(outbox: Outbox) -> list[bytes]:
    """Everything, as the writer takes it."""
    found: list[bytes] = []
    while outbox.size_bytes:
        found += await take(outbox)
        outbox.written()
    return found


async def test_what_is_put_comes_out_in_order_as_one_frame() -> None:
    outbox = Outbox(bytes_max=1_000, frame_bytes_max=1_000)
    outbox.put(b"reply")
    assert outbox.offer(live(b"event"))
    outbox.offer_mailbox(b"row", mailbox_id=MailboxId(1))
    assert await take(outbox) == [b"reply", b"event", b"row"]


async def test_the_writer_is_woken_by_the_first_event() -> None:
    outbox, got = Outbox(bytes_max=1_000, frame_bytes_max=1_000), []
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            got.append(await take(outbox))

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        outbox.put(b"one")
        outbox.put(b"two")
    assert got == [[b"one", b"two"]]


async def test_a_frame_holds_as_much_as_fits_and_one_event_at_least() -> None:
    outbox = Outbox(bytes_max=1_000, frame_bytes_max=10)
    for data in (b"a" * 4, b"b" * 5, b"c" * 20, b"d"):
        outbox.put(data)
    assert [await take(outbox) for _ in range(3)] == [[b"a" * 4, b"b" * 5], [b"c" * 20], [b"d"]]


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
    shared = Shared([event], ROOM)
    assert shared.item("json", after=Seq(4)) is shared.item("json", after=Seq(4))
    assert shared.item("json", after=Seq(4)).before == 4
    assert msgspec.json.decode(shared.item("json", after=Seq(4)).data)["seq"] == 5
    item = shared.item("msgpack", after=Seq(4))
    assert frames.decode_events(b"\x91" + item.data, encoding="msgpack") == [event]
    assert item.frame.endswith(item.data)


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


# Leaving at once ----------------------------------------------------------------------------------------------------


class Kernel:
    """Takes what it has room for."""

    def __init__(self, room_bytes: int) -> None:
        self.room_bytes = room_bytes
        self.taken = b""

    def try_send(self, frame: bytes) -> int:
        taken_bytes = min(len(frame), self.room_bytes)
        self.taken += frame[:taken_bytes]
        self.room_bytes -= taken_bytes
        return taken_bytes


def whole(data: bytes) -> Item:
    view, frame = framed([data], "msgpack")
    return Item(view, True, ROOM, frame=frame)


async def test_with_nothing_before_it_an_event_leaves_at_once_and_wakes_nobody() -> None:
    kernel = Kernel(1_000)
    outbox = Outbox(bytes_max=10, frame_bytes_max=100, try_send=kernel.try_send)
    assert outbox.offer(whole(b"larger than the bound"))
    outbox.put_at_once(whole(b"ack"))
    assert kernel.taken == whole(b"larger than the bound").frame + whole(b"ack").frame
    assert outbox.size_bytes == 0


async def test_behind_a_reply_an_event_waits_its_turn() -> None:
    kernel = Kernel(1_000)
    outbox = Outbox(bytes_max=100, frame_bytes_max=100, try_send=kernel.try_send)
    outbox.put(b"reply")
    assert outbox.offer(whole(b"event"))
    outbox.put_at_once(whole(b"ack"))
    assert await take(outbox) == [b"reply", b"event", b"ack"]
    outbox.offer(whole(b"while that is written"))
    assert kernel.taken == b""


async def test_what_the_kernel_took_in_part_wakes_the_writer_and_holds_up_the_next() -> None:
    kernel = Kernel(10)
    outbox = Outbox(bytes_max=100, frame_bytes_max=100, try_send=kernel.try_send)
    taken: list[list[bytes]] = []
    async with trio.open_nursery() as nursery:

        async def write() -> None:
            taken.append(await take(outbox))

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        event = whole(b"an event of more than ten")
        assert outbox.offer(event)
        assert outbox.size_bytes == len(event.frame) - 10
    kernel.room_bytes = 1_000
    assert outbox.offer(whole(b"next"))
    outbox.written()
    assert taken == [[]]
    assert await take(outbox) == [b"next"]
    assert len(kernel.taken) == 10


async def test_who_was_refused_waits_until_the_event_fits() -> None:
    outbox, order = Outbox(bytes_max=10, frame_bytes_max=3), []
    outbox.put(b"aaa")
    assert not outbox.offer(live(b"b" * 8))
    async with trio.open_nursery() as nursery:

        async def fill() -> None:
            await outbox.wait_for_room(8)
            order.append("fits")

        nursery.start_soon(fill)
        await trio.testing.wait_all_tasks_blocked()
        order.append("written")
        await take(outbox)
        outbox.written()
    assert order == ["written", "fits"]
    assert outbox.offer(live(b"b" * 8))


async def test_what_the_kernel_has_no_room_for_waits_whole() -> None:
    outbox = Outbox(bytes_max=100, frame_bytes_max=100, try_send=Kernel(0).try_send)
    assert outbox.offer(whole(b"event"))
    assert await take(outbox) == [b"event"]


# Notices ------------------------------------------------------------------------------------------------------------


async def test_notices_leave_when_nothing_else_waits_and_the_newest_of_a_key_alone() -> None:
    outbox = Outbox(bytes_max=1_000, frame_bytes_max=1_000)
    outbox.offer_notice("typing", Item(b"ann"))
    outbox.offer_notice("presence", Item(b"online"))
    outbox.offer_notice("typing", Item(b"ben"))
    outbox.put(b"reply")
    outbox.offer(live(b"event"))
    assert await take(outbox) == [b"reply", b"event"]
    outbox.written()
    assert await take(outbox) == [b"ben", b"online"]


async def test_a_notice_wakes_the_writer() -> None:
    outbox, got = Outbox(bytes_max=1_000, frame_bytes_max=1_000), []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def write() -> None:
            got.extend(await take(outbox))

        await trio.testing.wait_all_tasks_blocked()
        outbox.offer_notice("typing", Item(b"ann"))
    assert got == [b"ann"]


async def test_notices_are_the_first_to_go() -> None:
    dropped: list[int] = []
    outbox = Outbox(bytes_max=100, frame_bytes_max=1_000, on_notices_dropped=dropped.append)
    assert outbox.offer_notice(1, Item(b"n" * 20))
    assert outbox.offer_notice(2, Item(b"n" * 20))
    assert not outbox.offer_notice(3, Item(b"n" * 20)), "they take no more than half"
    assert outbox.offer(live(b"e" * 60))
    assert dropped == [1]
    assert outbox.offer(live(b"f" * 40)), "there is room once they are gone"
    assert dropped == [1, 2]
    assert not outbox.offer_notice(1, Item(b"n"))
    assert await take(outbox) == [b"e" * 60, b"f" * 40]


async def test_notices_share_the_bound_of_a_frame() -> None:
    outbox = Outbox(bytes_max=1_000, frame_bytes_max=50)
    for key in range(3):
        outbox.offer_notice(key, Item(b"n" * 30))
    frames_ = []
    for _ in range(3):
        frames_.append(await take(outbox))
        outbox.written()
    assert [len(frame) for frame in frames_] == [1, 1, 1]
    assert outbox.size_bytes == 0


async def test_with_nothing_before_it_a_notice_leaves_at_once() -> None:
    kernel = Kernel(1_000)
    outbox = Outbox(bytes_max=100, frame_bytes_max=100, try_send=kernel.try_send)
    assert outbox.offer_notice("typing", whole(b"ann"))
    assert kernel.taken == whole(b"ann").frame
    outbox.put(b"reply")
    assert outbox.offer_notice("typing", whole(b"ben"))
    assert kernel.taken == whole(b"ann").frame
    assert await take(outbox) == [b"reply"]
    outbox.written()
    assert await take(outbox) == [b"ben"]


async def test_an_event_overtakes_the_notices_that_wait_and_a_notice_overtakes_none_of_them() -> None:
    kernel = Kernel(0)
    outbox = Outbox(bytes_max=100, frame_bytes_max=100, try_send=kernel.try_send)
    outbox.offer_notice("typing", whole(b"ann"))
    kernel.room_bytes = 1_000
    outbox.offer_notice("typing", whole(b"ben"))
    outbox.offer_notice("presence", whole(b"online"))
    assert kernel.taken == b""
    assert outbox.offer(whole(b"event"))
    assert kernel.taken == whole(b"event").frame
    assert await take(outbox) == [b"ben", b"online"]


async def test_nothing_gets_into_the_notices_that_are_being_written() -> None:
    kernel = Kernel(0)
    outbox = Outbox(bytes_max=100, frame_bytes_max=100, try_send=kernel.try_send)
    outbox.offer_notice("typing", whole(b"ann"))
    assert await take(outbox) == [b"ann"]
    kernel.room_bytes = 1_000
    assert not outbox.may_leave_at_once
    outbox.offer(whole(b"event"))
    outbox.offer_notice("typing", whole(b"ben"))
    assert kernel.taken == b""
    outbox.written()
    assert await take(outbox) == [b"event"]


async def test_the_rest_of_a_frame_leaves_before_notices_do() -> None:
    kernel = Kernel(10)
    outbox = Outbox(bytes_max=100, frame_bytes_max=100, try_send=kernel.try_send)
    event = whole(b"an event of more than ten")
    outbox.offer(event)
    outbox.offer_notice("typing", whole(b"ann"))
    assert await take(outbox) == []
    assert outbox.size_bytes == len(event.frame) - 10
    outbox.written()
    assert await take(outbox) == [b"ann"]


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_a_notice_is_encoded_once_for_each_encoding_and_shared(encoding: frames.Encoding) -> None:
    notice = SharedNotice(frames.Resumed())
    item = notice.item(encoding)
    assert notice.item(encoding) is item
    assert bytes(item.data) == frames.encode(frames.Resumed(), encoding=encoding)
    assert item.frame == server_frame(frames.encode([frames.Resumed()], encoding=encoding), is_text=encoding == "json")


# Runs ---------------------------------------------------------------------------------------------------------------


def entry(seq: int, *, kind: Kind = Kind.MESSAGE, body: bytes = b"body") -> TimelineEvent:
    return TimelineEvent(room=RoomId("!" + "A" * 43), seq=Seq(seq), time=0, kind=kind, body=body)


def seqs(events: list[TimelineEvent]) -> list[list[int]]:
    return [[event.seq for event in run] for run in runs(events)]


def test_consecutive_events_leave_together_up_to_a_gap_a_change_of_members_and_the_bound() -> None:
    assert seqs([]) == []
    assert seqs([entry(1), entry(2), entry(3)]) == [[1, 2, 3]]
    assert seqs([entry(1), entry(3), entry(4)]) == [[1], [3, 4]]
    assert seqs([entry(1), entry(2, kind=Kind.MEMBER), entry(3), entry(4)]) == [[1, 2], [3, 4]]
    half = bytes(run_bytes_max // 2)
    assert seqs([entry(seq, body=half) for seq in range(1, 6)]) == [[1, 2], [3, 4], [5]]
    assert seqs([entry(1, body=bytes(2 * run_bytes_max)), entry(2)]) == [[1], [2]]


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
def test_who_stands_within_a_run_gets_its_end(encoding: frames.Encoding) -> None:
    events = [entry(seq) for seq in range(5, 9)]
    shared = Shared(events, ROOM)
    assert (shared.first, shared.last) == (5, 8)
    for after in range(4, 8):
        item = shared.item(encoding, after=Seq(after))
        client = Connection(ConnectionType.CLIENT)
        client.receive_data(item.frame)
        [message] = client.events()
        assert isinstance(message, BytesMessage | TextMessage)
        data = message.data if isinstance(message.data, str) else bytes(message.data)
        assert frames.decode_events(data, encoding=encoding) == events[after - 4 :]
        assert (item.before, item.events_count) == (after, 8 - after)
        joined = frames.join_events([item.data], encoding=encoding, count=item.events_count)
        assert frames.decode_events(joined, encoding=encoding) == events[after - 4 :]
