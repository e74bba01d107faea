"""`chatty-admin health`: whether the running server can serve, dependency by dependency; exit code 1 if not."""

from typing import Any

import click

from chatty.admin import render
from chatty.admin.options import Place, aimed, json_option

unhealthy_exit_code = 1
# What to do when a check of GET /readyz is not as it should be.
ADVICE = {
    "audit": "is audit_sealing there, and what was its last error? see chatty-admin actors tree",
    "backups": "see chatty-admin backup list; then chatty-admin backup create",
    "database": "the server goes on by itself once PostgreSQL answers; see chatty-admin doctor",
    "disk": "make room; see chatty-admin db size",
    "jobs": "resume what is dead or paused; see chatty-admin jobs list",
    "journal": "look at the database's locks and disk; see chatty-admin actors tree",
    "keys": "rotate what is old; see chatty-admin keys list",
    "serving": "it stops; wait for it, then chatty up",
}
_advice_default = "chatty-admin actors tree"


@click.command(epilog="Example: chatty-admin health --json")
@json_option
@click.pass_context
def health(context: click.Context, as_json: bool) -> None:
    """Tell whether the running server can serve; exit with 1 if it cannot."""
    place = context.find_object(Place)
    assert place is not None
    answer = advised(place.ask("health"), server=place.server)
    (render.print_json if as_json else render.print_health)(answer)
    if not answer["is_ready"]:
        failed = ", ".join(check["name"] for check in answer["checks"] if not check["is_ready"])
        render.print_error("not_ready", failed, next_command=aimed("chatty-admin actors tree", place.server))
        context.exit(unhealthy_exit_code)


def advised(answer: dict[str, Any], *, server: str = "") -> dict[str, Any]:
    """The same with a word of advice for each check that needs it. server: as Place's."""
    return {**answer, "checks": [_advised(check, server) for check in answer["checks"]]}


def _advised(check: dict[str, Any], server: str) -> dict[str, Any]:
    if check["is_ready"] and not check.get("warning"):
        return check
    return {**check, "advice": aimed(ADVICE.get(check["name"], _advice_default), server)}
