"""What links and listings are on the server: their port, and what an authorized policy event changes (docs/protocol.md, "Rooms").

Everything here happens under the room's row lock, in the transaction that appends the event: so two who take a link's last use,
or one who joins while another revokes or bans, come one after the other, and the rule that members run too decides the second.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from chatty.errors import QuotaExceeded
from chatty.ids import RoomNumber
from chatty.wire import limits
from chatty.wire.events import AnyPolicyChange, PolicyChange
from chatty.wire.room_directory import Listing
from chatty.wire.room_links import Link, LinkRevocation, NewLink
from chatty.wire.rooms import ListedRoom


class RoomLinks(Protocol):
    """The store of links, inside one unit of work."""

    async def has(self, room: RoomNumber, key: str) -> bool: ...
    async def put(self, room: RoomNumber, key: str, link: Link) -> None:
        """Made, or as it is now."""
        ...

    async def open_count(self, room: RoomNumber, *, at_ms: int) -> int: ...


class RoomDirectory(Protocol):
    """The store of listings, inside one unit of work."""

    async def is_listed(self, room: RoomNumber) -> bool: ...
    async def set_title(self, room: RoomNumber, title: str) -> None:
        """Empty: off the list."""
        ...

    async def page(self, *, after: str, title: str, count_max: int) -> list[ListedRoom]:
        """In room-id order, those with somebody inside. title: a part of theirs, whatever the case; empty: all."""
        ...


@dataclass(frozen=True, kw_only=True)
class PolicyAct:
    """For the audit log, which holds no text that people choose: so no title."""

    action: str
    detail: dict[str, str] = field(default_factory=dict)
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


def policy_act(signed: AnyPolicyChange, *, before: msgspec.Struct, was_listed: bool) -> PolicyAct:
    """before: the policy until now."""
    match signed:
        case PolicyChange(policy=policy):
            shown = [msgspec.to_builtins(one) for one in (before, policy)]
            return PolicyAct(action="room.policy_changed", before=shown[0], after=shown[1])
        case NewLink():
            after = {"expires_at": signed.expires_at, "uses_max": signed.uses_max}
            return PolicyAct(action="room.link_made", detail={"link": signed.link}, after=after)
        case LinkRevocation():
            return PolicyAct(action="room.link_revoked", detail={"link": signed.link})
        case Listing():
            is_listed = {"is_listed": bool(signed.title)}
            return PolicyAct(action="room.listing_changed", before={"is_listed": was_listed}, after=is_listed)


def link_of(signed: AnyPolicyChange) -> str:
    """The key of the link that it is about; empty: none."""
    return signed.link if isinstance(signed, NewLink | LinkRevocation) else ""


def check_open_count(count: int) -> None:
    """Before one more is made. Raises: QuotaExceeded."""
    if count >= limits.room_links_max:
        raise QuotaExceeded(quota="room_links_max", count_max=limits.room_links_max)
