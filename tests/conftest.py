"""What every test may use."""

import os
from collections.abc import Callable

import pytest

pytest_plugins = ["tests.postgres_fixtures", "tests.server.app_fixtures"]

_counts_wanted = os.environ.get("CHATTY_TEST_COUNTS", "small")


def counts(small: int, full: int) -> int:
    """How often a `long` test repeats: `small` in `make test`, `full` in `make test-long`."""
    return {"small": small, "full": full}[_counts_wanted]


@pytest.fixture(name="counts")
def _counts() -> Callable[[int, int], int]:
    return counts
