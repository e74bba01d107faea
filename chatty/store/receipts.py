"""Read cursors in PostgreSQL. Owns read_cursors.

Cursors are written in the order of (room, user), by all processes alike, so that two of them never wait for each other in a
circle.
"""

from collections.abc import Collection, Sequence
from typing import Any

from chatty.ids import RoomId, RoomNumber, Seq, UserId, UserNumber
from chatty.services.receipts import MovedCursor, ReadCursors
from chatty.store.connection import TrioConnection
from chatty.wire import limits
from chatty.wire.receipts import Receipt, Receipts, UnreadRoom

# A cursor beyond the end was refused; after a restore from a backup there may still be one, which then counts as the end.
_MOVE = """WITH moved AS (
 INSERT INTO read_cursors AS c (room_number, user_number, seq)
 SELECT w.room_number, w.user_number, LEAST(w.seq, r.seq)
 FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) AS w(room_number, user_number, seq)
 JOIN rooms r ON r.room_number = w.room_number
 JOIN members m ON m.room_number = w.room_number AND m.user_number = w.user_number AND m.standing = 'joined'
 ORDER BY w.room_number, w.user_number
 ON CONFLICT (room_number, user_number) DO UPDATE SET seq = excluded.seq WHERE c.seq < excluded.seq
 RETURNING room_number, user_number, seq
)
SELECT moved.room_number, r.room_id, moved.user_number, u.user_id, moved.seq, u.shows_receipts,
 ARRAY(SELECT b.blocked_number FROM blocks b WHERE b.user_number = moved.user_number)
FROM moved JOIN rooms r ON r.room_number = moved.room_number JOIN users u ON u.user_number = moved.user_number"""
_HEAD = """SELECT r.seq FROM rooms r JOIN members m ON m.room_number = r.room_number
WHERE r.room_number = %s AND m.user_number = %s AND m.standing = 'joined'"""
# Of a room r and its member m. index: read_cursors_pkey, member_intervals_pkey, timeline_pkey
READ_SEQ = """coalesce((SELECT c.seq FROM read_cursors c
 WHERE c.room_number = m.room_number AND c.user_number = m.user_number), 0)"""
UNREAD_COUNT = f"""(SELECT count(*) FROM timeline t
 WHERE t.room_number = m.room_number AND t.seq > GREATEST(r.seq - {limits.unread_events_max}, r.horizon_seq, {READ_SEQ},
  (SELECT i.from_seq FROM member_intervals i WHERE i.room_number = m.room_number AND i.user_number = m.user_number
   AND i.to_seq IS NULL))
 AND t.kind = 'message' AND t.sender_number <> m.user_number)"""  # noqa: S608 # constants
_UNREAD = f"""SELECT r.room_id, r.seq, {READ_SEQ}, {UNREAD_COUNT}
FROM members m JOIN rooms r ON r.room_number = m.room_number
WHERE m.user_number = %s AND m.room_number = ANY(%s) AND m.standing = 'joined' ORDER BY m.room_number"""  # noqa: S608 # constants
_RECEIPTS = """SELECT r.room_id, s.user_id, s.seq
FROM members m JOIN rooms r ON r.room_number = m.room_number CROSS JOIN LATERAL (
 SELECT u.user_id, c.seq FROM read_cursors c JOIN users u ON u.user_number = c.user_number
 JOIN members o ON o.room_number = c.room_number AND o.user_number = c.user_number AND o.standing = 'joined'
 WHERE c.room_number = m.room_number AND (c.user_number = m.user_number OR (u.shows_receipts AND NOT EXISTS (
  SELECT FROM blocks b WHERE b.user_number = c.user_number AND b.blocked_number = m.user_number)))
 ORDER BY c.user_number = m.user_number DESC, c.seq DESC LIMIT %s) s
WHERE m.user_number = %s AND m.room_number = ANY(%s) AND m.standing = 'joined'
ORDER BY m.room_number"""  # index: read_cursors_pkey, blocks_pkey


class PostgresReadCursors(ReadCursors):
    """On one connection."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def move(self, cursors: Sequence[tuple[RoomNumber, UserNumber, Seq]]) -> list[MovedCursor]:
        columns = [list(column) for column in zip(*cursors, strict=True)]
        return [
            MovedCursor(
                room_number=RoomNumber(row[0]),
                room=RoomId(row[1]),
                user_number=UserNumber(row[2]),
                user=UserId(row[3]),
                seq=Seq(row[4]),
                is_shown=row[5],
                hidden_from=frozenset(UserNumber(number) for number in row[6]),
            )
            for row in (await self._rows(_MOVE, columns) if cursors else ())
        ]

    async def head(self, room: RoomNumber, user: UserNumber) -> Seq | None:
        rows = await self._rows(_HEAD, (room, user))
        return Seq(rows[0][0]) if rows else None

    async def unread(self, user: UserNumber, rooms: Collection[RoomNumber]) -> list[UnreadRoom]:
        return [
            UnreadRoom(room=RoomId(row[0]), head_seq=Seq(row[1]), read_seq=Seq(row[2]), unread_count=row[3])
            for row in await self._rows(_UNREAD, (user, list(rooms)))
        ]

    async def receipts(self, user: UserNumber, rooms: Collection[RoomNumber]) -> list[Receipts]:
        of_room: dict[RoomId, list[Receipt]] = {}
        for room, reader, seq in await self._rows(_RECEIPTS, (limits.receipts_shown_max, user, list(rooms))):
            of_room.setdefault(RoomId(room), []).append(Receipt(user=UserId(reader), seq=Seq(seq)))
        return [Receipts(room=room, receipts=receipts) for room, receipts in of_room.items()]

    async def _rows(self, sql: str, params: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(sql, params)).fetchall()
