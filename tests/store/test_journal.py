"""The journal's connections come back when PostgreSQL does. What it decides is tested with the rooms and the crash test."""

import psycopg
import pytest
import trio
from psycopg import conninfo

from chatty.errors import StoreUnavailable
from chatty.services.messages import Result
from chatty.store.embedded import EmbeddedServer
from chatty.store.journal import PostgresJournal, open_journal

_END_BACKENDS = """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE application_name = 'chatty journal' AND datname = %s"""
EMPTY = Result(answers=[], appended=[])


def end_backends(server: EmbeddedServer, database: str) -> None:
    """The server ends the journal's connections, and has done so when this returns."""
    with psycopg.connect(server.superuser_address, autocommit=True) as connection:
        connection.execute(_END_BACKENDS, [conninfo.conninfo_to_dict(database)["dbname"]])


async def commit_nothing(journal: PostgresJournal, *, waits: bool) -> Result:
    return await journal.commit([], waits=waits)


@pytest.mark.parametrize("waits", [False, True], ids=["the group's", "the blocking one's"])
async def test_a_lost_connection_is_opened_anew(postgres: EmbeddedServer, database: str, waits: bool) -> None:
    async with open_journal(database, clock=lambda: 1) as journal:
        for _ in range(3):
            assert await commit_nothing(journal, waits=waits) == EMPTY
            await trio.to_thread.run_sync(end_backends, postgres, database)
            with pytest.raises(StoreUnavailable):
                await commit_nothing(journal, waits=waits)


async def test_without_a_server_it_says_so_each_time() -> None:
    async with open_journal("host=/nowhere user=nobody", clock=lambda: 1) as journal:
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await commit_nothing(journal, waits=False)
