"""Devices: their rows, the set, list versions and what rooms are owed. Owns devices, owed_devices and revocations."""

from collections.abc import Sequence
from typing import Any

import msgspec

from chatty.ids import DeviceId, DeviceNumber, ListVersion, RoomNumber, SendNumber, UserNumber
from chatty.services.devices import Devices, ListChange, StoredDevice
from chatty.store.connection import TrioConnection
from chatty.store.locks import lock_device_send, lock_users
from chatty.store.streams import append_user_event
from chatty.wire.chain import device_list_digest
from chatty.wire.keys import DeviceKeys

# index: devices_user
_LIVE = """SELECT device_number, device_id, name, last_seen_day::text, in_set, keys::text FROM devices
WHERE user_number = %s AND is_live ORDER BY device_number"""
_LIVE_COUNT = "SELECT count(*) FROM devices WHERE user_number = %s AND is_live"  # index: devices_user
_RENAME = "UPDATE devices SET name = %s WHERE device_number = %s"
_PUBLISH = "UPDATE devices SET keys = %s, curve25519 = %s, ed25519 = %s, in_set = true WHERE device_number = %s"
_KILL_DEVICE = "UPDATE devices SET is_live = false, in_set = false WHERE device_number = %s"
_KILL_SEND = "UPDATE device_send SET is_live = false WHERE device_number = %s"
_END_FAMILIES = "UPDATE refresh_families SET is_revoked = true WHERE device_number = %s"
_TELL_NODES = "INSERT INTO revocations (device_number) VALUES (%s)"
_TELL_OF_LIVE = """INSERT INTO revocations (device_number) SELECT device_number FROM devices
WHERE user_number = %s AND is_live"""  # index: devices_user
_FORGET_REVOCATIONS = """DELETE FROM revocations WHERE revocation_id IN (SELECT revocation_id FROM revocations
WHERE created_at < clock_timestamp() - make_interval(secs => %s) ORDER BY created_at LIMIT %s)"""  # index: revocations_created
_SEND_STATE = "SELECT highest_n, low FROM device_send WHERE device_number = %s"
_LIST_VERSION = "SELECT list_version FROM users WHERE user_number = %s"
_SET = "SELECT device_id, curve25519, ed25519 FROM devices WHERE user_number = %s AND in_set"  # index: devices_user
_RAISE = """UPDATE users SET list_version = list_version + 1, list_digest = %s WHERE user_number = %s
RETURNING list_version"""
_OWE = """INSERT INTO owed_devices (room_number, user_number, list_version)
SELECT room_number, user_number, %s FROM members WHERE user_number = %s AND standing = 'joined'
RETURNING room_number"""  # index: members_user


class PostgresDevices(Devices):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def lock_user(self, user: UserNumber) -> None:
        await lock_users(self._connection, [user])

    async def live(self, user: UserNumber) -> Sequence[StoredDevice]:
        rows = await (await self._connection.execute(_LIVE, (user,))).fetchall()
        return [_device(row) for row in rows]

    async def live_count(self, user: UserNumber) -> int:
        row = await (await self._connection.execute(_LIVE_COUNT, (user,))).fetchone()
        assert row is not None
        return int(row[0])

    async def rename(self, device: DeviceNumber, name: str) -> None:
        await self._connection.execute(_RENAME, (name, device))

    async def publish(self, device: DeviceNumber, keys: DeviceKeys) -> None:
        text = msgspec.json.encode(keys).decode()
        await self._connection.execute(_PUBLISH, (text, keys.curve25519, keys.ed25519, device))

    async def kill(self, device: DeviceNumber) -> None:
        """Families before the device's row, as a refresh takes them."""
        await lock_device_send(self._connection, device)
        for statement in (_KILL_SEND, _END_FAMILIES, _KILL_DEVICE, _TELL_NODES):
            await self._connection.execute(statement, (device,))

    async def tell_nodes(self, user: UserNumber) -> None:
        await self._connection.execute(_TELL_OF_LIVE, (user,))

    async def forget_revocations(self, *, age_s: float, count_max: int) -> int:
        """Delete those older than age_s, the oldest first. Returns how many."""
        return (await self._connection.execute(_FORGET_REVOCATIONS, (age_s, count_max))).rowcount

    async def send_state(self, device: DeviceNumber) -> tuple[SendNumber, SendNumber]:
        row = await (await self._connection.execute(_SEND_STATE, (device,))).fetchone()
        assert row is not None
        return SendNumber(row[0]), SendNumber(row[1])

    async def list_version(self, user: UserNumber) -> ListVersion:
        row = await (await self._connection.execute(_LIST_VERSION, (user,))).fetchone()
        assert row is not None
        return ListVersion(row[0])

    async def change_list(self, user: UserNumber) -> ListChange:
        in_set = await (await self._connection.execute(_SET, (user,))).fetchall()
        digest = device_list_digest([(row[0], row[1], row[2]) for row in in_set])
        raised = await (await self._connection.execute(_RAISE, (digest, user))).fetchone()
        assert raised is not None
        owed = await (await self._connection.execute(_OWE, (raised[0], user))).fetchall()
        return ListChange(version=ListVersion(raised[0]), rooms=[RoomNumber(row[0]) for row in owed])

    async def tell_user(self, user: UserNumber, *, kind: str, content: dict[str, Any], time_ms: int) -> None:
        await append_user_event(self._connection, user, kind=kind, content=content, time_ms=time_ms)


def _device(row: tuple[Any, ...]) -> StoredDevice:
    keys = msgspec.json.decode(row[5], type=DeviceKeys) if row[5] is not None else None
    return StoredDevice(
        number=DeviceNumber(row[0]),
        device=DeviceId(row[1]),
        name=row[2],
        last_seen_day=row[3],
        in_set=row[4],
        keys=keys,
    )
