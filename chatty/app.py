"""The only wiring: settings in, a running application out.

open_app() opens, in this order, the pool, the server's keys, the journal's connections and the actor tree (journal, rooms,
sessions, watch, janitor, console), and gives the ASGI application; leaving the block drains them in reverse. Under `chatty up`
and `chatty serve` (cli.py) Hypercorn runs inside that block, so that sockets are told before they die. Under a plain ASGI server
the lifespan opens and closes the same block: `hypercorn -k trio 'chatty.app:make_asgi()'`.
"""

import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio
from quart_trio import QuartTrio

import chatty
from chatty.actors.bus import LocalBus, SilentBus
from chatty.actors.console import ConsoleCommand, ConsoleSources, console_actor, socket_path
from chatty.actors.delivery import SessionLimits, SessionParts
from chatty.actors.directory import Directory
from chatty.actors.faults import domain_error
from chatty.actors.janitor import Job, start_janitor
from chatty.actors.journal import Append, Entry, JournalParts, blocking_journal_actor, journal_actor
from chatty.actors.rooms import RoomActors, RoomParts
from chatty.actors.runtime import (
    ActorError,
    ActorRef,
    ActorSpec,
    Intensity,
    Mailbox,
    Restart,
    Snapshot,
    StartFailed,
    Supervisor,
    open_supervisor,
)
from chatty.actors.sessions import End, Socket, close_with, session_actor
from chatty.actors.watch import compare_actor, deadline_actor, revocation_actor
from chatty.config import Settings, load_settings
from chatty.crypto.nonces import Nonces
from chatty.crypto.passwords import DEFAULT_DERIVATION
from chatty.crypto.sealing import MasterKey, load_master_key
from chatty.crypto.tokens import AccessTokens, RefreshTokens, make_jwks
from chatty.errors import BadConfiguration, ChattyError, OutcomeUnknown, Overloaded, RateLimited, StoreUnavailable
from chatty.services.accounts import AccountSteps
from chatty.services.audit import EraseAddresses, Origin, SealAudit, set_origin, unsealed_age_s_max
from chatty.services.checkpoints import Checkpoints
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.devices import DeviceSteps
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.jobs import AppendOwedDevices, CleanUpRevocations
from chatty.services.keys import KeySteps
from chatty.services.limits import Asker, Limits, asker_of, subject_of_address
from chatty.services.login_throttle import LoginThrottle
from chatty.services.mailbox import MailboxSteps
from chatty.services.messages import Draft
from chatty.services.registration import CleanUpRegistrations, RegistrationSteps
from chatty.services.rooms import RoomSteps
from chatty.services.server import ServerIdentity, open_identity
from chatty.services.server_keys import ServerKeys, open_server_keys
from chatty.services.sessions import Issuer, Lifetimes, SessionSteps
from chatty.services.streams import StreamSteps
from chatty.store import schema
from chatty.store.audit_heads import DiskHeadFile, heads_path
from chatty.store.connection import logs_tersely, open_connection
from chatty.store.journal import PostgresJournal, open_journal
from chatty.store.leases import PostgresLeases
from chatty.store.pool import Pool, PoolLimits, open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.telemetry import Metrics, configure_logging
from chatty.web import accounts, devices, gateway, health, keys, listener, mailbox, rooms, server, sessions
from chatty.web.application import make_quart
from chatty.web.asyncapi import asyncapi_route
from chatty.web.limits import RequestLimits
from chatty.web.openapi import openapi_route
from chatty.web.problems import error_frame
from chatty.web.routes import Route
from chatty.wire.accounts import ServerInfo
from chatty.wire.events import Committed

# A store that comes and goes must not end the process. 20 restarts must fit into the time, or it would never be too often.
generous = Intensity(restart_count_max=20, within_s=10.0, backoff_s_max=0.25)
room_idle_timeout_s = 300.0
deadline_look_interval_s = 0.25
readiness_timeout_s = 1.0  # of the database's answer; a balancer gives up soon

log = structlog.get_logger("chatty.app")


def now_s() -> float:
    return time.time()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What only tests' own programs set: where to stop, whether the bus carries anything, how much crashing is too much."""

    crash_points: CrashPoints = NO_CRASH_POINTS
    is_bus_silent: bool = False
    intensity: Intensity = generous


