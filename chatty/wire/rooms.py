"""HTTP bodies about rooms, members and history (docs/protocol.md, "Rooms")."""

from typing import Annotated

from msgspec import Meta

from chatty.wire import limits
from chatty.wire.accounts import HttpBody
from chatty.wire.events import CreateContent, Deletion, Invitation, MemberChange, Policy, PolicyChange, RoomRole
from chatty.wire.frames import RoomEntry, UserEvent
from chatty.wire.room_directory import Listing, TitleField
from chatty.wire.room_links import LinkRevocation, NewLink
from chatty.wire.types import (
    DeviceIdField,
    HeadField,
    ListVersionField,
    RoomIdField,
    SeqField,
    SignatureField,
    TimeMsField,
    UserIdField,
    UserSeqField,
)


class SignedCreate(HttpBody, frozen=True, kw_only=True):
    signed: CreateContent
    signature: SignatureField


class SignedMemberChange(HttpBody, frozen=True, kw_only=True):
    signed: MemberChange
    signature: SignatureField


class SignedPolicyChange(HttpBody, frozen=True, kw_only=True):
    signed: PolicyChange
    signature: SignatureField


class SignedDeletion(HttpBody, frozen=True, kw_only=True):
    """POST /v1/rooms/{room}/deletions."""

    signed: Deletion
    signature: SignatureField


class SignedNewLink(HttpBody, frozen=True, kw_only=True):
    """POST /v1/rooms/{room}/links."""

    signed: NewLink
    signature: SignatureField


class SignedLinkRevocation(HttpBody, frozen=True, kw_only=True):
    """POST /v1/rooms/{room}/links/revoke."""

    signed: LinkRevocation
    signature: SignatureField


class SignedListing(HttpBody, frozen=True, kw_only=True):
    """POST /v1/rooms/{room}/listing."""

    signed: Listing
    signature: SignatureField


SignedAnyPolicy = SignedPolicyChange | SignedNewLink | SignedLinkRevocation | SignedListing


class SignedInvitationBody(HttpBody, frozen=True, kw_only=True):
    """POST /v1/rooms/{room}/invitations."""

    signed: Invitation
    signature: SignatureField


class RoomCreation(HttpBody, frozen=True, kw_only=True):
    """POST /v1/rooms: seq 1, then the creator's own join and, in a direct room, the other's add; all or nothing.

    The members' changes name last_seq 1 and the head after seq 1 (the join) or 2 (the add), which the client knows already
    but for the server's time: they therefore name last_seq 0 and head(0).
    """

    create: SignedCreate
    members: Annotated[list[SignedMemberChange], Meta(min_length=1, max_length=2)]


class RoomCommitted(HttpBody, frozen=True, kw_only=True):
    """Where the change stands in the room's order. `room` may be an older one: a direct room exists once for a pair."""

    room: RoomIdField
    seq: SeqField
    epoch: SeqField
    is_new: bool = True


class Member(HttpBody, frozen=True, kw_only=True):
    user: UserIdField
    role: RoomRole
    changed_seq: SeqField
    list_version: ListVersionField
    list_digest: HeadField


class Members(HttpBody, frozen=True, kw_only=True):
    """As the server has it; clients believe their own fold of the chain."""

    room: RoomIdField
    seq: SeqField
    epoch: SeqField
    members: list[Member]


class RoomSummary(HttpBody, frozen=True, kw_only=True):
    """read_seq, unread_count: as in `unread` on the socket."""

    room: RoomIdField
    seq: SeqField
    epoch: SeqField
    role: RoomRole
    policy: Policy
    direct: list[UserIdField] | None = None
    read_seq: SeqField
    unread_count: int


class Rooms(HttpBody, frozen=True, kw_only=True):
    rooms: list[RoomSummary]
    next_after: str = ""


class ListedRoom(HttpBody, frozen=True, kw_only=True):
    """As the server has it; who joins reads the signed title in the room."""

    room: RoomIdField
    title: TitleField
    members_count: int


class Directory(HttpBody, frozen=True, kw_only=True):
    """GET /v1/directory: in room-id order. next_after: where the next page begins; empty: the end."""

    rooms: list[ListedRoom]
    next_after: str = ""


class Page(HttpBody, frozen=True, kw_only=True):
    """A stretch of a room's history, in order, without a hole: what is hidden is a gap. `head_seq`: the room's newest seq."""

    room: RoomIdField
    head_seq: SeqField
    entries: list[RoomEntry]


class UserPage(HttpBody, frozen=True, kw_only=True):
    head_seq: UserSeqField
    events: list[UserEvent]


class HttpSend(HttpBody, frozen=True, kw_only=True):
    """POST /v1/rooms/{room}/messages: `send` over HTTP; n is the Idempotency-Key header."""

    low: Annotated[int, Meta(ge=1, le=limits.integer_max)]
    epoch: SeqField
    algorithm: Annotated[str, Meta(pattern=r"^m\.megolm\.v1\.aes-sha2$(?!\n)")]
    session_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{43}$(?!\n)")]
    body: Annotated[bytes, Meta(max_length=limits.ciphertext_bytes_max)]
    silent: bool = False
    expiry: TimeMsField = 0
    target: Annotated[str, Meta(pattern=r"^(\$[A-Za-z0-9_-]{43})?$(?!\n)")] = ""


class SignedCheckpoint(HttpBody, frozen=True, kw_only=True):
    room: RoomIdField
    generation: SeqField
    seq: SeqField
    head: bytes
    time: TimeMsField
    key_id: str
    signature: bytes


class SendState(HttpBody, frozen=True, kw_only=True):
    """GET /v1/device: the caller's own send state."""

    device: DeviceIdField
    highest_n: SeqField
    low: SeqField
