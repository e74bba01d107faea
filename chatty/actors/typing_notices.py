"""Who types where, on this node: kept beside the actors, told by an actor of its own a few times a second.

A notice costs its sender a dictionary entry; the room is told once an interval whatever came meanwhile, as one list of all who
type. It goes to members' live sockets only, never through the room's mailbox or the journal, and is written when nothing else
waits: so it delays no message. Who is no member any more is left out when the list is told.

*Bound*: rooms_max rooms; typing_users_max a room. At a bound a notice is dropped and counted. *Crash, restart*: nothing is lost
that does not end by itself. *Another node* does not hear of it.
"""

from collections.abc import Sequence

import trio

from chatty.actors.directory import Directory, Listener
from chatty.actors.outbox import SharedNotice
from chatty.ids import RoomId, RoomNumber, UserId, UserNumber
from chatty.services.coalescing import Coalescer
from chatty.services.typing_notices import Typist, Typists, shown_to
from chatty.telemetry import Metrics
from chatty.wire import limits
from chatty.wire.typing_notices import TypingNow

rooms_max = 10_000
interval_s = 0.25
members_between_checkpoints = 200


class TypingNotices:
    """One for a node."""

    def __init__(self, directory: Directory, metrics: Metrics) -> None:
        self._directory = directory
        self._metrics = metrics
        self._rooms: dict[RoomNumber, Typists] = {}
        self._until: dict[tuple[RoomNumber, UserNumber], float] = {}  # the earliest first: all last equally long
        self._changed: Coalescer[RoomNumber, None, None] = Coalescer(
            interval_s=interval_s, values_max=rooms_max, parts_max=1
        )

    def note(self, session: Listener, room: RoomNumber, *, is_typing: bool) -> None:
        """session: one that is in this room. Never waits."""
        typists = self._rooms.get(room)
        if is_typing:
            if typists is None:
                if len(self._rooms) >= rooms_max:
                    self._metrics.notice_drops.labels(kind="typing").inc()
                    return
                typists = self._rooms[room] = Typists(session.rooms[room].room)
            self._begin(session, room, typists)
        elif typists is not None:
            self._until.pop((room, session.caller.user_number), None)
            if typists.stop(session.caller.user_number):
                self._tell_later(room)

    def _begin(self, session: Listener, room: RoomNumber, typists: Typists) -> None:
        now_s, number = trio.current_time(), session.caller.user_number
        typist = Typist(
            number=number,
            user=session.caller.user,
            hidden_from=session.notices.shown.hidden_from,
            until_s=now_s + limits.typing_lifetime_s,
        )
        if typists.note(typist, now_s=now_s):
            self._tell_later(room)
        if number in typists:
            self._until.pop((room, number), None)
            self._until[room, number] = typist.until_s
        else:
            self._metrics.notice_drops.labels(kind="typing").inc()

    def _tell_later(self, room: RoomNumber) -> None:
        self._changed.put(room, None, None, now_s=trio.current_time())

    async def look(self) -> None:
        """End what is over, tell what changed."""
        now_s = trio.current_time()
        self._expire(now_s)
        for room, _ in self._changed.take_due(now_s=now_s):
            await self._tell(room, now_s)

    def _expire(self, now_s: float) -> None:
        while self._until and next(iter(self._until.values())) <= now_s:
            room, user = next(iter(self._until))
            del self._until[room, user]
            if self._rooms[room].stop(user):
                self._tell_later(room)

    async def _tell(self, room: RoomNumber, now_s: float) -> None:
        of_room = self._rooms[room]
        typists = of_room.tell(now_s=now_s)
        if not typists:
            del self._rooms[room]
        sessions = list(self._directory.in_room(room))
        members = {session.caller.user_number for session in sessions}
        inside = [typist for typist in typists if typist.number in members]
        await _offer(room, of_room.room, sessions, inside)


async def _offer(room: RoomNumber, room_id: RoomId, sessions: Sequence[Listener], typists: Sequence[Typist]) -> None:
    """Each list that somebody may see is encoded once."""
    made: dict[tuple[UserId, ...], SharedNotice] = {}
    for count, session in enumerate(sessions, start=1):
        if not session.is_live_in(room):
            continue  # a repetition comes soon
        users = shown_to(session.caller.user_number, typists)
        notice = made.get(users)
        if notice is None:
            notice = made[users] = SharedNotice(TypingNow(room=room_id, users=list(users)))
        session.notices.offer_typing(room, users, notice)
        if count % members_between_checkpoints == 0:
            await trio.lowlevel.checkpoint()
