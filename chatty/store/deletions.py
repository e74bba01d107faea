"""Deletions in PostgreSQL: what is noted about them, and the one list of what is erased. Owns deletions, erasures, erased_names.

To add a table about users, add a Stage, in an order that its foreign keys allow; tests/store/test_deletions.py compares the list
with the schema. Stages run after the rooms, each in bounded pieces, and each may run again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from chatty.ids import DeviceId, RoomId, RoomNumber, Seq, UserId, UserNumber
from chatty.services.deletions import Count, Counts, Deletions, OwedRemoval, StoredReceipt, Stretch
from chatty.store.connection import TrioConnection
from chatty.store.expiry import LASTING, drop_passing
from chatty.store.streams import JOINS, event
from chatty.wire.events import TimelineEvent

rows_a_piece_max = 1_000
_user_domain, _name_domain = "chatty.erased_user.v1", "chatty.erased_name.v1"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Rows of one table. where: which; %(user)s, %(user_id)s, %(devices)s: the user's number and id, the devices' numbers."""

    store: str
    where: str


# In others' streams, whose entries keep their places; and in others' mailboxes, which have no index by who sent something.
_INVITATIONS = Stage(
    store="user_stream",
    where="kind = 'invitation' AND content::jsonb #>> '{invitation,signed,sender}' = %(user_id)s",
)
_SENT = Stage(store="mailbox", where="sender_device_number = ANY(%(devices)s)")

STAGES = (
    Stage(store="totp_secrets", where="user_number = %(user)s"),
    Stage(store="recovery_codes", where="user_number = %(user)s"),
    Stage(store="passkeys", where="user_number = %(user)s"),
    Stage(store="registration_tokens", where="inviter_number = %(user)s"),
    Stage(store="user_stream", where="user_number = %(user)s"),
    _INVITATIONS,
    Stage(store="blocks", where="user_number = %(user)s OR blocked_number = %(user)s"),
    Stage(store="one_time_keys", where="device_number = ANY(%(devices)s)"),
    Stage(store="fallback_keys", where="device_number = ANY(%(devices)s)"),
    Stage(store="requests", where="device_number = ANY(%(devices)s)"),
    Stage(store="owed_devices", where="user_number = %(user)s"),
    Stage(store="registration_requests", where="user_id = %(user_id)s"),
    Stage(store="mailbox", where="device_number = ANY(%(devices)s)"),
    _SENT,
    Stage(store="device_send", where="device_number = ANY(%(devices)s)"),
    Stage(store="refresh_families", where="device_number = ANY(%(devices)s)"),
    Stage(store="read_cursors", where="user_number = %(user)s"),
)
# What the rooms' part and the end of a deletion erase, or keep in part; in the receipt after the stages.
ROOM_STORES = ("members", "member_intervals", "timeline", "bodies", "passing_bodies", "rooms")
LAST_STORES = ("devices", "users")
OTHER_STORES = ("revocations", "audit", "erased_names", "deletions")

