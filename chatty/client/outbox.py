"""Sending: each message is one draft with one mid, and gets its outcome whatever happens on the way.

*Order*: n, bytes and the moved ratchet stand on disk, in one transaction, before the frame leaves. While the outcome is
unknown (a broken socket, overloaded, outcome_unknown, store_unavailable) the same bytes go again under the same n.
`device_set_stale`: read the room up to the epoch, query the changed, encrypt anew with a new n and the same mid.
`expiry_refused`: likewise, with the timer counted from the server's time. Everything else is final.
*Restart*: drafts without an outcome go on. *Cancelled*: who waits stops waiting; the message stays and is sent.
*Bound*: n stays below low + 256; then sending waits.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio
from msgspec import Struct

from chatty.client.backoff import Backoff, Jitter, full_jitter
from chatty.client.connection import Answer, Link, LinkLost, error_of
from chatty.client.details import Details
from chatty.client.errors import RemoteError, is_retryable
from chatty.client.generations import Generations, SentMessage, SentMessages
from chatty.client.megolm import MegolmSessions
from chatty.client.messages import Writing, plaintext_bytes, text_bytes_max
from chatty.client.numbers import SendNumbers
from chatty.client.reasons import ClientError, Lie, Reason, RoomFrozen, SessionEnded
from chatty.client.relations import Announcement
from chatty.client.room_book import RoomBook
from chatty.client.sharing import KeySharing
from chatty.client.store import LocalStore
from chatty.client.updates import Sent, Unsent
from chatty.errors import ChattyError, DeviceSetStale, ExpiryRefused, MessageIdClosed, MessageIdConflict, TooLarge
from chatty.ids import DeviceId, RoomId, SendNumber, Seq, UserId
from chatty.wire import chain
from chatty.wire.events import MEGOLM, Kind, TimelineEvent
from chatty.wire.frames import Ack, Error, Send

rewritten_count_max = 3
_OPEN = "open_sends"


class OpenSend(Struct, frozen=True, kw_only=True):
    """A message that was written and has no outcome yet: the exact bytes of its n."""

    n: SendNumber
    room: RoomId
    epoch: Seq
    session_id: str
    body: bytes
    writing: Writing
    expiry: int = 0


class Draft:
    """One message on its way. `done` is set when `sent` or `error` is. server_ms: the server's time, where it has told it."""

    def __init__(self, room: RoomId, writing: Writing, written: OpenSend | None = None) -> None:
        self.room = room
        self.writing = writing
        self.written = written
        self.rewritten_count = 0
        self.server_ms = 0
        self.done = trio.Event()
        self.sent: Sent | None = None
        self.error: Exception | None = None


