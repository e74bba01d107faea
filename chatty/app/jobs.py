"""What the console asks of the background jobs: beside the database too, but for what makes one run."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from chatty.actors.console import ConsoleCommand
from chatty.actors.janitor import Janitor
from chatty.errors import BadRequest
from chatty.services.caller import current_operator
from chatty.services.cleanup import CleanupSteps
from chatty.services.console import Rehearsal
from chatty.services.jobs import JobRun, JobSteps, ListedJob
from chatty.services.statistics import CountStatistics
from chatty.services.units import Transactions

runs_page_count = 20
runs_page_max = 100
statistics_days = 30
statistics_days_max = 400
Json = Mapping[str, Any]


def job_commands(
    jobs: JobSteps, statistics: CountStatistics, janitor: Janitor | None = None
) -> dict[str, ConsoleCommand]:
    """Of the running server or, without a janitor, beside it: nodes that run elsewhere read it within a second."""

    def looks_s() -> Mapping[str, float]:
        return {} if janitor is None else janitor.next_looks_s()

    async def listed(arguments: Json) -> Json:
        return {"jobs": [_shown_job(one, looks_s().get(one.job)) for one in await jobs.listed()]}

    async def show(arguments: Json) -> Json:
        one, notes = await jobs.shown(_job(arguments))
        return {**_shown_job(one, looks_s().get(one.job)), "notes": notes}

    async def history(arguments: Json) -> Json:
        count_max = _count(arguments, "count_max", usual=runs_page_count, most=runs_page_max)
        return {"runs": [asdict(run) for run in await jobs.history(_job(arguments), count_max=count_max)]}

    async def pause(arguments: Json) -> Json:
        await jobs.pause(current_operator(), _job(arguments))
        return {"job": _job(arguments), "state": "paused"}

    async def resume(arguments: Json) -> Json:
        await jobs.resume(current_operator(), _job(arguments))
        return {"job": _job(arguments), "state": "scheduled"}

    async def days(arguments: Json) -> Json:
        return {
            "days": await statistics.listed(
                days_max=_count(arguments, "days_max", usual=statistics_days, most=statistics_days_max)
            )
        }

    return {
        "jobs list": listed,
        "jobs show": show,
        "jobs history": history,
        "jobs pause": _told(pause, janitor),
        "jobs resume": _told(resume, janitor),
        "jobs statistics": days,
    }


def run_commands(units: Transactions[Any], janitor: Janitor) -> dict[str, ConsoleCommand]:
    """What needs a server that does it, and a rehearsal of each act."""
    tried = _run_commands(JobSteps(units=Rehearsal(units)))
    acts = _run_commands(JobSteps(units=units))
    acts |= {name: _told(acts[name], janitor) for name in ("jobs run", "jobs abort")}
    return acts | {f"rehearse {name}": tried[name] for name in ("jobs run", "jobs abort")}


def _run_commands(jobs: JobSteps) -> dict[str, ConsoleCommand]:
    async def run(arguments: Json) -> Json:
        return {"job": _job(arguments), "order_number": await jobs.order(current_operator(), _job(arguments))}

    async def ordered(arguments: Json) -> Json:
        found = await jobs.ordered(_job(arguments), _count(arguments, "order_number", usual=0, most=2**53))
        return {"run": None if found is None else asdict(found)}

    async def abort(arguments: Json) -> Json:
        await jobs.abort(current_operator(), _job(arguments))
        return {"job": _job(arguments), "is_aborted": True}

    return {"jobs run": run, "jobs ordered": ordered, "jobs abort": abort}


def cleanup_commands(cleanup: CleanupSteps) -> dict[str, ConsoleCommand]:
    """What `chatty-admin cleanup` asks."""

    async def preview(arguments: Json) -> Json:
        return {"leftovers": [asdict(one) for one in await cleanup.preview()]}

    return {"cleanup preview": preview}


def jobs_now(janitor: Janitor) -> Mapping[str, Json]:
    """As this node knows them, also while the database is gone."""
    looks_s = janitor.next_looks_s()
    return {
        job: {
            "job_state": one.state,
            "last_outcome": one.last_outcome or None,
            "failures_count": one.failures_count,
            "next_look_s": looks_s.get(job),
        }
        for job, one in janitor.standings().items()
    }


def _told(command: ConsoleCommand, janitor: Janitor | None) -> ConsoleCommand:
    """The janitor reads at once what was written."""

    async def act(arguments: Json) -> Json:
        answer = await command(arguments)
        if janitor is not None:
            janitor.read_books()
        return answer

    return act


def _count(arguments: Json, name: str, *, usual: int, most: int) -> int:
    """Raises: BadRequest."""
    value = arguments.get(name)
    if value is None:
        return usual
    if not isinstance(value, int) or not 0 < value <= most:
        raise BadRequest(f"{name} must be a whole number from 1 to {most}")
    return value


def _job(arguments: Json) -> str:
    return str(arguments.get("job"))


def _shown_job(one: ListedJob, next_look_s: float | None) -> dict[str, Any]:
    """next_look_s: by this node; None where no server runs."""
    last: JobRun | None = one.last
    return {
        "job": one.job,
        "state": one.standing.state,
        "interval_s": one.interval_s,
        "next_look_s": next_look_s,
        "failures_count": one.standing.failures_count,
        "last": None if last is None else asdict(last),
    }
