"""Routes for operators: is it alive, is it ready and if not why, what does it count; and a page for whoever opens the address.

Ready means that every dependency says so within its deadline. Alive means only that this process answers: a database that is gone
is no reason to kill the server, which recovers by itself.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from html import escape

from chatty.services.permissions import PUBLIC
from chatty.telemetry import Metrics
from chatty.web.routes import Reply, Route, route
from chatty.wire.accounts import HttpBody

DOCUMENTS = ("/openapi.json", "/asyncapi.json", "/v1/server", "/v1/jwks", "/readyz", "/metrics")


class Check(HttpBody, frozen=True, kw_only=True):
    """One dependency. reason: why it is not ready, for an operator; no secret and no address. warning: it is, and yet.

    age_s: of the newest of what is made at intervals, null if there is none.
    """

    name: str
    is_ready: bool
    reason: str = ""
    warning: str = ""
    age_s: float | None = None


class Readiness(HttpBody, frozen=True, kw_only=True):
    """GET /readyz."""

    is_ready: bool
    checks: list[Check]


class Liveness(HttpBody, frozen=True, kw_only=True):
    """GET /livez."""

    is_alive: bool


RunCheck = Callable[[], Awaitable[Check]]  # answers within its own deadline and raises nothing


@dataclass(frozen=True, kw_only=True)
class Health:
    """What these routes show."""

    server_name: str
    version: str
    checks: Sequence[RunCheck]
    metrics: Metrics


async def look(health: Health) -> Readiness:
    """Run all checks, one after the other."""
    checks = [await run() for run in health.checks]
    return Readiness(is_ready=all(check.is_ready for check in checks), checks=checks)


def routes(health: Health) -> list[Route]:
    page_text = _page(health)

    @route("GET", "/livez", permission=PUBLIC)
    async def live() -> Liveness:
        """This process answers."""
        return Liveness(is_alive=True)

    @route("GET", "/readyz", permission=PUBLIC, statuses=(200, 503))
    async def ready() -> Reply[Readiness]:
        """Whether it can serve, dependency by dependency."""
        readiness = await look(health)
        return Reply(readiness, 200 if readiness.is_ready else 503)

    @route("GET", "/metrics", permission=PUBLIC, media_type="text/plain; version=0.0.4; charset=utf-8")
    async def metrics() -> str:
        """For Prometheus."""
        return health.metrics.render().decode()

    @route("GET", "/", permission=PUBLIC, media_type="text/html; charset=utf-8")
    async def page() -> str:
        """What is running here."""
        return page_text

    return [live, ready, metrics, page]


def _page(health: Health) -> str:
    links = "".join(f'<li><a href="{path}">{path}</a></li>' for path in DOCUMENTS)
    name = escape(health.server_name)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Chatty</title>'
        "<style>body{font:1rem/1.5 system-ui;max-width:40rem;margin:3rem auto;padding:0 1rem}</style></head><body>"
        f"<h1>Chatty</h1><p>The server <strong>{name}</strong> is running, version {escape(health.version)}. "
        "It keeps conversations that only their members can read.</p>"
        f"<ul>{links}</ul></body></html>"
    )
