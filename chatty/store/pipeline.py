"""A connection held in libpq's pipeline mode: prepared statements, binary values, one network trip for a whole step.

States: *quiet* (no transaction), *in a transaction* (a trip held BEGIN and no COMMIT), *broken* (closed for good).
A trip sends all its statements, then one Sync, and reads on to that Sync whatever fails on the way. All of a trip that
is not inside BEGIN … COMMIT is one implicit transaction. `begin`, `commit` and `rollback` are prepared statements like
any other, so a step over two trips is: trip 1 = begin, locks, reads; trip 2 = writes, commit.

A failed statement: its followers do not run, an open transaction is rolled back, the first error is raised, the state
is quiet.
Cancelled: the trip is read to its end under a shield of `drain_grace_s`, an open transaction is rolled back, then the
cancellation goes on. What the trip committed stays committed: the caller settles that as after a lost connection.
The server lost, or no answer within `answer_timeout_s`: `OutcomeUnknown` if the trip could have committed, else
`StoreUnavailable`; the state is broken.

One task at a time: there is no lock, the owner is one actor.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
import trio
from psycopg.pq import ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from trio.lowlevel import wait_readable

from chatty.errors import OutcomeUnknown, StoreUnavailable
from chatty.store.binary import Decoder, Value, decoder_for
from chatty.store.connection import TrioConnection, connect_timeout_s_default, shutdown_class, wait_either

drain_grace_s_default = 5.0

Params = Sequence[bytes | None]
Row = tuple[Value, ...]

# The statements work on a handful of rows by key. While tables are small the planner would choose a hash join or a scan
# for a generic plan and keep it: 27-50 % more a message, measured.
_PLANNER = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
}
_BINARY = 1
_STATEMENTS_OF_CONTROL = ("begin", "commit", "rollback")


@dataclass(frozen=True, slots=True)
class _Prepared:
    name: bytes
    formats: Sequence[int]
    decoders: Sequence[Decoder]
    may_end_transaction: bool


class PipelineConnection:
    """Prepared statements over one connection in pipeline mode. Made by `open_pipeline()`."""

    def __init__(self, connection: TrioConnection, *, drain_grace_s: float) -> None:
        self._connection = connection
        self._answer_timeout_s = connection.answer_timeout_s
        self._pgconn: PGconn = connection.pgconn
        self._fd = connection.pgconn.socket
        self._drain_grace_s = drain_grace_s
        self._prepared: dict[str, _Prepared] = {}
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()

    @property
    def is_broken(self) -> bool:
        """Closed for good: open another."""
        return self._connection.closed

    @property
    def is_in_transaction(self) -> bool:
        return self._pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)

    @property
    def backend_pid(self) -> int:
        return self._pgconn.backend_pid

    async def prepare(self, name: str, sql: str) -> None:
        """Prepare a statement for the life of the connection; parameters are $1, $2, …

        Raises: psycopg.Error of the statement's SQLSTATE; TypeError for a result type that has no decoder: cast it.
        """
        encoded = name.encode()
        self._pgconn.send_prepare(encoded, sql.encode())
        self._pgconn.send_describe_prepared(encoded)
        _, described = await self._exchange(may_commit=False)
        self._prepared[name] = _Prepared(
            name=encoded,
            formats=[_BINARY] * described.nparams,
            decoders=[_decoder(name, described, column) for column in range(described.nfields)],
            may_end_transaction=name == "commit",
        )

    async def trip(self, statements: Sequence[tuple[str, Params]]) -> list[list[Row]]:
        """Run prepared statements in one trip, up to one Sync.

        statements: (name, parameters in binary form as `chatty.store.binary` packs them), in order.
        Returns: for each statement its rows, decoded; [] for one that returns none.
        Raises: psycopg.Error of the first that failed; StoreUnavailable; OutcomeUnknown when it may have been
        committed.
        Cancelled: read to its end, then rolled back if a transaction is open.
        """
        if self.is_broken:
            raise StoreUnavailable("the pipeline's connection is closed")
        prepared = [self._prepared[name] for name, _ in statements]
        may_commit = self._may_commit(statements, prepared)  # asked first: sending may find the connection lost
        send = self._pgconn.send_query_prepared
        try:
            for statement, (_, params) in zip(prepared, statements, strict=True):
                send(statement.name, params, statement.formats, _BINARY)
        except psycopg.OperationalError as error:
            self._pgconn.finish()
            raise _lost(str(error), may_commit=may_commit) from error
        results = await self._exchange(may_commit=may_commit)
        return [_rows(statement.decoders, result) for statement, result in zip(prepared, results, strict=True)]

    async def close(self) -> None:
        await self._connection.close()

    def _may_commit(self, statements: Sequence[tuple[str, Params]], prepared: Sequence[_Prepared]) -> bool:
        is_implicit = not self.is_in_transaction and statements[0][0] != "begin"
        return is_implicit or any(statement.may_end_transaction for statement in prepared)

    async def _exchange(self, *, may_commit: bool) -> list[PGresult]:
        """Sync, read to the Sync, leave no transaction behind a failure."""
        try:
            results, failed = await self._synced()
        except psycopg.OperationalError as error:
            self._pgconn.finish()
            raise _lost(str(error), may_commit=may_commit) from error
        if failed is None:
            return results
        failure = psycopg.errors.error_from_result(failed)
        if (failure.sqlstate or "").startswith(shutdown_class):
            self._pgconn.finish()
            raise _lost(str(failure), may_commit=may_commit) from failure
        await self._roll_back()
        raise failure

    async def _synced(self) -> tuple[list[PGresult], PGresult | None]:
        results: list[PGresult] = []
        self._pgconn.pipeline_sync()
        try:
            with trio.move_on_after(self._answer_timeout_s):
                await self._flush()
                return results, await self._read_to_sync(results)
        except trio.Cancelled:
            await self._drain(results)
            raise
        raise psycopg.OperationalError(f"no answer within {self._answer_timeout_s:g} s")

    async def _flush(self) -> None:
        pgconn = self._pgconn
        while pgconn.flush():
            await wait_either(self._fd)
            pgconn.consume_input()  # the server may itself be blocked on an answer that we have not read

    async def _read_to_sync(self, results: list[PGresult]) -> PGresult | None:
        """Append each statement's result; return the first that failed."""
        pgconn, failed = self._pgconn, None
        while True:
            while (
                not pgconn.is_busy()
            ):  # looked at before the first wait: the answer may have come while we sent the rest
                result = pgconn.get_result()
                if result is None:
                    if pgconn.status != 0:
                        raise psycopg.OperationalError("the connection was lost")
                    continue
                status = result.status
                if status == ExecStatus.PIPELINE_SYNC:
                    return failed
                if status == ExecStatus.FATAL_ERROR and failed is None:
                    failed = result
                results.append(result)
            await wait_readable(self._fd)
            pgconn.consume_input()

    async def _drain(self, results: list[PGresult]) -> None:
        """Shielded: the answers on their way must be read, or the next trip would take them for its own."""
        is_quiet = False
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._drain_grace_s):
            try:
                await self._flush()
                await self._read_to_sync(results)
                await self._roll_back()
                is_quiet = True
            except psycopg.OperationalError:
                pass  # lost while cancelled: closed below, and the cancellation is what the caller hears of
        if not is_quiet:
            self._pgconn.finish()

    async def _roll_back(self) -> None:
        """End a transaction that a failure or a cancellation left open. Shielded: else its locks would stay."""
        if not self.is_in_transaction:
            return
        is_quiet = False
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._drain_grace_s):
            try:
                self._pgconn.send_query_params(b"ROLLBACK", None)
                self._pgconn.pipeline_sync()
                await self._flush()
                is_quiet = await self._read_to_sync([]) is None
            except psycopg.OperationalError:
                pass  # the server rolls back by itself when the connection has gone
        if not is_quiet:
            self._pgconn.finish()


