"""Decrypting what stands in the verified history: at once, or when its key comes, or never with a reason.

A message may arrive before its Megolm key: it waits here, on disk, for limits.epoch_wait_s before it is reported as
Undecryptable; the key may still come later, then a Message follows. *Bound*: the newest `pending_max` ciphertexts wait.
Messages that the server calls erased or deleted wait as long for the removal or deletion that explains it; the first of a room is
reported for all. Messages that expire are forgotten when their time has come, a deleted one when its deletion was verified.
"""

import time
from collections.abc import Callable

from msgspec import Struct

from chatty.client.details import Details
from chatty.client.megolm import MegolmSessions, mid_name
from chatty.client.messages import MessageReader, Plaintext
from chatty.client.reasons import Reason, Unreadable
from chatty.client.relations import Announcement, AnyRelation
from chatty.client.rooms import RoomVerifier
from chatty.client.store import LocalStore
from chatty.client.updates import Deleted, Expired, Message, Undecryptable, Update
from chatty.ids import EventId, RoomId, Seq, UserId
from chatty.wire import chain
from chatty.wire.events import Deletion, RoomRole, TimelineEvent
from chatty.wire.limits import epoch_wait_s

pending_max = 5_000
_PENDING, _WITHHELD, _ERASED, _EXPIRING = "pending", "withheld", "erased", "expiring"


class Pending(Struct, frozen=True, kw_only=True):
    """role: of its sender, where it stands. report_at_s: s since 1970; 0: reported already."""

    event: TimelineEvent
    role: RoomRole | None
    report_at_s: float


class Unexplained(Struct, frozen=True, kw_only=True):
    """The first erased or deleted message of a room whose explanation is not read yet. report_at_s: as above."""

    seq: Seq
    event_id: EventId
    report_at_s: float


class Expiring(Struct, frozen=True, kw_only=True):
    """A message that goes at at_ms, ms since 1970."""

    room: RoomId
    seq: Seq
    event_id: EventId
    sender: UserId
    at_ms: int


