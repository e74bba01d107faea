"""Which names look alike, which are nobody's; and the growing delays of log-ins."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatty.errors import LoginRefused, NameReserved, NotFound, RateLimited
from chatty.ids import DeviceId, UserId
from chatty.services.limits import Limits, unlimited
from chatty.services.login_throttle import LoginThrottle
from chatty.services.names import check_name, reserved_skeletons, skeleton

ANN, BEN = UserId("@ann:x"), UserId("@ben:x")
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.1"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("paul", "pau1"),
        ("paul", "paui"),
        ("bob", "b0b"),
        ("carmen", "carrnen"),
        ("wanda", "vvanda"),
        ("vvv", "wv"),
        ("vvv", "vw"),
        ("ann.smith", "ann-smith"),
        ("ann.smith", "annsmith"),
        ("ann", "_ann_"),
        ("car-nen", "c-a-men"),
        ("p1.11", "p1-11"),
    ],
)
def test_names_that_look_alike_have_one_skeleton(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other)


@pytest.mark.parametrize(
    ("one", "other"), [("ann", "anna"), ("p1.11", "p11.1"), ("user1", "user2"), ("nn", "m"), ("ann", "nan")]
)
def test_names_that_differ_have_different_skeletons(one: str, other: str) -> None:
    assert skeleton(one) != skeleton(other)


_ALIKE = {"0": "o", "o": "0", "1": "i", "i": "l", "l": "1", "m": "rn", "w": "vv"}


@given(name=st.text("abimnorvwl01", max_size=12), place=st.integers(0, 11))
def test_whatever_letter_is_swapped_for_one_like_it_the_skeleton_stays(name: str, place: int) -> None:
    swapped = name[:place] + _ALIKE.get(name[place : place + 1], name[place : place + 1]) + name[place + 1 :]
    assert skeleton(swapped) == skeleton(name)


@pytest.mark.parametrize("name", ["admin", "adm1n", "a-d-m-i-n", "adrnin", "r00t", "...", "_", "chef", "ch.ef"])
def test_reserved_names_and_those_like_them_are_refused(name: str) -> None:
    with pytest.raises(NameReserved):
        check_name(name, reserved=reserved_skeletons(["chef", ""]))


def test_other_names_are_not() -> None:
    check_name("ann", reserved=reserved_skeletons([]))


# Log-ins ------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits() -> Limits:
    return unlimited()


@pytest.fixture
def throttle(clock: Clock, limits: Limits) -> LoginThrottle:
    return LoginThrottle(limits, free_count=3, delay_max_s=8, clock_s=clock)


def fail(throttle: LoginThrottle, user: UserId = ANN, *, address: str = ELSEWHERE, device: str = "") -> None:
    known = DeviceId(device) if device else None
    with pytest.raises(LoginRefused), throttle.attempt(user, what="login", address=address, known_device=known):
        raise LoginRefused


def wait_s(throttle: LoginThrottle, user: UserId = ANN, *, address: str = ELSEWHERE, device: str = "") -> float:
    """0: an attempt was let through, and succeeded."""
    try:
        with throttle.attempt(user, what="login", address=address, known_device=DeviceId(device) if device else None):
            return 0
    except RateLimited as refused:
        return refused.retry_after_s or 0


def test_after_some_failures_each_one_doubles_the_wait_up_to_a_bound(throttle: LoginThrottle, clock: Clock) -> None:
    waits = []
    for _ in range(3):
        fail(throttle)
    for _ in range(5):
        waits.append(wait_s(throttle))
        clock.now_s += waits[-1]
        fail(throttle)
    assert waits == [1, 2, 4, 8, 8]


def test_asking_while_one_has_to_wait_makes_the_wait_no_longer(throttle: LoginThrottle, clock: Clock) -> None:
    for _ in range(3):
        fail(throttle)
    assert [wait_s(throttle) for _ in range(5)] == [1] * 5
    clock.now_s += 1
    assert wait_s(throttle) == 0


def test_success_clears_the_count(throttle: LoginThrottle) -> None:
    for _ in range(2):
        fail(throttle)
    assert wait_s(throttle) == 0
    for _ in range(3):
        fail(throttle)
    assert wait_s(throttle) == 1


def test_attempts_at_once_are_counted_before_their_outcome(throttle: LoginThrottle) -> None:
    with (
        throttle.attempt(ANN, what="login", address=ELSEWHERE),
        throttle.attempt(ANN, what="login", address=ELSEWHERE),
        throttle.attempt(ANN, what="login", address=ELSEWHERE),
        pytest.raises(RateLimited),
        throttle.attempt(ANN, what="login", address=ELSEWHERE),
    ):
        pass


def test_what_is_no_wrong_password_counts_for_nothing(throttle: LoginThrottle) -> None:
    for _ in range(20):
        with pytest.raises(NotFound), throttle.attempt(ANN, what="login", address=ELSEWHERE):
            raise NotFound
    assert wait_s(throttle) == 0


def test_others_are_not_hindered(throttle: LoginThrottle) -> None:
    for _ in range(3):
        fail(throttle)
    assert wait_s(throttle, ANN, address=HOME) == 0
    assert wait_s(throttle, BEN) == 0


def exhaust_from_everywhere(throttle: LoginThrottle) -> None:
    """Somebody with many addresses tries Ann's name."""
    for number in range(30):
        fail(throttle, address=f"203.0.113.{number}")


