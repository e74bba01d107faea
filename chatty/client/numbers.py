"""n and low: this device's counter of durable writes, and below which all are settled on this disk.

*n* grows by one a write and is on disk before it is used, so that no n ever names two requests. *low* is the smallest n whose
outcome is not settled here; the server keeps outcomes from there on. An n that was taken for something that is not kept (a key
claim, when the process died) counts as settled at the next start.
*Window*: n must stay below low + limits.send_window: `take_when_open` waits.
"""

import trio

from chatty.client.store import LocalStore
from chatty.ids import SendNumber
from chatty.wire import limits

_NUMBERS = "numbers"
open_max = limits.send_window


class SendNumbers:
    """All numbers of this device. `opened`: those whose requests the store still holds."""

    def __init__(self, store: LocalStore, *, opened: set[int]) -> None:
        self._store = store
        self._open = opened
        self._highest = store.get(_NUMBERS, "highest", int) or 0
        self._floor = store.get(_NUMBERS, "floor", int) or 1
        self._settled = trio.Event()

    @property
    def highest(self) -> int:
        return self._highest

    @property
    def low(self) -> SendNumber:
        return SendNumber(max(min(self._open, default=self._highest + 1), self._floor))

    @property
    def has_room(self) -> bool:
        return self._highest + 1 < self.low + open_max

    def take(self) -> SendNumber:
        """The next n, on disk as taken."""
        self._highest += 1
        self._store.put(_NUMBERS, "highest", self._highest)
        self._open.add(self._highest)
        return SendNumber(self._highest)

    async def wait_for_room(self) -> None:
        """Cancelled: nothing happened."""
        while not self.has_room:
            await self._settled.wait()

    def settle(self, n: SendNumber) -> None:
        """The outcome of n is on disk."""
        self._open.discard(n)
        self._settled.set()
        self._settled = trio.Event()

    def go_above(self, *, highest_n: int, low: int) -> bool:
        """What the server knows. True: it knows more than this store, which was therefore rolled back."""
        is_rolled_back = highest_n > self._highest
        if is_rolled_back:
            self._highest = highest_n
            self._store.put(_NUMBERS, "highest", highest_n)
        if low > self._floor:
            self._floor = low
            self._store.put(_NUMBERS, "floor", low)
        return is_rolled_back
