"""What quiet rooms are owed: read and paid under the rooms' locks. The journal does the same for the rooms it writes to."""

from collections.abc import Sequence
from typing import Any

from chatty.ids import ListVersion, RoomId, RoomNumber, Seq, UserId, UserNumber
from chatty.services.owed_devices import OwedRooms
from chatty.services.timeline import Appended, OwedDevices, RoomHead
from chatty.store.connection import TrioConnection
from chatty.store.timeline import write_rooms
from chatty.wire.canonical import encode_base64

# The limit stands after SKIP LOCKED, so that a hundred busy rooms do not hide the others.
_LOCK = """SELECT room_number, room_id, seq, head, epoch, state_seq, last_time FROM rooms
WHERE room_number IN (SELECT room_number FROM owed_devices)
ORDER BY room_number LIMIT %s FOR NO KEY UPDATE SKIP LOCKED"""
# A statement of its own, after the locks: a version or a membership read before them may be an old one.
_OWED = """SELECT DISTINCT o.room_number, o.user_number, u.user_id, u.list_version, u.list_digest, m.list_version
FROM owed_devices o JOIN users u ON u.user_number = o.user_number
LEFT JOIN members m ON m.room_number = o.room_number AND m.user_number = o.user_number AND m.standing = 'joined'
WHERE o.room_number = ANY(%s) ORDER BY o.room_number, o.user_number"""  # index: owed_devices_pkey, members_pkey
# Never an upsert: it would make a member of somebody who is none.
_NAME_LISTS = """UPDATE members SET list_version = u.version, list_digest = u.digest, changed_seq = u.seq
FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::bigint[])
 AS u(room_number, user_number, version, digest, seq)
WHERE members.room_number = u.room_number AND members.user_number = u.user_number"""  # index: members_pkey
_SETTLE = """DELETE FROM owed_devices USING unnest(%s::bigint[], %s::bigint[], %s::bigint[])
 AS u(room_number, user_number, version)
WHERE owed_devices.room_number = u.room_number AND owed_devices.user_number = u.user_number
 AND owed_devices.list_version <= u.version"""  # index: owed_devices_pkey


class PostgresOwedRooms(OwedRooms):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def lock(self, *, count_max: int) -> Sequence[RoomHead]:
        rows = await (await self._connection.execute(_LOCK, (count_max,))).fetchall()
        return [_head(row) for row in rows]

    async def owed(self, rooms: Sequence[RoomNumber]) -> Sequence[OwedDevices]:
        rows = await (await self._connection.execute(_OWED, (list(rooms),))).fetchall()
        return [_owed(row) for row in rows]

    async def write(self, heads: Sequence[RoomHead], appended: Sequence[Appended]) -> None:
        await write_rooms(self._connection, heads, appended)

    async def name_lists(self, named: Sequence[tuple[OwedDevices, Seq]]) -> None:
        rows = [(one.room_number, one.user_number, one.list_version, one.list_digest, seq) for one, seq in named]
        await self._connection.execute(_NAME_LISTS, _columns(rows))

    async def settle(self, owed: Sequence[OwedDevices]) -> None:
        if owed:
            rows = [(one.room_number, one.user_number, one.list_version) for one in owed]
            await self._connection.execute(_SETTLE, _columns(rows))


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _head(row: tuple[Any, ...]) -> RoomHead:
    room_number, room, seq, head, epoch, state_seq, last_time = row
    return RoomHead(
        room_number=RoomNumber(room_number),
        room=RoomId(room),
        seq=Seq(seq),
        head=bytes(head),
        epoch=Seq(epoch),
        state_seq=Seq(state_seq),
        last_time=last_time,
    )


def _owed(row: tuple[Any, ...]) -> OwedDevices:
    room_number, user_number, user, version, digest, member_version = row
    return OwedDevices(
        room_number=RoomNumber(room_number),
        user_number=UserNumber(user_number),
        user=UserId(user),
        list_version=ListVersion(version),
        list_digest=encode_base64(bytes(digest)),
        member_version=member_version,
    )
