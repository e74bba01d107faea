"""Rooms that everybody of the server may join: what is signed to list one (docs/protocol.md, "Listed rooms")."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from chatty.wire import limits
from chatty.wire.types import (
    DeviceIdField,
    HeadField,
    RoomIdField,
    SendNumberField,
    SeqField,
    ServerNameField,
    UserIdField,
)

TitleField = Annotated[str, Meta(max_length=limits.title_chars_max, pattern=r"^[^\u0000-\u001f]*$(?!\n)")]


class Listing(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the acting device signs to list the room, or to take it off the list: an empty title.

    The title is no secret: everybody of the server reads it, and so does the server.
    """

    domain: Literal["chatty.listing.v1"]
    server: ServerNameField
    room: RoomIdField
    sender: UserIdField
    device: DeviceIdField
    title: TitleField
    last_seq: SeqField
    last_head: HeadField
    n: SendNumberField


class ListingContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a policy event that lists the room or takes it off. previous: as in MemberContent."""

    signed: Listing
    previous: SeqField
