"""The server's generations: when it may go back, and what this client does then.

A server that goes on from a backup has lost what came after it, and says so: a higher generation in its challenge, and a signed
`restored` event in each room behind the last that it still holds. Without both, a server that goes back is a fork.

*Met* at the challenge. A lower number, or another id under the same number, freezes every room. A higher one is told to the
application; then device lists and outbound Megolm sessions are made anew, because lists, to-device messages and one-time keys
of after the backup are gone. *Read under*: the generation of the last resume that came to its end; it is what the next hello
names, so that a resume which broke begins anew.
*In each room* what stood from the `restored` event on is taken back (`Rewinds.take`): told as MessageLost, and one's own
messages are laid out to be sent again, under the same mid, so that readers drop a second copy. Where the membership has not
changed since, the room goes back by its kept heads; else it is read from its beginning again, without telling anything twice.
*A room that the backup does not know* is told as RoomLost at the end of the resume.
*Crash*: everything is in the transaction of the event that caused it, or is done again by the next resume.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from chatty.client.megolm import MegolmSessions
from chatty.client.messages import Writing
from chatty.client.reasons import Lie, Reason
from chatty.client.room_book import RoomBook
from chatty.client.rooms import RoomVerifier
from chatty.client.store import LocalStore
from chatty.client.update_queue import UpdateQueue, history_max
from chatty.client.updates import RoomLost, ServerRestored
from chatty.ids import RoomId, Seq
from chatty.wire.events import RestoredContent, TimelineEvent
from chatty.wire.frames import Cursor, Generation
from chatty.wire.receipts import UnreadRoom

sent_max = 10_000
_GENERATIONS, _SENT, _AGAIN = "generations", "sent", "send_again"


class SentMessage(Struct, frozen=True, kw_only=True):
    """What this device has sent, as long as the server may still lose it. generation: in which it was acked."""

    room: RoomId
    seq: Seq
    writing: Writing
    expiry: int
    generation: int


class Unrepeated(Struct, frozen=True, kw_only=True):
    """A lost message of this device that is to be sent again."""

    room: RoomId
    writing: Writing
    expiry: int


class SentMessages:
    """What one has sent oneself, on disk: the newest `sent_max`, and what of it was lost."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store

    def note(self, sent: SentMessage) -> None:
        """It was acked."""
        self._store.put(_SENT, _place(sent.room, sent.seq), sent)
        self._store.keep_about(_SENT, count_max=sent_max)

    def forget(self, room: RoomId, seq: Seq) -> None:
        """It was deleted, or has expired."""
        self._store.delete(_SENT, _place(room, seq))

    def lay_out(self, room: RoomId, *, from_seq: Seq, before: Seq) -> None:
        """What was acked at from_seq or behind it, in a generation before this one, is to be sent again."""
        for place, sent in self._store.items(_SENT, SentMessage):
            if sent.room == room and sent.seq >= from_seq and sent.generation < before:
                again = Unrepeated(room=room, writing=sent.writing, expiry=sent.expiry)
                self._store.put(_AGAIN, sent.writing.mid, again)
                self._store.delete(_SENT, place)

    def lay_out_unsent(self, room: RoomId, writing: Writing, *, expiry: int) -> None:
        """Written for a history that the server has lost, and not acked."""
        self._store.put(_AGAIN, writing.mid, Unrepeated(room=room, writing=writing, expiry=expiry))

    def laid_out(self, *, now_ms: int) -> list[Unrepeated]:
        """What is to be sent again, the oldest first; what has expired meanwhile is dropped."""
        found = self._store.items(_AGAIN, Unrepeated)
        for mid, one in found:
            if 0 < one.expiry <= now_ms:
                self._store.delete(_AGAIN, mid)
        return [one for _, one in found if not 0 < one.expiry <= now_ms]

    def note_written(self, mid: str) -> None:
        """Encrypted anew, or refused for good; in that transaction."""
        self._store.delete(_AGAIN, mid)


