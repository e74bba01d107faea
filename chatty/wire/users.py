"""HTTP bodies about users, for those who look after the server (docs/protocol.md, "Looking after the server")."""

from typing import Literal

from chatty.wire.accounts import HttpBody
from chatty.wire.types import UserIdField

RoleField = Literal["owner", "admin", "moderator", "auditor", "user", "bot"]


class ListedUser(HttpBody, frozen=True, kw_only=True):
    """created_day: YYYY-MM-DD."""

    user: UserIdField
    role: RoleField
    is_locked: bool
    created_day: str


class Users(HttpBody, frozen=True, kw_only=True):
    """In the order of their ids. next_after: where the next page begins; empty: the end."""

    users: list[ListedUser]
    next_after: str = ""


class RoleChange(HttpBody, frozen=True, kw_only=True):
    """PUT /v1/admin/users/{user}/role."""

    role: RoleField


class LockChange(HttpBody, frozen=True, kw_only=True):
    """PUT /v1/admin/users/{user}/lock."""

    is_locked: bool


class EndedSessions(HttpBody, frozen=True, kw_only=True):
    ended_count: int


class Refusal(HttpBody, frozen=True, kw_only=True):
    """How often a limiter refused one thing, when last, and how long the wait was then."""

    limiter: str
    what: str
    count: int
    last_age_s: float
    retry_after_s: float


class Refusals(HttpBody, frozen=True, kw_only=True):
    """What the asked process remembers of a user, a device or an address, the newest first."""

    subject: str
    refusals: list[Refusal]
