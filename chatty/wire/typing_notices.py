"""Typing: a request that says that somebody types, and the event that says who does. Never stored, never promised."""

from chatty.wire.types import Frame, RequestIdField, RoomIdField, UserIdField


class Typing(Frame, frozen=True, kw_only=True, tag="typing"):
    """The user types in this room, or has stopped. Ends after typing_lifetime_s; who goes on repeats it. Answer: done."""

    id: RequestIdField
    room: RoomIdField
    is_typing: bool = True


class TypingNow(Frame, frozen=True, kw_only=True, tag="typing"):
    """All who type in this room now, oneself left out. Void after typing_lifetime_s; a message of somebody ends their typing."""

    room: RoomIdField
    users: list[UserIdField]
