"""Who may do what: the whole policy as data. Everything that is not named here is refused.

A permission names the server roles that hold it, and what else must be so: its context. Each route and each frame declares
exactly one; a route without one, or a frame that is not in the table, fails at start-up and is no hole.

One rule says who may act on whom: whoever acts holds every right of the other's role, and more (`outranks`). It follows from the
table, and so does who may invite whom.

What a room role may do stands in `chatty.wire.authority`, the one rule that server and clients share. Objects (own device, own
account, own room) are checked by the steps, which see only what belongs to their caller: what does not is `not_found`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from types import MappingProxyType
from typing import Any, get_args

from chatty.errors import DeviceNotVerified, Forbidden, Outranked, StepUpRequired, Unauthenticated
from chatty.services.caller import Caller
from chatty.wire import frames
from chatty.wire.frames import ClientFrame
from chatty.wire.presence import SetPresence, WatchPresence
from chatty.wire.receipts import Read
from chatty.wire.typing_notices import Typing
from chatty.wire.users import RoleField

ROLES: tuple[str, ...] = get_args(RoleField)
OWNER_ROLE: RoleField = "owner"
USER_ROLE: RoleField = "user"


@dataclass(frozen=True, kw_only=True)
class Permission:
    """name: as documented. roles: server roles that hold it; None: also those who are not signed in.

    needs_step_up: the user proved who they are a short while ago. needs_admin_network: the request comes from where operators
    are. needs_verified_device: the user's other devices vouch for this one.
    """

    name: str
    roles: frozenset[str] | None
    needs_step_up: bool = False
    needs_admin_network: bool = False
    needs_verified_device: bool = False

    @property
    def needs_caller(self) -> bool:
        return self.roles is not None


_everybody = frozenset(ROLES)
_who_chats = frozenset({"owner", "admin", "moderator", "user", "bot"})

PUBLIC = Permission(name="public", roles=None)
SIGNED_IN = Permission(name="signed_in", roles=_everybody)
CHAT = Permission(name="chat", roles=_who_chats)
OWN_SECURITY = Permission(name="own_security", roles=_everybody, needs_step_up=True)
READ_USERS = Permission(
    name="read_users", roles=frozenset({"owner", "admin", "moderator", "auditor"}), needs_admin_network=True
)
MODERATE_USERS = Permission(
    name="moderate_users",
    roles=frozenset({"owner", "admin", "moderator"}),
    needs_step_up=True,
    needs_admin_network=True,
)
MANAGE_USERS = Permission(
    name="manage_users", roles=frozenset({"owner", "admin"}), needs_step_up=True, needs_admin_network=True
)
READ_AUDIT = Permission(name="read_audit", roles=frozenset({"owner", "auditor"}), needs_admin_network=True)
USE_CONSOLE = Permission(
    name="use_console", roles=frozenset({"owner", "admin", "moderator", "auditor"}), needs_admin_network=True
)
OPERATE = Permission(name="operate", roles=frozenset({"owner"}), needs_step_up=True, needs_admin_network=True)

PERMISSIONS: Mapping[str, Permission] = MappingProxyType(
    {
        permission.name: permission
        for permission in (
            PUBLIC,
            SIGNED_IN,
            CHAT,
            OWN_SECURITY,
            READ_USERS,
            MODERATE_USERS,
            MANAGE_USERS,
            READ_AUDIT,
            USE_CONSOLE,
            OPERATE,
        )
    }
)
FRAMES: Mapping[type[Any], Permission] = MappingProxyType(
    {
        frames.Hello: CHAT,
        frames.Cursors: CHAT,
        frames.Resync: CHAT,
        frames.Token: CHAT,
        frames.Send: CHAT,
        frames.MailboxAck: CHAT,
        frames.CheckpointRequest: CHAT,
        frames.Ping: CHAT,
        Typing: CHAT,
        Read: CHAT,
        WatchPresence: CHAT,
        SetPresence: CHAT,
    }
)

# What the console's commands need of who uses it from elsewhere. All others, those of later versions too, need OPERATE.
CONSOLE: Mapping[str, Permission] = MappingProxyType(
    {
        "status": USE_CONSOLE,
        "health": USE_CONSOLE,
        "actors": USE_CONSOLE,
        "actors show": USE_CONSOLE,
        "actors memory": USE_CONSOLE,
        "top": USE_CONSOLE,
        "limits list": USE_CONSOLE,
        "limits why": READ_USERS,
        "users list": READ_USERS,
        "users pending": READ_USERS,
        "users invitations": READ_USERS,
        "users quotas": READ_USERS,
        "users lock": MODERATE_USERS,
        "users unlock": MODERATE_USERS,
        "users end-sessions": MODERATE_USERS,
        "users role": MANAGE_USERS,
        "users invite": MANAGE_USERS,
        "users withdraw": MANAGE_USERS,
        "users approve": MANAGE_USERS,
        "users reject": MANAGE_USERS,
        "sessions list": READ_USERS,
        "sessions end": MODERATE_USERS,
        "devices list": READ_USERS,
        "devices revoke": MODERATE_USERS,
        "rooms list": READ_USERS,
        "rooms show": READ_USERS,
        "storage": READ_USERS,
        "keys list": USE_CONSOLE,
        "keys progress": USE_CONSOLE,
        "jobs list": USE_CONSOLE,
        "jobs show": USE_CONSOLE,
        "jobs history": USE_CONSOLE,
        "jobs ordered": USE_CONSOLE,
        "jobs statistics": USE_CONSOLE,
        "cleanup preview": USE_CONSOLE,
    }
)
_REHEARSAL = "rehearse "


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The table, under one server's settings. admin_networks: none named is anywhere. step_up_lifetime_s: how long one counts."""

    admin_networks: Sequence[IPv4Network | IPv6Network] = ()
    step_up_lifetime_s: float = 600.0

    def check(self, permission: Permission, caller: Caller | None, *, address: str) -> None:
        """Raises: Unauthenticated (nobody is signed in), Forbidden (role or network), DeviceNotVerified, StepUpRequired."""
        if permission.roles is None:
            return
        if caller is None:
            raise Unauthenticated("sign in first")
        if not holds(caller.role, permission):
            raise Forbidden(f"the role {caller.role} may not do this")
        if permission.needs_admin_network and not self._is_admin_network(address):
            raise Forbidden("not from this network")
        if permission.needs_verified_device and not caller.is_verified:
            raise DeviceNotVerified("verify this device with another one first")
        if permission.needs_step_up and caller.step_up_age_s > self.step_up_lifetime_s:
            raise StepUpRequired(age_s_max=self.step_up_lifetime_s)

    def _is_admin_network(self, address: str) -> bool:
        if not self.admin_networks:
            return True
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self.admin_networks)


