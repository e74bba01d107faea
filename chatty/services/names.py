"""Names: which nobody may take, and which look alike.

The alphabet is `[a-z0-9._-]`, so what can be confused is little: 0 and o; 1, i and l; rn and m; vv and w; and how a name is
divided.
Two names with one skeleton are the same name to a hurried reader: only one of them is given.
"""

import re
from collections.abc import Collection

from chatty.errors import NameReserved

RESERVED = frozenset(
    {
        "abuse",
        "account",
        "accounts",
        "admin",
        "administrator",
        "admins",
        "all",
        "anonymous",
        "api",
        "auditor",
        "bot",
        "channel",
        "chatty",
        "deleted",
        "everyone",
        "guest",
        "help",
        "here",
        "hostmaster",
        "info",
        "login",
        "mod",
        "moderator",
        "moderators",
        "no-reply",
        "nobody",
        "null",
        "official",
        "operator",
        "owner",
        "postmaster",
        "privacy",
        "room",
        "root",
        "security",
        "server",
        "service",
        "staff",
        "support",
        "sysadmin",
        "system",
        "team",
        "undefined",
        "unknown",
        "user",
        "webmaster",
    }
)

# Each is written out, never the other way: vvv, wv and vw have one skeleton only so.
_ALIKE = {"0": "o", "1": "l", "i": "l", "m": "rn", "w": "vv"}
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])[-_.]+(?=[0-9])")
_SEPARATORS = re.compile(r"[-_.]+")


def skeleton(name: str) -> str:
    """What stays of a name when all that looks alike is one. Separators count between two digits only: 1.11 is not 11.1.

    store/migrations has the same rule in SQL, for the names that were there before it.
    """
    divided = _BETWEEN_DIGITS.sub("~", name)
    return "".join(_ALIKE.get(letter, letter) for letter in _SEPARATORS.sub("", divided))


def check_name(name: str, *, reserved: Collection[str]) -> None:
    """reserved: skeletons. Raises: NameReserved."""
    found = skeleton(name)
    if not found or found in reserved:
        raise NameReserved("this name is nobody's")


def reserved_skeletons(further: Collection[str]) -> frozenset[str]:
    return frozenset(skeleton(name) for name in (*RESERVED, *further))
