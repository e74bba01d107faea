"""Notices: who types, who is there, how far everybody has read. Shown, and believed for nothing: the server can make them up.

One that names who is no member of this client's own fold of the room, or whom nobody watches, is dropped, and told as
NoticeRefused with its reason; no room is frozen by it, for a member may have left while it was on its way. Kept in memory but for
the own cursors, which stand on disk until the server has taken them: they come again after each hello.

*Bound*: the newest notices_max wait for an application that does not read them.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import trio
from msgspec import Struct

from chatty.client.reasons import Reason
from chatty.client.room_book import RoomBook
from chatty.client.store import LocalStore
from chatty.client.update_queue import UpdateQueue
from chatty.ids import RoomId, Seq, UserId
from chatty.wire import limits
from chatty.wire.events import Kind, TimelineEvent
from chatty.wire.presence import Presence, State
from chatty.wire.receipts import Receipts, Unread
from chatty.wire.typing_notices import TypingNow

notices_max = 1_000
_CURSORS = "read_cursors"


@dataclass(frozen=True, kw_only=True)
class TypingChanged:
    """Who types in the room now, oneself left out."""

    room: RoomId
    users: frozenset[UserId]


@dataclass(frozen=True, kw_only=True)
class ReceiptMoved:
    """A member has read up to seq; the own one may have been moved by another device."""

    room: RoomId
    user: UserId
    seq: Seq


@dataclass(frozen=True, kw_only=True)
class UnreadChanged:
    """As the server counted after hello."""

    room: RoomId
    unread_count: int


@dataclass(frozen=True, kw_only=True)
class PresenceChanged:
    """Of somebody who is watched. last_active_ms: since 1970, coarse; 0: not told."""

    user: UserId
    state: State
    last_active_ms: int


@dataclass(frozen=True, kw_only=True)
class NoticeRefused:
    """The server told of somebody of whom it has nothing to tell here."""

    reason: Reason
    detail: str
    user: UserId
    room: RoomId | None = None


Notice = TypingChanged | ReceiptMoved | UnreadChanged | PresenceChanged | NoticeRefused


class RefusedNotice(Exception):
    """One name in a notice is not believed; the others are."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class OwnCursor(Struct, frozen=True, kw_only=True):
    """is_told: the server has taken it."""

    seq: Seq = Seq(0)
    is_told: bool = True


@dataclass(slots=True)
class Typists:
    users: frozenset[UserId]
    until: float


@dataclass(slots=True)
class Counted:
    """unread_count: of messages up to head_seq."""

    head_seq: Seq = Seq(0)
    unread_count: int = 0