class Generations:
    """`read_under`: the newest generation of which everything was read."""

    def __init__(self, store: LocalStore, *, book: RoomBook, updates: UpdateQueue) -> None:
        self._store = store
        self._book = book
        self._updates = updates
        self._read = store.get(_GENERATIONS, "read", Generation)
        self._met: Generation | None = None
        self._named: dict[RoomId, Seq] | None = None

    @property
    def read_under(self) -> Generation | None:
        """None: this device was never connected."""
        return self._read

    @property
    def number(self) -> Seq:
        """Of this connection."""
        return self._met.number if self._met is not None else Seq(0)

    @property
    def is_raised(self) -> bool:
        """Since everything was read the last time."""
        read = self.read_under
        return read is not None and self.number > read.number

    def begins(self, number: Seq, *, taken: Seq) -> bool:
        """Is this a generation that was not read under, in a stream where `taken` is the last that began?"""
        read = self.read_under
        return read is not None and max(read.number, taken) < number <= self.number

    def meet(self, generation: Generation) -> None:
        """The challenge of a new connection."""
        read = self.read_under
        try:
            check_generation(generation, read=read)
        except Lie as lie:
            with self._store.transaction():
                if rooms := [room for room in self._book.rooms() if self._book.get(room).frozen is None]:
                    self._book.freeze(lie, rooms)
            return
        self._met = generation
        if read is None:
            self._keep(generation)

    def _keep(self, generation: Generation) -> None:
        self._read = generation
        self._store.put(_GENERATIONS, "read", generation)

    def begin(self) -> bool:
        """The server has let us in. True once for each raised generation: what hangs on the old one is to be made anew."""
        if not self.is_raised or self._store.get(_GENERATIONS, "begun", int) == self.number:
            return False
        self._store.put(_GENERATIONS, "begun", self.number)
        self._store.put(_GENERATIONS, "before", [room for room in self._book.rooms() if self._book.get(room).is_joined])
        self._updates.put(ServerRestored(generation=self.number))
        return True

    def name(self, cursors: Sequence[Cursor]) -> None:
        """What the hello of this connection says."""
        self._named = {cursor.room: cursor.seq for cursor in cursors}

    def stop_comparing(self) -> None:
        """What comes from now on may have been overtaken by live events."""
        self._named = None

    def look_at_heads(self, rooms: Sequence[UnreadRoom]) -> None:
        """The ends of rooms, as the server has them after the hello."""
        for one in rooms:
            try:
                self.check_head(one)
            except Lie as lie:
                with self._store.transaction():
                    self._book.caught(lie)

    def check_head(self, one: UnreadRoom) -> None:
        """In one generation no room gets shorter. Raises: Lie."""
        if self._named is not None and not self.is_raised and one.head_seq < self._named.get(one.room, 0):
            detail = f"the room ends at {one.head_seq}, and {self._named[one.room]} was shown before"
            raise Lie(Reason.FORKED_HISTORY, detail, room=one.room)

    def complete(self) -> bool:
        """Everything was read. True: a raised generation is the one that is read under now."""
        self.stop_comparing()
        if not self.is_raised or self._met is None:
            return False
        read = self.read_under
        assert read is not None
        with self._store.transaction():
            for room in self._store.get(_GENERATIONS, "before", list[RoomId]) or []:
                verifier = self._book.get(room)
                if verifier.is_joined and verifier.frozen is None and verifier.position.generation <= read.number:
                    for lost in self._updates.lose(room, from_seq=Seq(1)):
                        self._updates.put(lost)
                    self._book.forget(room)
                    self._updates.put(RoomLost(room=room))
            self._keep(self._met)
        self._book.notify()
        return True


def check_generation(met: Generation, *, read: Generation | None) -> None:
    """Raises: Lie."""
    if read is not None and (met.number < read.number or (met.number == read.number and met.id != read.id)):
        detail = f"generation {met.number} ({met.id}) after {read.number} ({read.id})"
        raise Lie(Reason.GENERATION_WENT_BACK, detail)


class Rewinds:
    """Takes a `restored` event that stands where something else was read; in the caller's transaction.

    forget_behind: drops what other parts of the client keep of a room from a place on.
    """

    def __init__(
        self,
        *,
        generations: Generations,
        book: RoomBook,
        updates: UpdateQueue,
        sent: SentMessages,
        megolm: MegolmSessions,
        forget_behind: Callable[[RoomId, Seq], None],
    ) -> None:
        self._generations = generations
        self._book = book
        self._updates = updates
        self._sent = sent
        self._megolm = megolm
        self._forget_behind = forget_behind

    def is_meant(self, verifier: RoomVerifier, event: TimelineEvent, content: RestoredContent) -> bool:
        """Does it begin a generation that this room has not been read under?"""
        number = content.signed.generation
        return (
            self._generations.begins(number, taken=verifier.position.generation) and event.seq <= verifier.position.seq
        )

    def take(self, verifier: RoomVerifier, event: TimelineEvent, content: RestoredContent) -> None:
        """Everything from this place on is taken back. Raises: Lie, if what stands before it is not what was read."""
        place = event.seq
        verifier.check_restoration(content)
        for lost in self._updates.lose(verifier.room, from_seq=place):
            self._updates.put(lost)
        kept = {message.event_id for message in self._updates.history(verifier.room, count_max=history_max)}
        self._updates.note_lost_mids(self._megolm.forget_mids(verifier.room, kept=kept))
        self._forget_behind(verifier.room, place)
        self._book.rewind(verifier, before=place)

    def begin(self, room: RoomId, content: RestoredContent, *, seq: Seq) -> None:
        """The event was accepted at its place, after a rewind or in its turn."""
        read = self._generations.read_under
        if read is not None and content.signed.generation > read.number:
            self._sent.lay_out(room, from_seq=seq, before=content.signed.generation)


def _place(room: RoomId, seq: Seq) -> str:
    return f"{room}/{seq}"
