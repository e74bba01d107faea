"""OpenAPI 3.1 from the routes themselves, so it cannot say anything else than what is enforced."""

import inspect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from http import HTTPStatus
from typing import Any

import msgspec

from chatty.errors import ChattyError, InvalidDpopProof
from chatty.services.permissions import PUBLIC
from chatty.web.links import links_from
from chatty.web.problems import PROBLEM_MEDIA_TYPE, Problem, describe
from chatty.web.routes import Parameter, Route, route
from chatty.wire.types import SendNumberField

_REFERENCE = "#/components/schemas/{name}"
_SECURITY = {
    "access_token": {
        "type": "http",
        "scheme": "DPoP",
        "description": "An access token bound to a DPoP key (RFC 9449).",
    },
    "proof": {
        "type": "apiKey",
        "in": "header",
        "name": "DPoP",
        "description": "A proof of the DPoP key, made for this very request, with the newest nonce heard (RFC 9449).",
    },
}
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def openapi_route(described: Sequence[Route], *, version: str) -> Route:
    """GET /openapi.json, describing these routes and itself; made when first asked for, as nothing in it changes while we run."""

    @route("GET", "/openapi.json", permission=PUBLIC)
    async def document() -> dict[str, Any]:
        """This document."""
        return made()

    @cache
    def made() -> dict[str, Any]:
        return make_document([*described, document], version=version)

    return document


def make_document(routes: Iterable[Route], *, version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these routes."""
    routes = list(routes)
    types = _types(routes)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    schema_of = {id(type_): schema for type_, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for one in routes:
        paths[one.path][one.method.lower()] = _operation(one, schema_of, links_from(one, routes))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Chatty",
            "version": version,
            "description": "End-to-end encrypted chat. Errors are problem details (RFC 9457) with a stable `code`.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "paths": dict(paths),
        "components": {"schemas": portable(components), "securitySchemes": _SECURITY},
    }


def _types(routes: Iterable[Route]) -> list[Any]:
    found: dict[int, Any] = {id(Problem): Problem, id(SendNumberField): SendNumberField}
    for one in routes:
        for type_ in (one.body, one.answer, *(parameter.type for parameter in one.parameters)):
            if type_ is not None:
                found[id(type_)] = type_
    return list(found.values())


def _operation(one: Route, schema_of: dict[int, Any], links: dict[str, Any]) -> dict[str, Any]:
    summary, _, description = inspect.cleandoc(one.handler.__doc__ or "").partition("\n")
    operation: dict[str, Any] = {
        "operationId": one.operation,
        "summary": summary,
        "description": f"{description.strip()}\n\nPermission: `{one.permission.name}`.".strip(),
        "security": _security(one),
        "parameters": [*(_parameter(item, schema_of) for item in one.parameters), *_headers(one, schema_of)],
        "responses": _responses(one, schema_of, links),
    }
    if one.body is not None:
        content = {"application/json": {"schema": portable(schema_of[id(one.body)])}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameter(item: Parameter, schema_of: dict[int, Any]) -> dict[str, Any]:
    schema = dict(portable(schema_of[id(item.type)]))
    if not item.is_required and item.default is not None:
        schema["default"] = item.default
    return {"name": item.name, "in": item.place, "required": item.is_required, "schema": schema}


def _headers(one: Route, schema_of: dict[int, Any]) -> list[dict[str, Any]]:
    if not one.is_numbered:
        return []
    described = {
        "Idempotency-Key": "n: the device's own counter; names this exact request for ever.",
        "Chatty-Low": "Everything below is settled on the client's disk.",
    }
    schema = schema_of[id(SendNumberField)]
    return [
        {"name": name, "in": "header", "required": True, "description": text, "schema": schema}
        for name, text in described.items()
    ]


def _security(one: Route) -> list[dict[str, list[str]]]:
    if one.permission.needs_caller:
        return [{"access_token": [], "proof": []}]
    return [{"proof": []}] if InvalidDpopProof in one.errors else []


def _responses(one: Route, schema_of: dict[int, Any], links: dict[str, Any]) -> dict[str, Any]:
    """By status. Not ready is an answer of its own and an error's status too: it has both media types."""
    schema = {"type": "string"} if one.answer is str else portable(schema_of[id(one.answer)])
    responses: dict[str, Any] = {}
    for status in one.statuses:
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {one.media_type: {"schema": schema}},
            **({"links": links} if links and status < 400 else {}),
        }
    for error_status, kinds in _errors_by_status(one).items():
        response = responses.setdefault(error_status, {"description": "", "content": {}})
        response["description"] = "\n\n".join(filter(None, [response["description"], *map(describe, kinds)]))
        response["content"][PROBLEM_MEDIA_TYPE] = {"schema": _problem(kinds, schema_of)}
    return responses


def _errors_by_status(one: Route) -> dict[str, list[type[ChattyError]]]:
    by_status: dict[str, list[type[ChattyError]]] = defaultdict(list)
    for kind in sorted(one.errors, key=lambda kind: kind.http_status):
        by_status[str(kind.http_status)].append(kind)
    return by_status


def _problem(kinds: Sequence[type[ChattyError]], schema_of: dict[int, Any]) -> dict[str, Any]:
    return {**schema_of[id(Problem)], "properties": {"code": {"enum": [kind.code for kind in kinds]}}}


def portable(schema: Any) -> Any:
    """The schema as others read it: Python's `$(?!\\n)` is JSON Schema's `$`, and what base64 is stands in a pattern, for an
    encoding alone is only a hint there.
    """
    match schema:
        case {"contentEncoding": "base64", **rest}:
            return {**portable(rest), "contentEncoding": "base64", "pattern": _BASE64}
        case dict():
            return {key: _portable_item(key, value) for key, value in schema.items()}
        case list():
            return [portable(item) for item in schema]
        case _:
            return schema


def _portable_item(key: str, value: Any) -> Any:
    if key == "pattern" and isinstance(value, str):
        return value.replace(r"$(?!\n)", "$")
    return portable(value)
