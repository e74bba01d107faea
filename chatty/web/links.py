"""OpenAPI links, found in the routes: an answer that names a thing leads to the routes that take it.

A route takes what its path names. It is linked from every answer that holds a field of that name and type, itself or in its
first item, such as the `room` of a new room; a name that both paths hold is passed on. An answer that says nothing new leads
nowhere. A list with `next_after` leads to its own next page, if `after` is one of its parameters.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, get_args, get_origin

import msgspec

from chatty.web.routes import Route

_NEXT = "next_"


def links_from(source: Route, routes: Sequence[Route]) -> dict[str, Any]:
    """Links of a successful answer, by the operation that each leads to."""
    found = {
        target.operation: {"operationId": target.operation, "parameters": parameters}
        for target in routes
        if (parameters := _parameters(source, target))
    }
    return {**found, **_next_page(source)}


def _parameters(source: Route, target: Route) -> dict[str, str]:
    """Expressions for every name in the target's path; none unless the answer tells at least one, and all are known."""
    wanted, passed_on = _in_path(target), _in_path(source)
    told = {name: pointer for name, pointer, type_ in _fields(source.answer) if type_ == wanted.get(name)}
    known = {name: f"$request.path.{name}" for name, type_ in passed_on.items() if wanted.get(name) == type_}
    expressions = {**{name: f"$response.body#{pointer}" for name, pointer in told.items()}, **known}
    return expressions if expressions.keys() == wanted.keys() and expressions.keys() > known.keys() else {}


def _next_page(source: Route) -> dict[str, Any]:
    query = {item.name for item in source.parameters if item.place == "query"}
    pages = {
        name.removeprefix(_NEXT): f"$response.body#{pointer}"
        for name, pointer, _ in _fields(source.answer)
        if name.startswith(_NEXT) and name.removeprefix(_NEXT) in query
    }
    same = {name: f"$request.path.{name}" for name in _in_path(source)}
    return (
        {f"{source.operation}_next": {"operationId": source.operation, "parameters": {**same, **pages}}}
        if pages
        else {}
    )


def _in_path(one: Route) -> dict[str, Any]:
    return {item.name: item.type for item in one.parameters if item.place == "path"}


@cache
def _fields(answer: Any) -> tuple[tuple[str, str, Any], ...]:
    """Name, JSON pointer and type of the fields of a Struct, and of the first item in each list of Structs.

    Kept, because each route is compared with each other.
    """
    return tuple(_walk(answer, ""))


def _walk(answer: Any, at: str) -> Iterator[tuple[str, str, Any]]:
    if not (isinstance(answer, type) and issubclass(answer, msgspec.Struct)):
        return
    for field in msgspec.structs.fields(answer):
        pointer = f"{at}/{field.encode_name}"
        yield field.name, pointer, field.type
        bare = get_args(field.type)[0] if get_origin(field.type) is Annotated else field.type
        if get_origin(bare) is list and not at:
            yield from _walk(get_args(bare)[0], f"{pointer}/0")
