"""A program of this folder that stands still at a crash point, says so by one line on stdout, and can be killed there."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from chatty.services.crash_points import CrashPoints, Point
from chatty.store.connection import open_connection
from tests.faults.chatty_process import ROOT

_HOLD = "INSERT INTO leases (job, holder, expires_at) VALUES (%s, 'the test', now() + interval '1 hour')"


class StandStill(CrashPoints):
    """At the count-th crash point."""

    def __init__(self, count: int) -> None:
        self._count = count

    async def reach(self, point: Point, subject: object = None) -> None:
        self._count -= 1
        if self._count == 0:
            print(f"{point} {subject}\n", end="", flush=True)  # one write, however stdout is buffered
            await trio.sleep_forever()


@asynccontextmanager
async def standing_still(
    program: str, *arguments: str, timeout_s: float = 30.0
) -> AsyncIterator[tuple[trio.Process, bytes]]:
    """From when it has said where it stands: the process, and its line. Empty: it ended by itself."""
    command = [sys.executable, "-m", f"tests.faults.{program}", *arguments]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    try:
        with trio.fail_after(timeout_s):
            said = await process.stdout.receive_some()
        yield process, bytes(said)
    finally:
        process.kill()
        await process.wait()
        await process.stdout.aclose()


async def keep_away(database: str, job: str) -> None:
    """The job, from servers that are yet to start: somebody else has its lease."""
    async with open_connection(database) as connection:
        await connection.execute(_HOLD, (job,))


async def kill_dead(process: trio.Process) -> None:
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
