"""Read cursors on their way: taken from sessions, written together once an interval, told to the members.

What is pending is kept beside the actors, the newest of each room and user. A cursor is answered when it is taken; a crash of the
server within the interval forgets it, and the user's next one makes up for it. The store gone: what was taken waits here.

*Bound*: pending_max cursors; beyond it `overloaded`. At most receipts_shown_max of a room are told at once, the others an
interval later. *Another node* is told at its next hello.
"""

from collections.abc import Mapping, Sequence

import trio

from chatty.actors.directory import Directory
from chatty.actors.outbox import SharedNotice
from chatty.errors import ChattyError, Overloaded
from chatty.ids import RoomNumber, Seq, UserNumber
from chatty.services.coalescing import Coalescer
from chatty.services.receipts import MovedCursor, ReceiptSteps
from chatty.wire import limits
from chatty.wire.receipts import Receipt, Receipts

pending_max = 20_000
batch_max = 1_000
retry_after_s = 2.0
members_between_checkpoints = 200

Cursors = dict[RoomNumber, Mapping[UserNumber, Seq]]


class ReadCursorWriter:
    """One for a node."""

    def __init__(self, directory: Directory, steps: ReceiptSteps, *, interval_s: float) -> None:
        self._directory = directory
        self._steps = steps
        self._pending: Coalescer[RoomNumber, UserNumber, Seq] = Coalescer(
            interval_s=interval_s, values_max=pending_max, parts_max=limits.receipts_shown_max, newest=max
        )

    def note(self, room: RoomNumber, user: UserNumber, seq: Seq) -> None:
        """Never waits. Raises: Overloaded."""
        if not self._pending.put(room, user, seq, now_s=trio.current_time()):
            raise Overloaded(limiter="read_cursors", retry_after_s=retry_after_s)

    async def look(self) -> None:
        """Write what is due, and tell. Raises: ChattyError; then it is due again later."""
        batches = _batches(self._pending.take_due(now_s=trio.current_time()))
        while batches:
            try:
                moved = await self._steps.move(batches[0])
            except ChattyError:
                self._put_back(batches)
                raise
            del batches[0]
            await self._tell(moved)

    def _put_back(self, batches: Sequence[Cursors]) -> None:
        now_s = trio.current_time()
        for batch in batches:
            for room, of_room in batch.items():
                for user, seq in of_room.items():
                    self._pending.put(room, user, seq, now_s=now_s)

    async def _tell(self, moved: Sequence[MovedCursor]) -> None:
        by_room: dict[RoomNumber, list[MovedCursor]] = {}
        for one in moved:
            by_room.setdefault(one.room_number, []).append(one)
        for room, of_room in by_room.items():
            await self._tell_room(room, of_room)

    async def _tell_room(self, room: RoomNumber, moved: Sequence[MovedCursor]) -> None:
        """Each set of receipts that somebody may see is encoded once."""
        made: dict[tuple[UserNumber, ...], SharedNotice] = {}
        for count, session in enumerate(list(self._directory.in_room(room)), start=1):
            seen = seen_by(session.caller.user_number, moved)
            if not session.is_live_in(room):
                session.note_receipts(room)
            elif seen:
                key = tuple(one.user_number for one in seen)
                notice = made.get(key)
                if notice is None:
                    notice = made[key] = SharedNotice(_receipts(seen))
                session.notices.offer_receipts(notice)
            if count % members_between_checkpoints == 0:
                await trio.lowlevel.checkpoint()


def seen_by(reader: UserNumber, moved: Sequence[MovedCursor]) -> Sequence[MovedCursor]:
    """Those that the reader may see: the own one, and what others show."""
    return [one for one in moved if one.user_number == reader or (one.is_shown and reader not in one.hidden_from)]


def _receipts(moved: Sequence[MovedCursor]) -> Receipts:
    return Receipts(room=moved[0].room, receipts=[Receipt(user=one.user, seq=one.seq) for one in moved])


def _batches(due: Sequence[tuple[RoomNumber, Mapping[UserNumber, Seq]]]) -> list[Cursors]:
    """Each of about batch_max cursors: one room's stay together."""
    batches: list[Cursors] = []
    count = batch_max
    for room, of_room in due:
        if count + len(of_room) > batch_max:
            batches.append({})
            count = 0
        batches[-1][room] = of_room
        count += len(of_room)
    return batches
