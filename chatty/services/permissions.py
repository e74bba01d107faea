"""Who may do what, in one table; everything that is not named here is refused.

A permission names the server roles that hold it. Each route and each frame declares exactly one, so that a forgotten one is a
failure at start-up and not a hole. What a room role may do stands in `chatty.wire.authority`; objects (own device, own account)
are checked by the steps, which see only what belongs to their caller.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from chatty.errors import Forbidden, Unauthenticated
from chatty.services.caller import Caller

ROLES = ("owner", "admin", "moderator", "auditor", "user", "bot")
USER_ROLE = "user"


@dataclass(frozen=True, kw_only=True)
class Permission:
    """name: as documented. roles: server roles that hold it; None: also those who are not signed in."""

    name: str
    roles: frozenset[str] | None

    @property
    def needs_caller(self) -> bool:
        return self.roles is not None


_everybody = frozenset(ROLES)
_who_chats = frozenset({"owner", "admin", "moderator", "user", "bot"})

PUBLIC = Permission(name="public", roles=None)
SIGNED_IN = Permission(name="signed_in", roles=_everybody)
CHAT = Permission(name="chat", roles=_who_chats)

PERMISSIONS: Mapping[str, Permission] = MappingProxyType(
    {permission.name: permission for permission in (PUBLIC, SIGNED_IN, CHAT)}
)


def check(permission: Permission, caller: Caller | None) -> None:
    """Raises: Unauthenticated (nobody is signed in), Forbidden (the role does not hold it)."""
    if permission.roles is None:
        return
    if caller is None:
        raise Unauthenticated("sign in first")
    if caller.role not in permission.roles:
        raise Forbidden(f"the role {caller.role} may not do this")
