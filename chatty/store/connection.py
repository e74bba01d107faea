"""One PostgreSQL connection, natively on Trio: psycopg's generators, with Trio doing the waiting.

Everything of psycopg's asynchronous connection works on it: transactions, pipeline mode, server-side binding, COPY,
cursors and `notifies()`. Differences: a lost server is `StoreUnavailable`, a COMMIT whose answer never came is
`OutcomeUnknown`, and a connection is in autocommit mode, so that what is not inside `transaction()` holds no
transaction open.

Cancellation: a cancelled call asks the server to stop the statement, reads its answer under a shield of
`cancel_grace_s` and re-raises `trio.Cancelled`; the connection stays usable. If the answer does not come by then the
connection is closed. BEGIN, COMMIT and ROLLBACK are shielded: what they do must be known.

Deadlines: the server stops a statement after `statement_timeout_s`, which is `Overloaded`. A server that hangs, or that no
packet reaches any more, cannot do even that: `answer_grace_s` later we give the connection up, which is `StoreUnavailable`.

PostgreSQL prints keys of rows in the DETAIL lines of its log. `log_error_verbosity = terse` prevents that and only a
superuser may set it: the embedded server has it, an operator is asked for it (`logs_tersely`).
"""

import ipaddress
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self, TypeVar

import psycopg
import trio
from psycopg import capabilities, conninfo
from psycopg.abc import PQGen, PQGenConn
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import TupleRow
from psycopg.waiting import Ready, Wait
from trio.lowlevel import wait_readable, wait_writable

from chatty.errors import OutcomeUnknown, Overloaded, StoreUnavailable

connect_timeout_s_default = 5.0
answer_grace_s_default = 1.0
cancel_grace_s_default = 2.0
commit_grace_s_default = 5.0
shutdown_class = "57P"  # the first letters of SQLSTATE: admin shutdown, crash shutdown, cannot connect now

T = TypeVar("T")


