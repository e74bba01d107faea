"""HTTP bodies about who may have an account: invitations and applications (docs/protocol.md, "Looking after the server")."""

from typing import Annotated

from msgspec import Meta

from chatty.wire.accounts import HttpBody
from chatty.wire.types import InvitationIdField, UserIdField
from chatty.wire.users import RoleField

uses_max = 10_000
expires_days_max = 366
AfterInvitationField = Annotated[str, Meta(pattern=r"^([0-9a-f]{16})?$(?!\n)")]


class InvitationRequest(HttpBody, frozen=True, kw_only=True):
    """POST /v1/admin/invitations."""

    role: RoleField = "user"
    uses: Annotated[int, Meta(ge=1, le=uses_max)] = 1
    expires_days: Annotated[int, Meta(ge=1, le=expires_days_max)] = 7


class MadeInvitation(HttpBody, frozen=True, kw_only=True):
    """invitation: the token, told this once: only its hash is kept. id: names it in the audit log and when it is withdrawn."""

    id: InvitationIdField
    invitation: str
    role: RoleField
    uses: int
    expires_in_s: int


class ListedInvitation(HttpBody, frozen=True, kw_only=True):
    """Of one that is good still. inviter: a user; empty: the operator."""

    id: InvitationIdField
    role: RoleField
    uses_left: int
    expires_in_s: int
    inviter: str


class Invitations(HttpBody, frozen=True, kw_only=True):
    """In the order of their ids. next_after: where the next page begins; empty: the end."""

    invitations: list[ListedInvitation]
    next_after: str = ""


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
