"""A process that is a server and nothing else does not look again and again at what lives to its end."""

import gc
from collections.abc import Iterator

import pytest

from chatty.cli import spare_the_collector


@pytest.fixture
def kept_collector() -> Iterator[None]:
    """The collector of the tests' own process, as it was."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("kept_collector")
def test_what_was_made_at_the_start_is_not_looked_at_again_and_the_rest_is() -> None:
    spare_the_collector()
    frozen_count = gc.get_freeze_count()
    assert frozen_count > 10_000
    assert gc.isenabled()
    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    assert gc.collect() >= 1
    assert gc.get_freeze_count() == frozen_count
