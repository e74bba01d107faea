"""Typed routes: a handler's signature is its contract, enforced before it runs and shown in OpenAPI.

    def routes(keys: KeySteps) -> list[Route]:
        @route("POST", "/v1/keys/claim", permission=CHAT, errors=(BadKey,))
        async def claim(caller: Caller, body: KeyClaim, request: NumberedRequest) -> ClaimedKeys:
            \"\"\"Hand out one key a device.\"\"\"
            return await keys.claim(caller, body, n=request.n, low=request.low)

        return [claim]

`caller` is the signed-in device and needs a permission that asks for one. `body` is a Struct of the wire. `request` is a
RequestInfo, or a NumberedRequest for a durable write, which then must carry Idempotency-Key and Chatty-Low. Every other
argument stands in the path as `{name}` or is a query parameter, required unless it has a default; its annotation is checked as
the wire's types are. The answer is a Struct; a `Reply` chooses among the declared statuses, a `Streamed` is sent in pieces. The
docstring is the documentation.

A route that names no permission, or one outside the table, fails when it is made, which is at start-up.
"""

import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from chatty import errors as e
from chatty.errors import ChattyError
from chatty.ids import RequestId, SendNumber
from chatty.services.caller import Caller
from chatty.services.dpop import ProvenRequest
from chatty.services.permissions import PERMISSIONS, Permission

Method = Literal["GET", "POST", "PUT", "DELETE"]
Handler = Callable[..., Awaitable[Any]]
T = TypeVar("T")

_ALWAYS = (e.BadRequest, e.InternalError, e.Overloaded, e.RateLimited, e.StoreUnavailable, e.ShuttingDown)
_WITH_CALLER = (e.Unauthenticated, e.TokenExpired, e.InvalidDpopProof, e.UseDpopNonce, e.DeviceRevoked, e.Forbidden)
_WITH_BODY = (e.TooLarge, e.UnsupportedMediaType, e.BodyTimeout)
_WITH_STEP_UP = (e.StepUpRequired,)
_WITH_VERIFIED_DEVICE = (e.DeviceNotVerified,)
_WITH_NUMBER = (e.MessageIdConflict, e.MessageIdClosed, e.SendWindowFull, e.OutcomeUnknown)


@dataclass(frozen=True, kw_only=True)
class RequestInfo:
    """What every request has. address: the client's, behind the proxies that are trusted (addresses.py). proven: with its DPoP
    proof, which for requests with a caller was checked before the handler runs.
    """

    request_id: RequestId
    address: str
    proven: ProvenRequest


@dataclass(frozen=True, kw_only=True)
class NumberedRequest(RequestInfo):
    """A durable write: n is its Idempotency-Key, low its Chatty-Low."""

    n: SendNumber
    low: SendNumber


@dataclass(frozen=True)
class Reply(Generic[T]):
    """An answer with one of the route's statuses."""

    body: T
    status: int


@dataclass(frozen=True)
class Streamed:
    """An answer of unknown length, sent as it is made. An error out of it cuts the connection: the status is gone already."""

    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    name: str
    place: Literal["path", "query"]
    type: Any
    default: Any
    is_integer: bool

    @property
    def is_required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclass(frozen=True, kw_only=True)
class Route:
    """One operation. `path` is a template, `/v1/rooms/{room}/events`; `statuses` begins with the usual one."""

    method: Method
    path: str
    permission: Permission
    handler: Handler
    statuses: tuple[int, ...]
    media_type: str
    body: type[Struct] | None
    answer: Any
    request: type[RequestInfo] | None
    wants_caller: bool
    parameters: tuple[Parameter, ...]
    own_errors: tuple[type[ChattyError], ...]

    @property
    def operation(self) -> str:
        """Unique name, from the method and the path: post_v1_keys_claim."""
        return "_".join([self.method.lower(), *re.findall(r"\w+", self.path)])

    @property
    def is_numbered(self) -> bool:
        return self.request is NumberedRequest

    @property
    def errors(self) -> tuple[type[ChattyError], ...]:
        """Every error it may answer: its own and those that its shape implies."""
        implied = [
            *_ALWAYS,
            *(_WITH_CALLER if self.permission.needs_caller else ()),
            *(_WITH_STEP_UP if self.permission.needs_step_up else ()),
            *(_WITH_VERIFIED_DEVICE if self.permission.needs_verified_device else ()),
            *(_WITH_BODY if self.body else ()),
            *(_WITH_NUMBER if self.is_numbered else ()),
        ]
        return tuple(dict.fromkeys([*self.own_errors, *implied]))


def route(
    method: Method,
    path: str,
    *,
    permission: Permission,
    statuses: tuple[int, ...] = (200,),
    errors: tuple[type[ChattyError], ...] = (),
    media_type: str = "application/json",
) -> Callable[[Handler], Route]:
    """Make a Route of an async function. A media_type other than JSON is for handlers that return text.

    Raises: TypeError for a signature, permission or path that does not fit; it is raised while the program starts.
    """
    if PERMISSIONS.get(permission.name) is not permission:
        raise TypeError(f"{method} {path}: {permission.name} is not in the table of permissions")

    def make(handler: Handler) -> Route:
        hints = get_type_hints(handler, include_extras=True)
        if "caller" in hints and (hints["caller"] is not Caller or not permission.needs_caller):
            raise TypeError(f"{method} {path}: a caller needs the type Caller and a permission that asks for one")
        return Route(
            method=method,
            path=path,
            permission=permission,
            handler=handler,
            statuses=statuses,
            media_type=media_type,
            body=hints.get("body"),
            answer=_answer(hints["return"]),
            request=hints.get("request"),
            wants_caller="caller" in hints,
            parameters=_parameters(path, handler, hints),
            own_errors=errors,
        )

    return make


def _answer(annotation: Any) -> Any:
    if annotation is Streamed:
        return str
    return get_args(annotation)[0] if get_origin(annotation) is Reply else annotation


def _parameters(path: str, handler: Handler, hints: dict[str, Any]) -> tuple[Parameter, ...]:
    in_path = set(re.findall(r"\{(\w+)\}", path))
    own = [item for item in inspect.signature(handler).parameters.values() if item.name not in _special]
    if missing := in_path - {item.name for item in own}:
        raise TypeError(f"{path}: no argument for {sorted(missing)}")
    return tuple(
        Parameter(
            name=item.name,
            place="path" if item.name in in_path else "query",
            type=hints[item.name],
            default=item.default,
            is_integer=isinstance(msgspec.inspect.type_info(hints[item.name]), msgspec.inspect.IntType),
        )
        for item in own
    )


_special = frozenset({"caller", "body", "request"})
