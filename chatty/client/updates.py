"""What a client tells its application: one closed union of frozen values. `match` over `Update` finds the forgotten case."""

from dataclasses import dataclass

from chatty.client.reasons import Reason
from chatty.client.relations import AnyRelation
from chatty.ids import DeviceId, EventId, RoomId, Seq, UserId
from chatty.wire.events import Action, RoomRole


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message that was decrypted and checked. time_ms: the server's, since 1970. expiry_ms: when it goes; 0: never.

    relation: what it is to another message, as its sender says; whether that counts tells Room.timeline(). mentions: likewise.
    """

    room: RoomId
    seq: Seq
    event_id: EventId
    sender: UserId
    device: DeviceId
    time_ms: int
    text: str
    expiry_ms: int = 0
    relation: AnyRelation | None = None
    mentions: tuple[UserId, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Deleted:
    """A message is gone, and by whom: its sender, or an admin of the room, has signed that. The client keeps nothing of it."""

    room: RoomId
    seq: Seq
    event_id: EventId
    sender: UserId
    by: UserId


@dataclass(frozen=True, kw_only=True)
class Expired:
    """A message's time is up, as its sender has set it. The client keeps nothing of it."""

    room: RoomId
    seq: Seq
    event_id: EventId
    sender: UserId


@dataclass(frozen=True, kw_only=True)
class Undecryptable:
    """A message that cannot be read, or must not be believed. With NO_KEY_YET it may still become a Message."""

    room: RoomId
    seq: Seq
    event_id: EventId
    sender: UserId
    reason: Reason
    detail: str


@dataclass(frozen=True, kw_only=True)
class ServerLied:
    """The server was caught. The room, if one is named, is frozen from here on."""

    reason: Reason
    detail: str
    room: RoomId | None = None
    user: UserId | None = None


@dataclass(frozen=True, kw_only=True)
class MembershipChanged:
    """A verified change. role: of the target afterwards, while it is a member. actor: empty with `remove`, the server's."""

    room: RoomId
    seq: Seq
    action: Action
    actor: UserId
    target: UserId
    role: RoomRole | None = None


@dataclass(frozen=True, kw_only=True)
class RoomDetailsChanged:
    """The room is called so from now on, says an owner or admin, inside the encryption."""

    room: RoomId
    seq: Seq
    by: UserId
    name: str
    topic: str


@dataclass(frozen=True, kw_only=True)
class ProfileChanged:
    """A member likes to be called so in this room."""

    room: RoomId
    seq: Seq
    user: UserId
    name: str


@dataclass(frozen=True, kw_only=True)
class Invited:
    """Somebody invites us; the invitation's signature was checked. Take it with client.join(room)."""

    room: RoomId
    inviter: UserId


@dataclass(frozen=True, kw_only=True)
class StoreRolledBack:
    """The server knows later numbers of this device than its store: an old copy was restored. Sessions are made anew."""

    highest_n: int


@dataclass(frozen=True, kw_only=True)
class ServerRestored:
    """The server goes on from a backup: what came after it is gone there. What this device had sent, it sends again by itself."""

    generation: int


@dataclass(frozen=True, kw_only=True)
class MessageLost:
    """A message that this device has read, and the server has no more. If its sender sends it again, it is a Message anew."""

    room: RoomId
    seq: Seq
    event_id: EventId
    sender: UserId
    time_ms: int
    text: str


@dataclass(frozen=True, kw_only=True)
class RoomLost:
    """The server was restored and does not know us in this room any more: it is younger than the backup, or our joining is."""

    room: RoomId


@dataclass(frozen=True, kw_only=True)
class SignedOut:
    """The log-in session is over (revoked or logged out); nothing follows."""

    detail: str


Update = (
    Message
    | Deleted
    | Expired
    | Undecryptable
    | ServerLied
    | MembershipChanged
    | RoomDetailsChanged
    | ProfileChanged
    | Invited
    | StoreRolledBack
    | ServerRestored
    | MessageLost
    | RoomLost
    | SignedOut
)


@dataclass(frozen=True, kw_only=True)
class Unsent:
    """A message that stands in the store, encrypted, and whose outcome is not known yet."""

    room: RoomId
    text: str


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A message that the server has committed, at its place in the room's order."""

    seq: Seq
    event_id: EventId
