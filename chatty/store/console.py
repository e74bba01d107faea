"""What the console shows of sessions, devices, rooms and what they take; owns no table."""

from collections.abc import Sequence
from typing import Any

from chatty.ids import DeviceId, DeviceNumber, FamilyId, RoomNumber, UserId, UserNumber
from chatty.services.console import (
    ConsoleRows,
    ShownDevice,
    ShownMember,
    ShownRoom,
    ShownSession,
    Stored,
    UsedQuotas,
)
from chatty.store.connection import TrioConnection

# index: refresh_families_pkey; of one user: users_user_id_key, devices_user, refresh_families_device
_SESSIONS = """SELECT f.family_id, u.user_id, d.device_id, extract(epoch FROM now() - f.created_at)::bigint,
extract(epoch FROM now() - f.refreshed_at)::bigint, extract(epoch FROM now() - f.stepped_up_at)::bigint, d.device_number
FROM refresh_families f JOIN devices d USING (device_number) JOIN users u USING (user_number)
WHERE NOT f.is_revoked AND d.is_live AND (%(user)s = '' OR u.user_id = %(user)s) AND f.family_id > %(after)s
ORDER BY f.family_id LIMIT %(count_max)s"""
_DEVICES = """SELECT d.device_id, u.user_id, d.name, d.in_set, d.last_seen_day::text,
(SELECT count(*) FROM mailbox m WHERE m.device_number = d.device_number),
(SELECT count(*) FROM one_time_keys k WHERE k.device_number = d.device_number AND k.key_json IS NOT NULL), d.device_number
FROM devices d JOIN users u USING (user_number)
WHERE d.is_live AND (%(user)s = '' OR u.user_id = %(user)s) AND d.device_id > %(after)s
ORDER BY d.device_id LIMIT %(count_max)s"""  # index: devices_device_id_key, mailbox_device, one_time_keys_unclaimed
_ROOMS = """SELECT r.room_id,
(SELECT count(*) FROM members m WHERE m.room_number = r.room_number AND m.standing = 'joined'), r.seq,
greatest(0, (extract(epoch FROM now()) - r.last_time / 1000.0)::bigint), r.retention_days, r.direct_pair IS NOT NULL,
r.public_title <> '', r.room_number
FROM rooms r WHERE (%(room)s = '' OR r.room_id = %(room)s) AND r.room_id > %(after)s
ORDER BY r.room_id LIMIT %(count_max)s"""  # index: rooms_room_id_key, members_pkey
_MEMBERS = """SELECT u.user_id, m.role, m.standing FROM members m JOIN users u USING (user_number)
WHERE m.room_number = %s ORDER BY m.standing = 'joined' DESC, u.user_id"""  # index: members_pkey
# Lengths are read beside the values: no ciphertext is. index: timeline_pkey, bodies_pkey, passing_bodies_pkey
_STORED = """SELECT r.room_id, coalesce(u.user_id, ''), count(*) FILTER (WHERE t.kind = 'message'),
coalesce(sum(octet_length(b.body)), 0) + coalesce(sum(octet_length(p.body)), 0)
FROM rooms r JOIN timeline t ON t.room_number = r.room_number
LEFT JOIN bodies b ON b.room_number = t.room_number AND b.seq = t.seq
LEFT JOIN passing_bodies p ON t.ends > 0 AND p.ends = t.ends AND p.room_number = t.room_number AND p.seq = t.seq
LEFT JOIN users u ON u.user_number = t.sender_number
WHERE r.room_number = ANY(%s) GROUP BY 1, 2 ORDER BY 1, 2"""
_NEXT_ROOMS = """WITH ahead AS (
 SELECT room_number, seq - swept_seq AS events, sum(seq - swept_seq) OVER (ORDER BY room_number) AS events_to_here
 FROM (SELECT room_number, seq, swept_seq FROM rooms WHERE room_number > %(after)s
  ORDER BY room_number LIMIT %(rooms_max)s) next
)
SELECT room_number FROM ahead WHERE events_to_here <= %(events_max)s OR events_to_here = events
ORDER BY room_number"""  # index: rooms_pkey
_LEFT_COUNT = "SELECT count(*) FROM rooms WHERE room_number > %s"  # index: rooms_pkey
_USED = """SELECT u.role, (SELECT count(*) FROM devices d WHERE d.user_number = u.user_number AND d.is_live),
u.rooms_created_count, (SELECT count(*) FROM blocks b WHERE b.user_number = u.user_number)
FROM users u WHERE u.user_number = %s"""  # index: users_pkey, devices_user, blocks_pkey
_OWNER_OF_DEVICE = """SELECT u.user_id FROM devices d JOIN users u USING (user_number)
WHERE d.device_id = %s AND d.is_live"""  # index: devices_device_id_key
_OWNER_OF_SESSION = """SELECT u.user_id, d.device_id FROM refresh_families f JOIN devices d USING (device_number)
JOIN users u USING (user_number) WHERE f.family_id = %s AND NOT f.is_revoked AND d.is_live"""  # index: refresh_families_pkey