# index: users_pkey
_END_ACCOUNT = """UPDATE users SET is_deleted = true, is_locked = true, login_key_sealed = '', key_derivation = '{}',
wrapped_recovery = '', wrapped_identity = '' WHERE user_number = %s"""
_RESERVE = """INSERT INTO erased_names (user_hash, skeleton_hash)
SELECT sha256(convert_to(%s || user_id, 'UTF8')), sha256(convert_to(%s || coalesce(name_skeleton, ''), 'UTF8'))
FROM users WHERE user_number = %s"""
_BEGIN = "INSERT INTO deletions (receipt_hash, user_number) VALUES (%s, %s)"
_NOTE_ROOMS = """INSERT INTO erasures (room_number, user_number)
SELECT room_number, user_number FROM members WHERE user_number = %s"""  # index: members_ever
_IS_IDLE = "SELECT NOT EXISTS (SELECT FROM deletions WHERE user_number IS NOT NULL)"  # index: deletions_user_number_key
# index: erasures_untold
_LOCK_UNTOLD = """SELECT room_number FROM rooms WHERE room_number IN (SELECT room_number FROM erasures WHERE removal_seq IS NULL)
ORDER BY room_number LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED"""
_OWED = """SELECT e.user_number, u.user_id, EXISTS (SELECT FROM member_intervals i
 WHERE i.room_number = e.room_number AND i.user_number = e.user_number)
FROM erasures e JOIN users u USING (user_number)
WHERE e.room_number = %s AND e.removal_seq IS NULL ORDER BY e.user_number"""  # index: erasures_pkey
_TOLD = "UPDATE erasures SET removal_seq = %s WHERE room_number = %s AND user_number = %s"
_NOTE_DELETION = "UPDATE rooms SET deletion_seq = %s WHERE room_number = %s"
_SETTLE_OWED = "DELETE FROM owed_devices WHERE room_number = %s AND user_number = %s"
# Another deleted account is nobody else: its own row of erasures goes with the room.
_NEXT_STRETCH = """SELECT e.room_number, e.user_number, u.user_id, e.next_seq, e.removal_seq, r.seq, NOT EXISTS (
 SELECT FROM members m JOIN users o ON o.user_number = m.user_number
 WHERE m.room_number = e.room_number AND NOT o.is_deleted)
FROM erasures e JOIN users u ON u.user_number = e.user_number JOIN rooms r ON r.room_number = e.room_number
WHERE e.removal_seq IS NOT NULL ORDER BY e.user_number, e.room_number LIMIT 1 FOR UPDATE OF e SKIP LOCKED"""
_EVENTS = f"""SELECT r.room_id, t.seq, t.time, t.kind, u.user_id, d.device_id, t.n, t.algorithm, t.session_id, t.epoch, t.silent,
 t.expiry, t.target, t.signature, CASE WHEN t.kind <> 'message' THEN b.body END, t.body_hash, t.deletion_seq
FROM timeline t JOIN rooms r ON r.room_number = t.room_number {JOINS}
WHERE t.room_number = %(room)s AND t.seq BETWEEN %(first)s AND %(last)s
AND (t.kind IN {LASTING} OR (t.kind = 'message' AND t.sender_number = %(user)s))
ORDER BY t.seq"""  # noqa: S608 # constants; index: timeline_pkey
_ERASE = """UPDATE timeline SET kind = 'erased', leaf = u.leaf, time = 0, sender_number = NULL, device_number = NULL, n = 0,
 algorithm = '', session_id = '', epoch = 0, silent = false, expiry = 0, target = '', signature = '', body_hash = '',
 ends = 0, deletion_seq = NULL
FROM unnest(%s::bigint[], %s::bytea[]) AS u(seq, leaf)
WHERE timeline.room_number = %s AND timeline.seq = u.seq AND timeline.kind = 'message'"""  # index: timeline_pkey
_ERASE_BODIES = "DELETE FROM bodies WHERE room_number = %s AND seq = ANY(%s)"  # index: bodies_pkey
_PASSING = """SELECT seq, ends FROM timeline WHERE room_number = %s AND seq BETWEEN %s AND %s AND ends > 0 AND kind = 'message'
"""  # index: timeline_pkey
_ERASE_PLACES = "DELETE FROM {table} WHERE room_number = %s AND seq BETWEEN %s AND %s"
_MOVE_ON = "UPDATE erasures SET next_seq = %s WHERE room_number = %s AND user_number = %s"
_DONE = "DELETE FROM erasures WHERE room_number = %s AND user_number = %s"
_OUT_OF = "DELETE FROM {table} WHERE room_number = %s AND user_number = %s"
_WHOLE = "DELETE FROM {table} WHERE room_number = %s"
_LOCK_COUNTS = "SELECT counts::text, signers FROM deletions WHERE user_number = %s FOR UPDATE"
_SET_COUNTS = "UPDATE deletions SET counts = %s, signers = %s WHERE user_number = %s"
_NEXT_STAGE = """SELECT d.user_number, u.user_id, d.stage, d.place, d.counts::text, d.signers
FROM deletions d JOIN users u USING (user_number)
WHERE NOT EXISTS (SELECT FROM erasures e WHERE e.user_number = d.user_number)
ORDER BY d.began_at LIMIT 1 FOR UPDATE OF d SKIP LOCKED"""
_DEVICES = "SELECT device_number FROM devices WHERE user_number = %s"  # index: devices_user
_ERASE_PIECE = "DELETE FROM {table} WHERE ctid IN (SELECT ctid FROM {table} WHERE {where} LIMIT %(limit)s)"
_EMPTY_PIECE = """UPDATE user_stream SET kind = 'erased', content = '{{}}' WHERE (user_number, seq) IN (
 SELECT user_number, seq FROM user_stream WHERE {where} LIMIT %(limit)s)"""  # index: user_stream_inviters
