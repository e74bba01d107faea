"""A server whose jobs stand still in their middle: `python -m tests.faults.jobs_program ORDER` (JSON, see server_program).

With `stands_still` each job stops for ever before a step, also beyond its lease, and its name is a line of the log; the jobs of
SECOND do so before their second one.
"""

import sys

import msgspec
import trio

from chatty.app import tree
from chatty.cli import run_server
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints, Point
from chatty.telemetry import configure_logging
from tests.faults.server_program import Order, hooks_of, settings_of

SECOND = {"orphan_cleanup", "integrity_check"}


class JobsOrder(Order, frozen=True, kw_only=True):
    stands_still: bool = False


class StandStill(CrashPoints):
    def __init__(self) -> None:
        self._passed: set[object] = set()

    async def reach(self, point: Point, subject: object = None) -> None:
        if point != "job_step":
            return
        if subject in SECOND - self._passed:
            self._passed.add(subject)
            return
        print(f"stands still: {subject}\n", end="", flush=True)
        with trio.CancelScope(shield=True):
            await trio.sleep_forever()


async def serve(order: JobsOrder) -> None:
    tree.housekeeping_first_s = 1e6  # on order alone
    hooks = hooks_of(order, StandStill() if order.stands_still else NO_CRASH_POINTS)
    await run_server(settings_of(order), address=order.database, hooks=hooks)


if __name__ == "__main__":
    configure_logging("info", form="json")
    trio.run(serve, msgspec.json.decode(sys.argv[1], type=JobsOrder))
