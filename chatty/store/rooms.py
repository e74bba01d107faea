"""Rooms, their members and the intervals in which somebody may read; inside the transaction of one unit of work."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from chatty.errors import NotFound
from chatty.ids import DeviceId, ListVersion, RoomId, RoomNumber, Seq, UserId, UserNumber
from chatty.services.rooms import LockedRoom, Rooms, StoredPlace, UserRow
from chatty.services.timeline import Appended, RoomHead
from chatty.store import locks
from chatty.store.connection import TrioConnection
from chatty.store.receipts import READ_SEQ, UNREAD_COUNT
from chatty.store.room_links import read_link
from chatty.store.streams import EVENT, JOINS, append_user_event, placed
from chatty.store.timeline import write_appended
from chatty.wire.authority import Membership, Standing
from chatty.wire.canonical import encode_base64
from chatty.wire.events import CreateContent, Policy, RoomRole
from chatty.wire.rooms import Member, Members, RoomSummary

_ROOM_NUMBER = "SELECT room_number FROM rooms WHERE room_id = %s"
_USER = """SELECT user_id, user_number, identity_key, list_version, list_digest, is_locked FROM users
WHERE user_id = %s AND NOT is_deleted"""
_LOCK = """SELECT room_number, room_id, seq, head, epoch, state_seq, last_time, create_body, policy::text, retention_days,
public_title FROM rooms WHERE room_number = %s FOR NO KEY UPDATE"""
_CONCERNED = """SELECT u.user_id, m.standing, m.role, m.changed_seq, m.removed_seq, m.list_version, m.list_digest, m.identity
FROM members m JOIN users u ON u.user_number = m.user_number
WHERE m.room_number = %s AND (u.user_id = ANY(%s) OR (m.standing = 'joined' AND m.role = 'owner'))"""
_JOINED_COUNT = "SELECT count(*) FROM members WHERE room_number = %s AND standing = 'joined'"
_INSERT = """INSERT INTO rooms (room_id, seq, head, epoch, state_seq, last_time, policy, retention_days, create_body, direct_pair)
VALUES (%s, 0, %s, 0, 0, 0, %s, %s, %s, %s) RETURNING room_number"""
_DIRECT = "SELECT room_id, seq, epoch FROM rooms WHERE direct_pair = %s"
_CREATED = "SELECT room_id, seq, epoch FROM rooms WHERE room_id = %s"
_HEAD_AT = "SELECT head FROM timeline WHERE room_number = %s AND seq = %s"
_DEVICE_KEY = """SELECT d.ed25519 FROM devices d JOIN users u ON u.user_number = d.user_number
WHERE u.user_id = %s AND d.device_id = %s"""
_SET_MEMBER = """INSERT INTO members
(room_number, user_number, standing, role, changed_seq, removed_seq, list_version, list_digest, identity)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (room_number, user_number) DO UPDATE SET
standing = EXCLUDED.standing, role = EXCLUDED.role, changed_seq = EXCLUDED.changed_seq, removed_seq = EXCLUDED.removed_seq,
list_version = EXCLUDED.list_version, list_digest = EXCLUDED.list_digest, identity = EXCLUDED.identity"""
_BEGIN_INTERVAL = """INSERT INTO member_intervals (room_number, user_number, from_seq)
SELECT %(room)s, %(user)s, %(seq)s WHERE NOT EXISTS (SELECT 1 FROM member_intervals
WHERE room_number = %(room)s AND user_number = %(user)s AND to_seq IS NULL)"""
_END_INTERVAL = """UPDATE member_intervals SET to_seq = %(seq)s
WHERE room_number = %(room)s AND user_number = %(user)s AND to_seq IS NULL"""
_NOTE_CREATION = """UPDATE users SET rooms_created_count = rooms_created_count + 1 WHERE user_number = %s
RETURNING rooms_created_count"""
_ROLE_OF = "SELECT role FROM users WHERE user_id = %s"
_SET_POLICY = "UPDATE rooms SET policy = %s, retention_days = %s WHERE room_number = %s"
_PLACE = f"""SELECT r.room_id, b.body IS NOT NULL OR EXISTS (SELECT FROM passing_bodies p
 WHERE p.ends = t.ends AND p.room_number = t.room_number AND p.seq = t.seq), r.deletion_seq, {EVENT}
