"""Rooms: creation, invitations, membership, policy, deletion of messages (docs/protocol.md, "Rooms").

Each change is a signed object. In one transaction: lock the target's user row, the acting device's send row, the room's row; then
read, verify the signature, ask the one authority rule, append the event and move membership, intervals and user streams with it.
The order of the locks matters: a join beside a new device would else leave the device out while the epoch says "current".

A final refusal is recorded under (device, n) like an answer, so that a late copy of the request cannot succeed after all.
"""

from chatty.services.rooms.port import LockedRoom, Rooms, RoomUnit, RoomUnits, StoredPlace, UserRow
from chatty.services.rooms.steps import RoomSteps

__all__ = ["LockedRoom", "RoomSteps", "RoomUnit", "RoomUnits", "Rooms", "StoredPlace", "UserRow"]
