"""What the room protocol promises, as plain Python: a list for a room, a dict for a device. No I/O, no time, no concurrency.

RoomModel.commit() is told what was committed and where; it insists that places are given without a gap. DeviceModel.expect()
says beforehand how the server must answer a send, by docs/protocol.md, "Sending".
"""

from dataclasses import dataclass, field

from chatty.ids import RoomId, UserId
from chatty.wire.events import Kind
from chatty.wire.limits import send_window

STATE_KINDS = frozenset({Kind.CREATE, Kind.MEMBER, Kind.POLICY, Kind.DEVICES})


@dataclass(frozen=True, kw_only=True)
class Written:
    """One event of a timeline; its seq is its place, from 1 on. body: of messages."""

    kind: Kind
    sender: UserId
    body: bytes = b""


@dataclass
class Stay:
    """The stretch that a member may read. until None: still inside."""

    since: int
    until: int | None = None


@dataclass(kw_only=True)
class RoomModel:
    """changed: for each user, the seq of the newest event that changed whether or by which devices it reads."""

    id: RoomId
    timeline: list[Written] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    stays: dict[UserId, list[Stay]] = field(default_factory=dict)
    changed: dict[UserId, int] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        return self.epochs[-1]

    def commit(self, written: Written, *, seq: int) -> None:
        assert seq == len(self.timeline) + 1, f"{written} got {seq} after {len(self.timeline)}"
        self.timeline.append(written)

    def commit_join(self, user: UserId, *, seq: int) -> None:
        self.commit(Written(kind=Kind.MEMBER, sender=user), seq=seq)
        self.stays.setdefault(user, []).append(Stay(seq))
        self._change_epoch(user, seq)

    def commit_removal(self, user: UserId, *, by: UserId, seq: int) -> None:
        self.commit(Written(kind=Kind.MEMBER, sender=by), seq=seq)
        self.stays[user][-1].until = seq
        self._change_epoch(user, seq)

    def _change_epoch(self, user: UserId, seq: int) -> None:
        self.epochs.append(seq)
        self.changed[user] = seq

    def knows(self, user: UserId) -> bool:
        """Is or was inside."""
        return user in self.stays

    def is_inside(self, user: UserId) -> bool:
        return self.knows(user) and self.stays[user][-1].until is None

    def end(self, user: UserId) -> int:
        """The last seq that the user is given."""
        if not self.knows(user):
            return 0
        until = self.stays[user][-1].until
        return len(self.timeline) if until is None else until

    def is_shown(self, user: UserId, seq: int) -> bool:
        """State is for whoever is or was inside, up to the end; messages are for those who were inside then."""
        if seq > self.end(user):
            return False
        if self.timeline[seq - 1].kind in STATE_KINDS:
            return True
        return any(stay.since <= seq <= (stay.until or seq) for stay in self.stays[user])


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a number names for ever, if it names a send."""

    room: RoomId
    epoch: int
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Acknowledged, at this place."""

    seq: int


@dataclass(frozen=True, kw_only=True)
class Refused:
    code: str


Outcome = Stored | Refused
NOT_FOUND, NOT_A_MEMBER, STALE = (
    Refused(code="not_found"),
    Refused(code="not_a_member"),
    Refused(code="device_set_stale"),
)
WINDOW_FULL, CONFLICT = Refused(code="send_window_full"), Refused(code="message_id_conflict")
CLOSED = Refused(code="message_id_closed")


@dataclass
class DeviceModel:
    """The server's register of one device. A recorded None: another write than a send."""

    user: UserId
    low: int = 1
    highest_n: int = 0
    recorded: dict[int, tuple[Request | None, Outcome]] = field(default_factory=dict)

    def expect(self, request: Request, room: RoomModel, *, n: int, low: int) -> Outcome | None:
        """The answer. None: it is stored, at a place that only the answer tells."""
        if not room.knows(self.user):
            return NOT_FOUND
        if n < self.low:
            return CLOSED
        if n in self.recorded:
            known, outcome = self.recorded[n]
            return outcome if known == request else CONFLICT
        if n >= max(low, self.low) + send_window:
            return WINDOW_FULL
        if not room.is_inside(self.user):
            return NOT_A_MEMBER
        if request.epoch != room.epoch:
            return STALE
        return None

    def take(self, n: int, low: int, request: Request | None, outcome: Outcome) -> bool:
        """An answer was given: what the register holds from now on. Returns whether this request is what n names now."""
        is_final = isinstance(outcome, Stored) or outcome == NOT_A_MEMBER
        if not is_final or n in self.recorded or n < self.low:
            return False
        self.recorded[n] = (request, outcome)
        self.low, self.highest_n = max(self.low, low), max(self.highest_n, n)
        for old in [one for one in self.recorded if one < self.low]:
            del self.recorded[old]
        return True
