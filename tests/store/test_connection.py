"""The Trio connection against a real PostgreSQL."""

import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import psycopg
import pytest
import trio
import trio.testing
from psycopg.pq import TransactionStatus

from chatty.errors import OutcomeUnknown, Overloaded, StoreUnavailable
from chatty.store.connection import TrioConnection, logs_tersely, open_connection

_LOSE_ITSELF_AT_COMMIT = """
    CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS
        $$BEGIN PERFORM {action}; RETURN NULL; END$$;
    CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION at_commit()"""


@pytest.fixture
async def connection(empty_database: str) -> AsyncIterator[TrioConnection]:
    async with open_connection(empty_database) as opened:
        await opened.execute("CREATE TABLE note (id int PRIMARY KEY, body text)")
        yield opened


@pytest.fixture
async def other(empty_database: str) -> AsyncIterator[TrioConnection]:
    async with open_connection(empty_database) as opened:
        yield opened


async def value(connection: TrioConnection, query: str, *params: object) -> object:
    row = await (await connection.execute(query.encode(), params)).fetchone()
    return None if row is None else row[0]


async def terminate(other: TrioConnection, victim: TrioConnection) -> None:
    await other.execute("SELECT pg_terminate_backend(%s, 5000)", [victim.info.backend_pid])


async def test_parameters_are_bound_by_the_server(connection: TrioConnection) -> None:
    hostile = "'; DROP TABLE note; --"
    assert await value(connection, "SELECT %s::text", hostile) == hostile


async def test_session_options_travel_with_the_start_up(empty_database: str) -> None:
    options = {"lock_timeout": "1234ms"}
    async with open_connection(
        empty_database, application_name="tester", statement_timeout_s=2.5, session_options=options
    ) as connection:
        assert await value(connection, "SHOW application_name") == "tester"
        assert await value(connection, "SHOW statement_timeout") == "2500ms"
        assert await value(connection, "SHOW lock_timeout") == "1234ms"


async def test_the_embedded_server_keeps_keys_out_of_its_log(connection: TrioConnection) -> None:
    assert await logs_tersely(connection)


async def test_a_cancelled_statement_is_stopped_and_the_connection_goes_on(
    connection: TrioConnection, other: TrioConnection
) -> None:
    with trio.move_on_after(0.05) as scope:
        await connection.execute("SELECT pg_sleep(60)")
    assert scope.cancelled_caught
    assert await value(connection, "SELECT 1") == 1
    assert await value(other, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == 0


async def test_a_server_that_ignores_the_cancel_costs_the_grace_and_the_connection(connection: TrioConnection) -> None:
    connection.cancel_grace_s = 0.1
    pid = connection.info.backend_pid
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.execute, "SELECT pg_sleep(60)")
        await trio.testing.wait_all_tasks_blocked()
        os.kill(pid, signal.SIGSTOP)
        nursery.cancel_scope.cancel()
    os.kill(pid, signal.SIGCONT)
    assert connection.closed


async def test_a_statement_beyond_its_deadline_is_stopped_by_the_server(empty_database: str) -> None:
    async with open_connection(empty_database, statement_timeout_s=0.05) as connection:
        with pytest.raises(Overloaded) as refused:
            await connection.execute("SELECT pg_sleep(60)")
        assert refused.value.limiter == "database_statement_timeout"
        assert await value(connection, "SELECT 1") == 1


async def test_a_server_that_hangs_beyond_that_costs_the_connection(empty_database: str) -> None:
    async with open_connection(empty_database) as connection:
        connection.answer_timeout_s = 0.1
        pid = connection.info.backend_pid
        os.kill(pid, signal.SIGSTOP)
        try:
            with trio.fail_after(5), pytest.raises(StoreUnavailable, match=r"did not answer within 0\.1 s"):
                await connection.execute("SELECT 1")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert connection.closed


async def test_waiting_for_a_notification_has_no_such_deadline(
    connection: TrioConnection, other: TrioConnection
) -> None:
    connection.answer_timeout_s = 0.01
    await connection.execute("LISTEN news")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notify_after_a_while, other)
        async for notice in connection.notifies(stop_after=1):
            assert notice.payload == "late"


