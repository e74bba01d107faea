"""The bus: carries doorbells to the sessions and rooms of this node. It may lose anything; the comparison mends that.

With several nodes it will carry them to the others as well; alone, a doorbell is a few calls.
"""

from chatty.actors.directory import Directory, Listener
from chatty.actors.rooms import Ring, RoomActors
from chatty.actors.runtime import ActorError
from chatty.errors import DeviceRevoked
from chatty.ids import RoomNumber
from chatty.services.doorbells import Doorbell, Doorbells


class LocalBus(Doorbells):
    """Rings on this node only."""

    def __init__(self, directory: Directory, rooms: RoomActors) -> None:
        self._directory = directory
        self._rooms = rooms

    def ring(self, doorbell: Doorbell) -> None:
        for room in doorbell.rooms:
            self._ring_room(room)
        for user in doorbell.users:
            for session in self._directory.of_user(user):
                session.note_user_stream()
        for device in doorbell.devices:
            if (found := self._directory.of_device(device)) is not None:
                found.note_mailbox()
        for device in doorbell.revoked:
            if (found := self._directory.of_device(device)) is not None:
                _revoke(found)

    def _ring_room(self, room: RoomNumber) -> None:
        """A live room reads once for all its members; where none lives, each session fills by itself."""
        ref = self._rooms.find(room)
        try:
            if ref is not None:
                ref.tell(Ring())
                return
        except ActorError:
            pass  # full or gone: the sessions are told instead
        for session in list(self._directory.in_room(room)):
            session.mark_behind(room)


class SilentBus(Doorbells):
    """Loses everything: for tests of what the comparison alone must mend."""

    def ring(self, doorbell: Doorbell) -> None:
        """Nobody hears it."""


def _revoke(session: Listener) -> None:
    session.end(DeviceRevoked("this device was revoked"))
