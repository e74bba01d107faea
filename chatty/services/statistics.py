"""The job statistics: what there is on the server, counted once an hour into the row of the day (UTC). About nobody.

A day's numbers are those of its last look. They are kept for `days_kept`. Counts are of one moment; sizes are PostgreSQL's own.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from chatty.services.jobs import Done
from chatty.services.units import Transactions

days_kept = 400


class Statistics(Protocol):
    """Inside one transaction."""

    async def count(self) -> Mapping[str, int]:
        """By name, as of now."""
        ...

    async def write_today(self, counted: Mapping[str, int]) -> None: ...
    async def forget(self, *, days_kept: int) -> None: ...
    async def listed(self, *, days_max: int) -> Sequence[tuple[str, Mapping[str, int]]]:
        """Day and its numbers, the newest first."""
        ...


class StatisticsUnit(Protocol):
    @property
    def statistics(self) -> Statistics: ...


class CountStatistics:
    """The job statistics."""

    name = "statistics"

    def __init__(self, *, units: Transactions[StatisticsUnit]) -> None:
        self._units = units

    async def step(self) -> Done:
        """One transaction; rows are numbers. Raises: StoreUnavailable, Overloaded, OutcomeUnknown."""
        async with self._units.begin() as unit:
            counted = await unit.statistics.count()
            await unit.statistics.write_today(counted)
            await unit.statistics.forget(days_kept=days_kept)
        return Done(len(counted))

    async def listed(self, *, days_max: int) -> list[dict[str, int | str]]:
        """A dict a day, with `day`, the newest first."""
        async with self._units.autocommit() as unit:
            return [{"day": day, **numbers} for day, numbers in await unit.statistics.listed(days_max=days_max)]