def test_one_name_tried_from_everywhere_is_slowed_down(throttle: LoginThrottle) -> None:
    exhaust_from_everywhere(throttle)
    assert wait_s(throttle, address="203.0.113.200") == 1
    assert wait_s(throttle, BEN, address="203.0.113.200") == 0


def test_a_stranger_cannot_keep_out_an_address_where_the_user_is(throttle: LoginThrottle, clock: Clock) -> None:
    throttle.note_familiar(ANN, HOME)
    exhaust_from_everywhere(throttle)
    assert wait_s(throttle, address=HOME) == 0


def test_a_stranger_cannot_keep_out_a_known_device(throttle: LoginThrottle) -> None:
    for _ in range(3):
        fail(throttle, address=HOME)
    for number in range(27):
        fail(throttle, address=f"203.0.113.{number}")
    assert wait_s(throttle, address=HOME) > 0
    assert wait_s(throttle, address=HOME, device="LAPTOP") == 0


def test_a_known_device_is_slowed_down_by_its_own_failures(throttle: LoginThrottle) -> None:
    for number in range(3):
        fail(throttle, address=f"203.0.113.{number}", device="LAPTOP")
    assert wait_s(throttle, address=HOME, device="LAPTOP") == 1
    assert wait_s(throttle, address=HOME, device="PHONE") == 0


def test_failures_are_forgotten_after_a_day(throttle: LoginThrottle, clock: Clock) -> None:
    for _ in range(3):
        fail(throttle)
    clock.now_s += 86_401
    for _ in range(3):
        fail(throttle)


def kept_count(limits: Limits) -> int:
    """Subjects of delays, whatever their count."""
    return sum(one["buckets_count"] for one in limits.shown()["limits"])


def test_what_is_a_day_old_is_kept_no_longer(throttle: LoginThrottle, clock: Clock, limits: Limits) -> None:
    for number in range(3):
        fail(throttle, UserId(f"@old-{number}:x"))
        throttle.note_familiar(UserId(f"@old-{number}:x"), HOME)
    fail(throttle, BEN, device="LAPTOP")
    assert (kept_count(limits), len(throttle._familiar)) == (7, 3)
    clock.now_s += 10
    fail(throttle, UserId("@old-0:x"))  # again: these are as old as that
    throttle.note_familiar(UserId("@old-0:x"), HOME)
    clock.now_s += 86_389
    throttle.forget_old()
    assert (kept_count(limits), len(throttle._familiar)) == (7, 3)
    clock.now_s += 1
    throttle.forget_old()
    assert (kept_count(limits), len(throttle._familiar)) == (2, 1)
    clock.now_s += 10
    throttle.forget_old()
    assert (kept_count(limits), len(throttle._familiar)) == (0, 0)
