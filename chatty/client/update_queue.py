"""Updates for the application, on disk until it has handled them: at least once, in order.

`put` writes in the transaction that took the event. `next` gives the oldest and drops it when the one after it is asked for, so a
crash in between shows it again. *Bound*: an application that never reads keeps the newest `updates_max`.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import trio

from chatty.client.relations import Edit
from chatty.client.store import LocalStore
from chatty.client.updates import (
    Deleted,
    Expired,
    Invited,
    MembershipChanged,
    Message,
    ProfileChanged,
    RoomDetailsChanged,
    ServerLied,
    SignedOut,
    StoreRolledBack,
    Undecryptable,
    Update,
)
from chatty.ids import RoomId, Seq

updates_max = 10_000
history_max = 10_000
_UPDATES, _HISTORY, _GONE, _EDITS = "updates", "history/", "gone", "edits"


class UpdateQueue:
    """One reader at a time."""

    def __init__(self, store: LocalStore) -> None:
        self._store = store
        self._types: dict[str, Callable[[msgspec.Raw], Update]] = {
            leaf.__name__: _decoder(leaf)
            for leaf in (
                Message,
                Deleted,
                Expired,
                Undecryptable,
                ServerLied,
                MembershipChanged,
                RoomDetailsChanged,
                ProfileChanged,
                Invited,
                StoreRolledBack,
                SignedOut,
            )
        }
        self._handed_out: str | None = None
        newest = store.items(_UPDATES, msgspec.Raw, newest_max=1)
        self._last = int(newest[0][0]) if newest else 0
        self._arrived = trio.Event()

    def put(self, update: Update) -> None:
        self._last += 1
        self._store.put(_UPDATES, str(self._last), (type(update).__name__, update))
        self._store.keep_about(_UPDATES, count_max=updates_max)
        if isinstance(update, Message):
            self._keep(update)
        self._arrived.set()

    async def next(self) -> Update:
        """Waits. Asking says that the update before was handled. Cancelled: nothing is lost."""
        while True:
            self.mark_handled()
            while (found := self._store.first(_UPDATES, tuple[str, msgspec.Raw])) is None:
                self._arrived = trio.Event()
                await self._arrived.wait()
            await trio.lowlevel.checkpoint()
            self._handed_out, (kind, raw) = found
            update = self._types[kind](raw)
            if not isinstance(update, Message) or not self._store.has(_GONE, _place(update.room, update.seq)):
                return update

    def _keep(self, message: Message) -> None:
        self._store.put(_HISTORY + message.room, str(message.seq), message)
        self._store.keep_about(_HISTORY + message.room, count_max=history_max)
        if isinstance(message.relation, Edit):
            known = self._store.get(_EDITS, message.relation.of, list[Seq]) or []
            self._store.put(_EDITS, message.relation.of, [*known, message.seq])
            self._store.keep_about(_EDITS, count_max=history_max)

    def forget(self, room: RoomId, seq: Seq) -> None:
        """A message is deleted or expired: it is not told any more, and not in the history; its edits neither."""
        message = self._store.get(_HISTORY + room, str(seq), Message)
        if message is not None:
            for edit in self._store.get(_EDITS, message.event_id, list[Seq]) or []:
                self._forget_one(room, edit)
            self._store.delete(_EDITS, message.event_id)
        self._forget_one(room, seq)

    def _forget_one(self, room: RoomId, seq: Seq) -> None:
        self._store.delete(_HISTORY + room, str(seq))
        self._store.put(_GONE, _place(room, seq), True)
        self._store.keep_about(_GONE, count_max=updates_max)

    def mark_handled(self) -> None:
        """Drop the update that was handed out."""
        if self._handed_out is not None:
            self._store.delete(_UPDATES, self._handed_out)
            self._handed_out = None

    def history(self, room: RoomId, *, count_max: int) -> list[Message]:
        """The newest messages that this device has read, oldest first. Works offline."""
        return [message for _, message in self._store.items(_HISTORY + room, Message, newest_max=count_max)]


def _place(room: RoomId, seq: Seq) -> str:
    return f"{room}/{seq}"


def _decoder(leaf: Any) -> Callable[[msgspec.Raw], Update]:
    decoder = msgspec.msgpack.Decoder(leaf)

    def decode(raw: msgspec.Raw) -> Update:
        update: Update = decoder.decode(raw)
        return update

    return decode