def holds(role: str, permission: Permission) -> bool:
    return permission.roles is None or role in permission.roles


def rights(role: str) -> frozenset[str]:
    """The names of the permissions that the role holds."""
    return frozenset(name for name, permission in PERMISSIONS.items() if holds(role, permission))


def outranks(role: str, other: str) -> bool:
    """May who has this role act on who has the other? Neither of admin and auditor may: an admin does not choose its auditors."""
    return role == OWNER_ROLE or rights(other) < rights(role)


def check_act(permission: Permission, role: str, *others: str) -> None:
    """May the role, which is what it is now, do this to these roles? Raises: Forbidden, Outranked."""
    if not holds(role, permission):
        raise Forbidden(f"the role {role} may not do this")
    if not all(outranks(role, other) for other in others):
        raise Outranked(f"the role {role} does not stand above {' and '.join(dict.fromkeys(others))}")


def console_permission(command: str) -> Permission:
    """Of one command of the console; a rehearsal needs what the act needs."""
    return CONSOLE.get(command.removeprefix(_REHEARSAL), OPERATE)


def frame_permission(kind: type[Any]) -> Permission:
    """Of one kind of request on a socket."""
    return FRAMES[kind]


def check_tables() -> None:
    """At start-up. Raises: TypeError for a frame that the table does not name, or a permission outside the table."""
    if missing := set(get_args(ClientFrame)) - FRAMES.keys():
        raise TypeError(f"no permission is declared for {sorted(one.__name__ for one in missing)}")
    if strange := [one.name for one in FRAMES.values() if PERMISSIONS.get(one.name) is not one]:
        raise TypeError(f"not in the table of permissions: {strange}")
