"""A signed-in device at work: all parts of the client wired together, and the tasks that keep them going.

Everything stands in the store, so an engine that is made anew goes on where the last one stopped, offline until the link is
up.
*Faults*: what the server answers is a typed error and handled where it arises; any other exception is a fault of ours and
ends the client, for memory may then be ahead of the disk.
"""

from collections.abc import Awaitable, Callable, Sequence
from itertools import islice

import trio

from chatty.client.accounts import Identity
from chatty.client.backoff import Backoff, Jitter
from chatty.client.connection import Link, Where
from chatty.client.details import Details
from chatty.client.device_lists import DeviceLists, KnownDevice, UserKeys
from chatty.client.directory import Directory
from chatty.client.generations import Generations, Rewinds, SentMessages
from chatty.client.http import Api
from chatty.client.intake import Arrival, Intake
from chatty.client.mailbox import MailboxIntake
from chatty.client.megolm import MegolmSessions
from chatty.client.messages import SessionOwner
from chatty.client.notice_calls import NoticeCalls
from chatty.client.notices import Notices
from chatty.client.numbers import SendNumbers
from chatty.client.olm import OlmAccount, PayloadChecks, one_time_keys_kept
from chatty.client.outbox import Outbox, open_sends
from chatty.client.pending import MessageIntake
from chatty.client.reasons import NotSignedIn
from chatty.client.room_book import RoomBook
from chatty.client.server_keys import ServerKeys
from chatty.client.sharing import KeySharing, open_to_device
from chatty.client.store import LocalStore
from chatty.client.streams import UserStreamIntake
from chatty.client.undecryptables import UndecryptableReports
from chatty.client.update_queue import UpdateQueue
from chatty.client.updates import SignedOut, StoreRolledBack, Update
from chatty.errors import ChattyError, QuotaExceeded
from chatty.ids import MailboxId, RoomId, Seq, UserId
from chatty.wire import limits
from chatty.wire.events import TimelineEvent
from chatty.wire.frames import (
    Encoding,
    Erased,
    Lagging,
    Mailbox,
    MailboxAck,
    OneTimeKeyCounts,
    Resumed,
    ServerFrame,
    Stretch,
    UserEvent,
    Welcome,
)
from chatty.wire.keys import SIGNED_CURVE25519, KeyUpload, SignedKey
from chatty.wire.presence import Presence
from chatty.wire.receipts import Receipts, Unread
from chatty.wire.typing_notices import TypingNow

_USER_KEYS, _PUBLISHED = "user_keys", "published"
_one_time_keys_quota = "one_time_keys_max"  # as the server names it
overdue_check_s = 1.0


