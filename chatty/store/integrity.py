"""What the integrity check reads: pages of tables, each row with whether it is wrong, and stretches of chains. Owns no table.

No foreign keys stand on what is written with each message: they would lock devices and double the cost. What they would prove is
looked for here instead. To add a check, add a Check; tests/store/test_integrity.py makes each of them find something.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chatty.ids import RoomId, RoomNumber
from chatty.services.integrity import ChainLink, Integrity, Page
from chatty.store.connection import TrioConnection
from chatty.store.streams import event

_TODAY = "((extract(epoch FROM now()) * 1000)::bigint / 86400000 * 86400000)"


@dataclass(frozen=True, kw_only=True)
class Check:
    """wrong: a condition on a row `t` of the table. key: of its primary key's columns, in order."""

    name: str
    table: str
    key: tuple[str, ...]
    wrong: str


def _without(table: str, *columns: str, also: str = "") -> str:
    """There is no row of this table with the same values."""
    same = " AND ".join(f"o.{column} = t.{column}" for column in columns)
    return f"NOT EXISTS (SELECT FROM {table} o WHERE {same}{also})"  # constants


def _of_device(table: str, *key: str) -> Check:
    return Check(name=f"{table}_without_device", table=table, key=key, wrong=_without("devices", "device_number"))


CHECKS = (
    _of_device("device_send", "device_number"),
    _of_device("one_time_keys", "device_number", "key_id"),
    _of_device("fallback_keys", "device_number", "algorithm"),
    _of_device("mailbox", "mailbox_id"),
    _of_device("requests", "device_number", "n"),
    Check(
        name="devices_without_send_state",
        table="devices",
        key=("device_number",),
        wrong=_without("device_send", "device_number")
        + " AND "
        + _without("users", "user_number", also=" AND o.is_deleted"),
    ),
    Check(
        name="user_stream_beyond_its_end",
        table="user_stream",
        key=("user_number", "seq"),
        wrong=_without("users", "user_number", also=" AND o.stream_seq >= t.seq"),
    ),
    Check(
        name="blocks_without_user",
        table="blocks",
        key=("user_number", "blocked_number"),
        wrong=_without("users", "user_number")
        + " OR NOT EXISTS (SELECT FROM users o WHERE o.user_number = t.blocked_number)",
    ),
    Check(
        name="members_without_room_or_user",
        table="members",
        key=("room_number", "user_number"),
        wrong=_without("rooms", "room_number") + " OR " + _without("users", "user_number"),
    ),
    Check(
        name="intervals_without_member",
        table="member_intervals",
        key=("room_number", "user_number", "from_seq"),
        wrong=_without("members", "room_number", "user_number"),
    ),
    Check(
        name="cursors_without_room_or_user",
        table="read_cursors",
        key=("room_number", "user_number"),
        wrong=_without("rooms", "room_number") + " OR " + _without("users", "user_number"),
    ),
    Check(
        name="links_without_room",
        table="room_links",
        key=("room_number", "link"),
        wrong=_without("rooms", "room_number"),
    ),
    Check(
        name="restorations_without_room",
        table="room_restorations",
        key=("room_number", "generation"),
        wrong=_without("rooms", "room_number"),
    ),
    Check(
        name="owed_devices_without_room_or_user",
        table="owed_devices",
        key=("room_number", "user_number", "list_version"),
        wrong=_without("rooms", "room_number") + " OR " + _without("users", "user_number"),
    ),
    Check(
        name="events_without_room_or_sender",
        table="timeline",
        key=("room_number", "seq"),
        wrong=_without("rooms", "room_number")
        + " OR t.sender_number IS NOT NULL AND NOT EXISTS (SELECT FROM users o WHERE o.user_number = t.sender_number)"
        + " OR t.device_number IS NOT NULL AND "
        + _without("devices", "device_number"),
    ),
    Check(
        name="messages_without_ciphertext",
        table="timeline",
        key=("room_number", "seq"),
        wrong="t.kind = 'message' AND t.ends = 0 AND t.deletion_seq IS NULL AND "
        + _without("bodies", "room_number", "seq")
        + " AND EXISTS (SELECT FROM rooms o WHERE o.room_number = t.room_number AND o.horizon_seq < t.seq)",
    ),
    Check(
        name="ciphertexts_without_event",
        table="bodies",
        key=("room_number", "seq"),
        wrong=_without("timeline", "room_number", "seq"),
    ),
    # Below a horizon the days that are over go later than the events.
    Check(
        name="passing_ciphertexts_without_event",
        table="passing_bodies",
        key=("ends", "room_number", "seq"),
        wrong=f"t.ends >= {_TODAY} AND " + _without("timeline", "room_number", "seq", "ends"),
    ),
    # A room that goes whole loses its events first.
    Check(
        name="rooms_without_their_head",
        table="rooms",
        key=("room_number",),
        wrong="t.seq > 0 AND ("
        + _without("timeline", "room_number", "seq", "head")
        + " OR EXISTS (SELECT FROM timeline o WHERE o.room_number = t.room_number AND o.seq > t.seq)) AND "
        + _without("erasures", "room_number"),
    ),
    Check(
        name="audit_seals_without_row_or_predecessor",
        table="audit_seals",
        key=("position",),
        wrong=_without("audit", "audit_id", also=" AND o.is_sealed")
        + " OR t.position > 1 AND NOT EXISTS (SELECT FROM audit_seals o WHERE o.position = t.position - 1)",
    ),
    Check(
        name="audit_rows_without_seal",
        table="audit",
        key=("audit_id",),
        wrong="t.is_sealed AND " + _without("audit_seals", "audit_id"),
    ),
)
_BY_NAME = {check.name: check for check in CHECKS}
_PAGE = """WITH page AS (SELECT {columns}, ({wrong}) AS is_wrong FROM {table} t {behind} ORDER BY {columns} LIMIT %s)
SELECT (SELECT count(*) FROM page), (SELECT coalesce(jsonb_agg(jsonb_build_array({key})), '[]') FROM page WHERE is_wrong),
(SELECT jsonb_build_array({key}) FROM page ORDER BY {descending} LIMIT 1)"""
_ROOMS = "SELECT room_number, seq FROM rooms WHERE room_number > %s ORDER BY room_number LIMIT %s"  # index: rooms_pkey
_STRETCH = """SELECT p.head, t.head, t.leaf, r.room_id, t.seq, t.time, t.kind, u.user_id, d.device_id, t.n, t.algorithm,
 t.session_id, t.epoch, t.silent, t.expiry, t.target, t.signature, NULL, t.body_hash, t.deletion_seq
FROM timeline t JOIN timeline p ON p.room_number = t.room_number AND p.seq = t.seq - 1
JOIN rooms r ON r.room_number = t.room_number
LEFT JOIN users u ON u.user_number = t.sender_number LEFT JOIN devices d ON d.device_number = t.device_number
WHERE t.room_number = %s AND t.seq >= %s AND t.seq < %s ORDER BY t.seq"""  # index: timeline_pkey


