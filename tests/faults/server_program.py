"""The product's server with crash points, as a process to be killed: `python -m tests.faults.server_program ORDER` (JSON).

It runs what `chatty up` runs: the embedded PostgreSQL, its migrations, then the server; with `database` what `chatty serve` runs.
A line on stdin, `before_commit 12`, makes the process kill itself with SIGKILL when it has passed that crash point so often from
then on: nothing can tidy up. `spoiled` takes one promise out of the store; tests use it to see that its absence is found.
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
from chatty.services.crash_points import CrashPoints, Point
from chatty.store import journal, schema
from chatty.store.embedded import open_embedded
from chatty.telemetry import configure_logging

Promise = Literal["durable commit", "memory of requests"]


class Order(Struct, frozen=True, kw_only=True):
    """What one run of the server is to be."""

    data_dir: str
    port: int
    database: str = ""
    spoiled: Promise | None = None


class DieWhenTold(CrashPoints):
    """SIGKILL of this process at the point that tell() names, after it was passed alive a number of times."""

    def __init__(self) -> None:
        self._point: Point | None = None
        self._left_count = 0

    def tell(self, line: bytes | bytearray) -> None:
        point, passed_count = msgspec.convert(line.decode().split(), tuple[Point, int], strict=False)
        self._point, self._left_count = point, passed_count

    async def reach(self, point: Point, subject: object = None) -> None:
        if point == self._point:
            if self._left_count == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left_count -= 1


async def listen(crash_points: DieWhenTold) -> None:
    stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
    async for line in stdin:
        crash_points.tell(line)


def settings_of(order: Order) -> Settings:
    return Settings(
        data_dir=Path(order.data_dir),
        port=order.port,
        public_origin=f"http://127.0.0.1:{order.port}",
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
    crash_points = DieWhenTold()
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
        await run_server(settings_of(order), address=address, hooks=Hooks(crash_points=crash_points))


if __name__ == "__main__":
    configure_logging("info", form="json")
    trio.run(serve, msgspec.json.decode(sys.argv[1], type=Order))
