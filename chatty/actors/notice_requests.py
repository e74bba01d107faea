"""What a client says of itself on its socket: that its user types, has read, is there; and whom it watches.

Each is counted by a limiter of its own. The caller answers.
"""

from typing import assert_never

from chatty.actors.delivery import Session
from chatty.actors.session_parts import SessionParts
from chatty.errors import NotFound
from chatty.wire.presence import SetPresence, WatchPresence
from chatty.wire.receipts import Read
from chatty.wire.typing_notices import Typing


async def take_notice(
    session: Session, request: Typing | Read | SetPresence | WatchPresence, parts: SessionParts
) -> None:
    """Raises: RateLimited, NotFound, CursorBeyondEnd, Overloaded, PresenceOff, QuotaExceeded."""
    match request:
        case Typing():
            _note_typing(session, request, parts)
        case Read():
            await _note_read(session, request, parts)
        case SetPresence(state=state):
            session.limits.count_notice("presence_device")
            if state == "online":
                session.notices.note_activity(parts.clock_s())
            else:
                session.notices.note_away()
        case WatchPresence(users=users):
            session.limits.count_notice("presence_device")
            for presence in parts.presence.watch(session, users):
                session.reply(presence)
        case _:
            assert_never(request)


def _note_typing(session: Session, request: Typing, parts: SessionParts) -> None:
    """Who was put out leaves the room on this socket as soon as it reads, and it is read from no sooner.

    Raises: NotFound for a room that this socket does not know (yet).
    """
    session.limits.count_notice("typing_device")
    number = session.numbers.get(request.room)
    if number is None:
        raise NotFound("no such room")
    session.notices.note_activity(parts.clock_s())
    if not session.is_lagging:
        parts.typing.note(session, number, is_typing=request.is_typing)


async def _note_read(session: Session, request: Read, parts: SessionParts) -> None:
    """What was sent on this socket can have been read; of anything else the store is asked."""
    session.limits.count_notice("reads_device")
    number = session.numbers.get(request.room)
    if number is None:
        number = await parts.streams.room_number(session.caller, request.room)
    if not session.is_live_in(number) or request.seq > session.rooms[number].sent:
        await parts.receipts.check(session.caller, number, request.seq)
    parts.read_cursors.note(number, session.caller.user_number, request.seq)
    session.notices.note_activity(parts.clock_s())
