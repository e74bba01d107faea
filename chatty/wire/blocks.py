"""HTTP body about blocks (docs/protocol.md, "Blocking")."""

from chatty.wire.accounts import HttpBody
from chatty.wire.types import UserIdField


class Blocks(HttpBody, frozen=True, kw_only=True):
    """GET /v1/blocks: whom the caller has blocked, sorted."""

    users: list[UserIdField]