async def notify_after_a_while(other: TrioConnection) -> None:
    await trio.sleep(0.1)  # ten times the deadline
    await other.execute("NOTIFY news, 'late'")


async def test_a_transaction_commits_at_the_end_of_its_block(connection: TrioConnection, other: TrioConnection) -> None:
    async with connection.transaction():
        await connection.execute("INSERT INTO note VALUES (1, 'kept')")
        assert await value(other, "SELECT count(*) FROM note") == 0
    assert await value(other, "SELECT body FROM note") == "kept"


async def test_an_error_in_the_block_rolls_back(connection: TrioConnection) -> None:
    async def insert_twice() -> None:
        async with connection.transaction():
            await connection.execute("INSERT INTO note VALUES (1, 'a')")
            await connection.execute("INSERT INTO note VALUES (1, 'b')")

    with pytest.raises(psycopg.errors.UniqueViolation):
        await insert_twice()
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert await value(connection, "SELECT count(*) FROM note") == 0


async def test_a_nested_transaction_is_a_savepoint(connection: TrioConnection) -> None:
    async with connection.transaction():
        await connection.execute("INSERT INTO note VALUES (1, 'a')")
        with pytest.raises(psycopg.errors.UniqueViolation):
            async with connection.transaction():
                await connection.execute("INSERT INTO note VALUES (1, 'b')")
    assert await value(connection, "SELECT body FROM note") == "a"


async def test_cancelled_inside_a_transaction_it_is_rolled_back(connection: TrioConnection) -> None:
    with trio.move_on_after(0.05) as scope:
        async with connection.transaction():
            await connection.execute("INSERT INTO note VALUES (1, 'lost')")
            await connection.execute("SELECT pg_sleep(60)")
    assert scope.cancelled_caught
    assert connection.info.transaction_status == TransactionStatus.IDLE
    assert await value(connection, "SELECT count(*) FROM note") == 0


async def test_a_commit_that_has_begun_is_not_cancelled(connection: TrioConnection) -> None:
    await connection.execute(_LOSE_ITSELF_AT_COMMIT.format(action="pg_sleep(0.3)").encode())
    with trio.CancelScope() as scope:
        async with connection.transaction():
            await connection.execute("INSERT INTO note VALUES (1, 'kept')")
            scope.deadline = trio.current_time() + 0.05
    assert await value(connection, "SELECT body FROM note") == "kept"


async def test_a_commit_that_outlasts_its_grace_is_of_unknown_outcome(connection: TrioConnection) -> None:
    await connection.execute(_LOSE_ITSELF_AT_COMMIT.format(action="pg_sleep(60)").encode())
    connection.commit_grace_s = 0.05
    with pytest.raises(OutcomeUnknown):
        async with connection.transaction():
            await connection.execute("INSERT INTO note VALUES (1, 'perhaps')")
    assert connection.closed


async def test_a_server_lost_at_commit_leaves_the_outcome_unknown(connection: TrioConnection) -> None:
    lose = _LOSE_ITSELF_AT_COMMIT.format(action="pg_terminate_backend(pg_backend_pid()), pg_sleep(60)")
    await connection.execute(lose.encode())
    with pytest.raises(OutcomeUnknown):
        async with connection.transaction():
            await connection.execute("INSERT INTO note VALUES (1, 'perhaps')")
    assert connection.closed


async def test_a_server_lost_before_commit_did_nothing(connection: TrioConnection, other: TrioConnection) -> None:
    async def insert_and_lose() -> None:
        async with connection.transaction():
            await connection.execute("INSERT INTO note VALUES (1, 'lost')")
            await terminate(other, connection)
            await connection.execute("SELECT 1")

    with pytest.raises(StoreUnavailable):
        await insert_and_lose()
    assert await value(other, "SELECT count(*) FROM note") == 0


