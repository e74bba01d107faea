"""Streams in memory: what the members of a room may see of it, users' streams, and what the comparison asks.

Nobody is erased here, nothing expires, there is one generation, and no device loses its rights.
"""

from collections.abc import Collection, Mapping, Sequence

from chatty.ids import DeviceNumber, RoomId, RoomNumber, Seq, UserNumber, UserSeq
from chatty.services.checkpoints import Heads
from chatty.services.streams import Beginnings, ReturningDevice, RoomPage, RoomPosition, Standing, Streams
from chatty.services.timeline import Appended
from chatty.testing.keys import key_counts
from chatty.testing.preferences import shown
from chatty.testing.tables import Tables
from chatty.testing.transactions import Transaction
from chatty.wire.events import LASTING_KINDS
from chatty.wire.frames import Gap, PlacedEntry, RoomEntry, UserEvent


class MemoryStreams(Streams, Heads):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def returning(
        self, device: DeviceNumber, user: UserNumber, *, named: Collection[RoomId]
    ) -> ReturningDevice | None:
        tables = await self._transaction.read()
        if device not in tables.sends or user not in tables.users:
            return None
        return ReturningDevice(
            send_row=tables.sends[device],
            user_head=tables.users[user].stream_seq,
            has_mail=any(row.recipient == device for row in tables.mailbox.values()),
            shown=shown(tables, user),
            counts=key_counts(),
            rooms=_rooms_of(tables, user) + _left_rooms(tables, user, named),
        )

    async def rooms_of(self, user: UserNumber) -> list[RoomPosition]:
        return _rooms_of(await self._transaction.read(), user)

    async def left_rooms(self, user: UserNumber, rooms: Collection[RoomId]) -> list[RoomPosition]:
        return _left_rooms(await self._transaction.read(), user, rooms)

    async def room_number(self, room: RoomId, user: UserNumber) -> RoomNumber | None:
        tables = await self._transaction.read()
        found = tables.room_named(room)
        return found.number if found is not None and _end(tables, found.number, user) is not None else None

    async def page(
        self, room: RoomNumber, user: UserNumber, *, after: Seq, count_max: int, bytes_max: int
    ) -> RoomPage | None:
        tables = await self._transaction.read()
        end = _end(tables, room, user)
        if end is None:
            return None
        visible = [one for one in _stretch(tables, room, after, end) if _is_visible(tables, one, user)]
        chosen = _within(visible[:count_max], bytes_max)
        head_seq, has_left = tables.rooms[room].seq, not tables.is_joined(room, user)
        if not chosen:
            return RoomPage(entries=(), to_seq=max(after, end), head_seq=head_seq, has_left=has_left)
        entries = _with_gaps(tables, chosen, after)
        last = chosen[-1].event.seq
        return RoomPage(entries=entries, to_seq=last, head_seq=head_seq, has_left=has_left and last >= end)

    async def events(self, room: RoomNumber, *, after: Seq, count_max: int, bytes_max: int) -> list[PlacedEntry]:
        tables = await self._transaction.read()
        found = _stretch(tables, room, after, tables.rooms[room].seq) if room in tables.rooms else []
        return [one.event for one in _within(found[:count_max], bytes_max)]

    async def user_page(self, user: UserNumber, *, after: UserSeq, count_max: int) -> list[UserEvent]:
        tables = await self._transaction.read()
        last = min(tables.users[user].stream_seq, after + count_max)
        return [tables.user_stream[user, UserSeq(seq)] for seq in range(after + 1, last + 1)]

    async def heads(self, rooms: Collection[RoomNumber]) -> dict[RoomNumber, Seq]:
        tables = await self._transaction.read()
        return {number: tables.rooms[number].seq for number in rooms if number in tables.rooms}

    async def heads_beyond(self, sent: Mapping[RoomNumber, Seq]) -> dict[RoomNumber, Seq]:
        return {room: seq for room, seq in (await self.heads(sent)).items() if seq > sent[room]}

    async def stream_seqs_beyond(self, sent: Mapping[UserNumber, UserSeq]) -> dict[UserNumber, UserSeq]:
        return {user: seq for user, seq in (await self.stream_seqs(sent)).items() if seq > sent[user]}

    async def stream_seqs(self, users: Collection[UserNumber]) -> dict[UserNumber, UserSeq]:
        tables = await self._transaction.read()
        return {number: tables.users[number].stream_seq for number in users if number in tables.users}

    async def signable_head(self, room: RoomId, user: UserNumber) -> tuple[Seq, bytes] | None:
        tables = await self._transaction.read()
        found = tables.room_named(room)
        return (found.seq, found.head) if found and tables.is_joined(found.number, user) else None

    async def beginnings(self, user: UserNumber, *, after: Seq, rooms: Collection[RoomId]) -> Beginnings:
        return Beginnings(user_seq=None, rooms={})

    async def changed_standings(self, *, within_s: float) -> list[Standing]:
        await self._transaction.read()
        return []


def _rooms_of(tables: Tables, user: UserNumber) -> list[RoomPosition]:
    rooms = [one for number, one in sorted(tables.rooms.items()) if tables.is_joined(number, user)]
    return [RoomPosition(room=one.room, room_number=one.number, head_seq=one.seq, is_joined=True) for one in rooms]


def _left_rooms(tables: Tables, user: UserNumber, named: Collection[RoomId]) -> list[RoomPosition]:
    return [
        RoomPosition(room=one.room, room_number=number, head_seq=left_at, is_joined=False)
        for number, one in sorted(tables.rooms.items())
        if one.room in named and not tables.is_joined(number, user)
        if (left_at := tables.left_at(number, user)) is not None
    ]


def _end(tables: Tables, room: RoomNumber, user: UserNumber) -> Seq | None:
    """The last seq that the user may see; None: was never inside."""
    if tables.is_joined(room, user):
        return tables.rooms[room].seq
    return tables.left_at(room, user)


def _stretch(tables: Tables, room: RoomNumber, after: Seq, end: Seq) -> list[Appended]:
    return [tables.timeline[room, Seq(seq)] for seq in range(after + 1, end + 1)]


def _is_visible(tables: Tables, one: Appended, user: UserNumber) -> bool:
    """State and deletions always, messages inside the own intervals, or always under the policy `shared`."""
    room, seq = one.room_number, one.event.seq
    if one.event.kind in LASTING_KINDS or tables.rooms[room].policy.history == "shared":
        return True
    return any(first <= seq and (last is None or seq <= last) for first, last in tables.intervals.get((room, user), ()))


def _within(found: Sequence[Appended], bytes_max: int) -> Sequence[Appended]:
    """As many as fit, and the first however large it is."""
    size_bytes = 0
    for count, one in enumerate(found):
        size_bytes += len(one.event.body or b"")
        if count and size_bytes > bytes_max:
            return found[:count]
    return found


def _with_gaps(tables: Tables, chosen: Sequence[Appended], after: Seq) -> list[RoomEntry]:
    entries: list[RoomEntry] = []
    last = after
    for one in chosen:
        event = one.event
        if event.seq > last + 1:
            before = Seq(event.seq - 1)
            head = tables.timeline[one.room_number, before].head
            entries.append(Gap(room=event.room, from_seq=Seq(last + 1), to_seq=before, head=head))
        entries.append(event)
        last = event.seq
    return entries
