"""Read cursors: one row a room and user, which never goes back; what others learn of it; what is unread.

A cursor is taken by the session, which refuses one beyond the room's end, and written at most once a second with all others of
this process (actors/receipts.py). Whoever is no member any more by then is passed over. A cursor is shown to the other members
unless its user shows none; it is hidden from whom the user has blocked.

Unread are the messages of others above the cursor and since the user's last join, counted among the newest `unread_events_max`
events of the room: what it costs is bounded, however long somebody was away.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from chatty.errors import CursorBeyondEnd, NotFound
from chatty.ids import RoomId, RoomNumber, Seq, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.units import Transactions
from chatty.wire.receipts import Receipts, UnreadRoom


@dataclass(frozen=True, kw_only=True)
class MovedCursor:
    """One that was written. is_shown: to other members, but for hidden_from."""

    room_number: RoomNumber
    room: RoomId
    user_number: UserNumber
    user: UserId
    seq: Seq
    is_shown: bool
    hidden_from: frozenset[UserNumber]


@dataclass(frozen=True, kw_only=True)
class ReadState:
    """Of some rooms, as one user may see it."""

    unread: Sequence[UnreadRoom]
    receipts: Sequence[Receipts]


class ReadCursors(Protocol):
    """The store's side, inside one unit of work."""

    async def move(self, cursors: Sequence[tuple[RoomNumber, UserNumber, Seq]]) -> list[MovedCursor]:
        """Write those of members that are above what is there; in one statement."""
        ...

    async def head(self, room: RoomNumber, user: UserNumber) -> Seq | None:
        """Where the room ends; None unless the user is a member."""
        ...

    async def unread(self, user: UserNumber, rooms: Collection[RoomNumber]) -> list[UnreadRoom]: ...
    async def receipts(self, user: UserNumber, rooms: Collection[RoomNumber]) -> list[Receipts]:
        """The newest of each room that others show, and the user's own."""
        ...


class ReceiptsUnit(Protocol):
    @property
    def read_cursors(self) -> ReadCursors: ...


class ReceiptSteps:
    def __init__(self, units: Transactions[ReceiptsUnit]) -> None:
        self._units = units

    async def check(self, caller: Caller, room: RoomNumber, seq: Seq) -> None:
        """Raises: NotFound (no member), CursorBeyondEnd."""
        async with self._units.autocommit() as unit:
            head = await unit.read_cursors.head(room, caller.user_number)
        if head is None:
            raise NotFound("no such room")
        if seq > head:
            raise CursorBeyondEnd(head_seq=head)

    async def move(self, cursors: Mapping[RoomNumber, Mapping[UserNumber, Seq]]) -> list[MovedCursor]:
        """All at once; returns those that moved."""
        flat = [(room, user, seq) for room, of_room in cursors.items() for user, seq in of_room.items()]
        async with self._units.autocommit() as unit:
            return await unit.read_cursors.move(sorted(flat))

    async def state(self, caller: Caller, rooms: Collection[RoomNumber]) -> ReadState:
        """Two statements, however many rooms."""
        async with self._units.autocommit() as unit:
            return ReadState(
                unread=await unit.read_cursors.unread(caller.user_number, rooms),
                receipts=await unit.read_cursors.receipts(caller.user_number, rooms),
            )
