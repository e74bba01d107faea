"""The job integrity_check: is what foreign keys would have proven true, do counts agree, do chains verify? It alters nothing.

A pass goes through the checks one after the other, each in pages by its table's key, so that no statement is long; the place is
in the job's notes, in the transaction that read the page, so a pass that was killed goes on. A page's statement sees one moment:
what transactions keep together it sees together. Chains are sampled: of each room a stretch at a place that chance chooses.

What is found is counted by check, with the keys of the first few rows, in the notes of the job (`chatty-admin jobs show
integrity_check`); a pass with findings logs `integrity.violated` for each check, and the metric has the counts of the last whole
pass. Keys are internal numbers, never content.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from chatty.ids import RoomNumber
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.jobs import Done, Jobs
from chatty.services.units import Transactions
from chatty.wire import chain
from chatty.wire.events import TimelineEvent

rows_a_step_max = 2_000
rooms_a_step_max = 50
stretch_rows = 50  # of a sampled chain
examples_max = 5  # of each check
CHAINS = "chains"  # the check that is no statement


@dataclass(frozen=True, kw_only=True)
class Page:
    """rows_count: looked at. wrong: keys of those that are. last: the key of the last one; None: that was the end."""

    rows_count: int
    wrong: Sequence[Sequence[Any]]
    last: Sequence[Any] | None


@dataclass(frozen=True, kw_only=True)
class ChainLink:
    """A place of a chain, and the head before it. leaf: of an erased message, of which nothing else is left; else the event."""

    seq: int
    previous: bytes
    head: bytes
    event: TimelineEvent | None
    leaf: bytes | None


class Integrity(Protocol):
    """Inside one transaction."""

    @property
    def checks(self) -> Sequence[str]:
        """Their names, in order."""
        ...

    async def look(self, check: str, *, after: Sequence[Any] | None, count_max: int) -> Page:
        """The next rows of the check's table, in the order of its key. after: a key; None: from the first on."""
        ...

    async def rooms(self, *, after: int, count_max: int) -> Sequence[tuple[RoomNumber, int]]:
        """Rooms and the seq of their newest event, in the order of their numbers."""
        ...

    async def stretch(self, room: RoomNumber, *, first: int, count_max: int) -> Sequence[ChainLink]:
        """Places from `first` on that have one before them still."""
        ...


class IntegrityUnit(Protocol):
    @property
    def jobs(self) -> Jobs: ...
    @property
    def integrity(self) -> Integrity: ...


# Rules --------------------------------------------------------------------------------------------------------------


def is_linked(link: ChainLink) -> bool:
    """Does the head follow from the one before it and from what stands there?"""
    leaf = link.leaf if link.event is None else chain.leaf(link.event)
    return leaf is not None and chain.next_head(link.previous, leaf) == link.head


@dataclass(frozen=True, kw_only=True)
class Pass:
    """How far a pass is. check: the one in hand. after: the key up to which that is done."""

    check: str
    after: Sequence[Any] | None = None
    rows_count: int = 0
    found: Mapping[str, int]
    examples: Mapping[str, Sequence[Sequence[Any]]]


def begun(checks: Sequence[str]) -> Pass:
    return Pass(check=checks[0], found=dict.fromkeys(checks, 0), examples={})


def read_pass(notes: Any, checks: Sequence[str]) -> Pass:
    """From the job's notes. A pass of another version's checks begins anew."""
    match notes:
        case {"check": str(check), "found": dict(found)} if set(found) == set(checks) and check in found:
            return Pass(
                check=check,
                after=notes.get("after"),
                rows_count=notes.get("rows_count", 0),
                found=found,
                examples=notes.get("examples", {}),
            )
        case _:
            return begun(checks)


def turned(now: Pass, page: Page, checks: Sequence[str]) -> tuple[Pass, bool]:
    """After a page. True: that was the pass's last."""
    found = {**now.found, now.check: now.found[now.check] + len(page.wrong)}
    kept = [*now.examples.get(now.check, ()), *page.wrong][:examples_max]
    examples = {**now.examples, **({now.check: kept} if kept else {})}
    following = checks[checks.index(now.check) + 1 :]
    check = now.check if page.last is not None else next(iter(following), now.check)
    after = Pass(
        check=check, after=page.last, rows_count=now.rows_count + page.rows_count, found=found, examples=examples
    )
    return after, page.last is None and not following


def _notes(one: Pass) -> dict[str, Any]:
    return {
        "check": one.check,
        "after": one.after,
        "rows_count": one.rows_count,
        "found": one.found,
        "examples": one.examples,
    }


# Steps --------------------------------------------------------------------------------------------------------------


class CheckIntegrity:
    """report: the findings of a whole pass, by check. choose: an integer from 0 to below its argument."""

    name = "integrity_check"

    def __init__(
        self,
        *,
        units: Transactions[IntegrityUnit],
        report: Callable[[Mapping[str, int]], None],
        choose: Callable[[int], int] = random.randrange,
        crash_points: CrashPoints = NO_CRASH_POINTS,
    ) -> None:
        self._units = units
        self._report = report
        self._choose = choose
        self._crash_points = crash_points

    async def step(self) -> Done:
        """One page. Raises: StoreUnavailable, Overloaded, OutcomeUnknown. Cancelled: the page is read again."""
        async with self._units.begin() as unit:
            checks = [*unit.integrity.checks, CHAINS]
            notes = await unit.jobs.notes(self.name)
            now = read_pass(notes.get("pass"), checks)
            page = await (self._look_at_chains(unit, now) if now.check == CHAINS else self._look(unit, now))
            after, is_over = turned(now, page, checks)
            kept = {"last": {"rows_count": after.rows_count, "found": after.found, "examples": after.examples}}
            await unit.jobs.set_notes(self.name, kept if is_over else {**notes, "pass": _notes(after)})
            await self._crash_points.reach("before_commit", self.name)
        if is_over:
            self._report(after.found)
        return Done(page.rows_count, has_more=not is_over)

    async def _look(self, unit: IntegrityUnit, now: Pass) -> Page:
        return await unit.integrity.look(now.check, after=now.after, count_max=rows_a_step_max)

    async def _look_at_chains(self, unit: IntegrityUnit, now: Pass) -> Page:
        after = now.after[0] if now.after else 0
        rooms = await unit.integrity.rooms(after=after, count_max=rooms_a_step_max)
        wrong: list[Sequence[Any]] = []
        rows_count = 0
        for room, seq in rooms:
            first = 1 + self._choose(max(1, seq - stretch_rows + 1))
            links = await unit.integrity.stretch(room, first=first, count_max=stretch_rows)
            rows_count += len(links)
            wrong += [[room, link.seq] for link in links if not is_linked(link)]
        last = [rooms[-1][0]] if len(rooms) == rooms_a_step_max else None
        return Page(rows_count=rows_count, wrong=wrong, last=last)
