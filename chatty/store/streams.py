"""User streams, and pages of room timelines as their members may see them.

A page's events and its reader's membership come from one snapshot. State events (create, member, policy, devices) and deletions
are there for every member, or nobody could verify who may do what and did; messages are there within the reader's own intervals,
or always under the policy `shared`. What is hidden between two visible events is one gap, whose head is that of the event before
the next. Below the room's horizon it is a stretch of its own kind; the event at the horizon keeps its row, so that the last one
ends there. Ciphertexts that have an end are read in a statement of their own.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from chatty.ids import DeviceId, DeviceNumber, RoomId, RoomNumber, SendNumber, Seq, UserId, UserNumber, UserSeq
from chatty.services.preferences import Shown
from chatty.services.requests import SendRow
from chatty.services.streams import Beginnings, ReturningDevice, RoomPage, RoomPosition, Standing, Streams
from chatty.store.connection import TrioConnection, bigints
from chatty.store.expiry import LASTING, passing_bodies
from chatty.wire.events import LASTING_KINDS, Kind, TimelineEvent
from chatty.wire.frames import Erased, Gap, Horizon, HorizonMark, OneTimeKeyCounts, PlacedEntry, RoomEntry, UserEvent
from chatty.wire.keys import SIGNED_CURVE25519

_APPEND = """WITH next AS (UPDATE users SET stream_seq = stream_seq + 1 WHERE user_number = %s
 RETURNING user_number, stream_seq)
INSERT INTO user_stream (user_number, seq, time, kind, content) SELECT user_number, stream_seq, %s::bigint, %s, %s FROM next
RETURNING seq"""
_ROOMS_OF = """SELECT r.room_id, r.room_number, r.seq FROM members m JOIN rooms r ON r.room_number = m.room_number
WHERE m.user_number = %s AND m.standing = 'joined' ORDER BY r.room_number"""  # members_user
# Where a reader's last time inside ended; nobody's who was only banned from outside, nor a later ban of one who had left.
_LEFT_AT = """(SELECT max(i.to_seq) FROM member_intervals i
 WHERE i.room_number = m.room_number AND i.user_number = m.user_number)"""  # member_intervals_pkey
_LEFT_ROOMS = f"""SELECT r.room_id, r.room_number, {_LEFT_AT} FROM rooms r
JOIN members m ON m.room_number = r.room_number AND m.user_number = %s
WHERE r.room_id = ANY(%s) AND m.standing <> 'joined' AND {_LEFT_AT} IS NOT NULL ORDER BY r.room_number"""  # noqa: S608 # constants
# All that a device which missed nothing is told when it returns, of one moment, in one trip.
_RETURN = f"""SELECT s.low, s.highest_n, s.is_live, u.stream_seq,
EXISTS (SELECT FROM mailbox m WHERE m.device_number = s.device_number), u.shows_presence, u.shows_receipts,
ARRAY(SELECT b.blocked_number FROM blocks b WHERE b.user_number = u.user_number),
(SELECT count(*) FROM one_time_keys k WHERE k.device_number = s.device_number AND k.key_json IS NOT NULL),
ARRAY(SELECT algorithm FROM fallback_keys f WHERE f.device_number = s.device_number AND NOT f.is_used ORDER BY algorithm),
(SELECT jsonb_agg(jsonb_build_array(r.room_id, r.room_number, r.seq) ORDER BY r.room_number)
 FROM members m JOIN rooms r ON r.room_number = m.room_number
 WHERE m.user_number = u.user_number AND m.standing = 'joined'),
(SELECT jsonb_agg(jsonb_build_array(r.room_id, r.room_number, {_LEFT_AT}) ORDER BY r.room_number)
 FROM rooms r JOIN members m ON m.room_number = r.room_number AND m.user_number = u.user_number
 WHERE r.room_id = ANY(%s) AND m.standing <> 'joined' AND {_LEFT_AT} IS NOT NULL)
