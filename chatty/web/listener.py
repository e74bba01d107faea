"""Hypercorn's server, with two faults of its connections mended.

*A close between writes.* Its writes take turns under a lock, its close does not take it: a write that comes between raises
BusyResourceError. In its ping task nobody catches that, and the whole server ends; any peer can bring it about, without an
account, by closing a WebSocket right after opening it. Here such a write is what it is: too late.

*A ping that outlives its socket.* The ping task sleeps until its next ping, and holds the connection and its descriptor for so
long. Here it is woken when the last byte was read.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import hypercorn.trio.run
import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext


class ConnectionContext(WorkerContext):
    """The worker's context, as one connection sees it."""

    def __init__(self, worker: WorkerContext) -> None:
        self.__dict__.update(worker.__dict__)
        self.mark_request = worker.mark_request  # type: ignore[method-assign]  # counts for the whole worker
        self.is_over = trio.Event()

    async def sleep(self, wait: float) -> None:  # type: ignore[override]  # static there
        with trio.move_on_after(wait):
            await self.is_over.wait()


class TcpServer(TCPServer):
    """One connection."""

    def __init__(self, app: Any, config: Config, context: WorkerContext, *rest: Any) -> None:
        self._context = ConnectionContext(context)
        super().__init__(app, config, self._context, *rest)

    async def protocol_send(self, event: Any) -> None:
        try:
            await super().protocol_send(event)
        except trio.BusyResourceError:
            await trio.lowlevel.checkpoint()

    async def _read_data(self) -> None:
        await super()._read_data()  # at its end the protocol knows that it is closed: no further ping follows
        self._context.is_over.set()


async def serve(
    app: Any,
    config: Config,
    *,
    shutdown_trigger: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As hypercorn.trio.serve(). started() gives the addresses that it listens on."""
    hypercorn.trio.run.TCPServer = TcpServer  # type: ignore[attr-defined, assignment]  # the one seam that Hypercorn leaves
    await hypercorn.trio.serve(app, config, shutdown_trigger=shutdown_trigger, task_status=task_status)
