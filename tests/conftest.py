"""What every test may use."""

import logging
import os
import secrets
from collections.abc import Callable, Iterator

import pytest
import structlog
from hypothesis import settings

settings.register_profile("chatty", deadline=None)  # how fast a machine is, is not what these tests are about
settings.load_profile("chatty")

pytest_plugins = ["tests.postgres_fixtures", "tests.server.app_fixtures"]

_counts_wanted = os.environ.get("CHATTY_TEST_COUNTS", "small")


def counts(small: int, full: int) -> int:
    """How often a `long` test repeats: `small` in `make test`, `full` in `make test-long`."""
    return {"small": small, "full": full}[_counts_wanted]


@pytest.fixture(name="counts")
def _counts() -> Callable[[int, int], int]:
    return counts


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """In a worker of pytest-xdist pytest-cov has begun to trace as in a run without workers, and is about to begin once more.

    Both at once take half again as long, and the marker no_cover ends one of them only.
    """
    started = getattr(session.config.pluginmanager.getplugin("_cov"), "cov_controller", None)
    if started is not None and hasattr(session.config, "workerinput"):
        started.cov.stop()


# They walk over everything once more; what they reach is reached by others too. Tracing them takes a minute.
UNTRACED = (
    "/models/",
    "test_permission_matrix",
    "test_strangers",
    "test_openapi",
    "test_injection",
    "test_held_bodies",
    "test_erased",
    "test_deletions",
    "test_room_protocol",
    "test_demo",
    "test_bench",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(name in str(item.path) for name in UNTRACED):
            item.add_marker(pytest.mark.no_cover)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=None, help="replay a test that draws at random; it prints its seed")


@pytest.fixture
def seed(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> int:
    """What a test draws from: another number each run, printed, or the one of --seed."""
    chosen = request.config.getoption("--seed")
    drawn = int(chosen) if chosen is not None else secrets.randbelow(2**32)
    with capsys.disabled():
        print(f"\n{request.node.name}: --seed {drawn}")
    return drawn


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """For tests that run our commands in this process: they take over its log, which is the tests' own."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    logging.captureWarnings(False)
