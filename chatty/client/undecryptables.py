"""Telling the server how many messages could not be read, and why: the only way in which an operator learns that keys go astray.

Which message it was, whose, and in which room stays here. Counts are in memory: those of a client that ends are lost, and that is
all that can be lost.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import cast, get_args

import trio

from chatty.client.updates import Undecryptable, Update
from chatty.errors import ChattyError
from chatty.wire.undecryptables import UndecryptableCount, UndecryptableReason, Undecryptables

report_delay_s = 30.0  # several mostly come together
_count_max = 10_000
_reasons = frozenset(get_args(UndecryptableReason))


class UndecryptableReports:
    """send: raises ChattyError. counts: by reason, not reported yet."""

    def __init__(self, send: Callable[[Undecryptables], Awaitable[None]]) -> None:
        self._send = send
        self.counts: Counter[str] = Counter()
        self._noted = trio.Event()

    def note(self, update: Update) -> None:
        """Counts it if it is one."""
        if isinstance(update, Undecryptable) and update.reason.value in _reasons:
            self.counts[update.reason.value] += 1
            self._noted.set()

    async def run(self) -> None:
        """For ever. Who cannot be told now is told with the next one."""
        while True:
            await self._noted.wait()
            self._noted = trio.Event()
            await trio.sleep(report_delay_s)
            await self._report()

    async def _report(self) -> None:
        told = Counter({reason: min(count, _count_max) for reason, count in self.counts.items()})
        counts = [
            UndecryptableCount(reason=cast(UndecryptableReason, reason), count=count) for reason, count in told.items()
        ]
        try:
            await self._send(Undecryptables(counts=counts))
        except ChattyError:
            return
        self.counts -= told
