"""Rooms, their members and the intervals in which somebody may read, in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec

from chatty.errors import NotFound
from chatty.ids import DeviceId, RoomId, RoomNumber, Seq, UserId, UserNumber
from chatty.services.rooms import LockedRoom, Rooms, StoredPlace, UserRow
from chatty.services.timeline import Appended, RoomHead
from chatty.testing.receipts import read_seq, unread_count
from chatty.testing.tables import Room, Tables
from chatty.testing.transactions import Transaction
from chatty.wire import chain
from chatty.wire.authority import Membership
from chatty.wire.canonical import encode_base64
from chatty.wire.events import CreateContent, Policy, RoomRole
from chatty.wire.rooms import Member, Members, RoomSummary


class MemoryRooms(Rooms):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def room_number(self, room: RoomId) -> RoomNumber | None:
        found = (await self._transaction.read()).room_named(room)
        return None if found is None else found.number

    async def user(self, user: UserId) -> UserRow | None:
        found = (await self._transaction.read()).user_named(user)
        if found is None:
            return None
        return UserRow(
            user=found.user,
            user_number=found.number,
            identity_key=found.identity_key,
            list_version=found.list_version,
            list_digest=encode_base64(found.list_digest),
            is_locked=found.is_locked,
        )

    async def lock_users(self, users: Iterable[UserNumber]) -> None:
        await self._transaction.lock([("users", number) for number in sorted(users)])

    async def lock(self, room: RoomNumber, concerned: Iterable[UserId], *, link: str = "") -> LockedRoom:
        await self._transaction.lock([("rooms", room)])
        tables = await self._transaction.read()
        row, found_link = tables.rooms.get(room), tables.links.get((room, link))
        named = {*concerned, *([found_link.maker] if found_link is not None else [])}
        if row is None:
            raise NotFound("no such room")
        memberships = {
            tables.users[user].user: one
            for (of, user), one in tables.members.items()
            if of == room and (tables.users[user].user in named or (one.is_joined and one.role is RoomRole.OWNER))
        }
        return LockedRoom(
            head=row.locked_head(),
            create=row.create,
            policy=row.policy,
            public_title=row.public_title,
            memberships=memberships,
            joined_count=len(list(tables.joined(room))),
            links={} if found_link is None else {link: found_link},
        )

    async def insert(self, head: RoomHead, create: CreateContent, body: bytes) -> RoomNumber:
        number = RoomNumber(self._transaction.next_number())
        row = Room(number=number, room=head.room, head=head.head, create=create, policy=create.policy)
        await self._transaction.write(lambda tables: tables.rooms.update({number: row}))
        return number

    async def direct_room(self, pair: str) -> tuple[RoomId, Seq, Seq] | None:
        rooms = (await self._transaction.read()).rooms.values()
        return _position(
            next((one for one in rooms if one.create.direct and " ".join(one.create.direct) == pair), None)
        )

    async def created(self, room: RoomId) -> tuple[RoomId, Seq, Seq] | None:
        return _position((await self._transaction.read()).room_named(room))

    async def head_at(self, room: RoomNumber, seq: Seq) -> bytes | None:
        found = (await self._transaction.read()).timeline.get((room, seq))
        return None if found is None else found.head

    async def device_key(self, user: UserId, device: DeviceId) -> str | None:
        tables = await self._transaction.read()
        found = tables.device_named(device)
        return found.ed25519 if found and tables.users[found.user_number].user == user else None

    async def write(self, head: RoomHead, appended: Sequence[Appended]) -> None:
        moved = replace(head)  # the caller's may move on
        await self._transaction.write(lambda tables: tables.append(moved, list(appended)))

    async def set_membership(self, room: RoomNumber, user: UserNumber, membership: Membership, *, seq: Seq) -> None:
        def change(tables: Tables) -> None:
            tables.members[room, user] = membership
            intervals = tables.intervals.get((room, user), ())
            is_open = bool(intervals) and intervals[-1][1] is None
            if membership.is_joined and not is_open:
                tables.intervals[room, user] = (*intervals, (seq, None))
            elif is_open and not membership.is_joined:
                tables.intervals[room, user] = (*intervals[:-1], (intervals[-1][0], seq))

        await self._transaction.write(change)

    async def place(self, room: RoomNumber, seq: Seq) -> StoredPlace | None:
        found = (await self._transaction.read()).timeline.get((room, seq))
        return None if found is None else StoredPlace(entry=found.event, has_body=found.event.body is not None)

    async def take_out(self, room: RoomNumber, seq: Seq, *, deletion_seq: Seq) -> None:
        def change(tables: Tables) -> None:
            stored = tables.timeline[room, seq]
            hash_ = chain.body_hash(stored.event)
            event = msgspec.structs.replace(stored.event, body=None, body_hash=hash_, deletion_seq=deletion_seq)
            tables.timeline[room, seq] = replace(stored, event=event)

        await self._transaction.write(change)

    async def note_creation(self, user: UserNumber) -> int:
        def change(tables: Tables) -> int:
            row = tables.users[user]
            tables.users[user] = replace(row, rooms_created_count=row.rooms_created_count + 1)
            return row.rooms_created_count + 1

        return await self._transaction.write(change)

    async def role_of(self, user: UserId) -> str | None:
        found = (await self._transaction.read()).user_named(user)
        return None if found is None else found.role

    async def set_policy(self, room: RoomNumber, policy: Policy) -> None:
        def change(tables: Tables) -> None:
            tables.rooms[room] = replace(tables.rooms[room], policy=policy)

        await self._transaction.write(change)

    async def append_user_event(self, user: UserNumber, *, kind: str, content: dict[str, object], time_ms: int) -> None:
        await self._transaction.write(
            lambda tables: tables.append_user_event(user, kind=kind, content=content, time_ms=time_ms)
        )

    async def summaries(self, user: UserNumber, *, after: str, count_max: int) -> list[RoomSummary]:
        tables = await self._transaction.read()
        rooms = sorted(tables.rooms.values(), key=lambda one: one.room)
        mine = [one for one in rooms if one.room > after and tables.is_joined(one.number, user)]
        return [
            RoomSummary(
                room=one.room,
                seq=one.seq,
                epoch=one.epoch,
                role=tables.members[one.number, user].role,
                policy=one.policy,
                direct=list(one.create.direct) if one.create.direct else None,
                read_seq=read_seq(tables, one.number, user),
                unread_count=unread_count(tables, one.number, user),
            )
            for one in mine[:count_max]
        ]

    async def members(self, room: RoomNumber) -> Members:
        tables = await self._transaction.read()
        row = tables.rooms[room]
        members = [
            Member(
                user=user.user,
                role=one.role,
                changed_seq=one.changed_seq,
                list_version=one.list_version,
                list_digest=one.list_digest,
            )
            for user, one in tables.joined(room)
        ]
        return Members(room=row.room, seq=row.seq, epoch=row.epoch, members=members)

    async def is_joined(self, room: RoomNumber, user: UserNumber) -> bool:
        return (await self._transaction.read()).is_joined(room, user)

    async def was_inside(self, room: RoomNumber, user: UserId) -> bool:
        tables = await self._transaction.read()
        found = tables.user_named(user)
        return found is not None and bool(tables.intervals.get((room, found.number)))


def _position(room: Room | None) -> tuple[RoomId, Seq, Seq] | None:
    return None if room is None else (room.room, room.seq, room.epoch)
