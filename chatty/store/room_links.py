"""Invitation links of rooms; inside the transaction of one unit of work, written under the room's row lock."""

from chatty.ids import RoomNumber, Seq, UserId
from chatty.services.room_links import RoomLinks
from chatty.store.connection import TrioConnection
from chatty.wire.room_links import Link

_HAS = "SELECT 1 FROM room_links WHERE room_number = %s AND link = %s"  # index: room_links_pkey
# Who made it stands in the room's signed event: that one stays, whatever else goes. index: room_links_pkey, timeline_pkey
_LINK = """SELECT u.user_id, l.made_seq, l.expires_at, l.uses_max, l.uses_count, l.is_revoked
FROM room_links l JOIN timeline t ON t.room_number = l.room_number AND t.seq = l.made_seq
JOIN users u ON u.user_number = t.sender_number WHERE l.room_number = %s AND l.link = %s"""
_PUT = """INSERT INTO room_links (room_number, link, made_seq, expires_at, uses_max, uses_count, is_revoked)
VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (room_number, link) DO UPDATE SET
uses_count = EXCLUDED.uses_count, is_revoked = EXCLUDED.is_revoked"""
_OPEN_COUNT = """SELECT count(*) FROM room_links
WHERE room_number = %s AND NOT is_revoked AND expires_at > %s AND uses_count < uses_max"""  # index: room_links_pkey


async def read_link(connection: TrioConnection, room: RoomNumber, key: str) -> Link | None:
    row = await (await connection.execute(_LINK, (room, key))).fetchone()
    if row is None:
        return None
    maker, made_seq, expires_at, uses_max, uses_count, is_revoked = row
    return Link(
        maker=UserId(maker),
        made_seq=Seq(made_seq),
        expires_at=expires_at,
        uses_max=uses_max,
        uses_count=uses_count,
        is_revoked=is_revoked,
    )


class PostgresRoomLinks(RoomLinks):
    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def has(self, room: RoomNumber, key: str) -> bool:
        return await (await self._connection.execute(_HAS, (room, key))).fetchone() is not None

    async def put(self, room: RoomNumber, key: str, link: Link) -> None:
        values = (link.made_seq, link.expires_at, link.uses_max, link.uses_count, link.is_revoked)
        await self._connection.execute(_PUT, (room, key, *values))

    async def open_count(self, room: RoomNumber, *, at_ms: int) -> int:
        row = await (await self._connection.execute(_OPEN_COUNT, (room, at_ms))).fetchone()
        assert row is not None
        return int(row[0])
