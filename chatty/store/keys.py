"""Keys in PostgreSQL. A claimed one-time key leaves its row: key_json NULL, the hash stays.

Claims wait for each other at the oldest row instead of skipping it: a skipped row may be the last one, and its claimer may
roll back, so that "none is left" would be a guess and the fallback key handed out beside a good one-time key. Each transaction
takes row locks in the order (device, position), one-time keys before fallback keys: no circle of waiting.
"""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from chatty.ids import DeviceId, DeviceNumber, ListVersion, UserId
from chatty.services.keys import Address, Keys, PublishedKey, UserDevices
from chatty.store.connection import TrioConnection
from chatty.store.locks import lock_device_send
from chatty.wire.canonical import encode_base64
from chatty.wire.frames import OneTimeKeyCounts
from chatty.wire.keys import SIGNED_CURVE25519, DeviceKeys, DeviceList, SignedKey

_DEVICE_KEYS = "SELECT keys::text FROM devices WHERE device_number = %s AND keys IS NOT NULL"
_KNOWN = (
    "SELECT key_id, key_hash FROM one_time_keys WHERE device_number = %s AND key_id = ANY(%s)"  # one_time_keys_pkey
)
_ADD = """INSERT INTO one_time_keys (device_number, key_id, key_json, key_hash)
SELECT %s, key_id, key_json, key_hash FROM unnest(%s::text[], %s::text[], %s::bytea[])
WITH ORDINALITY AS added (key_id, key_json, key_hash, place) ORDER BY place"""  # position follows the order of the upload
_SET_FALLBACK = """INSERT INTO fallback_keys AS f (device_number, algorithm, key_id, key_json) VALUES (%s, %s, %s, %s)
ON CONFLICT (device_number, algorithm) DO UPDATE SET key_id = excluded.key_id, key_json = excluded.key_json, is_used = false
WHERE (f.key_id, f.key_json) IS DISTINCT FROM (excluded.key_id, excluded.key_json)"""
_COUNTS = """SELECT (SELECT count(*) FROM one_time_keys k WHERE k.device_number = d.device_number AND k.key_json IS NOT NULL),
ARRAY(SELECT algorithm FROM fallback_keys f WHERE f.device_number = d.device_number AND NOT f.is_used ORDER BY algorithm)
FROM (VALUES (%s::bigint)) AS d (device_number)"""  # index: one_time_keys_unclaimed, fallback_keys_pkey
_USABLE = """SELECT u.user_id, d.device_id, d.device_number FROM unnest(%s::text[], %s::text[]) AS wanted (user_id, device_id)
JOIN devices d ON d.device_id = wanted.device_id JOIN users u ON u.user_number = d.user_number AND u.user_id = wanted.user_id
WHERE d.is_live AND d.in_set"""
# The function scan gives the devices in the order of the array, and the nested loop locks in that order.
_LOCK_OLDEST = """SELECT target.device_number, oldest.key_id, oldest.key_json
FROM unnest(%s::bigint[]) AS target (device_number) CROSS JOIN LATERAL (
SELECT key_id, key_json FROM one_time_keys WHERE device_number = target.device_number AND key_json IS NOT NULL
ORDER BY position LIMIT 1 FOR NO KEY UPDATE) AS oldest"""  # one_time_keys_unclaimed
_TAKE = """UPDATE one_time_keys k SET key_json = NULL FROM unnest(%s::bigint[], %s::text[]) AS taken (device_number, key_id)
WHERE k.device_number = taken.device_number AND k.key_id = taken.key_id"""
_LOCK_FALLBACKS = """SELECT device_number, key_id, key_json FROM fallback_keys
WHERE device_number = ANY(%s) AND algorithm = %s ORDER BY device_number FOR NO KEY UPDATE"""
_USE_FALLBACKS = (
    "UPDATE fallback_keys SET is_used = true WHERE device_number = ANY(%s) AND algorithm = %s AND NOT is_used"
)
_RUNNING_LOW = """SELECT device_number FROM unnest(%s::bigint[]) AS d (device_number) WHERE %s > (
SELECT count(*) FROM one_time_keys k WHERE k.device_number = d.device_number AND k.key_json IS NOT NULL)"""
_LISTS = "SELECT user_number, user_id, list_version, list_digest, identity_key FROM users WHERE user_id = ANY(%s)"
_DEVICES = """SELECT user_number, device_id, ed25519, CASE WHEN in_set THEN keys::text END FROM devices
WHERE user_number = ANY(%s) AND ed25519 IS NOT NULL ORDER BY device_id"""  # devices_user


