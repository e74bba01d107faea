"""A request of the operator's console and its answer: a line of JSON on the socket, a body over HTTP."""

from typing import Annotated, Any

import msgspec

from chatty.wire import limits
from chatty.wire.accounts import HttpBody
from chatty.wire.types import TextField

Words = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[^\u0000]*$(?!\n)")]
Number = Annotated[int, msgspec.Meta(ge=0, le=limits.integer_max)]
Argument = TextField | Number | bool | None


class ConsoleRequest(HttpBody, frozen=True, kw_only=True):
    """command: by its words, "limits why"; "rehearse users lock" does it and takes it back. children_max: of one branch in the
    tree of actors; those worth a look are chosen first. arguments: of the command, which checks them.
    """

    command: Words
    children_max: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 50
    arguments: dict[Words, Argument] = {}


class ConsoleAnswered(HttpBody, frozen=True, kw_only=True):
    """Over HTTP, where an error is a problem document. answer: under stable keys, as `--json` prints it."""

    answer: dict[str, Any]
