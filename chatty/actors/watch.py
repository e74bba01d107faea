"""Loops for a whole node: what was lost, what was revoked, what ran out of time, what others changed, what is to be forgotten.
That of deadlines never asks the store, so that requests are answered and sessions ended in time when the store hangs.

Every `compare_interval_s` one query holds what each session was sent against the store: rooms, user streams, device mailboxes. So
a lost doorbell, a room that died between commit and delivery and a slow page make an event late, by two looks at most, never
missing. Every `revocation_poll_interval_s` the devices are looked up that lately lost or changed their rights, because the bus
may lose anything and carries no roles. The store gone: they wait and go on.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

import structlog
import trio

from chatty.actors.directory import Directory, Listener
from chatty.actors.runtime import Mailbox
from chatty.errors import ChattyError, DeviceRevoked, TokenExpired
from chatty.ids import DeviceNumber, MailboxId, RoomNumber, Seq, UserNumber, UserSeq
from chatty.services.streams import Standing, StreamSteps

revoked_within_s = 120.0  # far more than any pause of this loop; rows live ten minutes

log = structlog.get_logger("chatty.watch")
Given = dict[DeviceNumber, Collection[MailboxId]]


async def compare_actor(
    mailbox: Mailbox[None], *, directory: Directory, streams: StreamSteps, interval_s: float
) -> None:
    """The comparison of this node's sessions with the store."""
    comparison = _Comparison(directory, streams)
    await _every(mailbox, interval_s, comparison.look)


async def revocation_actor(
    mailbox: Mailbox[None], *, directory: Directory, streams: StreamSteps, interval_s: float
) -> None:
    """Ends the sessions of revoked devices, and tells the others of their user's new role."""

    async def look() -> None:
        if len(directory):
            for standing in await streams.changed_standings(within_s=revoked_within_s):
                _apply(directory, standing)

    await _every(mailbox, interval_s, look)


async def deadline_actor(
    mailbox: Mailbox[None],
    *,
    directory: Directory,
    interval_s: float,
    clock_s: Callable[[], float],
    is_revoked: Callable[[str], bool],
) -> None:
    """Answers requests that were not settled in time; ends sessions that do not read or whose token has expired, or was signed by
    a key that is_revoked() knows by its id.
    """

    async def look() -> None:
        _expire(directory, clock_s(), is_revoked)

    await _every(mailbox, interval_s, look)


async def look_actor(mailbox: Mailbox[None], *, look: Callable[[], Awaitable[None]], interval_s: float) -> None:
    """Does something at intervals: keeps a copy of what others may change, such as the signing keys; tells notices."""
    await _every(mailbox, interval_s, look)


async def forget_actor(mailbox: Mailbox[None], *, forget: Callable[[], None], interval_s: float) -> None:
    """Keeps what is in memory for a time from staying longer."""

    async def look() -> None:
        forget()

    await _every(mailbox, interval_s, look)


async def _every(mailbox: Mailbox[None], interval_s: float, look: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_drained, mailbox, nursery.cancel_scope)
        mailbox.ready()
        while True:
            try:
                await look()
            except ChattyError as error:
                log.warning("watch.store_unavailable", error=error.code)
            await trio.sleep(interval_s)


async def _drained(mailbox: Mailbox[None], scope: trio.CancelScope) -> None:
    async for _ in mailbox:
        pass
    scope.cancel()


def _apply(directory: Directory, standing: Standing) -> None:
    session = directory.of_device(standing.device)
    if session is None:
        return
    if standing.is_live:
        session.note_role(standing.role)
    else:
        session.end(DeviceRevoked("this device was revoked"))


class _Comparison:
    """heads: of rooms that somebody was not sent up to their end, at the last look.

    Who was not sent those until this look is behind. The newest events prove nothing: they may be on their way, and in a large
    room under load they always are.
    """

    def __init__(self, directory: Directory, streams: StreamSteps) -> None:
        self._directory = directory
        self._streams = streams
        self._heads: Mapping[RoomNumber, Seq] = {}

    async def look(self) -> None:
        if not len(self._directory):
            return
        behind = await self._streams.compare(*_sent(self._directory))
        for room in behind.heads.keys() & self._heads.keys():
            for session in list(self._directory.in_room(room)):
                session.note_head(room, self._heads[room])
        self._heads = behind.heads
        for user, seq in behind.stream_seqs.items():
            for session in self._directory.of_user(user):
                if session.user_sent < seq:
                    session.note_user_stream()
        for device in behind.devices:
            if (found := self._directory.of_device(device)) is not None:
                found.note_mailbox()


def _sent(sessions: Iterable[Listener]) -> tuple[dict[RoomNumber, Seq], dict[UserNumber, UserSeq], Given]:
    """Up to where whoever is furthest behind was sent each room and each user's stream, and what each device was given.

    One look at each session: thousands are in no processor's cache. Nothing holds one while the store is waited for.
    """
    rooms: dict[RoomNumber, Seq] = {}
    users: dict[UserNumber, UserSeq] = {}
    given: Given = {}
    for session in sessions:
        caller, user_sent = session.caller, session.user_sent
        given[caller.device_number] = tuple(session.given)
        if users.setdefault(caller.user_number, user_sent) > user_sent:
            users[caller.user_number] = user_sent
        for room, cursor in session.rooms.items():
            if rooms.setdefault(room, cursor.sent) > cursor.sent:
                rooms[room] = cursor.sent
    return rooms, users, given


def _expire(directory: Directory, now_s: float, is_revoked: Callable[[str], bool]) -> None:
    now = trio.current_time()
    for session in list(directory.waited_for):
        session.expire(now)
        if not session.open_requests and session.write_began is None:
            directory.waited_for.pop(session, None)
    for session in directory.expiring(now_s, is_revoked):
        session.end(TokenExpired("the access token's time is over"))
