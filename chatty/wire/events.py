"""Timeline events and the contents of those kinds that change a room's state.

A TimelineEvent is all that the server keeps and sends of an event. `body` is the ciphertext of a message and, for every other
kind, the canonical JSON of one of the contents below. The chain (chain.py) covers every field but `body` itself, of which it
covers the SHA-256, so that a deleted or expired message keeps its place; and but `deletion_seq`, which only says where to look.

Every content but the creation's names the state event before it (`previous`), so that none can be hidden from a later member in
a gap. Like a device list it is the server's word, inside the hash: whoever saw all state events knows whether it is true.
"""

from enum import Enum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from chatty.ids import DeviceId, SendNumber, Seq, UserId
from chatty.wire import limits
from chatty.wire.room_directory import Listing, ListingContent
from chatty.wire.room_links import LinkContent, LinkProof, LinkRevocation, LinkRevocationContent, NewLink
from chatty.wire.types import (
    DeviceIdField,
    EventIdField,
    HeadField,
    KeyField,
    ListVersionField,
    RoomIdField,
    SendNumberField,
    SeqField,
    ServerNameField,
    SignatureField,
    ThumbprintField,
    TimeMsField,
    UserIdField,
)

MEGOLM = "m.megolm.v1.aes-sha2"
OLM = "m.olm.v1.curve25519-aes-sha2"


class Kind(Enum):
    """Kinds of timeline events. `restored` is made by the server alone, when it begins a new generation from a backup."""

    CREATE = "create"
    MEMBER = "member"
    POLICY = "policy"
    DEVICES = "devices"
    MESSAGE = "message"
    DELETION = "deletion"
    RESTORED = "restored"


class RoomRole(Enum):
    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"


class Action(Enum):
    """What a member event does to its target."""

    JOIN = "join"  # by the target, with an invitation or a link, into a listed room, or as the room's creator
    ADD = "add"  # the creator of a direct room adds the other one of its pair, once
    LEAVE = "leave"  # by the target
    KICK = "kick"
    BAN = "ban"
    UNBAN = "unban"
    ROLE = "role"
    TRANSFER = "transfer"  # the owner makes the target owner, and is admin from then on
    REMOVE = "remove"  # by the server alone: an account was deleted or locked


class TimelineEvent(Struct, frozen=True, kw_only=True, tag="event", forbid_unknown_fields=True, omit_defaults=True):
    """One event of a room. Times are ms since 1970; `expiry` 0 is never; `body` None: withheld, and body_hash stands for it.

    deletion_seq: of a message that was deleted: where the deletion stands that explains it; 0: none.
    """

    room: RoomIdField
    seq: SeqField
    time: TimeMsField
    kind: Kind
    sender: UserId = UserId("")  # empty: the server itself
    device: DeviceId = DeviceId("")
    n: SendNumber = SendNumber(0)
    algorithm: str = ""
    session_id: str = ""
    epoch: SeqField = Seq(0)
    silent: bool = False
    expiry: TimeMsField = 0
    target: str = ""
    signature: bytes = b""
    body: bytes | None = None
    body_hash: bytes | None = None
    deletion_seq: SeqField = Seq(0)


MessageTimerField = Annotated[int, Meta(ge=1, le=limits.message_timer_s_max)]
RetentionDaysField = Annotated[int, Meta(ge=1, le=limits.retention_days_max)]


class Policy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """history: what a later joiner may read. invite: the lowest role that may invite.

    message_timer_s: after how long messages expire, by their senders' clients; left out: never. retention_days: for how long the
    server keeps messages at most; left out: as long as it likes.
    """

    history: Literal["joined", "shared"] = "joined"
    invite: RoomRole = RoomRole.ADMIN
    message_timer_s: MessageTimerField | msgspec.UnsetType = msgspec.UNSET
    retention_days: RetentionDaysField | msgspec.UnsetType = msgspec.UNSET


class CreateContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of seq 1. The room id is its hash: it certifies the creator and, in a direct room, the pair."""

    domain: Literal["chatty.create.v1"]
    server: ServerNameField
    creator: UserIdField
    creator_identity: KeyField
    device: DeviceIdField
    nonce: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{22}$(?!\n)")]
    policy: Policy
    direct: tuple[UserIdField, UserIdField] | None = None  # sorted
    n: SendNumberField


class Invitation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Signed by the inviter's device; stands in the invited user's stream and inside the join that it allows."""

    domain: Literal["chatty.invitation.v1"]
    server: ServerNameField
    room: RoomIdField
    sender: UserIdField
    device: DeviceIdField
    target: UserIdField
    target_identity: KeyField
    last_seq: SeqField  # the signer's last verified position in the room's chain
    last_head: HeadField
    n: SendNumberField


class SignedInvitation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    signed: Invitation
    signature: SignatureField


class MemberChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the acting device signs to change a membership."""

    domain: Literal["chatty.member.v1"]
    server: ServerNameField
    room: RoomIdField
    action: Action
    sender: UserIdField
    device: DeviceIdField
    target: UserIdField
    target_identity: KeyField
    last_seq: SeqField
    last_head: HeadField
    n: SendNumberField
    role: RoomRole | None = None  # with ROLE: the new one
    invitation: SignedInvitation | None = None  # with JOIN
    link: LinkProof | None = None  # with JOIN, in place of an invitation


class MemberContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Body of a member event: what was signed, and the target's device list as it was under the user's lock (join, add).

    previous: seq of the room's newest state event before this one.
    """

    signed: MemberChange
    previous: SeqField
    list_version: ListVersionField | None = None
    list_digest: HeadField | None = None


class RemovalReason(Enum):
    ACCOUNT_DELETED = "account_deleted"
    ACCOUNT_LOCKED = "account_locked"  # reserved: nothing makes it yet


