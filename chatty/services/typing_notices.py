"""Who types: of one room, for as long as it lasts. Never stored.

A notice holds for `typing_lifetime_s`. Who goes on typing repeats it; a repetition is told to the others only when the last
telling is `typing_renew_s` old, so a flood of them costs nobody but its sender. At most `typing_users_max` type in a room; who
comes on top is passed over. Pure: whoever uses it brings the clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chatty.ids import RoomId, UserId, UserNumber
from chatty.wire import limits


@dataclass(slots=True, kw_only=True)
class Typist:
    """hidden_from: whom the user has blocked. told_s: when the others were told last."""

    number: UserNumber
    user: UserId
    hidden_from: frozenset[UserNumber]
    until_s: float
    told_s: float | None = None


class Typists:
    """Those of one room."""

    def __init__(self, room: RoomId) -> None:
        self.room = room
        self._typists: dict[UserNumber, Typist] = {}

    def note(self, typist: Typist, *, now_s: float) -> bool:
        """Somebody types. Returns: whether there is something to tell."""
        known = self._typists.get(typist.number)
        if known is None:
            if len(self._typists) >= limits.typing_users_max:
                return False
            self._typists[typist.number] = typist
            return True
        known.until_s, known.hidden_from = typist.until_s, typist.hidden_from
        return known.told_s is not None and now_s - known.told_s >= limits.typing_renew_s

    def stop(self, user: UserNumber) -> bool:
        """Returns: whether there is something to tell."""
        return self._typists.pop(user, None) is not None

    def tell(self, *, now_s: float) -> Sequence[Typist]:
        """All, in the order in which they began; they count as told."""
        for typist in self._typists.values():
            typist.told_s = now_s
        return list(self._typists.values())

    def __contains__(self, user: UserNumber) -> bool:
        return user in self._typists


def shown_to(reader: UserNumber, typists: Sequence[Typist]) -> tuple[UserId, ...]:
    """Without the reader, and without those who have blocked the reader."""
    return tuple(one.user for one in typists if one.number != reader and reader not in one.hidden_from)
