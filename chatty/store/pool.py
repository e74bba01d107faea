"""A bounded pool of Trio connections. It has no task of its own: all work is done by whoever borrows or returns.

A *slot* is the right to hold one connection; there are `connections_max`. Who finds none waits in order, at most
`waiting_max` of them and each at most `wait_timeout_s`; a returned slot is handed straight to the longest waiter, so
nobody overtakes. Idle connections are taken newest first, so that an unused surplus grows old and is closed.

A borrower never gets a connection that is known to be dead: the kernel is asked whether the server has hung up (2 µs),
and one idle for `check_after_s` makes a round trip first. A returned connection goes back only if it is quiet: an open
transaction is rolled back, everything doubtful is closed.

The server gone: the borrower tries again with a jittered, growing pause until its `wait_timeout_s` is over, then gets
`StoreUnavailable`. Who waits for a slot meanwhile gets the same; `Overloaded` is for a pool that is merely busy.

Cancelled, at any await: the slot goes on to the next in line, and a half-made connection is closed.
"""

import random
import select
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
import trio
from psycopg.pq import TransactionStatus

from chatty.errors import Overloaded, StoreUnavailable
from chatty.store.connection import TrioConnection

_limiter = "database_pool"


@dataclass(frozen=True, kw_only=True)
class PoolLimits:
    connections_max: int = 10
    waiting_max: int = 1000
    wait_timeout_s: float = 5.0
    connect_timeout_s: float = 5.0
    check_after_s: float = 30.0
    idle_max_s: float = 300.0
    lifetime_max_s: float = 3600.0
    retry_delay_s_min: float = 0.05
    retry_delay_s_max: float = 2.0
    rollback_grace_s: float = 2.0


@dataclass(frozen=True, kw_only=True)
class PoolStatistics:
    """A plain read. Counts end in `_count` and only grow when they say so."""

    connections_max: int
    size: int  # open connections, idle or borrowed
    idle_count: int
    borrowed_count: int  # slots in use, a connection being made included
    waiting_count: int
    is_down: bool  # the last attempt to connect failed
    borrows_total: int
    wait_s_total: float
    saturated_total: int
    connects_total: int
    connect_failures_total: int
    discards_total: int
    trips_total: int  # operations on connections that were given back


@dataclass(eq=False)
class _Totals:
    borrows: int = 0
    wait_s: float = 0.0
    saturated: int = 0
    connects: int = 0
    connect_failures: int = 0
    discards: int = 0
    trips: int = 0


@dataclass(eq=False)
class _Pooled:
    connection: TrioConnection
    expires_at: float
    idle_since: float = field(default=0.0)


