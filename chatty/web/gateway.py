"""The WebSocket at /v1/ws: Quart-Trio's websocket behind the Socket port. The plain path: any ASGI server, TLS in Hypercorn.
The other one, which is quicker, is in direct.py.

Traps of the libraries, handled here: Quart's receive() returns None for an empty binary frame; after a peer has gone send()
returns at once, without error or checkpoint; send() cannot be cancelled while a peer does not read, so the session bounds what
it feeds.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio
from quart import Websocket, websocket
from quart_trio import QuartTrio

from chatty.actors.sessions import Socket, SocketClosed
from chatty.errors import BadRequest, UnsupportedVersion
from chatty.telemetry import Metrics
from chatty.web.addresses import Network, client_address
from chatty.web.admission import admission_of
from chatty.wire.frames import ENCODINGS, Encoding
from chatty.wire.limits import hello_bytes_max

path = "/v1/ws"
ServeSocket = Callable[[Socket], Awaitable[None]]


def checked(message: bytes | str, encoding: Encoding) -> bytes | str:
    """Raises: BadRequest for a message that is not of the encoding's kind."""
    if isinstance(message, str) != (encoding == "json"):
        raise BadRequest("text frames hold JSON, binary frames MessagePack")
    return message


class QuartSocket(Socket):
    """One accepted websocket of Quart-Trio."""

    def __init__(self, inner: Websocket, encoding: Encoding, address: str = "") -> None:
        self._inner = inner
        self._encoding = encoding
        self._address = address
        self._is_closed = False
        self._receiving = trio.CancelScope()

    @property
    def encoding(self) -> Encoding:
        return self._encoding

    @property
    def address(self) -> str:
        return self._address

    async def receive(self) -> bytes | str:
        return checked(await self.receive_message(), self._encoding)

    async def receive_message(self) -> bytes | str:
        """The next message of either kind. Raises: SocketClosed."""
        data: Any = None
        with trio.CancelScope() as self._receiving:
            if self._is_closed:
                raise SocketClosed
            data = await self._inner.receive()
        if self._receiving.cancelled_caught:
            raise SocketClosed
        message: bytes | str = b"" if data is None else data
        return message

    async def send(self, frame: bytes) -> None:
        await self.send_message(frame.decode() if self._encoding == "json" else frame)

    async def send_message(self, message: bytes | str) -> None:
        """Raises: SocketClosed. May block, as send() does."""
        if self._is_closed:
            raise SocketClosed
        await self._inner.send(message)

    async def close(self, code: int, reason: str) -> None:
        if not self._is_closed:
            self._is_closed = True
            await self._inner.close(code, reason)

    def admit(self) -> None:
        admission = admission_of(self._inner.scope)
        if admission is not None:
            admission.admit()

    def note_gone(self) -> None:
        """The peer has gone: nothing more is sent, and who waits for its next message is told."""
        self._is_closed = True
        self._receiving.cancel()


def add_gateway(app: QuartTrio, serve: ServeSocket, metrics: Metrics, *, proxies: Sequence[Network] = ()) -> None:
    """Route the socket. `serve` returns when the session has ended. proxies: whose X-Forwarded-For is believed."""

    async def gateway() -> None:
        inner = websocket._get_current_object()  # type: ignore[attr-defined]
        forwarded = inner.headers.getlist("X-Forwarded-For")
        address = client_address(inner.remote_addr or "", forwarded, proxies=proxies)
        await serve_websocket(inner, serve, metrics, address)

    app.add_websocket(path, endpoint="gateway", view_func=gateway)


async def serve_websocket(inner: Websocket, serve: ServeSocket, metrics: Metrics, address: str) -> None:
    offered = inner.requested_subprotocols
    chosen = next((name for name in offered if name in ENCODINGS), None)
    admission = admission_of(inner.scope)
    if admission is not None:
        admission.require(bytes_max=hello_bytes_max)
    await inner.accept(subprotocol=chosen)
    if chosen is None:
        await inner.close(UnsupportedVersion.close_code or 4406, UnsupportedVersion.code)
        return
    socket = QuartSocket(inner, ENCODINGS[chosen], address)
    metrics.websocket_connections.inc()
    try:
        await serve(socket)
    finally:
        socket.note_gone()
        metrics.websocket_connections.dec()
