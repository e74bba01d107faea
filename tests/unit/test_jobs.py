"""The rules of background jobs: how failures add up, when a job is dead, how long it waits, who may order it."""

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatty.app.jobs import job_commands, runs_page_max, statistics_days_max
from chatty.errors import BadRequest, JobRunning, JobStopped
from chatty.services.jobs import JobSteps, Outcome, Standing, check_order, rest_s, retry_delay_s, state_after
from chatty.services.statistics import CountStatistics

OUTCOMES = st.sampled_from(get_args(Outcome))
ACTS = st.sampled_from(["pause", "resume"])


@given(st.lists(OUTCOMES | ACTS, max_size=60), st.integers(1, 6))
def test_a_job_is_dead_after_so_many_failures_in_a_row_and_by_nothing_else(
    events: list[str], failures_max: int
) -> None:
    """The row ends with a run that is done and with a resumption; a paused job is never dead."""
    standing, in_a_row = Standing(), 0
    for event in events:
        if event in ("pause", "resume"):
            in_a_row = 0 if event == "resume" and standing.state != "scheduled" else in_a_row
            changes = {"pause": {"state": "paused"}, "resume": {"state": "scheduled", "failures_count": in_a_row}}
            standing = replace(standing, **changes[event])  # type: ignore[arg-type]
            continue
        before = standing
        state, failures_count = state_after(standing, event, failures_max=failures_max)
        standing = replace(standing, state=state, failures_count=failures_count)
        in_a_row = {"done": 0, "failed": in_a_row + 1, "lost": in_a_row + 1}.get(event, in_a_row)
        assert standing.failures_count == in_a_row
        if standing.state != before.state:
            assert (before.state, standing.state, event in ("failed", "lost")) == ("scheduled", "dead", True)
        assert (standing.state == "scheduled") <= (in_a_row < failures_max or event not in ("failed", "lost"))


@given(st.integers(1, 10_000), st.floats(0.001, 100), st.floats(1, 100))
def test_the_pause_after_a_failure_doubles_up_to_its_bound(failures_count: int, least: float, times: float) -> None:
    delay_s = retry_delay_s(failures_count, delay_s_min=least, delay_s_max=least * times)
    following_s = retry_delay_s(failures_count + 1, delay_s_min=least, delay_s_max=least * times)
    assert least <= delay_s <= following_s <= least * times
    assert following_s in (pytest.approx(2 * delay_s), least * times)


@pytest.mark.parametrize(
    ("standing", "refusal"),
    [
        (Standing(), None),
        (Standing(last_outcome="failed"), None),
        (Standing(last_outcome="running"), JobRunning),
        (Standing(order_number=3, begun_order=2), JobRunning),
        (Standing(state="paused"), JobStopped),
        (Standing(state="dead", last_outcome="failed"), JobStopped),
    ],
)
def test_what_runs_waits_or_is_stopped_cannot_be_ordered(standing: Standing, refusal: type[Exception] | None) -> None:
    if refusal is None:
        check_order("sweep", standing)
    else:
        with pytest.raises(refusal):
            check_order("sweep", standing)


def test_a_seldom_job_rests_for_most_of_its_interval_unless_it_is_ordered_or_was_cut_off() -> None:
    done = Standing(last_outcome="done")
    assert rest_s(done, age_s=100.0, interval_s=1_000.0) == 600.0
    assert rest_s(done, age_s=700.0, interval_s=1_000.0) == 0.0
    assert rest_s(done, age_s=0.0, interval_s=5.0) == 0.0
    for due in (Standing(), Standing(last_outcome="lost"), Standing(last_outcome="done", order_number=1)):
        assert rest_s(due, age_s=0.0, interval_s=1_000.0) == 0.0


@pytest.mark.parametrize("value", ["abc", "7", 0, -1, 1.5, [], 10**30])
@pytest.mark.parametrize(
    ("command", "name", "most"),
    [("jobs history", "count_max", runs_page_max), ("jobs statistics", "days_max", statistics_days_max)],
)
async def test_a_count_that_is_none_is_a_bad_request(command: str, name: str, most: int, value: Any) -> None:
    no_store: Any = None  # it is refused before anything is asked
    commands = job_commands(JobSteps(units=no_store), CountStatistics(units=no_store))
    for refused in (value, most + 1):
        with pytest.raises(BadRequest, match=name):
            await commands[command]({"job": "statistics", name: refused})