@dataclass(frozen=True, kw_only=True)
class App:
    """A running application. `asgi`: for the server. `begin_drain()`: not ready from now on.

    `serve_socket`: one session over any Socket, until it ends; the gateway's way in. `end_sockets()`: all of them, and those that
    still come; `wait_no_sockets()`: until each has been told and closed. `first_invitation`: for the first owner, once; None when
    there is an account already.
    """

    asgi: QuartTrio
    serve_socket: Callable[[Socket], Awaitable[None]]
    identity: ServerIdentity
    directory: Directory
    snapshot: Callable[[], Snapshot]
    begin_drain: Callable[[], None]
    end_sockets: Callable[[ChattyError], None]
    wait_no_sockets: Callable[[], Awaitable[None]]
    first_invitation: Callable[[], Awaitable[str | None]]


class LateDoorbells(Doorbells):
    """Services are made before the actors that hear them; until then nobody is connected."""

    def __init__(self) -> None:
        self._inner: Doorbells = SilentBus()
        self._janitor_wake: Callable[[str], None] | None = None

    def connect(self, inner: Doorbells, wake: Callable[[str], None]) -> None:
        self._inner, self._janitor_wake = inner, wake

    def ring(self, doorbell: Doorbell) -> None:
        self._inner.ring(doorbell)
        if self._janitor_wake is not None and doorbell.users and doorbell.rooms:
            self._janitor_wake(AppendOwedDevices.name)


@dataclass(frozen=True, kw_only=True)
class _Store:
    pool: Pool
    units: PostgresUnitOfWork
    journal: PostgresJournal
    keys: ServerKeys
    identity: ServerIdentity


@asynccontextmanager
async def open_app(settings: Settings, *, address: str, hooks: Hooks | None = None) -> AsyncIterator[App]:
    """Everything but the database and the listening socket. address: libpq connection string of a migrated database.

    Raises: SchemaTooOld, SchemaTooNew, ServerNameMismatch, SealBroken, StoreUnavailable, BadConfiguration, DataDirectoryInUse.
    """
    hooks = hooks or Hooks()
    metrics = Metrics()
    await make_data_dir(settings.data_dir)
    async with (
        _open_store(settings, address, metrics, hooks) as store,
        open_supervisor("chatty", intensity=generous) as root,
        _open_tree(settings, store, metrics, hooks, root) as app,
    ):
        yield app


async def make_data_dir(path: Path) -> None:
    """Raises: BadConfiguration where no such directory can be."""
    try:
        await trio.Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BadConfiguration(f"CHATTY_DATA_DIR: {path} cannot be made: {error.strerror}") from None


@asynccontextmanager
async def _open_store(settings: Settings, address: str, metrics: Metrics, hooks: Hooks) -> AsyncIterator[_Store]:
    async with open_connection(address) as connection:
        await schema.check(connection)
        if not await logs_tersely(connection):
            log.warning("database.verbosity_noticed", setting="log_error_verbosity", wanted="terse")
    limits = PoolLimits(
        connections_max=settings.pool_connections_max,
        waiting_max=settings.pool_waiting_max,
        wait_timeout_s=settings.pool_wait_timeout_s,
    )
    async with open_pool(
        address,
        limits=limits,
        statement_timeout_s=settings.database_statement_timeout_s,
        on_wait=metrics.pool_wait_duration_seconds.observe,
    ) as pool:
        units = PostgresUnitOfWork(pool)
        identity = await open_identity(
            units, name=settings.server_name, make_generation_id=lambda: secrets.token_urlsafe(16)
        )
        keys_ = await open_server_keys(units, master_key(settings))
        async with open_journal(
            address,
            clock=now_ms,
            crash_points=hooks.crash_points,
            statement_timeout_s=settings.database_statement_timeout_s,
        ) as journal:
            yield _Store(pool=pool, units=units, journal=journal, keys=keys_, identity=identity)


def master_key(settings: Settings) -> MasterKey:
    """The one that the settings name, or the one in the data directory, made at the first start."""
    if settings.master_key is not None:
        return MasterKey.from_text(settings.master_key.get_secret_value())
    return load_master_key(Path(settings.data_dir) / "master.key")


@dataclass(frozen=True, kw_only=True)
class _Steps:
    accounts: AccountSteps
    sessions: SessionSteps
    registration: RegistrationSteps
    devices: DeviceSteps
    keys: KeySteps
    mailbox: MailboxSteps
    rooms: RoomSteps
    streams: StreamSteps
    checkpoints: Checkpoints
    nonces: Nonces


