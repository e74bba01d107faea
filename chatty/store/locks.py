"""The lock order of every transaction: the server, users, device_send, rooms; each in number order, FOR NO KEY UPDATE.

Locks are statements of their own, and everything is read afterwards: in one statement the lock returns the new row while the
look-up beside it still misses what was committed meanwhile. FOR UPDATE would block every insert that refers to the row.
"""

from collections.abc import Collection

from chatty.ids import DeviceNumber, SendNumber, UserNumber
from chatty.services.requests import SendRow
from chatty.store.connection import TrioConnection

_LOCK_SERVER = "SELECT 1 FROM server FOR NO KEY UPDATE"
_LOCK_USERS = "SELECT 1 FROM users WHERE user_number = ANY(%s) ORDER BY user_number FOR NO KEY UPDATE"
_LOCK_DEVICE_SEND = "SELECT low, highest_n, is_live FROM device_send WHERE device_number = %s FOR NO KEY UPDATE"


async def lock_server(connection: TrioConnection) -> None:
    """For what must happen one at a time in the whole server, and is rare."""
    await connection.execute(_LOCK_SERVER)


async def lock_users(connection: TrioConnection, users: Collection[UserNumber]) -> None:
    await connection.execute(_LOCK_USERS, (sorted(users),))


async def lock_device_send(connection: TrioConnection, device: DeviceNumber) -> SendRow | None:
    """The device's send row, locked; None if there is no such device."""
    row = await (await connection.execute(_LOCK_DEVICE_SEND, (device,))).fetchone()
    if row is None:
        return None
    return SendRow(low=SendNumber(row[0]), highest_n=SendNumber(row[1]), is_live=row[2])