class Notices:
    """What this client was told. `now`: Trio's time."""

    def __init__(
        self,
        store: LocalStore,
        *,
        me: UserId,
        book: RoomBook,
        updates: UpdateQueue,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self._store = store
        self._me = me
        self._book = book
        self._updates = updates
        self._now = now
        self._own = {RoomId(room): cursor for room, cursor in store.items(_CURSORS, OwnCursor)}
        self._receipts: dict[RoomId, dict[UserId, Seq]] = {}
        self._typing: dict[RoomId, Typists] = {}
        self._counted: dict[RoomId, Counted] = {}
        self._presence: dict[UserId, PresenceChanged] = {}
        self._queue: deque[Notice] = deque(maxlen=notices_max)
        self._arrived = trio.Event()
        self.watched: frozenset[UserId] = frozenset()

    # What the application asks ---------------------------------------------------------------------------------------

    def receipts(self, room: RoomId) -> Mapping[UserId, Seq]:
        """Of those who are members now."""
        members = self._book.get(room).joined()
        return {user: seq for user, seq in self._receipts.get(room, {}).items() if user in members}

    def typing(self, room: RoomId) -> frozenset[UserId]:
        typists = self._typing.get(room)
        return frozenset() if typists is None or typists.until <= self._now() else typists.users

    def read_seq(self, room: RoomId) -> Seq:
        return self._own.get(room, OwnCursor()).seq

    def unread_count(self, room: RoomId) -> int:
        return self._counted.get(room, Counted()).unread_count

    def presence(self, user: UserId) -> PresenceChanged | None:
        """None: not watched, or not told yet."""
        return self._presence.get(user)

    async def next(self) -> Notice:
        """Waits. Cancelled: nothing is lost."""
        while not self._queue:
            self._arrived = trio.Event()
            await self._arrived.wait()
        await trio.lowlevel.checkpoint_if_cancelled()
        return self._queue.popleft()

    def watch(self, users: Iterable[UserId]) -> None:
        """In place of those before."""
        self.watched = frozenset(users)
        self._presence = {user: one for user, one in self._presence.items() if user in self.watched}

    def read(self, room: RoomId, seq: Seq) -> bool:
        """The user has read up to seq. Returns: whether there is something to tell the server."""
        return self._move_own(room, seq, is_told=False)

    def untold(self) -> list[tuple[RoomId, Seq]]:
        return [(room, cursor.seq) for room, cursor in self._own.items() if not cursor.is_told]

    def note_told(self, room: RoomId, seq: Seq) -> None:
        """The server has taken it, or never will."""
        if self.read_seq(room) == seq:
            self._save_own(room, OwnCursor(seq=seq))

    # What the server tells -------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """A new connection: who types and who is there is told anew."""
        self._typing.clear()
        self._presence.clear()

    def forget_behind(self, room: RoomId, from_seq: Seq) -> None:
        """The server has nothing from this place on any more: nobody has read it."""
        last = Seq(from_seq - 1)
        if self.read_seq(room) > last:
            self._save_own(room, OwnCursor(seq=last))
        self._receipts[room] = {user: min(seq, last) for user, seq in self._receipts.get(room, {}).items()}
        self._counted.pop(room, None)

    def take(self, event: TypingNow | Receipts | Unread | Presence) -> None:
        match event:
            case TypingNow():
                users = [user for user in event.users if user != self._me and self._believes(event.room, user)]
                self._set_typing(event.room, frozenset(users))
            case Receipts():
                for receipt in event.receipts:
                    if self._believes(event.room, receipt.user):
                        self._take_receipt(event.room, receipt.user, receipt.seq)
            case Unread():
                for room in event.rooms:
                    self._move_own(room.room, room.read_seq, is_told=True)
                    self._counted[room.room] = Counted(room.head_seq, room.unread_count)
                    self._tell(UnreadChanged(room=room.room, unread_count=room.unread_count))
            case Presence():
                self._take_presence(event)

    def note_message(self, event: TimelineEvent) -> None:
        """One that was verified: its sender types no more, and there is one more unread."""
        if event.kind is not Kind.MESSAGE:
            return
        typing = self.typing(event.room)
        if event.sender in typing:
            self._set_typing(event.room, typing - {event.sender})
        counted = self._counted.setdefault(event.room, Counted())
        if event.seq > counted.head_seq:
            counted.head_seq = event.seq
            is_unread = event.sender != self._me and event.seq > self.read_seq(event.room)
            counted.unread_count += int(is_unread)

    def _take_receipt(self, room: RoomId, user: UserId, seq: Seq) -> None:
        if user == self._me:
            self._move_own(room, seq, is_told=True)
        of_room = self._receipts.setdefault(room, {})
        if seq > of_room.get(user, 0):
            of_room[user] = seq
            self._tell(ReceiptMoved(room=room, user=user, seq=seq))

    def _move_own(self, room: RoomId, seq: Seq, *, is_told: bool) -> bool:
        if seq <= self.read_seq(room):
            return False
        self._save_own(room, OwnCursor(seq=seq, is_told=is_told))
        counted = self._counted.get(room)
        if counted is not None:
            counted.unread_count = 0 if seq >= counted.head_seq else self._count_above(room, seq)
        return True

    def _count_above(self, room: RoomId, seq: Seq) -> int:
        known = self._updates.history(room, count_max=limits.unread_events_max)
        return sum(1 for message in known if message.seq > seq and message.sender != self._me)

    def _save_own(self, room: RoomId, cursor: OwnCursor) -> None:
        self._own[room] = cursor
        self._store.put(_CURSORS, room, cursor)

    def _set_typing(self, room: RoomId, users: frozenset[UserId]) -> None:
        is_news = users != self.typing(room)
        self._typing[room] = Typists(users, self._now() + limits.typing_lifetime_s)
        if is_news:
            self._tell(TypingChanged(room=room, users=users))

    def _take_presence(self, event: Presence) -> None:
        try:
            self.check_watched(event.user)
        except RefusedNotice as refused:
            self._tell(NoticeRefused(reason=refused.reason, detail=refused.detail, user=event.user))
            return
        told = PresenceChanged(user=event.user, state=event.state, last_active_ms=event.last_active)
        self._presence[event.user] = told
        self._tell(told)

    def _believes(self, room: RoomId, user: UserId) -> bool:
        try:
            self.check_member(room, user)
        except RefusedNotice as refused:
            self._tell(NoticeRefused(reason=refused.reason, detail=refused.detail, user=user, room=room))
            return False
        return True

    def check_member(self, room: RoomId, user: UserId) -> None:
        """Raises: RefusedNotice."""
        if user not in self._book.get(room).joined():
            raise RefusedNotice(Reason.UNAUTHORIZED_MEMBER, f"a notice of {user}, who is no member")

    def check_watched(self, user: UserId) -> None:
        """Raises: RefusedNotice."""
        if user not in self.watched:
            raise RefusedNotice(Reason.NOT_WATCHED, f"presence of {user}, whom nobody watches here")

    def _tell(self, notice: Notice) -> None:
        self._queue.append(notice)
        self._arrived.set()
