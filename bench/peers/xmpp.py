"""Members of a room of a server that speaks XMPP (RFC 6120, XEP-0045), as lean as the scale needs them.

They log in with SASL PLAIN, so that the hashing is the server's. A message is accepted when its sender gets it back: servers with
an archive store it before they hand it on. Ids are found by a pattern, whole stanzas at a time; nothing is parsed as XML.
"""

import base64
import re
import secrets
import socket

from bench.sockets import SocketError, receive_bytes_max

PASSWORD = "pw"
talk_timeout_s = 60.0
_HELLO = (
    b"<?xml version='1.0'?><stream:stream to='localhost' xmlns='jabber:client' "
    b"xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>"
)
_BIND = b"<iq type='set' id='b1'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>b</resource></bind></iq>"
_PING = b"<presence/><iq type='get' id='p1' to='localhost'><ping xmlns='urn:xmpp:ping'/></iq>"
_END = b"</message>"
_NUMBER = re.compile(
    rb"<message\b[^>]*?from=['\"][^'\"]*/n(\d+)['\"][^>]*>(?:(?!</message>).)*?<body>#(\d{7})", re.DOTALL
)
_NUMBER_TEXT_BYTES = len("#0000000 ")
_FAILURES = (b"<failure", b"type='error'", b'type="error"', b"<stream:error")


class XmppMember:
    """The member number `index` of a room, nicknamed after it. Blocking until join() has returned."""

    def __init__(self, host: str, port: int, *, user: str, room: str, index: int) -> None:
        self.received: list[int] = []
        self.resync_count = 0
        self._user, self._room, self._index = user, room, index
        self._socket = socket.create_connection((host, port), talk_timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = self._unsent = b""

    def fileno(self) -> int:
        return self._socket.fileno()

    def log_in(self) -> None:
        """Up to a presence that the server has dealt with."""
        secret = base64.b64encode(f"\0{self._user}\0{PASSWORD}".encode())
        self._talk(_HELLO, b"</stream:features>")
        auth = b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + secret + b"</auth>"
        self._talk(auth, b"<success")
        self._left = b""
        self._talk(_HELLO, b"</stream:features>")
        self._talk(_BIND, b"</iq>")
        self._talk(_PING, b"p1")

    def join(self) -> None:
        history = "<x xmlns='http://jabber.org/protocol/muc'><history maxstanzas='0'/></x>"
        self._talk(f"<presence to='{self._room}/n{self._index}'>{history}</presence>".encode(), b"<subject")
        self._left = b""

    def go_live(self) -> None:
        self._socket.setblocking(False)

    def make_body(self, number: int, *, size_bytes: int) -> bytes:
        """Text of so many bytes."""
        padding = secrets.token_hex(size_bytes)[: size_bytes - _NUMBER_TEXT_BYTES]
        return f"#{number:07} {padding}".encode()

    def send(self, number: int, body: bytes) -> None:
        self._unsent += (
            f"<message to='{self._room}' type='groupchat' id='m{number}'><body>".encode() + body + b"</body></message>"
        )
        self.flush()

    def flush(self) -> bool:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        return not self._unsent

    def read(self) -> tuple[list[int], int]:
        try:
            self._left += self._receive()
        except BlockingIOError:
            return [], 0
        end = self._left.rfind(_END)
        if end < 0:
            return [], 0
        whole, self._left = self._left[: end + len(_END)], self._left[end + len(_END) :]
        found = [(int(sender), int(number)) for sender, number in _NUMBER.findall(whole)]
        return [number for _, number in found], sum(sender == self._index for sender, _ in found)

    def close(self) -> None:
        self._socket.close()

    def _receive(self) -> bytes:
        data = self._socket.recv(receive_bytes_max)
        if not data:
            raise SocketError(f"closed by the server: {self._left[-200:]!r}")
        return data

    def _talk(self, said: bytes, wanted: bytes) -> None:
        """Say it, and read until the answer is there. Raises: SocketError for a refusal."""
        self._socket.sendall(said)
        while wanted not in self._left:
            self._left += self._receive()
            if any(failure in self._left for failure in _FAILURES):
                raise SocketError(f"refused: {self._left[-500:]!r}")
        self._left = self._left[self._left.index(wanted) + len(wanted) :]
