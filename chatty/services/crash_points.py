"""Named places where a test's own server program may stop the process or crash an actor.

Passed to app.build() by code alone: no setting, route or environment variable reaches them. The product's do nothing.
"""

from typing import Literal

Point = Literal[
    "before_commit",
    "after_commit",
    "before_ack",
    "before_delivery",
    "room_message",
    "before_seal_commit",
    "after_seal_commit",
    "job_step",
]


class CrashPoints:
    async def reach(self, point: Point, subject: object = None) -> None:
        """Called at the place; subject: what is in hand there."""


NO_CRASH_POINTS = CrashPoints()
