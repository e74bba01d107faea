"""Presence as rules: what a user's open sockets say about the user, and what of it somebody else is shown. Never stored.

    no socket: offline     a socket, and somebody did something lately: online     else: idle

A user is shown to who shares a room with one of the user's open sockets, unless the user shows no presence or has blocked them.
Everybody else is shown what is shown of people who do not exist: offline. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from chatty.errors import PresenceOff, QuotaExceeded
from chatty.ids import UserId
from chatty.wire import limits
from chatty.wire.presence import Presence, State


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Of one open socket. at_s: s since 1970, when the user last did something there. is_away: said to be so."""

    at_s: float
    is_away: bool


def presence_of(user: UserId, activities: Iterable[Activity], *, now_s: float, idle_after_s: float) -> Presence:
    """Of somebody with these open sockets."""
    sockets = list(activities)
    if not sockets:
        return Presence(user=user, state="offline")
    if any(not one.is_away and now_s - one.at_s < idle_after_s for one in sockets):
        return Presence(user=user, state="online")
    return Presence(user=user, state="idle", last_active=coarse_ms(max(one.at_s for one in sockets)))


def coarse_ms(at_s: float) -> int:
    """Rounded down, in ms since 1970."""
    return int(at_s) // limits.presence_grain_s * limits.presence_grain_s * 1_000


def shown(actual: Presence, *, is_visible: bool, before: State | None) -> Presence | None:
    """What to tell somebody who was told `before`; None: nothing. is_visible: of somebody who has a socket."""
    if actual.state == "offline":
        hidden = before in (None, "offline")  # who never saw them there is not told when they went
        event = Presence(user=actual.user, state="offline", last_active=0 if hidden else actual.last_active)
    else:
        event = actual if is_visible else Presence(user=actual.user, state="offline")
    return None if event.state == before else event


def check_watch(users: Iterable[UserId], *, is_on: bool) -> frozenset[UserId]:
    """Raises: PresenceOff, QuotaExceeded."""
    if not is_on:
        raise PresenceOff("this server shows no presence")
    wanted = frozenset(users)
    if len(wanted) > limits.presence_users_max:
        raise QuotaExceeded(quota="presence_users_max", count_max=limits.presence_users_max)
    return wanted
