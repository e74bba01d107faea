"""What a session has to do with notices (typing, presence, receipts): what its user shows, what its client was told.

Notices may be dropped at any time. What is dropped of typing ends by itself; of presence and receipts it is told anew, once the
client reads again (delivery.py): `untold` are the rooms whose receipts and unread count are still to be read from the store.
"""

from collections.abc import Hashable

from chatty.actors.outbox import Outbox, SharedNotice
from chatty.ids import RoomNumber, UserId
from chatty.services.preferences import Shown
from chatty.services.presence import Activity
from chatty.wire.frames import Encoding

nothing_shown = Shown(presence=False, receipts=False)


class Notices:
    """Of one session. now_s: s since 1970. Until the store has said what its user shows, nothing is."""

    def __init__(self, outbox: Outbox, encoding: Encoding, *, now_s: float) -> None:
        self.shown = nothing_shown
        self.activity = Activity(at_s=now_s, is_away=False)
        self.untold: dict[RoomNumber, None] = {}
        self._outbox = outbox
        self._encoding: Encoding = encoding
        self._typing: dict[RoomNumber, tuple[UserId, ...]] = {}
        self._receipts_count = 0

    def note_activity(self, now_s: float) -> None:
        """The user did something here."""
        self.activity = Activity(at_s=now_s, is_away=False)

    def note_away(self) -> None:
        self.activity = Activity(at_s=self.activity.at_s, is_away=True)

    def offer(self, key: Hashable, notice: SharedNotice) -> None:
        self._outbox.offer_notice(key, notice.item(self._encoding))

    def offer_receipts(self, notice: SharedNotice) -> None:
        """None takes the place of another: each tells of other users."""
        self._receipts_count += 1
        self.offer(("receipts", self._receipts_count), notice)

    def offer_typing(self, room: RoomNumber, users: tuple[UserId, ...], notice: SharedNotice) -> None:
        """notice: of these users. That nobody types is told only to who was told that somebody did."""
        if not users and room not in self._typing:
            return
        if users:
            self._typing[room] = users
        else:
            del self._typing[room]
        self.offer(("typing", room), notice)

    def forget_room(self, room: RoomNumber) -> None:
        self._typing.pop(room, None)
        self.untold.pop(room, None)
