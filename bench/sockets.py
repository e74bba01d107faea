"""WebSockets as lean as a load generator needs them: plain sockets, frames made and parsed by hand (RFC 6455).

The masking key is zero, which is legal and leaves the payload as it is; permessage-deflate is not offered, and whoever sends
fragments, texts or a close is an error: this is not a client, it is a scale.
"""

import base64
import os
import socket
from collections.abc import Callable

connect_timeout_s = 10.0
receive_bytes_max = 262_144
_BINARY, _CLOSE, _PING, _PONG = 0x82, 0x88, 0x89, 0x8A


class SocketError(Exception):
    """The server closed, or sent what is not expected of it."""


def masked_frame(payload: bytes, *, first: int = _BINARY) -> bytes:
    """One whole frame of a client."""
    size = len(payload)
    if size < 126:
        header = bytes((first, 0x80 | size))
    elif size < 65_536:
        header = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        header = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    return header + b"\x00\x00\x00\x00" + payload


def upgrade_request(host: str, port: int, path: str, *, subprotocol: str = "") -> bytes:
    """What a client says first."""
    key = base64.b64encode(os.urandom(16)).decode()
    wanted = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{wanted}\r\n"
    )
    return request.encode()


def after_upgrade(answer: bytes) -> bytes | None:
    """What came behind the 101; None: it is not here whole. Raises: SocketError when it is another answer."""
    head, end, rest = answer.partition(b"\r\n\r\n")
    if not end:
        return None
    status = head.split(b"\r\n")[0]
    if b" 101 " not in status:
        raise SocketError(f"no upgrade: {status.decode(errors='replace')}")
    return rest


def open_socket(host: str, port: int, path: str, *, subprotocol: str = "") -> "ClientSocket":
    """Blocking, to the 101."""
    connected = socket.create_connection((host, port), connect_timeout_s)
    connected.sendall(upgrade_request(host, port, path, subprotocol=subprotocol))
    answer, rest = b"", None
    while rest is None:
        answer += _receive_some(connected)
        rest = after_upgrade(answer)
    return ClientSocket(connected, rest)


def _receive_some(connected: socket.socket) -> bytes:
    data = connected.recv(receive_bytes_max)
    if not data:
        raise SocketError("closed by the server")
    return data


class ClientSocket:
    """One open WebSocket; left: what was read behind the 101.

    Blocking until `go_live()`; then `receive()` gives what is there, and `send()` never waits.
    """

    def __init__(self, connected: socket.socket, left: bytes = b"") -> None:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connected
        self._left = left
        self._unsent = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def next_message(self) -> bytes:
        """Blocking: the next data frame's payload."""
        while True:
            if found := self._take_frames(count_max=1):
                return found[0]
            self._left += _receive_some(self._socket)

    def send_now(self, payload: bytes) -> None:
        """Blocking."""
        self._socket.sendall(masked_frame(payload))

    def go_live(self) -> None:
        self._socket.setblocking(False)

    def send(self, payload: bytes) -> None:
        """What the kernel does not take is kept and goes before the next."""
        self._unsent += masked_frame(payload)
        self.flush()

    @property
    def is_flushed(self) -> bool:
        return not self._unsent

    def flush(self) -> None:
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent)
                self._unsent = self._unsent[sent:]
        except BlockingIOError:
            pass

    def receive(self, take: Callable[[bytes], None]) -> None:
        """Give the payload of each frame that has come to `take`."""
        try:
            data = _receive_some(self._socket)
        except BlockingIOError:
            return
        self._left = self._left + data if self._left else data
        self.take_left(take)

    def take_left(self, take: Callable[[bytes], None]) -> None:
        """The frames that were read already."""
        for payload in self._take_frames():
            take(payload)
        if self._unsent:
            self.flush()

    def _take_frames(self, *, count_max: int = 1_000_000) -> list[bytes]:
        """Payloads of the data frames that are here whole."""
        buffer, at, end = self._left, 0, len(self._left)
        found: list[bytes] = []
        while end - at >= 2 and len(found) < count_max:
            first, size = buffer[at], buffer[at + 1]
            start = at + 2
            if size == 126:
                size, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, start = int.from_bytes(buffer[at + 2 : at + 10], "big"), at + 10
            if end < start + size:
                break
            payload, at = buffer[start : start + size], start + size
            if first == _BINARY:
                found.append(payload)
            else:
                self._control(first, payload)
        self._left = buffer[at:] if at else buffer
        return found

    def _control(self, first: int, payload: bytes) -> None:
        if first == _PING:
            self._unsent += masked_frame(payload, first=_PONG)
        elif first == _CLOSE:
            raise SocketError(f"closed with {int.from_bytes(payload[:2], 'big')}: {payload[2:]!r}")
        elif first != _PONG:
            raise SocketError(f"a frame of kind {first:#x}")
