"""All that can be done with rooms, in one object."""

from chatty.ids import RoomId
from chatty.services.caller import Caller
from chatty.services.rooms.creation import CreationSteps
from chatty.services.rooms.deletion import DeletionSteps
from chatty.services.rooms.membership import MembershipSteps
from chatty.services.rooms.policy import PolicySteps
from chatty.wire.rooms import Members, RoomSummary


class RoomSteps(CreationSteps, MembershipSteps, PolicySteps, DeletionSteps):
    """Changes, and what a member may read of them."""

    async def rooms_of(self, caller: Caller, *, after: str, count_max: int) -> list[RoomSummary]:
        """The caller's rooms in room-id order, those after `after`."""
        async with self._units.snapshot() as unit:
            return await unit.rooms.summaries(caller.user_number, after=after, count_max=count_max)

    async def members_of(self, caller: Caller, room: RoomId) -> Members:
        """Raises: NotFound unless the caller is a member."""
        async with self._units.snapshot() as unit:
            number = await self._visible_room(unit, room, caller)
            return await unit.rooms.members(number)
