"""Reading the durable streams: resume, pages, and the comparison that mends whatever got lost (docs/protocol.md, "Streams").

Three streams: a room's timeline, the user's stream, the device's mailbox. A client resumes each from its own cursor. What a
member may not see comes as one gap. Membership and events of a page come from one snapshot, and nothing above a leave's seq is
ever given to the one who left.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from chatty.errors import NotFound
from chatty.ids import DeviceNumber, MailboxId, RoomId, RoomNumber, Seq, UserNumber, UserSeq
from chatty.services.caller import Caller
from chatty.services.mailbox import Mailbox
from chatty.services.preferences import Shown
from chatty.services.requests import SendRow
from chatty.services.units import Transactions
from chatty.wire import frames, limits
from chatty.wire.frames import PlacedEntry, RoomEntry, UserEvent
from chatty.wire.rooms import Page, UserPage

page_bytes_max = 262_144  # bodies of one page together; the first event is given however large it is
mailbox_page_count_max = 100
mailbox_page_bytes_max = 262_144


@dataclass(frozen=True, kw_only=True)
class RoomPosition:
    """A room that a user is or was in, and where its timeline ends: for who has left, with the removal."""

    room: RoomId
    room_number: RoomNumber
    head_seq: Seq
    is_joined: bool


@dataclass(frozen=True, kw_only=True)
class RoomPage:
    """A stretch of a room as one user may see it. to_seq: where it ends. is_end: nothing more is there for this user.

    has_left: the user is no member at to_seq, and will be given nothing after it.
    """

    entries: Sequence[RoomEntry]
    to_seq: Seq
    head_seq: Seq
    has_left: bool

    @property
    def is_end(self) -> bool:
        return self.has_left or self.to_seq >= self.head_seq


@dataclass(frozen=True, kw_only=True)
class ReturningDevice:
    """What the server knows of a device, of one moment. user_head: where its user's stream ends. shown: what its user lets others
    see. has_mail: rows wait in its mailbox. rooms: the user's, and those named that it has left.
    """

    send_row: SendRow
    user_head: UserSeq
    has_mail: bool
    shown: Shown
    counts: frames.OneTimeKeyCounts
    rooms: Sequence[RoomPosition]


@dataclass(frozen=True, kw_only=True)
class Beginnings:
    """Where the first generation after some other began: in a user's stream, None if it has not, and in rooms."""

    user_seq: UserSeq | None
    rooms: Mapping[RoomId, Seq]

    def rewound(self, cursor: frames.Cursor) -> frames.Cursor:
        """What stands from the beginning on is another generation's than what its client has read."""
        beginning = self.rooms.get(cursor.room)
        return cursor if beginning is None else frames.Cursor(room=cursor.room, seq=min(cursor.seq, Seq(beginning - 1)))

    def rewound_stream(self, seq: UserSeq) -> UserSeq:
        return seq if self.user_seq is None else min(seq, UserSeq(self.user_seq - 1))


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a device may do now: nothing, unless it is live; else what its user's role may."""

    device: DeviceNumber
    is_live: bool
    role: str


class Streams(Protocol):
    """The store's reading side, inside one unit of work."""

    async def returning(
        self, device: DeviceNumber, user: UserNumber, *, named: Collection[RoomId]
    ) -> ReturningDevice | None:
        """None: the device is gone."""
        ...

    async def rooms_of(self, user: UserNumber) -> list[RoomPosition]: ...
    async def left_rooms(self, user: UserNumber, rooms: Collection[RoomId]) -> list[RoomPosition]:
        """Those of `rooms` that the user was in once and is not now; head_seq: of the removal."""
        ...

    async def room_number(self, room: RoomId, user: UserNumber) -> RoomNumber | None:
        """None unless the user is or was a member."""
        ...

    async def page(
        self, room: RoomNumber, user: UserNumber, *, after: Seq, count_max: int, bytes_max: int
    ) -> RoomPage | None:
        """None: the user never was a member."""
        ...

    async def events(self, room: RoomNumber, *, after: Seq, count_max: int, bytes_max: int) -> list[PlacedEntry]:
        """For the room's own actor: all events, in order."""
        ...

    async def user_page(self, user: UserNumber, *, after: UserSeq, count_max: int) -> list[UserEvent]: ...
    async def heads(self, rooms: Collection[RoomNumber]) -> dict[RoomNumber, Seq]: ...
    async def stream_seqs(self, users: Collection[UserNumber]) -> dict[UserNumber, UserSeq]: ...
    async def beginnings(self, user: UserNumber, *, after: Seq, rooms: Collection[RoomId]) -> Beginnings:
        """Of the generations after this one."""
        ...

    async def heads_beyond(self, sent: Mapping[RoomNumber, Seq]) -> dict[RoomNumber, Seq]:
        """Of those rooms whose newest seq is above the one here."""
        ...

    async def stream_seqs_beyond(self, sent: Mapping[UserNumber, UserSeq]) -> dict[UserNumber, UserSeq]:
        """Likewise of user streams."""
        ...

    async def changed_standings(self, *, within_s: float) -> list[Standing]:
        """Of devices that lost or changed their rights lately. No cursor: rows commit in another order than their ids."""
        ...


