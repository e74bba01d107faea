"""`chatty-admin jobs`: the background jobs, whichever node does them. Asked of the running server, or read and written in its
database when none runs; only what runs a job needs a server.
"""

import time
from typing import Any

import click

from chatty.admin import render
from chatty.admin.acts import act, ask_or_do, rehearse
from chatty.admin.options import Arguments, Place, dry_run_option, json_option
from chatty.errors import JobFailed

_poll_interval_s = 0.1
_name = click.argument("job", metavar="JOB")
_no_wait = click.option("--no-wait", is_flag=True, help="Do not wait for its end.")


@click.group()
def jobs() -> None:
    """Look at the background jobs, run, pause, resume and abort them."""


@jobs.command("list", epilog="Example: chatty-admin jobs list")
@json_option
@click.pass_obj
def list_jobs(place: Place, as_json: bool) -> None:
    """Show all jobs: state, how often, when next, how the newest run ended."""
    answer = ask_or_do(place, "jobs list")
    (render.print_json(answer) if as_json else render.print_rows([_short(job) for job in answer["jobs"]]))


@jobs.command(epilog="Example: chatty-admin jobs show integrity_check")
@json_option
@_name
@click.pass_obj
def show(place: Place, as_json: bool, job: str) -> None:
    """Show one job with its notes: how far it is, what it found."""
    answer = ask_or_do(place, "jobs show", {"job": job})
    (render.print_json if as_json else render.print_facts)(answer)


@jobs.command(epilog="Example: chatty-admin jobs history --count-max 5 message_cleanup")
@json_option
@click.option("--count-max", type=click.IntRange(1, 100), default=20, show_default=True, help="The newest so many.")
@_name
@click.pass_obj
def history(place: Place, as_json: bool, count_max: int, job: str) -> None:
    """Show runs of a job, the newest first: start, end, outcome, rows, error."""
    answer = ask_or_do(place, "jobs history", {"job": job, "count_max": count_max})
    (render.print_json(answer) if as_json else render.print_rows([_run_row(run) for run in answer["runs"]]))


@jobs.command(epilog="Example: chatty-admin jobs run statistics")
@json_option
@dry_run_option
@_no_wait
@_name
@click.pass_obj
def run(place: Place, as_json: bool, is_dry_run: bool, no_wait: bool, job: str) -> None:
    """Run a job now and wait for its end; an interrupted wait does not end the run."""
    if is_dry_run:
        answer = rehearse(place, "jobs run", {"job": job})
    else:
        answer = place.ask("jobs run", {"job": job})
        if not no_wait:
            answer = wait_for(place, job, int(answer["order_number"]))
    (render.print_json if as_json else render.print_facts)(answer)


@jobs.command(epilog="Example: chatty-admin jobs pause integrity_check")
@json_option
@dry_run_option
@_name
@click.pass_obj
def pause(place: Place, as_json: bool, is_dry_run: bool, job: str) -> None:
    """Let a job do nothing, from the end of its step in hand until it is resumed."""
    act(place, "jobs pause", {"job": job}, as_json=as_json, is_dry_run=is_dry_run)


@jobs.command(epilog="Example: chatty-admin jobs resume audit_sealing")
@json_option
@dry_run_option
@_name
@click.pass_obj
def resume(place: Place, as_json: bool, is_dry_run: bool, job: str) -> None:
    """Let a paused or dead job go on, at once; its failures are forgotten."""
    act(place, "jobs resume", {"job": job}, as_json=as_json, is_dry_run=is_dry_run)


@jobs.command(epilog="Example: chatty-admin jobs abort integrity_check")
@json_option
@dry_run_option
@_name
@click.pass_obj
def abort(place: Place, as_json: bool, is_dry_run: bool, job: str) -> None:
    """Cut a running job off: its step in hand leaves nothing behind, what it did before stays. It comes again when it is due."""
    act(place, "jobs abort", {"job": job}, as_json=as_json, is_dry_run=is_dry_run)


@jobs.command(epilog="Example: chatty-admin jobs statistics --days-max 7")
@json_option
@click.option("--days-max", type=click.IntRange(1, 400), default=30, show_default=True, help="The newest so many days.")
@click.pass_obj
def statistics(place: Place, as_json: bool, days_max: int) -> None:
    """Show what the job statistics counted, a row a day, about nobody."""
    answer = ask_or_do(place, "jobs statistics", {"days_max": days_max})
    (render.print_json(answer) if as_json else render.print_rows(answer["days"]))


def wait_for(place: Place, job: str, order_number: int) -> dict[str, Any]:
    """Until the order is done; on a terminal with rows and time on stderr. Returns the run. Raises: JobFailed, Refused."""
    arguments: Arguments = {"job": job, "order_number": order_number}
    with render.waiting() as tell:
        while True:
            run = place.ask("jobs ordered", arguments)["run"]
            if run is not None and run["ended_at"] is not None:
                break
            tell(f"{job}: {0 if run is None else run['rows_count']} rows")
            time.sleep(_poll_interval_s)
    if run["outcome"] != "done":
        raise JobFailed(f"{job} ended as {run['outcome']} after {run['rows_count']} rows {run['error_code']}".strip())
    return dict(run)


def _short(job: dict[str, Any]) -> dict[str, Any]:
    """As it fits 80 columns."""
    next_s = job["next_look_s"]
    last = job["last"] or {}
    return {
        "job": job["job"],
        "state": job["state"],
        "every_s": f"{job['interval_s']:g}",
        "next_s": None if next_s is None else round(next_s),
        "last": last.get("outcome"),
        "rows": last.get("rows_count"),
        "failures": job["failures_count"],
    }


def _run_row(run: dict[str, Any]) -> dict[str, Any]:
    """As it fits 80 columns."""
    return {
        "run": run["run"],
        "started": run["started_at"][:19],
        "took_s": run["duration_s"],
        "outcome": run["outcome"],
        "rows": run["rows_count"],
        "error": run["error_code"] or None,
    }
