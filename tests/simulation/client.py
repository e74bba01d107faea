"""A simulated client: what one device has on its disk, and what it does with a connection.

It knows the protocol as docs/protocol.md has it and checks at once what it is given: each room in seq order without a hole and
without a repeat, the user's stream too, nothing live between `lagging` and the answer to its resync, and with `resumed` all that
was there at its hello. What is broken goes to `world.fail`.
"""

from collections.abc import Awaitable, Callable
from itertools import count
from math import inf

import msgspec
import trio

from chatty.ids import DeviceId, MailboxId, RoomId, SendNumber, Seq, UserId, UserSeq
from chatty.wire import frames
from chatty.wire.events import Action, Committed, SignedInvitation, TimelineEvent
from chatty.wire.frames import Encoding
from chatty.wire.keys import ToDevice
from tests.simulation.book import OutOfOrder, RoomBook
from tests.simulation.network import Line, LineCut
from tests.simulation.place import Identity, Position
from tests.simulation.requests import (
    CHANGE_REFUSED,
    FINAL,
    HttpSide,
    Message,
    Numbers,
    Refused,
    Unanswered,
    answer_timeout_s,
    body_of,
    is_to_repeat,
    olm_content,
    send_frame,
)
from tests.simulation.server import Server
from tests.simulation.world import World

ENCODINGS: tuple[Encoding, ...] = ("json", "msgpack")
Answer = frames.Ack | frames.Done | frames.Error


class Waiter:
    def __init__(self) -> None:
        self.event = trio.Event()
        self.answer: Answer | None = None


