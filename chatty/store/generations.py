"""What a new generation changes all over the database. Owns room_restorations."""

from collections.abc import Sequence
from typing import Any

import msgspec

from chatty.ids import RoomId, RoomNumber, Seq, UserNumber
from chatty.services.generations import Generations
from chatty.services.timeline import Appended, RoomHead
from chatty.store.connection import TrioConnection
from chatty.store.timeline import write_rooms
from chatty.wire.frames import Generation

_WITHOUT_HURRY = "SET LOCAL statement_timeout = 0"
_SET = "UPDATE server SET generation = %s, generation_id = %s"
_LOCK_ROOMS = """SELECT room_number, room_id, seq, head, epoch, state_seq, last_time FROM rooms
WHERE room_number > %s ORDER BY room_number LIMIT %s FOR NO KEY UPDATE"""  # index: rooms_pkey
_NOTE = """INSERT INTO room_restorations (room_number, generation, seq)
SELECT u.room_number, %s, u.seq FROM unnest(%s::bigint[], %s::bigint[]) AS u(room_number, seq)"""
_TELL_USERS = """WITH next AS (UPDATE users SET stream_seq = stream_seq + 1 WHERE NOT is_deleted
 RETURNING user_number, stream_seq)
INSERT INTO user_stream (user_number, seq, time, kind, content) SELECT user_number, stream_seq, %s::bigint, %s, %s FROM next"""
# A claimed key leaves its row behind, so that it never comes again.
_PURGE = "UPDATE one_time_keys SET key_json = NULL WHERE key_json IS NOT NULL"  # index: one_time_keys_unclaimed
_FORGET_LEASES = "DELETE FROM leases"
_LIVE = """SELECT count(*) FROM refresh_families f JOIN devices d ON d.device_number = f.device_number
WHERE d.is_live AND NOT f.is_revoked"""
_LOCK_SIGNED_IN = """SELECT user_number FROM users
WHERE user_number IN (SELECT user_number FROM devices WHERE is_live) ORDER BY user_number FOR NO KEY UPDATE"""


class PostgresGenerations(Generations):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def set_generation(self, generation: Generation) -> None:
        await self._connection.execute(_WITHOUT_HURRY)
        await self._connection.execute(_SET, (generation.number, generation.id))

    async def lock_rooms(self, *, after: RoomNumber, count_max: int) -> Sequence[RoomHead]:
        rows = await (await self._connection.execute(_LOCK_ROOMS, (after, count_max))).fetchall()
        return [_head(row) for row in rows]

    async def write(self, heads: Sequence[RoomHead], appended: Sequence[Appended], *, generation: Seq) -> None:
        await write_rooms(self._connection, heads, appended)
        numbers, places = [head.room_number for head in heads], [head.seq for head in heads]
        await self._connection.execute(_NOTE, (generation, numbers, places))

    async def tell_users(self, *, kind: str, content: dict[str, Any], time_ms: int) -> int:
        text = msgspec.json.encode(content).decode()
        return (await self._connection.execute(_TELL_USERS, (time_ms, kind, text))).rowcount

    async def purge_one_time_keys(self) -> int:
        return (await self._connection.execute(_PURGE)).rowcount

    async def forget_leases(self) -> None:
        await self._connection.execute(_FORGET_LEASES)

    async def lock_users_signed_in(self) -> Sequence[UserNumber]:
        return [UserNumber(row[0]) for row in await (await self._connection.execute(_LOCK_SIGNED_IN)).fetchall()]

    async def live_sessions_count(self) -> int:
        row = await (await self._connection.execute(_LIVE)).fetchone()
        assert row is not None
        return int(row[0])


def _head(row: tuple[Any, ...]) -> RoomHead:
    return RoomHead(
        room_number=RoomNumber(row[0]),
        room=RoomId(row[1]),
        seq=Seq(row[2]),
        head=bytes(row[3]),
        epoch=Seq(row[4]),
        state_seq=Seq(row[5]),
        last_time=row[6],
    )
