"""A process with a janitor of its own: `python -m tests.faults.janitor_program ADDRESS HOLDER LIFETIME_S`.

It stands still inside its first transaction that has work, right before the commit, and says so by one line on stdout; the test
kills it there.
"""

import sys

import trio

from chatty.actors.janitor import JanitorTimes, start_janitor
from chatty.actors.job_board import Job
from chatty.actors.runtime import open_supervisor
from chatty.services.crash_points import CrashPoints, Point
from chatty.services.jobs import JobBooks
from chatty.services.owed_devices import AppendOwedDevices
from chatty.store.leases import PostgresLeases
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.telemetry import Metrics, configure_logging
from tests.signed_in import HeardDoorbells


class StandStill(CrashPoints):
    async def reach(self, point: Point, subject: object = None) -> None:
        print(f"{point} {subject}\n", end="", flush=True)  # one write, however stdout is buffered
        await trio.sleep_forever()


async def run(address: str, holder: str, lifetime_s: float) -> None:
    async with open_pool(address) as pool, open_supervisor("root") as root:
        owed = AppendOwedDevices(
            units=PostgresUnitOfWork(pool), doorbells=HeardDoorbells(), clock=lambda: 1, crash_points=StandStill()
        )
        job = Job(name=owed.name, step=owed.step, interval_s=0.1)
        times = JanitorTimes(lease_lifetime_s=lifetime_s)
        await start_janitor(
            root,
            jobs=[job],
            leases=PostgresLeases(pool),
            book=JobBooks(units=PostgresUnitOfWork(pool), failures_max=8),
            holder=holder,
            metrics=Metrics(),
            times=times,
        )
        await trio.sleep_forever()


if __name__ == "__main__":
    configure_logging(level="info", form="json")
    trio.run(run, sys.argv[1], sys.argv[2], float(sys.argv[3]))