class Removal(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server signs with the key `key_id` of /v1/jwks to remove somebody. last_seq, last_head: of the place before."""

    domain: Literal["chatty.removal.v1"]
    server: ServerNameField
    room: RoomIdField
    target: UserIdField
    reason: RemovalReason
    last_seq: SeqField
    last_head: HeadField
    key_id: ThumbprintField


class RemovalContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a member event without a sender: the server's own. previous: as in MemberContent."""

    signed: Removal
    previous: SeqField


class PolicyChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the acting device signs to change the room's policy."""

    domain: Literal["chatty.policy.v1"]
    server: ServerNameField
    room: RoomIdField
    sender: UserIdField
    device: DeviceIdField
    policy: Policy
    last_seq: SeqField
    last_head: HeadField
    n: SendNumberField


class PolicyContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """previous: as in MemberContent."""

    signed: PolicyChange
    previous: SeqField


class DevicesContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a devices event: from here on the user's messages keys go to this list. Made by the server, unsigned.

    previous: as in MemberContent.
    """

    user: UserIdField
    list_version: ListVersionField
    list_digest: HeadField
    previous: SeqField


class Deletion(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the acting device signs to delete a message. target: its event id, and target_seq and target_sender what it is."""

    domain: Literal["chatty.deletion.v1"]
    server: ServerNameField
    room: RoomIdField
    sender: UserIdField
    device: DeviceIdField
    target: EventIdField
    target_seq: SeqField
    target_sender: UserIdField
    last_seq: SeqField
    last_head: HeadField
    n: SendNumberField


class DeletionContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a deletion: no state event, so it names no previous one."""

    signed: Deletion


class Restoration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the server signs with the key `key_id` of /v1/jwks when it went on from a backup: what stood behind was lost.

    generation: the one that begins here. last_seq, last_head: of the place before, the last that the backup holds.
    """

    domain: Literal["chatty.restored.v1"]
    server: ServerNameField
    room: RoomIdField
    generation: SeqField
    generation_id: str
    last_seq: SeqField
    last_head: HeadField
    key_id: ThumbprintField


class RestoredContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a restored event. It changes nobody's rights; previous: as in MemberContent."""

    signed: Restoration
    previous: SeqField


# All that a policy event may hold, told apart by the domain of what is signed.
AnyPolicyChange = PolicyChange | NewLink | LinkRevocation | Listing
AnyPolicyContent = PolicyContent | LinkContent | LinkRevocationContent | ListingContent
StateContent = CreateContent | MemberContent | RemovalContent | AnyPolicyContent | DevicesContent | RestoredContent
Content = StateContent | DeletionContent

# Kinds that change who must be able to read; of MEMBER, a ROLE change or a TRANSFER does not.
EPOCH_ACTIONS = frozenset({Action.JOIN, Action.ADD, Action.LEAVE, Action.KICK, Action.BAN, Action.REMOVE})
REMOVALS = frozenset({Action.LEAVE, Action.KICK, Action.BAN, Action.REMOVE})

# Each names the one before it.
STATE_KINDS = frozenset({Kind.CREATE, Kind.MEMBER, Kind.POLICY, Kind.DEVICES, Kind.RESTORED})
# Shown to every member from seq 1 on, and kept whatever becomes of messages.
LASTING_KINDS = STATE_KINDS | {Kind.DELETION}

_CONTENTS: dict[Kind, msgspec.json.Decoder[Content]] = {
    Kind.CREATE: msgspec.json.Decoder(CreateContent),
    Kind.MEMBER: msgspec.json.Decoder(MemberContent),
    Kind.DEVICES: msgspec.json.Decoder(DevicesContent),
    Kind.DELETION: msgspec.json.Decoder(DeletionContent),
    Kind.RESTORED: msgspec.json.Decoder(RestoredContent),
}


class _Domain(Struct):
    domain: str


class _Signed(Struct):
    signed: _Domain


_DOMAIN = msgspec.json.Decoder(_Signed)
_POLICIES: dict[str, msgspec.json.Decoder[AnyPolicyContent]] = {
    "chatty.policy.v1": msgspec.json.Decoder(PolicyContent),
    "chatty.link.v1": msgspec.json.Decoder(LinkContent),
    "chatty.link_revocation.v1": msgspec.json.Decoder(LinkRevocationContent),
    "chatty.listing.v1": msgspec.json.Decoder(ListingContent),
}
_REMOVAL = msgspec.json.Decoder(RemovalContent)


def decode_content(event: TimelineEvent) -> Content:
    """The content of a state event or a deletion.

    Raises: msgspec.ValidationError, or KeyError for kinds and domains without content.
    """
    body = event.body or b""
    if event.kind is Kind.POLICY:
        return _POLICIES[_DOMAIN.decode(body).signed.domain].decode(body)
    decoder = _REMOVAL if event.kind is Kind.MEMBER and not event.sender else _CONTENTS[event.kind]
    return decoder.decode(body)


def action_of(content: Content) -> Action | None:
    """What a member event does; None for other contents."""
    match content:
        case MemberContent(signed=change):
            return change.action
        case RemovalContent():
            return Action.REMOVE
        case _:
            return None


def signers_of(content: Content) -> list[tuple[UserId, DeviceId]]:
    """The devices whose keys are needed to check the content's signatures."""
    match content:
        case CreateContent():
            return [(content.creator, content.device)]
        case MemberContent(signed=change):
            invitation = change.invitation.signed if change.invitation is not None else None
            inviters = [(invitation.sender, invitation.device)] if invitation is not None else []
            return [(change.sender, change.device), *inviters]
        case RemovalContent() | DevicesContent() | RestoredContent():
            return []
        case _:
            return [(content.signed.sender, content.signed.device)]


def changes_epoch(kind: Kind, action: Action | None) -> bool:
    """Does an event of this kind change who must be able to read?"""
    if kind is Kind.MEMBER:
        return action in EPOCH_ACTIONS
    return kind is Kind.DEVICES


class Committed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the committing transaction gave to one request; the same for every resend."""

    room: RoomIdField
    seq: SeqField
    time: TimeMsField
    leaf: bytes
