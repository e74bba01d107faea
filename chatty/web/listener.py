"""Hypercorn's server, with six faults of its connections mended. Any peer could bring them about, without an account.
What a peer may send before the application knows it is bounded too (admission.py).

*A close between writes.* Its writes take turns under a lock, its close does not take it: a write that comes between raises
BusyResourceError. In its ping task nobody catches that, and the whole server ends. Here such a write is what it is: too late.

*A farewell that waits.* What the peer sends goes to the application through a bounded queue, and so does the news that the
connection has ended. An application that is done reads no more: with a full queue the reader, the farewell and the application
wait for each other for ever, and the connection stays with all that it holds. Here the farewell never waits, and what comes
after it is dropped.

*A close that is cancelled.* The farewell makes Quart cancel what still runs of the request, which may be the very task that is
closing the connection: it stayed open, with nobody to serve it. Here a close is shielded.

*Last words that get lost.* A connection that is closed while the peer still sends is reset, and with it goes what the peer has
not read yet: the refusal of a body, the reason of a WebSocket's end. Here our half is closed, and what comes is thrown away for
a second, before the rest is.

*An end without a reason.* Who sends text that is no UTF-8, or breaks the protocol otherwise, was cut off; who sends more than
the limit was told so and stayed. Here both get their close code (1007, 1002, 1009), and the connection ends.

*A ping that outlives its socket.* The ping task sleeps until its next ping, and holds the connection and its descriptor for so
long. Here it is woken when the last byte was read.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import hypercorn.protocol.h11
import hypercorn.trio.run
import hypercorn.trio.tcp_server
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.ws_stream import FrameTooLargeError, WSStream
from hypercorn.trio.task_group import TaskGroup, _handle
from hypercorn.trio.worker_context import WorkerContext
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason

from chatty.web.admission import Admission, MessageTooLarge, admission_of, extension
from chatty.web.tcp import QuickTcpServer, direct_of

close_timeout_s = 1.0  # nothing waits in a close but TLS, for a peer that does not read
linger_timeout_s = 1.0
_gone = (trio.BrokenResourceError, trio.ClosedResourceError)


class AppQueue:
    """What the peer sends, on its way to the application. Bounded; at the bound the reader waits, but for the farewell."""

    def __init__(self, count_max: int) -> None:
        self._in, self._out = trio.open_memory_channel[Any](count_max)
        self._farewell: Any = None

    async def put(self, event: Any) -> None:
        if event["type"].endswith(".disconnect"):
            self._farewell = event
            self._in.close()
            return
        with suppress(trio.ClosedResourceError):  # it came after the farewell
            await self._in.send(event)

    async def receive(self) -> Any:
        try:
            return await self._out.receive()
        except trio.EndOfChannel:
            return self._farewell


class ConnectionTasks(TaskGroup):
    """The tasks of one connection, its application among them."""

    async def spawn_app(self, app: Any, config: Config, scope: Any, send: Any) -> Callable[[Any], Awaitable[None]]:
        assert self._nursery is not None
        if scope["type"] == "websocket":
            scope["extensions"][extension] = Admission()
        queue = AppQueue(config.max_app_queue_size)
        run_sync, from_thread = trio.to_thread.run_sync, trio.from_thread.run
        self._nursery.start_soon(_handle, app, config, scope, queue.receive, send, run_sync, from_thread)
        return queue.put


class Stream(WSStream):
    """One WebSocket."""

    async def _accept(self, message: Any) -> None:
        """Without compression, whatever the client offers: ciphertext does not compress."""
        self.handshake.extensions = None
        direct = direct_of(self.scope)
        if direct is not None:
            await direct.wait_quiet()  # what came too early is refused before anything is accepted
            if self.closed:
                return
            direct.open_if_claimed()
        await super()._accept(message)

    async def _handle_events(self) -> None:
        assert self.app_put is not None
        for event in self.connection.events():
            match event:
                case Message():
                    try:
                        await self._take(event)
                    except (FrameTooLargeError, MessageTooLarge):
                        await self._end(CloseConnection(code=CloseReason.MESSAGE_TOO_BIG))
                        return
                    if event.message_finished:
                        await self.app_put(self.buffer.to_message())
                        self.buffer.clear()
                case Ping():
                    await self._send_wsproto_event(event.response())
                case CloseConnection():  # the peer's own, or what it did wrong
                    await self._end(event.response())

    async def _take(self, event: Message[Any]) -> None:
        admission = admission_of(self.scope)
        if admission is not None and not admission.is_over:
            await admission.take(event.data, is_last=event.message_finished)
        self.buffer.extend(event)

    async def _end(self, last: CloseConnection) -> None:
        direct = direct_of(self.scope)
        if direct is not None:
            direct.close()
        await self._send_wsproto_event(last)
        await self.send(StreamClosed(stream_id=self.stream_id))


class ConnectionContext(WorkerContext):
    """The worker's context, as one connection sees it."""

    def __init__(self, worker: WorkerContext) -> None:
        self.__dict__.update(worker.__dict__)
        self.mark_request = worker.mark_request  # type: ignore[method-assign]  # counts for the whole worker
        self.is_over = trio.Event()

    async def sleep(self, wait: float) -> None:  # type: ignore[override]  # static there
        with trio.move_on_after(wait):
            await self.is_over.wait()


class TcpServer(QuickTcpServer):
    """One connection."""

    def __init__(self, app: Any, config: Config, context: WorkerContext, *rest: Any) -> None:
        self._context = ConnectionContext(context)
        self._reading = trio.CancelScope()
        super().__init__(app, config, self._context, *rest)

    async def protocol_send(self, event: Any) -> None:
        if isinstance(event, RawData):
            with suppress(trio.BusyResourceError):
                await super().protocol_send(event)
            return
        # Shielded: the farewell makes the application's framework cancel the very task that is closing the connection here.
        with trio.CancelScope(shield=True, deadline=trio.current_time() + close_timeout_s):
            if isinstance(event, Closed):
                await self._end()
            else:
                await super().protocol_send(event)

    async def _end(self) -> None:
        with suppress(*_gone, trio.BusyResourceError, AttributeError):  # TLS has no half of a connection
            await self.stream.send_eof()
        await self.protocol.handle(Closed())
        self._reading.cancel()

    async def _read_data(self) -> None:
        with self._reading:
            await super()._read_data()
        if self._reading.cancelled_caught:
            with trio.move_on_after(linger_timeout_s), suppress(*_gone):
                while await self.stream.receive_some(65_536):
                    pass
            await self._close()
        self._context.is_over.set()  # the protocol knows that it is closed: no further ping follows


def mend_hypercorn() -> None:
    """For every server that Hypercorn starts in this process from now on."""
    hypercorn.protocol.h11.WSStream = Stream  # type: ignore[attr-defined]  # the three seams
    hypercorn.trio.tcp_server.TaskGroup = ConnectionTasks  # type: ignore[attr-defined]  # that Hypercorn
    hypercorn.trio.run.TCPServer = TcpServer  # type: ignore[attr-defined, assignment]  # leaves


async def serve(
    app: Any,
    config: Config,
    *,
    shutdown_trigger: Callable[[], Awaitable[None]],
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """As hypercorn.trio.serve(). started() gives the addresses that it listens on."""
    mend_hypercorn()
    await hypercorn.trio.serve(app, config, shutdown_trigger=shutdown_trigger, task_status=task_status)
