"""A baseline: the journal's inserts alone, in groups of 64 rows, each group one durable transaction of one trip.

    python -m bench.insert DIRECTORY ROWS      prints `ready`, waits for a line, inserts, prints the seconds it took

The same statements, tables and connection settings as the journal's; no locks, no look-ups, no decision.
"""

import secrets
import sys
from pathlib import Path
from time import perf_counter

import trio

from chatty.ids import DeviceId, DeviceNumber, RoomId, RoomNumber, SendNumber, UserId, UserNumber
from chatty.services.timeline import Appended, NewEvent, RoomHead, append, new_room_head
from chatty.store import schema, timeline
from chatty.store.embedded import open_embedded
from chatty.store.pipeline import PipelineConnection, open_pipeline
from chatty.wire.events import MEGOLM, Kind

GROUP_ROWS = 64


def make_groups(rows_count: int) -> tuple[RoomHead, list[list[Appended]]]:
    """Rows that are ready to be written, numbered and chained before the clock starts; and their room's head."""
    head = new_room_head(RoomId("!" + "r" * 43))
    head.room_number = RoomNumber(1)
    new = NewEvent(
        kind=Kind.MESSAGE,
        body=secrets.token_bytes(256 + 80),
        sender=UserId("@bench:localhost"),
        sender_number=UserNumber(1),
        device=DeviceId("DEVICE01"),
        device_number=DeviceNumber(1),
        n=SendNumber(1),
        algorithm=MEGOLM,
        session_id="B" * 43,
    )
    groups = [[append(head, new, now_ms=0) for _ in range(GROUP_ROWS)] for _ in range(rows_count // GROUP_ROWS)]
    return head, groups


async def insert(pipeline: PipelineConnection, head: RoomHead, groups: list[list[Appended]]) -> None:
    for appended in groups:
        await pipeline.trip(
            [
                ("begin", []),
                ("timeline", timeline.timeline_params(appended)),
                ("bodies", timeline.bodies_params(appended)),
                ("rooms", timeline.rooms_params([head])),
                ("commit", []),
            ]
        )


async def main(directory: Path, rows_count: int) -> None:
    async with open_embedded(directory) as server:
        await schema.upgrade(server.address)
        async with open_pipeline(server.address) as pipeline:
            await pipeline.prepare("timeline", timeline.INSERT_TIMELINE)
            await pipeline.prepare("bodies", timeline.INSERT_BODIES)
            await pipeline.prepare("rooms", timeline.UPDATE_ROOMS)
            head, groups = make_groups(rows_count)
            print("ready", flush=True)
            await trio.to_thread.run_sync(sys.stdin.readline)
            began = perf_counter()
            await insert(pipeline, head, groups)
            print(perf_counter() - began, flush=True)
            await trio.to_thread.run_sync(sys.stdin.readline)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
