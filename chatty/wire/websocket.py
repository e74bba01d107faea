"""WebSocket frames as bytes (RFC 6455, section 5): making those of a server, and telling those of a client apart.

A Splitter takes whatever has come and gives back the messages that are plain: one frame, final, masked, of text or bytes, not
over the limit, text being UTF-8. All else is somebody else's to judge, a full implementation of the protocol, which gets it byte
for byte:

    plain ── ping, pong ──> plain; the frame is given away whole
    plain ── anything else, or a frame that is too large ──> over: it and all that follows is given away

So nothing overtakes what was given away, and what is wrong is refused in one place only.
"""

from typing import NamedTuple

_TEXT, _BINARY, _PING, _PONG = 0x81, 0x82, 0x89, 0x8A  # each of one frame: the final bit, no reserved ones
_MASKED = 0x80
_SHORT, _LONG = 126, 127  # in place of a size: two or eight bytes with it follow
_control_bytes_max = 125
_NOT_PLAIN = -1


def server_frame(payload: bytes, *, is_text: bool) -> bytes:
    """One whole message in one frame, as servers send it: not masked."""
    return server_header(len(payload), is_text=is_text) + payload


def server_header(size_bytes: int, *, is_text: bool) -> bytes:
    first = _TEXT if is_text else _BINARY
    if size_bytes < _SHORT:
        return bytes((first, size_bytes))
    if size_bytes < 65_536:
        return bytes((first, _SHORT)) + size_bytes.to_bytes(2, "big")
    return bytes((first, _LONG)) + size_bytes.to_bytes(8, "big")


def unmasked(payload: bytes, key: bytes) -> bytes:
    """Masking is its own inverse."""
    size = len(payload)
    repeated = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")).to_bytes(size, "little")


class Split(NamedTuple):
    """messages: in order, text as str. others: what is given away, as bytes."""

    messages: list[bytes | str]
    others: bytes


class Splitter:
    """Of one connection. It keeps one unfinished frame, and what came behind the messages that were asked for."""

    def __init__(self) -> None:
        self.is_over = False
        self.has_more = False  # there may be another message in what has come: ask again before more is read
        self._kept = bytearray()
        self._wanted_bytes = 0  # fewer of them kept are no whole frame

    def split(self, data: bytes, *, bytes_max: int, count_max: int) -> Split:
        """bytes_max: of a message. count_max: messages at once; the next call may come without data."""
        if self._kept:
            self._kept += data
            if len(self._kept) < self._wanted_bytes and not self.is_over:
                return Split([], b"")
            data = bytes(self._kept)
        messages: list[bytes | str] = []
        others: list[bytes] = []
        at = 0
        while len(messages) < count_max and not self.is_over and at < len(data):
            ends = _plain_end(data, at, bytes_max)
            if ends > len(data):
                self._wanted_bytes = ends - at
                break
            at = self._take(data, at, ends, messages, others)
        if self.is_over:
            others.append(data[at:])
            at = len(data)
        if self._kept or at < len(data):
            self._kept = bytearray(data[at:])
        self.has_more = at < len(data) and len(messages) == count_max
        if self.has_more:
            self._wanted_bytes = 0
        return Split(messages, b"".join(others))

    def give_up(self) -> bytes:
        """Nothing comes any more: what an unfinished frame has so far may be wrong already."""
        kept, self._kept = bytes(self._kept), bytearray()
        self.is_over = True
        return kept

    def _take(self, data: bytes, at: int, ends: int, messages: list[bytes | str], others: list[bytes]) -> int:
        """The frame there, which is whole. Returns where the next one begins; the same place if this one makes an end."""
        if ends == _NOT_PLAIN:
            self.is_over = True
            return at
        if data[at] in (_PING, _PONG):
            others.append(data[at:ends])
            return ends
        key_at = at + _key_offset(data[at + 1] - _MASKED)
        payload = unmasked(data[key_at + 4 : ends], data[key_at : key_at + 4])
        try:
            messages.append(payload.decode() if data[at] == _TEXT else payload)
        except UnicodeDecodeError:
            self.is_over = True
            return at
        return ends


def _key_offset(size: int) -> int:
    return 2 if size < _SHORT else 4 if size == _SHORT else 10


def _plain_end(data: bytes, at: int, bytes_max: int) -> int:
    """Where the frame there ends, as far as can be told yet: at least there. _NOT_PLAIN as soon as that can be told."""
    if len(data) - at < 2:
        return at + 2
    first, size = data[at], data[at + 1] - _MASKED
    key_at = at + _key_offset(size)
    if size < 0 or first not in (_BINARY, _TEXT, _PING, _PONG) or (first & 0x08 and size > _control_bytes_max):
        return _NOT_PLAIN
    if size >= _SHORT:
        if len(data) < key_at:
            return key_at
        is_needed_from = _SHORT if size == _SHORT else 65_536
        size = int.from_bytes(data[at + 2 : key_at], "big")
        if size < is_needed_from:  # could have been said in fewer bytes
            return _NOT_PLAIN
    return key_at + 4 + size if size <= bytes_max else _NOT_PLAIN
