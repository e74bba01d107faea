"""Logs and metrics: how a server says what it does, without saying what it must not.

Logs are structlog events, `noun.past_verb` with plain fields, one JSON object a line. Everything that libraries log
through the standard library takes the same way. A last processor makes secrets unreadable, whoever wrote them: values
under telling keys, and whatever looks like a token or a password in a URL. It is the second line of defence: the first
is not to log them.

Metrics are one `Metrics` for each application, with a registry of its own: two servers in one process do not mix. What a message
meets on its way costs an addition: `PowerHistogram` finds its bucket by the length of a number, and what is only a state, such as
how many wait, is read when somebody asks for it.
"""

import logging
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from structlog.typing import EventDict, Processor, WrappedLogger

LogLevel = Literal["debug", "info", "warning", "error"]

REDACTED: Final = "[redacted]"
# A key is telling when one of these words stands in it: access_token, refreshToken, x-signing-key.
_TELLING_WORDS: Final = frozenset(
    {
        "authorization",
        "ciphertext",
        "cookie",
        "credential",
        "mnemonic",
        "passphrase",
        "passwd",
        "password",
        "plaintext",
        "secret",
        "token",
    }
)
_TELLING_KEYS: Final = re.compile(r"(^|_)(private|signing|master|mac|session|secret|recovery|pickle|one_time)_?key$")
_WORDS: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_LOOKS_SECRET: Final = re.compile(
    r"eyJ[\w-]{4,}\.[\w-]{4,}\.[\w-]*"  # a JSON Web Token
    r"|chatty_[a-z]\.[\w.~+/=-]+"  # a token of our own: chatty_r.… refreshes
    r"|(?<=Bearer )[\w.~+/=-]+|(?<=DPoP )[\w.~+/=-]+"
    r"|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)",  # user and password in a URL
    re.IGNORECASE,
)
_DEPTH_MAX: Final = 6


def configure_logging(
    level: LogLevel = "info", stream: TextIO | None = None, *, form: Literal["json", "console"] = "json"
) -> None:
    """Send all logs, structlog's and the standard library's, to `stream` (stderr if none). A second call replaces it.

    One of the few things that are global by nature: the process has one log. Only the command lines call it.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_logger_name,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                *shared,
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                redact,
                _renderer(form),
            ],
        )
    )
    _take_over_standard_logging(handler, level)


@contextmanager
def request_context(request_id: str, **fields: str) -> Iterator[None]:
    """Every event logged inside, in this task and those it starts, carries the request id and the fields."""
    with structlog.contextvars.bound_contextvars(request_id=request_id, **fields):
        yield


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace secrets in an event by `[redacted]`: values under telling keys, and what looks like one in any text."""
    return {key: REDACTED if _is_telling(key) else _redact_value(value, depth=0) for key, value in event.items()}


def redact_text(text: str) -> str:
    """The text without what looks like a token, or like a password in a URL."""
    return _LOOKS_SECRET.sub(REDACTED, text)


class PowerHistogram(Collector):
    """A histogram whose upper bounds are powers of two of a unit: observing is two additions, without a search or a lock.

    For one thread, the one of the event loop. bounds: exponents of the first and the last bound; unit: what a one means.
    """

    def __init__(
        self, name: str, text: str, *, unit: float = 1.0, bounds: tuple[int, int], registry: CollectorRegistry
    ) -> None:
        self._name, self._text = name, text
        self._per_unit, self._first, self._last = 1 / unit, *bounds
        self._counts = [0] * (self._last + 2)
        self._sum = 0.0
        registry.register(self)

    def observe(self, value: float) -> None:
        """value: not negative. It counts in the bucket of the smallest power of two that is not below it."""
        self._counts[min((math.ceil(value * self._per_unit) - 1).bit_length(), self._last + 1)] += 1
        self._sum += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._text)
        bounds = range(self._first, self._last + 1)
        buckets = [(str(2.0**bound / self._per_unit), float(sum(self._counts[: bound + 1]))) for bound in bounds]
        family.add_metric([], [*buckets, ("+Inf", float(sum(self._counts)))], self._sum)
        yield family


def _durations(name: str, text: str, registry: CollectorRegistry) -> PowerHistogram:
    """From 128 µs to 17 s."""
    return PowerHistogram(name, text, unit=1e-6, bounds=(7, 24), registry=registry)


