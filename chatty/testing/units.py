"""UnitOfWork in memory: the doubles of the features' stores on one transaction of a MemoryStore."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from chatty.services.units import Transactions, Unit
from chatty.testing.audit import MemoryAudit
from chatty.testing.blocks import MemoryBlocks
from chatty.testing.keys import MemoryKeys
from chatty.testing.mailbox import MemoryMailbox
from chatty.testing.preferences import MemoryPreferences
from chatty.testing.receipts import MemoryReadCursors
from chatty.testing.requests import MemoryRequests
from chatty.testing.room_links import MemoryRoomDirectory, MemoryRoomLinks
from chatty.testing.rooms import MemoryRooms
from chatty.testing.streams import MemoryStreams
from chatty.testing.transactions import Isolation, MemoryStore, Transaction


class MemoryUnit(Unit):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    @property
    def audit(self) -> MemoryAudit:
        return MemoryAudit(self._transaction)

    @property
    def blocks(self) -> MemoryBlocks:
        return MemoryBlocks(self._transaction)

    @property
    def keys(self) -> MemoryKeys:
        return MemoryKeys(self._transaction)

    @property
    def mailbox(self) -> MemoryMailbox:
        return MemoryMailbox(self._transaction)

    @property
    def preferences(self) -> MemoryPreferences:
        return MemoryPreferences(self._transaction)

    @property
    def read_cursors(self) -> MemoryReadCursors:
        return MemoryReadCursors(self._transaction)

    @property
    def requests(self) -> MemoryRequests:
        return MemoryRequests(self._transaction)

    @property
    def links(self) -> MemoryRoomLinks:
        return MemoryRoomLinks(self._transaction)

    @property
    def directory(self) -> MemoryRoomDirectory:
        return MemoryRoomDirectory(self._transaction)

    @property
    def rooms(self) -> MemoryRooms:
        return MemoryRooms(self._transaction)

    @property
    def streams(self) -> MemoryStreams:
        return MemoryStreams(self._transaction)


class MemoryUnitOfWork(Transactions[MemoryUnit]):
    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def begin(self) -> AbstractAsyncContextManager[MemoryUnit]:
        return self._unit("read committed")

    def snapshot(self) -> AbstractAsyncContextManager[MemoryUnit]:
        return self._unit("snapshot")

    def autocommit(self) -> AbstractAsyncContextManager[MemoryUnit]:
        return self._unit("autocommit")

    @asynccontextmanager
    async def _unit(self, isolation: Isolation) -> AsyncIterator[MemoryUnit]:
        async with self._store.transaction(isolation) as transaction:
            yield MemoryUnit(transaction)
