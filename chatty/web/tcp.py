"""Hypercorn's connection with two steps made cheaper, a fifth of a message's CPU together (docs/performance.md).

*A write* goes to the kernel at once, as far as the kernel takes it; only what is left takes the lock and waits.
*A read* has no deadline of its own where none is set.

Under TLS everything goes Hypercorn's way.
"""

import os
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.trio.worker_context import WorkerContext

writes_between_checkpoints = 32  # a peer may make us write much for little: many pings in one packet


class QuickTcpServer(TCPServer):
    """One connection."""

    def __init__(self, app: Any, config: Config, context: WorkerContext, *rest: Any) -> None:
        super().__init__(app, config, context, *rest)
        stream: Any = self.stream
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None  # None: TLS
        self._writes_count = 0

    async def protocol_send(self, event: Any) -> None:
        if not isinstance(event, RawData):
            await super().protocol_send(event)
        elif left := self._write_at_once(event.data):
            # Shielded, as the write itself is: half a frame on the wire must be followed by its other half.
            with trio.CancelScope(shield=True):
                await super().protocol_send(RawData(left))
        else:
            self._writes_count += 1
            if self._writes_count % writes_between_checkpoints == 0:
                await trio.lowlevel.checkpoint()

    def _write_at_once(self, data: bytes) -> Any:
        """Never waits. Returns what the kernel did not take, not copied: all of it while somebody else is writing."""
        if self._socket is None or self.send_lock.locked():
            return data
        try:
            return memoryview(data)[os.write(self._socket.fileno(), data) :]
        except OSError:
            return data  # full, or gone: the long way finds out which

    async def _read_data(self) -> None:
        if self._socket is None or self.config.read_timeout is not None:
            await super()._read_data()
            return
        data: bytes | bytearray = b"not read yet"
        while data:
            try:
                data = await self.stream.receive_some(MAX_RECV)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                break
            await self.protocol.handle(RawData(bytes(data)))
        await self.protocol.handle(Closed())
