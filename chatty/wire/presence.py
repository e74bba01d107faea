"""Presence: who is there. Never stored; told to those who ask for it by name and share a room with whom they name."""

from typing import Literal

from chatty.wire.types import Frame, RequestIdField, TimeMsField, UserIdField

State = Literal["online", "idle", "offline"]


class WatchPresence(Frame, frozen=True, kw_only=True, tag="watch_presence"):
    """Tell this connection of these users from now on, and of nobody else; an empty list ends it. At most presence_users_max.

    Answer: one presence for each of them, then done.
    """

    id: RequestIdField
    users: list[UserIdField]


class SetPresence(Frame, frozen=True, kw_only=True, tag="set_presence"):
    """The user is at this device, or has turned away from it. Answer: done."""

    id: RequestIdField
    state: Literal["online", "idle"]


class Presence(Frame, frozen=True, kw_only=True, tag="presence"):
    """Who shows nothing, shares no room or does not exist is offline like anybody else.

    last_active: of somebody who is not online, rounded down to presence_grain_s; 0: not told.
    """

    user: UserIdField
    state: State
    last_active: TimeMsField = 0
