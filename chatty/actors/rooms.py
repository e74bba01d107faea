"""A room's actor: takes appends to the journal and delivers what was committed, strictly in seq order.

State: `published`, the seq up to which this node has delivered. Nothing else: who may do what, the epoch and the order are
decided in the committing transaction, so the room refuses nothing by itself. An event that comes early, because another node or
an HTTP request committed one before it, makes the room read the stretch between from the store.

Crash, passivation: the next start takes the store's head as `published` and tells it to all registered sessions, which fill what
they miss. Cancelled between commit and delivery: the same. The store gone: events are still delivered; a session that sees a hole
fills it when the store is back.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import assert_never

import trio

from chatty.actors.directory import Directory
from chatty.actors.journal import Append, Entry, Stored
from chatty.actors.outbox import Shared, runs
from chatty.actors.runtime import ActorRef, ActorSpec, Intensity, Mailbox, MailboxFull, Registry, Supervisor
from chatty.errors import ChattyError
from chatty.ids import RoomNumber, Seq
from chatty.services.crash_points import CrashPoints
from chatty.services.streams import StreamSteps
from chatty.wire.events import REMOVALS, Kind, TimelineEvent, action_of, decode_content
from chatty.wire.frames import PlacedEntry

mailbox_count_max = 2_048
batch_max = 256
members_between_checkpoints = 32  # a large batch takes 0.4 ms to as many sockets


@dataclass(frozen=True)
class Ring:
    """There may be new events in the store."""


RoomMessage = Append | Stored | Ring


@dataclass(frozen=True, kw_only=True)
class RoomParts:
    """note_delivered: told of the oldest message of each commit, once all who listen were offered it; must not wait."""

    journal: ActorRef[Entry]
    streams: StreamSteps
    directory: Directory
    crash_points: CrashPoints
    idle_timeout_s: float
    note_delivered: Callable[[Append], None] = lambda _: None


class RoomActors:
    """The registry of live rooms, and the spec that starts one."""

    def __init__(self, parts: RoomParts) -> None:
        self._parts = parts
        self._registry: Registry[RoomNumber, RoomMessage] | None = None

    async def open(self, supervisor: Supervisor, *, live_count_max: int, intensity: Intensity) -> None:
        self._registry = await supervisor.start_registry(
            "rooms", self._spec, live_count_max=live_count_max, intensity=intensity
        )

    async def get(self, room: RoomNumber) -> ActorRef[RoomMessage]:
        """Raises: StartFailed."""
        assert self._registry is not None, "used before open()"
        return await self._registry.get(room)

    def find(self, room: RoomNumber) -> ActorRef[RoomMessage] | None:
        return self._registry.find(room) if self._registry is not None else None

    def _spec(self, room: RoomNumber) -> ActorSpec[RoomMessage]:
        async def run(mailbox: Mailbox[RoomMessage]) -> None:
            ref = self.find(room)
            assert ref is not None, "an actor that runs is live"
            await room_actor(mailbox, room, self._parts, ref)

        return ActorSpec(
            name=f"room {room}",
            run=run,
            mailbox_count_max=mailbox_count_max,
            idle_timeout_s=self._parts.idle_timeout_s,
        )


async def room_actor(
    mailbox: Mailbox[RoomMessage], room: RoomNumber, parts: RoomParts, ref: ActorRef[RoomMessage]
) -> None:
    publisher = Publisher(room, parts, published=await parts.streams.head(room))
    publisher.announce()
    mailbox.ready()
    async for first in mailbox:
        stored = list[Stored]()
        for message in (first, *mailbox.take_queued(batch_max)):
            await parts.crash_points.reach("room_message", message)
            match message:
                case Append():
                    with message.refusing(MailboxFull):  # too much load is an answer, not a crash
                        parts.journal.tell(Entry(ref, message))
                case Stored():
                    stored.append(message)
                case Ring():
                    await publisher.catch_up()
                case _:
                    assert_never(message)
        await _deliver_and_answer(stored, publisher, parts)


async def _deliver_and_answer(stored: Sequence[Stored], publisher: "Publisher", parts: RoomParts) -> None:
    """What was committed during the last delivery leaves together: under load a large room is written to less often."""
    for events in joined(one.events for one in stored):
        await publisher.publish(events)
    answers = [answer for one in stored for answer in one.answers]
    if answers:
        await parts.crash_points.reach("before_ack")
        parts.note_delivered(answers[0][0])
    for append, committed in answers:
        append.answer(committed)


def joined(stretches: Iterable[Sequence[TimelineEvent]]) -> Iterator[list[TimelineEvent]]:
    """In order; one of those that follow each other without a gap."""
    pending = list[TimelineEvent]()
    for events in sorted(filter(None, stretches), key=lambda events: events[0].seq):
        if pending and events[0].seq != pending[-1].seq + 1:
            yield pending
            pending = []
        pending += events
    if pending:
        yield pending


class Publisher:
    """Delivers a room's events to its registered sessions, each event once and in order."""

    def __init__(self, room: RoomNumber, parts: RoomParts, *, published: Seq) -> None:
        self._room = room
        self._parts = parts
        self._published = published

    def announce(self) -> None:
        for session in list(self._parts.directory.in_room(self._room)):
            session.note_head(self._room, self._published)

    async def publish(self, events: Sequence[PlacedEntry]) -> None:
        if events and events[0].seq > self._published + 1:
            await self.catch_up(below=events[0].seq)
        await self._deliver_new(events)

    async def catch_up(self, *, below: Seq | None = None) -> None:
        """Deliver what the store has. The store gone: the sessions fill their holes themselves, later."""
        try:
            while below is None or self._published + 1 < below:
                events = await self._parts.streams.events(self._room, after=self._published)
                if not events:
                    return
                await self._deliver_new(events)
        except ChattyError:
            for session in list(self._parts.directory.in_room(self._room)):
                session.mark_behind(self._room)

    async def _deliver_new(self, events: Sequence[PlacedEntry]) -> None:
        for run in runs([event for event in events if event.seq > self._published]):
            await self._deliver(run)

    async def _deliver(self, run: Sequence[PlacedEntry]) -> None:
        self._published = run[-1].seq
        shared = Shared(run, self._room)
        sessions = list(self._parts.directory.in_room(self._room))
        for count, session in enumerate(sessions, start=1):
            session.offer(self._room, shared)
            if count % members_between_checkpoints == 0:
                await trio.lowlevel.checkpoint()
        if isinstance(last := run[-1], TimelineEvent) and last.kind is Kind.MEMBER:
            self._note_removal(last)

    def _note_removal(self, event: TimelineEvent) -> None:
        """Who was removed gets the removal and nothing after it: the fan-out changes by the event itself."""
        if action_of(decode_content(event)) in REMOVALS:
            for session in list(self._parts.directory.in_room(self._room)):
                if session.caller.user == event.target:
                    session.note_removal(self._room)
