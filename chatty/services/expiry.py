"""The job message_cleanup: ciphertexts go when their time has come, and their bytes with them (docs/protocol.md, "What ends").

*Expiry.* A message's own expiry stands in its hashed meta. Its ciphertext is dropped within seconds of it; event, leaf and chain
stay.
*Retention.* The server's, a setting, and the room's, a policy: the shorter counts, in whole days (UTC). What is promised when a
message is sent holds: a longer retention later does not lengthen it, a shorter one counts at once.
*Order*, which is all that matters here. For each room the horizon, (seq, head, signed), is written before anything at or below it
goes; the rows of messages below it are swept, some a step; and whole days of ciphertexts are dropped, tables with their files,
once no reader can be left that had begun before the horizon was there. State events and deletions stay, and with each the head of
the chain before it.
*Killed at any point*: each step is one transaction that looks at what is there, so the next holder of the lease goes on.
*Several at once* do no harm: rooms are locked, skipped if somebody else has them; a day is dropped once.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from chatty.ids import RoomId, RoomNumber, Seq
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.jobs import Done
from chatty.services.messages import Clock
from chatty.services.timeline import day_ms, ends_days_max
from chatty.wire.signing import horizon_bytes

rows_a_step_max = 1_000
rooms_a_step_max = 100
look_interval_ms = 60_000  # between two looks at every room's retention, and at the days to come
readers_ms = 60_000  # no transaction that reads a page is as old
days_ahead = 2  # beyond the longest lifetime in use


@dataclass(frozen=True)
class Freed:
    """Ciphertexts that went. bytes_count: of the ciphertexts, or with a whole day of its table on disk."""

    rows_count: int = 0
    bytes_count: int = 0

    def __add__(self, other: "Freed") -> "Freed":
        return Freed(self.rows_count + other.rows_count, self.bytes_count + other.bytes_count)


@dataclass(frozen=True, kw_only=True)
class Swept:
    """events_count: rows of the timeline below the horizon that went too."""

    freed: Freed
    events_count: int


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A room's horizon as it is stored: see wire.frames.HorizonMark."""

    seq: Seq
    head: bytes
    before: int
    time: int
    key_id: str
    signature: bytes


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """What one step did, for metrics and the log. what: expired, day_dropped, swept."""

    what: str
    freed: Freed = field(default_factory=Freed)
    events_count: int = 0


# Ports --------------------------------------------------------------------------------------------------------------


class Signer(Protocol):
    """The server's key for checkpoints, removals and horizons."""

    @property
    def key_id(self) -> str: ...
    def sign(self, message: bytes) -> bytes: ...


class Cleanup(Protocol):
    """Inside one transaction. Days are numbered since 1970; one holds what ends in it, [day, day + 1) · day_ms."""

    async def days(self) -> Sequence[int]:
        """Those that there are, in order."""
        ...

    async def days_not_made(self) -> Sequence[int]:
        """Those for which something came before they were made; they never will be."""
        ...

    async def longest_days(self) -> tuple[int, int]:
        """The longest retention of a room, and the longest timer, in days."""
        ...

    async def make_day(self, day: int) -> None:
        """Nothing, where something has come for it. Raises: Overloaded."""
        ...

    async def drop_day(self, day: int) -> Freed:
        """The whole table. Raises: Overloaded."""
        ...

    async def expire(self, *, first_ms: int, now_ms: int, count_max: int) -> Freed:
        """Drop what ends within these times, the oldest first; of days that were not made also what had expired before."""
        ...

    async def rooms_due(
        self, *, today_ms: int, retention_days: int, count_max: int
    ) -> Sequence[tuple[RoomNumber, int]]:
        """Rooms whose oldest event above the horizon is older than their retention, and that in days."""
        ...

    async def rooms_promised(self, day: int, *, count_max: int) -> Sequence[tuple[RoomNumber, Seq]]:
        """Rooms of which the day holds a message above the horizon that ends by retention, and the newest such place."""
        ...

    async def is_marked_since(self, day: int, time_ms: int) -> bool:
        """Has a room of which the day holds something had its horizon written after then?"""
        ...

    async def time_at(self, room: RoomNumber, seq: Seq) -> int: ...
    async def lock_horizon(self, room: RoomNumber, *, before: int) -> tuple[RoomId, Seq, bytes] | None:
        """Lock the room; its newest (seq, head) above the horizon from before then. None: none, or somebody else has the room."""
        ...

    async def mark(self, room: RoomNumber, mark: Mark) -> None: ...
    async def sweep(self, *, today_ms: int, count_max: int) -> Swept | None:
        """Drop what is left below the horizon of one room, count_max places; but ciphertexts of days that are over go whole.

        None: nothing is left.
        """
        ...


class CleanupUnit(Protocol):
    @property
    def cleanup(self) -> Cleanup: ...


class CleanupUnits(Protocol):
    def begin(self) -> AbstractAsyncContextManager[CleanupUnit]: ...


# Rules --------------------------------------------------------------------------------------------------------------