@asynccontextmanager
async def open_pipeline(
    address: str,
    *,
    application_name: str = "chatty journal",
    statement_timeout_s: float | None = 30.0,
    drain_grace_s: float = drain_grace_s_default,
    connect_timeout_s: float = connect_timeout_s_default,
    session_options: dict[str, str] | None = None,
) -> AsyncIterator[PipelineConnection]:
    """A connection in pipeline mode with `begin`, `commit` and `rollback` prepared, closed at the end of the block.

    Raises: StoreUnavailable.
    """
    connection = await TrioConnection.connect(
        address,
        application_name=application_name,
        statement_timeout_s=statement_timeout_s,
        session_options={**_PLANNER, **(session_options or {})},
        timeout_s=connect_timeout_s,
    )
    try:
        pipeline = PipelineConnection(connection, drain_grace_s=drain_grace_s)
        for name in _STATEMENTS_OF_CONTROL:
            await pipeline.prepare(name, name.upper())
        yield pipeline
    finally:
        await connection.close()


def _rows(decoders: Sequence[Decoder], result: PGresult) -> list[Row]:
    if not decoders:
        return []
    get, columns = result.get_value, list(enumerate(decoders))
    return [
        tuple([None if (data := get(row, column)) is None else decode(data) for column, decode in columns])
        for row in range(result.ntuples)
    ]


def _decoder(name: str, described: PGresult, column: int) -> Decoder:
    decoder = decoder_for(described.ftype(column))
    if decoder is None:
        raise TypeError(
            f"statement {name!r}: column {column} has type oid {described.ftype(column)}: cast it in the SQL"
        )
    return decoder


def _lost(reason: str, *, may_commit: bool) -> StoreUnavailable | OutcomeUnknown:
    reason = " ".join(reason.split())
    return OutcomeUnknown(reason) if may_commit else StoreUnavailable(reason)
