"""What this application tells of itself: states, read when somebody asks for the metrics, and what goes wrong, when it does."""

from collections.abc import Callable, Sequence
from typing import get_args

import trio
from prometheus_client import Counter

import chatty
from chatty.actors.directory import Directory
from chatty.actors.journal import Append
from chatty.actors.runtime import Observer, Supervisor
from chatty.app.database import Store
from chatty.app.process import now_ms
from chatty.app.sentry import sentry_teller
from chatty.config import Settings, limiters
from chatty.errors import ChattyError, DeviceRevoked, ShuttingDown, SlowReader, TokenExpired
from chatty.services.crashes import Crashes, CrashGroup, tell_nobody
from chatty.telemetry import Metrics
from chatty.web.problems import error_frame
from chatty.wire import frames
from chatty.wire.undecryptables import UndecryptableReason


class CrashBook(Observer):
    """Counts what crashes and what is started again, and keeps where."""

    def __init__(self, metrics: Metrics, crashes: Crashes) -> None:
        self._metrics = metrics
        self._crashes = crashes

    def note_crash(self, branch: str, error: Exception) -> None:
        self._note(error, met_in=branch)

    def note_request_crash(self, error: Exception) -> None:
        self._note(error, met_in="http")

    def _note(self, error: Exception, *, met_in: str) -> None:
        if self._crashes.note(error, met_in=met_in):
            self._metrics.crashes.inc()

    def met(self) -> Sequence[CrashGroup]:
        """By this process since its start, those met last first."""
        return self._crashes.met()

    async def flush(self) -> None:
        """Raises: StoreUnavailable, Overloaded, OutcomeUnknown."""
        await self._crashes.flush()

    def note_restart(self, branch: str) -> None:
        self._metrics.actor_restarts.labels(branch=branch).inc()


def open_crash_book(settings: Settings, store: Store, metrics: Metrics) -> CrashBook:
    """Raises: BadConfiguration for a DSN that is none."""
    dsn = settings.sentry_dsn
    return CrashBook(
        metrics,
        Crashes(
            units=store.units,
            release=chatty.__version__,
            clock_ms=now_ms,
            tell=tell_nobody if dsn is None else sentry_teller(dsn.get_secret_value()),
        ),
    )


def watch_states(metrics: Metrics, root: Supervisor, store: Store, directory: Directory) -> None:
    """From now on the gauges say how things are at the moment of the scrape."""
    metrics.build_info.labels(version=chatty.__version__).set(1)
    _begin_at_zero(metrics)
    trips = _Totals(metrics.database_trips)

    def look() -> None:
        metrics.sessions.set(len(directory))
        for load in root.loads():
            metrics.actors.labels(branch=load.branch).set(load.actors_count)
            metrics.actor_mailbox_count.labels(branch=load.branch).set(load.mailbox_count)
            metrics.actor_oldest_age_seconds.labels(branch=load.branch).set(load.oldest_age_s)
            metrics.actor_restarts.labels(branch=load.branch)  # there from the start, at 0
        now = store.pool.statistics()
        trips.raise_to(pool=now.trips_total, journal=store.journal.trips_total)
        metrics.pool_connections.labels(state="idle").set(now.idle_count)
        metrics.pool_connections.labels(state="borrowed").set(now.borrowed_count)
        metrics.pool_connections_max.set(now.connections_max)
        metrics.pool_waiting.set(now.waiting_count)
        metrics.database_up.set(not now.is_down)

    metrics.look_before_render(look)


class _Totals:
    """A counter that is counted elsewhere, by an addition, and read when somebody asks."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._told: dict[str, int] = {}

    def raise_to(self, **totals: int) -> None:
        for by, total in totals.items():
            self._counter.labels(by=by).inc(total - self._told.get(by, 0))
            self._told[by] = total


def _begin_at_zero(metrics: Metrics) -> None:
    """A counter that is not there cannot be seen to grow by its first."""
    for limiter in limiters():
        metrics.limit_refusals.labels(limiter=limiter)
    for what in ("expired", "day_dropped", "swept"):
        metrics.messages_dropped.labels(what=what)
        metrics.message_bytes_freed.labels(what=what)
    for kind in ("typing", "outbox"):
        metrics.notice_drops.labels(kind=kind)
    for reason in get_args(UndecryptableReason):
        metrics.undecryptables.labels(reason=reason)
    for closing in (ShuttingDown, SlowReader, DeviceRevoked, TokenExpired):
        metrics.websocket_closes.labels(code=str(closing.close_code))


def delivery_clock(metrics: Metrics, *, append_timeout_s: float) -> Callable[[Append], None]:
    """When a message was taken follows from its deadline, so it needs no place of its own."""

    def note(append: Append) -> None:
        metrics.delivery_duration_seconds.observe(trio.current_time() - append.deadline + append_timeout_s)

    return note


def counting_error_frame(metrics: Metrics) -> Callable[[int, ChattyError], frames.Error]:
    def frame(request: int, error: ChattyError) -> frames.Error:
        metrics.errors.labels(code=error.code, way="socket").inc()
        return error_frame(request, error)

    return frame
