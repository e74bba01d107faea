"""Token buckets, the memory of refusals, and the client's address behind proxies."""

import math
import time
from collections.abc import Sequence
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatty.client.http import call_timeout_s
from chatty.config import OFF, Rate, Settings, limiters, parse_rate
from chatty.errors import RateLimited
from chatty.services import limits
from chatty.services.limits import Asker, Bucket, Limits, subject_of_address, unlimited
from chatty.web.addresses import client_address
from chatty.wire.limits import query_users_max
from chatty.wire.users import Refusal

ANN = Asker(what="post_v1_login", address="192.0.2.1", user="@ann:x")
PROXIES = [ip_network("10.0.0.0/8"), ip_network("::1")]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make(clock: Clock, rate: Rate) -> Limits:
    return Limits({**dict.fromkeys(limiters(), OFF), "requests_address": rate}, clock_s=clock)


def test_a_bucket_gives_its_burst_and_then_its_rate(clock: Clock) -> None:
    bucket = Bucket(Rate(burst=3, per_s=2), clock)
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now_s += 0.49
    assert bucket.take() == pytest.approx(0.01)
    clock.now_s += 0.01
    assert [bucket.take(), bucket.take()] == [0, 0.5]


def test_what_is_given_back_can_be_taken_again_but_never_above_the_burst(clock: Clock) -> None:
    bucket = Bucket(Rate(burst=1, per_s=1), clock)
    bucket.give_back()
    assert (bucket.take(), bucket.take()) == (0, 1)
    bucket.give_back()
    assert bucket.take() == 0


def test_a_full_bucket_lets_a_large_cost_through_and_owes_the_rest(clock: Clock) -> None:
    bucket = Bucket(Rate(burst=10, per_s=1), clock)
    assert bucket.take(25) == 0
    assert bucket.take() == 16
    clock.now_s += 16
    assert (bucket.take(), bucket.take()) == (0, 1)


@given(costs=st.lists(st.floats(0.1, 5), max_size=40), pauses=st.lists(st.floats(0, 3), min_size=40, max_size=40))
def test_no_more_is_taken_than_was_ever_there(costs: Sequence[float], pauses: Sequence[float]) -> None:
    clock = Clock()
    bucket, began_s, taken = Bucket(Rate(burst=5, per_s=1), clock), clock.now_s, 0.0
    for cost, pause in zip(costs, pauses, strict=False):
        clock.now_s += pause
        wait_s = bucket.take(cost)
        taken += 0 if wait_s else cost
        assert taken <= 5 + (clock.now_s - began_s) + 1e-4
        clock.now_s += wait_s
        if wait_s:
            assert bucket.take(cost) == 0, "whoever waits as long as told is let through"
            taken += cost


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("60 per minute", Rate(burst=60, per_s=1)),
        ("1 per hour, burst 20", Rate(burst=20, per_s=1 / 3600)),
        ("1000 per second, burst 20000", Rate(burst=20_000, per_s=1000)),
        ("off", Rate(burst=math.inf, per_s=0)),
    ],
)
def test_a_rate_reads_as_it_is_written(text: str, rate: Rate) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "0 per second", "5", "5 per week", "5 per second, burst 0", "-1 per second", "on"]
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="per minute"):
        parse_rate(text)


def test_each_subject_has_a_bucket_of_its_own(clock: Clock) -> None:
    one = make(clock, Rate(burst=1, per_s=1))
    one.take("requests_address", "a", ANN)
    one.take("requests_address", "b", ANN)
    with pytest.raises(RateLimited) as refused:
        one.take("requests_address", "a", ANN)
    assert (refused.value.limiter, refused.value.retry_after_s) == ("requests_address", 1)


def test_a_limiter_that_is_off_keeps_nothing(clock: Clock) -> None:
    one = unlimited()
    for _ in range(10_000):
        one.take("requests_address", "a", ANN)
    assert one.shown()["limits"][0]["buckets_count"] == 0


def test_buckets_are_bounded_and_the_one_unused_for_longest_is_forgotten(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "subjects_max", 2)
    one = make(clock, Rate(burst=1, per_s=1))
    for subject in ("a", "b"):
        one.take("requests_address", subject, ANN)
    with pytest.raises(RateLimited):
        one.take("requests_address", "a", ANN)
    one.take("requests_address", "c", ANN)  # b has to go, a was asked for later
    with pytest.raises(RateLimited):
        one.take("requests_address", "a", ANN)
    assert one.shown()["limits"][0]["buckets_count"] == 2