class PostgresIntegrity(Integrity):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    @property
    def checks(self) -> Sequence[str]:
        return list(_BY_NAME)

    async def look(self, check: str, *, after: Sequence[Any] | None, count_max: int) -> Page:
        sql = _statement(_BY_NAME[check], is_first=after is None)
        [(rows_count, wrong, last)] = await self._rows(sql, (*(after or ()), count_max))
        return Page(rows_count=rows_count, wrong=wrong, last=last if rows_count == count_max else None)

    async def rooms(self, *, after: int, count_max: int) -> Sequence[tuple[RoomNumber, int]]:
        return [(RoomNumber(room), seq) for room, seq in await self._rows(_ROOMS, (after, count_max))]

    async def stretch(self, room: RoomNumber, *, first: int, count_max: int) -> Sequence[ChainLink]:
        return [_link(row) for row in await self._rows(_STRETCH, (room, first, first + count_max))]

    async def _rows(self, sql: str, params: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(sql, params)).fetchall()


def _statement(check: Check, *, is_first: bool) -> str:
    columns = ", ".join(f"t.{column}" for column in check.key)
    places = ", ".join(["%s"] * len(check.key))
    return _PAGE.format(
        columns=columns,
        wrong=check.wrong,
        table=check.table,
        behind="" if is_first else f"WHERE ({columns}) > ({places})",
        key=", ".join(check.key),
        descending=", ".join(f"{column} DESC" for column in check.key),
    )


def _link(row: tuple[Any, ...]) -> ChainLink:
    previous, head, leaf, room = row[:4]
    is_whole = leaf is None
    return ChainLink(
        seq=row[4],
        previous=previous,
        head=head,
        event=event(RoomId(room), row[4:]) if is_whole else None,
        leaf=leaf,
    )
