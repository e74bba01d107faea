"""A process that rotates keys: `python -m tests.faults.key_rotation_program ADDRESS DATA_DIR WHAT COUNT`.

WHAT "job": the job key_rotation, until each kind has its second key and every row is sealed anew, a row a transaction. "master":
`chatty-admin keys rotate --master`. It stands still at the COUNT-th crash point, of which it tells by one line on stdout; the
test kills it there.
"""

import os
import sys
from functools import partial
from pathlib import Path

import trio

from chatty.crypto.sealing import load_master_key
from chatty.services import rewrapping
from chatty.services.crash_points import CrashPoints
from chatty.services.key_rotation import KeyRotation, RotationPolicy
from chatty.services.master_key import MasterKeyRotation
from chatty.services.rewrapping import Rewrapping
from chatty.services.server_keys import KINDS, SALT, open_server_keys
from chatty.store.master_key import DiskMasterKeyFiles
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnitOfWork
from tests.faults.standing_still import StandStill

POLICY = RotationPolicy(
    rotation_age_s={kind: 365 * 86_400.0 for kind in KINDS if kind != SALT},
    master_age_s_max=365 * 86_400.0,
    prepare_s=1.0,
    refresh_kept_s=86_400.0,
)


async def rotate(address: str, path: Path, crash_points: CrashPoints) -> None:
    """All that is due."""
    read = partial(trio.to_thread.run_sync, load_master_key, path)
    async with open_pool(address) as pool:
        units = PostgresUnitOfWork(pool)
        keys = await open_server_keys(units, read, turn=trio.Lock())
        job = KeyRotation(
            keys,
            units=units,
            rewrapping=Rewrapping(keys, units=units, crash_points=crash_points),
            read_master=read,
            server_name="example.org",
            policy=POLICY,
            random=os.urandom,
            crash_points=crash_points,
        )
        while (progress := await job.progress()).version < 2 or not progress.is_finished:
            await job.step()
            await trio.sleep(0.01)  # for a turn there is nothing to wait on but time


async def replace(address: str, path: Path, crash_points: CrashPoints) -> None:
    async with open_pool(address) as pool:
        files, units = DiskMasterKeyFiles(path), PostgresUnitOfWork(pool)
        rotation = MasterKeyRotation(files, units=units, random=os.urandom, crash_points=crash_points)
        await rotation.prepare()
        await rotation.finish()


async def run(address: str, data_dir: Path, what: str, count: int) -> None:
    path = data_dir / "master.key"
    rewrapping.rows_a_step_max = 1
    if what == "master":
        await replace(address, path, StandStill(count))
    else:
        await rotate(address, path, StandStill(count))


if __name__ == "__main__":
    trio.run(run, sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
