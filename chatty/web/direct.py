"""The direct path: the WebSocket at /v1/ws past Quart and, frame by frame, past Hypercorn (docs/performance.md).

An ASGI application in front of Quart serves the socket's route where the connection can be direct (tcp.py); everything else is
Quart's, the socket too where it cannot: under Hypercorn's TLS, over HTTP/2, on a server that is not Hypercorn. The handshake,
pings, pongs, closes and every frame that is not plain stay with Hypercorn, so both paths judge what is wrong alike.

A message leaves as a whole frame, written from the loop that hands it out; what the kernel does not take, the session's writer
sends. *The peer has gone*: `receive` gives what had come, then raises; nothing is written any more. *Cancelled* in a write: the
rest of that frame goes out before the close.

It relies on what Hypercorn does not promise. So the installed Hypercorn is compared with the one that this was written for; if it
is another one, everything is served by the plain path.
"""

import importlib.metadata
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import hypercorn.protocol
import hypercorn.protocol.h11
import hypercorn.protocol.ws_stream
import hypercorn.trio.run
import hypercorn.trio.tcp_server
import structlog
import trio
from quart_trio import QuartTrio

from chatty.actors.outbox import TrySend
from chatty.actors.sessions import Socket, SocketClosed
from chatty.errors import UnsupportedVersion
from chatty.telemetry import Metrics
from chatty.web.addresses import Network, client_address
from chatty.web.admission import Admission, admission_of
from chatty.web.gateway import ServeSocket, checked, path
from chatty.web.tcp import Direct, direct_of
from chatty.wire.frames import ENCODINGS, JSON_SUBPROTOCOL, Encoding
from chatty.wire.limits import hello_bytes_max
from chatty.wire.websocket import server_frame

hypercorn_version = "0.18."
# module, class, method -> its parameters: what is overridden, called or taken for granted
_KNOWN = {
    (hypercorn.trio.tcp_server, "TCPServer", "__init__"): "self app config context state stream",
    (hypercorn.trio.tcp_server, "TCPServer", "protocol_send"): "self event",
    (hypercorn.trio.tcp_server, "TCPServer", "_read_data"): "self",
    (hypercorn.protocol, "ProtocolWrapper", "handle"): "self event",
    (hypercorn.protocol.h11, "H11WSConnection", "receive_data"): "self data",
    (hypercorn.protocol.ws_stream, "WSStream", "handle"): "self event",
    (hypercorn.protocol.ws_stream, "WSStream", "app_send"): "self message",
    (hypercorn.protocol.ws_stream, "WSStream", "_accept"): "self message",
}

log = structlog.get_logger("chatty.direct")
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def misfits() -> list[str]:
    """What of the installed Hypercorn is not as it was when this was written; empty: the direct path may be used."""
    version = importlib.metadata.version("hypercorn")
    found = [] if version.startswith(hypercorn_version) else [f"version {version}"]
    for (module, class_name, method), known in _KNOWN.items():
        function = getattr(getattr(module, class_name, None), method, None)
        if function is None or " ".join(inspect.signature(function).parameters) != known:
            found.append(f"{class_name}.{method}")
    if not hasattr(hypercorn.trio.run, "TCPServer"):
        found.append("run.TCPServer")
    return found


def is_usable() -> bool:
    """Whether sockets may be served directly; if not, the log tells why."""
    found = misfits()
    if found:
        log.warning("direct_path.refused", hypercorn=importlib.metadata.version("hypercorn"), misfits=found)
    return not found


class DirectSocket(Socket):
    """One WebSocket on the direct path. send: of ASGI, for the close."""

    def __init__(
        self, direct: Direct, admission: Admission, send: Send, encoding: Encoding, *, address: str = ""
    ) -> None:
        self._direct = direct
        self._admission = admission
        self._send = send
        self._encoding = encoding
        self._address = address

    @property
    def encoding(self) -> Encoding:
        return self._encoding

    @property
    def address(self) -> str:
        return self._address

    @property
    def try_send(self) -> TrySend:
        return self._direct.try_send

    async def receive(self) -> bytes | str:
        return checked(await self.receive_message(), self._encoding)

    async def receive_message(self) -> bytes | str:
        """The next message of either kind. Raises: SocketClosed."""
        try:
            return await self._direct.receive()
        except trio.EndOfChannel:
            raise SocketClosed from None

    async def send(self, frame: bytes) -> None:
        await self._write(server_frame(frame, is_text=self._encoding == "json") if frame else b"")

    async def send_message(self, message: bytes | str) -> None:
        """Raises: SocketClosed. May wait, as send() does."""
        is_text = isinstance(message, str)
        await self._write(server_frame(message.encode() if isinstance(message, str) else message, is_text=is_text))

    async def _write(self, frame: bytes) -> None:
        try:
            await self._direct.send(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise SocketClosed from None

    async def close(self, code: int, reason: str) -> None:
        if self._direct.is_open:
            self._direct.close()
            await self._send({"type": "websocket.close", "code": code, "reason": reason})

    def admit(self) -> None:
        self._admission.admit()


@asynccontextmanager
async def accepted(
    direct: Direct, admission: Admission, receive: Receive, send: Send, *, subprotocol: str | None = None
) -> AsyncIterator[None]:
    """Accept the handshake; messages go directly until the block is left."""
    await receive()
    direct.claim(admission)
    await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_relay, direct, receive)
        try:
            yield
        finally:
            direct.end()
            nursery.cancel_scope.cancel()


async def _relay(direct: Direct, receive: Receive) -> None:
    """What came through Hypercorn, until the connection has ended."""
    while (event := await receive())["type"] == "websocket.receive":
        message = event.get("bytes")
        await direct.put(event["text"] if message is None else message)
    direct.end()


class DirectGateway:
    """In front of Quart. `serve` returns when the session has ended. proxies: whose X-Forwarded-For is believed."""

    def __init__(
        self, quart: QuartTrio, serve: ServeSocket, metrics: Metrics, *, proxies: Sequence[Network] = ()
    ) -> None:
        self._quart = quart
        self._serve = serve
        self._metrics = metrics
        self._proxies = proxies

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        direct = direct_of(scope) if _is_our_route(scope) else None
        if direct is None:
            await self._quart(scope, receive, send)
        else:
            await self._serve_directly(direct, scope, receive, send)

    async def _serve_directly(self, direct: Direct, scope: Any, receive: Receive, send: Send) -> None:
        chosen = next((name for name in scope["subprotocols"] if name in ENCODINGS), None)
        admission = admission_of(scope) or Admission()
        admission.require(bytes_max=hello_bytes_max)
        async with accepted(direct, admission, receive, send, subprotocol=chosen):
            encoding = ENCODINGS[chosen or JSON_SUBPROTOCOL]
            socket = DirectSocket(direct, admission, send, encoding, address=self._address_of(scope))
            if chosen is None:
                await socket.close(UnsupportedVersion.close_code or 4406, UnsupportedVersion.code)
                return
            self._metrics.websocket_connections.inc()
            try:
                await self._serve(socket)
            finally:
                self._metrics.websocket_connections.dec()

    def _address_of(self, scope: Any) -> str:
        forwarded = [value.decode("latin1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        return client_address((scope["client"] or [""])[0], forwarded, proxies=self._proxies)


def _is_our_route(scope: Any) -> bool:
    """HTTP/2 has another connection below its WebSockets, and many of them in one."""
    return (scope["type"], scope.get("path"), scope.get("http_version")) == ("websocket", path, "1.1")
