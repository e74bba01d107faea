"""The device mailbox: Olm messages with room keys, and words about keys that were withheld.

A second (sender device, n) is dropped, and so is what cannot be read or does not prove whose it is; everything is
acknowledged, for nothing in it gets better by coming again. *Bound*: the newest `rows_seen_max` (sender device, n) are
remembered.
"""

import msgspec

from chatty.client.device_lists import DeviceLists
from chatty.client.megolm import MegolmSessions
from chatty.client.messages import SessionOwner
from chatty.client.olm import OlmAccount, PayloadChecks
from chatty.client.pending import MessageIntake
from chatty.client.reasons import KeysNeeded, Unreadable
from chatty.client.store import LocalStore
from chatty.ids import RoomId
from chatty.wire.events import MEGOLM
from chatty.wire.frames import Mailbox
from chatty.wire.keys import OlmContent, WithheldContent

rows_seen_max = 65_536
_SEEN = "mailbox_seen"


class MailboxIntake:
    """Takes rows inside the caller's transaction."""

    def __init__(
        self,
        store: LocalStore,
        *,
        olm: OlmAccount,
        megolm: MegolmSessions,
        lists: DeviceLists,
        checks: PayloadChecks,
        messages: MessageIntake,
    ) -> None:
        self._store = store
        self._olm = olm
        self._megolm = megolm
        self._lists = lists
        self._checks = checks
        self._messages = messages

    def take(self, row: Mailbox, *, keys_are_fresh: bool) -> tuple[RoomId, str] | None:
        """Returns: (room, session id) of a key that came. Raises: KeysNeeded while the sender's list is not known."""
        name = f"{row.sender_device}/{row.n}"
        if self._store.has(_SEEN, name):
            return None
        if not keys_are_fresh and self._lists.device(row.sender, row.sender_device) is None:
            raise KeysNeeded(frozenset({row.sender}))
        self._store.put(_SEEN, name, row.id)
        self._store.keep_about(_SEEN, count_max=rows_seen_max)
        try:
            if row.kind == "m.room.encrypted":
                return self._take_olm(row, msgspec.convert(row.content, OlmContent))
            if row.kind == "m.room_key.withheld":
                self._take_withheld(msgspec.convert(row.content, WithheldContent))
        except (Unreadable, msgspec.ValidationError):
            pass  # dropped: see above
        return None

    def _take_olm(self, row: Mailbox, content: OlmContent) -> tuple[RoomId, str] | None:
        known = self._lists.device(row.sender, row.sender_device)
        if known is None:
            return None
        self._checks.check_sender_key(known, content.sender_key)
        payload = self._olm.decrypt(content)
        self._checks.check(payload, sender=row.sender, known=known, sender_key=content.sender_key)
        key = payload.content
        if payload.type != "m.room_key" or key.algorithm != MEGOLM:
            return None
        owner = SessionOwner(user=row.sender, device=known.device, ed25519=known.ed25519, curve25519=known.curve25519)
        if not self._megolm.take_key(key.room_id, key.session_id, key.session_key, owner=owner):
            return None
        return key.room_id, key.session_id

    def _take_withheld(self, content: WithheldContent) -> None:
        self._messages.note_withheld(RoomId(content.room_id), content.session_id, content.code)
