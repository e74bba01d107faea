"""What a run found: one JSON file a commit, and the table that people read."""

import datetime
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.scenarios import Result

RESULTS = Path(__file__).parent / "results"


class Run(msgspec.Struct, kw_only=True):
    """commit: its short hash, with -dirty when the checkout had changes."""

    commit: str
    at: str
    python: str
    is_pinned: bool
    results: list[Result]


def _git(*arguments: str) -> str:
    command = ["git", "-c", "safe.directory=*", *arguments]
    found = subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else ""


def commit_name() -> str:
    """Of the checkout; only the product's changes and the scale's own make it dirty."""
    commit = _git("rev-parse", "--short", "HEAD") or "unknown"
    changed = _git(
        "status", "--porcelain", "--untracked-files=no", "--", "../chatty", "../bench", "../requirements.lock"
    )
    return f"{commit}-dirty" if changed else commit


def make_run(results: Sequence[Result], *, is_pinned: bool) -> Run:
    at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    python = platform.python_version()
    rounded = [_rounded(one) for one in results]
    return Run(commit=commit_name(), at=at, python=python, is_pinned=is_pinned, results=rounded)


def _rounded(result: Result) -> Result:
    figures = {
        one.name: round(getattr(result, one.name), 2) for one in msgspec.structs.fields(Result) if one.type is float
    }
    extra = {name: round(value, 2) if isinstance(value, float) else value for name, value in result.extra.items()}
    return msgspec.structs.replace(result, **figures, extra=extra)


def save(run: Run, directory: Path = RESULTS) -> Path:
    """What an earlier run of this commit found and this one did not stays."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{run.commit}.json"
    new = {one.scenario for one in run.results}
    kept = [one for one in read(path).results if one.scenario not in new] if path.exists() else []
    run = msgspec.structs.replace(run, results=kept + run.results)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")
    return path


def read(path: Path) -> Run:
    return msgspec.json.decode(path.read_bytes(), type=Run)


def newest(directory: Path = RESULTS) -> list[Path]:
    """All result files, the newest last."""
    return sorted(directory.glob("*.json"), key=lambda path: read(path).at)


def show(result: Result) -> str:
    """One line, for people."""
    extras = result.extra | ({"resyncs": result.resync_count} if result.resync_count else {})
    extra = "".join(f"  {name} {value:.4g}" for name, value in extras.items() if isinstance(value, int | float))
    return (
        f"{result.scenario:9}{result.deliveries_per_s:>9,.0f}/s{result.server_us_per_delivery:>9.1f} µs"
        f"{result.messages_per_s:>9,.0f}/s{result.server_us_per_message:>9.0f} µs{result.database_us_per_message:>7.0f} µs"
        f"{result.p50_ms:>8.1f}{result.p99_ms:>8.1f} ms{result.generator_share:>6.0%}{extra}"
    )


HEADING = """           deliveries      server     messages   server       db     p50     p99     generator's
                       a delivery            a message                              share of its core
"""
