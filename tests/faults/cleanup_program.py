"""A process that drops messages: `python -m tests.faults.cleanup_program ADDRESS NOW_MS POINT WORK`.

It stands still where it first reaches the crash point POINT (before_commit, after_commit) of this WORK (mark, drop_day, …) and
tells so by one line on stdout; the test kills it there. It ends by itself when nothing is left to do.
"""

import sys

import trio

from chatty.services import expiry
from chatty.services.crash_points import CrashPoints, Point
from chatty.services.expiry import MessageCleanup
from chatty.store.pool import Pool, open_pool
from chatty.store.units import PostgresUnitOfWork
from tests.store.expiry_scene import KEY, SERVER

retention_days = 1


class StandStill(CrashPoints):
    def __init__(self, point: str, work: str) -> None:
        self._where = (point, work)

    async def reach(self, point: Point, subject: object = None) -> None:
        if (point, subject) == self._where:
            print(f"{point} {subject}\n", end="", flush=True)  # one write, however stdout is buffered
            await trio.sleep_forever()


def job_at(now_ms: int, pool: Pool, crash_points: CrashPoints) -> MessageCleanup:
    return MessageCleanup(
        units=PostgresUnitOfWork(pool),
        signer=KEY,
        server_name=SERVER,
        retention_days=retention_days,
        report=lambda cleaned: None,
        clock=lambda: now_ms,
        crash_points=crash_points,
    )


async def clean(address: str, now_ms: int, crash_points: CrashPoints) -> None:
    """In small pieces; once more when every reader has had its time."""
    expiry.rows_a_step_max = 2
    async with open_pool(address) as pool:
        for at_ms in (now_ms, now_ms + expiry.readers_ms + 1):
            job = job_at(at_ms, pool, crash_points)
            while await job.step():
                pass


if __name__ == "__main__":
    trio.run(clean, sys.argv[1], int(sys.argv[2]), StandStill(sys.argv[3], sys.argv[4]))
