"""Megolm sessions: this device's own, one a room, and those whose keys other devices gave us.

*An outbound session* is replaced after `rotation_messages` messages, and at once when somebody who holds its key must no
longer read: a member or device left. Who is new gets the ratchet at its current index, so nothing older.
*An inbound session* keeps whose it is. The library does not detect replay: (session id, index) → event id is kept here.
*Store first*: every method that moves a ratchet writes it before it returns, in the caller's transaction.
"""

from collections.abc import Collection, Iterable
from typing import NamedTuple

from msgspec import Struct
from vodozemac import (
    DecodeException,
    GroupSession,
    InboundGroupSession,
    MegolmDecryptionException,
    MegolmMessage,
    SessionKey,
    SessionKeyDecodeException,
)

from chatty.client.messages import SessionOwner
from chatty.client.reasons import Reason, Unreadable
from chatty.client.store import LocalStore
from chatty.ids import DeviceId, EventId, RoomId, Seq, UserId
from chatty.wire.canonical import decode_base64

rotation_messages = 100
mids_max = 65_536
_OUTBOUND, _INBOUND, _INDEXES, _MIDS = "megolm_out", "megolm_in", "megolm_indexes", "mids"


class Outbound(Struct, kw_only=True):
    """shared_with: devices that hold the key. epoch: the newest that it was used in."""

    pickle: str
    shared_with: list[DeviceId] = []
    epoch: Seq = Seq(0)


class Inbound(Struct, frozen=True, kw_only=True):
    pickle: str
    room: RoomId
    owner: SessionOwner


class RoomKey(NamedTuple):
    """What is given to another device: the session from its current index on."""

    session_id: str
    session_key: str


