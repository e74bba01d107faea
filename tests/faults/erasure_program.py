"""A process that erases deleted accounts: `python -m tests.faults.erasure_program ADDRESS COUNT`.

It works in the smallest pieces and stands still at the COUNT-th crash point, of which it tells by one line on stdout; the test
kills it there.
"""

import sys
import time

import trio

from chatty.crypto.tokens import SigningKey
from chatty.services import deletions
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.erasure import EraseAccounts
from chatty.store import deletions as store
from chatty.store.pool import Pool, open_pool
from chatty.store.units import PostgresUnitOfWork
from tests.faults.standing_still import StandStill
from tests.server.wire_people import SERVER_NAME
from tests.signed_in import HeardDoorbells

KEY = SigningKey(b"k" * 32)


def make_job(pool: Pool, crash_points: CrashPoints = NO_CRASH_POINTS) -> EraseAccounts:
    return EraseAccounts(
        units=PostgresUnitOfWork(pool),
        doorbells=HeardDoorbells(),
        signer=KEY,
        server_name=SERVER_NAME,
        clock=lambda: int(time.time() * 1000),
        crash_points=crash_points,
    )


async def erase(address: str, crash_points: CrashPoints = NO_CRASH_POINTS) -> int:
    """Everything that is to be erased, in the smallest pieces. Returns how many steps that took."""
    deletions.stretch_seqs_max, store.rows_a_piece_max = 2, 1
    async with open_pool(address) as pool:
        job, steps_count = make_job(pool, crash_points), 0
        while await job.step():
            steps_count += 1
        return steps_count


if __name__ == "__main__":
    trio.run(erase, sys.argv[1], StandStill(int(sys.argv[2])))
