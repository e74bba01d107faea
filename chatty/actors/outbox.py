"""What waits to be written to one socket: a plain list and one parked task, bounded in bytes.

Replies are always taken: their number is bounded by the requests that were read, and reading stops while the outbox is above its
bound. Live events are offered: at the bound the offer fails, the session drops all live events that were not written yet, for it
alone, and tells its client that it lags. The writer takes as much as fits one frame.

Notices (typing, presence, receipts) wait beside them and leave when nothing else is queued. One of a key replaces an older one.
They share the bound and are the first to go: a live event that finds no room drops all of them, and whoever made the outbox is
told.

Where the socket can (`try_send`), an event, an ack or a notice leaves at once when nothing is queued before it: a whole frame,
made once for all its recipients, without waking the writer. The writer is woken when the kernel took a part of it only.
Notices that wait hold up nothing: an event overtakes them.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import trio
from trio.lowlevel import ParkingLot

from chatty.ids import MailboxId, RoomNumber, Seq
from chatty.wire import frames
from chatty.wire.events import Kind, TimelineEvent
from chatty.wire.frames import Encoding, PlacedEntry
from chatty.wire.websocket import server_frame

# Sends a whole WebSocket frame without waiting. Returns how many bytes were taken: 0, or all, or some, and then the socket's next
# send() waits for the others.
TrySend = Callable[[bytes], int]
run_bytes_max = 32_768  # of the events that leave as one frame: bodies of new ones, whole of stored ones


@dataclass(frozen=True, slots=True)
class Item:
    """Events, encoded, without the list around them. frame: the same as a whole WebSocket frame, where one was made.

    room and before: where the session stood in the room before these events; a mailbox row has its id.
    """

    data: bytes | memoryview
    is_live: bool = False
    room: RoomNumber | None = None
    before: Seq = Seq(0)
    mailbox_id: MailboxId | None = None
    events_count: int = 1
    frame: bytes = b""


@dataclass(slots=True)
class Dropped:
    """positions: for each room, where the session stands again. is_resumed: whether the end of its resume was among it."""

    positions: dict[RoomNumber, Seq] = field(default_factory=dict)
    mailbox_ids: set[MailboxId] = field(default_factory=set)
    is_resumed: bool = False


def runs(events: Sequence[PlacedEntry]) -> Iterator[list[PlacedEntry]]:
    """Consecutive events that leave together. A change of members ends its run: who is removed by it gets nothing after it."""
    run: list[PlacedEntry] = []
    size_bytes = 0
    for event in events:
        size_bytes += _size_bytes(event)
        if run and (_is_member_change(run[-1]) or event.seq != run[-1].seq + 1 or size_bytes > run_bytes_max):
            yield run
            run, size_bytes = [], _size_bytes(event)
        run.append(event)
    if run:
        yield run


def _is_member_change(entry: PlacedEntry) -> bool:
    return isinstance(entry, TimelineEvent) and entry.kind is Kind.MEMBER


def _size_bytes(entry: PlacedEntry) -> int:
    return len(entry.body or b"") if isinstance(entry, TimelineEvent) else 0


class Shared:
    """A room's next events, encoded once for each encoding, and shared by all recipients who stand at the same place."""

    __slots__ = ("_events", "_items", "_room", "first", "last")

    def __init__(self, events: Sequence[PlacedEntry], room: RoomNumber) -> None:
        self.first = events[0].seq
        self.last = events[-1].seq
        self._events = events
        self._room = room
        self._items: dict[tuple[Encoding, int], Item] = {}

    def item(self, encoding: Encoding, *, after: Seq) -> Item:
        """The events behind this seq, which is one of theirs or right before."""
        item = self._items.get((encoding, after))
        if item is None:
            encoded = [frames.encode(event, encoding=encoding) for event in self._events[after + 1 - self.first :]]
            item = self._items[encoding, after] = room_item(encoded, encoding, room=self._room, before=after)
        return item


def room_item(encoded: Sequence[bytes], encoding: Encoding, *, room: RoomNumber, before: Seq) -> Item:
    """Consecutive events of a room, ready to leave at once."""
    data, frame = framed(encoded, encoding)
    return Item(data, True, room, before, events_count=len(encoded), frame=frame)


def framed(encoded: Sequence[bytes], encoding: Encoding) -> tuple[memoryview, bytes]:
    """Data and frame of an item; the one is a view of the other, not a copy."""
    chunk = frames.join_chunks(encoded, encoding=encoding)
    frame = server_frame(frames.join_events([chunk], encoding=encoding, count=len(encoded)), is_text=encoding == "json")
    ends = len(frame) - (1 if encoding == "json" else 0)  # the list's bracket
    return memoryview(frame)[ends - len(chunk) : ends], frame


def framed_event(event: frames.ServerFrame, encoding: Encoding) -> Item:
    """One event of no room, ready to leave at once."""
    data, frame = framed([frames.encode(event, encoding=encoding)], encoding)
    return Item(data, frame=frame)


class SharedNotice:
    """A notice, encoded once for each encoding, and shared by all its recipients."""

    __slots__ = ("_event", "_items")

    def __init__(self, event: frames.ServerFrame) -> None:
        self._event = event
        self._items: dict[Encoding, Item] = {}

    def item(self, encoding: Encoding) -> Item:
        item = self._items.get(encoding)
        if item is None:
            item = self._items[encoding] = framed_event(self._event, encoding)
        return item


