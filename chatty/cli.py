"""The command `chatty`: up (everything embedded), serve (needs a database URL).

Order of an orderly stop, whatever asked for it (SIGINT, SIGTERM): not ready → a pause for balancers → sessions are told and
closed → Hypercorn stops → actors drain → pool → embedded PostgreSQL, last. PostgreSQL lives in a process group of its own, so a
terminal's Ctrl-C does not reach it. A second signal cuts the stop short, and so does one that comes before the server serves;
from the first line on until the database has stopped none kills the process.
"""

import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import structlog
import trio
from hypercorn.config import Config

from chatty import __version__
from chatty.app import App, Hooks, leaf_of, make_data_dir, open_app
from chatty.config import Settings, load_settings
from chatty.errors import AddressUnavailable, BadConfiguration, ChattyError
from chatty.store import schema
from chatty.store.embedded import open_embedded
from chatty.telemetry import configure_logging
from chatty.web import listener

log = structlog.get_logger("chatty.cli")
interrupted_exit_code = 130
tell_timeout_s = 0.5  # how long closing frames get before the listener stops


class _Commands(click.Group):
    """The one place where errors become exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        code = 0
        try:
            super().invoke(ctx)
        except* ChattyError as group:
            first = leaf_of(group)
            click.echo(f"{first.code}: {first}", err=True)
            code = first.exit_code
        except* KeyboardInterrupt:
            code = interrupted_exit_code
        ctx.exit(code)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="chatty")
def main() -> None:
    """Chatty: the end-to-end encrypted chat server."""


@main.command()
def up() -> None:
    """Run everything here: embedded PostgreSQL, upgraded by itself, and the server."""
    settings = _settings()
    signal.signal(signal.SIGTERM, _nothing)  # what stands behind Trio's own receiver, when that is closed
    trio.run(partial(_up, settings))


@main.command()
def serve() -> None:
    """Run the server on the database of CHATTY_DATABASE_URL; its schema must be current."""
    settings = _settings()
    if settings.database_url is None:
        raise BadConfiguration("CHATTY_DATABASE_URL is not set; 'chatty up' runs with an embedded database")
    address = settings.database_url.get_secret_value()
    signal.signal(signal.SIGTERM, _nothing)
    trio.run(partial(run_server, settings, address=address, on_started=spare_the_collector, invites_owner=True))


@main.command()
@click.option("--url", metavar="ORIGIN", help="A running server, as http://127.0.0.1:8000; else one is started for it.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON, with stable keys.")
@click.pass_context
def demo(context: click.Context, url: str | None, as_json: bool) -> None:
    """Two people talk; then all that the server stored is searched for their words."""
    from chatty.demo import run  # a server has no need of the client and its cryptography

    context.exit(run.demo(url, as_json=as_json))


def _settings() -> Settings:
    try:
        settings = load_settings()
    except ValueError as error:
        raise BadConfiguration(str(error)) from None
    configure_logging(settings.log_level, form=settings.log_format)
    return settings


def _nothing(*_: object) -> None:
    """For a signal after the end. A handler, as children would inherit that a signal is ignored."""


async def _up(settings: Settings) -> None:
    async with open_signals() as signals, AsyncExitStack() as stack:
        if settings.database_url is not None:
            address = settings.database_url.get_secret_value()
        else:
            data_dir = settings.data_dir
            await make_data_dir(data_dir)
            address = (await stack.enter_async_context(open_embedded(data_dir / "postgres"))).address
        await schema.upgrade(address)
        await run_server(settings, address=address, signals=signals, on_started=spare_the_collector, invites_owner=True)


async def run_server(
    settings: Settings,
    *,
    address: str,
    hooks: Hooks | None = None,
    signals: "Signals | None" = None,
    on_started: Callable[[], None] = lambda: None,
    invites_owner: bool = False,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until SIGINT or SIGTERM, then stop in order. started() gives the address that it listens on.

    signals: whoever else has something to stop after this has opened them. invites_owner: at the first start, print an invitation
    for the first owner to stdout.
    """
    stopped = trio.Event()
    async with (
        open_signals() if signals is None else nullcontext(signals) as signals,
        open_app(settings, address=address, hooks=hooks) as app,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_drain, app, signals.stop, stopped, settings.drain_notice_s)
        bound = await nursery.start(_listen, app, settings, stopped, nursery.cancel_scope)
        log.info("server.started", address=bound, origin=settings.public_origin)
        if invites_owner:
            print_invitation(await app.first_invitation())
        on_started()
        signals.is_serving = True
        task_status.started(bound)
        await stopped.wait()
        hasten_stuck_peers(bound)
        nursery.cancel_scope.deadline = trio.current_time() + settings.drain_timeout_s
    log.info("server.stopped")


