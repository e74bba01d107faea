"""HTTP bodies about who may have an account: invitations and applications (docs/protocol.md, "Looking after the server")."""

from typing import Annotated

from msgspec import Meta

from chatty.wire.accounts import HttpBody
from chatty.wire.types import UserIdField
from chatty.wire.users import RoleField

uses_max = 10_000
expires_days_max = 366


class InvitationRequest(HttpBody, frozen=True, kw_only=True):
    """POST /v1/admin/invitations."""

    role: RoleField = "user"
    uses: Annotated[int, Meta(ge=1, le=uses_max)] = 1
    expires_days: Annotated[int, Meta(ge=1, le=expires_days_max)] = 7


class MadeInvitation(HttpBody, frozen=True, kw_only=True):
    """invitation: the token, told this once: only its hash is kept."""

    invitation: str
    role: RoleField
    uses: int
    expires_in_s: int


class Application(HttpBody, frozen=True, kw_only=True):
    """Somebody who wants an account and waits. request: its number. is_name_free: whether it could be approved now."""

    request: int
    user: UserIdField
    age_s: int
    is_name_free: bool


class Applications(HttpBody, frozen=True, kw_only=True):
    """The oldest first."""

    pending: list[Application]


class Decided(HttpBody, frozen=True, kw_only=True):
    """Whose application it was."""

    user: UserIdField
