"""The pipeline connection and its binary values against a real PostgreSQL."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import psycopg
import pytest
import trio
import trio.testing

from chatty.errors import OutcomeUnknown, StoreUnavailable
from chatty.store import binary
from chatty.store.connection import TrioConnection, open_connection
from chatty.store.embedded import EmbeddedServer
from chatty.store.pipeline import PipelineConnection, open_pipeline

_INSERT = "INSERT INTO note SELECT * FROM unnest($1::bigint[], $2::bytea[])"


@pytest.fixture
async def other(empty_database: str) -> AsyncIterator[TrioConnection]:
    async with open_connection(empty_database) as opened:
        await opened.execute("CREATE TABLE note (id bigint PRIMARY KEY, body bytea)")
        yield opened


@pytest.fixture
async def pipeline(empty_database: str, other: TrioConnection) -> AsyncIterator[PipelineConnection]:
    async with open_pipeline(empty_database, drain_grace_s=0.5) as opened:
        await opened.prepare("insert", _INSERT)
        await opened.prepare("ids", "SELECT id FROM note ORDER BY id")
        await opened.prepare("lock", "SELECT id FROM note WHERE id = $1 FOR UPDATE")
        yield opened


@pytest.fixture
async def echoing(postgres: EmbeddedServer) -> AsyncIterator[PipelineConnection]:
    """For the tests that need no table."""
    async with open_pipeline(postgres.address) as opened:
        yield opened


def note(number: int, body: bytes = b"body") -> tuple[str, Sequence[bytes]]:
    return "insert", (binary.int8_array([number]), binary.bytea_array([body]))


async def stored_ids(other: TrioConnection) -> list[int]:
    return [row[0] async for row in await other.execute("SELECT id FROM note ORDER BY id")]


Packer = Callable[[Any], bytes]


@pytest.mark.parametrize(
    ("sql_type", "pack", "value"),
    [
        ("bigint", binary.int8, -(2**63)),
        ("int", binary.int4, -(2**31)),
        ("bool", binary.boolean, True),
        ("text", binary.text, "grüße 👋"),
        ("bytea", bytes, b"\x00\xff"),
        ("bigint[]", binary.int8_array, [0, 1, -1, 2**63 - 1]),
        ("bigint[]", binary.int8_array, []),
        ("int[]", binary.int4_array, [7, -7]),
        ("bool[]", binary.bool_array, [True, False]),
        ("bytea[]", binary.bytea_array, [b"", b"\x00", b"x" * 300]),
        ("bytea[]", binary.bytea_array, []),
        ("text[]", binary.text_array, ["", "a,b", 'c"{}', "ü"]),
        ("bigint[]", binary.nullable_int8_array, [None, 5, None]),
        ("bigint[]", binary.nullable_int8_array, [1, 2]),
        ("int[]", binary.nullable_int4_array, [None, 5]),
        ("bool[]", binary.nullable_bool_array, [None, True]),
        ("bytea[]", binary.nullable_bytea_array, [None, b""]),
        ("text[]", binary.nullable_text_array, [None, ""]),
    ],
)
async def test_what_is_packed_comes_back(
    echoing: PipelineConnection, sql_type: str, pack: Packer, value: object
) -> None:
    await echoing.prepare("echo", f"SELECT $1::{sql_type}, $1::{sql_type}::text, NULL::{sql_type}")
    [[(back, printed, nothing)]] = await echoing.trip([("echo", [pack(value)])])
    assert back == value
    assert printed is not None
    assert nothing is None


async def test_every_statement_of_a_trip_gives_its_rows(pipeline: PipelineConnection) -> None:
    results = await pipeline.trip([note(2), note(1), ("ids", ())])
    assert results == [[], [], [(1,), (2,)]]


async def test_a_trip_is_one_transaction(pipeline: PipelineConnection, other: TrioConnection) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        await pipeline.trip([note(1), note(1), note(2)])
    assert await stored_ids(other) == []
    await pipeline.trip([note(3)])
    assert await stored_ids(other) == [3]


async def test_a_step_over_two_trips_commits_with_the_second(
    pipeline: PipelineConnection, other: TrioConnection
) -> None:
    assert await pipeline.trip([("begin", ()), note(1), ("ids", ())]) == [[], [], [(1,)]]
    assert pipeline.is_in_transaction
    assert await stored_ids(other) == []
    await pipeline.trip([note(2), ("commit", ())])
    assert await stored_ids(other) == [1, 2]


@pytest.mark.parametrize("failing_trip", [1, 2])
async def test_a_failure_inside_a_transaction_rolls_it_back(
    pipeline: PipelineConnection, other: TrioConnection, failing_trip: int
) -> None:
    async def step() -> None:
        await pipeline.trip([("begin", ()), note(1), note(1 if failing_trip == 1 else 2)])
        await pipeline.trip([note(3), note(2), ("commit", ())])

    with pytest.raises(psycopg.errors.UniqueViolation):
        await step()
    assert not pipeline.is_in_transaction
    assert not pipeline.is_broken
    await pipeline.trip([("begin", ()), note(9), ("commit", ())])
    assert await stored_ids(other) == [9]


async def test_cancelled_while_it_waits_for_a_lock_it_reads_on_and_rolls_back(
    pipeline: PipelineConnection, other: TrioConnection
) -> None:
    await pipeline.trip([note(1)])
    async with trio.open_nursery() as nursery, other.transaction():
        await other.execute("SELECT id FROM note WHERE id = 1 FOR UPDATE")
        nursery.start_soon(pipeline.trip, [("begin", ()), note(2), ("lock", [binary.int8(1)])])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()  # the trip is now in its shielded drain; our commit lets it end
    assert not pipeline.is_broken
    assert not pipeline.is_in_transaction
    assert await pipeline.trip([("ids", ())]) == [[(1,)]]


async def test_answers_that_do_not_come_within_the_grace_close_the_connection(pipeline: PipelineConnection) -> None:
    await pipeline.prepare("sleep", "SELECT pg_sleep(60)")
    with trio.move_on_after(0.02) as scope:
        await pipeline.trip([("sleep", ())])
    assert scope.cancelled_caught
    assert pipeline.is_broken
    with pytest.raises(StoreUnavailable):
        await pipeline.trip([("ids", ())])


async def lose(pipeline: PipelineConnection, other: TrioConnection) -> None:
    await other.execute("SELECT pg_terminate_backend(%s, 5000)", [pipeline.backend_pid])


async def test_lost_before_commit_nothing_was_done(pipeline: PipelineConnection, other: TrioConnection) -> None:
    await pipeline.trip([("begin", ()), note(1)])
    await lose(pipeline, other)
    with pytest.raises(StoreUnavailable):
        await pipeline.trip([note(2)])
    assert pipeline.is_broken
    assert await stored_ids(other) == []


async def test_lost_with_a_commit_under_way_the_outcome_is_unknown(
    pipeline: PipelineConnection, other: TrioConnection
) -> None:
    await pipeline.trip([("begin", ()), note(1)])
    await lose(pipeline, other)
    with pytest.raises(OutcomeUnknown):
        await pipeline.trip([note(2), ("commit", ())])


async def test_killed_in_the_middle_of_an_implicit_transaction_the_outcome_is_unknown(
    pipeline: PipelineConnection, other: TrioConnection
) -> None:
    await pipeline.prepare("sleep", "SELECT pg_sleep(60)")
    outcomes: list[str] = []

    async def run() -> None:
        with pytest.raises(OutcomeUnknown):
            await pipeline.trip([note(1), ("sleep", ())])
        outcomes.append("unknown")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        await lose(pipeline, other)
    assert outcomes == ["unknown"]


async def test_more_than_the_socket_buffers_hold_goes_both_ways_at_once(pipeline: PipelineConnection) -> None:
    await pipeline.prepare("echo", "SELECT $1::bytea")
    large = b"x" * 2_000_000
    results = await pipeline.trip([("echo", [large])] * 6)
    assert [row for [[row]] in results] == [large] * 6


class QuickAnswers(PipelineConnection):
    """By the time that everything was sent, the whole answer has been taken in too: libpq reads while it writes."""

    async def _flush(self) -> None:
        await super()._flush()
        while self._pgconn.is_busy():
            self._pgconn.consume_input()


async def test_an_answer_that_is_there_before_it_is_waited_for_is_seen(postgres: EmbeddedServer) -> None:
    async with open_connection(postgres.address) as connection:
        pipeline = QuickAnswers(connection, drain_grace_s=0.5)
        with trio.fail_after(5):
            await pipeline.prepare("length", "SELECT octet_length($1::bytea)::bigint")
            assert await pipeline.trip([("length", [b"x" * 300_000])]) == [[(300_000,)]]


async def test_a_stopped_server_does_not_hold_a_cancelled_trip_for_ever(pipeline: PipelineConnection) -> None:
    pid = pipeline.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with trio.move_on_after(0.02):
            await pipeline.trip([("ids", ())])
    finally:
        os.kill(pid, signal.SIGCONT)
    assert pipeline.is_broken


async def test_a_wrong_statement_is_refused_when_it_is_prepared(pipeline: PipelineConnection) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        await pipeline.prepare("wrong", "SELECT * FROM no_such_table")
    with pytest.raises(TypeError, match="cast it"):
        await pipeline.prepare("unreadable", "SELECT '{}'::jsonb")
    assert await pipeline.trip([("ids", ())]) == [[]]


async def test_the_planner_options_are_of_this_connection_only(
    pipeline: PipelineConnection, other: TrioConnection
) -> None:
    await pipeline.prepare("options", "SELECT current_setting('plan_cache_mode'), current_setting('enable_seqscan')")
    assert await pipeline.trip([("options", ())]) == [[("force_generic_plan", "off")]]
    row = await (await other.execute("SELECT current_setting('plan_cache_mode')")).fetchone()
    assert row == ("auto",)