class MessageIntake:
    """In the caller's transaction `tell` hands an update out, `forget` takes a message back, and `find_again` is told of every
    message that is read, by its mid_name(), as it may be a lost one. `now_s`: the wall clock.
    """

    def __init__(
        self,
        store: LocalStore,
        *,
        megolm: MegolmSessions,
        tell: Callable[[Update], None],
        forget: Callable[[RoomId, Seq], None],
        details: Details,
        find_again: Callable[[str], None] = lambda mid_name: None,
        reader: MessageReader | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._megolm = megolm
        self._tell = tell
        self._drop = forget
        self._details = details
        self._find_again = find_again
        self._reader = reader or MessageReader()
        self._now_s = now_s
        self._waiting: dict[tuple[RoomId, str], dict[Seq, Pending]] = {}
        for _, pending in store.items(_PENDING, Pending):
            self._hold(pending)
        self._erased = {RoomId(room): one for room, one in store.items(_ERASED, Unexplained)}
        self._expiring = dict(store.items(_EXPIRING, Expiring))

    def take(self, verifier: RoomVerifier, event: TimelineEvent) -> None:
        """Read a message that the verifier has just accepted. Raises: Lie, when what it says inside shows a fork."""
        role = verifier.role_of(event.sender)
        try:
            self._read(verifier, event, role)
        except Unreadable as unreadable:
            if unreadable.reason is Reason.NO_KEY_YET:
                self._wait_for_key(event, role)
            else:
                self._report(event, unreadable.reason, unreadable.detail)

    def retry(self, verifier: RoomVerifier, session_id: str) -> None:
        """A key came. Raises: Lie."""
        for pending in sorted(self._waiting.get((verifier.room, session_id), {}).values(), key=_seq_of):
            try:
                self._read(verifier, pending.event, pending.role)
            except Unreadable as unreadable:
                if unreadable.reason is Reason.NO_KEY_YET:
                    continue
                self._report(pending.event, unreadable.reason, unreadable.detail)
            self._release(pending)

    def note_withheld(self, room: RoomId, session_id: str, why: str) -> None:
        """Another device says that it gave us no key for this session."""
        self._store.put(_WITHHELD, f"{room}/{session_id}", why)
        self._store.keep_about(_WITHHELD, count_max=pending_max)

    def note_unexplained(self, room: RoomId, seq: Seq, event_id: EventId) -> None:
        """The verifier has taken an erased or deleted message; what explains it is still to come."""
        if room not in self._erased:
            self._keep_erased(room, Unexplained(seq=seq, event_id=event_id, report_at_s=self._now_s() + epoch_wait_s))

    def take_deletion(self, deletion: Deletion) -> None:
        """The verifier has taken it."""
        self._forget(deletion.room, deletion.target_seq)
        self._tell(
            Deleted(
                room=deletion.room,
                seq=deletion.target_seq,
                event_id=deletion.target,
                sender=deletion.target_sender,
                by=deletion.sender,
            )
        )

    def _forget(self, room: RoomId, seq: Seq) -> None:
        name = f"{room}/{seq}"
        self._drop(room, seq)
        if self._expiring.pop(name, None) is not None:
            self._store.delete(_EXPIRING, name)
        for waiting in list(self._waiting.values()):
            if (pending := waiting.get(seq)) is not None and pending.event.room == room:
                self._release(pending)

    def forget_behind(self, room: RoomId, from_seq: Seq) -> None:
        """The server has nothing from this place on any more."""
        for waiting in list(self._waiting.values()):
            for pending in list(waiting.values()):
                if pending.event.room == room and pending.event.seq >= from_seq:
                    self._release(pending)
        for place, one in list(self._expiring.items()):
            if one.room == room and one.seq >= from_seq:
                del self._expiring[place]
                self._store.delete(_EXPIRING, place)
        self.note_explained(room)

    def note_explained(self, room: RoomId) -> None:
        """Nothing erased or deleted in this room is without its explanation."""
        if self._erased.pop(room, None) is not None:
            self._store.delete(_ERASED, room)

    def _keep_erased(self, room: RoomId, one: Unexplained) -> None:
        self._erased[room] = one
        self._store.put(_ERASED, room, one)

    def report_overdue(self) -> None:
        """Report what has waited long enough, forget what has expired; called about once a second, in its own transaction."""
        now_s = self._now_s()
        for expired in [one for one in self._expiring.values() if one.at_ms <= now_s * 1_000]:
            self._expire(expired)
        for room, one in self._erased.items():
            if 0 < one.report_at_s <= now_s:
                self._report_erased(room, one)
        overdue = [
            pending
            for waiting in self._waiting.values()
            for pending in waiting.values()
            if 0 < pending.report_at_s <= now_s
        ]
        for pending in overdue:
            event = pending.event
            why = self._store.get(_WITHHELD, f"{event.room}/{event.session_id}", str)
            reason = Reason.NO_KEY_YET if why is None else Reason.WITHHELD
            self._report(event, reason, why or "its key has not come")
            self._keep(Pending(event=event, role=pending.role, report_at_s=0.0))

    def _report_erased(self, room: RoomId, one: Unexplained) -> None:
        detail = "called erased or deleted, and no removal or deletion has been shown that explains it"
        reason = Reason.CONTENT_WITHHELD_BY_SERVER
        self._tell(
            Undecryptable(
                room=room, seq=one.seq, event_id=one.event_id, sender=UserId(""), reason=reason, detail=detail
            )
        )
        self._keep_erased(room, Unexplained(seq=one.seq, event_id=one.event_id, report_at_s=0.0))

    @property
    def has_unreported(self) -> bool:
        is_keyless = any(pending.report_at_s for waiting in self._waiting.values() for pending in waiting.values())
        return is_keyless or any(one.report_at_s for one in self._erased.values()) or bool(self._expiring)

    def _read(self, verifier: RoomVerifier, event: TimelineEvent, role: RoomRole | None) -> None:
        if event.deletion_seq:
            return  # the verifier sees to its explanation
        if event.body is None:
            self._reader.check_expired(event, now_ms=round(self._now_s() * 1_000))
            self._expire(_expiring(event))
            return
        owner = self._megolm.owner(event.room, event.session_id)
        if owner is None:
            raise Unreadable(Reason.NO_KEY_YET, "its key has not come")
        self._reader.check_owner(event, owner)
        data, index = self._megolm.decrypt(event.room, event.session_id, event.body)
        event_id = chain.event_id(chain.leaf(event))
        self._reader.check_replay(event_id, taken=self._megolm, session_id=event.session_id, index=index)
        plain = self._reader.parse(data)
        self._reader.check_envelope(event, plain)
        about = self._reader.about(plain)
        verifier.check_head_claim(event.seq, plain.content.last_seq, plain.content.last_head)
        is_first = self._reader.check_mid(event, event_id, plain, taken=self._megolm)
        self._megolm.take_index(event.session_id, index, event_id)
        self._megolm.take_mid(event.room, event.sender, plain.content.mid, event_id)
        if is_first:
            self._find_again(mid_name(event.room, event.sender, plain.content.mid))
            self._details.take(event, plain.content.carried, role=role)
        if is_first and not isinstance(about, Announcement):
            self._tell_message(event, event_id, plain, about)

    def _tell_message(
        self, event: TimelineEvent, event_id: EventId, plain: Plaintext, relation: AnyRelation | None
    ) -> None:
        if 0 < event.expiry <= self._now_s() * 1_000:
            self._expire(_expiring(event))
            return
        self._tell(
            Message(
                room=event.room,
                seq=event.seq,
                event_id=event_id,
                sender=event.sender,
                device=event.device,
                time_ms=event.time,
                text=plain.content.text,
                expiry_ms=event.expiry,
                relation=relation,
                mentions=tuple(plain.content.mentions or ()),
            )
        )
        if event.expiry:
            expiring = _expiring(event)
            self._expiring[_place(expiring)] = expiring
            self._store.put(_EXPIRING, _place(expiring), expiring)

    def _expire(self, one: Expiring) -> None:
        self._forget(one.room, one.seq)
        self._tell(Expired(room=one.room, seq=one.seq, event_id=one.event_id, sender=one.sender))

    def _report(self, event: TimelineEvent, reason: Reason, detail: str) -> None:
        self._tell(
            Undecryptable(
                room=event.room,
                seq=event.seq,
                event_id=chain.event_id(chain.leaf(event)),
                sender=event.sender,
                reason=reason,
                detail=detail,
            )
        )

    def _wait_for_key(self, event: TimelineEvent, role: RoomRole | None) -> None:
        self._keep(Pending(event=event, role=role, report_at_s=self._now_s() + epoch_wait_s))
        self._store.keep_about(_PENDING, count_max=pending_max)

    def _keep(self, pending: Pending) -> None:
        self._hold(pending)
        self._store.put(_PENDING, _name(pending), pending)

    def _hold(self, pending: Pending) -> None:
        event = pending.event
        self._waiting.setdefault((event.room, event.session_id), {})[event.seq] = pending

    def _release(self, pending: Pending) -> None:
        event = pending.event
        key = (event.room, event.session_id)
        waiting = self._waiting.get(key, {})
        waiting.pop(event.seq, None)
        if not waiting:
            self._waiting.pop(key, None)
        self._store.delete(_PENDING, _name(pending))


def _name(pending: Pending) -> str:
    return f"{pending.event.room}/{pending.event.seq}"


def _expiring(event: TimelineEvent) -> Expiring:
    event_id = chain.event_id(chain.leaf(event))
    return Expiring(room=event.room, seq=event.seq, event_id=event_id, sender=event.sender, at_ms=event.expiry)


def _place(one: Expiring) -> str:
    return f"{one.room}/{one.seq}"


def _seq_of(pending: Pending) -> Seq:
    return pending.event.seq