def retention_cut(now_ms: int, days: int) -> int:
    """What was sent before then is older than the retention: a multiple of a day, as ends_of() counts."""
    return (now_ms // day_ms - days) * day_ms


def days_wanted(now_ms: int, *, longest_days: int) -> range:
    """From today on, for everything that may be sent now."""
    today = now_ms // day_ms
    return range(today, today + min(longest_days, ends_days_max) + days_ahead + 1) if longest_days else range(0)


# Steps --------------------------------------------------------------------------------------------------------------


def _rows_count(done: Cleaned | bool) -> int:
    return done.freed.rows_count + done.events_count if isinstance(done, Cleaned) else int(done)


_Work = Callable[[Cleanup, int], Awaitable[Cleaned | bool]]


class MessageCleanup:
    """retention_days: the server's own; 0: for ever. report: what was done. clock: ms since 1970."""

    name = "message_cleanup"

    def __init__(
        self,
        *,
        units: CleanupUnits,
        signer: Signer,
        server_name: str,
        retention_days: int,
        report: Callable[[Cleaned], None],
        clock: Clock,
        crash_points: CrashPoints = NO_CRASH_POINTS,
    ) -> None:
        self._units = units
        self._signer = signer
        self._server_name = server_name
        self._retention_days = retention_days
        self._report = report
        self._clock = clock
        self._crash_points = crash_points
        self._looked_at_ms = 0

    def look_now(self) -> None:
        """The next step looks at every room's retention, however long ago the last one did."""
        self._looked_at_ms = 0

    async def step(self) -> Done:
        """One transaction with work in it; rows are ciphertexts and events, or days and rooms that were prepared.

        Raises: StoreUnavailable, Overloaded, OutcomeUnknown. Cancelled: all of it is committed or nothing.
        """
        now_ms = self._clock()
        works: dict[str, _Work] = {"expire": self._expire, "drop_day": self._drop_day, "sweep": self._sweep}
        is_look = now_ms // day_ms != self._looked_at_ms // day_ms or now_ms - self._looked_at_ms >= look_interval_ms
        if is_look:
            works = {"make_day": self._make_day, "mark": self._mark_due, **works}
        for name, work in works.items():
            async with self._units.begin() as unit:
                done = await work(unit.cleanup, now_ms)
                if done:
                    await self._crash_points.reach("before_commit", name)
            if isinstance(done, Cleaned):
                self._report(done)
            if done:
                await self._crash_points.reach("after_commit", name)
                return Done(_rows_count(done), has_more=True)
        if is_look:
            self._looked_at_ms = now_ms
        return Done()

    async def _make_day(self, cleanup: Cleanup, now_ms: int) -> bool:
        """One of those that will be needed."""
        room_days, timer_days = await cleanup.longest_days()
        longest = max(days if days <= ends_days_max else 0 for days in (room_days, timer_days, self._retention_days))
        there = {*await cleanup.days(), *await cleanup.days_not_made()}
        missing = [day for day in days_wanted(now_ms, longest_days=longest) if day not in there]
        if missing:
            await cleanup.make_day(missing[0])
        return bool(missing)

    async def _expire(self, cleanup: Cleanup, now_ms: int) -> Cleaned | bool:
        """Of today: days that are over go whole."""
        freed = await cleanup.expire(first_ms=now_ms // day_ms * day_ms, now_ms=now_ms, count_max=rows_a_step_max)
        return Cleaned(what="expired", freed=freed) if freed.rows_count else False

    async def _mark_due(self, cleanup: Cleanup, now_ms: int) -> bool:
        today_ms = now_ms // day_ms * day_ms
        due = await cleanup.rooms_due(
            today_ms=today_ms, retention_days=self._retention_days, count_max=rooms_a_step_max
        )
        marked = [await self._mark(cleanup, room, before=retention_cut(now_ms, days)) for room, days in due]
        return any(marked)

    async def _mark(self, cleanup: Cleanup, room: RoomNumber, *, before: int) -> bool:
        found = await cleanup.lock_horizon(room, before=before)
        if found is None:
            return False
        room_id, seq, head = found
        time, key_id = self._clock(), self._signer.key_id
        statement = horizon_bytes(
            server=self._server_name, room=room_id, seq=seq, head=head, before=before, time=time, key_id=key_id
        )
        signature = self._signer.sign(statement)
        mark = Mark(seq=seq, head=head, before=before, time=time, key_id=key_id, signature=signature)
        await cleanup.mark(room, mark)
        return True

    async def _drop_day(self, cleanup: Cleanup, now_ms: int) -> Cleaned | bool:
        """The first day that is over, once every room has its horizon above what the day holds by retention."""
        over = [day for day in await cleanup.days() if day < now_ms // day_ms]
        if not over:
            return False
        promised = await cleanup.rooms_promised(over[0], count_max=rooms_a_step_max)
        if promised:  # a longer retention since they were sent, or a room that was busy
            times = [(room, await cleanup.time_at(room, seq)) for room, seq in promised]
            return any([await self._mark(cleanup, room, before=time + 1) for room, time in times])
        if await cleanup.is_marked_since(over[0], now_ms - readers_ms):
            return False
        freed = await cleanup.drop_day(over[0])
        return Cleaned(what="day_dropped", freed=freed) if freed.bytes_count else True

    async def _sweep(self, cleanup: Cleanup, now_ms: int) -> Cleaned | bool:
        swept = await cleanup.sweep(today_ms=now_ms // day_ms * day_ms, count_max=rows_a_step_max)
        if swept is None:
            return False
        return Cleaned(what="swept", freed=swept.freed, events_count=swept.events_count)
