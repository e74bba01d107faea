"""Listed rooms and their public titles."""

from chatty.ids import RoomId, RoomNumber
from chatty.services.room_links import RoomDirectory
from chatty.store.connection import TrioConnection
from chatty.wire.rooms import ListedRoom

_IS_LISTED = "SELECT 1 FROM rooms WHERE room_number = %s AND public_title <> ''"
_SET_TITLE = "UPDATE rooms SET public_title = %s WHERE room_number = %s"
# A room that everybody has left has nobody to talk to. index: rooms_listed
_PAGE = """SELECT r.room_id, r.public_title, joined.count FROM rooms r CROSS JOIN LATERAL (
 SELECT count(*) FROM members m WHERE m.room_number = r.room_number AND m.standing = 'joined') joined
WHERE r.public_title <> '' AND r.room_id > %s AND strpos(lower(r.public_title), lower(%s)) > 0 AND joined.count > 0
ORDER BY r.room_id LIMIT %s"""


class PostgresRoomDirectory(RoomDirectory):
    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def is_listed(self, room: RoomNumber) -> bool:
        return await (await self._connection.execute(_IS_LISTED, (room,))).fetchone() is not None

    async def set_title(self, room: RoomNumber, title: str) -> None:
        await self._connection.execute(_SET_TITLE, (title, room))

    async def page(self, *, after: str, title: str, count_max: int) -> list[ListedRoom]:
        rows = await (await self._connection.execute(_PAGE, (after, title, count_max))).fetchall()
        return [ListedRoom(room=RoomId(row[0]), title=row[1], members_count=row[2]) for row in rows]