_ERASE_SENT = """WITH page AS (SELECT mailbox_id, sender_device_number FROM mailbox WHERE mailbox_id > %(place)s
 ORDER BY mailbox_id LIMIT %(limit)s), gone AS (DELETE FROM mailbox USING page
 WHERE mailbox.mailbox_id = page.mailbox_id AND page.sender_device_number = ANY(%(devices)s) RETURNING 1)
SELECT coalesce(max(mailbox_id), %(place)s), count(*), (SELECT count(*) FROM gone) FROM page"""  # index: mailbox_pkey
_SET_STAGE = "UPDATE deletions SET stage = %s, place = %s, counts = %s WHERE user_number = %s"
_ERASE_DEVICES = "DELETE FROM devices WHERE user_number = %s AND NOT device_id = ANY(%s)"
_STRIP_DEVICES = """UPDATE devices SET name = '', keys = NULL, curve25519 = NULL, in_set = false, is_live = false,
last_seen_day = '1970-01-01' WHERE user_number = %s"""
_ERASE_USER = "DELETE FROM users WHERE user_number = %s"
_STRIP_USER = """UPDATE users SET role = 'user', name_skeleton = NULL, stream_seq = 0, rooms_created_count = 0,
created_day = '1970-01-01', shows_presence = true, shows_receipts = true WHERE user_number = %s"""
_WITHOUT_HURRY = "SET LOCAL statement_timeout = '60s'"  # the audit log has no index by whom it speaks of
_COUNT_AUDIT = """SELECT count(*) FROM audit WHERE actor = %(user_id)s OR object = %(user_id)s
OR detail->>'target' = %(user_id)s OR object = ANY(%(device_ids)s)"""
_DEVICE_IDS = "SELECT array_agg(device_id) FROM devices WHERE user_number = %s"
_FINISH = """UPDATE deletions SET user_number = NULL, signers = '{}', place = 0, stage = %s, counts = %s,
finished_at = clock_timestamp() WHERE user_number = %s"""
_RECEIPT = """SELECT (extract(epoch FROM began_at) * 1000)::bigint, (extract(epoch FROM finished_at) * 1000)::bigint,
counts::text, stage, NOT EXISTS (SELECT FROM erasures e WHERE e.user_number = d.user_number)
FROM deletions d WHERE receipt_hash = %s"""  # index: deletions_pkey
_FORGET_RECEIPTS = """DELETE FROM deletions WHERE receipt_hash IN (SELECT receipt_hash FROM deletions
WHERE finished_at < clock_timestamp() - make_interval(secs => %s) LIMIT %s)"""

# For who makes accounts: is this user id, or a name with this skeleton, one of the erased?
IS_ERASED = f"""EXISTS (SELECT FROM erased_names WHERE user_hash = sha256(convert_to('{_user_domain}' || {{user_id}}, 'UTF8'))
OR skeleton_hash = sha256(convert_to('{_name_domain}' || {{skeleton}}, 'UTF8')))"""


