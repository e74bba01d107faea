"""Doorbells: after a commit, tell whoever is connected that there is something to fetch. They may be lost: every two seconds
each session is compared with the store, so a lost one is late, never missing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from chatty.ids import DeviceNumber, RoomNumber, UserNumber


@dataclass(frozen=True, kw_only=True)
class Doorbell:
    """What changed: rooms with new events, users with a longer stream, devices with mailbox rows, devices just revoked."""

    rooms: Collection[RoomNumber] = ()
    users: Collection[UserNumber] = ()
    devices: Collection[DeviceNumber] = ()
    revoked: Collection[DeviceNumber] = ()


class Doorbells(Protocol):
    def ring(self, doorbell: Doorbell) -> None:
        """Never waits, never fails."""
        ...
