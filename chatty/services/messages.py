"""Sending: what the committing transaction decides about a batch of messages (docs/protocol.md, "Sending" and "Transactions").

The journal locks the senders' device_send rows and the rooms, then reads, then decides each draft in order: (1) a resend gets
the old outcome, (2) the device must be live, (3) the sender a member, (4) the epoch the room's, (5) an expiry still to come and
no further ahead than a timer may be; then the event is numbered. Everything that was believed before, by an actor or a cache,
was a guess.

A final refusal (not a member, expiry refused) is an outcome like an ack: stored under (device, n) and given again to a resend,
else a copy in a queue could commit after the client was told no. device_set_stale is not final: the same n may come again for
the newer epoch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from chatty.errors import BadRequest, ChattyError, DeviceSetStale, ExpiryRefused, NotAMember
from chatty.ids import DeviceNumber, ListVersion, RoomId, RoomNumber, SendNumber, Seq, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.requests import SendRow, check_number
from chatty.services.timeline import Appended, NewEvent, OwedDevices, RoomHead, append, append_owed
from chatty.wire import chain, limits
from chatty.wire.events import Committed, Kind
from chatty.wire.frames import Send
from chatty.wire.megolm import check_megolm
from chatty.wire.rooms import HttpSend


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """One message that somebody wants to append."""

    caller: Caller
    room: RoomId
    room_number: RoomNumber
    n: SendNumber
    low: SendNumber
    digest: bytes
    new: NewEvent


def draft(caller: Caller, request: Send | HttpSend, *, room: RoomId, room_number: RoomNumber, n: SendNumber) -> Draft:
    """Raises: NotEncrypted unless the body is a Megolm message; BadRequest for what no issue allows yet, or low above n."""
    check_megolm(request.body)
    if request.low > n:
        raise BadRequest("low is above n")
    if request.target or request.silent:
        raise BadRequest("target and silent are reserved")
    new = NewEvent(
        kind=Kind.MESSAGE,
        body=request.body,
        sender=caller.user,
        sender_number=caller.user_number,
        device=caller.device,
        device_number=caller.device_number,
        n=n,
        algorithm=request.algorithm,
        session_id=request.session_id,
        epoch=request.epoch,
        expiry=request.expiry,
    )
    digest = chain.send_digest(
        kind=new.kind,
        room=room,
        epoch=new.epoch,
        algorithm=new.algorithm,
        session_id=new.session_id,
        silent=new.silent,
        expiry=new.expiry,
        target=new.target,
        body=new.body,
    )
    low = SendNumber(request.low)
    return Draft(caller=caller, room=room, room_number=room_number, n=n, low=low, digest=digest, new=new)


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """The outcome of a request, as kept under (device, n). seq 0: a refusal, or another write than a send.

    time: of the event, or of a refusal that names one; ms since 1970.
    """

    digest: bytes
    room: RoomId = RoomId("")
    seq: Seq = Seq(0)
    time: int = 0
    leaf: bytes = b""
    refusal: str = ""

    def outcome(self) -> Committed | ChattyError:
        if self.seq:
            return Committed(room=self.room, seq=self.seq, time=self.time, leaf=self.leaf)
        if self.refusal == ExpiryRefused.code:
            return ExpiryRefused(time=self.time)
        return NotAMember("not a member when the request was decided")


@dataclass(kw_only=True)
class Facts:
    """What a batch's transaction holds locked and has read, all after its locks. decide() keeps it current within the batch."""

    rows: dict[DeviceNumber, SendRow]
    recorded: dict[tuple[DeviceNumber, SendNumber], Recorded]
    heads: dict[RoomNumber, RoomHead]
    joined: set[tuple[RoomNumber, UserNumber]]
    owed: Sequence[OwedDevices] = ()


@dataclass(kw_only=True)
class Decision:
    """What a batch's transaction is to write, and the answers. None: not locked, belongs into the next batch."""

    retention_days: int = 0
    answers: list[Committed | ChattyError | None] = field(default_factory=list)
    appended: list[Appended] = field(default_factory=list)
    recorded: list[tuple[DeviceNumber, SendNumber, Recorded, RoomNumber]] = field(default_factory=list)
    rows: dict[DeviceNumber, SendRow] = field(default_factory=dict)
    stale: list[int] = field(default_factory=list)  # indexes of drafts refused as stale: `changed` is read for them


