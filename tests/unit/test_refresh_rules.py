"""What presenting a refresh token does, case by case; tests/models/test_tokens.py goes through all of them together."""

import pytest

from chatty.errors import Overloaded, RefreshRefused
from chatty.services.tokens import RefreshState, Reuse, grace_ms, note_use, present, retired_max

NOW = 1_000_000


def state(k: int, *, is_used: bool = False, retired: tuple[int, ...] = ()) -> RefreshState:
    return RefreshState(k=k, is_used=is_used, retired_ms=retired)


def test_the_newest_rotates_and_retires_the_one_before() -> None:
    assert present(state(1), 1, now_ms=NOW) == state(2)
    assert present(state(2), 2, now_ms=NOW) == state(3, retired=(NOW,))
    assert present(state(3, retired=(NOW - 5,)), 3, now_ms=NOW) == state(4, retired=(NOW - 5, NOW))


def test_one_that_was_used_has_retired_the_one_before_already() -> None:
    used = note_use(state(2), 2, now_ms=NOW - 7)
    assert used == state(2, is_used=True, retired=(NOW - 7,))
    assert present(used, 2, now_ms=NOW) == state(3, retired=(NOW - 7,))


def test_a_use_counts_once_and_only_of_the_newest() -> None:
    used = note_use(state(2), 2, now_ms=NOW)
    assert note_use(used, 2, now_ms=NOW + 5) == used
    assert note_use(state(2), 1, now_ms=NOW) == state(2)


@pytest.mark.parametrize("age_ms", [0, grace_ms])
def test_within_its_grace_a_retired_token_is_only_refused(age_ms: int) -> None:
    with pytest.raises(RefreshRefused):
        present(state(3, retired=(NOW - age_ms,)), 1, now_ms=NOW)


@pytest.mark.parametrize(
    ("now", "k"),
    [
        (state(3, retired=(NOW - grace_ms - 1,)), 1),
        (state(9, retired=(NOW - 5,)), 6),
        (state(9, is_used=True, retired=(NOW - 5,)), 7),
        (state(2, is_used=True), 1),
    ],
)
def test_after_it_the_family_is_to_be_revoked(now: RefreshState, k: int) -> None:
    with pytest.raises(Reuse):
        present(now, k, now_ms=NOW)


def test_each_retired_token_has_a_grace_of_its_own() -> None:
    now = state(5, retired=(NOW - grace_ms - 1, NOW - grace_ms, NOW))
    for k in (2, 3):
        with pytest.raises(RefreshRefused):
            present(now, k, now_ms=NOW)
    with pytest.raises(Reuse):
        present(now, 1, now_ms=NOW)


def test_only_a_restored_database_may_hear_of_a_newer_token() -> None:
    with pytest.raises(RefreshRefused):
        present(state(2), 3, now_ms=NOW)
    jumped = present(state(2), 7, now_ms=NOW, may_jump=True)
    assert jumped == state(8, retired=(NOW,))


def test_no_retirement_is_forgotten_within_the_grace() -> None:
    full = state(retired_max + 2, retired=tuple(range(NOW, NOW + retired_max)))
    almost = state(retired_max + 1, retired=full.retired_ms[1:])
    assert present(almost, almost.k, now_ms=NOW + retired_max).k == almost.k + 1
    with pytest.raises(Overloaded, match="refresh_rotations"):
        present(full, full.k, now_ms=NOW + retired_max)
    later = NOW + grace_ms + 1
    assert present(full, full.k, now_ms=later).k == full.k + 1