FROM device_send s, users u WHERE s.device_number = %s AND u.user_number = %s"""  # noqa: S608 # constants
_ROOM_NUMBER = f"""SELECT r.room_number FROM rooms r
JOIN members m ON m.room_number = r.room_number AND m.user_number = %s
WHERE r.room_id = %s AND (m.standing = 'joined' OR {_LEFT_AT} IS NOT NULL)"""  # noqa: S608 # constants
EVENT = """t.seq, t.time, t.kind, u.user_id, d.device_id, t.n, t.algorithm, t.session_id, t.epoch, t.silent, t.expiry,
 t.target, t.signature, b.body, t.body_hash, t.deletion_seq, t.ends, t.leaf"""
_MARK = "r.horizon_seq, r.horizon_head, r.horizon_before, r.horizon_time, r.horizon_key_id, r.horizon_signature"
_SENDERS = (
    "LEFT JOIN users u ON u.user_number = t.sender_number LEFT JOIN devices d ON d.device_number = t.device_number"
)
JOINS = f"LEFT JOIN bodies b ON b.room_number = t.room_number AND b.seq = t.seq {_SENDERS}"
_READER = f"""SELECT r.room_id, r.seq, CASE WHEN m.standing = 'joined' THEN r.seq ELSE {_LEFT_AT} END, m.standing = 'joined',
 r.policy->>'history' = 'shared', r.deletion_seq, {_MARK}
FROM rooms r JOIN members m ON m.room_number = r.room_number AND m.user_number = %s
WHERE r.room_number = %s AND (m.standing = 'joined' OR {_LEFT_AT} IS NOT NULL)"""  # noqa: S608 # constants
# First the head of what a gap hides before the event, or of the horizon itself.
_PAGE = f"""WITH found AS (
 SELECT t.*, b.body, octet_length(b.body) AS size
 FROM timeline t LEFT JOIN bodies b ON b.room_number = t.room_number AND b.seq = t.seq
 WHERE t.room_number = %(room)s AND t.seq > %(after)s AND t.seq <= %(end)s AND (
  t.kind IN {LASTING} OR t.seq = %(horizon)s OR (
   t.seq > %(horizon)s AND (%(sees_all)s OR EXISTS (
    SELECT 1 FROM member_intervals i WHERE i.room_number = t.room_number AND i.user_number = %(user)s
    AND i.from_seq <= t.seq AND (i.to_seq IS NULL OR t.seq <= i.to_seq)))))
 ORDER BY t.seq LIMIT %(count_max)s
), visible AS (
 SELECT *, sum(coalesce(size, 0)) OVER places AS bytes, lag(seq, 1, %(after)s::bigint) OVER places AS last
 FROM found WINDOW places AS (ORDER BY seq)
)
SELECT CASE WHEN t.seq = %(horizon)s AND t.kind NOT IN {LASTING} THEN t.head WHEN t.last < t.seq - 1 THEN (
 SELECT p.head FROM timeline p WHERE p.room_number = t.room_number AND p.seq = t.seq - 1) END,
 {EVENT.replace("b.body", "t.body")}
