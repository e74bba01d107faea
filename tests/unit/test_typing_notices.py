"""Who types, as a rule: what is told, what is not, and to whom."""

from hypothesis import given
from hypothesis import strategies as st

from chatty.ids import RoomId, UserId, UserNumber
from chatty.services.typing_notices import Typist, Typists, shown_to
from chatty.wire import limits

ROOM = RoomId("!" + "A" * 43)


def typist(number: int, *, now_s: float = 0.0, hidden_from: frozenset[UserNumber] = frozenset()) -> Typist:
    return Typist(
        number=UserNumber(number),
        user=UserId(f"@u{number}:x"),
        hidden_from=hidden_from,
        until_s=now_s + limits.typing_lifetime_s,
    )


def test_the_first_notice_and_the_stop_are_told_and_nothing_between() -> None:
    typists = Typists(ROOM)
    assert typists.note(typist(1), now_s=0.0)
    typists.tell(now_s=0.5)
    assert not typists.note(typist(1, now_s=1.0), now_s=1.0)
    assert typists.stop(UserNumber(1))
    assert not typists.stop(UserNumber(1))


def test_who_goes_on_is_told_again_after_a_while() -> None:
    typists = Typists(ROOM)
    typists.note(typist(1), now_s=0.0)
    typists.tell(now_s=0.5)
    assert not typists.note(typist(1), now_s=limits.typing_renew_s)
    assert typists.note(typist(1), now_s=0.5 + limits.typing_renew_s)


def test_nobody_comes_on_top_of_the_bound() -> None:
    typists = Typists(ROOM)
    told = [typists.note(typist(number), now_s=0.0) for number in range(limits.typing_users_max + 2)]
    assert told.count(True) == limits.typing_users_max
    assert len(typists.tell(now_s=0.0)) == limits.typing_users_max
    typists.stop(UserNumber(0))
    assert typists.note(typist(limits.typing_users_max + 5), now_s=0.0)


def test_neither_oneself_nor_who_hides_is_shown() -> None:
    typists = [typist(1), typist(2, hidden_from=frozenset({UserNumber(3)}))]
    shown = [shown_to(UserNumber(reader), typists) for reader in (1, 2, 3, 4)]
    assert shown == [("@u2:x",), ("@u1:x",), ("@u1:x",), ("@u1:x", "@u2:x")]


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.sampled_from([0.0, 0.125, 2.0])), max_size=60))
def test_a_flood_of_one_user_is_told_no_more_than_changes_and_renewals(steps: list[tuple[int, bool, float]]) -> None:
    typists, now_s = Typists(ROOM), 0.0
    typing: dict[int, float] = {}  # since when it was told last
    for number, is_typing, delta_s in steps:
        now_s += delta_s
        is_news = typists.note(typist(number), now_s=now_s) if is_typing else typists.stop(UserNumber(number))
        is_change = (number in typing) != is_typing
        is_renewal = is_typing and number in typing and now_s - typing[number] >= limits.typing_renew_s
        assert is_news == (is_change or is_renewal)
        if not is_typing:
            typing.pop(number, None)
        if is_news:
            typists.tell(now_s=now_s)
            typing = dict.fromkeys([*typing, *([number] if is_typing else [])], now_s)
