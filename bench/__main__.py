"""Measure everything: `make bench`. About eleven minutes.

    python -m bench [--only A B] [--rounds 3] [--small] [--no-save]

Server and PostgreSQL run on one core, the generator on another. The figures go to bench/results/COMMIT.json, pictures beside;
what another run of this commit found and this one does not measure stays there. The curves of growth are measured where they are
named.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bench import baselines, fairness, growth, history, identity, idle, plots, reconnect, results, scenarios
from bench.processes import Cores, choose_cores, pin
from bench.scenarios import Place, Result, make_template, open_place
from bench.sizes import sizes, small_sizes

Run = Callable[[Place], Sequence[Result]]
GROWTH = ("sessions", "spread", "rooms")


def runs(chosen: dict[str, Any]) -> dict[str, Run]:
    """By the names that --only knows, in the order of a run."""

    def one(run: Callable[..., Result], *arguments: str, size: Any) -> Run:
        return lambda place: [run(*arguments, place, size=size)]

    def both_paths(name: str) -> dict[str, Run]:
        return {
            name: one(scenarios.run_chat, name, "direct", size=chosen[name]),
            f"{name}-plain": one(scenarios.run_chat, f"{name}-plain", "plain", size=chosen[name]),
        }

    return {
        "echo": one(baselines.run_echo, size=chosen["echo"]),
        "insert": one(baselines.run_insert, size=chosen["insert"]),
        "send": one(baselines.run_send, size=chosen["send"]),
        **both_paths("A"),
        **both_paths("B"),
        **both_paths("C"),
        "D": one(idle.run_idle, size=chosen["D"]),
        "E": one(reconnect.run_reconnect, size=chosen["E"]),
        "F": partial(history.run_history, size=chosen["F"]),
        "slow": one(scenarios.run_slow, size=chosen["slow"]),
        "fairness": one(fairness.run_fairness, size=chosen["fairness"]),
        **{kind: partial(growth.run_sessions, kind, size=chosen[kind]) for kind in ("sessions", "spread")},
        "rooms": partial(growth.run_rooms, size=chosen["rooms"]),
        "identity": partial(identity.run_identity, size=chosen["identity"]),
        "audit": partial(identity.run_audit, size=chosen["audit"]),
    }


def run_all(wanted: dict[str, Run], only: Sequence[str], cores: Cores, *, is_saved: bool) -> list[Result]:
    pin(cores.generator)
    found: list[Result] = []
    print(results.HEADING, end="")
    with open_place(cores) as home:
        template = make_template(home)
        for name in only:
            with open_place(cores, template=template) as place:
                new = wanted[name](place)
            found += new
            add_ratios(found)
            print("\n".join(map(results.show, new)), flush=True)
    if is_saved:
        path = results.save(results.make_run(found, is_pinned=cores.are_pinned))
        plots.draw(results.read(path), path)
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
        if one.path and "send" in by_name:
            one.extra["delivery_in_sends"] = one.server_us_per_delivery / (by_name["send"].server_us_per_message or 1.0)
        if one.path and "insert" in by_name:
            insert = by_name["insert"]
            whole = insert.server_us_per_message + insert.database_us_per_message
            one.extra["message_in_inserts"] = (one.server_us_per_message + one.database_us_per_message) / (whole or 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0] if __doc__ else "")
    names = list(runs(small_sizes()))
    usual = [name for name in names if name not in GROWTH]
    parser.add_argument("--only", nargs="+", choices=names, default=usual, metavar="SCENARIO", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of each scenario; the median is shown")
    parser.add_argument("--small", action="store_true", help="tiny counts, on any core: does it work at all?")
    parser.add_argument("--no-save", action="store_true", help="write no result file")
    chosen = parser.parse_args()
    wanted = runs(small_sizes() if chosen.small else sizes(chosen.rounds))
    cores = Cores(server=None, generator=None) if chosen.small else choose_cores()
    run_all(wanted, chosen.only, cores, is_saved=not chosen.no_save and not chosen.small)


if __name__ == "__main__":
    main()
