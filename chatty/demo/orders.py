"""What the demo tells a device's process and what that answers: one line of JSON each, one answer an order, in order."""

import msgspec
import trio
from msgspec import Struct

from chatty.ids import DeviceId, EventId, RoomId, Seq, UserId

line_bytes_max = 1_048_576


class Order(Struct, frozen=True, kw_only=True, tag_field="do", tag=str.lower):
    """Root of all orders."""


class Open(Order, frozen=True, kw_only=True):
    """The first one. store_key: 32 bytes. Answer: Done."""

    origin: str
    store: str
    store_key: bytes


class Register(Order, frozen=True, kw_only=True):
    """Answer: Me."""

    name: str
    password: str
    device_name: str


class SignIn(Order, frozen=True, kw_only=True):
    """Answer: Me."""

    user: UserId
    password: str
    device_name: str


class GoOnline(Order, frozen=True, kw_only=True):
    """Wait for the server's welcome. Answer: Me."""


class OpenDirect(Order, frozen=True, kw_only=True):
    """Answer: Where."""

    user: UserId


class OpenGroup(Order, frozen=True, kw_only=True):
    """Answer: Where."""

    invite: UserId


class Join(Order, frozen=True, kw_only=True):
    """Wait for the invitation and take it. Answer: Done."""

    room: RoomId


class Say(Order, frozen=True, kw_only=True):
    """Answer: Done, when the server has committed it."""

    room: RoomId
    text: str


class Begin(Order, frozen=True, kw_only=True):
    """Send, and answer Done when the message stands in the store, whether the server has it or not."""

    room: RoomId
    text: str


class Listen(Order, frozen=True, kw_only=True):
    """Read until each of these texts was heard since the last Listen. Answer: Heard."""

    until: list[str]


class SignOut(Order, frozen=True, kw_only=True):
    """Revoke this device. Answer: Done."""


class Finish(Order, frozen=True, kw_only=True):
    """The last one: close the client. Answer: Secrets."""


AnyOrder = Open | Register | SignIn | GoOnline | OpenDirect | OpenGroup | Join | Say | Begin | Listen | SignOut | Finish


class Done(Struct, frozen=True, kw_only=True):
    pass


class Me(Struct, frozen=True, kw_only=True):
    user: UserId
    device: DeviceId


class Where(Struct, frozen=True, kw_only=True):
    room: RoomId


class Line(Struct, frozen=True, kw_only=True):
    """A message that the device has decrypted and checked."""

    room: RoomId
    seq: Seq
    event: EventId
    sender: UserId
    device: DeviceId
    text: str


class Heard(Struct, frozen=True, kw_only=True):
    lines: list[Line]


class Secrets(Struct, frozen=True, kw_only=True):
    """keys: raw bytes by name. tokens: texts by name."""

    keys: list[tuple[str, bytes]]
    tokens: list[tuple[str, str]]


class Failed(Struct, frozen=True, kw_only=True):
    """An order could not be done. code, exit_code: the error's own."""

    code: str
    detail: str
    exit_code: int


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One of the two."""

    done: msgspec.Raw = msgspec.Raw()
    failed: Failed | None = None


class Lines:
    """Lines from a stream. One reader at a time. Cancelled: what was received so far is kept."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._received = bytearray()

    async def read(self) -> bytes:
        """A line without its end; empty at the end of the stream. Raises: ValueError beyond line_bytes_max."""
        while (end := self._received.find(b"\n")) < 0:
            if len(self._received) > line_bytes_max:
                raise ValueError("the line has no end")
            part = await self._stream.receive_some()
            if not part:
                return b""
            self._received += part
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line
