"""What a peer may send over a WebSocket before the application knows who it is: one message, and no large one.

    require(bytes_max) ── first message, at most bytes_max ──> nothing more is read ── admit() ──> without a bound of ours

The listener puts an Admission into the scope of each WebSocket. An application that asks for proof calls require() before it
accepts, and admit() once it has the proof; without require() there is no bound. Until admit() the rest stays in the kernel's
buffers: else the queues on the way would hold whatever a stranger sends.
*Cancelled* while it waits: the connection ends, or its application has refused the peer and closes.
"""

from typing import Any

import trio

extension = "chatty.admission"


class MessageTooLarge(Exception):
    """More than a stranger's first message may hold."""


class Admission:
    """Of one WebSocket. is_over: nothing is to be waited for or counted (any more). bytes_left: of the first message."""

    def __init__(self) -> None:
        self.is_over = True
        self.bytes_left = 0
        self._has_spoken = False
        self._admitted = trio.Event()

    def require(self, *, bytes_max: int) -> None:
        self.is_over = False
        self.bytes_left = bytes_max

    def admit(self) -> None:
        self.is_over = True
        self._admitted.set()

    async def take(self, data: bytes | bytearray | str, *, is_last: bool) -> None:
        """A part of a message is to be read; is_last: the message ends with it. Raises: MessageTooLarge."""
        if self._has_spoken:
            await self.wait()
        else:
            self.count(data, is_last=is_last)

    def count(self, data: bytes | bytearray | str, *, is_last: bool) -> None:
        """A part of the first message. Raises: MessageTooLarge."""
        self.bytes_left -= _size_bytes(data)
        if self.bytes_left < 0:
            raise MessageTooLarge
        self._has_spoken = is_last

    async def wait(self) -> None:
        """Until more may be read."""
        if self._has_spoken and not self.is_over:
            await self._admitted.wait()


def admission_of(scope: Any) -> Admission | None:
    """None: served by a listener that knows of none."""
    found: Admission | None = (scope.get("extensions") or {}).get(extension)
    return found


def _size_bytes(data: bytes | bytearray | str) -> int:
    return len(data.encode()) if isinstance(data, str) else len(data)
