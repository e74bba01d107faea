"""`chatty-admin jobs`: the background jobs, whichever node does them. Asked of the running server, or read and written in its
database when none runs; only what runs a job needs a server.
"""

import time
from typing import Any

import click
import trio

from chatty.admin import render
from chatty.admin.db import open_database
from chatty.admin.options import Place, json_option
from chatty.admin.socket import ask
from chatty.config import Settings
from chatty.errors import JobFailed, ServerUnreachable
from chatty.store import schema
from chatty.store.connection import open_connection
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnitOfWork

Arguments = dict[str, str | int | bool | None]

_poll_interval_s = 0.1
_name = click.argument("job", metavar="JOB")
_no_wait = click.option("--no-wait", is_flag=True, help="Do not wait for its end.")


@click.group()
def jobs() -> None:
    """Look at the background jobs, run, pause, resume and abort them."""


@jobs.command("list")
@json_option
@click.pass_obj
def list_jobs(place: Place, as_json: bool) -> None:
    """Show all jobs: state, how often, when next, how the newest run ended.

    \b
    Example: chatty-admin jobs list
    """
    answer = _ask(place, "jobs list", {})
    (render.print_json(answer) if as_json else render.print_rows([_short(job) for job in answer["jobs"]]))


@jobs.command()
@json_option
@_name
@click.pass_obj
def show(place: Place, as_json: bool, job: str) -> None:
    """Show one job with its notes: how far it is, what it found.

    \b
    Example: chatty-admin jobs show integrity_check
    """
    answer = _ask(place, "jobs show", {"job": job})
    (render.print_json if as_json else render.print_facts)(answer)


@jobs.command()
@json_option
@click.option("--count-max", type=click.IntRange(1, 100), default=20, show_default=True, help="The newest so many.")
@_name
@click.pass_obj
def history(place: Place, as_json: bool, count_max: int, job: str) -> None:
    """Show runs of a job, the newest first: start, end, outcome, rows, error.

    \b
    Example: chatty-admin jobs history --count-max 5 message_cleanup
    """
    answer = _ask(place, "jobs history", {"job": job, "count_max": count_max})
    (render.print_json(answer) if as_json else render.print_rows([_run_row(run) for run in answer["runs"]]))


@jobs.command()
@json_option
@_no_wait
@_name
@click.pass_obj
def run(place: Place, as_json: bool, no_wait: bool, job: str) -> None:
    """Run a job now and wait for its end; an interrupted wait does not end the run.

    \b
    Example: chatty-admin jobs run statistics
    """
    answer = ask(place.data_dir, "jobs run", arguments={"job": job})
    if not no_wait:
        answer = wait_for(place, job, int(answer["order_number"]))
    (render.print_json if as_json else render.print_facts)(answer)


@jobs.command()
@json_option
@_name
@click.pass_obj
def pause(place: Place, as_json: bool, job: str) -> None:
    """Let a job do nothing, from the end of its step in hand until it is resumed.

    \b
    Example: chatty-admin jobs pause integrity_check
    """
    _act(place, "jobs pause", job, as_json=as_json)


@jobs.command()
@json_option
@_name
@click.pass_obj
def resume(place: Place, as_json: bool, job: str) -> None:
    """Let a paused or dead job go on, at once; its failures are forgotten.

    \b
    Example: chatty-admin jobs resume audit_sealing
    """
    _act(place, "jobs resume", job, as_json=as_json)


@jobs.command()
@json_option
@_name
@click.pass_obj
def abort(place: Place, as_json: bool, job: str) -> None:
    """Cut a running job off: its step in hand leaves nothing behind, what it did before stays. It comes again when it is due.

    \b
    Example: chatty-admin jobs abort integrity_check
    """
    _act(place, "jobs abort", job, as_json=as_json)


@jobs.command()
@json_option
@click.option("--days-max", type=click.IntRange(1, 400), default=30, show_default=True, help="The newest so many days.")
@click.pass_obj
def statistics(place: Place, as_json: bool, days_max: int) -> None:
    """Show what the job statistics counted, a row a day, about nobody.

    \b
    Example: chatty-admin jobs statistics --days-max 7
    """
    answer = _ask(place, "jobs statistics", {"days_max": days_max})
    (render.print_json(answer) if as_json else render.print_rows(answer["days"]))


def wait_for(place: Place, job: str, order_number: int) -> dict[str, Any]:
    """Until the order is done; on a terminal with rows and time on stderr. Returns the run. Raises: JobFailed, Refused."""
    arguments: Arguments = {"job": job, "order_number": order_number}
    with render.waiting() as tell:
        while True:
            run = ask(place.data_dir, "jobs ordered", arguments=arguments)["run"]
            if run is not None and run["ended_at"] is not None:
                break
            tell(f"{job}: {0 if run is None else run['rows_count']} rows")
            time.sleep(_poll_interval_s)
    if run["outcome"] != "done":
        raise JobFailed(f"{job} ended as {run['outcome']} after {run['rows_count']} rows {run['error_code']}".strip())
    return dict(run)


def _act(place: Place, command: str, job: str, *, as_json: bool) -> None:
    answer = _ask(place, command, {"job": job})
    (render.print_json if as_json else render.print_facts)(answer)


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


def _ask(place: Place, command: str, arguments: Arguments) -> dict[str, Any]:
    """Raises: ServerUnreachable when there is neither a server nor a database of one."""
    try:
        return ask(place.data_dir, command, arguments=arguments)
    except ServerUnreachable:
        settings = place.settings()
        if command == "jobs abort" or (settings.is_embedded and not settings.data_dir.exists()):
            raise
        return trio.run(_do, settings, command, arguments)


async def _do(settings: Settings, command: str, arguments: Arguments) -> dict[str, Any]:
    """Beside the database; nodes that run elsewhere read it within a second."""
    from chatty.app.console import job_commands  # imports the whole application: 0.4 s
    from chatty.services.jobs import JobSteps
    from chatty.services.statistics import CountStatistics

    async with open_database(settings) as address:
        async with open_connection(address) as connection:
            await schema.check(connection)
        async with open_pool(address) as pool:
            units = PostgresUnitOfWork(pool)
            commands = job_commands(JobSteps(units=units), CountStatistics(units=units))
            return dict(await commands[command](arguments))
