"""One room as its verified history says. No I/O: entries in, a verdict out.

*Invariants.* seq grows by exactly one an entry, or a gap's length; head(n) is computed from head(n−1) and the entry; the
state is the fold of events whose signature *and* authority were checked, each signature once; keys are shared with
`RoomVerifier.joined()` and nobody else.
*A lie* raises Lie before anything was taken; the caller freezes the room. *An unknown signer*, a device or the server itself,
raises KeysNeeded: query and try again.
*Erased messages*, of accounts that were deleted, are a place and a leaf: whose they were cannot be told any more. The server
names the removal of a deleted account that explains them, and must show it there.
*Deleted messages* keep their place, sender and hash; the server names the deletion that explains each, and must show it there,
signed by one who may. An expired one is explained by its own hashed expiry (messages.py, for that wants a clock).
*Horizons* hide messages that were kept for as long as was promised, up to one place that the server has signed; nothing but state
events and deletions stands below it, and nothing above it is as old.
*Gaps* hold messages only, from before this member's time or outside it: a state event that one hides is missed when the next,
this member's own join at the latest, names it. A gap's head is the server's word; it is compared with what others claim, inside
encrypted messages and in signed changes, about the same place.
*Bound*: the newest `recent_heads_max` heads are kept for comparison; a claim about an older place is not compared.

Each `check_…` is one rule; tests/client takes out each in turn and shows the lie that then passes unnoticed.
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from chatty.client.device_lists import DeviceLists
from chatty.client.reasons import KeysNeeded, Lie, Reason, RoomFrozen
from chatty.client.taken_changes import TakenChanges
from chatty.client.tombstones import Tombstone, is_explained_by, tombstone_of
from chatty.crypto.events import ServerKey, verify_event
from chatty.crypto.signatures import verify
from chatty.errors import (
    BadRequest,
    BadSignature,
    Banned,
    ChattyError,
    LinkExpired,
    LinkRevoked,
    LinkUnknown,
    LinkUsedUp,
)
from chatty.ids import ListVersion, RoomId, Seq, UserId
from chatty.wire import chain
from chatty.wire.authority import (
    Membership,
    RoomState,
    VerifiedEvent,
    authorize,
    check_creation,
    created_room,
    may_send,
)
from chatty.wire.canonical import encode_base64
from chatty.wire.events import (
    STATE_KINDS,
    Action,
    Content,
    CreateContent,
    DeletionContent,
    DevicesContent,
    Kind,
    MemberContent,
    PolicyContent,
    RemovalContent,
    RemovalReason,
    RestoredContent,
    RoomRole,
    TimelineEvent,
    decode_content,
    signers_of,
)
from chatty.wire.frames import Erased, Gap, Horizon, HorizonMark, PlacedEntry, RoomEntry, Stretch
from chatty.wire.room_directory import ListingContent
from chatty.wire.room_links import LinkContent, LinkRevocationContent
from chatty.wire.signing import horizon_bytes

recent_heads_max = 512


class Position(Struct, frozen=True, kw_only=True):
    """Where the verified history ends. leaf: of the last event; empty after a gap.

    promised: the last place at which the server has said that the removal of a deleted account stands. horizon: nothing but state
    events and deletions is kept up to there, and all of it is from before `before`, ms since 1970. generation: the last one that
    began in this room; 0: none did.
    """

    seq: Seq
    head: bytes
    time: int = 0
    leaf: bytes = b""
    promised: Seq = Seq(0)
    horizon: Seq = Seq(0)
    before: int = 0
    generation: Seq = Seq(0)


class RoomVerifier:
    """The fold of one room. `me`: whose eyes; `server`: the name that every signature carries; `server_key`: the server's own."""

    def __init__(self, room: RoomId, *, me: UserId, server: str, lists: DeviceLists, server_key: ServerKey) -> None:
        self.room = room
        self.state: RoomState | None = None
        self.changes = TakenChanges()
        self.position = Position(seq=Seq(0), head=chain.empty_head(room))
        self.frozen: Reason | None = None
        self.owed: dict[Seq, Tombstone] = {}  # by the place of the deletion that the server has named
        self._me = me
        self._server = server
        self._lists = lists
        self._server_key = server_key
        self._recent: dict[int, Position] = {0: self.position}
        self._acked: dict[int, bytes] = {}

    def restore(
        self,
        state: RoomState | None,
        changes: TakenChanges,
        recent: Iterable[Position],
        frozen: Reason | None,
        owed: dict[Seq, Tombstone],
    ) -> None:
        """Go on from what the store has. recent: in order, the newest last."""
        self.state, self.changes, self.frozen, self.owed = state, changes, frozen, owed
        for position in recent:
            self._remember(position)

    def accept(self, entry: RoomEntry, *, keys_are_fresh: bool = False) -> VerifiedEvent | None:
        """Check the next entry and take it in. Returns the verified event of a state event or deletion, None for others.

        keys_are_fresh: the signers' lists have just been queried, so an unknown device is a lie.
        Raises: Lie, KeysNeeded, RoomFrozen; then nothing changed.
        """
        if self.frozen is not None:
            raise RoomFrozen(self.room, self.frozen)
        if isinstance(entry, Gap):
            self._accept_gap(entry)
            return None
        if isinstance(entry, Erased):
            self._accept_erased(entry)
            return None
        if isinstance(entry, Horizon):
            self._accept_horizon(entry, keys_are_fresh=keys_are_fresh)
            return None
        self.check_order(entry.seq)
        self.check_time(entry)
        verified = None
        if entry.kind in STATE_KINDS:
            verified = self._verify_state(entry, keys_are_fresh=keys_are_fresh)
        elif entry.kind is Kind.DELETION:
            verified = self._verify_deletion(entry, keys_are_fresh=keys_are_fresh)
        else:
            self._verify_message(entry)
        self.check_promise(entry.seq, verified)
        self.check_owed(entry.seq, verified)
        leaf = chain.leaf(entry)
        self.check_ack(entry.seq, leaf)
        if verified is not None:
            self._take_verified(verified)
        elif (tombstone := tombstone_of(entry, leaf)) is not None:
            self.owed[entry.deletion_seq] = tombstone
        self._move_on(entry.seq, leaf, time=entry.time)
        if verified is not None and isinstance(verified.content, RestoredContent):
            self._remember(replace(self.position, generation=verified.content.signed.generation))
        return verified

    def _move_on(self, seq: Seq, leaf: bytes, *, time: int, promised: Seq = Seq(0)) -> None:
        head, promised = chain.next_head(self.position.head, leaf), max(promised, self.position.promised)
        self._remember(replace(self.position, seq=seq, head=head, time=time, leaf=leaf, promised=promised))

    def restored(self, event: TimelineEvent, *, keys_are_fresh: bool) -> RestoredContent:
        """What a `restored` event says, whose signature fits, wherever it stands. Raises: Lie, KeysNeeded."""
        content = self.check_form(event)
        if not isinstance(content, RestoredContent):
            raise Lie(Reason.MALFORMED_EVENT, f"a {event.kind.value} at {event.seq}", room=self.room)
        if not keys_are_fresh:
            self._need_keys(content, event.time)
        self.check_signature(event, content)
        return content

    def check_restoration(self, content: RestoredContent) -> None:
        """What stands before it must be what was read there, as far back as heads are kept."""
        known = self._recent.get(content.signed.last_seq)
        if known is not None and encode_base64(known.head) != content.signed.last_head:
            detail = f"restored behind another history than was shown at {content.signed.last_seq}"
            raise Lie(Reason.FORKED_HISTORY, detail, room=self.room)

    def rewind(self, *, before: Seq) -> bool:
        """Go back to the place before this one. False: to the very beginning, as the room has changed behind it."""
        self._acked.clear()
        target = self._recent.get(before - 1)
        has_changed = self.changes.newest_seq >= before or (self.state is not None and self.state.seq >= before)
        if target is None or has_changed:
            self.state, self.changes, self.owed = None, TakenChanges(), {}
            self._recent.clear()
            self._remember(Position(seq=Seq(0), head=chain.empty_head(self.room)))
            return False
        self.owed = {seq: tombstone for seq, tombstone in self.owed.items() if seq < before}
        self._recent = {seq: position for seq, position in self._recent.items() if seq < before}
        self._remember(
            replace(
                target,
                promised=target.promised if target.promised < before else Seq(0),
                horizon=min(target.horizon, target.seq),
            )
        )
        return True

    def expect(self, seq: Seq, leaf: bytes) -> None:
        """An ack says that our message stands there. Raises: Lie if something else was shown there."""
        self.check_shown(seq, leaf)
        if seq > self.position.seq:
            self._acked[seq] = leaf

    def check_shown(self, seq: Seq, leaf: bytes) -> None:
        """Was the event that an ack names the one that was shown there before?"""
        shown = self._recent.get(seq)
        if shown is not None and shown.leaf != leaf:
            raise Lie(Reason.FORKED_HISTORY, f"acked at {seq}, another event shown there", room=self.room)

    def check_known(self, entry: PlacedEntry) -> None:
        """An event that was taken before came again, which is right after a fill. Raises: Lie if it is another one."""
        known = self._recent.get(entry.seq)
        leaf = entry.leaf if isinstance(entry, Erased) else chain.leaf(entry)
        if known is not None and known.leaf and known.leaf != leaf:
            raise Lie(Reason.FORKED_HISTORY, f"two events at {entry.seq}", room=self.room)

    def joined(self) -> dict[UserId, Membership]:
        """The members that keys are shared with."""
        return {} if self.state is None else self.state.joined()

    def role_of(self, user: UserId) -> RoomRole | None:
        """None: no member."""
        membership = self.joined().get(user)
        return None if membership is None else membership.role

    @property
    def is_joined(self) -> bool:
        """Are we inside ourselves?"""
        return self._me in self.joined()

    @property
    def epoch(self) -> Seq:
        return Seq(0) if self.state is None else self.state.epoch

    # State events and deletions

    def _verify_deletion(self, event: TimelineEvent, *, keys_are_fresh: bool) -> VerifiedEvent:
        content = self.check_form(event)
        if not keys_are_fresh:
            self._need_keys(content, event.time)
        verified = self.check_signature(event, content)
        self.check_not_repeated(event)
        self.check_authority(verified)
        self.check_claims(event.seq, content)
        self.check_target(event.seq, content)
        return verified

    def _verify_state(self, event: TimelineEvent, *, keys_are_fresh: bool) -> VerifiedEvent:
        content = self.check_form(event)
        if not keys_are_fresh:
            self._need_keys(content, event.time)
        verified = self.check_signature(event, content)
        self.check_not_repeated(event)
        self.check_previous(event.seq, content)
        self.check_authority(verified)
        self.check_generation(content)
        self.check_claims(event.seq, content)
        self.check_identities(content)
        self.check_device_list(content)
        return verified

    def _take_verified(self, verified: VerifiedEvent) -> None:
        if isinstance(verified.content, DeletionContent):
            self.changes.take(verified.event)
            self.owed.pop(verified.event.seq, None)
        else:
            self._take_state(verified)

    def _take_state(self, verified: VerifiedEvent) -> None:
        if isinstance(verified.content, CreateContent):
            self.state = created_room(verified)
        else:
            assert self.state is not None
            self.state.take(verified)
        if verified.signer is not None:
            self.changes.take(verified.event)
        for user, identity in identities_of(verified.content):
            self._lists.pin(user, identity)
        named = device_list_of(verified.content)
        if named is not None:
            self._lists.note_digest(named.user, named.version, named.digest)

    def _need_keys(self, content: Content, time: int) -> None:
        """time: ms since 1970, of the event."""
        of_server = content if isinstance(content, RemovalContent | RestoredContent) else None
        if of_server is not None and self._server_key(of_server.signed.key_id, time) is None:
            raise KeysNeeded(of_server=True)
        unknown = {user for user, device in signers_of(content) if self._lists.signing_key(user, device) is None}
        if unknown:
            raise KeysNeeded(frozenset(unknown))

    def check_order(self, seq: Seq) -> None:
        expected = self.position.seq + 1
        if seq == self.position.seq:
            raise Lie(Reason.DUPLICATE_EVENT, f"{seq} came twice", room=self.room)
        if seq < expected:
            raise Lie(Reason.REORDERED_EVENT, f"{seq} came after {self.position.seq}", room=self.room)
        if seq > expected:
            raise Lie(Reason.MISSING_EVENT, f"{seq} came where {expected} is next", room=self.room)

    def check_time(self, event: TimelineEvent) -> None:
        if event.time < self.position.time:
            raise Lie(Reason.TIME_WENT_BACK, f"at {event.seq}", room=self.room)

    def check_form(self, event: TimelineEvent) -> Content:
        if event.body is None:
            raise Lie(Reason.CONTENT_WITHHELD_BY_SERVER, f"{event.kind.value} without content", room=self.room)
        try:
            if event.room != self.room:
                raise BadRequest("of another room")
            return decode_content(event)
        except (msgspec.DecodeError, KeyError, RecursionError, BadRequest) as error:
            raise Lie(_misshapen(event), f"{event.kind.value} at {event.seq}: {error}", room=self.room) from None

    def check_signature(self, event: TimelineEvent, content: Content) -> VerifiedEvent:
        try:
            return verify_event(
                event, server=self._server, device_key=self._lists.signing_key, server_key=self._server_key
            )
        except BadSignature as error:
            raise Lie(Reason.BAD_SIGNATURE, f"{event.kind.value} at {event.seq}: {error}", room=self.room) from None
        except BadRequest as error:
            raise Lie(Reason.MALFORMED_EVENT, f"{event.kind.value} at {event.seq}: {error}", room=self.room) from None

    def check_not_repeated(self, event: TimelineEvent) -> None:
        """A signature is good for one place: an old promotion must not count again."""
        if event.sender and self.changes.has(event):
            detail = f"the change n {event.n} of {event.device} stood before {event.seq} already"
            raise Lie(Reason.DUPLICATE_EVENT, detail, room=self.room)

    def check_previous(self, seq: Seq, content: Content) -> None:
        """The server names the newest state event, and all are shown: another one than was folded last is hidden or made up."""
        newest = self.state.seq if self.state is not None else Seq(0)
        if not isinstance(content, CreateContent | DeletionContent) and content.previous != newest:
            detail = f"the state event before {seq} is said to stand at {content.previous}, the last shown stands at {newest}"
            raise Lie(Reason.WRONG_PREVIOUS, detail, room=self.room)

    def check_authority(self, verified: VerifiedEvent) -> None:
        seq = verified.event.seq
        try:
            if self.state is not None:
                authorize(self.state, verified)
            elif isinstance(verified.content, CreateContent):
                check_creation(verified.content)
            else:
                raise BadRequest("before the room was created")
        except ChattyError as error:
            raise Lie(_refused(error, verified.content), f"at {seq}: {error}", room=self.room) from None

    def check_generation(self, content: Content) -> None:
        """Generations of a room only grow."""
        if isinstance(content, RestoredContent) and content.signed.generation <= self.position.generation:
            detail = f"generation {content.signed.generation} after {self.position.generation}"
            raise Lie(Reason.GENERATION_WENT_BACK, detail, room=self.room)

    def check_claims(self, seq: Seq, content: Content) -> None:
        for last_seq, last_head in claims_of(content):
            self.check_head_claim(seq, last_seq, last_head)

    def check_head_claim(self, seq: Seq, last_seq: Seq, last_head: str) -> None:
        """Somebody's device says which head it had verified at last_seq, in an event that stands at seq."""
        if last_seq >= seq:
            raise Lie(Reason.FORKED_HISTORY, f"the event at {seq} knows {last_seq} already", room=self.room)
        own = self._recent.get(last_seq)
        if own is not None and encode_base64(own.head) != last_head:
            raise Lie(Reason.FORKED_HISTORY, f"another head at {last_seq} was shown to somebody else", room=self.room)

    def check_identities(self, content: Content) -> None:
        for user, identity in identities_of(content):
            self._lists.check_identity(user, identity)

    def check_device_list(self, content: Content) -> None:
        named = device_list_of(content)
        if named is None:
            return
        self._lists.check_named_digest(named.user, named.version, named.digest)
        before = self.state.membership(named.user) if self.state is not None else None
        is_older = before is not None and before.is_joined and named.version <= before.list_version
        if is_older and isinstance(content, DevicesContent):
            raise Lie(Reason.DEVICE_LIST_MISMATCH, f"{named.user} went back to an older device list", room=self.room)

    def check_target(self, seq: Seq, content: Content) -> None:
        """Does a deletion name what was shown at that place?"""
        assert isinstance(content, DeletionContent)
        shown = self._recent.get(content.signed.target_seq)
        if shown is not None and shown.leaf and chain.event_id(shown.leaf) != content.signed.target:
            detail = f"the deletion at {seq} is of another event than was shown at {content.signed.target_seq}"
            raise Lie(Reason.FORKED_HISTORY, detail, room=self.room)

    # Messages

    def _verify_message(self, event: TimelineEvent) -> None:
        if event.room != self.room:
            raise Lie(Reason.MALFORMED_EVENT, "of another room", room=self.room)
        self.check_sender(event)
        self.check_epoch(event)
        self.check_above_horizon(event)
        self.check_withheld(event)

    def check_sender(self, event: TimelineEvent) -> None:
        try:
            if self.state is None:
                raise BadRequest("before the room was created")
            may_send(self.state, event.sender)
        except ChattyError as error:
            raise Lie(Reason.UNAUTHORIZED_MEMBER, f"at {event.seq}: {error}", room=self.room) from None

    def check_epoch(self, event: TimelineEvent) -> None:
        """The committing transaction refuses every other epoch, so what stands in the chain fits exactly."""
        if event.epoch != self.epoch:
            detail = f"{event.seq} was encrypted for epoch {event.epoch}, the chain says {self.epoch}"
            raise Lie(Reason.WRONG_EPOCH, detail, room=self.room)

    def check_withheld(self, event: TimelineEvent) -> None:
        """Without its ciphertext a message names its expiry, in the hash, or the place of the deletion that is to come."""
        is_named = event.seq < event.deletion_seq and event.deletion_seq not in self.owed
        if event.body is None and not (is_named or (event.expiry and not event.deletion_seq)):
            detail = f"the ciphertext at {event.seq} is gone, and no expiry or deletion explains that"
            raise Lie(Reason.CONTENT_WITHHELD_BY_SERVER, detail, room=self.room)

    def check_owed(self, seq: Seq, verified: VerifiedEvent | None) -> None:
        """Where the server has named the deletion of a message, there it stands, by one who may."""
        tombstone = self.owed.get(seq)
        if tombstone is not None and not is_explained_by(tombstone, verified):
            detail = f"the message at {tombstone.seq} is called deleted, and at {seq} nothing explains that"
            raise Lie(Reason.CONTENT_WITHHELD_BY_SERVER, detail, room=self.room)

    def check_ack(self, seq: Seq, leaf: bytes) -> None:
        acked = self._acked.pop(seq, None)
        if acked is not None and acked != leaf:
            raise Lie(Reason.FORKED_HISTORY, f"our message was acked at {seq}, another is shown there", room=self.room)

    # Erased messages

    @property
    def has_unexplained(self) -> bool:
        """Messages are erased or deleted, and the removal or deletion that the server has named for it is not read yet."""
        return self.position.promised > self.position.seq or bool(self.owed)

    def _accept_erased(self, erased: Erased) -> None:
        if erased.room != self.room or len(erased.leaf) != 32:
            raise Lie(Reason.MALFORMED_EVENT, "an erased message of another form", room=self.room)
        self.check_order(erased.seq)
        self.check_explanation(erased)
        self.check_ack(erased.seq, erased.leaf)
        self._move_on(erased.seq, erased.leaf, time=self.position.time, promised=erased.removal_seq)

    def check_explanation(self, erased: Erased) -> None:
        """A message is erased after its sender was removed, and nothing else may be; nor at the place that was named before."""
        if erased.removal_seq <= erased.seq or self.position.promised == erased.seq:
            detail = f"{erased.seq} is erased, and no removal after it explains that"
            raise Lie(Reason.CONTENT_WITHHELD_BY_SERVER, detail, room=self.room)

    def check_promise(self, seq: Seq, verified: VerifiedEvent | None) -> None:
        """Where the server has named the removal of a deleted account, there it stands."""
        if seq != self.position.promised:
            return
        content = verified.content if verified is not None else None
        if not isinstance(content, RemovalContent) or content.signed.reason is not RemovalReason.ACCOUNT_DELETED:
            detail = f"messages were erased, and at {seq} nothing explains that"
            raise Lie(Reason.CONTENT_WITHHELD_BY_SERVER, detail, room=self.room)

    # Gaps

    def _accept_gap(self, gap: Gap) -> None:
        if gap.room != self.room or gap.to_seq < gap.from_seq or len(gap.head) != 32:
            raise Lie(Reason.MALFORMED_EVENT, "a gap without extent", room=self.room)
        self.check_order(gap.from_seq)
        self.check_gap(gap)
        self.check_hidden(gap)
        self._remember(replace(self.position, seq=gap.to_seq, head=gap.head, leaf=b""))

    def check_gap(self, gap: Gap) -> None:
        """State events are always shown, so the membership is the same over the whole gap: it must not be one's own time."""
        membership = self.state.membership(self._me) if self.state is not None else None
        if self.state is None or (membership is not None and membership.is_joined):
            detail = f"{gap.from_seq} to {gap.to_seq} are hidden from a member"
            raise Lie(Reason.MISSING_EVENT, detail, room=self.room)

    def check_hidden(self, stretch: Stretch) -> None:
        """A removal or deletion that was named is shown to everybody."""
        if any(stretch.from_seq <= seq <= stretch.to_seq for seq in (self.position.promised, *self.owed)):
            raise Lie(Reason.MISSING_EVENT, "a removal or deletion that was named is hidden", room=self.room)

    # Horizons

    def _accept_horizon(self, entry: Horizon, *, keys_are_fresh: bool) -> None:
        mark = entry.mark
        if entry.room != self.room or not entry.from_seq <= entry.to_seq <= mark.seq or len(entry.head) != 32:
            raise Lie(Reason.MALFORMED_EVENT, "a horizon without extent", room=self.room)
        self.check_order(entry.from_seq)
        if not keys_are_fresh and self._server_key(mark.key_id, mark.time) is None:
            raise KeysNeeded(of_server=True)
        self.check_mark(mark)
        self.check_hidden(entry)
        self.check_horizon(entry)
        place = replace(self.position, seq=entry.to_seq, head=entry.head, leaf=b"")
        self._remember(replace(place, horizon=mark.seq, before=mark.before))

    def check_mark(self, mark: HorizonMark) -> None:
        """Signed by the server: so it cannot tell one member this and another that."""
        statement = horizon_bytes(
            server=self._server,
            room=self.room,
            seq=mark.seq,
            head=mark.head,
            before=mark.before,
            time=mark.time,
            key_id=mark.key_id,
        )
        try:
            verify(self._server_key(mark.key_id, mark.time) or "", statement, encode_base64(mark.signature))
        except BadSignature as error:
            raise Lie(Reason.BAD_SIGNATURE, f"the horizon at {mark.seq}: {error}", room=self.room) from None

    def check_horizon(self, entry: Horizon) -> None:
        """What is hidden is as old as the mark says, as far as what was shown tells; and it ends where the mark says."""
        mark = entry.mark
        if self.position.time >= mark.before or mark.before > mark.time:
            detail = f"messages are hidden that are newer than the horizon at {mark.seq}"
            raise Lie(Reason.CONTENT_WITHHELD_BY_SERVER, detail, room=self.room)
        if entry.to_seq == mark.seq and entry.head != mark.head:
            raise Lie(Reason.FORKED_HISTORY, f"another head at the horizon {mark.seq} than it names", room=self.room)

    def check_above_horizon(self, event: TimelineEvent) -> None:
        """Up to the horizon no message is kept: else single ones could be called old; above it nothing is as old."""
        position = self.position
        if event.seq <= position.horizon or event.time < position.before:
            detail = f"the message at {event.seq} is shown, others as old are not"
            raise Lie(Reason.CONTENT_WITHHELD_BY_SERVER, detail, room=self.room)

    def recent(self) -> list[Position]:
        """The positions whose heads are kept, oldest first."""
        return list(self._recent.values())

    def _remember(self, position: Position) -> None:
        self.position = position
        self._recent[position.seq] = position
        while len(self._recent) > recent_heads_max:
            del self._recent[next(iter(self._recent))]