def decide_batch(drafts: Sequence[Draft], facts: Facts, *, now_ms: int, retention_days: int = 0) -> Decision:
    """Decide every draft in order; owed devices events go first, so that sends for the older epoch are stale.

    retention_days: the server's own; 0: none.
    """
    decision = Decision(retention_days=retention_days)
    for owed in facts.owed:
        if owed.is_due:
            decision.appended.append(append_owed(facts.heads[owed.room_number], owed, now_ms=now_ms))
    for index, one in enumerate(drafts):
        if one.caller.device_number not in facts.rows or one.room_number not in facts.heads:
            decision.answers.append(None)
            continue
        decision.answers.append(_decide(one, facts, decision, index=index, now_ms=now_ms))
    return decision


def _decide(one: Draft, facts: Facts, decision: Decision, *, index: int, now_ms: int) -> Committed | ChattyError:
    device = one.caller.device_number
    known, row = facts.recorded.get((device, one.n)), facts.rows[device]
    head = facts.heads[one.room_number]
    try:
        recorded_digest = known.digest if known is not None else None
        if check_number(row, n=one.n, low=one.low, recorded_digest=recorded_digest, digest=one.digest):
            assert known is not None
            return known.outcome()
        if (one.room_number, one.caller.user_number) not in facts.joined:
            _record(one, Recorded(digest=one.digest, refusal=NotAMember.code), facts, decision)
            return NotAMember("not a member")
        if one.new.epoch != head.epoch:
            decision.stale.append(index)
            return DeviceSetStale(epoch=head.epoch, changed={})
        if not may_expire(one.new.expiry, now_ms=now_ms):
            _record(one, Recorded(digest=one.digest, refusal=ExpiryRefused.code, time=now_ms), facts, decision)
            return ExpiryRefused(time=now_ms)
    except ChattyError as error:
        return error
    appended = append(head, one.new, now_ms=now_ms, retention_days=decision.retention_days)
    committed = appended.committed
    outcome = Recorded(digest=one.digest, room=one.room, seq=committed.seq, time=committed.time, leaf=committed.leaf)
    decision.appended.append(appended)
    _record(one, outcome, facts, decision)
    return committed


def may_expire(expiry: int, *, now_ms: int) -> bool:
    """Never, or at a time that is still to come and no further ahead than a timer may be."""
    return expiry == 0 or now_ms < expiry <= now_ms + limits.message_timer_s_max * 1_000


def _record(one: Draft, outcome: Recorded, facts: Facts, decision: Decision) -> None:
    """Later drafts of the batch see this one's outcome, low and highest n, as if it had been committed before them."""
    device = one.caller.device_number
    row = facts.rows[device]
    raised = replace(row, low=max(row.low, one.low), highest_n=max(row.highest_n, one.n))
    facts.rows[device] = decision.rows[device] = raised
    facts.recorded[device, one.n] = outcome
    decision.recorded.append((device, one.n, outcome, one.room_number))


@dataclass(frozen=True, kw_only=True)
class Result:
    """One committed batch: an answer for each draft in order (None: try again), and all new events, in order."""

    answers: Sequence[Committed | ChattyError | None]
    appended: Sequence[Appended]


class BatchFailed(Exception):
    """The transaction failed for a reason inside the batch: split it until the culprit stands alone."""


class Journal(Protocol):
    """Group-committed messages. One call is one transaction."""

    async def commit(self, drafts: Sequence[Draft], *, waits: bool) -> Result:
        """Lock, read, decide, write, commit. waits=False skips what others hold locked; True waits up to a second.

        Raises: StoreUnavailable, OutcomeUnknown: submit the same drafts again; Overloaded (room_lock) with waits; BatchFailed.
        Cancelled: nothing, or all of it, is committed; the same drafts again settle which.
        """
        ...


Changed = Mapping[UserId, ListVersion | None]
Clock = Callable[[], int]  # ms since 1970
