"""A process with a sealer of its own: `python -m tests.faults.audit_program ADDRESS POINT`.

It seals the audit log until it reaches the crash point, stands still there and says so by one line on stdout; the test kills it.
"""

import sys

import trio

from chatty.actors.janitor import JanitorTimes, start_janitor
from chatty.actors.job_board import Job
from chatty.actors.runtime import open_supervisor
from chatty.services.crash_points import CrashPoints, Point
from chatty.services.jobs import JobBooks
from chatty.store.leases import PostgresLeases
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.telemetry import Metrics, configure_logging
from tests.audit_log import make_sealer


class StandStill(CrashPoints):
    def __init__(self, wanted: str) -> None:
        self._wanted = wanted

    async def reach(self, point: Point, subject: object = None) -> None:
        if point == self._wanted:
            print(f"{point}\n", end="", flush=True)  # one write, however stdout is buffered
            await trio.sleep_forever()


async def run(address: str, point: str) -> None:
    async with open_pool(address) as pool, open_supervisor("root") as root:
        sealer = make_sealer(pool, crash_points=StandStill(point))
        job = Job(name=sealer.name, step=sealer.step, interval_s=0.1)
        times = JanitorTimes(lease_lifetime_s=2.0)
        await start_janitor(
            root,
            jobs=[job],
            leases=PostgresLeases(pool),
            book=JobBooks(units=PostgresUnitOfWork(pool), failures_max=8),
            holder="the other process",
            metrics=Metrics(),
            times=times,
        )
        await trio.sleep_forever()


if __name__ == "__main__":
    configure_logging(level="info", form="json")
    trio.run(run, sys.argv[1], sys.argv[2])
