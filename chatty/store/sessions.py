"""Log-ins: what proves them, and the rows of the devices that they make."""

from typing import LiteralString

from chatty.errors import DeviceIdTaken
from chatty.ids import DeviceNumber, ListVersion, UserId, UserNumber
from chatty.services.sessions import LoginRow, NewFamily, Sessions
from chatty.store.connection import TrioConnection
from chatty.wire.accounts import NewDevice

_FIND_LOGIN = """SELECT user_number, role, is_locked, login_key_sealed, list_version FROM users
WHERE user_id = %s AND NOT is_deleted"""
# Of one table, so the row is the one that was locked: see locks.py.
_LOCK_LOGIN = f"{_FIND_LOGIN} FOR NO KEY UPDATE"
# One trip: a log-in's cost is its trips.
_ADD_SESSION = """WITH added AS (INSERT INTO devices (device_id, user_number, name) VALUES (%s, %s, %s)
 ON CONFLICT (device_id) DO NOTHING RETURNING device_number),
sends AS (INSERT INTO device_send (device_number) SELECT device_number FROM added),
families AS (INSERT INTO refresh_families (family_id, device_number, dpop_thumbprint, generation)
 SELECT %s, device_number, %s, %s FROM added)
SELECT device_number FROM added"""


class PostgresSessions(Sessions):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def find_login(self, user: UserId) -> LoginRow | None:
        return await self._login(_FIND_LOGIN, user)

    async def lock_login(self, user: UserId) -> LoginRow | None:
        return await self._login(_LOCK_LOGIN, user)

    async def _login(self, statement: LiteralString, user: UserId) -> LoginRow | None:
        row = await (await self._connection.execute(statement, (user,))).fetchone()
        if row is None:
            return None
        return LoginRow(
            user_number=UserNumber(row[0]),
            role=row[1],
            is_locked=row[2],
            login_key_sealed=bytes(row[3]),
            list_version=ListVersion(row[4]),
        )

    async def add_session(self, user: UserNumber, device: NewDevice, family: NewFamily) -> DeviceNumber:
        values = (device.device, user, device.name, family.family, family.dpop_thumbprint, family.generation)
        row = await (await self._connection.execute(_ADD_SESSION, values)).fetchone()
        if row is None:
            raise DeviceIdTaken("choose another device id")
        return DeviceNumber(row[0])
