"""The operator's console from elsewhere: the same commands as on the machine's socket, for whoever's role holds them."""

from chatty.actors.console import ConsoleSources, answer_to
from chatty.errors import (
    ChattyError,
    JobIdle,
    JobRunning,
    JobStopped,
    JobUnknown,
    KeyChangeRefused,
    LastOwner,
    NameTaken,
    NotFound,
    OutcomeUnknown,
    Outranked,
    StepUpRequired,
)
from chatty.services.caller import Caller, acting_as
from chatty.services.permissions import USE_CONSOLE, Policy, console_permission
from chatty.web.routes import RequestInfo, Route, route
from chatty.wire.console import ConsoleAnswered, ConsoleRequest

_errors: tuple[type[ChattyError], ...] = (
    NotFound,
    Outranked,
    LastOwner,
    NameTaken,
    StepUpRequired,
    OutcomeUnknown,
    JobUnknown,
    JobStopped,
    JobRunning,
    JobIdle,
    KeyChangeRefused,
)


def routes(sources: ConsoleSources, policy: Policy) -> list[Route]:
    @route("POST", "/v1/admin/console", permission=USE_CONSOLE, errors=_errors)
    async def ask(caller: Caller, body: ConsoleRequest, request: RequestInfo) -> ConsoleAnswered:
        """Do one command of the console. Each has a permission of its own; those that are not listed need `operate`."""
        policy.check(console_permission(body.command), caller, address=request.address)
        with acting_as(caller):
            return ConsoleAnswered(answer=dict(await answer_to(body, sources)))

    return [ask]
