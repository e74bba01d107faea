"""UnitOfWork on the pool: one connection, one transaction, the features' stores on it."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from chatty.services.units import Transactions, Unit
from chatty.store.accounts import PostgresAccounts
from chatty.store.audit import PostgresAudit
from chatty.store.blocks import PostgresBlocks
from chatty.store.cleanup import PostgresLeftovers
from chatty.store.connection import TrioConnection
from chatty.store.console import PostgresConsole
from chatty.store.crashes import PostgresCrashes
from chatty.store.deletions import PostgresDeletions
from chatty.store.devices import PostgresDevices
from chatty.store.expiry import PostgresCleanup
from chatty.store.exports import PostgresExports
from chatty.store.generations import PostgresGenerations
from chatty.store.integrity import PostgresIntegrity
from chatty.store.jobs import PostgresJobs
from chatty.store.key_rotation import PostgresSealedRows
from chatty.store.keys import PostgresKeys
from chatty.store.mailbox import PostgresMailbox
from chatty.store.owed_devices import PostgresOwedRooms
from chatty.store.pool import Pool
from chatty.store.preferences import PostgresPreferences
from chatty.store.receipts import PostgresReadCursors
from chatty.store.registration import PostgresRegistrations
from chatty.store.requests import PostgresRequests
from chatty.store.room_directory import PostgresRoomDirectory
from chatty.store.room_links import PostgresRoomLinks
from chatty.store.rooms import PostgresRooms
from chatty.store.second_factors import PostgresSecondFactors
from chatty.store.server import PostgresServer
from chatty.store.sessions import PostgresSessions
from chatty.store.sizes import PostgresSizes
from chatty.store.statistics import PostgresStatistics
from chatty.store.streams import PostgresStreams
from chatty.store.tokens import PostgresFamilies
from chatty.store.users import PostgresUsers


class PostgresUnit(Unit):
    """The features' stores on one connection."""

    def __init__(self, connection: TrioConnection) -> None:
        self._audit = PostgresAudit(connection)
        self._accounts = PostgresAccounts(connection)
        self._blocks = PostgresBlocks(connection)
        self._cleanup = PostgresCleanup(connection)
        self._console = PostgresConsole(connection)
        self._crashes = PostgresCrashes(connection)
        self._sizes = PostgresSizes(connection)
        self._exports = PostgresExports(connection)
        self._generations = PostgresGenerations(connection)
        self._deletions = PostgresDeletions(connection)
        self._registrations = PostgresRegistrations(connection)
        self._users = PostgresUsers(connection)
        self._devices = PostgresDevices(connection)
        self._sealed_rows = PostgresSealedRows(connection)
        self._server = PostgresServer(connection)
        self._sessions = PostgresSessions(connection)
        self._second_factors = PostgresSecondFactors(connection)
        self._families = PostgresFamilies(connection)
        self._requests = PostgresRequests(connection)
        self._keys = PostgresKeys(connection)
        self._mailbox = PostgresMailbox(connection)
        self._rooms = PostgresRooms(connection)
        self._links = PostgresRoomLinks(connection)
        self._directory = PostgresRoomDirectory(connection)
        self._streams = PostgresStreams(connection)
        self._read_cursors = PostgresReadCursors(connection)
        self._preferences = PostgresPreferences(connection)
        self._owed_rooms = PostgresOwedRooms(connection)
        self._jobs = PostgresJobs(connection)
        self._leftovers = PostgresLeftovers(connection)
        self._integrity = PostgresIntegrity(connection)
        self._statistics = PostgresStatistics(connection)

    @property
    def audit(self) -> PostgresAudit:
        return self._audit

    @property
    def accounts(self) -> PostgresAccounts:
        return self._accounts

    @property
    def blocks(self) -> PostgresBlocks:
        return self._blocks

    @property
    def cleanup(self) -> PostgresCleanup:
        return self._cleanup

    @property
    def console(self) -> PostgresConsole:
        return self._console

    @property
    def crashes(self) -> PostgresCrashes:
        return self._crashes

    @property
    def sizes(self) -> PostgresSizes:
        return self._sizes

    @property
    def exports(self) -> PostgresExports:
        return self._exports

    @property
    def generations(self) -> PostgresGenerations:
        return self._generations

    @property
    def deletions(self) -> PostgresDeletions:
        return self._deletions

    @property
    def registrations(self) -> PostgresRegistrations:
        return self._registrations

    @property
    def users(self) -> PostgresUsers:
        return self._users

    @property
    def sealed_rows(self) -> PostgresSealedRows:
        return self._sealed_rows

    @property
    def server(self) -> PostgresServer:
        return self._server

    @property
    def sessions(self) -> PostgresSessions:
        return self._sessions

    @property
    def second_factors(self) -> PostgresSecondFactors:
        return self._second_factors

    @property
    def families(self) -> PostgresFamilies:
        return self._families

    @property
    def devices(self) -> PostgresDevices:
        return self._devices

    @property
    def requests(self) -> PostgresRequests:
        return self._requests

    @property
    def keys(self) -> PostgresKeys:
        return self._keys

    @property
    def mailbox(self) -> PostgresMailbox:
        return self._mailbox

    @property
    def rooms(self) -> PostgresRooms:
        return self._rooms

    @property
    def links(self) -> PostgresRoomLinks:
        return self._links

    @property
    def directory(self) -> PostgresRoomDirectory:
        return self._directory

    @property
    def streams(self) -> PostgresStreams:
        return self._streams

    @property
    def read_cursors(self) -> PostgresReadCursors:
        return self._read_cursors

    @property
    def preferences(self) -> PostgresPreferences:
        return self._preferences

    @property
    def owed_rooms(self) -> PostgresOwedRooms:
        return self._owed_rooms

    @property
    def jobs(self) -> PostgresJobs:
        return self._jobs

    @property
    def leftovers(self) -> PostgresLeftovers:
        return self._leftovers

    @property
    def integrity(self) -> PostgresIntegrity:
        return self._integrity

    @property
    def statistics(self) -> PostgresStatistics:
        return self._statistics


class PostgresUnitOfWork(Transactions[PostgresUnit]):
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def begin(self) -> AbstractAsyncContextManager[PostgresUnit]:
        return self._unit("read committed")

    def snapshot(self) -> AbstractAsyncContextManager[PostgresUnit]:
        return self._unit("repeatable read")

    @asynccontextmanager
    async def autocommit(self) -> AsyncIterator[PostgresUnit]:
        async with self._pool.connection() as connection:
            yield PostgresUnit(connection)

    @asynccontextmanager
    async def _unit(self, isolation: str) -> AsyncIterator[PostgresUnit]:
        async with self._pool.transaction(isolation=isolation) as connection:
            yield PostgresUnit(connection)
