"""What waits to be written to one socket: a plain list and one parked task, bounded in bytes.

Replies are always taken: their number is bounded by the requests that were read, and reading stops while the outbox is above its
bound. Live events are offered: at the bound the offer fails, the session drops all live events that were not written yet, for it
alone, and tells its client that it lags. The writer takes as much as fits one frame; with nothing queued before it, an event
leaves at once.

Notices (typing, presence, receipts) wait beside them and leave when nothing else is queued. One of a key replaces an older one.
They share the bound and are the first to go: a live event that finds no room drops all of them, and whoever made the outbox is
told.
"""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import trio
from trio.lowlevel import ParkingLot

from chatty.ids import MailboxId, RoomNumber, Seq
from chatty.wire import frames
from chatty.wire.frames import Encoding


@dataclass(frozen=True, slots=True)
class Item:
    """room and before: where the session stood in the room before this event; a mailbox row has its id."""

    data: bytes
    is_live: bool = False
    room: RoomNumber | None = None
    before: Seq = Seq(0)
    mailbox_id: MailboxId | None = None


@dataclass(slots=True)
class Dropped:
    """positions: for each room, where the session stands again. is_resumed: whether the end of its resume was among it."""

    positions: dict[RoomNumber, Seq] = field(default_factory=dict)
    mailbox_ids: set[MailboxId] = field(default_factory=set)
    is_resumed: bool = False


class Shared:
    """A room's next event, encoded once for each encoding, its item shared by all recipients who stand right before it."""

    __slots__ = ("_event", "_items", "_room")

    def __init__(self, event: frames.PlacedEntry, room: RoomNumber) -> None:
        self._event = event
        self._room = room
        self._items: dict[Encoding, Item] = {}

    def item(self, encoding: Encoding) -> Item:
        item = self._items.get(encoding)
        if item is None:
            data = frames.encode(self._event, encoding=encoding)
            item = self._items[encoding] = Item(data, True, self._room, Seq(self._event.seq - 1))
        return item


class SharedNotice:
    """A notice, encoded once for each encoding."""

    __slots__ = ("_data", "_event")

    def __init__(self, event: frames.ServerFrame) -> None:
        self._event = event
        self._data: dict[Encoding, bytes] = {}

    def data(self, encoding: Encoding) -> bytes:
        data = self._data.get(encoding)
        if data is None:
            data = self._data[encoding] = frames.encode(self._event, encoding=encoding)
        return data


class Outbox:
    """One session's. bytes_max bounds live events; frame_bytes_max is the largest frame that is made of several events.

    on_notices_dropped: called with how many; must not wait.
    """

    def __init__(
        self,
        *,
        bytes_max: int,
        frame_bytes_max: int,
        on_notices_dropped: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._bytes_max = bytes_max
        self._frame_bytes_max = frame_bytes_max
        self._items: deque[Item] = deque()
        self._notices: dict[Hashable, bytes] = {}
        self._notices_bytes = 0
        self._on_notices_dropped = on_notices_dropped
        self._queued_bytes = 0
        self._writing_bytes = 0
        self._writer = ParkingLot()
        self._is_writer_parked = False
        self._room_wanted = ParkingLot()

    @property
    def size_bytes(self) -> int:
        """Queued, notices left out, and being written."""
        return self._queued_bytes + self._writing_bytes

    def put(self, data: bytes) -> None:
        """A reply, or a notice to this session alone: always taken."""
        self._add(Item(data))

    def offer(self, item: Item) -> bool:
        """A room's event. False: it would go over the bound and was not taken."""
        size_bytes = self._queued_bytes + self._writing_bytes + len(item.data)
        if size_bytes + self._notices_bytes > self._bytes_max:
            self.drop_notices()
            if size_bytes > self._bytes_max:
                return False
        self._add(item)
        return True

    def offer_notice(self, key: Hashable, data: bytes) -> bool:
        """False: the outbox is more than half full, and it was not taken."""
        older_bytes = len(self._notices.get(key, b""))
        notices_bytes = self._notices_bytes - older_bytes + len(data)
        if self._queued_bytes + self._writing_bytes + notices_bytes > self._bytes_max // 2:
            self._on_notices_dropped(1)
            return False
        self._notices[key], self._notices_bytes = data, notices_bytes
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

    async def take(self) -> list[bytes]:
        """What the next frame holds, in order; waits for the first. Call written() when it has left."""
        while not self._items and not self._notices:
            self._is_writer_parked = True
            await self._writer.park()
        if not self._items:
            return self._take_notices()
        taken: list[bytes] = []
        size = 0
        while self._items and (not taken or size + len(self._items[0].data) <= self._frame_bytes_max):
            data = self._items.popleft().data
            taken.append(data)
            size += len(data) + 1
        self._queued_bytes -= size - len(taken)
        self._writing_bytes = size - len(taken)
        return taken

    def _take_notices(self) -> list[bytes]:
        taken: list[bytes] = []
        size = 0
        for key, data in list(self._notices.items()):
            if taken and size + len(data) > self._frame_bytes_max:
                break
            taken.append(self._notices.pop(key))
            size += len(data) + 1
        self._writing_bytes = size - len(taken)
        self._notices_bytes -= self._writing_bytes
        return taken

    def written(self) -> None:
        self._writing_bytes = 0
        if self._room_wanted and self.size_bytes <= self._bytes_max // 2:
            self._room_wanted.unpark_all()

    async def wait_for_room(self) -> None:
        """Until at most half of the bound is queued: for the reader and for whoever fills from the store."""
        while self.size_bytes > self._bytes_max // 2:
            await self._room_wanted.park()
        await trio.lowlevel.checkpoint_if_cancelled()
