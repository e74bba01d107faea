"""What one session has been sent and what it still misses; sessions.py has its actor.

    greeting ── hello ──> resuming ── everything stored was sent ──> live ── outbox full ──> lagging ── resync ──> live …

For each room it keeps `sent`, the seq up to which the client was sent everything. A room's actor offers events: one at or below
`sent` is dropped, the next one is sent, a later one marks the room as behind, and the filler reads the stretch from the store.
Whatever is lost elsewhere (a doorbell, a room's actor between commit and delivery) is found by the comparison in watch.py.

Full: at `outbox_bytes_max` the live events that were not written are dropped for this session alone, `sent` goes back to before
the first of them, and the client is told `lagging`; nothing live is sent until its resync. Replies are bounded by not reading.
Cancelled or crashed: the socket is closed; nothing is lost, for everything is in the store and the client has its cursors.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog
import trio

from chatty.actors.directory import Listener
from chatty.actors.faults import domain_error
from chatty.actors.notices import Notices
from chatty.actors.outbox import Item, Outbox, Shared, TrySend, framed_event, room_item, run_bytes_max
from chatty.actors.session_parts import SessionParts
from chatty.errors import ChattyError, OutcomeUnknown, SlowReader, Unauthenticated
from chatty.ids import MailboxId, RoomId, RoomNumber, SendNumber, Seq, UserSeq
from chatty.services.caller import Caller
from chatty.services.limits import DeviceLimits
from chatty.services.permissions import frame_permission
from chatty.services.preferences import SETTINGS_EVENT, Shown
from chatty.services.streams import RoomPosition
from chatty.wire import frames, limits
from chatty.wire.events import Committed
from chatty.wire.frames import Cursor, Encoding, RoomEntry
from chatty.wire.receipts import Unread

given_rows_max = 1_000  # mailbox rows that were given on a connection and not acknowledged yet
joined_bytes_max = 49_152  # events in one frame: beyond it joining saves nothing, and each stuck peer holds two copies
untold_rooms_max = 50  # rooms whose receipts are read at once
open_requests_max = 512  # sends of one socket whose outcome is not known yet; then it is not read further

log = structlog.get_logger("chatty.sessions")


@dataclass(slots=True)
class RoomCursor:
    room: RoomId
    sent: Seq


class Session(Listener):
    """The state of one connection after its hello, and what others do to it without waiting."""

    def __init__(
        self,
        caller: Caller,
        encoding: Encoding,
        parts: SessionParts,
        end: Callable[[ChattyError], None],
        *,
        cursors: Sequence[Cursor] = (),
        address: str = "",
        try_send: TrySend | None = None,
    ) -> None:
        self.caller = caller
        self.limits = DeviceLimits(parts.asking, caller, address=address)
        self.encoding = encoding
        self.end = end
        frame_bytes_max = min(parts.limits.frame_bytes_max, joined_bytes_max)
        self.outbox = Outbox(
            bytes_max=parts.limits.outbox_bytes_max,
            frame_bytes_max=frame_bytes_max,
            try_send=try_send,
            on_notices_dropped=self._note_dropped,
        )
        self.notices = Notices(self.outbox, encoding, now_s=parts.clock_s())
        self.rooms: dict[RoomNumber, RoomCursor] = {}
        self.numbers: dict[RoomId, RoomNumber] = {}
        self.given: set[MailboxId] = set()
        self.user_sent = UserSeq(0)
        self.is_lagging = False
        self.is_welcomed = False  # until then nothing live is sent: it would come before the welcome, or lag before it
        self.is_resuming = False
        self.write_began: float | None = None
        self.open_requests: dict[int, float] = {}
        self._parts = parts
        self._address = address
        self._named = {cursor.room: cursor.seq for cursor in cursors}
        self._left: dict[RoomNumber, RoomCursor] = {}
        self._behind: dict[RoomNumber, None] = {}
        self._filling: RoomNumber | None = None
        self._wants_mailbox = self._wants_user_stream = self._wants_key_counts = self._wants_notices = False
        self._work = trio.Event()
        self._settled = trio.Event()

    # What others tell it; none of these waits ------------------------------------------------------------------------

    def offer(self, room: RoomNumber, shared: Shared) -> None:
        """A room's next events."""
        cursor = self.rooms.get(room)
        if cursor is None or self.is_lagging or shared.last <= cursor.sent:
            return
        if not self.is_welcomed or shared.first > cursor.sent + 1 or room in self._behind or room == self._filling:
            self.mark_behind(room)
        elif self.outbox.offer(shared.item(self.encoding, after=cursor.sent)):
            cursor.sent = shared.last
        else:
            self._lag()

    def note_head(self, room: RoomNumber, head: Seq) -> None:
        """The store's newest seq of a room."""
        cursor = self.rooms.get(room)
        if cursor is not None and cursor.sent < head and not self.is_lagging:
            self.mark_behind(room)

    def mark_behind(self, room: RoomNumber) -> None:
        if room in self.rooms:
            self._behind[room] = None
            self._work.set()

    def note_mailbox(self) -> None:
        self._wants_mailbox = self._wants_key_counts = True
        self._work.set()

    def note_mailbox_room(self) -> None:
        """Rows were acknowledged: there may be room for more."""
        self._wants_mailbox = True
        self._work.set()

    def begin_resume(self, *, has_more_mail: bool, has_more_user_events: bool) -> None:
        """The first pages were given; what came after their snapshot rang, for this session was registered before it."""
        self._wants_mailbox = self._wants_mailbox or has_more_mail
        self._wants_user_stream = self._wants_user_stream or has_more_user_events
        self.is_welcomed = self.is_resuming = True
        self._work.set()

    def note_user_stream(self) -> None:
        self._wants_user_stream = True
        self._work.set()

    def note_removal(self, room: RoomNumber) -> None:
        """The user was removed, and has perhaps come back since: nothing live is sent until the store has said which."""
        self.mark_behind(room)

    def note_role(self, role: str) -> None:
        """The user's role may be another one now; one that may not open a socket keeps none."""
        if role == self.caller.role:
            return
        self.caller = replace(self.caller, role=role)
        try:
            self._parts.policy.check(frame_permission(frames.Hello), self.caller, address=self._address)
        except ChattyError as error:
            self.end(error)

    def is_live_in(self, room: RoomNumber) -> bool:
        """A member of the room, as far as is known here, who has everything of it: notices may be told."""
        is_behind = room in self._behind or room == self._filling
        return room in self.rooms and not is_behind and not self.is_lagging

    def note_receipts(self, room: RoomNumber) -> None:
        """Receipts that could not be told."""
        if room in self.rooms:
            self.notices.untold[room] = None
            self._work.set()

    def note_shown(self, shown: Shown) -> None:
        """What the user lets others see."""
        self.notices.shown = shown
        self._parts.presence.touch(self.caller.user)

    def _note_dropped(self, count: int) -> None:
        self._parts.metrics.notice_drops.labels(kind="outbox").inc(count)
        self._wants_notices = True
        self._work.set()

    def expire(self, now: float) -> None:
        """Answer requests whose outcome is not known in time; end a session that does not read."""
        for request_id in [one for one, deadline in self.open_requests.items() if deadline <= now]:
            self.reply_error(request_id, OutcomeUnknown("not committed in time; send the same again"))
        if self.write_began is not None and now - self.write_began > self._parts.limits.outbox_write_timeout_s:
            self.end(SlowReader("does not read"))

    # Answers ---------------------------------------------------------------------------------------------------------

    def reply(self, event: frames.ServerFrame) -> None:
        self.outbox.put(frames.encode(event, encoding=self.encoding))

    def _reply_at_once(self, event: frames.ServerFrame) -> None:
        if self.outbox.may_leave_at_once:
            self.outbox.put_at_once(framed_event(event, self.encoding))
        else:
            self.reply(event)

    def renew(self, caller: Caller) -> None:
        """A fresh access token of the same device. Raises: Unauthenticated for another's."""
        if caller.device_number != self.caller.device_number:
            raise Unauthenticated("the token of another device")
        self._parts.directory.renew(self, caller)

    async def wait_for_settled(self) -> None:
        """Until one of the open requests was answered."""
        await self._settled.wait()

    def _close_request(self, request_id: int) -> None:
        if self.open_requests.pop(request_id, None) is not None:
            self._settled.set()
            self._settled = trio.Event()

    def reply_error(self, request_id: int, error: ChattyError) -> None:
        self._close_request(request_id)
        self.refuse(request_id, error)

    def refuse(self, request_id: int, error: ChattyError) -> None:
        """Answer a request that is not among the open ones."""
        self.reply(self._parts.error_frame(request_id, error))

    def settle(self, request_id: int, n: SendNumber, result: object) -> None:
        """Called by whoever answers an Append; one that was answered before, by its deadline, is dropped."""
        if request_id not in self.open_requests:
            return
        if isinstance(result, Exception):
            self.reply_error(request_id, domain_error(result))
            return
        self._close_request(request_id)
        assert isinstance(result, Committed)
        self._reply_at_once(
            frames.Ack(id=request_id, n=n, room=result.room, seq=result.seq, time=result.time, leaf=result.leaf)
        )

    # Rooms -----------------------------------------------------------------------------------------------------------

    def enter_room(self, position: RoomPosition) -> None:
        """From the client's cursor on. One beyond the room's end counts as its end, or nothing new would ever be sent.

        Whoever was in this room before on this connection goes on where that ended.
        """
        number = position.room_number
        if number not in self.rooms:
            at_end = RoomCursor(position.room, min(self._named.pop(position.room, Seq(0)), position.head_seq))
            self._register(number, self._left.get(number, at_end))
        if position.is_joined:
            self.note_head(number, position.head_seq)
        else:
            self.mark_behind(number)

    def _register(self, room: RoomNumber, cursor: RoomCursor) -> None:
        self._left.pop(room, None)
        self.rooms[room] = cursor
        self.numbers[cursor.room] = room
        self._parts.directory.register(room, self)
        self.notices.untold[room] = None
        self._note_company()

    def _forget_room(self, room: RoomNumber) -> None:
        """Everything that the user may see was sent; how far that was is kept, in case it is dropped or the user comes back."""
        cursor = self._left[room] = self.rooms.pop(room)
        self.numbers.pop(cursor.room, None)
        self._parts.directory.unregister(room, self)
        self._behind.pop(room, None)
        self.notices.forget_room(room)
        self._note_company()

    def _note_company(self) -> None:
        """The user shares rooms with others than before."""
        self._parts.presence.touch(self.caller.user)
        self._parts.presence.retell(self)

    def _lag(self) -> None:
        """Drop what was not written, for this session alone, and say so; until the resync nothing live is sent."""
        dropped = self.outbox.drop_live()
        for room, before in dropped.positions.items():
            if room in self._left:
                self._register(room, self._left[room])
            self.rooms[room].sent = before
        self.given -= dropped.mailbox_ids
        self.is_resuming = self.is_resuming or dropped.is_resumed
        self.is_lagging = self._wants_notices = True
        self.outbox.drop_notices()
        self._behind.clear()
        self._parts.metrics.outbox_overflows.inc()
        log.warning("outbox.overflowed", device=self.caller.device, rooms_count=len(dropped.positions))
        self.reply(frames.Lagging())

    def resync(self, cursors: Sequence[Cursor], *, user_seq: UserSeq, is_last: bool) -> None:
        """Go back to where the client is; never forward, for it cannot have what it was not sent."""
        for cursor in cursors:
            number = self.numbers.get(cursor.room)
            if number is not None:
                self.rooms[number].sent = min(self.rooms[number].sent, cursor.seq)
        self.user_sent = min(self.user_sent, user_seq)
        if is_last:
            self.is_lagging = False
            self._behind = dict.fromkeys(self.rooms)
            self.note_mailbox()
            self.note_user_stream()

    # Filling ---------------------------------------------------------------------------------------------------------

    async def fill(self) -> None:
        """Send what is missing, from the store: mailbox before user stream before rooms, as keys come before messages."""
        delay_s = 0.1
        while True:
            await self._work.wait()
            try:
                await self._fill_once()
                delay_s = 0.1
            except ChattyError:  # the store is away or saturated: everything that is wanted stays wanted
                await trio.sleep(delay_s)
                delay_s = min(2 * delay_s, 2.0)

    async def _fill_once(self) -> None:
        await self.outbox.wait_for_room()
        if self.is_lagging:  # what is wanted stays wanted: the resync wakes us
            self._work = trio.Event()
        elif self._wants_mailbox and len(self.given) < given_rows_max:
            await self._fill_mailbox()
        elif self._wants_key_counts:
            self._wants_key_counts = False
            self.reply(await self._parts.streams.key_counts(self.caller))
        elif self._wants_user_stream:
            await self._fill_user_stream()
        elif self._behind:
            await self._fill_room(next(iter(self._behind)))
        elif self._wants_notices:
            self._wants_notices = False
            self.notices.untold = dict.fromkeys(self.rooms)
            self._parts.presence.retell(self)
        elif self.notices.untold:
            await self._fill_receipts()
        else:
            self._work = trio.Event()
            if self.is_resuming:
                self.is_resuming = False
                self.outbox.put_resumed(frames.encode(frames.Resumed(), encoding=self.encoding))

    async def _fill_mailbox(self) -> None:
        self._wants_mailbox = False
        try:
            rows = await self._parts.streams.mailbox(self.caller, given=self.given)
        except ChattyError:
            self._wants_mailbox = True
            raise
        self.give_mailbox(rows)
        self._wants_mailbox = self._wants_mailbox or bool(rows)

    def give_mailbox(self, rows: Sequence[frames.Mailbox]) -> None:
        for row in rows:
            if row.id not in self.given:
                self.given.add(row.id)
                self.outbox.offer_mailbox(frames.encode(row, encoding=self.encoding), mailbox_id=row.id)

    async def _fill_user_stream(self) -> None:
        """One page. What goes with its events is read before they are given: else they would not be asked for again."""
        self._wants_user_stream = False
        after, shown = self.user_sent, None
        try:
            events = await self._parts.streams.user_page(self.caller, after=after)
            joined = await self.joined_rooms(events)
            if any(event.kind == SETTINGS_EVENT for event in events):
                shown = await self._parts.preferences.shown(self.caller.user_number)
        except ChattyError:
            self._wants_user_stream = True
            raise
        if self.is_lagging or self.user_sent != after:
            self._wants_user_stream = True
            return
        self.give_user_events(events, joined)
        if shown is not None:
            self.note_shown(shown)
        self._wants_user_stream = self._wants_user_stream or len(events) >= limits.page_events_max

    async def joined_rooms(self, events: Sequence[frames.UserEvent]) -> Sequence[RoomPosition]:
        """Rooms that these events speak of; named, for who has left again since is shown what there was. Raises: ChattyError."""
        named = {RoomId(event.content["room"]) for event in events if event.kind == "room_joined"}
        return await self._parts.streams.rooms_of(self.caller, named) if named else ()

    def give_user_events(self, events: Sequence[frames.UserEvent], joined: Sequence[RoomPosition]) -> None:
        for event in events:
            if event.seq > self.user_sent:
                self.reply(event)
                self.user_sent = event.seq
        for position in joined:
            self.enter_room(position)

    async def _fill_receipts(self) -> None:
        """Cursors and unread counts of some rooms. What the store could not say is asked again."""
        untold = self.notices.untold
        rooms = list(untold)[:untold_rooms_max]
        state = await self._parts.receipts.state(self.caller, rooms)
        if self.is_lagging:
            return
        for room in rooms:
            untold.pop(room, None)
        if state.unread:
            self.reply(Unread(rooms=list(state.unread)))
        for receipts in state.receipts:
            self.reply(receipts)

    async def _fill_room(self, room: RoomNumber) -> None:
        """One page. Events that are offered meanwhile mark the room as behind again."""
        del self._behind[room]
        cursor, self._filling = self.rooms[room], room
        after = cursor.sent
        try:
            page = await self._parts.streams.page(self.caller, room, after=after)
        except ChattyError:
            self.mark_behind(room)
            raise
        finally:
            self._filling = None
        if self.rooms.get(room) is not cursor or cursor.sent != after or self.is_lagging:
            self.mark_behind(room)  # a resync came between: what was read is not what is wanted
            return
        for item, to_seq in self._packed(page.entries, room, after=after):
            if not self.outbox.offer(item):
                self.mark_behind(room)
                await self.outbox.wait_for_room(len(item.data))  # else the page would be read again at once, and again
                return
            cursor.sent = to_seq
        cursor.sent = max(cursor.sent, page.to_seq)
        if page.has_left:
            self._forget_room(room)
        elif not page.is_end:
            self.mark_behind(room)

    def _packed(self, entries: Sequence[RoomEntry], room: RoomNumber, *, after: Seq) -> Iterator[tuple[Item, Seq]]:
        """Entries as few items, each with the seq that it reaches to: several fit the outbox together."""
        bytes_max = min(run_bytes_max, self._parts.limits.outbox_bytes_max // 4)
        encoded, size_bytes, before, last = list[bytes](), 0, after, after
        for entry in entries:
            data = frames.encode(entry, encoding=self.encoding)
            if encoded and size_bytes + len(data) > bytes_max:
                yield room_item(encoded, self.encoding, room=room, before=before), last
                encoded, size_bytes, before = [], 0, last
            encoded.append(data)
            size_bytes += len(data)
            last = entry.to_seq if isinstance(entry, frames.Stretch) else entry.seq
        if encoded:
            yield room_item(encoded, self.encoding, room=room, before=before), last
