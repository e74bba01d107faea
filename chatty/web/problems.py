"""Errors leave the process here: as problem details over HTTP (RFC 9457), as `error` frames over a WebSocket.

What nobody foresaw becomes InternalError: its traceback goes to the log under the request id, never into an answer.
"""

import math
import re
from typing import Annotated, Any

import msgspec
import structlog
from msgspec import Meta, Struct
from werkzeug.exceptions import HTTPException

from chatty.errors import (
    BadRequest,
    BodyTimeout,
    ChattyError,
    DeviceRevoked,
    InternalError,
    InvalidDpopProof,
    MethodNotAllowed,
    NotFound,
    TokenExpired,
    TooLarge,
    Unauthenticated,
    UseDpopNonce,
)
from chatty.ids import RequestId
from chatty.wire import frames

_CHALLENGE = 'DPoP algs="EdDSA ES256"'
PROBLEM_MEDIA_TYPE = "application/problem+json"
_log = structlog.get_logger(__name__)


class Problem(Struct, frozen=True, kw_only=True):
    """RFC 9457 problem details. Further members, named for each code, carry what mends the error."""

    type: str
    title: str
    status: Annotated[int, Meta(ge=400, le=599)]
    detail: str
    code: str
    request_id: str
    is_retryable: bool
    retry_after_s: float | None = None


def problem_body(error: ChattyError, request_id: RequestId) -> bytes:
    """The body of an error's answer."""
    problem = Problem(
        type=f"urn:chatty:error:{error.code}",
        title=error.code.replace("_", " ").capitalize(),
        status=error.http_status,
        detail=str(error) or _first_sentence(type(error)),
        code=error.code,
        request_id=request_id,
        is_retryable=error.is_retryable,
        retry_after_s=error.retry_after_s,
    )
    members = {key: value for key, value in msgspec.to_builtins(problem).items() if value is not None}
    return msgspec.json.encode({**error.fields(), **members})


def problem_headers(error: ChattyError) -> dict[str, str]:
    """Headers of an error's answer beside its content type."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = _CHALLENGE
    elif isinstance(error, InvalidDpopProof | UseDpopNonce):
        headers["WWW-Authenticate"] = f'{_CHALLENGE}, error="{error.code}"'
    elif isinstance(error, TokenExpired | DeviceRevoked):
        headers["WWW-Authenticate"] = f'{_CHALLENGE}, error="invalid_token"'
    return headers


def error_frame(request: int, error: ChattyError) -> frames.Error:
    """The same error for a socket. request: the id of the request that failed; 0: the connection itself."""
    return frames.Error(
        id=request,
        code=error.code,
        message=str(error) or _first_sentence(type(error)),
        is_retryable=error.is_retryable,
        retry_after_s=error.retry_after_s,
        details=error.fields(),
    )


def as_domain_error(error: Exception, *, body_bytes_max: int) -> ChattyError:
    """The domain's word for whatever a request raised. What is unknown is logged here and becomes InternalError."""
    if isinstance(error, ChattyError):
        return error
    if isinstance(error, HTTPException):
        return _from_routing(error, body_bytes_max)
    _log.error("request.crashed", exc_info=error)
    return InternalError("a fault of ours; the log has it under the request id")


def _from_routing(error: HTTPException, body_bytes_max: int) -> ChattyError:
    match error.code:
        case 404:
            return NotFound("no such resource")
        case 405:
            return MethodNotAllowed("not with this method")
        case 408:
            return BodyTimeout("the body did not come in time")
        case 413:
            return TooLarge(limit="body_bytes_max", bytes_max=body_bytes_max)
        case _:
            return BadRequest(f"refused: {error.name}")


def describe(kind: type[ChattyError]) -> str:
    """One sentence about an error class, for OpenAPI."""
    return f"`{kind.code}`: {_first_sentence(kind)}"


def _first_sentence(kind: type[Any]) -> str:
    text = " ".join((kind.__doc__ or "").split())
    own_words = re.match(r".*?[.:](?= |$)", text) if "__doc__" in vars(kind) else None
    return own_words[0].rstrip(":") if own_words else kind.code.replace("_", " ").capitalize()