class Client:
    """pick_server: one that is up, or None. nursery: for what it does by itself."""

    def __init__(
        self,
        world: World,
        identity: Identity,
        pick_server: Callable[[], Server | None],
        nursery: trio.Nursery,
        mids: "count[int]",
    ) -> None:
        self.world = world
        self.identity = identity
        self.open_tasks_count = 0
        # On its disk
        self.books = {room: RoomBook(room) for room in world.place.rooms}
        self.user_seq = UserSeq(0)
        self._named: dict[RoomId, None] = {}  # in a room_joined: it is asked for even before its first event has come
        self.mail: set[tuple[DeviceId, int]] = set()
        self.numbers = Numbers(last_n=world.place.taken_n.get(self.device, 0))
        self.outcomes: dict[int, Committed | str] = {}
        self.texts: dict[int, Committed | str] = {}
        self.parcels: dict[int, list[DeviceId]] = {}
        # Of the connection
        self.is_live = False
        self._line: Line | None = None
        self._ids = count(1)
        self._waiters: dict[int, Waiter] = {}
        self._given: set[MailboxId] = set()
        self._resync_id = 0
        self._is_welcomed = False
        self._owed: dict[RoomId, Seq] = {}
        self._pick_server = pick_server
        self._nursery = nursery
        self._mids = mids
        self._http = HttpSide(world, identity, pick_server)

    @property
    def device(self) -> DeviceId:
        return self.identity.caller.device

    @property
    def user(self) -> UserId:
        return self.identity.caller.user

    def _note(self, what: str) -> None:
        self.world.trace.note(f"{self.device} {what}")

    # Connections -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, again and again."""
        while True:
            server = self._pick_server()
            if server is not None:
                await self._live_on(server)
            await trio.sleep(0.05 + self.world.chance.seconds(1.0))

    async def _live_on(self, server: Server) -> None:
        chance, faults = self.world.chance, self.world.chance.faults
        encoding, is_direct = chance.dice.choice(ENCODINGS), chance.dice.random() < 0.5
        line = Line(chance, encoding, lambda events: self.world.check_emitted(self.device, events), is_direct=is_direct)
        lifetime_s = chance.dice.expovariate(1 / faults.cut_after_s_mean) if chance.is_stormy else inf
        self._note(f"connects, {encoding}, direct {is_direct}")
        server.accept(line)
        self._line, self._given, self._resync_id, self._is_welcomed = line, set(), 0, False
        try:
            with trio.move_on_after(lifetime_s):
                await self._converse(line)
        except LineCut:
            pass
        finally:
            self._leave(line)

    def _leave(self, line: Line) -> None:
        line.cut(server_learns_after_s=self.world.chance.seconds(3.0))
        self._note("is cut off")
        self.is_live, self._line = False, None
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            waiter.event.set()
        if self.world.chance.happens(self.world.chance.faults.forgets):
            for book in self.books.values():
                book.forget(self.world.chance.dice.randrange(4))

    async def _converse(self, line: Line) -> None:
        chance = self.world.chance
        while True:
            if chance.happens(chance.faults.stall):
                self.world.seen["stalled"] += 1
                await trio.sleep(chance.seconds(8.0))
            for event in await line.read():
                self._take(line, event)

    def _take(self, line: Line, event: frames.ServerFrame) -> None:
        if not self._is_welcomed and not isinstance(
            event, frames.Challenge | frames.Welcome | frames.Error | frames.Done
        ):
            self.world.fail(f"{self.device} was sent {type(event).__name__} before its welcome")
        match event:
            case frames.Challenge():
                self._say_hello(line)
            case frames.Welcome():
                self._is_welcomed = True
                if event.highest_n > self.numbers.last_n:
                    self.world.fail(f"I2: the server knows {event.highest_n}, {self.device} used {self.numbers.last_n}")
            case TimelineEvent() | frames.Gap():
                self._take_entry(event)
            case frames.UserEvent():
                self._take_user_event(event)
            case frames.Mailbox():
                self._take_mail(line, event)
            case frames.Lagging():
                self._resync(line)
            case frames.Resumed():
                self._check_resumed()
                self.is_live = True
            case frames.Ack() | frames.Done() | frames.Error():
                self._take_answer(event)
            case _:
                pass  # counts and notices

    def _cursors(self) -> list[frames.Cursor]:
        kept = {room: book for room, book in self.books.items() if book.entries or room in self._named}
        return [frames.Cursor(room=room, seq=book.state.cursor) for room, book in kept.items()]

    def _say_hello(self, line: Line) -> None:
        self._owed = self.world.ends(self.identity.caller.user_number)
        cursors = self._cursors()
        is_paged = self.world.chance.dice.random() < 0.2
        hello = frames.Hello(
            id=next(self._ids),
            access_token=self.device,
            dpop_proof="proof",
            low=self.numbers.low,
            user_seq=self.user_seq,
            cursors=[] if is_paged else cursors,
            more=is_paged,
        )
        self._note(f"says hello at {[cursor.seq for cursor in cursors]}, {self.user_seq}")
        line.write([hello])
        if is_paged:
            line.write([frames.Cursors(id=next(self._ids), cursors=cursors)])

    def _resync(self, line: Line) -> None:
        self.world.seen["lagging"] += 1
        self._resync_id = next(self._ids)
        self._note("lags")
        line.write([frames.Resync(id=self._resync_id, user_seq=self.user_seq, cursors=self._cursors())])

    def _check_resumed(self) -> None:
        for room, seq in self._owed.items():
            if self.books[room].state.cursor < seq:
                self.world.fail(
                    f"I4: {self.device} resumed at {self.books[room].state.cursor}, {seq} was there at hello"
                )

    def _take_entry(self, entry: TimelineEvent | frames.Gap) -> None:
        if self._resync_id:
            self.world.fail(f"{self.device} was sent an event between lagging and the answer to its resync")
        book = self.books[entry.room]
        try:
            book.take(entry)
        except OutOfOrder as error:
            self.world.fail(f"I3, I4: {self.device} was given {error}")
            return
        self.world.seen["gap" if isinstance(entry, frames.Gap) else "event"] += 1
        self._note(f"has {self.world.place.rooms[entry.room]}/{book.state.cursor}")

    def _take_user_event(self, event: frames.UserEvent) -> None:
        if event.seq != self.user_seq + 1:
            self.world.fail(f"I4: {self.device} was given user event {event.seq} after {self.user_seq}")
            return
        self.user_seq = event.seq
        self._note(f"has user event {event.seq} {event.kind}")
        if event.kind == "room_joined":
            self._named[RoomId(event.content["room"])] = None
        elif event.kind == "invitation":
            invitation = msgspec.convert(event.content["invitation"], SignedInvitation)
            self.begin(self._join, invitation)

    def _take_mail(self, line: Line, row: frames.Mailbox) -> None:
        if row.id in self._given:
            self.world.fail(f"{self.device} was given mailbox row {row.id} twice on one connection")
        self._given.add(row.id)
        self.mail.add((row.sender_device, row.n))
        self.world.seen["mail"] += 1
        self._nursery.start_soon(self._acknowledge, line, row.id)

    async def _acknowledge(self, line: Line, row: MailboxId) -> None:
        """Until it is done, or the connection has gone: on the next one the row comes again."""
        while self._line is line:
            answer = await self._answer(line, lambda request_id: frames.MailboxAck(id=request_id, ids=[row]))
            if isinstance(answer, frames.Done):
                return
            await trio.sleep(0.2)

    def _take_answer(self, answer: Answer) -> None:
        if answer.id == self._resync_id and isinstance(answer, frames.Done):
            self._resync_id = 0
        waiter = self._waiters.pop(answer.id, None)
        if waiter is not None:
            waiter.answer = answer
            waiter.event.set()

    # What it wants ---------------------------------------------------------------------------------------------------

    def begin(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """A wish that is kept until it is settled."""

        async def keep() -> None:
            self.open_tasks_count += 1
            try:
                await task(*arguments)
            finally:
                self.open_tasks_count -= 1

        self._nursery.start_soon(keep)

    def position(self, room: RoomId) -> Position:
        state = self.books[room].state
        return state.cursor, state.head

    def is_inside(self, room: RoomId, user: UserId | None = None) -> bool:
        return (user or self.user) in self.books[room].state.inside

    async def send(self, room: RoomId) -> None:
        """One text, encrypted anew for each epoch that it meets."""
        mid, epoch = next(self._mids), self.books[room].state.epoch
        while True:
            n = self.numbers.take()
            message = Message(n=n, room=room, epoch=epoch, mid=mid, body=body_of(mid, epoch))
            outcome = await self._settle(message)
            self.texts[mid] = self.outcomes[n] = outcome
            if isinstance(outcome, Committed) and self.world.chance.dice.random() < 0.2:
                await self._ask_again(message, outcome)
            self.numbers.unsettled.discard(n)
            if outcome != "device_set_stale":
                return
            self.world.seen["stale"] += 1
            epoch = max(self._stale_epoch, self.books[room].state.epoch)

    async def _ask_again(self, message: Message, outcome: Committed) -> None:
        """I2: the same bytes give the same ack, others a conflict."""
        is_other = self.world.chance.dice.random() < 0.5
        body = body_of(message.mid, Seq(message.epoch + 1)) if is_other else message.body
        again = await self._settle(
            Message(n=message.n, room=message.room, epoch=message.epoch, mid=message.mid, body=body),
            may_conflict=True,
        )
        self.world.seen["asked again"] += 1
        if again != ("message_id_conflict" if is_other else outcome):
            self.world.fail(
                f"I2: {self.device} {message.n} asked again: {again} after {outcome}, other bytes: {is_other}"
            )

    async def _settle(self, message: Message, *, may_conflict: bool = False) -> Committed | str:
        """Until the outcome is known: where it was committed, or the code of a refusal."""
        tries = 0
        while True:
            tries += 1
            try:
                committed = await self._attempt(message)
            except Unanswered:
                await trio.sleep(0.02 + self.world.chance.seconds(0.5))
                continue
            except Refused as refused:
                known = FINAL | {"message_id_conflict"} if may_conflict else FINAL
                if refused.code not in known:
                    self.world.fail(f"{self.device} {message.n} was answered {refused.code}")
                self._stale_epoch = refused.epoch
                self._note(f"{message.n} refused: {refused.code}")
                return refused.code
            self.world.seen["acked after repeats" if tries > 1 else "acked"] += 1
            self._note(f"{message.n} acked at {committed.seq}")
            self.world.check_ack(self.device, room=committed.room, seq=committed.seq, n=message.n, leaf=committed.leaf)
            return committed

    _stale_epoch = Seq(0)

    async def _attempt(self, message: Message) -> Committed:
        """Raises: Unanswered, Refused."""
        if self.world.chance.dice.random() < 0.2:
            return await self._http.send(message, low=self.numbers.low)
        answer = await self._ask(lambda request_id: send_frame(message, request_id=request_id, low=self.numbers.low))
        if isinstance(answer, frames.Error):
            if is_to_repeat(answer.code, is_retryable=answer.is_retryable):
                raise Unanswered
            raise Refused(code=answer.code, epoch=Seq(answer.details.get("epoch", 0)))
        assert isinstance(answer, frames.Ack), "a send is answered by an ack or an error"
        return Committed(room=answer.room, seq=answer.seq, time=answer.time, leaf=answer.leaf)

    async def _ask(self, request: Callable[[int], frames.ClientFrame]) -> Answer:
        """Over the socket. Raises: Unanswered."""
        if self._line is None or not self.is_live:
            await trio.sleep(0.05)
            raise Unanswered
        answer = await self._answer(self._line, request)
        if answer is None:
            raise Unanswered
        return answer

    async def _answer(self, line: Line, request: Callable[[int], frames.ClientFrame]) -> Answer | None:
        """None: it did not come in time, or the connection has gone."""
        request_id, waiter = next(self._ids), Waiter()
        self._waiters[request_id] = waiter
        line.write([request(request_id)])
        with trio.move_on_after(answer_timeout_s):
            await waiter.event.wait()
        return waiter.answer

    # Who is inside ---------------------------------------------------------------------------------------------------

    async def remove(self, room: RoomId, target: UserId) -> None:
        action = Action.LEAVE if target == self.user else Action.KICK
        await self._change(room, action, target)

    async def _join(self, invitation: SignedInvitation) -> None:
        await self._change(invitation.signed.room, Action.JOIN, self.user, invitation)

    async def _change(
        self, room: RoomId, action: Action, target: UserId, invitation: SignedInvitation | None = None
    ) -> None:
        n = self.numbers.take()
        request = self.identity.change(room, action, target, self.position(room), n, invitation)
        try:
            committed = await self._http.settle(
                lambda server: server.rooms.change_member(self.identity.caller, room, request, low=self.numbers.low)
            )
            self.world.seen[action.value] += 1
            self._note(f"{n} {action.value} {target} at {committed.seq}")
        except Refused as refused:
            self._check_change_refused(n, refused)
        self.numbers.unsettled.discard(n)

    async def invite(self, room: RoomId, target: UserId) -> None:
        n = self.numbers.take()
        body = self.identity.invitation(room, target, self.position(room), n)
        try:
            await self._http.settle(
                lambda server: server.rooms.invite(self.identity.caller, room, body, low=self.numbers.low)
            )
            self._note(f"{n} invites {target}")
        except Refused as refused:
            self._check_change_refused(n, refused)
        self.numbers.unsettled.discard(n)

    def _check_change_refused(self, n: SendNumber, refused: Refused) -> None:
        self._note(f"{n} refused: {refused.code}")
        if refused.code not in CHANGE_REFUSED:
            self.world.fail(f"{self.device} {n}, a change, was answered {refused.code}")

    # To devices ------------------------------------------------------------------------------------------------------

    async def write_to(self, recipients: list[Identity]) -> None:
        n = self.numbers.take()
        messages: dict[UserId, dict[DeviceId, dict[str, object]]] = {}
        for one in recipients:
            messages.setdefault(one.caller.user, {})[one.caller.device] = olm_content("AAAA")
        body = ToDevice(type="m.room.encrypted", messages=messages)
        self.parcels[n] = [one.caller.device for one in recipients]
        try:
            await self._http.settle(
                lambda server: server.mailbox.send(self.identity.caller, body, n=n, low=self.numbers.low)
            )
        except Refused as refused:
            self.world.fail(f"{self.device} {n}, to devices, was answered {refused.code}")
        self.numbers.unsettled.discard(n)
