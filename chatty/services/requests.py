"""(device, n) names one exact request for ever; the one rule about it (docs/protocol.md, "Sending").

The client counts n up and says with each request its `low`: everything below is settled on its own disk, so the server may
forget it. The rule runs in the committing transaction, after the device's send row is locked; `low` and the recorded request
are read in one statement. What it returns or raises is the same for every copy of a request, in whatever order copies arrive.
"""

from dataclasses import dataclass
from typing import Protocol

from chatty.errors import DeviceRevoked, MessageIdClosed, MessageIdConflict, SendWindowFull
from chatty.ids import DeviceNumber, SendNumber
from chatty.wire.limits import send_window


@dataclass(frozen=True, kw_only=True)
class SendRow:
    """A device's send state, as locked."""

    low: SendNumber
    highest_n: SendNumber
    is_live: bool


def check_number(row: SendRow, *, n: SendNumber, low: SendNumber, recorded_digest: bytes | None, digest: bytes) -> bool:
    """Is this a resend of a recorded request? False: it is new and may go on.

    A resend is answered even by a dead device's row: its outcome is settled, and says nothing new.
    Raises: MessageIdClosed, MessageIdConflict, SendWindowFull, DeviceRevoked.
    """
    known = max(row.low, low)
    if n < row.low:
        raise MessageIdClosed(highest_n=row.highest_n, low=row.low)
    if recorded_digest is not None:
        if recorded_digest != digest:
            raise MessageIdConflict(highest_n=row.highest_n, low=row.low)
        return True
    if not row.is_live:
        raise DeviceRevoked("this device was revoked")
    if n >= known + send_window:
        raise SendWindowFull(highest_n=row.highest_n, low=row.low)
    return False


class Requests(Protocol):
    """Idempotent writes over HTTP, inside one unit of work."""

    async def open(self, device: DeviceNumber, *, n: SendNumber, low: SendNumber, digest: bytes) -> bytes | None:
        """Lock the device's send row and look the request up: the recorded answer of a resend, None for a new one.

        Raises: as check_number().
        """
        ...

    async def record(self, device: DeviceNumber, *, n: SendNumber, digest: bytes, answer: bytes) -> None:
        """Store the answer under (device, n), to be given to every resend until the client's low passes n."""
        ...