class TrioConnection(psycopg.AsyncConnection[TupleRow]):
    """psycopg's asynchronous connection on Trio, in autocommit mode. Made by `connect()` or `open_connection()`."""

    trips_count: int = 0  # operations that waited for the server, since somebody looked
    lock: trio.Lock  # type: ignore[assignment]  # psycopg only enters it
    answer_timeout_s: float = float("inf")
    cancel_grace_s: float = cancel_grace_s_default
    commit_grace_s: float = commit_grace_s_default

    @classmethod
    async def connect(  # type: ignore[override]  # one shape of connection, no adaptation per call
        cls,
        address: str,
        *,
        application_name: str = "chatty",
        statement_timeout_s: float | None = 30.0,
        session_options: dict[str, str] | None = None,
        timeout_s: float = connect_timeout_s_default,
    ) -> Self:
        """Connect by a libpq connection string or URL.

        session_options: PostgreSQL settings of this session alone, sent with the start-up packet, so they cost no trip.
        Raises: StoreUnavailable when the server is not there, refuses, or takes longer than timeout_s.
        Cancelled: the half-made connection is closed.
        """
        options = dict(session_options or {})
        if statement_timeout_s is not None:
            options.setdefault("statement_timeout", f"{round(statement_timeout_s * 1000)}ms")
        connection: Self | None = None
        with trio.move_on_after(timeout_s):
            target = await _resolved(_with_session(address, application_name=application_name, options=options))
            connection = await _drive_connecting(cls._connect_gen(target))
        if connection is None:
            raise StoreUnavailable(f"PostgreSQL did not accept a connection within {timeout_s:g} s")
        connection.lock = trio.Lock()
        connection._autocommit = True
        if statement_timeout_s is not None:
            connection.answer_timeout_s = statement_timeout_s + answer_grace_s_default
        return connection

    async def wait(self, gen: PQGen[T], interval: float = 0.0, timeout: float | None = None) -> T:
        """Drive one psycopg operation; `interval` is psycopg's and has no meaning on Trio."""
        if timeout is None:
            return await self._wait(gen)
        with trio.move_on_after(timeout):
            return await self._wait(gen)
        raise psycopg.errors._WaitTimeout  # what notifies(timeout=...) expects

    async def _wait(self, gen: PQGen[T]) -> T:
        try:
            return await self._answer(gen)
        except trio.Cancelled:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self._abandon(gen)
            raise
        except psycopg.errors.QueryCanceled:
            raise Overloaded(limiter="database_statement_timeout", retry_after_s=1.0) from None
        except psycopg.OperationalError as error:
            if not is_lost(self, error):
                raise
            self.pgconn.finish()
            raise StoreUnavailable(_reason(error)) from error

    async def _answer(self, gen: PQGen[T]) -> T:
        """Drive to the end; a statement that runs for longer than `answer_timeout_s` costs the connection."""
        self.trips_count += 1
        while True:
            with trio.move_on_after(self.answer_timeout_s):
                return await _drive(gen, self.pgconn.socket)
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # else it waits for a notification
                self.pgconn.finish()
                raise StoreUnavailable(f"PostgreSQL did not answer within {self.answer_timeout_s:g} s")

    async def _abandon(self, gen: PQGen[T]) -> None:
        """Stop the running statement and read its answer, so that the next one finds a quiet connection."""
        is_quiet = False
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self.cancel_grace_s):
            try:
                await self.cancel_safe()
                await _drive(gen, self.pgconn.socket)
                is_quiet = True
            except psycopg.Error:
                is_quiet = self.pgconn.status == ConnStatus.OK
        if not is_quiet or self.pgconn.transaction_status == TransactionStatus.ACTIVE:
            self.pgconn.finish()

    async def cancel_safe(self, *, timeout: float = cancel_grace_s_default) -> None:
        """Ask the server to stop the running statement; returns when the server has taken note."""
        if not self._should_cancel():
            return
        with trio.move_on_after(timeout) as scope:
            if capabilities.has_cancel_safe():
                await _drive_connecting(self._cancel_gen())
            else:
                await trio.to_thread.run_sync(self.cancel)
        if scope.cancelled_caught:
            raise psycopg.errors.CancellationTimeout("the server did not take the cancel request in time")

    @asynccontextmanager
    async def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,
        *,
        isolation: str | None = None,
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """BEGIN … COMMIT, or ROLLBACK when the block raises; nested, a savepoint.

        isolation: "read committed", "repeatable read" or "serializable"; of the outermost block only.

        Raises: OutcomeUnknown when the server was lost at COMMIT; StoreUnavailable when it was lost before.
        Cancelled inside the block: rolled back. BEGIN, COMMIT and ROLLBACK finish under a shield of `commit_grace_s`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        is_outermost = self._num_transactions == 0
        if isolation is not None:
            await self.set_isolation_level(_isolation_level(isolation))
        block = super().transaction(savepoint_name, force_rollback)
        try:
            with self._shielded("BEGIN"):
                entered = await block.__aenter__()
            try:
                yield entered
            except BaseException as error:
                with self._shielded("ROLLBACK"):
                    if await block.__aexit__(type(error), error, error.__traceback__):
                        return
                raise
            await self._leave(block.__aexit__, is_commit=is_outermost and not force_rollback)
        finally:
            if isolation is not None:
                self._isolation_level, self._begin_statement = None, b""

    async def _leave(self, leave: Callable[..., Any], *, is_commit: bool) -> None:
        was_lost = self.closed
        try:
            with self._shielded("COMMIT"):
                await leave(None, None, None)
        except StoreUnavailable as error:
            if is_commit:
                raise OutcomeUnknown(f"the connection was lost at COMMIT: {error}") from error
            raise
        if was_lost:  # psycopg leaves such a block without a word
            raise StoreUnavailable("the connection was lost before COMMIT")

    @contextmanager
    def _shielded(self, what: str) -> Iterator[None]:
        """Shielded: a cancelled COMMIT would leave us not knowing; the grace is the price.

        Then the connection is closed.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self.commit_grace_s) as scope:
            yield
        if scope.cancelled_caught:
            self.pgconn.finish()
            raise StoreUnavailable(f"{what} was not answered within {self.commit_grace_s:g} s")


@asynccontextmanager
async def open_connection(address: str, **options: Any) -> AsyncIterator[TrioConnection]:
    """`TrioConnection.connect()`, closed at the end of the block: for LISTEN, advisory locks and other long uses."""
    connection = await TrioConnection.connect(address, **options)
    try:
        yield connection
    finally:
        await connection.close()


