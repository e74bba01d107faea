"""Room timelines: one function gives seq.

A RoomHead is a room's row as the holder of its lock has it. append() numbers one event behind it, extends the hash chain and
moves the head on; the caller writes head and events in the transaction that holds the lock. A state event names the newest one
before it, so its body is made for the head that it is appended to. Whoever holds no lock has no RoomHead that counts, so nothing
else can give a seq. Pure: it can be tested and model-checked without a database.

A ciphertext may have an end: the message's own expiry, or what the room's or the server's retention promises when it is sent,
whichever comes first. It is then kept where whole days can be dropped at once (services/expiry.py).
"""

from dataclasses import dataclass

from chatty.ids import DeviceId, DeviceNumber, ListVersion, RoomId, RoomNumber, SendNumber, Seq, UserId, UserNumber
from chatty.wire import chain
from chatty.wire.events import (
    STATE_KINDS,
    Action,
    Committed,
    DevicesContent,
    Kind,
    TimelineEvent,
    changes_epoch,
)
from chatty.wire.signing import body_bytes

day_ms = 86_400_000
ends_days_max = 366  # what ends later is kept without an end, and taken out row by row when its time comes


@dataclass(kw_only=True, slots=True)
class RoomHead:
    """The locked row; append() moves it. state_seq: of the newest state event. last_time: ms since 1970, never backwards.

    retention_days: the room's own; 0: none.
    """

    room_number: RoomNumber
    room: RoomId
    seq: Seq
    head: bytes
    epoch: Seq
    state_seq: Seq
    last_time: int
    retention_days: int = 0


def new_room_head(room: RoomId) -> RoomHead:
    """The head of a room that nobody else can know of yet; it gets its number when its row is inserted."""
    return RoomHead(
        room_number=RoomNumber(0),
        room=room,
        seq=Seq(0),
        head=chain.empty_head(room),
        epoch=Seq(0),
        state_seq=Seq(0),
        last_time=0,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEvent:
    """An event that was allowed and has no number yet. sender and device empty: the server's own."""

    kind: Kind
    body: bytes
    sender: UserId = UserId("")
    sender_number: UserNumber | None = None
    device: DeviceId = DeviceId("")
    device_number: DeviceNumber | None = None
    n: SendNumber = SendNumber(0)
    algorithm: str = ""
    session_id: str = ""
    epoch: Seq = Seq(0)
    silent: bool = False
    expiry: int = 0
    target: str = ""
    signature: bytes = b""
    action: Action | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Appended:
    """A numbered event, its leaf, the chain's head at it, and the room and numbers that the store needs.

    ends: when its ciphertext goes, ms since 1970; 0: it has no end yet.
    """

    event: TimelineEvent
    leaf: bytes
    head: bytes
    new: NewEvent
    room_number: RoomNumber
    ends: int = 0

    @property
    def committed(self) -> Committed:
        event = self.event
        return Committed(room=event.room, seq=event.seq, time=event.time, leaf=self.leaf)


def shorter_retention(one: int, other: int) -> int:
    """Of two numbers of days, where 0 is for ever."""
    return min(one, other) if one and other else one or other


def end_of(*, expiry: int, time: int, retention_days: int) -> int:
    """When a ciphertext goes: at its expiry, or with the day in which its retention ends. 0: not within ends_days_max."""
    if not 0 < retention_days <= ends_days_max:
        return expiry
    retained_until = (time // day_ms + retention_days + 1) * day_ms - 1
    return min(expiry, retained_until) if expiry else retained_until


def append(head: RoomHead, new: NewEvent, *, now_ms: int, retention_days: int = 0) -> Appended:
    """Number one event at the room's head and move the head on. The one function that gives seq.

    retention_days: the server's own; 0: none.
    """
    seq = Seq(head.seq + 1)
    event = TimelineEvent(
        room=head.room,
        seq=seq,
        time=max(now_ms, head.last_time),
        kind=new.kind,
        sender=new.sender,
        device=new.device,
        n=new.n,
        algorithm=new.algorithm,
        session_id=new.session_id,
        epoch=new.epoch,
        silent=new.silent,
        expiry=new.expiry,
        target=new.target,
        signature=new.signature,
        body=new.body,
    )
    leaf = chain.leaf(event)
    head.seq, head.last_time, head.head = seq, event.time, chain.next_head(head.head, leaf)
    if new.kind in STATE_KINDS:
        head.state_seq = seq
    if changes_epoch(new.kind, new.action):
        head.epoch = seq
    ends = 0
    if new.kind is Kind.MESSAGE:
        days = shorter_retention(head.retention_days, retention_days)
        ends = end_of(expiry=new.expiry, time=event.time, retention_days=days)
    return Appended(event=event, leaf=leaf, head=head.head, new=new, room_number=head.room_number, ends=ends)


@dataclass(frozen=True, kw_only=True, slots=True)
class OwedDevices:
    """A device change that a room has not heard of: the user's list as read after the room's lock.

    member_version: the version the chain names for the user; None: no member (any more).
    """

    room_number: RoomNumber
    user_number: UserNumber
    user: UserId
    list_version: ListVersion
    list_digest: str
    member_version: int | None

    @property
    def is_due(self) -> bool:
        """Written only for members and only for a version above the member's."""
        return self.member_version is not None and self.list_version > self.member_version


def append_owed(head: RoomHead, owed: OwedDevices, *, now_ms: int) -> Appended:
    """The devices event that is owed, at the room's head."""
    content = DevicesContent(
        user=owed.user, list_version=owed.list_version, list_digest=owed.list_digest, previous=head.state_seq
    )
    return append(head, NewEvent(kind=Kind.DEVICES, body=body_bytes(content), target=owed.user), now_ms=now_ms)
