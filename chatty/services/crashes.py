"""Exceptions that nobody foresaw, grouped by where they were raised: how often, since when, in which release.

A group is a place of the code (module, function, line) and a type. What an exception says is never kept: it may hold what
somebody wrote. So there is nothing to scrub but the names of functions, and those are ours.

They are counted in memory and written every few seconds by an actor that lies beside those that crash. Full: places beyond
`noted_max` between two writings are counted under the last one that fits, with the type `TooManyPlaces`; of stored ones the
`stored_max` seen last are kept. The store gone: they stay in memory. The process killed: those of the last seconds are in the log
alone.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from traceback import walk_tb
from types import TracebackType
from typing import Protocol

from chatty.errors import ChattyError
from chatty.ids import CrashId
from chatty.services.units import Transactions

noted_max = 200
stored_max = 1_000
frames_max = 30
unseen_days_max = 90
_own_package = "chatty."


@dataclass(frozen=True, kw_only=True)
class Place:
    """function: the qualified name. kind: the exception's type."""

    module: str
    function: str
    line: int
    kind: str

    @property
    def id(self) -> CrashId:
        """The same for the same place in every process and release, as long as the line does not move."""
        return CrashId(sha256(f"{self.module} {self.function} {self.line} {self.kind}".encode()).hexdigest()[:12])


@dataclass(frozen=True, kw_only=True)
class CrashGroup:
    """met_in: the branch of the actor tree, or http. frames: places, the outermost first, each "module.function:line"."""

    place: Place
    met_in: str
    frames: Sequence[str]
    release: str
    count: int
    first_seen_ms: int
    last_seen_ms: int


class CrashRows(Protocol):
    async def add(self, groups: Sequence[CrashGroup]) -> None:
        """To what is stored; what was not seen for unseen_days_max, and the oldest beyond stored_max, goes."""
        ...


class CrashesUnit(Protocol):
    @property
    def crashes(self) -> CrashRows: ...


def place_of(error: Exception) -> tuple[Place, list[str]]:
    """Where it was raised, as far as it is our code, and the way there. An exception without a traceback has no place."""
    steps = list(_steps(error.__traceback__))
    kind = type(error).__name__
    if not steps:
        return Place(module="", function="", line=0, kind=kind), []
    ours = [step for step in steps if step[0].startswith(_own_package)] or steps
    module, function, line = ours[-1]
    frames = [f"{module}.{function}:{line}" for module, function, line in steps[-frames_max:]]
    return Place(module=module, function=function, line=line, kind=kind), frames


def _steps(traceback: TracebackType | None) -> Iterable[tuple[str, str, int]]:
    for frame, line in walk_tb(traceback):
        yield str(frame.f_globals.get("__name__", "")), frame.f_code.co_qualname, line


def joined(one: CrashGroup, other: CrashGroup) -> CrashGroup:
    """Of the same place; other is the newer one."""
    return replace(other, count=one.count + other.count, first_seen_ms=min(one.first_seen_ms, other.first_seen_ms))


async def tell_nobody(groups: Sequence[CrashGroup]) -> None:
    """The database is enough."""


class Crashes:
    """One process's, until they are written. tell: whom else they are told, once they are written."""

    def __init__(
        self,
        *,
        units: Transactions[CrashesUnit],
        release: str,
        clock_ms: Callable[[], int],
        tell: Callable[[Sequence[CrashGroup]], Awaitable[None]],
    ) -> None:
        self._units = units
        self._release = release
        self._clock_ms = clock_ms
        self._tell = tell
        self._noted: dict[Place, CrashGroup] = {}
        self._met: dict[Place, CrashGroup] = {}

    def note(self, error: Exception, *, met_in: str) -> bool:
        """Never waits, never raises. False: it is none, but says what is wrong with a request, or that the store is away."""
        if isinstance(error, ChattyError):
            return False
        place, frames = place_of(error)
        if place not in self._noted and len(self._noted) >= noted_max:
            place, frames = Place(module="", function="", line=0, kind="TooManyPlaces"), []
        now = self._clock_ms()
        group = CrashGroup(
            place=place,
            met_in=met_in,
            frames=frames,
            release=self._release,
            count=1,
            first_seen_ms=now,
            last_seen_ms=now,
        )
        _put(self._noted, group)
        if place in self._met or len(self._met) < noted_max:
            _put(self._met, group)
        return True

    def met(self) -> Sequence[CrashGroup]:
        """By this process since its start, those met last first."""
        return sorted(self._met.values(), key=lambda one: -one.last_seen_ms)

    async def flush(self) -> None:
        """Write what was noted. Raises: StoreUnavailable, Overloaded, OutcomeUnknown; then it is kept for the next time."""
        if not self._noted:
            return
        groups, self._noted = list(self._noted.values()), {}
        is_written = False
        try:
            async with self._units.begin() as unit:
                await unit.crashes.add(groups)
            is_written = True
        finally:
            if not is_written:
                self._take_back(groups)
        await self._tell(groups)

    def _take_back(self, groups: Sequence[CrashGroup]) -> None:
        newer, self._noted = self._noted, {group.place: group for group in groups}
        for group in newer.values():
            _put(self._noted, group)


def _put(into: dict[Place, CrashGroup], group: CrashGroup) -> None:
    known = into.get(group.place)
    into[group.place] = group if known is None else joined(known, group)
