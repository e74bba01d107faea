"""The HTTP side of the process: Quart around the routes, with request ids, the access log and metrics.

Every answer passes through here, also those of Quart itself: unknown paths, wrong methods, bodies too large, crashes. The log
has the path's template, never the path, and no header or body; so no id of a person and no token gets there.
"""

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import msgspec
import structlog
from quart import Request, Response, g, request
from quart_trio import QuartTrio

from chatty.errors import ChattyError, InternalError
from chatty.ids import RequestId
from chatty.services.audit import Origin, set_family, set_origin
from chatty.services.caller import Caller
from chatty.services.dpop import ProvenRequest
from chatty.services.limits import unlimited
from chatty.services.permissions import Policy
from chatty.telemetry import Metrics
from chatty.web.addresses import Network, client_address, is_proxy
from chatty.web.limits import RequestLimits
from chatty.web.problems import PROBLEM_MEDIA_TYPE, as_domain_error, problem_body, problem_headers
from chatty.web.reading import read_arguments, read_proof, read_token
from chatty.web.routes import Reply, RequestInfo, Route, Streamed


class Authenticator(Protocol):
    async def authenticate(self, access_token: str, proven: ProvenRequest, /) -> Caller:
        """The caller of a checked access token and proof. Raises: Unauthenticated and relatives."""
        ...

    async def look_again(self, caller: Caller, /) -> Caller:
        """The caller as it stands now. Raises: DeviceRevoked."""
        ...


# A body that takes longer than this to arrive may be told of by somebody who was put out since.
body_wait_free_s = 0.5

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")
_UNKNOWN_PATH = "(unknown)"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_log = structlog.get_logger(__name__)


def make_quart(
    routes: Iterable[Route],
    *,
    authenticator: Authenticator,
    make_nonce: Callable[[], str],
    metrics: Metrics,
    note_crash: Callable[[Exception], None] = lambda _: None,
    body_bytes_max: int,
    body_timeout_s: float = 30.0,
    policy: Policy | None = None,
    limits: RequestLimits | None = None,
    proxies: Sequence[Network] = (),
) -> QuartTrio:
    """An application that answers these routes and nothing else; lifespan and WebSocket are added by the caller.

    make_nonce: for the DPoP proofs of the next requests; it goes out with every answer.
    note_crash: told of what nobody foresaw.
    policy: without one, no network is set apart. limits: none by default. proxies: whose headers are believed (addresses.py).
    Raises: TypeError for two routes of one operation.
    """
    app = QuartTrio("chatty", static_folder=None, template_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=body_bytes_max, BODY_TIMEOUT=body_timeout_s, PROPAGATE_EXCEPTIONS=False)
    app.url_map.merge_slashes = False
    limits, policy = limits or RequestLimits(unlimited()), policy or Policy()
    for one in routes:
        _add(app, one, authenticator, policy, limits)
    app.before_request(_beginner(limits, proxies))
    app.after_request(_finisher(metrics, make_nonce))

    async def refuse(error: Exception) -> Response:
        domain_error = as_domain_error(error, body_bytes_max=body_bytes_max)
        metrics.errors.labels(code=domain_error.code, way="http").inc()
        if isinstance(domain_error, InternalError):
            note_crash(error)
        return _problem(error, domain_error)

    app.register_error_handler(Exception, refuse)
    return app


def _add(app: QuartTrio, route: Route, authenticator: Authenticator, policy: Policy, limits: RequestLimits) -> None:
    if route.operation in app.view_functions:
        raise TypeError(f"two routes for {route.operation}")

    async def view(**_: str) -> Response:
        return await _serve(route, request, authenticator, policy, limits)

    app.add_url_rule(
        re.sub(r"\{(\w+)\}", r"<\1>", route.path),
        endpoint=route.operation,
        view_func=view,
        methods=[route.method],
        provide_automatic_options=False,
    )


async def _serve(
    route: Route, request_: Request, authenticator: Authenticator, policy: Policy, limits: RequestLimits
) -> Response:
    """Who asks comes before what is asked: nobody makes us read a body without a token where one is needed.

    A body that was long in coming is not believed on the strength of what its sender was when it began.
    """
    proven, caller = read_proof(request_), None
    if route.permission.needs_caller:
        caller = await authenticator.authenticate(read_token(request_.headers), proven)
    policy.check(route.permission, caller, address=g.address)
    if caller is not None:
        set_family(caller.family)
        limits.admit(caller, route.operation, address=g.address)
    info = RequestInfo(request_id=g.request_id, address=g.address, proven=proven)
    began_s = time.perf_counter()
    arguments = await read_arguments(route, request_, info)
    g.is_body_read = True
    if caller is not None and time.perf_counter() - began_s > body_wait_free_s:
        caller = await authenticator.look_again(caller)
        policy.check(route.permission, caller, address=g.address)
    if route.wants_caller:
        arguments["caller"] = caller
    answer = await route.handler(**arguments)
    status = route.statuses[0]
    if isinstance(answer, Reply):
        answer, status = answer.body, answer.status
    if isinstance(answer, Streamed):
        response = Response(answer.chunks, status=status, content_type=route.media_type)
        response.timeout = None  # its maker knows when it takes too long
        return response
    body = answer if isinstance(answer, str) else msgspec.json.encode(answer)
    return Response(body, status=status, content_type=route.media_type)


def _beginner(limits: RequestLimits, proxies: Sequence[Network]) -> Callable[[], Awaitable[None]]:
    async def begin() -> None:
        peer = request.remote_addr or ""
        offered = request.headers.get("X-Request-Id", "") if is_proxy(peer, proxies=proxies) else ""
        g.request_id = RequestId(offered if _REQUEST_ID.fullmatch(offered) else secrets.token_urlsafe(12))
        g.started_at = time.perf_counter()
        g.is_body_read = not (request.content_length or "Transfer-Encoding" in request.headers)
        g.address = client_address(peer, request.headers.getlist("X-Forwarded-For"), proxies=proxies)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=g.request_id)
        set_origin(Origin(request_id=g.request_id, address=g.address))
        limits.arrive(g.address, request.endpoint or _UNKNOWN_PATH)

    return begin


def _finisher(metrics: Metrics, make_nonce: Callable[[], str]) -> Callable[[Response], Awaitable[Response]]:
    async def finish(response: Response) -> Response:
        path, status = _template(request), response.status_code
        duration_s = time.perf_counter() - g.started_at
        response.headers["X-Request-Id"] = g.request_id
        response.headers["DPoP-Nonce"] = make_nonce()
        if not g.is_body_read and request.http_version.startswith("1"):
            response.headers["Connection"] = "close"  # whatever of the body still comes is not the next request
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        method = request.method if path != _UNKNOWN_PATH else "(any)"
        metrics.http_requests.labels(method, path, status).inc()
        metrics.http_request_duration_seconds.labels(path).observe(duration_s)
        _log.info("request.answered", method=method, path=path, status=status, duration_s=round(duration_s, 6))
        return response

    return finish


def _template(request_: Request) -> str:
    rule = request_.url_rule
    return re.sub(r"<(\w+)>", r"{\1}", rule.rule) if rule is not None else _UNKNOWN_PATH


def _problem(error: Exception, domain_error: ChattyError) -> Response:
    response = Response(
        problem_body(domain_error, g.request_id),
        status=domain_error.http_status,
        content_type=PROBLEM_MEDIA_TYPE,
        headers=problem_headers(domain_error),
    )
    valid_methods = getattr(error, "valid_methods", None)  # of a 405; RFC 9110 wants them named
    if valid_methods:
        response.headers["Allow"] = ", ".join(sorted(valid_methods))
    return response