FROM visible t {_SENDERS}
WHERE t.bytes <= %(bytes_max)s OR t.bytes = coalesce(t.size, 0) ORDER BY t.seq"""  # noqa: S608 # constants
_EVENTS = f"""SELECT r.room_id, sum(octet_length(b.body)) OVER (ORDER BY t.seq) AS bytes, r.deletion_seq, {EVENT}
FROM rooms r JOIN timeline t ON t.room_number = r.room_number {JOINS}
WHERE r.room_number = %s AND t.seq > greatest(%s, r.horizon_seq) ORDER BY t.seq LIMIT %s"""  # noqa: S608 # constants
_USER_PAGE = (
    "SELECT seq, time, kind, content FROM user_stream WHERE user_number = %s AND seq > %s ORDER BY seq LIMIT %s"
)
_HEADS = "SELECT room_number, seq FROM rooms WHERE room_number = ANY(%s)"
_HEADS_BEYOND = """SELECT r.room_number, r.seq FROM unnest(%s::bigint[], %s::bigint[]) AS sent (room_number, seq)
JOIN rooms r ON r.room_number = sent.room_number WHERE r.seq > sent.seq"""  # index: rooms_pkey
_STREAM_SEQS_BEYOND = """SELECT u.user_number, u.stream_seq FROM unnest(%s::bigint[], %s::bigint[]) AS sent (user_number, seq)
JOIN users u ON u.user_number = sent.user_number WHERE u.stream_seq > sent.seq"""  # index: users_pkey
_STREAM_SEQS = "SELECT user_number, stream_seq FROM users WHERE user_number = ANY(%s)"
_SIGNABLE_HEAD = """SELECT r.seq, r.head FROM rooms r JOIN members m ON m.room_number = r.room_number
AND m.user_number = %s AND m.standing = 'joined' WHERE r.room_id = %s"""
# The first beginning of a generation after one, in each of these rooms. index: rooms_room_id_key, room_restorations_pkey
_BEGINNINGS = """SELECT r.room_id, min(g.seq) FROM rooms r JOIN room_restorations g ON g.room_number = r.room_number
WHERE r.room_id = ANY(%s) AND g.generation > %s GROUP BY r.room_id"""
_STREAM_BEGINNING = """SELECT min(seq) FROM user_stream WHERE user_number = %s AND kind = 'restored'
AND (content::jsonb->>'generation')::bigint > %s"""  # index: user_stream_pkey
_CHANGED_STANDINGS = """SELECT d.device_number, d.is_live AND NOT u.is_locked, u.role
FROM devices d JOIN users u ON u.user_number = d.user_number WHERE d.device_number IN (SELECT device_number FROM revocations
 WHERE created_at > clock_timestamp() - make_interval(secs => %s))"""  # index: revocations_created


async def append_user_event(
    connection: TrioConnection, user: UserNumber, *, kind: str, content: dict[str, Any], time_ms: int
) -> UserSeq:
    """One entry at the end of the user's stream; the caller's transaction holds the lock of the user's row."""
    text = msgspec.json.encode(content).decode()
    row = await (await connection.execute(_APPEND, (user, time_ms, kind, text))).fetchone()
    assert row is not None
    return UserSeq(row[0])


@dataclass(frozen=True)
class _Reader:
    """A user in a room: what may be seen is up to end_seq."""

    room: RoomId
    head_seq: Seq
    end_seq: Seq
    is_in: bool
    sees_all: bool
    removal_seq: Seq
    mark: HorizonMark | None


