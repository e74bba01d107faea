"""Logs and metrics: how a server says what it does, without saying what it must not.

Logs are structlog events, `noun.past_verb` with plain fields, one JSON object a line. Everything that libraries log
through the standard library takes the same way. A last processor makes secrets unreadable, whoever wrote them: values
under telling keys, and whatever looks like a token or a password in a URL. It is the second line of defence: the first
is not to log them.

Metrics are one `Metrics` for each application, with a registry of its own: two servers in one process do not mix.
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Literal, TextIO

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
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


class Metrics:
    """The metrics of one application. Parts get it when they are made; a part adds its own with `registry`.

    Names, types and labels are public: docs/operations.md lists them, and a test compares. Labels take few values: a
    route's template or a limiter's name, never a user, room or device.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=True)
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
        self.journal_batch_size = Histogram(
            "chatty_journal_batch_size",
            "Messages in one commit.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )
        self.journal_commit_duration_seconds = Histogram(
            "chatty_journal_commit_duration_seconds", "Time of one commit.", registry=registry
        )
        self.pool_wait_duration_seconds = Histogram(
            "chatty_pool_wait_duration_seconds", "Wait for a database connection.", registry=registry
        )
        self.pool_connections = Gauge(
            "chatty_pool_connections", "Database connections, by state.", ["state"], registry=registry
        )
        self.backup_age_seconds = Gauge(
            "chatty_backup_age_seconds", "Age of the newest proven backup, seconds.", registry=registry
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
        self.actor_restarts = Counter(
            "chatty_actor_restarts_total", "Actors restarted after a crash, by branch.", ["branch"], registry=registry
        )
        self.actor_mailbox_count = Gauge(
            "chatty_actor_mailbox_count",
            "Messages that wait in actors' mailboxes, by branch.",
            ["branch"],
            registry=registry,
        )

    def render(self) -> bytes:
        """All metrics in the text format that Prometheus reads, UTF-8."""
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
