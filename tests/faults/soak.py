"""Minutes of everything at once: `make soak`, or `python -m tests.faults.soak --minutes 10`.

Two servers on one PostgreSQL, with their bus. People sign up, come, go, kick, change devices and nodes, and send as fast as acks
come; every second an actor of one of the servers crashes, wherever it stands. Round after round all that was said is looked
through, as in test_two_servers.py. In the end: no fault, no exception in the logs but those that were ordered, and memory that
does not grow once the servers are warm: a room in which nobody speaks any more leaves after seconds. Prints a line each round,
and the slope of each server's memory.
"""

import argparse
import json
import os
import random
import secrets
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from chatty.store.embedded import open_embedded
from tests.faults.chatty_process import ChattyProcess, open_nodes
from tests.faults.churn import Plan, open_gathering
from tests.faults.movers import Witness
from tests.faults.server_program import ActorStruck, Strike
from tests.faults.test_two_servers import NAMES, gathering_faults
from tests.server.wire_people import ORIGIN

PLAN = Plan(changes_count=10, devices_count=2, moves_count=6, kicks_count=6, pause_s_max=1.0)
POINTS = ("room_message", "before_delivery", "before_ack", "before_commit", "after_commit", "session_request")
crash_interval_s = 1.0
sample_interval_s = 1.0
room_idle_timeout_s = 20.0
warm_part = 0.3  # of the time: caches fill, the allocator finds its size
slope_bytes_per_min_max = 512 * 1024


@dataclass(kw_only=True)
class Memory:
    """Samples of one process: seconds since the beginning, resident bytes."""

    pid: int
    samples: list[tuple[float, int]] = field(default_factory=list)

    def sample(self, at_s: float) -> None:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        self.samples.append((at_s, pages * os.sysconf("SC_PAGE_SIZE")))

    def slope_bytes_per_min(self, *, after_s: float) -> float:
        """By least squares; 0 for fewer than two samples."""
        warm = [(at_s, size) for at_s, size in self.samples if at_s >= after_s]
        if len(warm) < 2:
            return 0.0
        mean_s = sum(at_s for at_s, _ in warm) / len(warm)
        mean_bytes = sum(size for _, size in warm) / len(warm)
        spread = sum((at_s - mean_s) ** 2 for at_s, _ in warm)
        return 60 * sum((at_s - mean_s) * (size - mean_bytes) for at_s, size in warm) / spread


async def keep_crashing(nodes: Sequence[ChattyProcess], rng: random.Random) -> None:
    while True:
        await trio.sleep(crash_interval_s)
        point = rng.choice(POINTS)
        strike = Strike(point=point, passed_count=rng.randrange(30), victim="an actor")  # type: ignore[arg-type]
        await rng.choice(nodes).tell(strike)


async def keep_sampling(memories: Sequence[Memory], began: float) -> None:
    while True:
        for memory in memories:
            memory.sample(trio.current_time() - began)
        await trio.sleep(sample_interval_s)


def log_faults(node: ChattyProcess) -> Iterator[str]:
    """Errors that nobody ordered. A message that was in hand at an ordered crash is put aside: the next line says so."""
    is_ordered = False
    for line in node.log.read_text().splitlines():
        event = json.loads(line)
        is_ordered = ActorStruck.__name__ in line or (is_ordered and event["event"] == "actor.message_quarantined")
        if event["level"] in ("error", "critical") and not is_ordered:
            yield line
        if "deadlock" in line:
            yield line


def crashes_count(nodes: Sequence[ChattyProcess]) -> int:
    return sum(line.count('"actor.crashed"') for node in nodes for line in node.log.read_text().splitlines())


async def soak(folder: Path, *, minutes: float, seed: int) -> list[str]:
    """Returns: what is wrong."""
    rng, witness = random.Random(seed), Witness(excused=frozenset({"outcome_unknown"}))
    began, faults = trio.current_time(), list[str]()
    async with (
        open_embedded(folder / "postgres") as postgres,
        open_nodes(
            postgres.address,
            folder,
            count=2,
            public_origin=ORIGIN,
            is_bus_silent=False,
            room_idle_timeout_s=room_idle_timeout_s,
        ) as nodes,
        trio.open_nursery() as nursery,
    ):
        memories = [Memory(pid=node.running.pid) for node in nodes]
        nursery.start_soon(keep_crashing, nodes, rng)
        nursery.start_soon(keep_sampling, memories, began)
        number = 0
        while trio.current_time() - began < minutes * 60 and not faults:
            faults += await _round(nodes, rng, witness, number)
            sizes = " + ".join(f"{memory.samples[-1][1] / 1e6:.0f}" for memory in memories)
            print(f"{trio.current_time() - began:5.0f} s: {crashes_count(nodes)} crashes, {sizes} MB", flush=True)
            number += 1
        nursery.cancel_scope.cancel()
    print(dict(sorted(witness.outcomes.items())))
    for node, memory in zip(nodes, memories, strict=True):
        slope = memory.slope_bytes_per_min(after_s=minutes * 60 * warm_part)
        print(f"{node.data_dir.name}: {slope / 1e3:+.0f} kB a minute")
        if slope > slope_bytes_per_min_max:
            faults.append(f"{node.data_dir.name} grows by {slope / 1e3:.0f} kB a minute")
        faults += log_faults(node)
    return faults + ([] if crashes_count(nodes) else ["nothing crashed: nothing was proved"])


async def _round(nodes: Sequence[ChattyProcess], rng: random.Random, witness: Witness, number: int) -> list[str]:
    async with open_gathering(nodes, rng, witness) as gathering:
        await gathering.assemble([f"{name}{number}" for name in NAMES], rooms_count=3)
        await gathering.live(PLAN)
        await gathering.settle()
        return await gathering_faults(gathering)


def main() -> None:
    parser = argparse.ArgumentParser(description="Minutes of everything at once, with an actor's crash every second.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32), help="plays the same choices again")
    arguments = parser.parse_args()
    print(f"--seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="chatty-soak-") as folder:
        Path(folder).chmod(0o755)
        faults = trio.run(lambda: soak(Path(folder), minutes=arguments.minutes, seed=arguments.seed))
    for fault in faults[:20]:
        print(f"FAULT: {fault}")
    print("no fault" if not faults else f"{len(faults)} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
