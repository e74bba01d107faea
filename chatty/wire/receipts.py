"""Read cursors: how far a user has read a room, who else learns of it, and how much is unread. Nothing here is signed."""

from typing import Annotated

from msgspec import Meta

from chatty.ids import Seq
from chatty.wire import limits
from chatty.wire.types import Frame, RequestIdField, RoomIdField, SeqField, UserIdField

ReadSeqField = Annotated[Seq, Meta(ge=1, le=limits.integer_max)]


class Read(Frame, frozen=True, kw_only=True, tag="read"):
    """The user has read this room up to seq; a cursor never goes back. Written within a second. Answer: done."""

    id: RequestIdField
    room: RoomIdField
    seq: ReadSeqField


class Receipt(Frame, frozen=True, kw_only=True):
    user: UserIdField
    seq: SeqField


class Receipts(Frame, frozen=True, kw_only=True, tag="receipts"):
    """Cursors of members that moved, or all that there are after hello; also the own one, which the other devices set."""

    room: RoomIdField
    receipts: list[Receipt]


class UnreadRoom(Frame, frozen=True, kw_only=True):
    """read_seq: the user's own cursor, 0 for none. unread_count: messages of others above it, among the newest unread_events_max
    events up to head_seq.
    """

    room: RoomIdField
    head_seq: SeqField
    read_seq: SeqField
    unread_count: int


class Unread(Frame, frozen=True, kw_only=True, tag="unread"):
    """After hello: how much is unread. What comes later the client counts itself."""

    rooms: list[UnreadRoom]