class PostgresStreams(Streams):
    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def returning(
        self, device: DeviceNumber, user: UserNumber, *, named: Collection[RoomId]
    ) -> ReturningDevice | None:
        row = await self._row(_RETURN, (list(named), device, user))
        if row is None:
            return None
        rooms = [_position(room, is_joined=True) for room in row[10] or ()]
        return ReturningDevice(
            send_row=SendRow(low=SendNumber(row[0]), highest_n=SendNumber(row[1]), is_live=row[2]),
            user_head=UserSeq(row[3]),
            has_mail=row[4],
            shown=Shown(presence=row[5], receipts=row[6], hidden_from=frozenset(map(UserNumber, row[7]))),
            counts=OneTimeKeyCounts(counts={SIGNED_CURVE25519: row[8]}, unused_fallback_algorithms=row[9]),
            rooms=rooms + [_position(room, is_joined=False) for room in row[11] or ()],
        )

    async def rooms_of(self, user: UserNumber) -> list[RoomPosition]:
        return [_position(row, is_joined=True) for row in await self._rows(_ROOMS_OF, (user,))]

    async def left_rooms(self, user: UserNumber, rooms: Collection[RoomId]) -> list[RoomPosition]:
        return [_position(row, is_joined=False) for row in await self._rows(_LEFT_ROOMS, (user, list(rooms)))]

    async def room_number(self, room: RoomId, user: UserNumber) -> RoomNumber | None:
        row = await self._row(_ROOM_NUMBER, (user, room))
        return None if row is None else RoomNumber(row[0])

    async def page(
        self, room: RoomNumber, user: UserNumber, *, after: Seq, count_max: int, bytes_max: int
    ) -> RoomPage | None:
        found = await self._row(_READER, (user, room))
        if found is None:
            return None
        room_id, head_seq, end_seq, is_in, sees_all, removal_seq, *mark = found
        reader = _Reader(room_id, head_seq, end_seq, is_in, sees_all, removal_seq, _mark(mark))
        params = {
            "room": room,
            "user": user,
            "after": after,
            "end": reader.end_seq,
            "horizon": reader.mark.seq if reader.mark is not None else 0,
            "sees_all": reader.sees_all,
            "count_max": count_max,
            "bytes_max": bytes_max,
        }
        rows = await self._rows(_PAGE, params)
        if rows:
            return _page(reader, await self._filled(room, rows, bytes_max=bytes_max), after=after)
        return RoomPage(
            entries=(), to_seq=max(after, reader.end_seq), head_seq=reader.head_seq, has_left=not reader.is_in
        )

    async def events(self, room: RoomNumber, *, after: Seq, count_max: int, bytes_max: int) -> list[PlacedEntry]:
        found = await self._rows(_EVENTS, (room, after, count_max))
        rows = [row for at, row in enumerate(found) if at == 0 or (row[1] or 0) <= bytes_max]
        return [
            placed(row[0], row[3:], removal_seq=row[2]) for row in await self._filled(room, rows, bytes_max=bytes_max)
        ]

    async def _filled(
        self, room: RoomNumber, rows: Sequence[tuple[Any, ...]], *, bytes_max: int
    ) -> Sequence[tuple[Any, ...]]:
        """The same rows, which end with the columns of EVENT, with the ciphertexts that lie in passing_bodies; as many as fit."""
        places = [(Seq(row[_SEQ]), row[_ENDS]) for row in rows if row[_ENDS] and not row[_DELETION_SEQ]]
        if not places:
            return rows
        bodies = await passing_bodies(self._connection, room, places, bytes_max=bytes_max)
        filled, size = list[tuple[Any, ...]](), 0
        for row in rows:
            body = bodies.get(row[_SEQ], row[_BODY])
            size += len(body or b"")
            if filled and (size > bytes_max or (body is None and row[_SEQ] in bodies)):
                break
            filled.append((*row[:_BODY], body, *row[_BODY + 1 :]))
        return filled

    async def user_page(self, user: UserNumber, *, after: UserSeq, count_max: int) -> list[UserEvent]:
        return [
            UserEvent(seq=UserSeq(row[0]), time=row[1], kind=row[2], content=msgspec.json.decode(row[3]))
            for row in await self._rows(_USER_PAGE, (user, after, count_max))
        ]

    async def heads(self, rooms: Collection[RoomNumber]) -> dict[RoomNumber, Seq]:
        return {RoomNumber(row[0]): Seq(row[1]) for row in await self._rows(_HEADS, (list(rooms),))}

    async def stream_seqs(self, users: Collection[UserNumber]) -> dict[UserNumber, UserSeq]:
        return {UserNumber(row[0]): UserSeq(row[1]) for row in await self._rows(_STREAM_SEQS, (list(users),))}

    async def heads_beyond(self, sent: Mapping[RoomNumber, Seq]) -> dict[RoomNumber, Seq]:
        return dict(await self._rows(_HEADS_BEYOND, (bigints(sent), bigints(sent.values()))))

    async def stream_seqs_beyond(self, sent: Mapping[UserNumber, UserSeq]) -> dict[UserNumber, UserSeq]:
        return dict(await self._rows(_STREAM_SEQS_BEYOND, (bigints(sent), bigints(sent.values()))))

    async def signable_head(self, room: RoomId, user: UserNumber) -> tuple[Seq, bytes] | None:
        row = await self._row(_SIGNABLE_HEAD, (user, room))
        return None if row is None else (Seq(row[0]), row[1])

    async def beginnings(self, user: UserNumber, *, after: Seq, rooms: Collection[RoomId]) -> Beginnings:
        stream = await self._row(_STREAM_BEGINNING, (user, after))
        found = await self._rows(_BEGINNINGS, (list(rooms), after))
        return Beginnings(
            user_seq=UserSeq(stream[0]) if stream is not None and stream[0] is not None else None,
            rooms={RoomId(room): Seq(seq) for room, seq in found},
        )

    async def changed_standings(self, *, within_s: float) -> list[Standing]:
        rows = await self._rows(_CHANGED_STANDINGS, (within_s,))
        return [Standing(device=DeviceNumber(row[0]), is_live=row[1], role=row[2]) for row in rows]

    async def _row(self, sql: str, params: Any) -> tuple[Any, ...] | None:
        return await (await self._connection.execute(sql, params)).fetchone()

    async def _rows(self, sql: str, params: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(sql, params)).fetchall()


