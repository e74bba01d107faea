"""Users as those see and change them who look after the server. The rows themselves are made by registration.py."""

from collections.abc import Collection

from chatty.ids import UserId, UserNumber
from chatty.services.users import UserRows, UserStanding
from chatty.store.connection import TrioConnection
from chatty.store.locks import lock_server, lock_users
from chatty.wire.users import ListedUser

# index: users_user_id_key
_FIND = "SELECT user_id, user_number, role, is_locked FROM users WHERE user_id = %s AND NOT is_deleted"
_LISTED = """SELECT user_id, role, is_locked, created_day::text FROM users
WHERE user_id > %s AND NOT is_deleted ORDER BY user_id LIMIT %s"""  # index: users_user_id_key
_UNLOCKED_COUNT = "SELECT count(*) FROM users WHERE role = %s AND NOT is_locked"
_SET_ROLE = "UPDATE users SET role = %s WHERE user_number = %s"
_SET_LOCKED = "UPDATE users SET is_locked = %s WHERE user_number = %s"


class PostgresUsers(UserRows):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def lock_server(self) -> None:
        await lock_server(self._connection)

    async def lock(self, users: Collection[UserNumber]) -> None:
        await lock_users(self._connection, users)

    async def find(self, user: UserId) -> UserStanding | None:
        row = await (await self._connection.execute(_FIND, (user,))).fetchone()
        if row is None:
            return None
        return UserStanding(user=UserId(row[0]), number=UserNumber(row[1]), role=row[2], is_locked=row[3])

    async def listed(self, *, after: str, count_max: int) -> list[ListedUser]:
        rows = await (await self._connection.execute(_LISTED, (after, count_max))).fetchall()
        return [ListedUser(user=UserId(row[0]), role=row[1], is_locked=row[2], created_day=row[3]) for row in rows]

    async def unlocked_count(self, role: str) -> int:
        row = await (await self._connection.execute(_UNLOCKED_COUNT, (role,))).fetchone()
        assert row is not None
        return int(row[0])

    async def set_role(self, user: UserNumber, role: str) -> None:
        await self._connection.execute(_SET_ROLE, (role, user))

    async def set_locked(self, user: UserNumber, is_locked: bool) -> None:
        await self._connection.execute(_SET_LOCKED, (is_locked, user))