def _make_steps(settings: Settings, store: _Store, doorbells: Doorbells, limits: Limits) -> _Steps:
    units, keys_ = store.units, store.keys
    access = AccessTokens(
        keys_.signing, origin=settings.public_origin, lifetime_s=int(settings.access_token_lifetime_s)
    )
    refresh = RefreshTokens(keys_.refresh_key)
    nonces = Nonces(keys_.nonce_key, purpose="login")
    issuer = Issuer(access=access, refresh=refresh, nonces=nonces, origin=settings.public_origin, clock_s=now_s)
    return _Steps(
        accounts=AccountSteps(
            unit_of_work=units,
            issuer=issuer,
            sealer=keys_.sealer,
            salt_key=keys_.salt_key,
            server_name=settings.server_name,
            mode=settings.registration_mode,
            key_derivations=[DEFAULT_DERIVATION],
            limits=limits,
            reserved_names=[name.strip() for name in settings.reserved_names.split(",")],
            requests_max=settings.registration_requests_max,
        ),
        sessions=SessionSteps(
            unit_of_work=units,
            doorbells=doorbells,
            issuer=issuer,
            access=access,
            refresh=refresh,
            sealer=keys_.sealer,
            lifetimes=Lifetimes(
                idle_s=settings.refresh_idle_lifetime_s, absolute_s=settings.refresh_absolute_lifetime_s
            ),
            clock_s=now_s,
            throttle=LoginThrottle(
                limits, free_count=settings.login_free_count, delay_max_s=settings.login_delay_max_s
            ),
        ),
        registration=RegistrationSteps(unit_of_work=units, mode=settings.registration_mode),
        devices=DeviceSteps(unit_of_work=units, doorbells=doorbells, clock_ms=now_ms),
        keys=KeySteps(
            unit_of_work=units, doorbells=doorbells, clock_ms=now_ms, one_time_keys_max=settings.one_time_keys_max
        ),
        mailbox=MailboxSteps(
            unit_of_work=units,
            doorbells=doorbells,
            rows_per_sender_max=settings.mailbox_rows_per_sender_max,
            rows_max=settings.mailbox_rows_max,
        ),
        rooms=RoomSteps(
            units,
            doorbells=doorbells,
            clock=now_ms,
            server_name=settings.server_name,
            members_max=settings.room_members_max,
        ),
        streams=StreamSteps(units),
        checkpoints=Checkpoints(
            units,
            signer=keys_.signing,
            clock=now_ms,
            server_name=settings.server_name,
            generation=store.identity.generation.number,
        ),
        nonces=Nonces(keys_.nonce_key, purpose="websocket"),
    )


@asynccontextmanager
async def _open_tree(
    settings: Settings, store: _Store, metrics: Metrics, hooks: Hooks, root: Supervisor
) -> AsyncIterator[App]:
    """Start the branches in the order in which they may be asked: journal, rooms, sessions, watch, janitor, console."""
    doorbells, directory, readiness = LateDoorbells(), Directory(), Draining()
    limits = Limits(settings.rates, on_refusal=lambda name: metrics.limit_refusals.labels(limiter=name).inc())
    steps = _make_steps(settings, store, doorbells, limits)
    room_actors = await _start_writing(settings, store, metrics, hooks, root, directory, steps)
    sessions_branch = await root.start_supervisor("sessions", intensity=generous)
    await _start_watch(settings, root, directory, steps)
    janitor = await start_janitor(
        root,
        jobs=_jobs(settings, store, doorbells, hooks),
        leases=PostgresLeases(store.pool),
        holder=f"{socket.gethostname()} {secrets.token_urlsafe(9)}",
    )
    bus = SilentBus() if hooks.is_bus_silent else LocalBus(directory, room_actors)
    doorbells.connect(bus, janitor.wake)
    parts = _session_parts(settings, store, metrics, directory, room_actors, steps, limits)
    checks = health.Health(
        server_name=settings.server_name,
        version=chatty.__version__,
        checks=[partial(_check_database, store.pool), partial(_check_audit, store.units), readiness.check],
        metrics=metrics,
    )
    append = partial(_append, room_actors, limits, timeout_s=settings.append_timeout_s)
    routes = _routes(settings, store, steps, checks, append)
    asgi = make_quart(
        routes,
        authenticate=steps.sessions.authenticate,
        metrics=metrics,
        body_bytes_max=settings.body_bytes_max,
        limits=RequestLimits(limits),
        proxies=settings.proxy_networks,
    )
    sockets = OpenSockets(sessions_branch, parts, count_max=settings.sessions_max)
    gateway.add_gateway(asgi, sockets.serve, metrics, proxies=settings.proxy_networks)
    commands = {**limit_commands(limits), **steps.registration.commands()}
    await _start_console(settings, root, checks, directory, commands)
    yield App(
        asgi=asgi,
        serve_socket=sockets.serve,
        identity=store.identity,
        directory=directory,
        snapshot=root.snapshot,
        begin_drain=readiness.begin,
        end_sockets=sockets.end_all,
        wait_no_sockets=sockets.wait_none,
        first_invitation=steps.registration.first_invitation,
    )


