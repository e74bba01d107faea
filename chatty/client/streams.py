"""The user's own stream: invitations, and where a new generation of the server begins in it.

What else stands in it (own joins, leaves, devices) the rooms' chains say, signed.
"""

import msgspec
from msgspec import Struct

from chatty.client.accounts import Identity
from chatty.client.device_lists import DeviceLists
from chatty.client.generations import Generations
from chatty.client.reasons import KeysNeeded, Lie, Reason
from chatty.client.room_book import RoomBook
from chatty.client.store import LocalStore
from chatty.client.update_queue import UpdateQueue
from chatty.client.updates import Invited
from chatty.crypto.events import verify_invitation
from chatty.errors import BadRequest, BadSignature
from chatty.ids import RoomId, Seq, UserSeq
from chatty.wire.events import SignedInvitation
from chatty.wire.frames import UserEvent
from chatty.wire.types import RoomIdField, SeqField

_STREAM, _INVITATIONS = "user_stream", "invitations"


class RoomJoined(Struct, frozen=True, kw_only=True):
    """What a `room_joined` says. seq: of the join."""

    room: RoomIdField
    seq: SeqField


class UserStreamIntake:
    """Takes events inside the caller's transaction; `seq` is the cursor."""

    def __init__(
        self,
        store: LocalStore,
        *,
        identity: Identity,
        lists: DeviceLists,
        book: RoomBook,
        updates: UpdateQueue,
        generations: Generations,
    ) -> None:
        self._store = store
        self._identity = identity
        self._lists = lists
        self._book = book
        self._updates = updates
        self._generations = generations
        self.seq = UserSeq(store.get(_STREAM, "seq", int) or 0)

    def take(self, event: UserEvent, *, keys_are_fresh: bool) -> None:
        """Raises: KeysNeeded; Lie for an event that is none, and for one behind a hole, which is taken all the same."""
        if event.seq <= self.seq:
            if self._is_rewound(event):
                self._advance(event.seq)
            return
        expected = UserSeq(self.seq + 1)
        if event.kind == "invitation":
            self._take_invitation(event, keys_are_fresh=keys_are_fresh)
        elif event.kind == "room_joined":
            self._take_room(event)
        self._advance(event.seq)
        self.check_next(event, expected)

    def _is_rewound(self, event: UserEvent) -> bool:
        """From here on the stream is another one than was read."""
        number = event.content.get("generation")
        taken = Seq(self._store.get(_STREAM, "generation", int) or 0)
        if event.kind != "restored" or not isinstance(number, int):
            return False
        if not self._generations.begins(Seq(number), taken=taken):
            return False
        self._store.put(_STREAM, "generation", number)
        return True

    def check_next(self, event: UserEvent, expected: UserSeq) -> None:
        """No room hangs on what is missing, so the stream goes on behind it; but the server hid something."""
        if event.seq != expected:
            raise Lie(Reason.MISSING_EVENT, f"{event.seq} came where {expected} of our own stream is next")

    def _take_room(self, event: UserEvent) -> None:
        try:
            joined = msgspec.convert(event.content, RoomJoined)
        except msgspec.ValidationError:
            return self._refuse(event, Reason.MALFORMED_EVENT, "a room_joined of another form")
        self._book.add(joined.room)
        return None

    def _advance(self, seq: UserSeq) -> None:
        self.seq = seq
        self._store.put(_STREAM, "seq", seq)

    def _take_invitation(self, event: UserEvent, *, keys_are_fresh: bool) -> None:
        try:
            invitation = msgspec.convert(event.content["invitation"], SignedInvitation)
        except (msgspec.ValidationError, KeyError):
            return self._refuse(event, Reason.MALFORMED_EVENT, "an invitation of another form")
        signed = invitation.signed
        if not keys_are_fresh and self._lists.signing_key(signed.sender, signed.device) is None:
            raise KeysNeeded(frozenset({signed.sender}))
        if (signed.target, signed.target_identity) != (self._identity.user, self._identity.identity_key):
            return self._refuse(event, Reason.FORGED_MEMBERSHIP, "an invitation for another identity")
        try:
            verify_invitation(invitation, server=self._identity.server_name, device_key=self._lists.signing_key)
        except (BadSignature, BadRequest) as error:
            return self._refuse(event, Reason.BAD_SIGNATURE, f"an invitation: {error}")
        self._store.put(_INVITATIONS, signed.room, invitation)
        self._updates.put(Invited(room=signed.room, inviter=signed.sender))
        return None

    def _refuse(self, event: UserEvent, reason: Reason, detail: str) -> None:
        """The stream goes on behind it."""
        self._advance(event.seq)
        raise Lie(reason, detail)

    def invitations(self) -> list[SignedInvitation]:
        """Those that were not answered, oldest first; one a room, the newest."""
        return [invitation for _, invitation in self._store.items(_INVITATIONS, SignedInvitation)]

    def invitation(self, room: RoomId) -> SignedInvitation | None:
        return self._store.get(_INVITATIONS, room, SignedInvitation)

    def forget_invitation(self, room: RoomId) -> None:
        self._store.delete(_INVITATIONS, room)
