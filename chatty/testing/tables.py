"""What the double of the store holds: rows that nobody changes, in dicts that a commit replaces.

A commit copies the dicts, applies its writes to the copy and puts it in place of the old one. So whoever holds a Tables holds a
snapshot, and a commit that fails in the middle has changed nothing. Columns that nothing behind the doubled ports reads are left
out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

from chatty.ids import (
    DeviceId,
    DeviceNumber,
    ListVersion,
    MailboxId,
    RoomId,
    RoomNumber,
    SendNumber,
    Seq,
    UserId,
    UserNumber,
    UserSeq,
)
from chatty.services.messages import Recorded
from chatty.services.requests import SendRow
from chatty.services.timeline import Appended, RoomHead
from chatty.wire.authority import Membership
from chatty.wire.events import CreateContent, Policy
from chatty.wire.frames import UserEvent
from chatty.wire.room_links import Link

Interval = tuple[Seq, Seq | None]  # from, to; None: still inside


class AlreadyThere(Exception):
    """A second row under one key."""


@dataclass(frozen=True, kw_only=True)
class User:
    number: UserNumber
    user: UserId
    role: str = "user"
    identity_key: str = ""
    list_version: ListVersion = ListVersion(0)
    list_digest: bytes = b""
    is_locked: bool = False
    stream_seq: UserSeq = UserSeq(0)
    rooms_created_count: int = 0
    shows_presence: bool = True
    shows_receipts: bool = True


@dataclass(frozen=True, kw_only=True)
class Device:
    number: DeviceNumber
    device: DeviceId
    user_number: UserNumber
    ed25519: str = ""
    in_set: bool = False
    is_live: bool = True


@dataclass(frozen=True, kw_only=True)
class Room:
    number: RoomNumber
    room: RoomId
    head: bytes
    create: CreateContent
    seq: Seq = Seq(0)
    epoch: Seq = Seq(0)
    state_seq: Seq = Seq(0)
    last_time: int = 0
    policy: Policy = Policy()
    public_title: str = ""

    def locked_head(self) -> RoomHead:
        """The row as the holder of its lock has it."""
        return RoomHead(
            room_number=self.number,
            room=self.room,
            seq=self.seq,
            head=self.head,
            epoch=self.epoch,
            state_seq=self.state_seq,
            last_time=self.last_time,
            retention_days=self.policy.retention_days or 0,
        )

    def moved(self, head: RoomHead) -> "Room":
        return replace(
            self,
            seq=head.seq,
            head=head.head,
            epoch=head.epoch,
            state_seq=head.state_seq,
            last_time=head.last_time,
        )


@dataclass(frozen=True, kw_only=True)
class Request:
    """answer: of a durable write that is no send."""

    recorded: Recorded
    answer: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """One row of a device mailbox. content: JSON."""

    recipient: DeviceNumber
    sender: DeviceNumber
    n: SendNumber
    kind: str
    content: str


@dataclass(kw_only=True)
class Tables:
    users: dict[UserNumber, User] = field(default_factory=dict)
    devices: dict[DeviceNumber, Device] = field(default_factory=dict)
    sends: dict[DeviceNumber, SendRow] = field(default_factory=dict)
    requests: dict[tuple[DeviceNumber, SendNumber], Request] = field(default_factory=dict)
    rooms: dict[RoomNumber, Room] = field(default_factory=dict)
    members: dict[tuple[RoomNumber, UserNumber], Membership] = field(default_factory=dict)
    intervals: dict[tuple[RoomNumber, UserNumber], tuple[Interval, ...]] = field(default_factory=dict)
    timeline: dict[tuple[RoomNumber, Seq], Appended] = field(default_factory=dict)
    links: dict[tuple[RoomNumber, str], Link] = field(default_factory=dict)
    owed_devices: dict[tuple[RoomNumber, UserNumber], ListVersion] = field(default_factory=dict)
    user_stream: dict[tuple[UserNumber, UserSeq], UserEvent] = field(default_factory=dict)
    mailbox: dict[MailboxId, Parcel] = field(default_factory=dict)
    read_cursors: dict[tuple[RoomNumber, UserNumber], Seq] = field(default_factory=dict)
    blocks: dict[tuple[UserNumber, UserNumber], None] = field(default_factory=dict)

    def copy(self) -> "Tables":
        return Tables(**{one.name: getattr(self, one.name).copy() for one in fields(self)})

    # Reading ---------------------------------------------------------------------------------------------------------

    def user_named(self, user: UserId) -> User | None:
        return next((one for one in self.users.values() if one.user == user), None)

    def device_named(self, device: DeviceId) -> Device | None:
        return next((one for one in self.devices.values() if one.device == device), None)

    def room_named(self, room: RoomId) -> Room | None:
        return next((one for one in self.rooms.values() if one.room == room), None)

    def is_joined(self, room: RoomNumber, user: UserNumber) -> bool:
        member = self.members.get((room, user))
        return member is not None and member.is_joined

    def joined(self, room: RoomNumber) -> Iterator[tuple[User, Membership]]:
        """The room's members, in the order of their names."""
        found = [(self.users[user], one) for (of, user), one in self.members.items() if of == room and one.is_joined]
        return iter(sorted(found, key=lambda pair: pair[0].user))

    def left_at(self, room: RoomNumber, user: UserNumber) -> Seq | None:
        """Where somebody's last time inside ended; nobody's who was only banned from outside."""
        return max((to for _, to in self.intervals.get((room, user), ()) if to is not None), default=None)

    def hidden_from(self, user: UserNumber) -> frozenset[UserNumber]:
        return frozenset(blocked for blocker, blocked in self.blocks if blocker == user)

    # Writing ---------------------------------------------------------------------------------------------------------

    def append(self, head: RoomHead, appended: list[Appended]) -> None:
        """Raises: AlreadyThere."""
        for one in appended:
            self.insert_event(one)
        self.rooms[head.room_number] = self.rooms[head.room_number].moved(head)

    def insert_event(self, one: Appended) -> None:
        key = (one.room_number, one.event.seq)
        if key in self.timeline:
            raise AlreadyThere(f"two events at {key}")
        self.timeline[key] = one

    def record(self, device: DeviceNumber, n: SendNumber, request: Request) -> None:
        """Raises: AlreadyThere."""
        if (device, n) in self.requests:
            raise AlreadyThere(f"two outcomes of {(device, n)}")
        self.requests[device, n] = request

    def raise_low(self, device: DeviceNumber, *, low: SendNumber, highest_n: SendNumber) -> None:
        """Move the send row on and forget what is settled."""
        row = self.sends[device]
        raised = replace(row, low=max(row.low, low), highest_n=max(row.highest_n, highest_n))
        self.sends[device] = raised
        for key in [key for key in self.requests if key[0] == device and key[1] < raised.low]:
            del self.requests[key]

    def append_user_event(self, user: UserNumber, *, kind: str, content: dict[str, object], time_ms: int) -> None:
        row = self.users[user]
        seq = UserSeq(row.stream_seq + 1)
        self.users[user] = replace(row, stream_seq=seq)
        self.user_stream[user, seq] = UserEvent(seq=seq, time=time_ms, kind=kind, content=content)