class PostgresConsole(ConsoleRows):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def sessions(self, *, user: str, after: str, count_max: int) -> Sequence[ShownSession]:
        found = await self._rows(_SESSIONS, {"user": user, "after": after, "count_max": count_max})
        return [
            ShownSession(
                session=FamilyId(row[0]),
                user=UserId(row[1]),
                device=DeviceId(row[2]),
                started_age_s=row[3],
                refreshed_age_s=row[4],
                stepped_up_age_s=row[5],
                number=DeviceNumber(row[6]),
            )
            for row in found
        ]

    async def devices(self, *, user: str, after: str, count_max: int) -> Sequence[ShownDevice]:
        found = await self._rows(_DEVICES, {"user": user, "after": after, "count_max": count_max})
        return [
            ShownDevice(
                device=DeviceId(row[0]),
                user=UserId(row[1]),
                name=row[2],
                in_set=row[3],
                last_seen_day=row[4],
                waiting_count=row[5],
                one_time_keys_count=row[6],
                number=DeviceNumber(row[7]),
            )
            for row in found
        ]

    async def rooms(self, *, room: str, after: str, count_max: int) -> Sequence[ShownRoom]:
        found = await self._rows(_ROOMS, {"room": room, "after": after, "count_max": count_max})
        return [
            ShownRoom(
                room=row[0],
                members_count=row[1],
                events_count=row[2],
                quiet_s=row[3],
                retention_days=row[4],
                is_direct=row[5],
                is_listed=row[6],
                number=RoomNumber(row[7]),
            )
            for row in found
        ]

    async def members(self, room: RoomNumber) -> Sequence[ShownMember]:
        found = await self._rows(_MEMBERS, (room,))
        return [ShownMember(user=UserId(row[0]), role=row[1], standing=row[2]) for row in found]

    async def stored_in_room(self, room: RoomNumber) -> Sequence[Stored]:
        return await self._stored([room])

    async def stored(self, *, after: int, rooms_max: int, events_max: int) -> tuple[Sequence[Stored], int, int]:
        wanted = {"after": after, "rooms_max": rooms_max, "events_max": events_max}
        rooms = [RoomNumber(row[0]) for row in await self._rows(_NEXT_ROOMS, wanted)]
        if not rooms:
            return [], 0, 0
        left_count = int((await self._rows(_LEFT_COUNT, (rooms[-1],)))[0][0])
        return await self._stored(rooms), rooms[-1] if left_count else 0, left_count

    async def _stored(self, rooms: list[RoomNumber]) -> list[Stored]:
        found = await self._rows(_STORED, (rooms,))
        return [Stored(room=row[0], user=row[1], messages_count=row[2], stored_bytes=int(row[3])) for row in found]

    async def used_quotas(self, user: UserNumber) -> UsedQuotas:
        role, devices_count, rooms_count, blocks_count = (await self._rows(_USED, (user,)))[0]
        return UsedQuotas(
            role=role, devices_count=devices_count, rooms_created_count=rooms_count, blocks_count=blocks_count
        )

    async def owner_of_device(self, device: DeviceId) -> UserId | None:
        found = await self._rows(_OWNER_OF_DEVICE, (device,))
        return UserId(found[0][0]) if found else None

    async def owner_of_session(self, session: FamilyId) -> tuple[UserId, DeviceId] | None:
        found = await self._rows(_OWNER_OF_SESSION, (session,))
        return (UserId(found[0][0]), DeviceId(found[0][1])) if found else None

    async def _rows(self, sql: Any, values: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(sql, values)).fetchall()
