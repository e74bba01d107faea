"""The product's server with crash points, as a process to be killed: `python -m tests.faults.server_program ORDER` (JSON).

It runs what `chatty up` runs: the embedded PostgreSQL, its migrations, then the server; with `database` what `chatty serve` runs.
An order names one crash point and how often it is passed before the process kills itself there with SIGKILL, so that nothing
can tidy up. `spoiled` takes one promise out of the store; tests use it to see that its absence is found.
"""

import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import msgspec
import trio
from msgspec import Struct

from chatty.app import Hooks
from chatty.cli import run_server
from chatty.config import Settings
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints, Point
from chatty.store import journal, schema
from chatty.store.embedded import open_embedded
from chatty.telemetry import configure_logging

Promise = Literal["durable commit", "memory of requests"]


class Order(Struct, frozen=True, kw_only=True):
    """What one run of the server is to be. die_at: the point; passed_count: how often it is passed alive before."""

    data_dir: str
    port: int
    public_origin: str
    server_name: str = "localhost"
    database: str = ""
    die_at: Point | None = None
    passed_count: int = 0
    spoiled: Promise | None = None


class DieAt(CrashPoints):
    """SIGKILL of this process at one point, after it was passed a number of times."""

    def __init__(self, point: Point, *, passed_count: int) -> None:
        self._point = point
        self._left_count = passed_count

    async def reach(self, point: Point, subject: object = None) -> None:
        if point == self._point:
            if self._left_count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left_count -= 1


def crash_points(order: Order) -> CrashPoints:
    return DieAt(order.die_at, passed_count=order.passed_count) if order.die_at is not None else NO_CRASH_POINTS


def settings_of(order: Order) -> Settings:
    return Settings(
        data_dir=Path(order.data_dir),
        port=order.port,
        public_origin=order.public_origin,
        server_name=order.server_name,
        registration="open",
    )


def forget_requests() -> None:
    """Take the memory of (device, n) out of the journal: a resend is then a new message."""
    journal._STATEMENTS["look_up"] += " WHERE false"
    journal._STATEMENTS["record"] += " LIMIT 0"


async def serve(order: Order) -> None:
    postgres_settings = {"synchronous_commit": "off"} if order.spoiled == "durable commit" else {}
    if order.spoiled == "memory of requests":
        forget_requests()
    async with AsyncExitStack() as stack:
        address = order.database
        if not address:
            await trio.Path(order.data_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
            embedded = open_embedded(Path(order.data_dir) / "postgres", settings=postgres_settings)
            address = (await stack.enter_async_context(embedded)).address
        await schema.upgrade(address)
        await run_server(settings_of(order), address=address, hooks=Hooks(crash_points=crash_points(order)))


if __name__ == "__main__":
    configure_logging("info", form="json")
    trio.run(serve, msgspec.json.decode(sys.argv[1], type=Order))
