"""Settings in, a running application out: the store, the tree and the routes, opened in order and drained in reverse."""

import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from quart_trio import QuartTrio

import chatty
from chatty.actors.bus import LocalBus, SilentBus
from chatty.actors.console import ConsoleCommand
from chatty.actors.directory import Directory
from chatty.actors.janitor import Janitor, JanitorTimes, start_janitor
from chatty.actors.runtime import (
    Snapshot,
    Supervisor,
    open_supervisor,
)
from chatty.actors.sessions import Socket
from chatty.app.backups import NewestBackup
from chatty.app.checks import (
    Draining,
    check_audit,
    check_backups,
    check_database,
    check_disk,
    check_jobs,
    check_journal,
    check_keys,
)
from chatty.app.console import console_sources, database_commands, key_commands, limit_commands, start_console
from chatty.app.database import Store, make_data_dir, open_store
from chatty.app.jobs import cleanup_commands, jobs_now, run_commands
from chatty.app.memory import memory_commands
from chatty.app.observation import CrashBook, open_crash_book, watch_states
from chatty.app.process import Hooks, generous
from chatty.app.routes import append_over_http, make_routes
from chatty.app.sockets import OpenSockets
from chatty.app.steps import Steps, make_steps
from chatty.app.top import Observed, top_commands
from chatty.app.tree import LateDoorbells, make_jobs, session_parts, start_notices, start_watch, start_writing
from chatty.config import Settings
from chatty.services.jobs import JobBooks
from chatty.services.limits import Limits
from chatty.services.permissions import check_tables
from chatty.services.server import ServerIdentity
from chatty.store.leases import PostgresLeases
from chatty.telemetry import Metrics
from chatty.web import direct, gateway, health
from chatty.web.application import make_quart
from chatty.web.limits import RequestLimits
from chatty.web.routes import Route

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class App:
    """A running application. `asgi`: for the server; `quart` stands behind it. `routes`: all that it answers over HTTP.
    `begin_drain()`: not ready from now on.

    `serve_socket`: one session over any Socket, until it ends; the gateway's way in. `end_sockets()`: all of them, and those that
    still come, told when to come back; `wait_no_sockets()`: until each has been told and closed. `first_invitation`: for the
    first owner, once; None when there is an account already.
    """

    asgi: Asgi
    quart: QuartTrio
    routes: Sequence[Route]
    serve_socket: Callable[[Socket], Awaitable[None]]
    identity: ServerIdentity
    directory: Directory
    snapshot: Callable[[], Snapshot]
    begin_drain: Callable[[], None]
    end_sockets: Callable[[], None]
    wait_no_sockets: Callable[[], Awaitable[None]]
    first_invitation: Callable[[], Awaitable[str | None]]


@asynccontextmanager
async def open_app(settings: Settings, *, address: str, hooks: Hooks | None = None) -> AsyncIterator[App]:
    """Everything but the database and the listening socket. address: libpq connection string of a migrated database.

    Raises: SchemaTooOld, SchemaTooNew, ServerNameMismatch, SealBroken, StoreUnavailable, BadConfiguration, DataDirectoryInUse.
    """
    hooks = hooks or Hooks()
    metrics = Metrics()
    await make_data_dir(settings.data_dir)
    async with open_store(settings, address, metrics, hooks) as store:
        crashes = open_crash_book(settings, store, metrics)
        async with (
            open_supervisor("chatty", intensity=generous, observer=crashes) as root,
            _open_tree(settings, store, metrics, hooks, root, crashes, address=address) as app,
        ):
            yield app


