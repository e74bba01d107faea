"""What arrives: checked, written, and only then counted as received.

Events are taken in order, as many as possible in one transaction; an event that needs something first (a device list, a hole
filled) ends the transaction, gets it, and is looked at again. The room's cursor stands in the transaction of the event's
effects; mailbox rows are acknowledged after theirs.
*A lie* freezes the room that it is about; the others go on. *The server does not answer* a key query: ChattyError goes up,
the connection ends, and the same events come again. *Cancelled*: between transactions; nothing is lost or doubled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from chatty.client.directory import Directory
from chatty.client.generations import Rewinds
from chatty.client.http import Api
from chatty.client.mailbox import MailboxIntake
from chatty.client.pending import MessageIntake
from chatty.client.reasons import KeysNeeded, Lie, Reason, RoomFrozen
from chatty.client.room_book import RoomBook
from chatty.client.rooms import RoomVerifier
from chatty.client.store import LocalStore
from chatty.client.streams import UserStreamIntake
from chatty.client.update_queue import UpdateQueue
from chatty.client.updates import MembershipChanged
from chatty.ids import MailboxId, RoomId, Seq, UserId
from chatty.wire import chain
from chatty.wire.authority import VerifiedEvent
from chatty.wire.events import (
    DeletionContent,
    Kind,
    MemberContent,
    RemovalContent,
    RestoredContent,
    TimelineEvent,
    action_of,
)
from chatty.wire.frames import Erased, Mailbox, RoomEntry, Stretch, UserEvent
from chatty.wire.rooms import Page

Arrival = RoomEntry | UserEvent | Mailbox


@dataclass(frozen=True)
class HoleFound:
    """The live stream begins later than the room was read."""

    room: RoomId
    upto: Seq


Need = KeysNeeded | HoleFound


@dataclass(frozen=True)
class Done:
    """What was done for the event that is looked at."""

    keys_are_fresh: bool = False
    is_filled: bool = False


class Intake:
    """One at a time: a connection's reader calls take(), nobody else."""

    def __init__(
        self,
        *,
        store: LocalStore,
        api: Api,
        directory: Directory,
        book: RoomBook,
        messages: MessageIntake,
        mailbox: MailboxIntake,
        user_stream: UserStreamIntake,
        updates: UpdateQueue,
        rewinds: Rewinds,
    ) -> None:
        self._store = store
        self._api = api
        self._directory = directory
        self._book = book
        self._messages = messages
        self._mailbox = mailbox
        self._user_stream = user_stream
        self._updates = updates
        self._rewinds = rewinds
        self._last_live: dict[RoomId, Seq] = {}

    def restart_order(self) -> None:
        """A new connection, or a resync: the stream begins anew at the cursors."""
        self._last_live.clear()

    async def take(self, arrivals: Sequence[Arrival], *, is_live: bool = True) -> list[MailboxId]:
        """Take all, in order. is_live: from the socket, where nothing may come twice.

        Returns: ids of mailbox rows to acknowledge. Raises: ChattyError.
        """
        acknowledged: list[MailboxId] = []
        at, done = 0, Done()
        while at < len(arrivals):
            need: Need | None = None
            with self._store.transaction():
                while at < len(arrivals) and need is None:
                    need = self._look_at(arrivals[at], acknowledged, is_live, done)
                    if need is None:
                        at, done = at + 1, Done()
            self._book.notify()
            if isinstance(need, KeysNeeded):
                await self._directory.learn_needed(need)
                done = replace(done, keys_are_fresh=True)
            elif need is not None:
                await self._fill(need)
                done = replace(done, is_filled=True)
        return acknowledged

    def _look_at(self, arrival: Arrival, acknowledged: list[MailboxId], is_live: bool, done: Done) -> Need | None:
        try:
            match arrival:
                case UserEvent():
                    self._user_stream.take(arrival, keys_are_fresh=done.keys_are_fresh)
                case Mailbox():
                    self._take_mailbox(arrival, keys_are_fresh=done.keys_are_fresh)
                    acknowledged.append(arrival.id)
                case _:
                    return self._take_entry(arrival, is_live=is_live, done=done)
        except KeysNeeded as needed:
            return needed
        except Lie as lie:
            self._book.caught(lie)
        return None

    def _take_mailbox(self, row: Mailbox, *, keys_are_fresh: bool) -> None:
        arrived = self._mailbox.take(row, keys_are_fresh=keys_are_fresh)
        if arrived is not None:
            room, session_id = arrived
            self._messages.retry(self._book.get(room), session_id)

    def _take_entry(self, entry: RoomEntry, *, is_live: bool, done: Done) -> Need | None:
        verifier = self._book.get(entry.room)
        if verifier.frozen is not None:
            return None
        first, last = _extent(entry)
        if is_live:
            check_order(entry, after=self._last_live.get(entry.room, Seq(0)))
        if is_live and isinstance(entry, TimelineEvent) and entry.kind is Kind.RESTORED:
            self._rewind(verifier, entry, keys_are_fresh=done.keys_are_fresh)
        if first <= verifier.position.seq and is_live:
            self._pass_over(verifier, entry)
        elif is_live and first > verifier.position.seq + 1 and not done.is_filled:
            return HoleFound(entry.room, Seq(first - 1))
        else:
            self._accept(verifier, entry, keys_are_fresh=done.keys_are_fresh)
        if is_live:
            # Only while inside: whoever comes back is shown the room from its beginning again.
            self._last_live[entry.room] = last if verifier.is_joined else Seq(0)
        return None

    def _rewind(self, verifier: RoomVerifier, event: TimelineEvent, *, keys_are_fresh: bool) -> None:
        """The server was restored, and has nothing of what was read from here on."""
        if event.seq <= verifier.position.seq:
            content = verifier.restored(event, keys_are_fresh=keys_are_fresh)
            if self._rewinds.is_meant(verifier, event, content):
                self._rewinds.take(verifier, event, content)

    def _pass_over(self, verifier: RoomVerifier, entry: RoomEntry) -> None:
        """Read before, by filling a hole."""
        if not isinstance(entry, Stretch):
            verifier.check_known(entry)

    def _accept(self, verifier: RoomVerifier, entry: RoomEntry, *, keys_are_fresh: bool) -> None:
        try:
            verified = verifier.accept(entry, keys_are_fresh=keys_are_fresh)
        except RoomFrozen:
            return
        self._book.save(verifier, entry, with_state=verified is not None)
        if self._book.is_told(entry.room, _extent(entry)[1]):
            return
        if isinstance(entry, Erased):
            self._messages.note_unexplained(entry.room, entry.seq, chain.event_id(entry.leaf))
        elif isinstance(entry, TimelineEvent) and entry.deletion_seq:
            self._messages.note_unexplained(entry.room, entry.seq, chain.event_id(chain.leaf(entry)))
        elif not verifier.has_unexplained:
            self._messages.note_explained(entry.room)
        if verified is not None and isinstance(verified.content, DeletionContent):
            self._messages.take_deletion(verified.content.signed)
        elif verified is not None and isinstance(verified.content, RestoredContent):
            self._rewinds.begin(entry.room, verified.content, seq=verified.event.seq)
        elif verified is not None:
            self._tell_membership(verifier, verified)
        elif isinstance(entry, TimelineEvent) and entry.kind is Kind.MESSAGE:
            self._messages.take(verifier, entry)

    def _tell_membership(self, verifier: RoomVerifier, verified: VerifiedEvent) -> None:
        content, action = verified.content, action_of(verified.content)
        if action is None:
            return
        assert isinstance(content, MemberContent | RemovalContent)
        target = content.signed.target
        membership = verifier.joined().get(target)
        self._updates.put(
            MembershipChanged(
                room=verifier.room,
                seq=verified.event.seq,
                action=action,
                actor=UserId("") if verified.signer is None else verified.signer[0],
                target=target,
                role=None if membership is None else membership.role,
            )
        )

    async def _fill(self, hole: HoleFound) -> None:
        """Read the pages between; a page that leaves a hole is a lie."""
        verifier = self._book.get(hole.room)
        while verifier.frozen is None and verifier.position.seq < hole.upto:
            before = verifier.position.seq
            page = await self._api.events(hole.room, after=before)
            entries = _own_entries(page, hole.room)
            if self._is_in_order(entries):
                await self.take(entries, is_live=False)
            if verifier.position.seq == before:
                break  # nothing came: the event that stands after the hole will be refused as such

    def _is_in_order(self, entries: Sequence[RoomEntry]) -> bool:
        """A page is looked at as a whole: its first entry alone cannot tell a missing one from one that comes later."""
        try:
            for before, entry in pairwise(entries):
                check_order(entry, after=_extent(before)[1])
        except Lie as lie:
            with self._store.transaction():
                self._book.caught(lie)
            return False
        return True


def check_order(entry: RoomEntry, *, after: Seq) -> None:
    """On one connection, and in one page, no place of a room comes twice, and none after a later one. Raises: Lie."""
    first, _ = _extent(entry)
    if first <= after:
        reason = Reason.DUPLICATE_EVENT if first == after else Reason.REORDERED_EVENT
        raise Lie(reason, f"{first} came after {after}", room=entry.room)


def _extent(entry: RoomEntry) -> tuple[Seq, Seq]:
    return (entry.from_seq, entry.to_seq) if isinstance(entry, Stretch) else (entry.seq, entry.seq)


def _own_entries(page: Page, room: RoomId) -> list[RoomEntry]:
    return [entry for entry in page.entries if entry.room == room]
