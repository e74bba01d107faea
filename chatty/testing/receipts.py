"""Read cursors in memory."""

from collections.abc import Collection, Sequence

from chatty.ids import RoomNumber, Seq, UserNumber
from chatty.services.receipts import MovedCursor, ReadCursors
from chatty.testing.tables import Tables
from chatty.testing.transactions import Transaction
from chatty.wire import limits
from chatty.wire.events import Kind
from chatty.wire.receipts import Receipt, Receipts, UnreadRoom


class MemoryReadCursors(ReadCursors):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def move(self, cursors: Sequence[tuple[RoomNumber, UserNumber, Seq]]) -> list[MovedCursor]:
        def change(tables: Tables) -> list[MovedCursor]:
            return [moved for cursor in sorted(cursors) if (moved := _move(tables, *cursor)) is not None]

        return await self._transaction.write(change)

    async def head(self, room: RoomNumber, user: UserNumber) -> Seq | None:
        tables = await self._transaction.read()
        return tables.rooms[room].seq if tables.is_joined(room, user) else None

    async def unread(self, user: UserNumber, rooms: Collection[RoomNumber]) -> list[UnreadRoom]:
        tables = await self._transaction.read()
        return [
            UnreadRoom(
                room=tables.rooms[room].room,
                head_seq=tables.rooms[room].seq,
                read_seq=read_seq(tables, room, user),
                unread_count=unread_count(tables, room, user),
            )
            for room in sorted(rooms)
            if tables.is_joined(room, user)
        ]

    async def receipts(self, user: UserNumber, rooms: Collection[RoomNumber]) -> list[Receipts]:
        tables = await self._transaction.read()
        found = [
            Receipts(room=tables.rooms[room].room, receipts=_receipts(tables, room, user))
            for room in sorted(rooms)
            if tables.is_joined(room, user)
        ]
        return [one for one in found if one.receipts]


def read_seq(tables: Tables, room: RoomNumber, user: UserNumber) -> Seq:
    return tables.read_cursors.get((room, user), Seq(0))


def unread_count(tables: Tables, room: RoomNumber, user: UserNumber) -> int:
    """Messages of others, above the cursor and since the last join, among the newest."""
    head_seq = tables.rooms[room].seq
    joined_seqs = [first for first, last in tables.intervals.get((room, user), ()) if last is None]
    after = max(head_seq - limits.unread_events_max, read_seq(tables, room, user), *joined_seqs)
    events = [tables.timeline[room, Seq(seq)] for seq in range(after + 1, head_seq + 1)]
    return sum(one.event.kind is Kind.MESSAGE and one.new.sender_number != user for one in events)


def _move(tables: Tables, room: RoomNumber, user: UserNumber, wanted: Seq) -> MovedCursor | None:
    if not tables.is_joined(room, user):
        return None
    seq = min(wanted, tables.rooms[room].seq)
    if tables.read_cursors.get((room, user), Seq(-1)) >= seq:
        return None
    tables.read_cursors[room, user] = seq
    row = tables.users[user]
    return MovedCursor(
        room_number=room,
        room=tables.rooms[room].room,
        user_number=user,
        user=row.user,
        seq=seq,
        is_shown=row.shows_receipts,
        hidden_from=tables.hidden_from(user),
    )


def _receipts(tables: Tables, room: RoomNumber, reader: UserNumber) -> list[Receipt]:
    """The own one first, then the newest."""

    def is_seen(user: UserNumber) -> bool:
        return user == reader or (tables.users[user].shows_receipts and (user, reader) not in tables.blocks)

    of_room = {
        user: seq for (at, user), seq in tables.read_cursors.items() if at == room and tables.is_joined(at, user)
    }
    seen = sorted((user for user in of_room if is_seen(user)), key=lambda user: (user != reader, -of_room[user]))
    return [Receipt(user=tables.users[user].user, seq=of_room[user]) for user in seen[: limits.receipts_shown_max]]
