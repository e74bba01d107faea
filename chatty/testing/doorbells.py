"""A bus that loses some doorbells and brings others late, which a bus may do."""

from collections.abc import Callable

import trio

from chatty.services.doorbells import Doorbell, Doorbells

Fate = Callable[[], float | None]  # s until it is heard; None: never


class FaultyDoorbells(Doorbells):
    """Before another one. nursery: where late ones wait."""

    def __init__(self, inner: Doorbells, nursery: trio.Nursery, fate: Fate) -> None:
        self._inner = inner
        self._nursery = nursery
        self._fate = fate

    def ring(self, doorbell: Doorbell) -> None:
        delay_s = self._fate()
        if delay_s == 0:
            self._inner.ring(doorbell)
        elif delay_s is not None:
            self._nursery.start_soon(self._ring_late, doorbell, delay_s)

    async def _ring_late(self, doorbell: Doorbell, delay_s: float) -> None:
        await trio.sleep(delay_s)
        self._inner.ring(doorbell)
