"""Blocks in PostgreSQL. Owns blocks."""

from collections.abc import Collection, Sequence
from typing import Any

from chatty.ids import DeviceNumber, UserId, UserNumber
from chatty.services.blocks import Blocks
from chatty.store.connection import TrioConnection
from chatty.store.locks import lock_users

_USER = "SELECT user_number FROM users WHERE user_id = %s AND NOT is_deleted"  # index: users_user_id_key
_IS_BLOCKED = "SELECT 1 FROM blocks WHERE user_number = %s AND blocked_number = %s"  # index: blocks_pkey
# index: blocks_pkey, members_user
_DEAF = """SELECT d.device_number FROM devices d
JOIN blocks b ON b.user_number = d.user_number AND b.blocked_number = %(sender)s
WHERE d.device_number = ANY(%(devices)s) AND NOT EXISTS (SELECT FROM members own
 JOIN members other ON other.room_number = own.room_number AND other.user_number = %(sender)s AND other.standing = 'joined'
 WHERE own.user_number = d.user_number AND own.standing = 'joined')"""
_BLOCKED = """SELECT u.user_id FROM blocks b JOIN users u ON u.user_number = b.blocked_number
WHERE b.user_number = %s ORDER BY u.user_id"""
_COUNT = "SELECT count(*) FROM blocks WHERE user_number = %s"
_ADD = "INSERT INTO blocks (user_number, blocked_number) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_REMOVE = "DELETE FROM blocks WHERE user_number = %s AND blocked_number = %s"


class PostgresBlocks(Blocks):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def lock_pair(self, user: UserNumber, other: UserId) -> UserNumber | None:
        found = await self._user(other)
        await lock_users(self._connection, [user] if found is None else [user, found])
        return await self._user(other)  # read again: now under the lock

    async def _user(self, user: UserId) -> UserNumber | None:
        rows = await self._rows(_USER, (user,))
        return UserNumber(rows[0][0]) if rows else None

    async def is_blocked(self, user: UserNumber, *, by: UserNumber) -> bool:
        return bool(await self._rows(_IS_BLOCKED, (by, user)))

    async def deaf_devices(self, devices: Collection[DeviceNumber], *, sender: UserNumber) -> set[DeviceNumber]:
        rows = await self._rows(_DEAF, {"sender": sender, "devices": list(devices)})
        return {DeviceNumber(row[0]) for row in rows}

    async def blocked(self, user: UserNumber) -> Sequence[UserId]:
        return [UserId(row[0]) for row in await self._rows(_BLOCKED, (user,))]

    async def count(self, user: UserNumber) -> int:
        return int((await self._rows(_COUNT, (user,)))[0][0])

    async def add(self, user: UserNumber, *, blocked: UserNumber) -> None:
        await self._connection.execute(_ADD, (user, blocked))

    async def remove(self, user: UserNumber, *, blocked: UserNumber) -> None:
        await self._connection.execute(_REMOVE, (user, blocked))

    async def _rows(self, sql: str, params: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(sql, params)).fetchall()
