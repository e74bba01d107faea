"""The journal: commits what rooms append, in groups; one batch at a time, whatever has queued meanwhile.

It waits for nobody. What somebody else holds locked is left out of the batch and tried once more; then the blocking journal, an
actor of its own on a second connection, waits for that lock, and nobody else does. A batch that fails is split until the culprit
stands alone and gets the error. The store gone: the same drafts again, with a growing pause, until their deadline; a copy that
was committed after all is found by (device, n).

Crash: what was in hand comes back one by one; what had been committed gets its old answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from chatty.actors.runtime import ActorError, ActorRef, Ask, Mailbox
from chatty.errors import ChattyError, InternalError, OutcomeUnknown, Overloaded, StoreUnavailable
from chatty.ids import RoomNumber
from chatty.services.crash_points import CrashPoints
from chatty.services.messages import BatchFailed, Draft, Journal, Result
from chatty.telemetry import Metrics
from chatty.wire.events import Committed, TimelineEvent

retry_delay_s_min = 0.05
retry_delay_s_max = 1.0

log = structlog.get_logger("chatty.journal")


@dataclass(eq=False)
class Append(Ask[Committed]):
    """Append this message. deadline: trio's time; later than that the asker is told that the outcome is unknown."""

    draft: Draft
    deadline: float


@dataclass(frozen=True)
class Stored:
    """The journal's tell after a commit: new events of one room, in order, and the appends that they answer."""

    events: Sequence[TimelineEvent]
    answers: Sequence[tuple[Append, Committed]]


@dataclass(eq=False)
class Entry(Ask[None]):
    """An Append on its way through the journal, with the room that delivers what becomes of it."""

    room: ActorRef[Any]
    append: Append

    def refuse(self, error: Exception) -> None:
        """Quarantined or dropped by the runtime: whoever asked for the append is told.

        No on_answer of its own: it would hold the entry in a cycle, and each message's body until the next collection.
        """
        super().refuse(error)
        self.append.refuse(error)


@dataclass(frozen=True, kw_only=True)
class JournalParts:
    journal: Journal
    metrics: Metrics
    crash_points: CrashPoints
    batch_max: int


async def journal_actor(mailbox: Mailbox[Entry], parts: JournalParts, blocking: ActorRef[Entry]) -> None:
    """Commits whatever has queued; what is locked elsewhere twice goes to the blocking journal."""
    mailbox.ready()
    async for entry in mailbox:
        entries = [entry, *mailbox.take_queued(parts.batch_max - 1)]
        skipped = await _commit(entries, parts, waits=False)
        if skipped:
            skipped = await _commit(skipped, parts, waits=False)
        for one in skipped:
            with one.refusing(ActorError):
                blocking.tell(one)


async def blocking_journal_actor(mailbox: Mailbox[Entry], parts: JournalParts) -> None:
    """Waits for the locks that somebody else holds, one entry at a time."""
    mailbox.ready()
    async for entry in mailbox:
        await _commit([entry], parts, waits=True)


async def _commit(entries: Sequence[Entry], parts: JournalParts, *, waits: bool) -> list[Entry]:
    """Returns those that were skipped because somebody else holds a lock they need."""
    delay_s = retry_delay_s_min
    while waiting := _unexpired(entries):
        try:
            return await _commit_once(waiting, parts, waits=waits)
        except (StoreUnavailable, OutcomeUnknown) as error:
            log.warning("journal.store_lost", error=error.code, entries_count=len(waiting), retry_delay_s=delay_s)
            await trio.sleep(delay_s)
            delay_s = min(2 * delay_s, retry_delay_s_max)
            entries = waiting
        except Overloaded as error:
            for entry in waiting:
                entry.append.refuse(error)
            return []
        except BatchFailed as error:
            return await _split(waiting, parts, error, waits=waits)
    return []


def _unexpired(entries: Sequence[Entry]) -> Sequence[Entry]:
    now = trio.current_time()
    if any(entry.append.deadline <= now for entry in entries):
        for entry in entries:
            if entry.append.deadline <= now:
                entry.append.refuse(OutcomeUnknown("the store did not answer in time; send the same again"))
        return [entry for entry in entries if entry.append.deadline > now]
    return entries


async def _split(entries: Sequence[Entry], parts: JournalParts, error: BatchFailed, *, waits: bool) -> list[Entry]:
    if len(entries) == 1:
        draft = entries[0].append.draft
        log.error("journal.entry_refused", reason=str(error), device=draft.caller.device, n=draft.n)
        entries[0].append.refuse(InternalError("the store refused it"))
        return []
    half = len(entries) // 2
    first = await _commit(entries[:half], parts, waits=waits)
    return first + await _commit(entries[half:], parts, waits=waits)


async def _commit_once(entries: Sequence[Entry], parts: JournalParts, *, waits: bool) -> list[Entry]:
    began = trio.current_time()
    result = await parts.journal.commit([entry.append.draft for entry in entries], waits=waits)
    parts.metrics.journal_batch_size.observe(len(entries))
    parts.metrics.journal_commit_duration_seconds.observe(trio.current_time() - began)
    await parts.crash_points.reach("before_delivery")
    return _hand_out(entries, result)


def _hand_out(entries: Sequence[Entry], result: Result) -> list[Entry]:
    """Tell each room what was stored; refusals go straight to whoever asked. Returns the skipped."""
    skipped: list[Entry] = []
    rooms: dict[RoomNumber, ActorRef[Any]] = {}
    events: dict[RoomNumber, list[TimelineEvent]] = {}
    answers: dict[RoomNumber, list[tuple[Append, Committed]]] = {}
    for appended in result.appended:
        events.setdefault(appended.room_number, []).append(appended.event)
    for entry, answer in zip(entries, result.answers, strict=True):
        number = entry.append.draft.room_number
        rooms[number] = entry.room
        match answer:
            case None:
                skipped.append(entry)
            case ChattyError():
                entry.append.refuse(answer)
            case Committed():
                answers.setdefault(number, []).append((entry.append, answer))
    for number, room in rooms.items():
        if number in events or number in answers:
            _tell_room(room, Stored(events.get(number, ()), answers.get(number, ())))
    return skipped


def _tell_room(room: ActorRef[Any], stored: Stored) -> None:
    """A room that cannot be told delivers later, by the comparison with the store; the commit is answered all the same."""
    try:
        room.tell(stored)
    except ActorError as error:
        log.warning(
            "journal.room_not_told", room=room.name, error=type(error).__name__, events_count=len(stored.events)
        )
        for append, committed in stored.answers:
            append.answer(committed)