class Outbox:
    """One session's. bytes_max bounds live events; frame_bytes_max is the largest frame that is made of several events.

    on_notices_dropped: called with how many; must not wait.
    """

    def __init__(
        self,
        *,
        bytes_max: int,
        frame_bytes_max: int,
        try_send: TrySend | None = None,
        on_notices_dropped: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._try_send = try_send
        self._bytes_max = bytes_max
        self._frame_bytes_max = frame_bytes_max
        self._items: deque[Item] = deque()
        self._notices: dict[Hashable, Item] = {}
        self._notices_bytes = 0
        self._on_notices_dropped = on_notices_dropped
        self._queued_bytes = 0
        self._writing_bytes = 0
        self._rest_bytes = 0
        self._writer = ParkingLot()
        self._is_writer_parked = False
        self._room_wanted = ParkingLot()

    @property
    def size_bytes(self) -> int:
        """Queued, notices left out, and being written."""
        return self._queued_bytes + self._writing_bytes + self._rest_bytes

    @property
    def may_leave_at_once(self) -> bool:
        """Nothing but notices is before it, and nothing is being written; and the socket can."""
        return self._try_send is not None and not self._items and not self._writing_bytes and not self._rest_bytes

    def put(self, data: bytes) -> None:
        """A reply, or a notice to this session alone: always taken."""
        self._add(Item(data))

    def put_at_once(self, item: Item) -> None:
        """A reply that others will hardly follow: it leaves now if it can."""
        if not (self.may_leave_at_once and self._has_left(item)):
            self._add(item)

    def offer(self, item: Item) -> bool:
        """A room's events. False: they would go over the bound and were not taken."""
        if self.may_leave_at_once and self._has_left(item):
            return True
        size_bytes = self.size_bytes + len(item.data)
        if size_bytes + self._notices_bytes > self._bytes_max:
            self.drop_notices()
            if size_bytes > self._bytes_max:
                return False
        self._add(item)
        return True

    def _has_left(self, item: Item) -> bool:
        assert self._try_send is not None, "a socket that cannot"
        taken_bytes = self._try_send(item.frame)
        if 0 < taken_bytes < len(item.frame):
            self._rest_bytes = len(item.frame) - taken_bytes
            self._wake_writer()
        return taken_bytes > 0

    def offer_notice(self, key: Hashable, item: Item) -> bool:
        """False: the outbox is more than half full, and it was not taken."""
        if not self._notices and self.may_leave_at_once and self._has_left(item):
            return True
        older = self._notices.get(key)
        notices_bytes = self._notices_bytes + len(item.data) - (len(older.data) if older else 0)
        if self.size_bytes + notices_bytes > self._bytes_max // 2:
            self._on_notices_dropped(1)
            return False
        self._notices[key], self._notices_bytes = item, notices_bytes
        self._wake_writer()
        return True

    def drop_notices(self) -> None:
        """Those that were not written."""
        if self._notices:
            count, self._notices, self._notices_bytes = len(self._notices), {}, 0
            self._on_notices_dropped(count)

    def offer_mailbox(self, data: bytes, *, mailbox_id: MailboxId) -> None:
        """A mailbox row: the filler waited for room before it read it."""
        self._add(Item(data, True, mailbox_id=mailbox_id))

    def _add(self, item: Item) -> None:
        self._items.append(item)
        self._queued_bytes += len(item.data)
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self._is_writer_parked:
            self._is_writer_parked = False
            self._writer.unpark()

    def put_resumed(self, data: bytes) -> None:
        """The notice that a resume is complete: dropped with what it speaks of."""
        self._add(Item(data, True))

    def drop_live(self) -> Dropped:
        """Drop what was not written."""
        dropped = Dropped()
        kept: deque[Item] = deque()
        for item in self._items:
            if not item.is_live:
                kept.append(item)
            elif item.room is not None:
                dropped.positions.setdefault(item.room, item.before)
            elif item.mailbox_id is not None:
                dropped.mailbox_ids.add(item.mailbox_id)
            else:
                dropped.is_resumed = True
        self._items = kept
        self._queued_bytes = sum(len(item.data) for item in kept)
        return dropped

    async def take(self) -> list[Item]:
        """What the next frame holds, in order; waits for the first. Nothing: only what the kernel had no room for is to be sent.

        Call written() when it has left.
        """
        while not self._items and not self._rest_bytes and not self._notices:
            self._is_writer_parked = True
            await self._writer.park()
        if not self._items and not self._rest_bytes:
            return self._take_notices()
        taken: list[Item] = []
        size = 0
        while self._items and (not taken or size + len(self._items[0].data) <= self._frame_bytes_max):
            item = self._items.popleft()
            taken.append(item)
            size += len(item.data) + 1
        self._queued_bytes -= size - len(taken)
        self._writing_bytes = size - len(taken) + self._rest_bytes
        self._rest_bytes = 0
        return taken

    def _take_notices(self) -> list[Item]:
        taken: list[Item] = []
        size = 0
        for key, item in list(self._notices.items()):
            if taken and size + len(item.data) > self._frame_bytes_max:
                break
            taken.append(self._notices.pop(key))
            size += len(item.data) + 1
        self._writing_bytes = size - len(taken)
        self._notices_bytes -= self._writing_bytes
        return taken

    def written(self) -> None:
        self._writing_bytes = 0
        if self._room_wanted and self.size_bytes <= self._bytes_max // 2:
            self._room_wanted.unpark_all()

    async def wait_for_room(self, wanted_bytes: int = 0) -> None:
        """Until at most half of the bound is queued: for the reader and for whoever fills from the store.

        wanted_bytes: of an event that was refused; until it fits, or nothing is queued.
        """
        while self.size_bytes > self._bytes_max // 2 or (
            self.size_bytes and self.size_bytes + wanted_bytes > self._bytes_max
        ):
            await self._room_wanted.park()
        await trio.lowlevel.checkpoint_if_cancelled()