class Metrics:
    """The metrics of one application. Parts get it when they are made; a part adds its own with `registry`.

    Names, types and labels are public: docs/operations.md lists them, and a test compares. Labels take few values: a
    route's template or a limiter's name, never a user, room or device.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=True)
        self._looks: list[Callable[[], None]] = []
        self.build_info = Gauge(
            "chatty_build_info", "Always 1; the version is a label.", ["version"], registry=registry
        )
        self._make_http(registry)
        self._make_messages(registry)
        self._make_database(registry)
        self._make_jobs(registry)
        self._make_actors(registry)
        ProcessCollector(registry=registry)

    def _make_http(self, registry: CollectorRegistry) -> None:
        self.http_requests = Counter(
            "chatty_http_requests_total", "HTTP requests answered.", ["method", "route", "status"], registry=registry
        )
        self.http_request_duration_seconds = Histogram(
            "chatty_http_request_duration_seconds", "Time to answer an HTTP request.", ["route"], registry=registry
        )
        self.websocket_connections = Gauge("chatty_websocket_connections", "Open WebSockets.", registry=registry)
        self.websocket_closes = Counter(
            "chatty_websocket_closes_total",
            "WebSockets closed by the server, by close code.",
            ["code"],
            registry=registry,
        )
        self.sessions = Gauge("chatty_sessions", "WebSockets that have said hello.", registry=registry)
        self.errors = Counter(
            "chatty_errors_total",
            "Errors that were answered, by code and by way: http, socket.",
            ["code", "way"],
            registry=registry,
        )
        self.crashes = Counter(
            "chatty_crashes_total", "Exceptions that nobody foresaw, in actors and requests.", registry=registry
        )

    def _make_messages(self, registry: CollectorRegistry) -> None:
        self.delivery_duration_seconds = _durations(
            "chatty_delivery_duration_seconds",
            "Time from taking a message to having handed it to all who listen; the oldest of each commit and room.",
            registry,
        )
        self.journal_batch_size = PowerHistogram(
            "chatty_journal_batch_size", "Messages in one commit.", bounds=(0, 8), registry=registry
        )
        self.journal_commit_duration_seconds = _durations(
            "chatty_journal_commit_duration_seconds", "Time of one commit.", registry
        )
        self.backup_last_timestamp_seconds = Gauge(
            "chatty_backup_last_timestamp_seconds",
            "When the newest proven backup was made; NaN: there is none.",
            registry=registry,
        )
        self.backup_last_timestamp_seconds.set(math.nan)
        self.backup_interval_seconds = Gauge(
            "chatty_backup_interval_seconds", "How often a backup is to be made; 0: never.", registry=registry
        )
        self.outbox_overflows = Counter(
            "chatty_outbox_overflows_total", "Slow readers told to resync.", registry=registry
        )
        self.notice_drops = Counter(
            "chatty_notice_drops_total",
            "Typing, presence and receipts that were dropped at a bound.",
            ["kind"],
            registry=registry,
        )
        self.presence_watches = Gauge(
            "chatty_presence_watches", "Users who are watched, counted once a watching connection.", registry=registry
        )
        self.limit_refusals = Counter(
            "chatty_limit_refusals_total", "Requests refused by a limiter.", ["limiter"], registry=registry
        )
        self.undecryptables = Counter(
            "chatty_undecryptables_total",
            "Messages that clients said they could not read, by reason.",
            ["reason"],
            registry=registry,
        )
        self.messages_dropped = Counter(
            "chatty_messages_dropped_total",
            "Ciphertexts that were dropped when their time had come, by what: expired, day_dropped, swept.",
            ["what"],
            registry=registry,
        )
        self.message_bytes_freed = Counter(
            "chatty_message_bytes_freed_total",
            "Bytes of dropped ciphertexts; with day_dropped, of their table on disk.",
            ["what"],
            registry=registry,
        )

    def _make_database(self, registry: CollectorRegistry) -> None:
        self.pool_wait_duration_seconds = _durations(
            "chatty_pool_wait_duration_seconds", "Wait for a database connection.", registry
        )
        self.pool_connections = Gauge(
            "chatty_pool_connections", "Database connections, by state: idle, borrowed.", ["state"], registry=registry
        )
        self.pool_connections_max = Gauge(
            "chatty_pool_connections_max", "Database connections that there may be.", registry=registry
        )
        self.pool_waiting = Gauge("chatty_pool_waiting", "Who waits for a database connection.", registry=registry)
        self.database_trips = Counter(
            "chatty_database_trips_total",
            "Round trips to the database, by whom: journal, pool.",
            ["by"],
            registry=registry,
        )
        self.database_up = Gauge(
            "chatty_database_up", "1 unless the last attempt to connect to the database failed.", registry=registry
        )

    def _make_jobs(self, registry: CollectorRegistry) -> None:
        self.job_runs = Counter(
            "chatty_job_runs_total",
            "Runs of background jobs that ended, by outcome; of frequent jobs only those that did something.",
            ["job", "outcome"],
            registry=registry,
        )
        self.job_rows = Counter("chatty_job_rows_total", "Rows that background jobs did.", ["job"], registry=registry)
        self.job_duration_seconds = Histogram(
            "chatty_job_duration_seconds",
            "Time of one run of a background job.",
            ["job"],
            buckets=(0.01, 0.1, 1, 10, 60, 600, 3_600),
            registry=registry,
        )
        self.job_last_look = Gauge(
            "chatty_job_last_look_timestamp_seconds",
            "When this process last looked at a background job.",
            ["job"],
            registry=registry,
        )
        self.job_state = Gauge(
            "chatty_job_state",
            "1 for the state of a background job, 0 for the others.",
            ["job", "state"],
            registry=registry,
        )
        self.integrity_findings = Gauge(
            "chatty_integrity_findings",
            "What the last whole integrity check found wrong, by check.",
            ["check"],
            registry=registry,
        )

    def _make_actors(self, registry: CollectorRegistry) -> None:
        self.actor_restarts = Counter(
            "chatty_actor_restarts_total", "Actors restarted after a crash, by branch.", ["branch"], registry=registry
        )
        self.actors = Gauge("chatty_actors", "Live actors, by branch.", ["branch"], registry=registry)
        self.actor_mailbox_count = Gauge(
            "chatty_actor_mailbox_count",
            "Messages that wait in actors' mailboxes, by branch.",
            ["branch"],
            registry=registry,
        )
        self.actor_oldest_age_seconds = Gauge(
            "chatty_actor_oldest_age_seconds",
            "Age of the oldest message that waits or is in hand, by branch.",
            ["branch"],
            registry=registry,
        )

    def look_before_render(self, look: Callable[[], None]) -> None:
        """look: sets gauges; called whenever somebody asks for the metrics, and must not wait."""
        self._looks.append(look)

    def render(self) -> bytes:
        """All metrics in the text format that Prometheus reads, UTF-8."""
        for look in self._looks:
            look()
        return generate_latest(self.registry)

    def describe(self) -> Iterator[tuple[str, str, str]]:
        """Name as scraped, type and description of each metric; documentation is made from it."""
        for family in self.registry.collect():
            suffix = "_total" if family.type == "counter" else ""
            yield family.name + suffix, family.type, family.documentation


def _renderer(form: Literal["json", "console"]) -> Processor:
    if form == "console":
        return structlog.dev.ConsoleRenderer(colors=False)
    return structlog.processors.JSONRenderer(sort_keys=False)


def _take_over_standard_logging(handler: logging.Handler, level: LogLevel) -> None:
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # These bring handlers of their own, which would write a second, unredacted line.
    for name in ("hypercorn.access", "hypercorn.error", "quart.app", "quart.serving"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    # Their debug and info lines hold whole frames and SQL.
    for name in ("alembic", "hpack", "httpcore", "httpx", "wsproto", "psycopg", "sqlalchemy"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _is_telling(key: str) -> bool:
    words = [word.lower().removesuffix("s") for word in _WORDS.findall(key)]
    return not _TELLING_WORDS.isdisjoint(words) or bool(_TELLING_KEYS.search("_".join(words)))


def _redact_value(value: Any, *, depth: int) -> Any:
    match value:
        case str():
            return redact_text(value)
        case bytes() | bytearray() | memoryview():
            return f"[{len(value)} bytes]"
        case bool() | int() | float() | None:
            return value
        case _ if depth == _DEPTH_MAX:
            return "[too deep]"
        case dict():
            return {
                str(key): REDACTED if _is_telling(str(key)) else _redact_value(inner, depth=depth + 1)
                for key, inner in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [_redact_value(inner, depth=depth + 1) for inner in value]
        case _:
            return redact_text(repr(value))