_NO_USER, _NO_DEVICE, _NOWHERE = UserId(""), DeviceId(""), Seq(0)
_KINDS = {kind.value: kind for kind in Kind}
# Places of columns of EVENT, from a row's end.
_SEQ, _BODY, _DELETION_SEQ, _ENDS = -18, -5, -3, -2


def _position(row: tuple[Any, ...], *, is_joined: bool) -> RoomPosition:
    return RoomPosition(room=RoomId(row[0]), room_number=RoomNumber(row[1]), head_seq=Seq(row[2]), is_joined=is_joined)


def placed(room: RoomId, row: Sequence[Any], *, removal_seq: Seq) -> PlacedEntry:
    """row: the columns of EVENT. removal_seq: of the room's newest removal of a deleted account."""
    if (leaf := row[-1]) is not None:
        return Erased(room=room, seq=row[0], leaf=leaf, removal_seq=removal_seq)
    return event(room, row)


def event(room: RoomId, row: Sequence[Any]) -> TimelineEvent:
    """row: the columns of EVENT; the last two may be missing."""
    body = row[13]
    return TimelineEvent(
        room=room,
        seq=row[0],
        time=row[1],
        kind=_KINDS[row[2]],
        sender=row[3] or _NO_USER,
        device=row[4] or _NO_DEVICE,
        n=row[5],
        algorithm=row[6],
        session_id=row[7],
        epoch=row[8],
        silent=row[9],
        expiry=row[10],
        target=row[11],
        signature=row[12],
        body=body,
        body_hash=row[14] if body is None else None,
        deletion_seq=row[15] or _NOWHERE,
    )


def _page(reader: _Reader, rows: Sequence[tuple[Any, ...]], *, after: Seq) -> RoomPage:
    """Events with their gaps. At the end of what the reader may see, to_seq is the reader's end, hidden tail included."""
    mark = reader.mark
    entries: list[RoomEntry] = []
    last = after
    for row in rows:
        seq, kind = row[_SEQ], row[_SEQ + 2]
        is_beyond = mark is not None and seq <= mark.seq and kind not in _lasting
        upto = seq if is_beyond else Seq(seq - 1)
        if upto > last:
            entries.append(_hidden(reader.room, from_seq=Seq(last + 1), to_seq=upto, head=row[0], mark=mark))
        if not is_beyond:
            entries.append(placed(reader.room, row[1:], removal_seq=reader.removal_seq))
        last = seq
    has_left = not reader.is_in and last >= reader.end_seq
    return RoomPage(entries=entries, to_seq=last, head_seq=reader.head_seq, has_left=has_left)


_lasting = frozenset(kind.value for kind in LASTING_KINDS)


def _hidden(room: RoomId, *, from_seq: Seq, to_seq: Seq, head: bytes, mark: HorizonMark | None) -> Gap | Horizon:
    if mark is not None and from_seq <= mark.seq:
        return Horizon(room=room, from_seq=from_seq, to_seq=to_seq, head=head, mark=mark)
    return Gap(room=room, from_seq=from_seq, to_seq=to_seq, head=head)


def _mark(row: Sequence[Any]) -> HorizonMark | None:
    """row: the columns of _MARK."""
    seq, head, before, time, key_id, signature = row
    if not seq:
        return None
    return HorizonMark(seq=Seq(seq), head=head, before=before, time=time, key_id=key_id, signature=signature)