def _jobs(settings: Settings, store: _Store, doorbells: Doorbells, hooks: Hooks) -> list[Job]:
    """What the janitor does. audit_sealing: with the janitor's jitter, each row is sealed within a second."""
    owed = AppendOwedDevices(units=store.units, doorbells=doorbells, clock=now_ms)
    seal = SealAudit(
        units=store.units,
        signer=store.keys.audit,
        heads=DiskHeadFile(heads_path(settings.data_dir)),
        server=store.identity.name,
        generation=store.identity.generation.number,
        head_interval_s=settings.audit_head_interval_s,
        clock=now_ms,
        crash_points=hooks.crash_points,
    )
    erase = EraseAddresses(units=store.units, retention_days=settings.address_retention_days)
    revocations = CleanUpRevocations(units=store.units)
    registrations = CleanUpRegistrations(units=store.units)
    return [
        Job(name=owed.name, step=owed.step, interval_s=2.0),
        Job(name=revocations.name, step=revocations.step, interval_s=60.0),
        Job(name=registrations.name, step=registrations.step, interval_s=3_600.0),
        Job(name=seal.name, step=seal.step, interval_s=0.5),
        Job(name=erase.name, step=erase.step, interval_s=3_600.0),
    ]


async def _start_writing(
    settings: Settings,
    store: _Store,
    metrics: Metrics,
    hooks: Hooks,
    root: Supervisor,
    directory: Directory,
    steps: _Steps,
) -> RoomActors:
    branch = await root.start_supervisor("journal", intensity=hooks.intensity)
    parts = JournalParts(
        journal=store.journal,
        metrics=metrics,
        crash_points=hooks.crash_points,
        batch_max=settings.journal_batch_max,
    )

    async def run_blocking(inbox: Mailbox[Entry]) -> None:
        await blocking_journal_actor(inbox, parts)

    blocking = await branch.start(ActorSpec(name="blocking", run=run_blocking, mailbox_count_max=1_024))

    async def run_journal(inbox: Mailbox[Entry]) -> None:
        await journal_actor(inbox, parts, blocking)

    journal = await branch.start(ActorSpec(name="group", run=run_journal, mailbox_count_max=settings.journal_queue_max))
    room_actors = RoomActors(
        RoomParts(
            journal=journal,
            streams=steps.streams,
            directory=directory,
            crash_points=hooks.crash_points,
            idle_timeout_s=room_idle_timeout_s,
        )
    )
    await room_actors.open(root, live_count_max=settings.rooms_live_max, intensity=hooks.intensity)
    return room_actors


async def _start_watch(settings: Settings, root: Supervisor, directory: Directory, steps: _Steps) -> None:
    branch = await root.start_supervisor("watch", intensity=generous)

    async def run_compare(inbox: Mailbox[None]) -> None:
        await compare_actor(inbox, directory=directory, streams=steps.streams, interval_s=settings.compare_interval_s)

    async def run_revocations(inbox: Mailbox[None]) -> None:
        await revocation_actor(
            inbox,
            directory=directory,
            streams=steps.streams,
            interval_s=settings.revocation_poll_interval_s,
        )

    async def run_deadlines(inbox: Mailbox[None]) -> None:
        await deadline_actor(inbox, directory=directory, interval_s=deadline_look_interval_s, clock_s=now_s)

    await branch.start(ActorSpec(name="deadlines", run=run_deadlines, mailbox_count_max=1))
    await branch.start(ActorSpec(name="compare", run=run_compare, mailbox_count_max=1))
    await branch.start(ActorSpec(name="revocations", run=run_revocations, mailbox_count_max=1))


