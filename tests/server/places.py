"""Every place of a JSON value, by the type it stands for: to put something else there, one place at a time.

A Struct's fields are all there, also those that the value leaves out; then a place inside one is made of a sample.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from msgspec import inspect

from tests.server.scenes import sample

Known = Mapping[str, Any]
# The steps to the first key of an object whose keys are data, and to what stands under it.
KEY: Literal["(key)"] = "(key)"
VALUE: Literal["(value)"] = "(value)"


@dataclass(frozen=True, kw_only=True)
class Place:
    """path: the steps from the root. info: what may stand there."""

    path: tuple[Any, ...]
    info: inspect.Type

    def __str__(self) -> str:
        return ".".join(map(str, self.path))


def places(info: inspect.Type, value: Any, known: Known, path: tuple[Any, ...] = ()) -> Iterator[Place]:
    """All places below the root, those of an `Any` as far as the value goes."""
    for key, inner_info, inner in _children(_bare(info), value, known):
        yield Place(path=(*path, key), info=inner_info)
        if key is not KEY:
            yield from places(inner_info, inner, known, (*path, key))


def put(info: inspect.Type, value: Any, path: tuple[Any, ...], new: Any, known: Known) -> Any:
    """The value with `new` at that place; the value itself stays as it is."""
    if not path:
        return new
    key, *rest = path
    if key is KEY:
        first, *others = value
        return {str(new): value[first], **{other: value[other] for other in others}}
    inner_info, inner = next((one, item) for step, one, item in _children(_bare(info), value, known) if step == key)
    changed = put(inner_info, inner, tuple(rest), new, known)
    if isinstance(value, Mapping):
        return {**value, next(iter(value)) if key is VALUE else key: changed}
    return [changed if index == key else item for index, item in enumerate(value)]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """What stands there. Raises: LookupError where nothing does."""
    for step in path:
        try:
            first = next(iter(value))
            value = first if step is KEY else value[first if step is VALUE else step]
        except (TypeError, StopIteration):
            raise LookupError(step) from None
    return value


def _children(info: inspect.Type, value: Any, known: Known) -> Iterator[tuple[Any, inspect.Type, Any]]:
    match info, value:
        case inspect.StructType(), Mapping():
            if info.tag_field is not None:
                yield info.tag_field, inspect.StrType(), value[info.tag_field]
            for field in info.fields:
                name = field.encode_name
                yield name, field.type, value[name] if name in value else sample(field.type, known)
        case inspect.DictType(), Mapping() if value:
            yield KEY, info.key_type, None
            yield VALUE, info.value_type, next(iter(value.values()))
        case ((inspect.ListType() | inspect.TupleType()), list() | tuple()):
            for index, item in enumerate(value):
                yield index, info.item_type if isinstance(info, inspect.ListType) else info.item_types[index], item
        case inspect.AnyType(), Mapping():
            for key, item in value.items():
                yield key, info, item
        case inspect.AnyType(), list():
            for index, item in enumerate(value):
                yield index, info, item


def _bare(info: inspect.Type) -> inspect.Type:
    """Without the None that it may be instead."""
    if not isinstance(info, inspect.UnionType):
        return info
    return next(one for one in info.types if not isinstance(one, inspect.NoneType))


def choices(info: inspect.Type, known: Mapping[str, list[Any]]) -> list[Any]:
    """Other values of this type that mean something: what exists, what the type lists, the edges of its range."""
    match info:
        case inspect.StrType():
            return known.get(info.pattern or "", [])
        case inspect.EnumType():
            return [one.value for one in info.cls]
        case inspect.LiteralType():
            return list(info.values)
        case inspect.BoolType():
            return [False, True]
        case inspect.IntType():
            return [number for number in (info.ge, 1, 2, 3, 256, info.le) if number is not None]
        case inspect.UnionType():
            return [None, *(value for one in info.types for value in choices(one, known))]
        case inspect.DictType():
            return [{}]
        case inspect.ListType():
            return [[]]
        case _:
            return []
