"""How large everything is, by feature, once an hour: so that an operator sees what grows."""

from typing import Protocol

from chatty.services.jobs import Done
from chatty.services.units import Transactions

kept_days = 400


class SizeSamples(Protocol):
    async def sample(self, *, kept_days: int) -> int:
        """Write today's sizes in place of those of an hour ago; forget what is older than kept_days. Returns how many."""
        ...


class SizesUnit(Protocol):
    @property
    def sizes(self) -> SizeSamples: ...


class SampleSizes:
    """The job. Run twice it does the same."""

    name = "size_sampling"

    def __init__(self, *, units: Transactions[SizesUnit]) -> None:
        self._units = units

    async def step(self) -> Done:
        async with self._units.begin() as unit:
            return Done(await unit.sizes.sample(kept_days=kept_days))