class Outbox:
    """`start`: runs a task as long as the client is open."""

    def __init__(
        self,
        store: LocalStore,
        *,
        me: UserId,
        device: DeviceId,
        numbers: SendNumbers,
        book: RoomBook,
        megolm: MegolmSessions,
        details: Details,
        sharing: KeySharing,
        generations: Generations,
        sent: SentMessages,
        link: Link,
        start: Callable[..., None],
        jitter: Jitter = full_jitter,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._me = me
        self._device = device
        self._numbers = numbers
        self._book = book
        self._megolm = megolm
        self._details = details
        self._sharing = sharing
        self._generations = generations
        self._sent = sent
        self._drafts: dict[str, Draft] = {}
        self._link = link
        self._start = start
        self._jitter = jitter
        self._now_s = now_s

    def go_on(self) -> None:
        """Take up what an earlier run left."""
        for _, written in self._store.items(_OPEN, OpenSend):
            self._begin(Draft(written.room, written.writing, written))
        self.send_again()

    def _begin(self, draft: Draft) -> None:
        self._drafts[draft.writing.mid] = draft
        self._start(self._deliver, draft)

    def write_anew(self) -> None:
        """The server was restored: what it had not acked goes out encrypted anew, as a part of the restored history.

        Where nobody waits for it any more it is laid out with what was lost.
        """
        for _, written in self._store.items(_OPEN, OpenSend):
            draft = self._drafts.get(written.writing.mid)
            self._sent.lay_out_unsent(written.room, written.writing, expiry=written.expiry)
            if draft is not None:
                self._drop_written(draft)
            else:
                self._store.delete(_OPEN, str(written.n))
                self._numbers.settle(written.n)

    def send_again(self) -> None:
        """What is laid out: lost, or not acked before the server was restored."""
        for one in self._sent.laid_out(now_ms=round(self._now_s() * 1_000)):
            if one.writing.mid not in self._drafts:
                self._begin(Draft(one.room, one.writing))

    async def send(self, room: RoomId, writing: Writing) -> Sent:
        """Returns when the server has committed it. Raises: ChattyError (final), RoomFrozen, TooLarge."""
        if writing.bytes_count > text_bytes_max:
            raise TooLarge(limit="text_bytes_max", bytes_max=text_bytes_max)
        draft = Draft(room, writing)
        self._begin(draft)
        await draft.done.wait()
        if draft.error is not None:
            raise draft.error
        assert draft.sent is not None
        return draft.sent

    async def _deliver(self, draft: Draft) -> None:
        backoff = Backoff(jitter=self._jitter)
        while not draft.done.is_set():
            try:
                if draft.written is None:
                    await self._write(draft)
                await self._send_once(draft)
            except LinkLost:
                continue
            except DeviceSetStale as stale:
                await self._catch_up(draft, stale)
            except (MessageIdClosed, MessageIdConflict) as error:
                self._write_again(draft, error)
            except ExpiryRefused as error:
                draft.server_ms = error.time
                self._write_again(draft, error)
            except ChattyError as error:
                if is_retryable(error):
                    await trio.sleep(backoff.next_s(retry_after_s=error.retry_after_s))
                else:
                    self._settle(draft, error=error)
            except SessionEnded as ended:
                draft.error = ended  # what was written stays, for the next start
                draft.done.set()
            except (ClientError, Lie) as error:
                self._settle(draft, error=error)
        del self._drafts[draft.writing.mid]

    async def _write(self, draft: Draft) -> None:
        await self._link.wait_up()
        await self._book.wait_until(lambda: not self._generations.is_raised)
        await self._numbers.wait_for_room()
        async with self._sharing.lock(draft.room):
            epoch = await self._sharing.prepare(draft.room)
            if self._generations.is_raised:
                raise LinkLost  # what it would name as read is not the server's history any more
            with self._store.transaction():
                draft.written = self._encrypt(draft, epoch)
                self._store.put(_OPEN, str(draft.written.n), draft.written)
                self._sent.note_written(draft.writing.mid)

    def _encrypt(self, draft: Draft, epoch: Seq) -> OpenSend:
        n, expiry, verifier = self._numbers.take(), self._expiry(draft), self._book.get(draft.room)
        is_due = draft.rewritten_count > 0 or isinstance(draft.writing.about, Announcement)
        carried = self._details.to_carry(draft.room, epoch=epoch, role=verifier.role_of(self._me), is_due=is_due)
        plaintext = plaintext_bytes(
            room=draft.room,
            writing=draft.writing,
            n=n,
            epoch=epoch,
            expiry=expiry,
            position=verifier.position,
            sender=self._me,
            device=self._device,
            carried=carried,
        )
        session_id, body = self._megolm.encrypt(draft.room, plaintext, epoch=epoch)
        self._details.note_carried(draft.room, epoch=epoch)
        return OpenSend(
            n=n,
            room=draft.room,
            epoch=epoch,
            session_id=session_id,
            body=body,
            writing=draft.writing,
            expiry=expiry,
        )

    def _expiry(self, draft: Draft) -> int:
        """By the room's timer, from now on; a clock that is behind the newest event of the room is slow. 0: never."""
        verifier = self._book.get(draft.room)
        timer_s = verifier.state.policy.message_timer_s if verifier.state is not None else 0
        if not timer_s:
            return 0
        now_ms = draft.server_ms or max(round(self._now_s() * 1_000), verifier.position.time)
        return now_ms + timer_s * 1_000

    async def _send_once(self, draft: Draft) -> None:
        await self._link.wait_up()
        written = draft.written
        if written is None:  # the server was restored meanwhile
            raise LinkLost
        frozen = self._book.get(draft.room).frozen
        if frozen is not None:
            raise RoomFrozen(draft.room, frozen)
        if written.n < self._numbers.low:  # the server forgot it: this store was rolled back
            raise MessageIdClosed(highest_n=SendNumber(self._numbers.highest), low=self._numbers.low)
        answer = await self._link.request(lambda id_: self._frame(id_, written))
        if isinstance(answer, Error):
            raise error_of(answer)
        sent = self._acked(written, answer)
        with self._store.transaction():
            self._sent.note(
                SentMessage(
                    room=written.room,
                    seq=sent.seq,
                    writing=written.writing,
                    expiry=written.expiry,
                    generation=self._generations.number,
                )
            )
            self._settle(draft, sent=sent)

    def _frame(self, id_: int, written: OpenSend) -> Send:
        return Send(
            id=id_,
            n=written.n,
            low=self._numbers.low,
            room=written.room,
            epoch=written.epoch,
            algorithm="m.megolm.v1.aes-sha2",
            session_id=written.session_id,
            body=written.body,
            expiry=written.expiry,
        )

    def _acked(self, written: OpenSend, answer: Answer) -> Sent:
        """The leaf in the ack must be what was sent. Raises: Lie, RemoteError."""
        if not isinstance(answer, Ack):
            raise RemoteError("a send was answered by something else")
        leaf = expected_leaf(written, answer, me=self._me, device=self._device)
        verifier = self._book.get(written.room)
        with self._lies_are_caught():
            check_ack(written, answer, leaf)
            verifier.expect(answer.seq, leaf)
        return Sent(seq=answer.seq, event_id=chain.event_id(leaf))

    @contextmanager
    def _lies_are_caught(self) -> Iterator[None]:
        try:
            yield
        except Lie as lie:
            with self._store.transaction():
                self._book.caught(lie)
            raise

    async def _catch_up(self, draft: Draft, stale: DeviceSetStale) -> None:
        """The bytes will never be committed: epochs only grow. Read up to the epoch, and encrypt anew."""
        self._drop_written(draft)
        verifier = self._book.get(draft.room)
        await self._book.wait_until(lambda: verifier.position.seq >= stale.epoch or verifier.frozen is not None)

    def _write_again(self, draft: Draft, error: ChattyError) -> None:
        """This store was rolled back and the server knows the n from later. The mid keeps readers from seeing it twice."""
        draft.rewritten_count += 1
        if draft.rewritten_count > rewritten_count_max:
            self._settle(draft, error=error)
        else:
            self._drop_written(draft)

    def _settle(self, draft: Draft, *, sent: Sent | None = None, error: Exception | None = None) -> None:
        self._drop_written(draft)
        self._sent.note_written(draft.writing.mid)
        draft.sent, draft.error = sent, error
        draft.done.set()

    def _drop_written(self, draft: Draft) -> None:
        written, draft.written = draft.written, None
        if written is not None:
            self._store.delete(_OPEN, str(written.n))
            self._numbers.settle(written.n)


def expected_leaf(written: OpenSend, ack: Ack, *, me: UserId, device: DeviceId) -> bytes:
    """The leaf of what was sent, at the place and time that the ack names."""
    event = TimelineEvent(
        room=written.room,
        seq=ack.seq,
        time=ack.time,
        kind=Kind.MESSAGE,
        sender=me,
        device=device,
        n=written.n,
        algorithm=MEGOLM,
        session_id=written.session_id,
        epoch=written.epoch,
        expiry=written.expiry,
        body=written.body,
    )
    return chain.leaf(event)


def check_ack(written: OpenSend, ack: Ack, leaf: bytes) -> None:
    """Raises: Lie, if something else was committed than what was sent."""
    if (ack.n, ack.room, ack.leaf) != (written.n, written.room, leaf):
        raise Lie(Reason.ALTERED_EVENT, f"the ack of n {written.n} is of something else", room=written.room)


def unsent(store: LocalStore) -> list[Unsent]:
    """The oldest first."""
    return [Unsent(room=written.room, text=written.writing.text) for _, written in store.items(_OPEN, OpenSend)]


def open_sends(store: LocalStore) -> set[int]:
    """The n of messages that have no outcome yet."""
    return {int(name) for name, _ in store.items(_OPEN, OpenSend)}
