"""The export of one's own data: everything that the server stores about its user, as lines of JSON.

One snapshot, so that the parts fit together; read through cursors, a few rows at a time, so that an account with a million
messages needs no more memory than a small one. What is exported stands in one list (store/exports.py), and a test compares it
with the schema. The first line says what it is, the last one how many there were: without it the export was cut off.

A slow reader holds a connection of the pool and a snapshot: an export ends after `lifetime_s`, and there are at most
`running_count_max` at once in a process; more are refused (`overloaded`). How often one may ask is limited by name.
Cancelled or crashed: nothing is stored but the audit row.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Protocol

import msgspec

from chatty.errors import Overloaded
from chatty.ids import UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.limits import Limits, asker_of
from chatty.services.quotas import Quotas
from chatty.services.units import Audit, Transactions

export_format = 1
chunk_bytes_min = 65_536  # of lines that leave together
running_count_max = 2
lifetime_s_default = 600.0


# Ports --------------------------------------------------------------------------------------------------------------


class Exports(Protocol):
    def rows(self, user: UserNumber, user_id: UserId) -> AsyncGenerator[Mapping[str, Any], None]:
        """One object a row, with its part's name in `type`, part by part; inside a snapshot."""
        ...


class ExportsUnit(Protocol):
    """What these steps need of a transaction."""

    @property
    def audit(self) -> Audit: ...
    @property
    def exports(self) -> Exports: ...


# Steps --------------------------------------------------------------------------------------------------------------


class ExportSteps:
    """clock_s: s since 1970."""

    def __init__(
        self,
        *,
        unit_of_work: Transactions[ExportsUnit],
        limits: Limits,
        quotas: Quotas,
        server_name: str,
        clock_s: Callable[[], float],
        lifetime_s: float = lifetime_s_default,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._limits = limits
        self._quotas = quotas
        self._server_name = server_name
        self._clock_s = clock_s
        self._lifetime_s = lifetime_s
        self._running_count = 0

    async def begin(self, caller: Caller, *, address: str = "") -> AsyncIterator[bytes]:
        """Chunks of lines, to be read once; nothing is held before the first is asked for.

        Raises: RateLimited, Overloaded, StoreUnavailable. Out of the iterator too, when the answer has begun already.
        """
        self._check_room()
        self._limits.take("exports_account", caller.user, asker_of(caller, "post_v1_account_export", address=address))
        async with self._unit_of_work.begin() as unit:
            await unit.audit.record(
                actor=caller.user, device=caller.device, action="account.exported", object_=caller.user
            )
        return self._chunks(caller)

    async def _chunks(self, caller: Caller) -> AsyncGenerator[bytes, None]:
        self._check_room()
        self._running_count += 1
        try:
            async with aclosing(self._lines(caller)) as lines:
                held: list[bytes] = []
                size_bytes = 0
                async for line in lines:
                    held.append(line)
                    size_bytes += len(line)
                    if size_bytes >= chunk_bytes_min:
                        yield b"".join(held)
                        held, size_bytes = [], 0
                yield b"".join(held)
        finally:
            self._running_count -= 1

    def _check_room(self) -> None:
        if self._running_count >= running_count_max:
            raise Overloaded(limiter="exports", retry_after_s=30.0)

    async def _lines(self, caller: Caller) -> AsyncGenerator[bytes, None]:
        started_s, count = self._clock_s(), 0
        for first in self._first(caller, started_s):
            count += 1
            yield _line(first)
        async with (
            self._unit_of_work.snapshot() as unit,
            aclosing(unit.exports.rows(caller.user_number, caller.user)) as rows,
        ):
            async for row in rows:
                if self._clock_s() - started_s > self._lifetime_s:
                    raise Overloaded(limiter="export_lifetime", retry_after_s=60.0)
                count += 1
                yield _line(row)
        yield _line({"type": "end", "lines_count": count + 1})

    def _first(self, caller: Caller, now_s: float) -> Iterable[Mapping[str, Any]]:
        yield {
            "type": "export",
            "format": export_format,
            "server": self._server_name,
            "user": caller.user,
            "time": int(now_s * 1000),
        }
        yield {"type": "quotas", **self._quotas.shown(caller.role)}


def _line(row: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(row) + b"\n"