def print_invitation(token: str | None) -> None:
    """Never into the log: whoever has it becomes the owner."""
    if token is not None:
        click.echo("There is no account yet. The first owner registers with this invitation, once, within 7 days:")
        click.echo(f"  {token}")


def spare_the_collector() -> None:
    """For a process that is a server and nothing else: what is there at the start lives to its end, so it is not looked at again.

    A message makes hundreds of objects and hardly a cycle: looking for cycles at every 10,000th instead of every 700th halves
    the slowest deliveries (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


async def _listen(
    app: App,
    settings: Settings,
    stopped: trio.Event,
    whole: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Hypercorn, from its sockets to its end; then whatever ran beside it ends too."""
    async with trio.open_nursery() as nursery:
        run = partial(listener.serve, app.asgi, hypercorn_config(settings), shutdown_trigger=stopped.wait)
        bound = await nursery.start(run)
        task_status.started(bound[0])
    whole.cancel()


def hypercorn_config(settings: Settings) -> Config:
    """Hypercorn with our limits; the listener's sockets end peers that never read (TCP_USER_TIMEOUT is inherited)."""
    config = ListenConfig.from_mapping(
        bind=[f"{settings.host}:{settings.port}"],
        accesslog=None,
        errorlog=logging.getLogger("hypercorn.error"),
        graceful_timeout=settings.drain_timeout_s / 2,
        websocket_max_message_size=settings.frame_bytes_max,
        websocket_ping_interval=settings.heartbeat_interval_s,
        include_server_header=False,
        backlog=1024,
    )
    assert isinstance(config, ListenConfig)
    config.tcp_user_timeout_ms = round(settings.tcp_user_timeout_s * 1000)
    return config


class ListenConfig(Config):
    tcp_user_timeout_ms = 30_000

    def create_sockets(self) -> Any:
        """Raises: AddressUnavailable."""
        try:
            sockets = super().create_sockets()
        except OSError as error:
            raise AddressUnavailable(address=", ".join(self.bind), reason=error.strerror or str(error)) from None
        for one in sockets.insecure_sockets:
            set_user_timeout(one, self.tcp_user_timeout_ms)
        return sockets


def set_user_timeout(one: socket.socket, timeout_ms: int) -> None:
    """Where the system has it (Linux): unacknowledged bytes older than this end the connection."""
    if (option := getattr(socket, "TCP_USER_TIMEOUT", None)) is not None:
        one.setsockopt(socket.IPPROTO_TCP, option, timeout_ms)


def hasten_stuck_peers(bound: str) -> None:
    """At shutdown, peers that never read get 200 ms: Hypercorn's send() to them cannot be cancelled.

    The accepted sockets are Hypercorn's and hidden; they are found among this process's descriptors by their local port.
    """
    port = int(bound.rsplit(":", 1)[1])
    for entry in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").exists() else ():
        try:
            with socket.socket(fileno=socket.dup(int(entry.name))) as one:
                if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockname()[1] == port:
                    set_user_timeout(one, 200)
        except OSError:
            continue  # no socket, or gone meanwhile


@dataclass
class Signals:
    """stop: set by the first SIGINT or SIGTERM while the server serves."""

    stop: trio.Event = field(default_factory=trio.Event)
    is_serving: bool = False

    async def receive(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Raises: KeyboardInterrupt at a signal before it serves, and at a second one."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for number in signals:
                if self.stop.is_set() or not self.is_serving:
                    raise KeyboardInterrupt
                log.info("server.stopping", signal=signal.Signals(number).name)
                self.stop.set()


@asynccontextmanager
async def open_signals() -> AsyncIterator[Signals]:
    """Until the block's end no signal kills the process: it stops the server, or cancels the block."""
    signals = Signals()
    async with trio.open_nursery() as nursery:
        await nursery.start(signals.receive)
        yield signals
        nursery.cancel_scope.cancel()


async def _drain(app: App, stop: trio.Event, stopped: trio.Event, notice_s: float) -> None:
    await stop.wait()
    app.begin_drain()
    await trio.sleep(notice_s)
    app.end_sockets()
    with trio.move_on_after(tell_timeout_s):
        await app.wait_no_sockets()
    stopped.set()