async def test_a_block_that_swallowed_the_loss_does_not_count_as_committed(
    connection: TrioConnection, other: TrioConnection
) -> None:
    async def lose_and_go_on() -> None:
        async with connection.transaction():
            await terminate(other, connection)
            with pytest.raises(StoreUnavailable):
                await connection.execute("SELECT 1")

    with pytest.raises(StoreUnavailable, match="before COMMIT"):
        await lose_and_go_on()


async def test_isolation_is_of_one_transaction_only(connection: TrioConnection) -> None:
    async with connection.transaction(isolation="repeatable read"):
        assert await value(connection, "SHOW transaction_isolation") == "repeatable read"
    async with connection.transaction():
        assert await value(connection, "SHOW transaction_isolation") == "read committed"


async def test_notifications_arrive_and_a_cancelled_wait_harms_nothing(
    connection: TrioConnection, other: TrioConnection
) -> None:
    await connection.execute("LISTEN bell")
    with trio.move_on_after(0.02):
        async for _ in connection.notifies():
            pytest.fail("nobody has rung")
    await other.execute("SELECT pg_notify('bell', 'room 7')")
    assert [note.payload async for note in connection.notifies(timeout=5, stop_after=1)] == ["room 7"]
    assert [note async for note in connection.notifies(timeout=0.02)] == []
    assert await value(connection, "SELECT 1") == 1


async def test_copy_both_ways(connection: TrioConnection) -> None:
    cursor = connection.cursor()
    async with cursor.copy("COPY note FROM STDIN") as copy:
        for number in range(3):
            await copy.write_row((number, f"body {number}"))
    async with cursor.copy("COPY note TO STDOUT") as copy:
        assert len([row async for row in copy.rows()]) == 3


async def test_more_than_the_socket_buffers_hold_goes_both_ways(connection: TrioConnection) -> None:
    large = b"x" * 3_000_000
    assert await value(connection, "SELECT %s::bytea", large) == large


async def test_psycopg_pipelines_work(connection: TrioConnection) -> None:
    async with connection.pipeline(), connection.transaction():
        cursors = [await connection.execute("SELECT %s::int", [number]) for number in range(5)]
        assert [await cursor.fetchone() for cursor in cursors] == [(number,) for number in range(5)]


async def test_two_tasks_on_one_connection_take_turns(connection: TrioConnection) -> None:
    found: list[object] = []

    async def ask(number: int) -> None:
        found.append(await value(connection, "SELECT %s::int FROM pg_sleep(0.01)", number))

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, number)
    assert sorted(map(str, found)) == ["0", "1", "2", "3", "4"]


async def test_no_server_is_a_typed_error(open_directory: Path) -> None:
    with pytest.raises(StoreUnavailable):
        await TrioConnection.connect(f"host={open_directory} user=nobody dbname=none")


async def test_an_unknown_host_name_is_a_typed_error() -> None:
    with pytest.raises(StoreUnavailable, match="not found"):
        await TrioConnection.connect("host=no-such-host.invalid user=nobody dbname=none")


async def test_a_server_that_never_answers_is_given_up_at_the_deadline() -> None:
    async with trio.open_nursery() as nursery:
        listen = partial(trio.serve_tcp, _say_nothing, 0, host="127.0.0.1")
        listeners: list[trio.SocketListener] = await nursery.start(listen)
        port = listeners[0].socket.getsockname()[1]
        with pytest.raises(StoreUnavailable, match="within"):
            await TrioConnection.connect(f"host=localhost port={port} user=a dbname=b", timeout_s=0.1)
        nursery.cancel_scope.cancel()


async def _say_nothing(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def test_the_loss_of_the_server_is_a_typed_error(connection: TrioConnection, other: TrioConnection) -> None:
    async with trio.open_nursery() as nursery:

        async def wait_for_loss() -> None:
            with pytest.raises(StoreUnavailable):
                await connection.execute("SELECT pg_sleep(60)")

        nursery.start_soon(wait_for_loss)
        await trio.testing.wait_all_tasks_blocked()
        await terminate(other, connection)
    assert connection.closed