class PostgresDeletions(Deletions):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def begin(self, user: UserNumber, *, receipt_hash: bytes) -> None:
        await self._connection.execute(_RESERVE, (_user_domain, _name_domain, user))
        await self._connection.execute(_END_ACCOUNT, (user,))
        await self._connection.execute(_BEGIN, (receipt_hash, user))
        await self._connection.execute(_NOTE_ROOMS, (user,))

    async def is_idle(self) -> bool:
        return await self._row(_IS_IDLE) == (True,)

    # Rooms -----------------------------------------------------------------------------------------------------------

    async def room_to_tell(self) -> RoomNumber | None:
        row = await self._row(_LOCK_UNTOLD)
        return None if row is None else RoomNumber(row[0])

    async def owed_removals(self, room: RoomNumber) -> Sequence[OwedRemoval]:
        return [
            OwedRemoval(user_number=UserNumber(row[0]), user=UserId(row[1]), was_inside=row[2])
            for row in await self._rows(_OWED, (room,))
        ]

    async def note_removed(self, room: RoomNumber, user: UserNumber, *, seq: Seq | None) -> None:
        """Without a removal there is nothing of the user's in the room: its last place is before the first."""
        await self._connection.execute(_TOLD, (seq or 0, room, user))
        await self._connection.execute(_SETTLE_OWED, (room, user))
        if seq is not None:
            await self._connection.execute(_NOTE_DELETION, (seq, room))

    async def next_stretch(self) -> Stretch | None:
        row = await self._row(_NEXT_STRETCH)
        if row is None:
            return None
        room, user_number, user, next_seq, removal_seq, seq, is_alone = row
        return Stretch(
            room=RoomNumber(room),
            user_number=UserNumber(user_number),
            user=UserId(user),
            next_seq=Seq(next_seq),
            last_seq=Seq(seq if is_alone else removal_seq),
            is_alone=is_alone,
        )

    async def events(self, stretch: Stretch) -> Sequence[TimelineEvent]:
        places = {"first": stretch.next_seq, "last": stretch.end_seq}
        rows = await self._rows(_EVENTS, {"room": stretch.room, "user": stretch.user_number, **places})
        return [event(RoomId(row[0]), row[1:]) for row in rows]

    async def erase_messages(self, room: RoomNumber, leaves: Mapping[Seq, bytes]) -> Counts:
        seqs = list(leaves)
        passing = [
            (seq, ends) for seq, ends in await self._rows(_PASSING, (room, min(seqs), max(seqs))) if seq in leaves
        ]
        freed = await drop_passing(self._connection, room, passing)
        await self._connection.execute(_ERASE, (seqs, list(leaves.values()), room))
        bodies = await self._connection.execute(_ERASE_BODIES, (room, seqs))
        return {"bodies": Count(erased=bodies.rowcount), "passing_bodies": Count(erased=freed.rows_count)}

    async def erase_places(self, stretch: Stretch) -> Counts:
        places = (stretch.room, stretch.next_seq, stretch.end_seq)
        freed = await drop_passing(self._connection, stretch.room, await self._rows(_PASSING, places))
        passing = {"passing_bodies": Count(erased=freed.rows_count)}
        return passing | {table: await self._erase(_ERASE_PLACES, table, places) for table in ("bodies", "timeline")}

    async def move_on(self, stretch: Stretch) -> Counts:
        if not stretch.is_last:
            place = (stretch.end_seq + 1, stretch.room, stretch.user_number)
            await self._connection.execute(_MOVE_ON, place)
            return {}
        if stretch.is_alone:
            tables = ("members", "member_intervals", "rooms")
            await self._erase(_WHOLE, "owed_devices", (stretch.room,))
            await self._erase(_WHOLE, "erasures", (stretch.room,))
            await self._erase(_WHOLE, "read_cursors", (stretch.room,))
            await self._erase(_WHOLE, "room_links", (stretch.room,))
            await self._erase(_WHOLE, "room_restorations", (stretch.room,))
            return {table: await self._erase(_WHOLE, table, (stretch.room,)) for table in tables}
        user = (stretch.room, stretch.user_number)
        await self._connection.execute(_DONE, user)
        return {table: await self._erase(_OUT_OF, table, user) for table in ("members", "member_intervals")}

    async def _erase(self, sql: str, table: str, params: Any) -> Count:
        return Count(erased=(await self._connection.execute(sql.format(table=table), params)).rowcount)

    async def add_counts(self, user: UserNumber, counts: Counts, signers: set[DeviceId]) -> None:
        row = await self._row(_LOCK_COUNTS, (user,))
        assert row is not None, "a deletion ends after its rooms"
        merged = _added(_counts(row[0]), counts)
        await self._connection.execute(_SET_COUNTS, (_text(merged), sorted({*row[1], *signers}), user))

    # The rest --------------------------------------------------------------------------------------------------------

    async def next_stage(self) -> bool:
        row = await self._row(_NEXT_STAGE)
        if row is None:
            return False
        user, user_id, stage, place, counts, signers = row
        if stage == len(STAGES):
            await self._finish(UserNumber(user), UserId(user_id), _counts(counts), signers)
            return True
        devices = [number for (number,) in await self._rows(_DEVICES, (user,))]
        known = {"user": user, "user_id": user_id, "devices": devices, "place": place, "limit": rows_a_piece_max}
        erased_count, is_done, place = await self._erase_piece(STAGES[stage], known)
        merged = _added(_counts(counts), {STAGES[stage].store: Count(erased=erased_count)})
        after = (stage + 1, 0) if is_done else (stage, place)
        await self._connection.execute(_SET_STAGE, (*after, _text(merged), user))
        return True

    async def _erase_piece(self, stage: Stage, known: dict[str, Any]) -> tuple[int, bool, int]:
        """How many went, whether that was all, and the place that was reached."""
        if stage is _SENT:
            row = await self._row(_ERASE_SENT, known)
            assert row is not None
            return row[2], row[1] < rows_a_piece_max, row[0]
        sql = _EMPTY_PIECE if stage is _INVITATIONS else _ERASE_PIECE
        cursor = await self._connection.execute(sql.format(table=stage.store, where=stage.where), known)
        return cursor.rowcount, cursor.rowcount < rows_a_piece_max, 0

    async def _finish(
        self, user: UserNumber, user_id: UserId, counts: dict[str, Count], signers: Sequence[str]
    ) -> None:
        """What signatures hang on stays, stripped; else nothing does."""
        await self._connection.execute(_WITHOUT_HURRY)
        ids = await self._row(_DEVICE_IDS, (user,))
        assert ids is not None
        audit = await self._row(_COUNT_AUDIT, {"user_id": user_id, "device_ids": ids[0] or []})
        assert audit is not None
        erased_count = (await self._connection.execute(_ERASE_DEVICES, (user, list(signers)))).rowcount
        await self._connection.execute(
            _STRIP_DEVICES if signers else _ERASE_DEVICES, (user,) if signers else (user, [])
        )
        await self._connection.execute(_STRIP_USER if signers else _ERASE_USER, (user,))
        last = {
            "devices": Count(erased=erased_count, kept=len(signers)),
            "users": Count(erased=0 if signers else 1, kept=1 if signers else 0),
            "audit": Count(kept=audit[0]),
            "erased_names": Count(kept=1),
            "deletions": Count(kept=1),
        }
        await self._connection.execute(_FINISH, (len(STAGES) + 1, _text(_added(counts, last)), user))

    # Receipts --------------------------------------------------------------------------------------------------------

    async def receipt(self, receipt_hash: bytes) -> StoredReceipt | None:
        row = await self._row(_RECEIPT, (receipt_hash,))
        if row is None:
            return None
        began, finished, counts, stage, is_out_of_rooms = row
        is_finished = finished is not None
        done = dict.fromkeys(ROOM_STORES, is_finished or is_out_of_rooms)
        for at, one in enumerate(STAGES):
            done[one.store] = stage > at
        done |= dict.fromkeys((*LAST_STORES, *OTHER_STORES), is_finished)
        return StoredReceipt(began=began, finished=finished, counts=_counts(counts), is_done=done)

    async def forget_receipts(self, *, age_s: float, count_max: int) -> int:
        return (await self._connection.execute(_FORGET_RECEIPTS, (age_s, count_max))).rowcount

    async def _row(self, sql: str, params: Any = None) -> tuple[Any, ...] | None:
        return await (await self._connection.execute(sql, params)).fetchone()

    async def _rows(self, sql: str, params: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(sql, params)).fetchall()


def _counts(text: str) -> dict[str, Count]:
    return msgspec.json.decode(text, type=dict[str, Count])


def _text(counts: Counts) -> str:
    return msgspec.json.encode(counts).decode()


def _added(before: Counts, more: Counts) -> dict[str, Count]:
    added = dict(before)
    for store, count in more.items():
        old = added.get(store, Count())
        added[store] = Count(erased=old.erased + count.erased, kept=old.kept + count.kept)
    return added
