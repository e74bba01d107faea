"""Presence as a rule: what open sockets say of a user, and what of it others are shown."""

import pytest

from chatty.errors import PresenceOff, QuotaExceeded
from chatty.ids import UserId
from chatty.services.presence import Activity, check_watch, coarse_ms, presence_of, shown
from chatty.wire import limits
from chatty.wire.presence import Presence, State

ANN = UserId("@ann:x")
now_s = 1_000_000.0


def state(*activities: tuple[float, bool]) -> Presence:
    sockets = [Activity(at_s=now_s - age_s, is_away=is_away) for age_s, is_away in activities]
    return presence_of(ANN, sockets, now_s=now_s, idle_after_s=300.0)


@pytest.mark.parametrize(
    ("activities", "expected"),
    [
        ([], "offline"),
        ([(0, False)], "online"),
        ([(299, False)], "online"),
        ([(300, False)], "idle"),
        ([(0, True)], "idle"),
        ([(900, False), (0, True)], "idle"),
        ([(900, False), (10, False)], "online"),
    ],
)
def test_a_user_is_there_if_any_socket_says_so(activities: list[tuple[float, bool]], expected: str) -> None:
    assert state(*activities).state == expected


def test_when_somebody_was_active_is_told_coarsely_and_of_idle_ones_only() -> None:
    assert state((0, False)).last_active == 0
    grain_ms = limits.presence_grain_s * 1_000
    idle = state((700, False), (900, False))
    assert idle.last_active == coarse_ms(now_s - 700)
    assert idle.last_active % grain_ms == 0
    assert 0 <= (now_s - 700) * 1_000 - idle.last_active < grain_ms


@pytest.mark.parametrize(
    ("actual", "is_visible", "before", "expected"),
    [
        ("online", True, None, "online"),
        ("online", True, "online", None),
        ("idle", True, "online", "idle"),
        ("online", False, None, "offline"),
        ("online", False, "offline", None),
        ("online", False, "online", "offline"),  # they share no room any more, or there is a block
        ("offline", False, "online", "offline"),
        ("offline", False, None, "offline"),
    ],
)
def test_others_are_shown_what_changed_for_them(
    actual: State, is_visible: bool, before: State | None, expected: str | None
) -> None:
    told = shown(Presence(user=ANN, state=actual), is_visible=is_visible, before=before)
    assert (None if told is None else told.state) == expected


def test_who_never_saw_somebody_there_is_not_told_when_they_went() -> None:
    gone = Presence(user=ANN, state="offline", last_active=600_000)
    told = [shown(gone, is_visible=False, before=before) for before in (None, "online", "idle")]
    assert [event.last_active for event in told if event] == [0, 600_000, 600_000]
    hidden = shown(Presence(user=ANN, state="idle", last_active=600_000), is_visible=False, before=None)
    assert hidden == Presence(user=ANN, state="offline")


def test_watching_is_bounded_and_can_be_off() -> None:
    users = [UserId(f"@u{number}:x") for number in range(limits.presence_users_max + 1)]
    assert len(check_watch(users[1:], is_on=True)) == limits.presence_users_max
    assert check_watch([users[0]] * 9_999, is_on=True) == {users[0]}
    with pytest.raises(QuotaExceeded):
        check_watch(users, is_on=True)
    with pytest.raises(PresenceOff):
        check_watch([], is_on=False)
