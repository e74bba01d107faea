"""Every place of a JSON value, by the type it stands for: to put something else there, one place at a time.

A Struct's fields are all there, also those that the value leaves out, and of a field that may be one thing or another both are;
then a place inside one is made of a sample.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

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


class _Child(NamedTuple):
    """A step into `inside`, which is the value itself, or a sample where the value is of another type."""

    step: Any
    info: inspect.Type
    value: Any
    inside: Any


def places(info: inspect.Type, value: Any, known: Known, path: tuple[Any, ...] = ()) -> Iterator[Place]:
    """All places below the root, those of an `Any` as far as the value goes."""
    for child in _children(info, value, known):
        yield Place(path=(*path, child.step), info=child.info)
        if child.step is not KEY:
            yield from places(child.info, child.value, known, (*path, child.step))


def put(info: inspect.Type, value: Any, path: tuple[Any, ...], new: Any, known: Known) -> Any:
    """The value with `new` at that place; the value itself stays as it is."""
    if not path:
        return new
    step, *rest = path
    child = next(one for one in _children(info, value, known) if one.step == step)
    if step is KEY:
        first, *others = child.inside
        return {str(new): child.inside[first], **{other: child.inside[other] for other in others}}
    changed = put(child.info, child.value, tuple(rest), new, known)
    if isinstance(child.inside, Mapping):
        return {**child.inside, next(iter(child.inside)) if step is VALUE else step: changed}
    return [changed if index == step else item for index, item in enumerate(child.inside)]


def at(value: Any, path: tuple[Any, ...]) -> Any:
    """What stands there. Raises: LookupError where nothing does."""
    for step in path:
        try:
            first = next(iter(value))
            value = first if step is KEY else value[first if step is VALUE else step]
        except (TypeError, StopIteration):
            raise LookupError(step) from None
    return value


def _children(info: inspect.Type, value: Any, known: Known) -> Iterator[_Child]:
    if not isinstance(info, inspect.UnionType):
        yield from _children_of(info, value, known)
        return
    for one in info.types:
        yield from _children_of(one, value if _fits(one, value) else _sample(one, known), known)


def _fits(info: inspect.Type, value: Any) -> bool:
    match info:
        case inspect.StructType() | inspect.DictType():
            return isinstance(value, Mapping)
        case inspect.ListType() | inspect.TupleType():
            return isinstance(value, list | tuple)
        case _:
            return True  # nothing stands inside


def _sample(info: inspect.Type, known: Known) -> Any:
    return None if isinstance(info, inspect.NoneType) else sample(info, known)


def _children_of(info: inspect.Type, value: Any, known: Known) -> Iterator[_Child]:
    match info, value:
        case inspect.StructType(), Mapping():
            if info.tag_field is not None:
                yield _Child(info.tag_field, inspect.StrType(), value[info.tag_field], value)
            for field in info.fields:
                name = field.encode_name
                yield _Child(name, field.type, value[name] if name in value else sample(field.type, known), value)
        case inspect.DictType(), Mapping() if value:
            yield _Child(KEY, info.key_type, None, value)
            yield _Child(VALUE, info.value_type, next(iter(value.values())), value)
        case ((inspect.ListType() | inspect.TupleType()), list() | tuple()):
            for index, item in enumerate(value):
                one = info.item_type if isinstance(info, inspect.ListType) else info.item_types[index]
                yield _Child(index, one, item, value)
        case inspect.AnyType(), Mapping():
            for key, item in value.items():
                yield _Child(key, info, item, value)
        case inspect.AnyType(), list():
            for index, item in enumerate(value):
                yield _Child(index, info, item, value)


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
