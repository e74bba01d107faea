"""Route: everything that is stored about the caller."""

from chatty.services.caller import Caller
from chatty.services.exports import ExportSteps
from chatty.services.permissions import OWN_SECURITY
from chatty.web.routes import RequestInfo, Route, Streamed, route
from chatty.wire.accounts import Empty


def routes(exports: ExportSteps) -> list[Route]:
    @route("POST", "/v1/account/export", permission=OWN_SECURITY, media_type="application/x-ndjson")
    async def export(caller: Caller, body: Empty, request: RequestInfo) -> Streamed:
        """Everything that is stored about the caller, one JSON object a line; the last line says that it is complete."""
        return Streamed(await exports.begin(caller, address=request.address))

    return [export]