async def _start_console(
    settings: Settings,
    root: Supervisor,
    checks: health.Health,
    directory: Directory,
    commands: Mapping[str, ConsoleCommand],
) -> None:
    async def console_health() -> dict[str, Any]:
        readiness: dict[str, Any] = msgspec.to_builtins(await health.look(checks))
        return readiness

    def status() -> dict[str, Any]:
        return {
            "version": chatty.__version__,
            "server_name": settings.server_name,
            "origin": settings.public_origin,
            "sessions_count": len(directory),
        }

    data_dir = settings.data_dir
    sources = ConsoleSources(snapshot=root.snapshot, health=console_health, status=status, commands=commands)
    try:
        await root.start(console_actor(socket_path(data_dir), sources))
    except StartFailed as failure:
        if isinstance(failure.__cause__, ChattyError):  # another server runs on this directory
            raise failure.__cause__ from None
        raise


def limit_commands(limits: Limits) -> dict[str, ConsoleCommand]:
    """What `chatty-admin limits` asks."""

    async def why(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return limits.why(str(arguments["subject"]))

    async def shown(arguments: Mapping[str, Any]) -> dict[str, Any]:
        return limits.shown()

    return {"limits why": why, "limits list": shown}


def _session_parts(
    settings: Settings,
    store: _Store,
    metrics: Metrics,
    directory: Directory,
    room_actors: RoomActors,
    steps: _Steps,
    limits: Limits,
) -> SessionParts:
    return SessionParts(
        directory=directory,
        rooms=room_actors,
        streams=steps.streams,
        checkpoints=steps.checkpoints,
        authenticate=steps.sessions.authenticate,
        make_nonce=lambda: steps.nonces.make(now_s=now_s()),
        generation=store.identity.generation,
        error_frame=error_frame,
        metrics=metrics,
        asking=limits,
        limits=SessionLimits(
            outbox_bytes_max=settings.outbox_bytes_max,
            outbox_write_timeout_s=settings.outbox_write_timeout_s,
            frame_bytes_max=settings.frame_bytes_max,
            hello_timeout_s=settings.hello_timeout_s,
            heartbeat_interval_s=settings.heartbeat_interval_s,
            append_timeout_s=settings.append_timeout_s,
        ),
    )


def _routes(
    settings: Settings,
    store: _Store,
    steps: _Steps,
    checks: health.Health,
    append: Callable[[Draft], Any],
) -> list[Route]:
    info = ServerInfo(
        server_name=settings.server_name,
        origin=settings.public_origin,
        version=chatty.__version__,
        generation=store.identity.generation,
        registration=settings.registration_mode,
        key_derivation=[DEFAULT_DERIVATION],
    )
    routes = [
        *accounts.routes(steps.accounts),
        *sessions.routes(steps.sessions),
        *devices.routes(steps.devices),
        *keys.routes(steps.keys),
        *mailbox.routes(steps.mailbox),
        *rooms.routes(steps.rooms, steps.streams, steps.checkpoints, append),
        *server.routes(info, make_jwks([store.keys.signing])),
        *health.routes(checks),
        asyncapi_route(version=chatty.__version__, origin=settings.public_origin),
    ]
    return [*routes, openapi_route(routes, version=chatty.__version__)]


async def _append(room_actors: RoomActors, limits: Limits, draft: Draft, *, timeout_s: float) -> Committed:
    """Over HTTP: ask the room, wait for the commit."""
    limits.take("sends_device", draft.caller.device, asker_of(draft.caller, "messages"))
    try:
        ref = await room_actors.get(draft.room_number)
        return await ref.ask(Append(draft, trio.current_time() + timeout_s), timeout_s=timeout_s)
    except ActorError as error:
        raise domain_error(error) from error


class OpenSockets:
    """All sockets from their opening on; each takes a place, before its hello too."""

    def __init__(self, branch: Supervisor, parts: SessionParts, *, count_max: int) -> None:
        self._branch = branch
        self._parts = parts
        self._places = trio.CapacityLimiter(count_max)
        self._refs: set[ActorRef[End]] = set()
        self._end: End | None = None
        self._left = trio.Event()

    async def serve(self, socket_: Socket) -> None:
        """One session, until it has ended."""
        try:
            asker = Asker(what="websocket", address=socket_.address)
            self._parts.asking.take("sockets_address", subject_of_address(socket_.address), asker)
        except RateLimited as error:
            await close_with(socket_, self._parts, error)
            return
        try:
            self._places.acquire_on_behalf_of_nowait(socket_)
        except trio.WouldBlock:
            await close_with(socket_, self._parts, Overloaded(limiter="sessions_max", retry_after_s=5.0))
            return
        try:
            await self._live(socket_)
        finally:
            self._places.release_on_behalf_of(socket_)
            self._left.set()
            self._left = trio.Event()

    async def _live(self, socket_: Socket) -> None:
        has_crashed = True

        async def run(inbox: Mailbox[End]) -> None:
            nonlocal has_crashed
            set_origin(Origin(address=socket_.address))
            await session_actor(inbox, socket_, self._parts)
            has_crashed = False

        name = f"session {secrets.token_urlsafe(6)}"
        spec = ActorSpec(name=name, run=run, mailbox_count_max=8, restart=Restart.TEMPORARY)
        ref = await self._branch.start(spec)
        self._refs.add(ref)
        if self._end is not None:
            _tell_end(ref, self._end)
        try:
            await ref.wait_stopped()
        finally:
            self._refs.remove(ref)
        if has_crashed:
            await close_with(socket_, self._parts, OutcomeUnknown("this session crashed; connect again"))

    def end_all(self, error: ChattyError) -> None:
        """Those that are open, and those that will be."""
        self._end = End(error)
        for ref in self._refs:
            _tell_end(ref, self._end)

    async def wait_none(self) -> None:
        """Until every one has been told and closed."""
        while self._places.borrowed_tokens:
            await self._left.wait()


def _tell_end(ref: ActorRef[End], end: End) -> None:
    with suppress(ActorError):  # it ends already, or was told so often that it cannot hear
        ref.tell(end)


class Draining:
    """A readiness check that fails from begin() on: balancers see it before anything is closed."""

    def __init__(self) -> None:
        self._is_draining = False

    def begin(self) -> None:
        self._is_draining = True

    async def check(self) -> health.Check:
        return health.Check(
            name="serving", is_ready=not self._is_draining, reason="draining" if self._is_draining else ""
        )


async def _check_database(pool: Pool) -> health.Check:
    reason = f"not answered within {readiness_timeout_s:g} s"
    with trio.move_on_after(readiness_timeout_s):
        try:
            async with pool.connection() as connection:
                await connection.execute("SELECT 1")
            reason = ""
        except (StoreUnavailable, Overloaded) as error:
            reason = error.code
    return health.Check(name="database", is_ready=not reason, reason=reason)


def leaf_of(group: BaseExceptionGroup[ChattyError]) -> ChattyError:
    """The first error in a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ChattyError)
    return error


async def _check_audit(units: PostgresUnitOfWork) -> health.Check:
    """Never a reason to serve nobody: rows wait safely for the sealer."""
    warning = f"not answered within {readiness_timeout_s:g} s"
    with trio.move_on_after(readiness_timeout_s):
        try:
            async with units.begin() as unit:
                age_s = await unit.audit.unsealed_age_s()
            warning = f"the oldest unsealed row is {age_s:.0f} s old" if age_s > unsealed_age_s_max else ""
        except (StoreUnavailable, Overloaded, OutcomeUnknown) as error:
            warning = error.code
    return health.Check(name="audit", is_ready=True, warning=warning)


def make_asgi() -> Callable[..., Any]:
    """For a plain ASGI server on Trio: settings from the environment, a database URL, everything within the lifespan."""
    listener.mend_hypercorn()
    return LifespanApp()


class LifespanApp:
    """Opens the application at lifespan.startup and drains it at lifespan.shutdown; what stops it from opening is told."""

    def __init__(self) -> None:
        self._app: App | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert self._app is not None, "served before lifespan.startup"
        await self._app.asgi(scope, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            refusal: ChattyError | None = None
            try:
                self._app = await stack.enter_async_context(_open_from_environment())
            except* ChattyError as group:
                refusal = leaf_of(group)
            if refusal is not None:
                await send({"type": "lifespan.startup.failed", "message": f"{refusal.code}: {refusal}"})
                return
            await send({"type": "lifespan.startup.complete"})
            await receive()
            if self._app is not None:
                self._app.begin_drain()
        await send({"type": "lifespan.shutdown.complete"})


@asynccontextmanager
async def _open_from_environment() -> AsyncIterator[App]:
    """Raises: BadConfiguration; as open_app()."""
    try:
        settings = load_settings()
    except ValueError as error:
        raise BadConfiguration(str(error)) from None
    if settings.database_url is None:
        raise BadConfiguration("CHATTY_DATABASE_URL is not set: the embedded database comes with 'chatty up' only")
    configure_logging(settings.log_level, form=settings.log_format)
    async with open_app(settings, address=settings.database_url.get_secret_value()) as app:
        yield app
