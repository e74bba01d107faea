"""Routes: users, as those see and change them who look after the server."""

from typing import Annotated

from msgspec import Meta

from chatty.errors import LastOwner, NotFound, Outranked
from chatty.services.caller import Caller
from chatty.services.permissions import MANAGE_USERS, MODERATE_USERS, READ_USERS
from chatty.services.users import UserSteps
from chatty.web.routes import Route, route
from chatty.wire.accounts import Empty
from chatty.wire.types import TextField, UserIdField
from chatty.wire.users import EndedSessions, LockChange, RoleChange, Users

users_page_max = 200

CountField = Annotated[int, Meta(ge=1, le=users_page_max)]
_errors = (NotFound, Outranked)


def routes(users: UserSteps) -> list[Route]:
    @route("GET", "/v1/admin/users", permission=READ_USERS)
    async def listed(after: TextField = "", limit: CountField = users_page_max) -> Users:
        """All users in the order of their ids."""
        return await users.listed(after=after, count_max=limit)

    @route("PUT", "/v1/admin/users/{user}/role", permission=MANAGE_USERS, errors=(*_errors, LastOwner))
    async def set_role(caller: Caller, user: UserIdField, body: RoleChange) -> Empty:
        """Give a user another role; it reaches open sockets within a second."""
        await users.set_role(caller, user, body.role)
        return Empty()

    @route("PUT", "/v1/admin/users/{user}/lock", permission=MODERATE_USERS, errors=(*_errors, LastOwner))
    async def set_locked(caller: Caller, user: UserIdField, body: LockChange) -> Empty:
        """Lock a user, which ends all log-in sessions for ever, or let the user log in again."""
        await users.set_locked(caller, user, body.is_locked)
        return Empty()

    @route("DELETE", "/v1/admin/users/{user}/sessions", permission=MODERATE_USERS, errors=_errors)
    async def end_sessions(caller: Caller, user: UserIdField) -> EndedSessions:
        """End all log-in sessions of a user, with their devices."""
        return await users.end_sessions(caller, user)

    return [listed, set_role, set_locked, end_sessions]
