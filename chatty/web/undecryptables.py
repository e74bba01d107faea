"""Routes: what clients could not read. It is counted and forgotten: nobody learns who said so."""

from chatty.services.caller import Caller
from chatty.services.permissions import SIGNED_IN
from chatty.telemetry import Metrics
from chatty.web.routes import Route, route
from chatty.wire.accounts import Empty
from chatty.wire.undecryptables import Undecryptables


def routes(metrics: Metrics) -> list[Route]:
    @route("POST", "/v1/undecryptables", permission=SIGNED_IN)
    async def report(caller: Caller, body: Undecryptables) -> Empty:
        """Count messages that the caller's client could not read, by reason."""
        for one in body.counts:
            metrics.undecryptables.labels(reason=one.reason).inc(one.count)
        return Empty()

    return [report]