class PostgresKeys(Keys):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def device_keys(self, device: DeviceNumber) -> DeviceKeys | None:
        rows = await self._rows(_DEVICE_KEYS, device)
        return msgspec.json.decode(rows[0][0], type=DeviceKeys) if rows else None

    async def lock_device(self, device: DeviceNumber) -> bool:
        row = await lock_device_send(self._connection, device)
        return row is not None and row.is_live

    async def known_hashes(self, device: DeviceNumber, key_ids: Collection[str]) -> dict[str, bytes]:
        return {key_id: bytes(hash_) for key_id, hash_ in await self._rows(_KNOWN, device, list(key_ids))}

    async def add_one_time_keys(self, device: DeviceNumber, keys: Sequence[PublishedKey]) -> None:
        columns = ([k.key_id for k in keys], [_json(k.key) for k in keys], [k.value_hash for k in keys])
        await self._connection.execute(_ADD, (device, *columns))

    async def set_fallback_key(self, device: DeviceNumber, key: PublishedKey) -> None:
        algorithm = key.key_id.partition(":")[0]
        await self._connection.execute(_SET_FALLBACK, (device, algorithm, key.key_id, _json(key.key)))

    async def counts(self, device: DeviceNumber) -> OneTimeKeyCounts:
        """What the device's session is sent: unclaimed one-time keys, and algorithms whose fallback key is unused."""
        ((count, unused),) = await self._rows(_COUNTS, device)
        return OneTimeKeyCounts(counts={SIGNED_CURVE25519: count}, unused_fallback_algorithms=unused)

    async def user_devices(self, users: Collection[UserId]) -> dict[UserId, UserDevices]:
        lists = await self._rows(_LISTS, list(users))
        devices: dict[int, dict[DeviceId, DeviceKeys]] = {row[0]: {} for row in lists}
        removed: dict[int, dict[DeviceId, str]] = {row[0]: {} for row in lists}
        for number, device, ed25519, keys in await self._rows(_DEVICES, list(devices)):
            if keys is None:
                removed[number][DeviceId(device)] = ed25519
            else:
                devices[number][DeviceId(device)] = msgspec.json.decode(keys, type=DeviceKeys)
        return {
            UserId(user): UserDevices(
                device_list=DeviceList(
                    list_version=ListVersion(version),
                    list_digest=encode_base64(digest),
                    identity_key=identity_key,
                    removed=removed[number],
                ),
                devices=devices[number],
            )
            for number, user, version, digest, identity_key in lists
        }

    async def usable_devices(self, wanted: Collection[Address]) -> dict[Address, DeviceNumber]:
        users, devices = [user for user, _ in wanted], [device for _, device in wanted]
        rows = await self._rows(_USABLE, users, devices)
        return {(UserId(user), DeviceId(device)): DeviceNumber(number) for user, device, number in rows}

    async def claim(self, devices: Collection[DeviceNumber]) -> dict[DeviceNumber, tuple[str, SignedKey]]:
        taken = await self._rows(_LOCK_OLDEST, sorted(devices))
        await self._connection.execute(_TAKE, ([row[0] for row in taken], [row[1] for row in taken]))
        left_out = sorted(set(devices) - {row[0] for row in taken})
        fallbacks = await self._rows(_LOCK_FALLBACKS, left_out, SIGNED_CURVE25519) if left_out else []
        if fallbacks:
            await self._connection.execute(_USE_FALLBACKS, ([row[0] for row in fallbacks], SIGNED_CURVE25519))
        return {
            DeviceNumber(number): (key_id, msgspec.json.decode(key, type=SignedKey))
            for number, key_id, key in [*taken, *fallbacks]
        }

    async def running_low(self, devices: Collection[DeviceNumber], *, below: int) -> list[DeviceNumber]:
        return [DeviceNumber(number) for (number,) in await self._rows(_RUNNING_LOW, list(devices), below)]

    async def _rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(sql, parameters)).fetchall()


def _json(key: SignedKey) -> str:
    return msgspec.json.encode(key).decode()