class KeyStock(Protocol):
    async def counts(self, device: DeviceNumber) -> frames.OneTimeKeyCounts: ...


class StreamUnit(Protocol):
    @property
    def streams(self) -> Streams: ...
    @property
    def mailbox(self) -> Mailbox: ...
    @property
    def keys(self) -> KeyStock: ...


@dataclass(frozen=True, kw_only=True)
class Resume:
    """One snapshot of everything a returning device is behind in; rooms in full follow page by page.

    user_head: where the user's stream ends.
    """

    send_row: SendRow
    mailbox: Sequence[frames.Mailbox]
    user_events: Sequence[UserEvent]
    user_head: UserSeq
    rooms: Sequence[RoomPosition]
    counts: frames.OneTimeKeyCounts
    shown: Shown


@dataclass(frozen=True, kw_only=True)
class Behind:
    """What the comparison found: heads of rooms and user streams that are further, devices with rows not yet given."""

    heads: Mapping[RoomNumber, Seq]
    stream_seqs: Mapping[UserNumber, UserSeq]
    devices: Collection[DeviceNumber]


def _resume(
    found: ReturningDevice, *, mailbox: Sequence[frames.Mailbox] = (), user_events: Sequence[UserEvent] = ()
) -> Resume:
    return Resume(
        send_row=found.send_row,
        mailbox=mailbox,
        user_events=user_events,
        user_head=found.user_head,
        rooms=found.rooms,
        counts=found.counts,
        shown=found.shown,
    )