def bigints(values: Iterable[int]) -> str:
    """A parameter to be cast to bigint[]. For thousands: the driver looks at each value several times to find their type."""
    return "{" + ",".join(map(str, values)) + "}"


async def logs_tersely(connection: TrioConnection) -> bool:
    """Whether this server keeps the keys of rows out of its log (`log_error_verbosity = terse`)."""
    row = await (await connection.execute("SHOW log_error_verbosity")).fetchone()
    return row is not None and row[0] == "terse"


def is_lost(connection: psycopg.AsyncConnection[Any], error: psycopg.Error) -> bool:
    """Whether the error means that the server or the connection has gone, not that a statement failed."""
    return connection.pgconn.status == ConnStatus.BAD or (error.sqlstate or "").startswith(shutdown_class)


async def wait_either(fd: int) -> Ready:
    """Wait until the descriptor can be read or written; the rare slow path of a full socket buffer."""
    ready = Ready.NONE

    async def one(wait: Callable[[int], Any], flag: Ready) -> None:
        nonlocal ready
        await wait(fd)
        ready = Ready(ready | flag)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one, wait_readable, Ready.R)
        nursery.start_soon(one, wait_writable, Ready.W)
    return ready


async def _wait_for(fd: int, state: int) -> Ready:
    if state == Wait.R:
        await wait_readable(fd)
        return Ready.R
    if state == Wait.W:
        await wait_writable(fd)
        return Ready.W
    return await wait_either(fd)


async def _drive(gen: PQGen[T], fd: int) -> T:
    """Run a psycopg generator to its end. After a Cancelled the generator is intact and may be driven again."""
    try:
        state = next(gen)
        while True:
            state = gen.send(await _wait_for(fd, state))
    except StopIteration as stop:
        result: T = stop.value
        return result


async def _drive_connecting(gen: PQGenConn[T]) -> T:
    """The same for generators that name their descriptor at each step, as it may change while connecting."""
    try:
        fd, state = next(gen)
        while True:
            fd, state = gen.send(await _wait_for(fd, state))
    except StopIteration as stop:
        result: T = stop.value
        return result
    except psycopg.OperationalError as error:
        raise StoreUnavailable(_reason(error)) from error
    finally:
        gen.close()


def _isolation_level(name: str) -> psycopg.IsolationLevel:
    return psycopg.IsolationLevel[name.upper().replace(" ", "_")]


def _reason(error: psycopg.Error) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _with_session(address: str, *, application_name: str, options: dict[str, str]) -> str:
    given = str(conninfo.conninfo_to_dict(address).get("options") or "")
    ours = [f"-c {name}={value}" for name, value in options.items()]
    parts = [given, *ours] if given else ours
    return conninfo.make_conninfo(address, options=" ".join(parts), fallback_application_name=application_name)


async def _resolved(address: str) -> str:
    """Look up host names here: libpq would block the whole process while it asks the resolver."""
    params = conninfo.conninfo_to_dict(address)
    names = str(params.get("host") or "").split(",")
    if params.get("hostaddr") or all(_needs_no_lookup(name) for name in names):
        return address
    ports = str(params.get("port") or "5432").split(",")
    ports = ports * len(names) if len(ports) == 1 else ports
    hosts: list[tuple[str, str, str]] = []
    for name, port in zip(names, ports, strict=True):
        hosts += [(name, found, port) for found in await _addresses(name)]
    host, hostaddr, port = (",".join(column) for column in zip(*hosts, strict=True))
    return conninfo.make_conninfo(address, host=host, hostaddr=hostaddr, port=port)


def _needs_no_lookup(host: str) -> bool:
    if host == "" or host.startswith(("/", "@")) or sys.platform == "win32":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _addresses(host: str) -> list[str]:
    if _needs_no_lookup(host):
        return [host]  # libpq takes a socket's folder only as host; mixed lists with folders are refused by it
    try:
        found = await trio.socket.getaddrinfo(host, None, type=trio.socket.SOCK_STREAM)
    except OSError as error:
        raise StoreUnavailable(f"the host name {host!r} was not found") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
