"""The product's server with crash points, as a process to be killed: `python -m tests.faults.server_program ORDER` (JSON).

It runs what `chatty up` runs: the embedded PostgreSQL, its migrations, then the server; with `database` what `chatty serve` runs.
A line on stdin, a Strike, names a crash point: when it was passed so often from then on, the process kills itself there, or
PostgreSQL, with SIGKILL, so that nothing can tidy up; or the actor that passes it crashes. `spoiled` takes one promise out of the
store; tests use it to see that its absence is found.
"""

import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec
import trio
from msgspec import Struct
from pydantic import SecretStr

from chatty.actors.delivery import Session
from chatty.actors.sessions import Connection
from chatty.app import Hooks, tree
from chatty.cli import run_server
from chatty.config import Settings
from chatty.services.crash_points import CrashPoints, Point
from chatty.store import journal, schema
from chatty.store.embedded import open_embedded
from chatty.telemetry import configure_logging
from chatty.wire.frames import ClientFrame
from tests.faults.postgres_processes import Victim, kill_postgres

Promise = Literal["durable commit", "memory of requests"]
_LAZY = {"synchronous_commit": "off", "wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}


class Order(Struct, frozen=True, kw_only=True):
    """What one run of the server is to be. public_origin, master_key: shared by the nodes of one database.

    room_idle_timeout_s, lease_lifetime_s, key_prepare_s: other than the product's.
    """

    data_dir: str
    port: int
    database: str = ""
    public_origin: str = ""
    master_key: str | None = None
    is_bus_silent: bool = False
    room_idle_timeout_s: float | None = None
    lease_lifetime_s: float | None = None
    key_prepare_s: float | None = None
    spoiled: Promise | None = None


class Strike(Struct, frozen=True, kw_only=True):
    """Where who dies. subject: what is in hand there, if that matters. passed_count: how often the point is passed alive first.
    victim None: the server itself.

    "session_request" is a point of this program alone, in a session that handles a request.
    """

    point: Point | Literal["session_request"]
    passed_count: int
    subject: str | None = None
    victim: Victim | Literal["an actor"] | None = None


class ActorStruck(Exception):
    """The crash that was ordered."""


class StrikeWhenTold(CrashPoints):
    """One strike at a time."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._strike: Strike | None = None
        self._left_count = 0

    def tell(self, strike: Strike) -> None:
        self._strike, self._left_count = strike, strike.passed_count

    async def reach(self, point: str, subject: object = None) -> None:
        if self._strike is None or point != self._strike.point or self._strike.subject not in (None, subject):
            return
        self._left_count -= 1
        if self._left_count < 0:
            victim, self._strike = self._strike.victim, None
            if victim == "an actor":
                raise ActorStruck(point)
            if victim is None:
                os.kill(os.getpid(), signal.SIGKILL)
            else:
                kill_postgres(self._data_dir, victim)


_strikes = msgspec.json.Decoder(Strike)


async def listen(crash_points: StrikeWhenTold) -> None:
    stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    async for lines in stdin:
        for strike in _strikes.decode_lines(lines):
            crash_points.tell(strike)


def settings_of(order: Order) -> Settings:
    changed: dict[str, Any] = {} if order.key_prepare_s is None else {"key_prepare_s": order.key_prepare_s}
    return Settings(
        data_dir=Path(order.data_dir),
        master_key=SecretStr(order.master_key) if order.master_key is not None else None,
        port=order.port,
        public_origin=order.public_origin or f"http://127.0.0.1:{order.port}",
        registration="open",
        direct_path="off" if os.environ.get("CHATTY_DIRECT_PATH") == "off" else "auto",
        **changed,
    )


def hooks_of(order: Order, crash_points: CrashPoints) -> Hooks:
    hooks = Hooks(crash_points=crash_points, is_bus_silent=order.is_bus_silent)
    return hooks if order.lease_lifetime_s is None else replace(hooks, lease_lifetime_s=order.lease_lifetime_s)


def forget_requests() -> None:
    """Take the memory of (device, n) out of the journal: a resend is then a new message."""
    journal._STATEMENTS["look_up"] += " WHERE false"
    journal._STATEMENTS["record"] += " LIMIT 0"


def crash_in_sessions(crash_points: StrikeWhenTold) -> None:
    """Sessions reach a point at each request."""
    handle = Connection._handle

    async def reach_and_handle(self: Connection, session: Session, request: ClientFrame) -> None:
        await crash_points.reach("session_request")
        await handle(self, session, request)

    Connection._handle = reach_and_handle  # type: ignore[method-assign]


async def serve(order: Order) -> None:
    postgres_settings = _LAZY if order.spoiled == "durable commit" else {}
    if order.spoiled == "memory of requests":
        forget_requests()
    if order.room_idle_timeout_s is not None:
        tree.room_idle_timeout_s = order.room_idle_timeout_s
    crash_points = StrikeWhenTold(Path(order.data_dir))
    crash_in_sessions(crash_points)
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        nursery.start_soon(listen, crash_points)
        address = order.database
        if not address:
            await trio.Path(order.data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
            embedded = open_embedded(Path(order.data_dir) / "postgres", settings=postgres_settings)
            address = (await stack.enter_async_context(embedded)).address
        await schema.upgrade(address)
        await run_server(settings_of(order), address=address, hooks=hooks_of(order, crash_points))


if __name__ == "__main__":
    configure_logging("info", form="json")
    trio.run(serve, msgspec.json.decode(sys.argv[1], type=Order))
