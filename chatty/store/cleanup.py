"""What is over and can go, counted; and what waits for devices that have ended. Owns no table: each statement says whose rows."""

from collections.abc import Sequence
from typing import Any, LiteralString

from chatty.services.cleanup import Ages, Leftovers
from chatty.services.timeline import day_ms
from chatty.store.connection import TrioConnection
from chatty.store.expiry import LASTING

# Each inner statement gives the size of every row that would go; at most so many are looked at.
_COUNT = "SELECT count(*), coalesce(sum(size), 0)::bigint FROM (SELECT size FROM ({}) AS o(size) LIMIT %(limit)s) AS a"
_SIZE = "coalesce(octet_length(b.body), octet_length(p.body))"
_BODIES = """LEFT JOIN bodies b ON b.room_number = t.room_number AND b.seq = t.seq
LEFT JOIN passing_bodies p ON t.ends > 0 AND p.ends = t.ends AND p.room_number = t.room_number AND p.seq = t.seq"""
_RETENTION = f"""SELECT {_SIZE} FROM rooms r
CROSS JOIN LATERAL (SELECT coalesce(least(nullif(r.retention_days, 0), nullif(%(days)s, 0)), 0) AS days) d
JOIN timeline t ON t.room_number = r.room_number AND t.seq > r.horizon_seq AND t.time < %(today)s - d.days::bigint * %(day_ms)s
{_BODIES} WHERE d.days > 0 AND t.kind NOT IN {LASTING}"""  # noqa: S608 # constants
_UNSWEPT = f"""SELECT {_SIZE} FROM rooms r
JOIN timeline t ON t.room_number = r.room_number AND t.seq > r.swept_seq AND t.seq < r.horizon_seq
{_BODIES} WHERE r.swept_seq < r.horizon_seq AND t.kind NOT IN {LASTING}"""  # noqa: S608 # constants
_OF_ENDED = "FROM {} w JOIN devices d ON d.device_number = w.device_number AND NOT d.is_live"
_ORPHANS = f"""SELECT octet_length(w.content) {_OF_ENDED.format("mailbox")}
UNION ALL SELECT 0 {_OF_ENDED.format("one_time_keys")}
UNION ALL SELECT 0 {_OF_ENDED.format("fallback_keys")}"""  # constants
_SESSIONS = """SELECT 0 FROM refresh_families f JOIN devices d USING (device_number)
WHERE NOT f.is_revoked AND d.is_live AND (f.refreshed_at < now() - make_interval(secs => %(idle_s)s)
 OR f.created_at < now() - make_interval(secs => %(absolute_s)s))"""  # index: refresh_families_living
_REGISTRATIONS = """SELECT 0 FROM registration_requests WHERE created_at < now() - make_interval(secs => %(request_s)s)
UNION ALL SELECT 0 FROM registration_tokens WHERE expires_at < now() OR uses_left <= 0"""
_STATEMENTS: dict[str, str] = {
    "expired_ciphertexts": "SELECT octet_length(body) FROM passing_bodies WHERE ends >= %(today)s AND ends <= %(now)s",
    "days_over": "SELECT octet_length(body) FROM passing_bodies WHERE ends < %(today)s",
    "past_retention": _RETENTION,
    "below_horizons": _UNSWEPT,
    "orphans_of_ended_devices": _ORPHANS,
    "expired_sessions": _SESSIONS,
    "old_invitations_and_applications": _REGISTRATIONS,
    "old_deletion_receipts": "SELECT 0 FROM deletions WHERE finished_at < now() - make_interval(secs => %(receipt_s)s)",
    # index: audit_addresses
    "old_addresses": """SELECT 0 FROM audit
WHERE address IS NOT NULL AND time < now() - make_interval(secs => %(address_s)s)""",
}
_ENDED_DEVICES = """SELECT device_number FROM devices WHERE NOT is_live AND device_number > %s
ORDER BY device_number LIMIT %s"""  # index: devices_pkey
_DROP: dict[str, LiteralString] = {
    # index: mailbox_device
    "mailbox": """DELETE FROM mailbox WHERE mailbox_id IN (SELECT mailbox_id FROM mailbox
WHERE device_number = ANY(%s) LIMIT %s)""",
    # index: one_time_keys_pkey
    "one_time_keys": """DELETE FROM one_time_keys WHERE (device_number, key_id) IN (SELECT device_number, key_id
FROM one_time_keys WHERE device_number = ANY(%s) LIMIT %s)""",
    # index: fallback_keys_pkey
    "fallback_keys": """DELETE FROM fallback_keys WHERE (device_number, algorithm) IN (SELECT device_number, algorithm
FROM fallback_keys WHERE device_number = ANY(%s) LIMIT %s)""",
}


class PostgresLeftovers(Leftovers):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def count(self, ages: Ages, *, now_ms: int, count_max: int) -> Sequence[tuple[str, int, int]]:
        values = {
            "now": now_ms,
            "today": now_ms // day_ms * day_ms,
            "day_ms": day_ms,
            "days": ages.retention_days,
            "idle_s": ages.lifetimes.idle_s,
            "absolute_s": ages.lifetimes.absolute_s,
            "request_s": ages.request_s,
            "receipt_s": ages.receipt_s,
            "address_s": ages.address_s,
            "limit": count_max,
        }
        counted = []
        for what, sql in _STATEMENTS.items():
            [(rows_count, bytes_count)] = await self._rows(_COUNT.format(sql), values)
            counted.append((what, rows_count, bytes_count))
        return counted

    async def ended_devices(self, *, after: int, count_max: int) -> Sequence[int]:
        return [number for (number,) in await self._rows(_ENDED_DEVICES, (after, count_max))]

    async def drop_orphans(self, devices: Sequence[int], *, count_max: int) -> int:
        left = count_max
        for sql in _DROP.values():
            left -= (await self._connection.execute(sql, (list(devices), left))).rowcount
        return count_max - left

    async def _rows(self, sql: str, params: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(sql, params)).fetchall()
