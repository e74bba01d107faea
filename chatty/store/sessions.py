"""Log-ins: what proves them, and the rows of the devices that they make."""

from chatty.errors import DeviceIdTaken
from chatty.ids import DeviceNumber, UserId, UserNumber
from chatty.services.sessions import LoginRow, Sessions
from chatty.store.connection import TrioConnection
from chatty.wire.accounts import NewDevice

_FIND_LOGIN = "SELECT user_number, role, is_locked, login_key_sealed FROM users WHERE user_id = %s AND NOT is_deleted"
_ADD_DEVICE = """INSERT INTO devices (device_id, user_number, name) VALUES (%s, %s, %s)
ON CONFLICT (device_id) DO NOTHING RETURNING device_number"""
_ADD_SEND = "INSERT INTO device_send (device_number) VALUES (%s)"


class PostgresSessions(Sessions):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def find_login(self, user: UserId) -> LoginRow | None:
        row = await (await self._connection.execute(_FIND_LOGIN, (user,))).fetchone()
        if row is None:
            return None
        return LoginRow(user_number=UserNumber(row[0]), role=row[1], is_locked=row[2], login_key_sealed=bytes(row[3]))

    async def add_device(self, user: UserNumber, device: NewDevice) -> DeviceNumber:
        row = await (await self._connection.execute(_ADD_DEVICE, (device.device, user, device.name))).fetchone()
        if row is None:
            raise DeviceIdTaken("choose another device id")
        await self._connection.execute(_ADD_SEND, (row[0],))
        return DeviceNumber(row[0])
