"""`chatty-admin cleanup`: what is over and can go, and the jobs that take it, at once instead of when they are due."""

from typing import Any

import click

from chatty.admin import render
from chatty.admin.jobs import wait_for
from chatty.admin.options import Place, confirm, dry_run_option, json_option, yes_option
from chatty.admin.socket import Refused
from chatty.errors import JobRunning


@click.command(epilog="Example: chatty-admin cleanup --dry-run")
@json_option
@yes_option
@dry_run_option
@click.pass_obj
def cleanup(place: Place, as_json: bool, yes: bool, is_dry_run: bool) -> None:
    """Remove what is over: expired ciphertexts, messages past their retention, what waits for ended devices, old rows."""
    leftovers = place.ask("cleanup preview")["leftovers"]
    if is_dry_run:
        answer = {"is_dry_run": True, "leftovers": leftovers, "runs": []}
        (render.print_json(answer) if as_json else render.print_rows(leftovers))
        return
    rows_count = sum(one["rows_count"] for one in leftovers)
    confirm(yes, f"Remove {rows_count} rows for ever? --dry-run shows what they are.")
    runs = [_run(place, job) for job in dict.fromkeys(one["job"] for one in leftovers)]
    answer = {"is_dry_run": False, "leftovers": leftovers, "runs": runs}
    (render.print_json(answer) if as_json else render.print_rows([_shown(run) for run in runs]))


def _run(place: Place, job: str) -> dict[str, Any]:
    """One after the other. A run that goes on already was not ours and is not waited for. Raises: Refused, JobFailed."""
    try:
        order = place.ask("jobs run", {"job": job})["order_number"]
    except Refused as refused:
        if refused.code != JobRunning.code:
            raise
        return {"job": job, "outcome": "running", "rows_count": 0}
    return wait_for(place, job, int(order))


def _shown(run: dict[str, Any]) -> dict[str, Any]:
    return {"job": run["job"], "outcome": run["outcome"], "rows": run["rows_count"]}
