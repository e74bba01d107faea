"""What stands inside a Megolm message, and the rules by which a reader believes it. No I/O.

The plaintext repeats what the envelope says (room, n, epoch, expiry, target), names the message by a random `mid`, and
carries the sender's last verified (seq, head). A reader takes a message only when inside and outside agree, its Megolm
session belongs to the device that the envelope names, and neither its ciphertext nor its mid was taken before. What stands there
beside the text is left out where there is none of it: what the message is about (relations.py), whom it mentions, what it carries
(details.py).
"""

import secrets
from typing import Literal, Protocol

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from chatty.client.details import Carried, Profile, RoomDetails
from chatty.client.reasons import Reason, Unreadable
from chatty.client.relations import About, MentionsField, about_of, encoded
from chatty.client.rooms import Position
from chatty.ids import DeviceId, EventId, RoomId, SendNumber, Seq, UserId
from chatty.wire import limits
from chatty.wire.canonical import encode_base64
from chatty.wire.events import TimelineEvent

clock_slack_ms = 600_000  # a message that expires within it may be gone already: clocks differ
# Of text and mentions; leaves room for what stands beside them, and for padding.
text_bytes_max = limits.ciphertext_bytes_max - 6_144


class MessageContent(Struct, frozen=True, kw_only=True):
    """Unknown fields are passed over: newer clients may say more."""

    text: str
    n: SendNumber
    epoch: Seq
    expiry: int
    target: str
    mid: str
    last_seq: Seq
    last_head: str
    sender: UserId
    device: DeviceId
    about: Raw | UnsetType = UNSET
    mentions: MentionsField | UnsetType = UNSET
    details: RoomDetails | UnsetType = UNSET
    profile: Profile | UnsetType = UNSET

    @property
    def carried(self) -> Carried:
        return Carried(details=self.details or None, profile=self.profile or None)


class Plaintext(Struct, frozen=True, kw_only=True):
    room_id: RoomId
    type: Literal["chatty.message.v1"]
    content: MessageContent


class SessionOwner(Struct, frozen=True, kw_only=True):
    """Whose Megolm session it is: the device that gave us the key over Olm."""

    user: UserId
    device: DeviceId
    ed25519: str
    curve25519: str


class Taken(Protocol):
    """What was taken before, as the store remembers it."""

    def event_at(self, session_id: str, index: int) -> EventId | None: ...
    def event_with_mid(self, room: RoomId, sender: UserId, mid: str) -> EventId | None: ...


def new_mid() -> str:
    """16 random bytes, unpadded base64."""
    return encode_base64(secrets.token_bytes(16))


class Writing(Struct, frozen=True, kw_only=True):
    """What somebody wants to say. mid: names it, however often it is encrypted. details: to carry in place of the known ones."""

    text: str
    mid: str
    about: About | None = None
    mentions: list[UserId] = []
    details: RoomDetails | None = None

    @property
    def bytes_count(self) -> int:
        """What text_bytes_max bounds."""
        return len(self.text.encode()) + len(msgspec.json.encode(self.mentions))


def plaintext_bytes(
    *,
    room: RoomId,
    writing: Writing,
    n: SendNumber,
    epoch: Seq,
    expiry: int,
    position: Position,
    sender: UserId,
    device: DeviceId,
    carried: Carried,
) -> bytes:
    """What is encrypted. position: the sender's last verified one."""
    content = MessageContent(
        text=writing.text,
        n=n,
        epoch=epoch,
        expiry=expiry,
        target="",
        mid=writing.mid,
        last_seq=position.seq,
        last_head=encode_base64(position.head),
        sender=sender,
        device=device,
        about=encoded(writing.about),
        mentions=writing.mentions or UNSET,
        details=writing.details or carried.details or UNSET,
        profile=carried.profile or UNSET,
    )
    return msgspec.json.encode(Plaintext(room_id=room, type="chatty.message.v1", content=content))


class MessageReader:
    """The rules; each `check_…` is one. All raise Unreadable."""

    def check_expired(self, event: TimelineEvent, *, now_ms: int) -> None:
        """Its ciphertext is gone, and no deletion is named: then its time must be up."""
        if not 0 < event.expiry <= now_ms + clock_slack_ms:
            raise Unreadable(Reason.CONTENT_WITHHELD_BY_SERVER, "the ciphertext is gone, and not by its expiry")

    def check_owner(self, event: TimelineEvent, owner: SessionOwner) -> None:
        if (event.sender, event.device) != (owner.user, owner.device):
            detail = f"sent as {event.device} of {event.sender}, encrypted by {owner.device} of {owner.user}"
            raise Unreadable(Reason.WRONG_SESSION_OWNER, detail)

    def check_replay(self, event_id: EventId, *, taken: Taken, session_id: str, index: int) -> None:
        before = taken.event_at(session_id, index)
        if before is not None and before != event_id:
            raise Unreadable(Reason.REPLAYED, f"the ciphertext stood at {before} before")

    def check_mid(self, event: TimelineEvent, event_id: EventId, plain: Plaintext, *, taken: Taken) -> bool:
        """Is it the first with its mid? A second one is the same message, encrypted anew: dropped in silence."""
        before = taken.event_with_mid(event.room, event.sender, plain.content.mid)
        return before is None or before == event_id

    def parse(self, data: bytes) -> Plaintext:
        try:
            return msgspec.json.decode(data, type=Plaintext)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Unreadable(Reason.MALFORMED_EVENT, f"the plaintext is no message: {error}") from None

    def about(self, plain: Plaintext) -> About | None:
        """None: the message stands for itself."""
        raw = plain.content.about
        try:
            return None if isinstance(raw, UnsetType) else about_of(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Unreadable(Reason.MALFORMED_EVENT, f"what the message is about makes no sense: {error}") from None

    def check_envelope(self, event: TimelineEvent, plain: Plaintext) -> None:
        inside = plain.content
        named = (plain.room_id, inside.n, inside.epoch, inside.expiry, inside.target, inside.sender, inside.device)
        shown = (event.room, event.n, event.epoch, event.expiry, event.target, event.sender, event.device)
        if named != shown:
            raise Unreadable(Reason.ALTERED_EVENT, "the envelope differs from what its sender repeated inside")
