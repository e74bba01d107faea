"""Coalescing: nothing newest is lost, nothing comes more often than it may, and what is kept is bounded."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from chatty.services.coalescing import Coalescer

Put = tuple[float, str, int, int]  # time since the one before, key, part, value
PUTS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.125, 0.5, 1.0, 2.5]), st.sampled_from("ab"), st.integers(0, 5), st.integers()),
    max_size=60,
)


def coalescer(*, values_max: int = 1_000, parts_max: int = 1_000) -> Coalescer[str, int, int]:
    return Coalescer(interval_s=1.0, values_max=values_max, parts_max=parts_max, newest=max)


def test_a_value_is_due_an_interval_after_it_was_put() -> None:
    one = coalescer()
    assert one.put("a", 1, 5, now_s=10.0)
    assert one.take_due(now_s=10.99) == []
    assert one.take_due(now_s=11.0) == [("a", {1: 5})]
    assert (one.take_due(now_s=20.0), len(one)) == ([], 0)


def test_what_comes_meanwhile_takes_its_place_and_puts_nothing_off() -> None:
    one = coalescer()
    for at in range(10):
        one.put("a", 1, at, now_s=at / 10)
    assert one.take_due(now_s=1.0) == [("a", {1: 9})]


def test_the_newest_is_what_the_rule_says() -> None:
    one = coalescer()
    one.put("a", 1, 5, now_s=0.0)
    one.put("a", 1, 3, now_s=0.5)
    assert one.take_due(now_s=1.0) == [("a", {1: 5})]
    last: Coalescer[str, int, int] = Coalescer(interval_s=1.0, values_max=2, parts_max=2)
    last.put("a", 1, 5, now_s=0.0)
    last.put("a", 1, 3, now_s=0.5)
    assert last.take_due(now_s=1.0) == [("a", {1: 3})]


def test_at_the_bound_a_new_one_is_refused_and_a_newer_one_is_not() -> None:
    one = coalescer(values_max=2)
    assert [one.put("a", part, 1, now_s=0.0) for part in (1, 2, 3)] == [True, True, False]
    assert one.put("a", 2, 7, now_s=0.0)
    assert not one.put("b", 1, 1, now_s=0.0)
    assert one.take_due(now_s=1.0) == [("a", {1: 1, 2: 7})]
    assert one.put("b", 1, 1, now_s=1.0)


def test_more_parts_than_go_at_once_come_an_interval_later() -> None:
    one = coalescer(parts_max=2)
    for part in range(5):
        one.put("a", part, 0, now_s=0.0)
    assert [one.take_due(now_s=at) for at in (1.0, 1.5)] == [[("a", {0: 0, 1: 0})], []]
    assert [one.take_due(now_s=at) for at in (2.0, 3.0)] == [[("a", {2: 0, 3: 0})], [("a", {4: 0})]]


@given(PUTS, st.integers(1, 6))
def test_every_newest_value_comes_out_in_time_and_no_key_too_often(puts: list[Put], parts_max: int) -> None:
    one, now_s = coalescer(parts_max=parts_max), 0.0
    given_out: list[tuple[float, str, dict[int, int]]] = []
    pending: dict[tuple[str, int], tuple[int, float]] = {}  # the newest, and since when something of it waits
    steps: list[Put | None] = [None if at % 3 == 2 else put for at, put in enumerate(puts)]
    for step in [*steps, *[None] * 10]:
        now_s += 1.0 if step is None else step[0]
        if step is None:
            for key, parts in one.take_due(now_s=now_s):
                given_out.append((now_s, key, parts))
                assert 1 <= len(parts) <= parts_max
                for part, value in parts.items():
                    newest, since_s = pending.pop((key, part))
                    assert value == newest
                    assert now_s - since_s >= 0
        else:
            _, key, part, value = step
            assert one.put(key, part, value, now_s=now_s)
            newest, since_s = pending.get((key, part), (value, now_s))
            pending[key, part] = (max(newest, value), since_s)
        assert len(one) == len(pending)
    assert not pending, "everything came out in the end"
    for key in "ab":
        times = [at_s for at_s, of_key, _ in given_out if of_key == key]
        assert all(later - earlier >= 1.0 for earlier, later in pairwise(times))


@given(PUTS, st.integers(1, 5))
def test_never_more_is_kept_than_the_bound(puts: list[Put], values_max: int) -> None:
    one, now_s = coalescer(values_max=values_max), 0.0
    for delta_s, key, part, value in puts:
        now_s += delta_s
        one.put(key, part, value, now_s=now_s)
        assert len(one) <= values_max