FROM rooms r JOIN timeline t ON t.room_number = r.room_number {JOINS}
WHERE r.room_number = %s AND t.seq = %s"""  # noqa: S608 # constants; index: timeline_pkey, passing_bodies_pkey
_TAKE_OUT = """UPDATE timeline SET deletion_seq = %s WHERE room_number = %s AND seq = %s RETURNING ends"""
_DROP_BODY = "DELETE FROM bodies WHERE room_number = %s AND seq = %s"
_DROP_PASSING_BODY = "DELETE FROM passing_bodies WHERE room_number = %s AND seq = %s AND ends = %s"
_SUMMARIES = f"""SELECT r.room_id, r.seq, r.epoch, m.role, r.policy::text, r.direct_pair, {READ_SEQ}, {UNREAD_COUNT}
FROM members m JOIN rooms r ON r.room_number = m.room_number
WHERE m.user_number = %s AND m.standing = 'joined' AND r.room_id > %s ORDER BY r.room_id LIMIT %s"""  # noqa: S608 # constants
_MEMBERS = """SELECT u.user_id, m.role, m.changed_seq, m.list_version, m.list_digest
FROM members m JOIN users u ON u.user_number = m.user_number
WHERE m.room_number = %s AND m.standing = 'joined' ORDER BY u.user_id"""
_POSITION = "SELECT room_id, seq, epoch FROM rooms WHERE room_number = %s"
_WAS_INSIDE = """SELECT 1 FROM member_intervals i JOIN users u ON u.user_number = i.user_number
WHERE i.room_number = %s AND u.user_id = %s LIMIT 1"""  # index: member_intervals_pkey
_IS_JOINED = "SELECT 1 FROM members WHERE room_number = %s AND user_number = %s AND standing = 'joined'"


class PostgresRooms(Rooms):
    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def room_number(self, room: RoomId) -> RoomNumber | None:
        row = await self._row(_ROOM_NUMBER, room)
        return None if row is None else RoomNumber(row[0])

    async def user(self, user: UserId) -> UserRow | None:
        row = await self._row(_USER, user)
        if row is None:
            return None
        return UserRow(
            user=UserId(row[0]),
            user_number=UserNumber(row[1]),
            identity_key=row[2],
            list_version=ListVersion(row[3]),
            list_digest=encode_base64(row[4]),
            is_locked=row[5],
        )

    async def lock_users(self, users: Iterable[UserNumber]) -> None:
        await locks.lock_users(self._connection, list(users))

    async def lock(self, room: RoomNumber, concerned: Iterable[UserId], *, link: str = "") -> LockedRoom:
        row = await self._row(_LOCK, room)
        if row is None:
            raise NotFound("no such room")  # its only member's account was deleted meanwhile
        head = RoomHead(
            room_number=RoomNumber(row[0]),
            room=RoomId(row[1]),
            seq=Seq(row[2]),
            head=row[3],
            epoch=Seq(row[4]),
            state_seq=Seq(row[5]),
            last_time=row[6],
            retention_days=row[9],
        )
        create = msgspec.json.decode(row[7], type=CreateContent)
        policy = msgspec.json.decode(row[8], type=Policy)
        found_link = await read_link(self._connection, room, link) if link else None
        users = {*concerned, *([found_link.maker] if found_link is not None else [])}
        memberships = {
            UserId(found[0]): _membership(found[1:]) for found in await self._rows(_CONCERNED, room, sorted(users))
        }
        count = await self._row(_JOINED_COUNT, room)
        assert count is not None
        return LockedRoom(
            head=head,
            create=create,
            policy=policy,
            public_title=row[10],
            memberships=memberships,
            joined_count=count[0],
            links={} if found_link is None else {link: found_link},
        )

    async def insert(self, head: RoomHead, create: CreateContent, body: bytes) -> RoomNumber:
        pair = " ".join(create.direct) if create.direct is not None else None
        policy = msgspec.json.encode(create.policy).decode()
        row = await self._row(_INSERT, head.room, head.head, policy, _retention_days(create.policy), body, pair)
        assert row is not None
        return RoomNumber(row[0])

    async def direct_room(self, pair: str) -> tuple[RoomId, Seq, Seq] | None:
        return _position(await self._row(_DIRECT, pair))

    async def created(self, room: RoomId) -> tuple[RoomId, Seq, Seq] | None:
        return _position(await self._row(_CREATED, room))

    async def head_at(self, room: RoomNumber, seq: Seq) -> bytes | None:
        row = await self._row(_HEAD_AT, room, seq)
        return None if row is None else bytes(row[0])

    async def device_key(self, user: UserId, device: DeviceId) -> str | None:
        row = await self._row(_DEVICE_KEY, user, device)
        return None if row is None else row[0]

    async def write(self, head: RoomHead, appended: Sequence[Appended]) -> None:
        await write_appended(self._connection, head, appended)

    async def set_membership(self, room: RoomNumber, user: UserNumber, membership: Membership, *, seq: Seq) -> None:
        values = (
            membership.standing.value,
            membership.role.value,
            membership.changed_seq,
            membership.removed_seq,
            membership.list_version,
            membership.list_digest,
            membership.identity,
        )
        await self._connection.execute(_SET_MEMBER, (room, user, *values))
        interval = _BEGIN_INTERVAL if membership.is_joined else _END_INTERVAL
        await self._connection.execute(interval, {"room": room, "user": user, "seq": seq})

    async def note_creation(self, user: UserNumber) -> int:
        row = await self._row(_NOTE_CREATION, user)
        assert row is not None
        return int(row[0])

    async def role_of(self, user: UserId) -> str | None:
        row = await self._row(_ROLE_OF, user)
        return None if row is None else str(row[0])

    async def set_policy(self, room: RoomNumber, policy: Policy) -> None:
        text = msgspec.json.encode(policy).decode()
        await self._connection.execute(_SET_POLICY, (text, _retention_days(policy), room))

    async def place(self, room: RoomNumber, seq: Seq) -> StoredPlace | None:
        row = await self._row(_PLACE, room, seq)
        if row is None:
            return None
        return StoredPlace(entry=placed(row[0], row[3:], removal_seq=row[2]), has_body=row[1])

    async def take_out(self, room: RoomNumber, seq: Seq, *, deletion_seq: Seq) -> None:
        row = await self._row(_TAKE_OUT, deletion_seq, room, seq)
        assert row is not None, "the place was looked at under the room's lock"
        if row[0]:
            await self._connection.execute(_DROP_PASSING_BODY, (room, seq, row[0]))
        else:
            await self._connection.execute(_DROP_BODY, (room, seq))

    async def append_user_event(self, user: UserNumber, *, kind: str, content: dict[str, object], time_ms: int) -> None:
        await append_user_event(self._connection, user, kind=kind, content=content, time_ms=time_ms)

    async def summaries(self, user: UserNumber, *, after: str, count_max: int) -> list[RoomSummary]:
        return [
            RoomSummary(
                room=RoomId(row[0]),
                seq=Seq(row[1]),
                epoch=Seq(row[2]),
                role=RoomRole(row[3]),
                policy=msgspec.json.decode(row[4], type=Policy),
                direct=[UserId(user_) for user_ in row[5].split(" ")] if row[5] else None,
                read_seq=Seq(row[6]),
                unread_count=row[7],
            )
            for row in await self._rows(_SUMMARIES, user, after, count_max)
        ]

    async def members(self, room: RoomNumber) -> Members:
        position = _position(await self._row(_POSITION, room))
        assert position is not None
        members = [
            Member(
                user=UserId(row[0]),
                role=RoomRole(row[1]),
                changed_seq=Seq(row[2]),
                list_version=ListVersion(row[3]),
                list_digest=row[4],
            )
            for row in await self._rows(_MEMBERS, room)
        ]
        return Members(room=position[0], seq=position[1], epoch=position[2], members=members)

    async def is_joined(self, room: RoomNumber, user: UserNumber) -> bool:
        return await self._row(_IS_JOINED, room, user) is not None

    async def was_inside(self, room: RoomNumber, user: UserId) -> bool:
        return await self._row(_WAS_INSIDE, room, user) is not None

    async def _row(self, sql: str, *params: object) -> tuple[Any, ...] | None:
        return await (await self._connection.execute(sql, params)).fetchone()

    async def _rows(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(sql, params)).fetchall()


def _retention_days(policy: Policy) -> int:
    """0: none."""
    return policy.retention_days or 0


def _position(row: tuple[Any, ...] | None) -> tuple[RoomId, Seq, Seq] | None:
    return None if row is None else (RoomId(row[0]), Seq(row[1]), Seq(row[2]))


def _membership(row: tuple[Any, ...]) -> Membership:
    standing, role, changed_seq, removed_seq, list_version, list_digest, identity = row
    return Membership(
        standing=Standing(standing),
        role=RoomRole(role),
        changed_seq=Seq(changed_seq),
        removed_seq=Seq(removed_seq),
        list_version=ListVersion(list_version),
        list_digest=list_digest,
        identity=identity,
    )
