"""Updates for the application, on disk until it has handled them: at least once, in order.

`put` writes in the transaction that took the event. `next` gives the oldest and drops it when the one after it is asked for, so a
crash in between shows it again. *Bound*: an application that never reads keeps the newest `updates_max`.
"""

from collections.abc import Callable, Mapping
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
    MessageLost,
    ProfileChanged,
    RoomDetailsChanged,
    RoomLost,
    ServerLied,
    ServerRestored,
    SignedOut,
    StoreRolledBack,
    Undecryptable,
    Update,
)
from chatty.ids import EventId, RoomId, Seq

updates_max = 10_000
history_max = 10_000
_UPDATES, _HISTORY, _GONE, _EDITS, _LOST = "updates", "history/", "gone", "edits", "lost"
_LOST_MIDS = "lost_mids"


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
                ServerRestored,
                MessageLost,
                RoomLost,
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

    def lose(self, room: RoomId, *, from_seq: Seq) -> list[MessageLost]:
        """The server has nothing from this place on any more: it leaves the history. Returns what was in it, oldest first."""
        for name, _ in self._store.items(_GONE, bool):
            gone_room, _, seq = name.rpartition("/")
            if gone_room == room and int(seq) >= from_seq:
                self._store.delete(_GONE, name)
        lost = [_lost(one) for one in self.history(room, count_max=history_max) if one.seq >= from_seq]
        for one in lost:
            self._store.delete(_HISTORY + room, str(one.seq))
            self._store.put(_LOST, one.event_id, one)
            self._store.keep_about(_LOST, count_max=history_max)
        return lost

    def lost(self, room: RoomId) -> list[MessageLost]:
        """What the server has lost and nobody has sent again, oldest first."""
        return [one for _, one in self._store.items(_LOST, MessageLost) if one.room == room]

    def note_lost_mids(self, mids: Mapping[str, EventId]) -> None:
        """By these names lost messages may be sent again."""
        for name, event_id in mids.items():
            if self._store.has(_LOST, event_id):
                self._store.put(_LOST_MIDS, name, event_id)
        self._store.keep_about(_LOST_MIDS, count_max=history_max)

    def find_again(self, mid_name: str) -> None:
        """A message is read; if it was lost before, its sender has sent it again."""
        event_id = self._store.get(_LOST_MIDS, mid_name, EventId)
        if event_id is not None:
            self._store.delete(_LOST, event_id)
            self._store.delete(_LOST_MIDS, mid_name)

    def mark_handled(self) -> None:
        """Drop the update that was handed out."""
        if self._handed_out is not None:
            self._store.delete(_UPDATES, self._handed_out)
            self._handed_out = None

    def history(self, room: RoomId, *, count_max: int) -> list[Message]:
        """The newest messages that this device has read, oldest first. Works offline."""
        return [message for _, message in self._store.items(_HISTORY + room, Message, newest_max=count_max)]


def _lost(message: Message) -> MessageLost:
    return MessageLost(
        room=message.room,
        seq=message.seq,
        event_id=message.event_id,
        sender=message.sender,
        time_ms=message.time_ms,
        text=message.text,
    )


def _place(room: RoomId, seq: Seq) -> str:
    return f"{room}/{seq}"


def _decoder(leaf: Any) -> Callable[[msgspec.Raw], Update]:
    decoder = msgspec.msgpack.Decoder(leaf)

    def decode(raw: msgspec.Raw) -> Update:
        update: Update = decoder.decode(raw)
        return update

    return decode