class MegolmSessions:
    """All of this device's, in its store. `own`: this device, as owner of what it sends."""

    def __init__(self, store: LocalStore, *, own: SessionOwner) -> None:
        self._store = store
        self._own = own

    # Outbound

    def room_key(self, room: RoomId, *, recipients: Iterable[DeviceId], removed_seq: Seq) -> RoomKey:
        """The session to encrypt with for these recipients: the present one, or a new one.

        removed_seq: seq of the newest event that took a member out.
        """
        outbound = self._load_outbound(room)
        if outbound is None or self._is_over(outbound, set(recipients), removed_seq):
            outbound = self._new_outbound(room, removed_seq)
        session = self._session(outbound)
        return RoomKey(session.session_id, session.session_key.to_base64())

    def _is_over(self, outbound: Outbound, recipients: set[DeviceId], removed_seq: Seq) -> bool:
        is_held_by_others = not set(outbound.shared_with) <= recipients
        is_used_up = self._session(outbound).message_index >= rotation_messages
        return is_held_by_others or is_used_up or removed_seq > outbound.epoch

    def _new_outbound(self, room: RoomId, removed_seq: Seq) -> Outbound:
        session = GroupSession()
        outbound = Outbound(pickle=session.pickle(self._store.pickle_key), epoch=removed_seq)
        with self._store.transaction():
            self.take_key(room, session.session_id, session.session_key.to_base64(), owner=self._own)
            self._store.put(_OUTBOUND, room, outbound)
        return outbound

    def lacking(self, room: RoomId, recipients: Iterable[DeviceId]) -> set[DeviceId]:
        """The recipients that do not hold the present session's key."""
        outbound = self._load_outbound(room)
        return set(recipients) - set(outbound.shared_with if outbound is not None else ())

    def mark_shared(self, room: RoomId, session_id: str, devices: Iterable[DeviceId]) -> None:
        """These devices were given the key (it stands on disk, ready to be sent)."""
        outbound = self._load_outbound(room)
        if outbound is not None and self._session(outbound).session_id == session_id:
            outbound.shared_with = sorted({*outbound.shared_with, *devices})
            self._store.put(_OUTBOUND, room, outbound)

    def encrypt(self, room: RoomId, plaintext: bytes, *, epoch: Seq) -> tuple[str, bytes]:
        """Returns: session id and Megolm message. The moved ratchet is in the caller's transaction."""
        outbound = self._load_outbound(room)
        assert outbound is not None, "room_key() comes first"
        session = self._session(outbound)
        message = session.encrypt(plaintext)
        outbound.pickle, outbound.epoch = session.pickle(self._store.pickle_key), epoch
        self._store.put(_OUTBOUND, room, outbound)
        return session.session_id, message.to_bytes()

    def forget_outbound(self) -> None:
        """This store or the server was rolled back: their ratchets were used further than it knows, or their keys are lost."""
        self._store.delete_all(_OUTBOUND)

    def _load_outbound(self, room: RoomId) -> Outbound | None:
        return self._store.get(_OUTBOUND, room, Outbound)

    def _session(self, outbound: Outbound) -> GroupSession:
        return GroupSession.from_pickle(outbound.pickle, self._store.pickle_key)

    # Inbound

    def take_key(self, room: RoomId, session_id: str, session_key: str, *, owner: SessionOwner) -> bool:
        """Keep a key that came over Olm from `owner`. False: it is none, or another device's session.

        A key that begins later than the one we have is not taken: it would take old messages away.
        """
        try:
            session = InboundGroupSession(SessionKey(session_key))
        except SessionKeyDecodeException:
            return False
        if session.session_id != session_id:
            return False
        known = self._store.get(_INBOUND, _name(room, session_id), Inbound)
        if known is not None:
            before = InboundGroupSession.from_pickle(known.pickle, self._store.pickle_key)
            if known.owner != owner or before.first_known_index <= session.first_known_index:
                return False
        inbound = Inbound(pickle=session.pickle(self._store.pickle_key), room=room, owner=owner)
        self._store.put(_INBOUND, _name(room, session_id), inbound)
        return True

    def owner(self, room: RoomId, session_id: str) -> SessionOwner | None:
        """None: there is no key yet."""
        known = self._store.get(_INBOUND, _name(room, session_id), Inbound)
        return None if known is None else known.owner

    def decrypt(self, room: RoomId, session_id: str, body: bytes) -> tuple[bytes, int]:
        """Returns: plaintext and message index. Raises: Unreadable (NO_KEY_YET, ALTERED_EVENT)."""
        known = self._store.get(_INBOUND, _name(room, session_id), Inbound)
        if known is None:
            raise Unreadable(Reason.NO_KEY_YET, "its key has not come")
        session = InboundGroupSession.from_pickle(known.pickle, self._store.pickle_key)
        try:
            message = MegolmMessage.from_bytes(body)
            if message.message_index() < session.first_known_index:
                raise Unreadable(Reason.NO_KEY_YET, "the key we were given begins later")
            decrypted = session.decrypt(message)
        except (MegolmDecryptionException, DecodeException) as error:
            raise Unreadable(Reason.ALTERED_EVENT, str(error)) from None
        return bytes(decrypted.plaintext), decrypted.message_index

    # What was taken (messages.Taken)

    def event_at(self, session_id: str, index: int) -> EventId | None:
        return self._store.get(_INDEXES, f"{session_id}/{index}", EventId)

    def event_with_mid(self, room: RoomId, sender: UserId, mid: str) -> EventId | None:
        return self._store.get(_MIDS, mid_name(room, sender, mid), EventId)

    def take_index(self, session_id: str, index: int, event_id: EventId) -> None:
        self._store.put(_INDEXES, f"{session_id}/{index}", event_id)

    def take_mid(self, room: RoomId, sender: UserId, mid: str, event_id: EventId) -> None:
        """Bounded: the newest `mids_max`; a mid comes a second time within seconds or not at all."""
        self._store.put(_MIDS, mid_name(room, sender, mid), event_id)
        self._store.keep_about(_MIDS, count_max=mids_max)

    def forget_mids(self, room: RoomId, *, kept: Collection[EventId]) -> dict[str, EventId]:
        """The server has lost messages of a room: the mids of all but these may come anew. Returns which, with their events."""
        found = self._store.items(_MIDS, EventId)
        forgotten = {name: event for name, event in found if name.startswith(f"{room}/") and event not in kept}
        for name in forgotten:
            self._store.delete(_MIDS, name)
        return forgotten


def mid_name(room: RoomId, sender: UserId, mid: str) -> str:
    """Of a message, among those of all rooms."""
    return f"{room}/{sender}/{mid}"


def _name(room: RoomId, session_id: str) -> str:
    return f"{room}/{session_id}"


def megolm_ratchets(store: LocalStore) -> list[bytes]:
    """Of each session that this store can decrypt, the part of its secret that stays the same for 256 messages. 96 bytes each."""
    sessions = [
        InboundGroupSession.from_pickle(known.pickle, store.pickle_key) for _, known in store.items(_INBOUND, Inbound)
    ]
    exported = [session.export_at(session.first_known_index) for session in sessions]
    # Source: Megolm's specification: version (1 byte), index (4), ratchet (4 × 32), public key.
    return [decode_base64(key.to_base64())[5:101] for key in exported if key is not None]