class Engine:
    """The parts are public to client.py and room.py; applications use those."""

    def __init__(
        self,
        *,
        store: LocalStore,
        api: Api,
        identity: Identity,
        updates: UpdateQueue,
        nursery: trio.Nursery,
        encoding: Encoding,
        jitter: Jitter,
    ) -> None:
        me, device = identity.user, identity.device
        self.identity, self.store, self.api, self.updates = identity, store, api, updates
        self._nursery = nursery
        self._jitter = jitter
        self.olm = OlmAccount(store, user=me, device=device)
        self.lists = self._load_lists()
        self.server_keys = ServerKeys(store, server=identity.server_name)
        self.book = RoomBook(
            store,
            me=me,
            server=identity.server_name,
            lists=self.lists,
            server_key=self.server_keys.key,
            tell=updates.put,
        )
        self.generations = Generations(store, book=self.book, updates=updates)
        self.sent = SentMessages(store)
        self.directory = Directory(api, store, lists=self.lists, book=self.book, server_keys=self.server_keys)
        own = SessionOwner(user=me, device=device, ed25519=self.olm.ed25519, curve25519=self.olm.curve25519)
        self.megolm = MegolmSessions(store, own=own)
        self.details = Details(store, tell=updates.put)
        self.undecryptables = UndecryptableReports(api.report_undecryptables)
        self.messages = MessageIntake(
            store,
            megolm=self.megolm,
            tell=self._tell,
            forget=self._forget_message,
            details=self.details,
            find_again=updates.find_again,
        )
        self.user_stream = UserStreamIntake(
            store,
            identity=identity,
            lists=self.lists,
            book=self.book,
            updates=updates,
            generations=self.generations,
        )
        self.notices = Notices(store, me=me, book=self.book, updates=updates)
        self.intake = self._make_intake()
        self.numbers = SendNumbers(store, opened=open_sends(store) | open_to_device(store))
        self.link = self._make_link(encoding)
        self.notice_calls = NoticeCalls(self.link, api, self.notices)
        self.outbox = self._make_outbox()
        self._counts: dict[str, int] = {}
        self._one_time_keys_max = one_time_keys_kept
        self._wake_keys = trio.Event()
        self._is_published = trio.Event()

    def _load_lists(self) -> DeviceLists:
        users = {UserId(user): keys for user, keys in self.store.items(_USER_KEYS, UserKeys)}
        lists = DeviceLists(users, save=lambda user, keys: self.store.put(_USER_KEYS, user, keys))
        own = KnownDevice(
            device=self.identity.device, ed25519=self.olm.ed25519, curve25519=self.olm.curve25519, in_set=False
        )
        lists.pin(self.identity.user, self.identity.identity_key)
        lists.know_own(self.identity.user, own)
        return lists

    def _make_intake(self) -> Intake:
        mailbox = MailboxIntake(
            self.store,
            olm=self.olm,
            megolm=self.megolm,
            lists=self.lists,
            checks=PayloadChecks(user=self.identity.user, ed25519=self.olm.ed25519),
            messages=self.messages,
        )
        return Intake(
            store=self.store,
            api=self.api,
            directory=self.directory,
            book=self.book,
            messages=self.messages,
            mailbox=mailbox,
            user_stream=self.user_stream,
            updates=self.updates,
            rewinds=Rewinds(
                generations=self.generations,
                book=self.book,
                updates=self.updates,
                sent=self.sent,
                megolm=self.megolm,
                forget_behind=self._forget_behind,
            ),
        )

    def _forget_message(self, room: RoomId, seq: Seq) -> None:
        """It is deleted or expired: not to be shown, and not to be sent again."""
        self.updates.forget(room, seq)
        self.sent.forget(room, seq)

    def _forget_behind(self, room: RoomId, from_seq: Seq) -> None:
        self.messages.forget_behind(room, from_seq)
        self.details.forget_behind(room, from_seq)
        self.notices.forget_behind(room, from_seq)

    def _make_link(self, encoding: Encoding) -> Link:
        return Link(
            self.api.origin,
            self.api.tokens,
            self.api.proofs,
            encoding=encoding,
            where=self._where,
            on_challenge=self.generations.meet,
            on_welcome=self._on_welcome,
            on_events=self._on_events,
            jitter=self._jitter,
        )

    def _make_outbox(self) -> Outbox:
        sharing = KeySharing(
            self.store,
            me=self.identity.user,
            device=self.identity.device,
            api=self.api,
            directory=self.directory,
            lists=self.lists,
            book=self.book,
            olm=self.olm,
            megolm=self.megolm,
            numbers=self.numbers,
        )
        return Outbox(
            self.store,
            me=self.identity.user,
            device=self.identity.device,
            numbers=self.numbers,
            book=self.book,
            megolm=self.megolm,
            details=self.details,
            sharing=sharing,
            generations=self.generations,
            sent=self.sent,
            link=self.link,
            start=self._nursery.start_soon,
            jitter=self._jitter,
        )

    def start(self) -> None:
        for task in (self._keep_link, self._keep_keys, self._keep_reporting, self.undecryptables.run):
            self._nursery.start_soon(task)
        self.outbox.go_on()

    def _tell(self, update: Update) -> None:
        self.updates.put(update)
        self.undecryptables.note(update)

    async def wait_published(self) -> None:
        """Until the server has this device's keys: only then others can encrypt for it."""
        await self._is_published.wait()

    # The link's questions

    def _where(self) -> Where:
        read = self.generations.read_under
        return Where(
            low=self.numbers.low,
            user_seq=self.user_stream.seq,
            cursors=self.book.cursors(),
            generation=Seq(0) if read is None else read.number,
        )

    def _on_welcome(self, welcome: Welcome) -> None:
        with self.store.transaction():
            if self.numbers.go_above(highest_n=welcome.highest_n, low=welcome.low):
                self.megolm.forget_outbound()
                self.olm.forget_outbound()
                self.updates.put(StoreRolledBack(highest_n=welcome.highest_n))
            if self.generations.begin():
                self.megolm.forget_outbound()
                self.lists.begin_anew()
                self.outbox.write_anew()
        self.generations.name(self.book.cursors())
        self.intake.restart_order()
        self.notices.restart()

    async def _on_events(self, events: Sequence[ServerFrame]) -> bool:
        """Returns: must the link resync?"""
        arrivals: list[Arrival] = [
            event for event in events if isinstance(event, TimelineEvent | Stretch | Erased | UserEvent | Mailbox)
        ]
        acknowledged = await self.intake.take(arrivals)
        for at in range(0, len(acknowledged), limits.mailbox_ack_ids_max):
            await self._acknowledge(acknowledged[at : at + limits.mailbox_ack_ids_max])
        for event in events:
            self._take_other(event)
        is_lagging = any(isinstance(event, Lagging) for event in events)
        if is_lagging:
            self.generations.stop_comparing()
            self.intake.restart_order()
        return is_lagging

    def _take_other(self, event: ServerFrame) -> None:
        match event:
            case OneTimeKeyCounts(counts=counts):
                self._counts = counts
                self._wake_keys.set()
            case TimelineEvent() if self._is_taken(event):
                self.notices.note_message(event)
            case Unread():
                self.generations.look_at_heads(event.rooms)
                self.notices.take(event)
            case TypingNow() | Receipts() | Presence():
                self.notices.take(event)
            case Resumed():
                if self.generations.complete():
                    self.outbox.send_again()
                self._nursery.start_soon(self.notice_calls.tell_again)
            case _:
                pass

    def _is_taken(self, event: TimelineEvent) -> bool:
        verifier = self.book.get(event.room)
        return verifier.frozen is None and verifier.position.seq >= event.seq

    async def _acknowledge(self, ids: list[MailboxId]) -> None:
        await self.link.tell(lambda id_: MailboxAck(id=id_, ids=ids))

    # Tasks

    async def _keep_link(self) -> None:
        ended = await self.link.run()
        self.updates.put(SignedOut(detail=str(ended)))

    async def _keep_keys(self) -> None:
        """Publish the device's keys once, and one-time keys whenever they run low."""
        if self.store.get(_PUBLISHED, "", bool):
            self._is_published.set()
        else:
            await self._until_answered(self._publish)
        while True:
            await self._wake_keys.wait()
            self._wake_keys = trio.Event()
            if self._counts.get(SIGNED_CURVE25519, 0) < self._one_time_keys_low:
                await self._until_answered(self._replenish)

    async def _until_answered(self, work: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(jitter=self._jitter)
        while True:
            try:
                await work()
                return
            except NotSignedIn:
                return
            except ChattyError as error:
                if isinstance(error, QuotaExceeded) and error.quota == _one_time_keys_quota:
                    self._one_time_keys_max = error.count_max
                await trio.sleep(backoff.next_s(retry_after_s=error.retry_after_s))

    @property
    def _one_time_keys_low(self) -> int:
        """Fewer left on the server: time for more."""
        return (self._one_time_keys_max + 1) // 2

    def _one_time_keys(self, *, on_server_count: int) -> dict[str, SignedKey]:
        """As many as the server has room for; it may keep fewer than we like."""
        keys = self.olm.one_time_keys(on_server_count=on_server_count)
        return dict(islice(keys.items(), max(self._one_time_keys_max - on_server_count, 0)))

    async def _publish(self) -> None:
        upload = KeyUpload(
            device_keys=self.olm.device_keys(),
            one_time_keys=self._one_time_keys(on_server_count=0),
            fallback_keys=self.olm.fallback_key(),
        )
        await self.api.upload_keys(upload)
        with self.store.transaction():
            self.olm.mark_published()
            self.store.put(_PUBLISHED, "", True)
        self._is_published.set()

    async def _replenish(self) -> None:
        """Asks first: the count that woke us may be from before our own last upload, and one key too many refuses them all."""
        counts = (await self.api.upload_keys(KeyUpload())).one_time_key_counts
        on_server_count = counts.get(SIGNED_CURVE25519, 0)
        if on_server_count < self._one_time_keys_low:
            keys = self._one_time_keys(on_server_count=on_server_count)
            counts = (await self.api.upload_keys(KeyUpload(one_time_keys=keys))).one_time_key_counts
            self.olm.mark_published()
        self._counts = counts

    async def _keep_reporting(self) -> None:
        while True:
            await trio.sleep(overdue_check_s)
            if self.messages.has_unreported:
                with self.store.transaction():
                    self.messages.report_overdue()