def test_those_that_are_full_again_go_as_others_come(clock: Clock) -> None:
    one = make(clock, Rate(burst=2, per_s=1))
    for number in range(100):
        one.take("requests_address", f"a{number}", ANN)
        clock.now_s += 0.5
    assert one.shown()["limits"][0]["buckets_count"] <= 3
    for _ in range(2):
        one.take("requests_address", "empty", ANN)
    for number in range(100):
        one.take("requests_address", f"b{number}", ANN)
    with pytest.raises(RateLimited):
        one.take("requests_address", "empty", ANN)


def test_one_that_went_and_is_kept_by_a_connection_is_found_again(clock: Clock) -> None:
    one = make(clock, Rate(burst=2, per_s=1))
    kept = one.bucket("requests_address", "a")
    for number in range(4):
        one.take("requests_address", f"b{number}", ANN)
    for _ in range(2):
        kept.take()
    with pytest.raises(RateLimited):
        one.take("requests_address", "a", ANN)


def test_why_tells_the_refusals_of_a_user_and_of_an_address(clock: Clock) -> None:
    one = make(clock, Rate(burst=1, per_s=0.1))
    for _ in range(3):
        one.refused("requests_address", 10, ANN)
        clock.now_s += 1
    wanted = Refusal(limiter="requests_address", what="post_v1_login", count=3, last_age_s=1.0, retry_after_s=10)
    assert one.why("@ann:x").refusals == one.why("192.0.2.1").refusals == [wanted]
    assert one.why("@ben:x").refusals == []


def test_the_memory_of_refusals_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "refused_subjects_max", 2)
    monkeypatch.setattr(limits, "refusals_a_subject_max", 2)
    one = make(clock, Rate(burst=1, per_s=1))
    for user in ("a", "b", "c"):
        for what in ("1", "2", "3"):
            one.refused("requests_address", 1, Asker(what=what, user=user))
    assert one.why("a").refusals == []
    assert [refusal.what for refusal in one.why("c").refusals] == ["3", "2"]


@pytest.mark.parametrize(
    ("address", "subject"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
def test_an_ipv6_address_counts_for_its_network(address: str, subject: str) -> None:
    assert subject_of_address(address) == subject


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.9", ["198.51.100.1"], "192.0.2.9"),  # no proxy: nobody may choose an address
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.7, 198.51.100.1"], "198.51.100.1"),  # the first was written by the client
        ("10.0.0.1", ["203.0.113.7, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.7", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["nonsense, 10.0.0.2"], "10.0.0.2"),
        ("10.0.0.1", ["1.2.3.4," * 100], "10.0.0.1"),
        ("10.0.0.1", ["," * 100_000 + "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [", ".join(["10.0.0.2"] * 1_000)], "10.0.0.2"),
        ("::1", ["2001:db8::1"], "2001:db8::1"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["fe80::1%eth0"], "10.0.0.1"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_the_client_is_who_the_last_trusted_proxy_saw(peer: str, forwarded: list[str], client: str) -> None:
    assert client_address(peer, forwarded, proxies=PROXIES) == client


def test_without_trusted_proxies_the_header_means_nothing() -> None:
    assert client_address("10.0.0.1", ["198.51.100.1"], proxies=[]) == "10.0.0.1"


def test_a_take_costs_little() -> None:
    """Measured: about 0.35 µs. The bound only catches what makes it many times slower."""
    bucket = Bucket(Rate(burst=1e9, per_s=1e9), time.monotonic)
    began_s = time.perf_counter()
    for _ in range(20_000):
        bucket.take()
    assert (time.perf_counter() - began_s) / 20_000 < 5e-6


def test_a_client_in_a_room_of_five_thousand_may_look_all_of_them_up(clock: Clock) -> None:
    """On four devices at once; and one more query comes through within the time that one call of the client takes."""
    bucket = Bucket(parse_rate(Settings().limit_lookups_account), clock)
    assert [bucket.take(query_users_max) for _ in range(4 * 5_000 // query_users_max)] == [0.0] * 40
    clock.now_s += bucket.take(query_users_max)
    assert clock.now_s - Clock().now_s < call_timeout_s
    assert bucket.take(query_users_max) == 0.0
