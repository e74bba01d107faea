"""The change between two result files: `make bench-compare`, or `python -m bench.compare OLD NEW`.

Without arguments: the two newest. Figures of CPU are the ones to trust; rates and latencies depend on what else ran.
"""

import sys
from pathlib import Path

from bench import results
from bench.results import Run
from bench.scenarios import Result

FIGURES = (
    "server_us_per_delivery",
    "server_us_per_message",
    "database_us_per_message",
    "deliveries_per_s",
    "messages_per_s",
    "p50_ms",
    "p99_ms",
)


def compare(old: Run, new: Run) -> list[str]:
    """A line for each figure of each scenario that is in both."""
    lines = []
    before = {one.scenario: one for one in old.results}
    for now in new.results:
        if now.scenario not in before:
            continue
        was_all, is_all = _figures(before[now.scenario]), _figures(now)
        for figure in [name for name in is_all if name in was_all]:
            was, is_ = was_all[figure], is_all[figure]
            change = f"{(is_ / was - 1) * 100:+7.1f} %" if was else "        "
            lines.append(f"{now.scenario:10}{figure:25}{was:>12,.1f}{is_:>12,.1f}  {change}")
    return lines


def _figures(result: Result) -> dict[str, float]:
    extra = {name: value for name, value in result.extra.items() if isinstance(value, int | float)}
    return {name: getattr(result, name) for name in FIGURES} | extra


def main() -> int:
    paths = [Path(name) for name in sys.argv[1:]] or results.newest()[-2:]
    if len(paths) != 2:
        print("two result files are needed: run `make bench` at two commits, or name them", file=sys.stderr)
        return 2
    old, new = results.read(paths[0]), results.read(paths[1])
    print(f"{old.commit} ({old.at}) → {new.commit} ({new.at})")
    print("\n".join(compare(old, new)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
