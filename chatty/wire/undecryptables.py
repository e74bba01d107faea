"""Bodies: how many messages a client could not read, and why; nothing about which, whose or where."""

from typing import Annotated, Literal

from msgspec import Meta

from chatty.wire.accounts import HttpBody

UndecryptableReason = Literal[
    "no_key_yet", "withheld", "wrong_session_owner", "replayed", "altered_event", "content_withheld_by_server"
]


class UndecryptableCount(HttpBody, frozen=True, kw_only=True):
    reason: UndecryptableReason
    count: Annotated[int, Meta(ge=1, le=10_000)]


class Undecryptables(HttpBody, frozen=True, kw_only=True):
    """POST /v1/undecryptables. Since the client's last report."""

    counts: Annotated[list[UndecryptableCount], Meta(min_length=1, max_length=6)]
