"""From an HTTP request to a handler's typed arguments: strict, bounded, and before anything of the request is believed.

Refused: unknown query parameters and fields, a content type that is not JSON, bad UTF-8, NUL in any text, nesting too deep for
the decoder, a body where none belongs. A body is collected by Quart, which stops at the application's bound.
"""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from quart import Request
from werkzeug.datastructures import Headers, MultiDict

from chatty.errors import BadRequest, InvalidDpopProof, Unauthenticated, UnsupportedMediaType
from chatty.ids import SendNumber
from chatty.services.dpop import ProvenRequest
from chatty.web.routes import NumberedRequest, Parameter, RequestInfo, Route
from chatty.wire.types import SendNumberField

_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_INTEGER = re.compile(r"0|[1-9][0-9]{0,15}")
_JSON = re.compile(r'application/json(?:[ \t]*;[ \t]*charset=(?:utf-?8|"utf-?8"))?', re.IGNORECASE)


def read_token(headers: Headers) -> str:
    """The access token, in the scheme DPoP alone: one that anybody could use is none. Raises: Unauthenticated."""
    scheme, _, token = (_field(headers, "Authorization") or "").partition(" ")
    if scheme.lower() != "dpop" or not re.fullmatch(r"[A-Za-z0-9._~+/=-]{1,4096}", token):
        raise Unauthenticated("no access token in the scheme DPoP")
    return token


def read_proof(request: Request) -> ProvenRequest:
    """The request's DPoP proof, and what it must speak of. Raises: InvalidDpopProof for more than one."""
    proofs = request.headers.getlist("DPoP")
    if len(proofs) > 1:
        raise InvalidDpopProof("more than one DPoP proof")
    return ProvenRequest(method=request.method, path=request.path, proof=proofs[0] if proofs else "")


async def read_arguments(route: Route, request: Request, info: RequestInfo) -> dict[str, Any]:
    """All arguments of the route's handler but the caller. Raises: BadRequest and its relatives."""
    arguments = _read_parameters(route, request)
    if route.request is not None:
        arguments["request"] = _read_info(route, request, info)
    if route.body is not None:
        _check_content_type(request)
        data = await request.get_data(cache=False, as_text=False, parse_form_data=False)
        arguments["body"] = decode_body(data, route.body)
    elif request.content_length or "Transfer-Encoding" in request.headers:
        raise BadRequest("this request takes no body")
    return arguments


def decode_body(data: bytes, type_: type[msgspec.Struct]) -> msgspec.Struct:
    """Raises: BadRequest, with the path of the field that is wrong."""
    if b"\\u0000" in data and _ESCAPED_NUL.search(data):
        raise BadRequest("NUL in a text")
    try:
        return msgspec.json.decode(data, type=type_)
    except RecursionError:
        raise BadRequest("nested too deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"body refused: {error}") from None


def _read_info(route: Route, request: Request, info: RequestInfo) -> RequestInfo:
    if not route.is_numbered:
        return info
    n, low = (_read_number(name, _field(request.headers, name)) for name in ("Idempotency-Key", "Chatty-Low"))
    if low > n:
        raise BadRequest("Chatty-Low is above Idempotency-Key")
    return NumberedRequest(request_id=info.request_id, address=info.address, proven=info.proven, n=n, low=low)


def _read_parameters(route: Route, request: Request) -> dict[str, Any]:
    _check_utf8(request.query_string)
    query: MultiDict[str, str] = request.args
    known = {parameter.name for parameter in route.parameters if parameter.place == "query"}
    if unknown := sorted(set(query) - known):
        raise BadRequest(f"unknown query parameter {unknown[0]!r}")
    path = request.view_args or {}
    return {parameter.name: _read_parameter(parameter, path, query) for parameter in route.parameters}


def _read_parameter(parameter: Parameter, path: Mapping[str, Any], query: MultiDict[str, str]) -> Any:
    if parameter.place == "path":
        return _convert(parameter.name, path[parameter.name], parameter.type, is_integer=parameter.is_integer)
    values = query.getlist(parameter.name)
    if len(values) > 1:
        raise BadRequest(f"{parameter.name} is given twice")
    if not values:
        if parameter.is_required:
            raise BadRequest(f"{parameter.name} is missing")
        return parameter.default
    return _convert(parameter.name, values[0], parameter.type, is_integer=parameter.is_integer)


def _read_number(name: str, text: str | None) -> SendNumber:
    if text is None:
        raise BadRequest(f"{name} is missing")
    return SendNumber(_convert(name, text, SendNumberField, is_integer=True))


def _convert(name: str, text: str, type_: Any, *, is_integer: bool) -> Any:
    """The server writes U+FFFD where a path's bytes were not UTF-8."""
    if "\x00" in text or "\ufffd" in text:
        raise BadRequest(f"{name} is not text")
    if is_integer and not _INTEGER.fullmatch(text):
        raise BadRequest(f"{name} is no integer")
    try:
        return msgspec.convert(int(text) if is_integer else text, type_)
    except msgspec.ValidationError as error:
        raise BadRequest(f"{name} refused: {error}") from None


def _check_utf8(query: bytes) -> None:
    """Quart would keep such bytes in their escaped form, as if the client had meant that."""
    try:
        unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        raise BadRequest("the query is not UTF-8") from None


def _check_content_type(request: Request) -> None:
    if not _JSON.fullmatch(_field(request.headers, "Content-Type") or ""):
        raise UnsupportedMediaType("the body must be application/json, in UTF-8")


def _field(headers: Headers, name: str) -> str | None:
    """A field that came on several lines is one, with commas (RFC 9110, section 5.3): none that we read may hold one."""
    lines = headers.getlist(name)
    return ", ".join(lines) if lines else None
