"""Measure everything: `make bench`. About six minutes.

    python -m bench [--only A B] [--rounds 3] [--small] [--no-save]

Server and PostgreSQL run on one core, the generator on another. The figures go to bench/results/COMMIT.json.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import identity, results, scenarios
from bench.identity import IdentitySize
from bench.processes import choose_cores, pin
from bench.scenarios import Place, Result, Size

Run = Callable[[Place], Sequence[Result]]
IDENTITY = ("identity", "audit")


def sizes(rounds_count: int) -> dict[str, Size]:
    chat = {"ciphertext_bytes": 256, "window": 64, "rounds_count": rounds_count, "warm_up_count": 400}
    return {
        "echo": Size(members_count=1, rooms_count=1, messages_count=10_000, senders_count=1, **chat),
        "insert": Size(members_count=1, rooms_count=1, messages_count=32_000, senders_count=1, **chat),
        "A": Size(members_count=50, rooms_count=1, messages_count=2_000, senders_count=8, **chat),
        "B": Size(members_count=2, rooms_count=100, messages_count=5_000, senders_count=2, **chat),
        "slow": Size(
            members_count=49,
            rooms_count=1,
            messages_count=1_000,
            senders_count=8,
            **{**chat, "ciphertext_bytes": 16_384, "window": 8},
        ),
    }


def small_sizes() -> dict[str, Size]:
    """So small that they measure nothing: they show that everything still works."""
    chat = {"window": 8, "rounds_count": 1, "warm_up_count": 10, "messages_count": 40, "ciphertext_bytes": 256}
    one_room = Size(members_count=4, rooms_count=1, senders_count=2, **chat)
    return {
        **dict.fromkeys(("echo", "insert", "A", "slow"), one_room),
        "B": Size(members_count=2, rooms_count=3, senders_count=2, **chat),
    }


def identity_sizes(rounds_count: int) -> dict[str, IdentitySize]:
    return {
        "identity": IdentitySize(
            people_count=50,
            operations_count=1_000,
            connections_count=8,
            sockets_count=400,
            rounds_count=rounds_count,
        ),
        "audit": IdentitySize(
            people_count=100, operations_count=2_000, connections_count=16, sockets_count=0, rounds_count=5
        ),
    }


def small_identity_sizes() -> dict[str, IdentitySize]:
    return dict.fromkeys(
        IDENTITY, IdentitySize(people_count=2, operations_count=6, connections_count=2, sockets_count=4, rounds_count=1)
    )


def runs(chosen: dict[str, Size], identities: dict[str, IdentitySize]) -> dict[str, Run]:
    def one(run: Callable[..., Result], *arguments: str, size: Size) -> Run:
        return lambda place: [run(*arguments, place, size=size)]

    return {
        "echo": one(scenarios.run_echo, size=chosen["echo"]),
        "insert": one(scenarios.run_insert, size=chosen["insert"]),
        "A": one(scenarios.run_chat, "A", "direct", size=chosen["A"]),
        "A-plain": one(scenarios.run_chat, "A-plain", "plain", size=chosen["A"]),
        "B": one(scenarios.run_chat, "B", "direct", size=chosen["B"]),
        "B-plain": one(scenarios.run_chat, "B-plain", "plain", size=chosen["B"]),
        "slow": one(scenarios.run_slow, size=chosen["slow"]),
        "identity": partial(identity.run_identity, size=identities["identity"]),
        "audit": partial(identity.run_audit, size=identities["audit"]),
    }


@contextmanager
def open_directory() -> Iterator[Path]:
    """PostgreSQL never runs as root, so its account must be able to enter; the disk is that of the temporary files."""
    with tempfile.TemporaryDirectory(prefix="chatty-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def run_all(wanted: dict[str, Run], only: Sequence[str], *, is_saved: bool) -> list[Result]:
    cores = choose_cores()
    pin(cores.generator)
    found: list[Result] = []
    print(results.HEADING, end="")
    for name, run in wanted.items():
        if name in only:
            with open_directory() as directory:
                new = run(Place(directory=directory, cores=cores))
            found += new
            print("\n".join(map(results.show, new)), flush=True)
    add_ratios(found)
    if is_saved:
        path = results.save(results.make_run(found, is_pinned=cores.are_pinned))
        print(f"saved as {path.name}")
    return found


def add_ratios(found: Sequence[Result]) -> None:
    """The machine's speed moves; ratios to the baselines of the same run do not."""
    by_name = {one.scenario: one for one in found}
    for one in found:
        if one.path and "echo" in by_name:
            one.extra["delivery_in_echoes"] = one.server_us_per_delivery / (
                by_name["echo"].server_us_per_message or 1.0
            )
        if one.path and "insert" in by_name:
            insert = by_name["insert"]
            whole = insert.server_us_per_message + insert.database_us_per_message
            one.extra["message_in_inserts"] = (one.server_us_per_message + one.database_us_per_message) / (whole or 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0] if __doc__ else "")
    names = ["echo", "insert", "A", "A-plain", "B", "B-plain", "slow", *IDENTITY]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SCENARIO", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of each scenario; the median is shown")
    parser.add_argument("--small", action="store_true", help="tiny counts: does it work at all?")
    parser.add_argument("--no-save", action="store_true", help="write no result file")
    chosen = parser.parse_args()
    if chosen.small:
        wanted = runs(small_sizes(), small_identity_sizes())
    else:
        wanted = runs(sizes(chosen.rounds), identity_sizes(chosen.rounds))
    run_all(wanted, chosen.only, is_saved=not chosen.no_save and not chosen.small)


if __name__ == "__main__":
    main()