@asynccontextmanager
async def _open_tree(
    settings: Settings,
    store: Store,
    metrics: Metrics,
    hooks: Hooks,
    root: Supervisor,
    crashes: CrashBook,
    *,
    address: str,
) -> AsyncIterator[App]:
    """Start the branches in the order in which they may be asked: journal, rooms, sessions, notices, watch, janitor, console."""
    check_tables()
    doorbells, directory, readiness = LateDoorbells(), Directory(), Draining()
    limits = Limits(settings.rates, on_refusal=lambda name: metrics.limit_refusals.labels(limiter=name).inc())
    steps = make_steps(settings, store, doorbells, limits, crash_points=hooks.crash_points)
    room_actors = await start_writing(settings, store, metrics, hooks, root, directory, steps)
    sessions_branch = await root.start_supervisor("sessions", intensity=generous)
    notices = await start_notices(settings, metrics, root, directory, steps)
    newest = NewestBackup(settings, metrics)
    await start_watch(settings, store, root, directory, steps, crashes, address=address, newest=newest)
    janitor = await _start_janitor(settings, store, steps, doorbells, hooks, metrics, root)
    bus = SilentBus() if hooks.is_bus_silent else LocalBus(directory, room_actors)
    doorbells.connect(bus, janitor.wake)
    parts = session_parts(settings, store, metrics, directory, room_actors, steps, limits, notices)
    append = partial(append_over_http, room_actors, limits, steps.quotas, timeout_s=settings.append_timeout_s)
    checks = _checks(settings, store, steps, readiness, metrics, root, newest)
    commands: dict[str, ConsoleCommand] = {}
    sources = console_sources(settings, root, checks, directory, commands)
    routes = make_routes(settings, store, steps, limits, checks, append, sources)
    quart = _quart(settings, steps, limits, metrics, routes, crashes)
    sockets = OpenSockets(
        sessions_branch, parts, count_max=settings.sessions_max, reconnects_per_s=settings.reconnects_per_s
    )
    gateway.add_gateway(quart, sockets.serve, metrics, proxies=settings.proxy_networks)
    asgi: Asgi = quart
    if settings.direct_path == "auto" and direct.is_usable():
        asgi = direct.DirectGateway(quart, sockets.serve, metrics, proxies=settings.proxy_networks)
    seen = Observed(
        root=root,
        directory=directory,
        metrics=metrics,
        pool=store.pool.statistics,
        data_dir=settings.data_dir,
        status=sources.status,
        jobs=partial(jobs_now, janitor),
        crashes=crashes.met,
    )
    commands |= _console_commands(settings, store, steps, limits, doorbells, janitor, seen)
    await start_console(settings, root, sources)
    watch_states(metrics, root, store, directory)
    yield App(
        asgi=asgi,
        quart=quart,
        routes=routes,
        serve_socket=sockets.serve,
        identity=store.identity,
        directory=directory,
        snapshot=root.snapshot,
        begin_drain=readiness.begin,
        end_sockets=sockets.drain,
        wait_no_sockets=sockets.wait_none,
        first_invitation=steps.registration.first_invitation,
    )


async def _start_janitor(
    settings: Settings,
    store: Store,
    steps: Steps,
    doorbells: LateDoorbells,
    hooks: Hooks,
    metrics: Metrics,
    root: Supervisor,
) -> Janitor:
    return await start_janitor(
        root,
        jobs=make_jobs(settings, store, steps, doorbells, hooks, metrics),
        leases=PostgresLeases(store.pool),
        book=JobBooks(units=store.units, failures_max=settings.job_failures_max),
        holder=f"{socket.gethostname()} {secrets.token_urlsafe(9)}",
        metrics=metrics,
        times=JanitorTimes(lease_lifetime_s=hooks.lease_lifetime_s, failure_delay_s_min=settings.job_retry_delay_s),
        crash_points=hooks.crash_points,
    )


def _console_commands(
    settings: Settings,
    store: Store,
    steps: Steps,
    limits: Limits,
    doorbells: LateDoorbells,
    janitor: Janitor,
    seen: Observed,
) -> dict[str, ConsoleCommand]:
    return {
        **limit_commands(limits),
        **database_commands(
            settings, store.units, doorbells, is_connected=seen.directory.is_connected, janitor=janitor
        ),
        **key_commands(steps.key_rotation, steps.key_revocation, lambda: janitor.wake(steps.key_rotation.name)),
        **run_commands(store.units, janitor),
        **cleanup_commands(steps.cleanup),
        **top_commands(seen, steps.console),
        **memory_commands(seen.root),
    }


def _checks(
    settings: Settings,
    store: Store,
    steps: Steps,
    readiness: Draining,
    metrics: Metrics,
    root: Supervisor,
    newest: NewestBackup,
) -> health.Health:
    return health.Health(
        server_name=settings.server_name,
        version=chatty.__version__,
        checks=[
            partial(check_database, store.pool),
            partial(check_journal, root),
            partial(check_audit, store.units),
            partial(check_backups, settings, newest),
            partial(check_jobs, store.units),
            partial(check_keys, steps.key_rotation),
            partial(check_disk, settings.data_dir),
            readiness.check,
        ],
        metrics=metrics,
    )


def _quart(
    settings: Settings, steps: Steps, limits: Limits, metrics: Metrics, routes: list[Route], crashes: CrashBook
) -> QuartTrio:
    return make_quart(
        routes,
        authenticator=steps.tokens,
        make_nonce=steps.proofs.make_nonce,
        metrics=metrics,
        note_crash=crashes.note_request_crash,
        body_bytes_max=settings.body_bytes_max,
        policy=steps.policy,
        limits=RequestLimits(limits),
        proxies=settings.proxy_networks,
    )