def claims_of(content: Content) -> list[tuple[Seq, str]]:
    """What signers say about the chain: (seq, head in base64)."""
    match content:
        case MemberContent(signed=change):
            invitation = change.invitation.signed if change.invitation is not None else None
            invited = [(invitation.last_seq, invitation.last_head)] if invitation is not None else []
            return [(change.last_seq, change.last_head), *invited]
        case CreateContent() | DevicesContent():
            return []
        case _:
            return [(content.signed.last_seq, content.signed.last_head)]


def identities_of(content: Content) -> list[tuple[UserId, str]]:
    """Whom the content names with which identity key."""
    match content:
        case CreateContent():
            return [(content.creator, content.creator_identity)]
        case MemberContent(signed=change):
            return [(change.target, change.target_identity)]
        case _:
            return []


class NamedList(NamedTuple):
    user: UserId
    version: ListVersion
    digest: str


def device_list_of(content: Content) -> NamedList | None:
    """The device list that the content names, of a join, an add or a devices event."""
    match content:
        case DevicesContent():
            return NamedList(content.user, content.list_version, content.list_digest)
        case MemberContent(signed=change, list_version=version, list_digest=digest) if version is not None and digest:
            return NamedList(change.target, version, digest)
        case _:
            return None


def _misshapen(event: TimelineEvent) -> Reason:
    """The server removes, and makes no other member event by itself: one that only a device may make is forged."""
    if event.kind is Kind.MEMBER and not event.sender:
        try:
            return _forged(msgspec.json.decode(event.body or b"", type=MemberContent))
        except (msgspec.DecodeError, RecursionError):
            pass
    return Reason.MALFORMED_EVENT


def _refused(error: ChattyError, content: Content) -> Reason:
    """Who was let in against a ban, or by a link that lets nobody in, is told apart from other forgeries."""
    match error, content:
        case Banned(), _:
            return Reason.BANNED_MEMBER
        case LinkUnknown() | LinkExpired() | LinkUsedUp() | LinkRevoked(), MemberContent():
            return Reason.VOID_LINK
        case _:
            return _forged(content)


def _forged(content: Content) -> Reason:
    match content:
        case MemberContent(signed=change) if change.action in (Action.ROLE, Action.TRANSFER):
            return Reason.FORGED_ROLE
        case PolicyContent():
            return Reason.FORGED_POLICY
        case DeletionContent():
            return Reason.FORGED_DELETION
        case LinkContent() | LinkRevocationContent():
            return Reason.FORGED_LINK
        case ListingContent():
            return Reason.FORGED_LISTING
        case _:
            return Reason.FORGED_MEMBERSHIP
