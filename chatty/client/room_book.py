"""All rooms of this client, with their verified history on disk, and who waits for what to happen in them.

What is written goes into the caller's transaction; one event writes one head and one cursor, and the state only when it changed.
"""

from collections.abc import Callable

import trio
from msgspec import Struct

from chatty.client.device_lists import DeviceLists
from chatty.client.reasons import Lie, Reason
from chatty.client.rooms import Position, RoomVerifier, recent_heads_max
from chatty.client.store import LocalStore
from chatty.client.taken_changes import TakenChanges
from chatty.client.tombstones import Tombstone, tombstone_of
from chatty.client.updates import ServerLied, Update
from chatty.crypto.events import ServerKey
from chatty.ids import RoomId, Seq, UserId
from chatty.wire.authority import RoomState
from chatty.wire.events import Kind, TimelineEvent
from chatty.wire.frames import Cursor, RoomEntry

_ROOMS, _STATES, _CHANGES, _HEADS, _OWED = "rooms", "room_states", "room_changes", "room_heads/", "owed_deletions/"


class RoomRecord(Struct, frozen=True, kw_only=True):
    """seq: everything up to it has its effects on disk. frozen: the reason's value, or empty.

    told_seq: of a room that is read again, up to where the application knows it.
    """

    seq: Seq = Seq(0)
    frozen: str = ""
    told_seq: Seq = Seq(0)


class RoomBook:
    """`tell`: hands an update to the application, in the caller's transaction."""

    def __init__(
        self,
        store: LocalStore,
        *,
        me: UserId,
        server: str,
        lists: DeviceLists,
        server_key: ServerKey,
        tell: Callable[[Update], None],
    ) -> None:
        self._store = store
        self._me = me
        self._server = server
        self._lists = lists
        self._server_key = server_key
        self._tell = tell
        self._records = {RoomId(room): record for room, record in store.items(_ROOMS, RoomRecord)}
        self._verifiers: dict[RoomId, RoomVerifier] = {}
        self._changed = trio.Event()

    def rooms(self) -> list[RoomId]:
        return list(self._records)

    def cursors(self) -> list[Cursor]:
        return [Cursor(room=room, seq=record.seq) for room, record in self._records.items()]

    def get(self, room: RoomId) -> RoomVerifier:
        """The room, as far as it was read; an unknown one is at its beginning."""
        verifier = self._verifiers.get(room)
        if verifier is None:
            verifier = self._verifiers[room] = self._load(room)
        return verifier

    def _load(self, room: RoomId) -> RoomVerifier:
        verifier = RoomVerifier(room, me=self._me, server=self._server, lists=self._lists, server_key=self._server_key)
        record = self._records.get(room)
        if record is not None:
            heads = [position for _, position in self._store.items(_HEADS + room, Position)]
            frozen = Reason(record.frozen) if record.frozen else None
            state = self._store.get(_STATES, room, RoomState)
            changes = self._store.get(_CHANGES, room, TakenChanges) or TakenChanges()
            owed = {Seq(int(seq)): tombstone for seq, tombstone in self._store.items(_OWED + room, Tombstone)}
            verifier.restore(state, changes, sorted(heads, key=lambda position: position.seq), frozen, owed)
        return verifier

    def add(self, room: RoomId) -> None:
        """From now on the room has a cursor."""
        if room not in self._records:
            self._save_record(room, RoomRecord())

    def save(self, verifier: RoomVerifier, entry: RoomEntry, *, with_state: bool) -> None:
        """Write what accept() changed with this entry."""
        if isinstance(entry, TimelineEvent):
            self._save_owed(verifier, entry)
        room, position = verifier.room, verifier.position
        if with_state:
            self._store.put(_STATES, room, verifier.state)
            self._store.put(_CHANGES, room, verifier.changes)
        self._store.put(_HEADS + room, str(position.seq % recent_heads_max), position)
        self._save_record(room, RoomRecord(seq=position.seq, told_seq=self._records.get(room, RoomRecord()).told_seq))

    def is_told(self, room: RoomId, seq: Seq) -> bool:
        """Is the room read again, up to beyond this place?"""
        return seq <= self._records.get(room, RoomRecord()).told_seq

    def rewind(self, verifier: RoomVerifier, *, before: Seq) -> None:
        """Take back what stood from this place on; where the room has changed since, all of it is read again."""
        room, told_seq = verifier.room, Seq(before - 1)
        if not verifier.rewind(before=before):
            self._store.delete(_STATES, room)
            self._store.delete(_CHANGES, room)
        self._store.delete_all(_HEADS + room)
        for position in verifier.recent():
            self._store.put(_HEADS + room, str(position.seq % recent_heads_max), position)
        self._store.delete_all(_OWED + room)
        for seq, tombstone in verifier.owed.items():
            self._store.put(_OWED + room, str(seq), tombstone)
        self._save_record(room, RoomRecord(seq=verifier.position.seq, told_seq=told_seq))

    def forget(self, room: RoomId) -> None:
        """We are not inside, whatever was read: the room is at its beginning."""
        verifier = self.get(room)
        verifier.rewind(before=Seq(1))
        for kind in (_HEADS + room, _OWED + room):
            self._store.delete_all(kind)
        self._store.delete(_STATES, room)
        self._store.delete(_CHANGES, room)
        self._save_record(room, RoomRecord())

    def _save_owed(self, verifier: RoomVerifier, event: TimelineEvent) -> None:
        if (tombstone := tombstone_of(event, verifier.position.leaf)) is not None:
            self._store.put(_OWED + verifier.room, str(event.deletion_seq), tombstone)
        elif event.kind is Kind.DELETION:
            self._store.delete(_OWED + verifier.room, str(event.seq))

    def freeze(self, lie: Lie, rooms: list[RoomId]) -> None:
        """Stop trusting these rooms and tell; the others go on."""
        for room in rooms:
            verifier = self.get(room)
            if verifier.frozen is None:
                verifier.frozen = lie.reason
                self._save_record(room, RoomRecord(seq=verifier.position.seq, frozen=lie.reason.value))
                self._tell(ServerLied(reason=lie.reason, detail=lie.detail, room=room, user=lie.user))
        if not rooms:
            self._tell(ServerLied(reason=lie.reason, detail=lie.detail, user=lie.user))
        self.notify()

    def caught(self, lie: Lie) -> None:
        """Freeze what the lie is about: its room, or every room of the user whose keys are not to be trusted."""
        if lie.room is not None:
            self.freeze(lie, [lie.room])
        else:
            self.freeze(lie, [room for room in self.rooms() if lie.user in self.get(room).joined()])

    def notify(self) -> None:
        """Something changed: wake whoever waits."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Looks again after each change. Cancelled: nothing happened."""
        while not is_so():
            await self._changed.wait()

    def _save_record(self, room: RoomId, record: RoomRecord) -> None:
        self._records[room] = record
        self._store.put(_ROOMS, room, record)
