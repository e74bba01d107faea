"""Where a request names things: found by the types of its fields, so that a new field is found by itself.

A text that is none of our id types is classified by its name; one that is not in the table fails, and is to be put there.
"""

import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from chatty.ids import DeviceId, EventId, FamilyId, InvitationId, MailboxId, PasskeyId, RoomId, UserId


@dataclass(frozen=True)
class Item:
    """The value under a key of a map."""

    key: str


@dataclass(frozen=True)
class Key:
    """A key of a map, itself."""

    key: str


Step = str | int | Item | Key  # a field, a place in a list, or of a map
KINDS: Mapping[Any, str] = {
    UserId: "user",
    DeviceId: "device",
    RoomId: "room",
    MailboxId: "mailbox_id",
    FamilyId: "family",
    PasskeyId: "passkey",
    InvitationId: "invitation",
    EventId: "",
}
_NO_THING = (
    *("algorithm", "algorithms", "body", "domain", "key", "keys", "name", "server", "session_id", "type", "target"),
    *("code", "transports", "link", "title", "command"),
    *("access_token", "dpop_proof", "dpop_thumbprint", "known_refresh_token", "nonce", "refresh_token"),
    *("creator_identity", "identity_key", "last_head", "login_key", "registration_token", "signature", "signatures"),
    *("new_signature", "receipt_hash"),
    "target_identity",
)
TEXTS: Mapping[str, str] = {
    **dict.fromkeys(_NO_THING, ""),
    "replaces": "device",
}  # a refresh token's family: see operations.py
QUERIES: Mapping[str, tuple[str, ...]] = {
    "after": ("room", "user"),
    "actor": ("user",),
    "object": ("user", "device", "room"),
    "family": ("family",),
    "action": (),
    "address": (),
    "request_id": (),
    "title": (),
}


@dataclass(frozen=True)
class Slot:
    """A place in a body. path: from its root."""

    path: tuple[Step, ...]
    kind: str

    @property
    def name(self) -> str:
        """The fields; * for any item."""
        return ".".join(step if isinstance(step, str) else "*" for step in self.path)


def slots(value: Any, annotation: Any, path: tuple[Step, ...] = ()) -> Iterator[Slot]:
    """Of a value in builtins that has this type."""
    annotation = _bare(annotation)
    if annotation in KINDS:
        if KINDS[annotation]:
            yield Slot(path, KINDS[annotation])
    elif _is_struct(annotation):
        hints = get_type_hints(annotation, include_extras=True)
        for field, encoded in zip(annotation.__struct_fields__, annotation.__struct_encode_fields__, strict=True):
            if encoded in value:
                yield from slots(value[encoded], hints[field], (*path, encoded))
    elif annotation is str:
        yield from _of_text(path)
    else:
        yield from _of_collection(value, annotation, path)


def _of_text(path: tuple[Step, ...]) -> Iterator[Slot]:
    name = next(step for step in reversed(path) if isinstance(step, str))
    assert name in TEXTS, f"does the text {name} name a thing? Say so in {__name__}.TEXTS"
    if TEXTS[name]:
        yield Slot(path, TEXTS[name])


def _of_collection(value: Any, annotation: Any, path: tuple[Step, ...]) -> Iterator[Slot]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        for key, item in value.items():
            if kind := KINDS.get(_bare(arguments[0])):
                yield Slot((*path, Key(key)), kind)
            yield from slots(item, arguments[1], (*path, Item(key)))
    elif origin in (list, tuple):
        for place, item in enumerate(value):
            yield from slots(item, arguments[0], (*path, place))
    elif origin in (Union, types.UnionType):
        if value is not None:
            [arm] = [one for one in arguments if one is not type(None) and _is_struct(one) == isinstance(value, dict)]
            yield from slots(value, arm, path)
    else:
        assert _is_no_text(annotation), f"{annotation} at {path} is of no known shape"


def _is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)


def _is_no_text(annotation: Any) -> bool:
    is_number = hasattr(annotation, "__supertype__") or (isinstance(annotation, type) and issubclass(annotation, Enum))
    return is_number or annotation in (int, bool, float, bytes, Any) or get_origin(annotation) is Literal


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def replaced(value: Any, path: tuple[Step, ...], new: Any) -> Any:
    """A copy of the value with another thing in that place."""
    if not path:
        return new
    step, rest = path[0], path[1:]
    if isinstance(step, Key):
        return {new if key == step.key else key: item for key, item in value.items()}
    if isinstance(step, int):
        return [replaced(item, rest, new) if place == step else item for place, item in enumerate(value)]
    wanted = step.key if isinstance(step, Item) else step
    return {key: replaced(item, rest, new) if key == wanted else item for key, item in value.items()}


def value_at(value: Any, path: tuple[Step, ...]) -> Any:
    for step in path:
        value = step.key if isinstance(step, Key) else value[step.key if isinstance(step, Item) else step]
    return value