class Pool:
    """Lend connections to one database. Made by `open_pool()`."""

    def __init__(
        self,
        address: str,
        *,
        limits: PoolLimits,
        application_name: str,
        statement_timeout_s: float,
        on_wait: Callable[[float], None] | None,
        jitter: Callable[[], float],
    ) -> None:
        self._address = address
        self._limits = limits
        self._application_name = application_name
        self._statement_timeout_s = statement_timeout_s
        self._on_wait = on_wait
        self._jitter = jitter
        self._free_slots_count = limits.connections_max
        self._queue = trio.lowlevel.ParkingLot()
        self._idle: deque[_Pooled] = deque()
        self._size = 0
        self._down_reason: str | None = None
        self._is_closed = False
        self._totals = _Totals()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[TrioConnection]:
        """Borrow a connection for the block.

        Raises: Overloaded when waiting_max wait already, or none came free in wait_timeout_s; StoreUnavailable.
        """
        deadline = trio.current_time() + self._limits.wait_timeout_s
        await self._take_slot(deadline)
        try:
            pooled = await self._healthy(deadline)
            try:
                yield pooled.connection
            finally:
                await self._give_back(pooled)
        finally:
            self._pass_slot_on()

    @asynccontextmanager
    async def transaction(self, *, isolation: str | None = None) -> AsyncIterator[TrioConnection]:
        """Borrow a connection with a transaction open: COMMIT at the end of the block, ROLLBACK when it raises.

        isolation: "read committed", "repeatable read" or "serializable".

        Raises: as connection(); OutcomeUnknown when the server was lost at COMMIT.
        """
        async with self.connection() as connection, connection.transaction(isolation=isolation):
            yield connection

    def statistics(self) -> PoolStatistics:
        totals = self._totals
        return PoolStatistics(
            connections_max=self._limits.connections_max,
            size=self._size,
            idle_count=len(self._idle),
            borrowed_count=self._limits.connections_max - self._free_slots_count,
            waiting_count=self._queue.statistics().tasks_waiting,
            is_down=self._down_reason is not None,
            borrows_total=totals.borrows,
            wait_s_total=totals.wait_s,
            saturated_total=totals.saturated,
            connects_total=totals.connects,
            connect_failures_total=totals.connect_failures,
            discards_total=totals.discards,
            trips_total=totals.trips,
        )

    async def close(self) -> None:
        """Lend no more; close what is idle now and what is borrowed when it comes back."""
        self._is_closed = True
        while self._idle:
            await self._discard(self._idle.pop())

    # Slots ----------------------------------------------------------------------------------------------------------

    async def _take_slot(self, deadline: float) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_closed:
            raise StoreUnavailable("the database pool is closed")
        started_at = trio.current_time()
        if self._free_slots_count:
            self._free_slots_count -= 1
        else:
            await self._queue_for_slot(deadline)
        waited_s = trio.current_time() - started_at
        self._totals.borrows += 1
        self._totals.wait_s += waited_s
        if self._on_wait is not None:
            self._on_wait(waited_s)

    async def _queue_for_slot(self, deadline: float) -> None:
        if len(self._queue) < self._limits.waiting_max:
            with trio.CancelScope(deadline=deadline):
                await self._queue.park()  # returns only when the slot is ours: a cancelled waiter was never given one
                return
        self._totals.saturated += 1
        if self._down_reason is not None:
            raise StoreUnavailable(self._down_reason)
        raise Overloaded(limiter=_limiter, retry_after_s=1.0)

    def _pass_slot_on(self) -> None:
        if not self._queue.unpark(count=1):
            self._free_slots_count += 1

    # Connections ----------------------------------------------------------------------------------------------------

    async def _healthy(self, deadline: float) -> _Pooled:
        """An idle connection that lives, else a new one."""
        while self._idle:
            pooled = self._idle.pop()
            try:
                is_healthy = await self._is_healthy(pooled)
            except BaseException:
                await self._discard(pooled)
                raise
            if is_healthy:
                return pooled
            await self._discard(pooled)
        return await self._connected(deadline)

    async def _is_healthy(self, pooled: _Pooled) -> bool:
        now = trio.current_time()
        if now >= pooled.expires_at or pooled.connection.closed or _has_something_to_say(pooled.connection):
            return False
        if now - pooled.idle_since < self._limits.check_after_s:
            return True
        with trio.move_on_after(self._limits.connect_timeout_s):
            try:
                await pooled.connection.execute("")
                return True
            except (StoreUnavailable, Overloaded, psycopg.Error):
                return False
        return False

    async def _connected(self, deadline: float) -> _Pooled:
        delay_s = self._limits.retry_delay_s_min
        while True:
            try:
                connection = await self._connect(deadline)
            except StoreUnavailable as error:
                self._totals.connect_failures += 1
                self._down_reason = str(error)
                pause_s = delay_s * (0.5 + self._jitter())
                if trio.current_time() + pause_s >= deadline:
                    raise
                await trio.sleep(pause_s)
                delay_s = min(2 * delay_s, self._limits.retry_delay_s_max)
            else:
                return self._opened(connection)

    async def _connect(self, deadline: float) -> TrioConnection:
        left_s = max(deadline - trio.current_time(), 0.0)
        return await TrioConnection.connect(
            self._address,
            application_name=self._application_name,
            statement_timeout_s=self._statement_timeout_s,
            timeout_s=min(self._limits.connect_timeout_s, left_s),
        )

    def _opened(self, connection: TrioConnection) -> _Pooled:
        self._down_reason = None
        self._size += 1
        self._totals.connects += 1
        # Lifetimes differ by up to a fifth, or all connections of a busy start would be renewed in one moment.
        lifetime_s = self._limits.lifetime_max_s * (1.0 - 0.2 * self._jitter())
        return _Pooled(connection, expires_at=trio.current_time() + lifetime_s)

    async def _give_back(self, pooled: _Pooled) -> None:
        now = trio.current_time()
        is_quiet = await self._quiet(pooled.connection)
        self._totals.trips += pooled.connection.trips_count
        pooled.connection.trips_count = 0
        if not is_quiet or self._is_closed or now >= pooled.expires_at:
            await self._discard(pooled)
            return
        pooled.idle_since = now
        self._idle.append(pooled)
        while self._idle[0].idle_since < now - self._limits.idle_max_s:
            await self._discard(self._idle.popleft())

    async def _quiet(self, connection: TrioConnection) -> bool:
        """Whether the next borrower finds no transaction; shielded, or a cancelled borrower would leave one open."""
        status = connection.pgconn.transaction_status
        if connection.closed or status in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN):
            return False
        if status == TransactionStatus.IDLE:
            return True
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._limits.rollback_grace_s):
            try:
                await connection.rollback()
            except (StoreUnavailable, Overloaded, psycopg.Error):
                return False
        return connection.pgconn.transaction_status == TransactionStatus.IDLE

    async def _discard(self, pooled: _Pooled) -> None:
        self._size -= 1
        self._totals.discards += 1
        await pooled.connection.close()


@asynccontextmanager
async def open_pool(
    address: str,
    *,
    limits: PoolLimits | None = None,
    application_name: str = "chatty",
    statement_timeout_s: float = 30.0,
    on_wait: Callable[[float], None] | None = None,
    jitter: Callable[[], float] = random.random,
) -> AsyncIterator[Pool]:
    """A pool for the block. Nothing is connected before the first borrower comes.

    on_wait: told the seconds that each borrower waited for its slot, for a histogram. jitter: gives 0.0–1.0.
    """
    pool = Pool(
        address,
        limits=limits or PoolLimits(),
        application_name=application_name,
        statement_timeout_s=statement_timeout_s,
        on_wait=on_wait,
        jitter=jitter,
    )
    try:
        yield pool
    finally:
        await pool.close()


def _has_something_to_say(connection: TrioConnection) -> bool:
    """Whether the server sent an idle connection something: a farewell, most likely; a notice, perhaps."""
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))
