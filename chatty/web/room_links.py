"""Routes for invitation links. Whoever joins by one does so like everybody, by a member change that holds its proof."""

from chatty.services.caller import Caller
from chatty.services.permissions import CHAT
from chatty.services.rooms import RoomSteps
from chatty.web.rooms import change_errors, link_errors, require_n
from chatty.web.routes import NumberedRequest, Route, route
from chatty.wire.rooms import RoomCommitted, SignedLinkRevocation, SignedNewLink
from chatty.wire.types import RoomIdField


def routes(rooms: RoomSteps) -> list[Route]:
    errors = (*change_errors, *link_errors)

    @route("POST", "/v1/rooms/{room}/links", permission=CHAT, errors=errors)
    async def make_link(
        caller: Caller, room: RoomIdField, body: SignedNewLink, request: NumberedRequest
    ) -> RoomCommitted:
        """Make an invitation link; its secret stays with its maker."""
        require_n(request, body.signed.n)
        return await rooms.change_policy(caller, room, body, low=request.low)

    @route("POST", "/v1/rooms/{room}/links/revoke", permission=CHAT, errors=errors)
    async def revoke_link(
        caller: Caller, room: RoomIdField, body: SignedLinkRevocation, request: NumberedRequest
    ) -> RoomCommitted:
        """End an invitation link before its time."""
        require_n(request, body.signed.n)
        return await rooms.change_policy(caller, room, body, low=request.low)

    return [make_link, revoke_link]
