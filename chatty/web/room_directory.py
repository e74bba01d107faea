"""Routes for listed rooms: listing one, and the directory. Titles are public within the server; nothing else of a room is."""

from typing import Annotated

from msgspec import Meta

from chatty.services.caller import Caller
from chatty.services.permissions import CHAT
from chatty.services.room_directory import DirectorySteps
from chatty.services.rooms import RoomSteps
from chatty.web.rooms import AfterField, change_errors, require_n
from chatty.web.routes import NumberedRequest, Route, route
from chatty.wire.room_directory import TitleField
from chatty.wire.rooms import Directory, RoomCommitted, SignedListing
from chatty.wire.types import RoomIdField

directory_page_max = 100

DirectoryCountField = Annotated[int, Meta(ge=1, le=directory_page_max)]


def routes(rooms: RoomSteps, directory: DirectorySteps) -> list[Route]:
    @route("POST", "/v1/rooms/{room}/listing", permission=CHAT, errors=change_errors)
    async def list_room(
        caller: Caller, room: RoomIdField, body: SignedListing, request: NumberedRequest
    ) -> RoomCommitted:
        """List the room under a public title, so that everybody of the server may join; an empty title takes it off."""
        require_n(request, body.signed.n)
        return await rooms.change_policy(caller, room, body, low=request.low)

    @route("GET", "/v1/directory", permission=CHAT)
    async def page(
        caller: Caller, after: AfterField = "", title: TitleField = "", limit: DirectoryCountField = directory_page_max
    ) -> Directory:
        """Listed rooms in room-id order, those whose public title holds `title`, whatever its case."""
        return await directory.page(after=after, title=title, count_max=limit)

    return [list_room, page]
