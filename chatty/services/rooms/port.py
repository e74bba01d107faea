"""What the steps of rooms need of the store, inside one unit of work."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from chatty.ids import DeviceId, ListVersion, RoomId, RoomNumber, Seq, UserId, UserNumber
from chatty.services.blocks import BlockCheck
from chatty.services.requests import Requests
from chatty.services.room_links import RoomDirectory, RoomLinks
from chatty.services.timeline import Appended, RoomHead
from chatty.services.units import Audit
from chatty.wire.authority import Membership
from chatty.wire.events import CreateContent, Policy
from chatty.wire.frames import PlacedEntry
from chatty.wire.room_links import Link
from chatty.wire.rooms import Members, RoomSummary


@dataclass(frozen=True, kw_only=True)
class UserRow:
    """What a membership event needs of its target, read under the user's lock."""

    user: UserId
    user_number: UserNumber
    identity_key: str
    list_version: ListVersion
    list_digest: str
    is_locked: bool


@dataclass(kw_only=True)
class LockedRoom:
    """A room under its lock, as the authority rule asks for it: memberships of those concerned, and of all owners.

    links: the one that the change is about, if there is such a one.
    """

    head: RoomHead
    create: CreateContent
    policy: Policy
    public_title: str = ""
    memberships: dict[UserId, Membership] = field(default_factory=dict)
    joined_count: int = 0
    links: dict[str, Link] = field(default_factory=dict)

    def membership(self, user: UserId) -> Membership | None:
        return self.memberships.get(user)

    def link(self, key: str) -> Link | None:
        return self.links.get(key)

    def is_last_owner(self, user: UserId) -> bool:
        owners = [name for name, one in self.memberships.items() if one.is_joined and one.role.value == "owner"]
        return owners == [user] and self.joined_count > 1


@dataclass(frozen=True, kw_only=True)
class StoredPlace:
    """What stands at one place of a room. has_body: its ciphertext or content is there too, not the event alone."""

    entry: PlacedEntry
    has_body: bool


class Rooms(Protocol):
    """The store of rooms, inside one unit of work."""

    async def room_number(self, room: RoomId) -> RoomNumber | None: ...
    async def user(self, user: UserId) -> UserRow | None: ...
    async def lock_users(self, users: Iterable[UserNumber]) -> None: ...
    async def lock(self, room: RoomNumber, concerned: Iterable[UserId], *, link: str = "") -> LockedRoom:
        """The room's row locked, then the link read, and the memberships of `concerned`, of the owners and of its maker.

        Raises: NotFound.
        """
        ...

    async def insert(self, head: RoomHead, create: CreateContent, body: bytes) -> RoomNumber:
        """A new row at seq 0; its events follow with write()."""
        ...

    async def direct_room(self, pair: str) -> tuple[RoomId, Seq, Seq] | None:
        """The pair's room: id, seq and epoch."""
        ...

    async def created(self, room: RoomId) -> tuple[RoomId, Seq, Seq] | None: ...
    async def head_at(self, room: RoomNumber, seq: Seq) -> bytes | None: ...
    async def device_key(self, user: UserId, device: DeviceId) -> str | None: ...
    async def write(self, head: RoomHead, appended: Sequence[Appended]) -> None: ...
    async def set_membership(self, room: RoomNumber, user: UserNumber, membership: Membership, *, seq: Seq) -> None:
        """The member row, and the interval that begins or ends with it at `seq`."""
        ...

    async def note_creation(self, user: UserNumber) -> int:
        """How many rooms this user has created with this one; the user's row is locked."""
        ...

    async def role_of(self, user: UserId) -> str | None:
        """The server role; None: nobody of this name."""
        ...

    async def set_policy(self, room: RoomNumber, policy: Policy) -> None: ...
    async def place(self, room: RoomNumber, seq: Seq) -> StoredPlace | None: ...
    async def take_out(self, room: RoomNumber, seq: Seq, *, deletion_seq: Seq) -> None:
        """Drop the message's ciphertext, and note where the deletion stands. Its event stays for the chain."""
        ...

    async def append_user_event(
        self, user: UserNumber, *, kind: str, content: dict[str, object], time_ms: int
    ) -> None: ...
    async def summaries(self, user: UserNumber, *, after: str, count_max: int) -> list[RoomSummary]: ...
    async def members(self, room: RoomNumber) -> Members: ...
    async def is_joined(self, room: RoomNumber, user: UserNumber) -> bool: ...
    async def was_inside(self, room: RoomNumber, user: UserId) -> bool:
        """Is or was a member, ever."""
        ...


class RoomUnit(Protocol):
    @property
    def rooms(self) -> Rooms: ...
    @property
    def links(self) -> RoomLinks: ...
    @property
    def directory(self) -> RoomDirectory: ...
    @property
    def requests(self) -> Requests: ...
    @property
    def audit(self) -> Audit: ...
    @property
    def blocks(self) -> BlockCheck: ...


class RoomUnits(Protocol):
    def begin(self) -> AbstractAsyncContextManager[RoomUnit]: ...
    def snapshot(self) -> AbstractAsyncContextManager[RoomUnit]: ...