class StreamSteps:
    """Reads and acknowledgements: one statement, or one REPEATABLE READ snapshot where several must agree."""

    def __init__(self, units: Transactions[StreamUnit]) -> None:
        self._units = units

    async def rooms_of(self, caller: Caller, named: Collection[RoomId]) -> list[RoomPosition]:
        """The rooms to register for: those the caller is in, and those of `named` that it has left since.

        Not one snapshot: who joins or leaves meanwhile is told so, and looked at again.
        """
        async with self._units.autocommit() as unit:
            rooms = await unit.streams.rooms_of(caller.user_number)
            missing = set(named) - {room.room for room in rooms}
            return rooms + (await unit.streams.left_rooms(caller.user_number, missing) if missing else [])

    async def resume(self, caller: Caller, *, user_seq: UserSeq, named: Collection[RoomId]) -> Resume | None:
        """One statement for a device that missed nothing. None: the device is gone."""
        async with self._units.autocommit() as unit:
            found = await unit.streams.returning(caller.device_number, caller.user_number, named=named)
        if found is None or not (found.has_mail or found.user_head > user_seq):
            return None if found is None else _resume(found)
        async with self._units.snapshot() as unit:
            found = await unit.streams.returning(caller.device_number, caller.user_number, named=named)
            if found is None:
                return None
            return _resume(
                found,
                mailbox=await self._mailbox(unit, caller, given=()) if found.has_mail else (),
                user_events=await self._user_events(unit, caller, user_seq) if found.user_head > user_seq else (),
            )

    async def beginnings(self, caller: Caller, *, after: Seq, rooms: Collection[RoomId]) -> Beginnings:
        """Where a client goes on that has heard of no generation after this one."""
        async with self._units.autocommit() as unit:
            return await unit.streams.beginnings(caller.user_number, after=after, rooms=rooms)

    async def _user_events(self, unit: StreamUnit, caller: Caller, after: UserSeq) -> list[UserEvent]:
        return await unit.streams.user_page(caller.user_number, after=after, count_max=limits.page_events_max)

    async def _mailbox(self, unit: StreamUnit, caller: Caller, *, given: Collection[MailboxId]) -> list[frames.Mailbox]:
        return await unit.mailbox.rows(
            caller.device_number, given=given, count_max=mailbox_page_count_max, bytes_max=mailbox_page_bytes_max
        )

    async def mailbox(self, caller: Caller, *, given: Collection[MailboxId]) -> list[frames.Mailbox]:
        async with self._units.autocommit() as unit:
            return await self._mailbox(unit, caller, given=given)

    async def acknowledge(self, caller: Caller, ids: Collection[MailboxId]) -> None:
        """Delete exactly these rows of the caller's device. Idempotent."""
        async with self._units.autocommit() as unit:
            await unit.mailbox.acknowledge(caller.device_number, ids)

    async def key_counts(self, caller: Caller) -> frames.OneTimeKeyCounts:
        async with self._units.autocommit() as unit:
            return await unit.keys.counts(caller.device_number)

    async def user_page(self, caller: Caller, *, after: UserSeq) -> list[UserEvent]:
        async with self._units.autocommit() as unit:
            return await self._user_events(unit, caller, after)

    async def stream(self, caller: Caller, *, after: UserSeq) -> UserPage:
        """A page of the caller's own stream, for HTTP."""
        async with self._units.snapshot() as unit:
            events = await self._user_events(unit, caller, after)
            seqs = await unit.streams.stream_seqs([caller.user_number])
        return UserPage(head_seq=seqs.get(caller.user_number, UserSeq(0)), events=events)

    async def room_number(self, caller: Caller, room: RoomId) -> RoomNumber:
        """Raises: NotFound for no room, and for one that the caller never was in."""
        async with self._units.snapshot() as unit:
            number = await unit.streams.room_number(room, caller.user_number)
        if number is None:
            raise NotFound("no such room")
        return number

    async def page(self, caller: Caller, room: RoomNumber, *, after: Seq) -> RoomPage:
        """Raises: NotFound when the caller never was a member."""
        async with self._units.snapshot() as unit:
            page = await unit.streams.page(
                room, caller.user_number, after=after, count_max=limits.page_events_max, bytes_max=page_bytes_max
            )
        if page is None:
            raise NotFound("no such room")
        return page

    async def history(self, caller: Caller, room: RoomId, *, after: Seq, count_max: int) -> Page:
        """A page for HTTP. Raises: NotFound when the caller never was a member."""
        async with self._units.snapshot() as unit:
            number = await unit.streams.room_number(room, caller.user_number)
            if number is None:
                raise NotFound("no such room")
            page = await unit.streams.page(
                number, caller.user_number, after=after, count_max=count_max, bytes_max=page_bytes_max
            )
        if page is None:
            raise NotFound("no such room")
        return Page(room=room, head_seq=page.head_seq, entries=list(page.entries))

    async def events(self, room: RoomNumber, *, after: Seq) -> list[PlacedEntry]:
        async with self._units.snapshot() as unit:
            return await unit.streams.events(
                room, after=after, count_max=limits.page_events_max, bytes_max=page_bytes_max
            )

    async def head(self, room: RoomNumber) -> Seq:
        async with self._units.autocommit() as unit:
            return (await unit.streams.heads([room])).get(room, Seq(0))

    async def compare(
        self,
        rooms: Mapping[RoomNumber, Seq],
        users: Mapping[UserNumber, UserSeq],
        given: Mapping[DeviceNumber, Collection[MailboxId]],
    ) -> Behind:
        """The 2-second comparison of a whole node, in one snapshot. rooms, users: up to where they were sent."""
        async with self._units.snapshot() as unit:
            return Behind(
                heads=await unit.streams.heads_beyond(rooms),
                stream_seqs=await unit.streams.stream_seqs_beyond(users),
                devices=await unit.mailbox.pending(given),
            )

    async def changed_standings(self, *, within_s: float) -> list[Standing]:
        async with self._units.autocommit() as unit:
            return await unit.streams.changed_standings(within_s=within_s)
