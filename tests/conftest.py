"""What every test may use."""

import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import settings
from werkzeug.routing import Rule

settings.register_profile("chatty", deadline=None)  # how fast a machine is, is not what these tests are about
settings.load_profile("chatty")

pytest_plugins = ["tests.postgres_fixtures", "tests.server.app_fixtures"]


def _no_address(rule: Rule, *arguments: Any) -> Any:
    raise AssertionError("nothing makes an address from a route")


# Werkzeug compiles what makes addresses from routes, at each start of a server: a tenth of a run's time.
Rule._compile_builder = lambda rule, append_unknown=True: _no_address  # type: ignore[assignment]

_counts_wanted = os.environ.get("CHATTY_TEST_COUNTS", "small")


def counts(small: int, full: int) -> int:
    """How often a `long` test repeats: `small` in `make test`, `full` in `make test-long`."""
    return {"small": small, "full": full}[_counts_wanted]


@pytest.fixture(name="counts")
def _counts() -> Callable[[int, int], int]:
    return counts


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
    """For tests that run our commands in this process: they take over its log, which is the tests' own.

    A server that logs while a command is about to do so would write into what the command prints: it keeps its own stream.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    structlog.reset_defaults()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stdout))
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()
    logging.captureWarnings(False)
