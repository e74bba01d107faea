"""Transactions over Tables, with PostgreSQL's manners as far as the doubled ports rely on them.

A statement of a READ COMMITTED transaction sees what was committed before it and the transaction's own writes; a snapshot sees
one moment; without a transaction each statement is one by itself. Row locks are held to the end and waited for. Writes are
functions of the tables: at the commit they are applied to what is committed then, all or none.

Each statement and each commit asks the Weather, which may wait, fail or lose the answer; by itself it lets others run.
*Cancelled*, or an error: the locks are free and nothing is stored; at the commit either all is or nothing.
"""

from collections.abc import AsyncIterator, Callable, Collection, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Literal, TypeVar

import trio
from trio.lowlevel import ParkingLot

from chatty.testing.tables import Tables

T = TypeVar("T")
Moment = Literal["statement", "commit", "committed"]
Isolation = Literal["read committed", "snapshot", "autocommit"]
Row = tuple[str, Hashable]  # table and key


class Weather:
    """What comes between the store and whoever asks it. The product's own stores have networks and disks for it."""

    async def reach(self, moment: Moment) -> None:
        """Before a statement, before a commit, and after it, when only the answer can be lost.

        Raises: StoreUnavailable; OutcomeUnknown at a commit.
        """
        await trio.lowlevel.checkpoint()


@dataclass
class RowLocks:
    _owners: dict[Row, object] = field(default_factory=dict)
    _queues: dict[Row, ParkingLot] = field(default_factory=dict)

    def take(self, owner: object, row: Row) -> bool:
        """False: somebody else holds it."""
        return self._owners.setdefault(row, owner) is owner

    async def wait(self, owner: object, rows: Collection[Row]) -> None:
        """In the order given. Cancelled: those that it got are kept until release()."""
        for row in rows:
            while not self.take(owner, row):
                await self._queues.setdefault(row, ParkingLot()).park()

    def release(self, owner: object) -> None:
        for row in [row for row, holder in self._owners.items() if holder is owner]:
            del self._owners[row]
            if row in self._queues:
                self._queues.pop(row).unpark_all()


class MemoryStore:
    """What is committed. It outlives whoever uses it, as a database does. on_commit: told of each commit, after it."""

    def __init__(
        self,
        tables: Tables | None = None,
        *,
        weather: Weather | None = None,
        on_commit: Callable[[Tables, Tables], None] = lambda before, after: None,
    ) -> None:
        self.tables = tables or Tables()
        self.locks = RowLocks()
        self.weather = weather or Weather()
        self._on_commit = on_commit
        self._numbers = count(1 + max([*self.tables.users, *self.tables.rooms, *self.tables.mailbox], default=0))

    def next_number(self) -> int:
        """Of a sequence: taken for good, whether the transaction commits or not."""
        return next(self._numbers)

    async def commit(self, writes: Collection[Callable[[Tables], object]]) -> None:
        """Raises: AlreadyThere, and nothing is stored; what the weather raises."""
        await self.weather.reach("commit")
        before, after = self.tables, self.tables.copy()
        for write in writes:
            write(after)
        self.tables = after
        self._on_commit(before, after)
        await self.weather.reach("committed")

    @asynccontextmanager
    async def transaction(self, isolation: Isolation) -> "AsyncIterator[Transaction]":
        transaction = Transaction(self, isolation)
        try:
            yield transaction
            await transaction.commit()
        finally:
            self.locks.release(transaction)


class Transaction:
    """One connection's; the doubles of the features' stores share it."""

    def __init__(self, store: MemoryStore, isolation: Isolation) -> None:
        self._store = store
        self._isolation = isolation
        self._snapshot: Tables | None = None
        self._writes: list[Callable[[Tables], object]] = []

    async def read(self) -> Tables:
        """What a statement sees. Not to be changed."""
        await self._store.weather.reach("statement")
        if self._isolation == "snapshot":
            self._snapshot = self._snapshot or self._store.tables
            return self._snapshot
        return self._current()

    def _current(self) -> Tables:
        if not self._writes:
            return self._store.tables
        tables = self._store.tables.copy()
        for write in self._writes:
            write(tables)
        return tables

    async def write(self, change: Callable[[Tables], T]) -> T:
        """Change what is stored; returns what the change gives. It is made once more at the commit. Raises: AlreadyThere."""
        assert self._isolation != "snapshot", "a snapshot is read only"
        await self._store.weather.reach("statement")
        given = change(self._current().copy())
        if self._isolation == "autocommit":
            await self._store.commit([change])
        else:
            self._writes.append(change)
        return given

    async def lock(self, rows: Collection[Row]) -> None:
        await self._store.weather.reach("statement")
        await self._store.locks.wait(self, rows)

    def lock_at_once(self, row: Row) -> bool:
        """False: somebody else holds it."""
        return self._store.locks.take(self, row)

    def next_number(self) -> int:
        return self._store.next_number()

    async def commit(self) -> None:
        if self._writes:
            await self._store.commit(self._writes)
