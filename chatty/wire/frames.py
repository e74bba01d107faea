"""WebSocket frames: Structs, tagged by `type`, the same in JSON (subprotocol chatty.v1+json) and MessagePack (chatty.v1+msgpack).

A frame of the client holds one request or a list of requests; a frame of the server always holds a list of events. Byte fields
are base64 text (standard alphabet, padded) in JSON and binary in MessagePack. Every request carries an id of the client's choice
(1 … 2^32 − 1) and is answered once: by the event named with it, by `done`, or by `error`.

Frames of a feature of its own stand in that feature's file: typing_notices.py, receipts.py, presence.py.

Order on a socket: server `challenge`; client `hello`; server `welcome`, device mailbox, user stream, rooms, `resumed`; then live.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from chatty.errors import BadRequest, HelloExpected, TooLarge
from chatty.ids import Seq
from chatty.wire import limits
from chatty.wire.events import TimelineEvent
from chatty.wire.presence import Presence, SetPresence, WatchPresence
from chatty.wire.receipts import Read, Receipts, Unread
from chatty.wire.types import (
    DeviceIdField,
    Frame,
    MailboxIdField,
    RequestIdField,
    RoomIdField,
    SendNumberField,
    SeqField,
    SessionIdField,
    TimeMsField,
    TokenField,
    UserIdField,
    UserSeqField,
)
from chatty.wire.typing_notices import Typing, TypingNow

JSON_SUBPROTOCOL = "chatty.v1+json"
MSGPACK_SUBPROTOCOL = "chatty.v1+msgpack"
Encoding = Literal["json", "msgpack"]
ENCODINGS: dict[str, Encoding] = {JSON_SUBPROTOCOL: "json", MSGPACK_SUBPROTOCOL: "msgpack"}


class Cursor(Frame, frozen=True, kw_only=True):
    """Everything of this room up to seq is on the client's disk."""

    room: RoomIdField
    seq: SeqField


# Requests -----------------------------------------------------------------------------------------------------------


class Hello(Frame, frozen=True, kw_only=True, tag="hello"):
    """First request. dpop_proof: htm GET, htu the origin + /v1/ws, the challenge's nonce. Cursors come in pages: with `more`,
    `cursors` frames follow before resume begins. generation: the newest that this client has read under, 0 for none; cursors of
    an earlier one than the server's go back to where the next began. Answer: welcome.
    """

    id: RequestIdField
    access_token: TokenField
    dpop_proof: TokenField
    low: SendNumberField
    user_seq: UserSeqField
    cursors: Annotated[list[Cursor], Meta(max_length=limits.cursors_per_frame_max)] = []
    more: bool = False
    generation: SeqField = Seq(0)


class Cursors(Frame, frozen=True, kw_only=True, tag="cursors"):
    """A further page of cursors after a `hello` with `more`. Answer: done."""

    id: RequestIdField
    cursors: Annotated[list[Cursor], Meta(max_length=limits.cursors_per_frame_max)]
    more: bool = False


class Resync(Frame, frozen=True, kw_only=True, tag="resync"):
    """After `lagging`: where the client really is. Rooms that are not named stay as they are. Answer: done, then the events."""

    id: RequestIdField
    user_seq: UserSeqField
    cursors: Annotated[list[Cursor], Meta(max_length=limits.cursors_per_frame_max)] = []
    more: bool = False


class Token(Frame, frozen=True, kw_only=True, tag="token"):
    """A fresh access token for the open socket, and a proof as in `hello`. Answer: done."""

    id: RequestIdField
    access_token: TokenField
    dpop_proof: TokenField


class Send(Frame, frozen=True, kw_only=True, tag="send"):
    """One message, encrypted for `epoch`. Answer: ack, when it is committed."""

    id: RequestIdField
    n: SendNumberField
    low: SendNumberField
    room: RoomIdField
    epoch: SeqField
    algorithm: Literal["m.megolm.v1.aes-sha2"]
    session_id: SessionIdField
    body: Annotated[bytes, Meta(max_length=limits.ciphertext_bytes_max)]
    silent: bool = False
    expiry: TimeMsField = 0
    target: Annotated[str, Meta(pattern=r"^(\$[A-Za-z0-9_-]{43})?$(?!\n)")] = ""


class MailboxAck(Frame, frozen=True, kw_only=True, tag="mailbox_ack"):
    """These rows are on the client's disk: the server deletes exactly them. Answer: done."""

    id: RequestIdField
    ids: Annotated[list[MailboxIdField], Meta(max_length=limits.mailbox_ack_ids_max)]


class CheckpointRequest(Frame, frozen=True, kw_only=True, tag="checkpoint"):
    """Ask for the room's head, signed by the server. Answer: checkpoint."""

    id: RequestIdField
    room: RoomIdField


class Ping(Frame, frozen=True, kw_only=True, tag="ping"):
    """For clients that cannot send WebSocket pings. Answer: done."""

    id: RequestIdField


ClientFrame = (
    Hello
    | Cursors
    | Resync
    | Token
    | Send
    | MailboxAck
    | CheckpointRequest
    | Ping
    | Typing
    | Read
    | WatchPresence
    | SetPresence
)


# Events -------------------------------------------------------------------------------------------------------------


class Generation(Frame, frozen=True, kw_only=True):
    """Raised by each restore from a backup; the only legal reason for a head, cursor or n to go back."""

    number: SeqField
    id: str


class Challenge(Frame, frozen=True, kw_only=True, tag="challenge"):
    """First event on every socket. The DPoP proof in `hello` carries this nonce."""

    nonce: str
    generation: Generation


class Welcome(Frame, frozen=True, kw_only=True, tag="welcome"):
    """Answers hello. A `highest_n` above the client's own means that the client's store was rolled back."""

    id: RequestIdField
    user: UserIdField
    device: DeviceIdField
    highest_n: SeqField
    low: SeqField
    heartbeat_interval_s: float


class Ack(Frame, frozen=True, kw_only=True, tag="ack"):
    """The message is committed. The client checks that `leaf` is what it sent."""

    id: RequestIdField
    n: SendNumberField
    room: RoomIdField
    seq: SeqField
    time: TimeMsField
    leaf: bytes


class Done(Frame, frozen=True, kw_only=True, tag="done"):
    """The request was done; there is no more to say."""

    id: RequestIdField


class Error(Frame, frozen=True, kw_only=True, tag="error"):
    """The request's error, or with id 0 one of the connection itself. `details` carries what mends it (docs/protocol.md)."""

    id: Annotated[int, Meta(ge=0, le=4_294_967_295)]
    code: str
    message: str
    is_retryable: bool
    retry_after_s: float | None = None
    details: dict[str, Any] = {}


class Gap(Frame, frozen=True, kw_only=True, tag="gap"):
    """Events from_seq … to_seq exist and are not for this member; `head` is the chain's head at to_seq."""

    room: RoomIdField
    from_seq: SeqField
    to_seq: SeqField
    head: bytes


class Erased(Frame, frozen=True, kw_only=True, tag="erased"):
    """A message of somebody whose account was deleted: nothing is left but its place and its leaf, which the chain needs.

    removal_seq: above seq; there the room's newest removal of a deleted account stands, which explains it.
    """

    room: RoomIdField
    seq: SeqField
    leaf: bytes
    removal_seq: SeqField


class HorizonMark(Frame, frozen=True, kw_only=True):
    """The server's signed word: it keeps no message at or below seq any more, for all were sent before `before`.

    head: of the chain at seq. before, time: ms since 1970; time: when it was written. signature: signing.horizon_bytes, by the
    server's key `key_id` of /v1/jwks.
    """

    seq: SeqField
    head: bytes
    before: TimeMsField
    time: TimeMsField
    key_id: str
    signature: bytes


class Horizon(Frame, frozen=True, kw_only=True, tag="horizon"):
    """from_seq … to_seq were messages that are kept no more; `head` is the chain's head at to_seq, `mark` explains it."""

    room: RoomIdField
    from_seq: SeqField
    to_seq: SeqField
    head: bytes
    mark: HorizonMark


class UserEvent(Frame, frozen=True, kw_only=True, tag="user_event"):
    """One entry of the user stream: invitation, room_joined, room_left, devices, notice."""

    seq: UserSeqField
    time: TimeMsField
    kind: str
    content: dict[str, Any]


class Mailbox(Frame, frozen=True, kw_only=True, tag="mailbox"):
    """One row of the device mailbox. Drop a second (sender_device, n); acknowledge after it is on disk."""

    id: MailboxIdField
    sender: UserIdField
    sender_device: DeviceIdField
    n: SendNumberField
    kind: str
    content: dict[str, Any]


class OneTimeKeyCounts(Frame, frozen=True, kw_only=True, tag="one_time_key_counts"):
    """How many unclaimed one-time keys this device has; sent after hello and when they run low."""

    counts: dict[str, int]
    unused_fallback_algorithms: list[str]


class Lagging(Frame, frozen=True, kw_only=True, tag="lagging"):
    """Live events were dropped for this connection alone: send resync. Nothing live comes before it."""


class Resumed(Frame, frozen=True, kw_only=True, tag="resumed"):
    """Everything that was stored when hello was answered has been sent."""


class Checkpoint(Frame, frozen=True, kw_only=True, tag="checkpoint"):
    """The room's head, signed (signing.checkpoint_bytes) with the server's signing key `key_id` of /v1/jwks."""

    id: RequestIdField
    room: RoomIdField
    generation: SeqField
    seq: SeqField
    head: bytes
    time: TimeMsField
    key_id: str
    signature: bytes


ServerFrame = (
    Challenge
    | Welcome
    | Ack
    | Done
    | Error
    | TimelineEvent
    | Gap
    | Erased
    | Horizon
    | UserEvent
    | Mailbox
    | OneTimeKeyCounts
    | Lagging
    | Resumed
    | Checkpoint
    | TypingNow
    | Receipts
    | Unread
    | Presence
)
Stretch = Gap | Horizon  # several places at once
RoomEntry = TimelineEvent | Erased | Stretch  # what a page of a room's history holds
PlacedEntry = TimelineEvent | Erased  # what stands at one place, as the store has it

_REQUEST = ClientFrame | list[ClientFrame]
_decoders: dict[Encoding, Any] = {
    "json": msgspec.json.Decoder(_REQUEST),
    "msgpack": msgspec.msgpack.Decoder(_REQUEST),
}
_event_decoders: dict[Encoding, Any] = {
    "json": msgspec.json.Decoder(list[ServerFrame]),
    "msgpack": msgspec.msgpack.Decoder(list[ServerFrame]),
}
_encoders: dict[Encoding, Any] = {"json": msgspec.json.Encoder(), "msgpack": msgspec.msgpack.Encoder()}


class _Kind(Struct):
    """Of a frame that is looked at no further."""

    type: str = ""


_hello_decoders: dict[Encoding, Any] = {
    "json": msgspec.json.Decoder(Hello | list[Hello]),
    "msgpack": msgspec.msgpack.Decoder(Hello | list[Hello]),
}
_kind_decoders: dict[Encoding, Any] = {
    "json": msgspec.json.Decoder(_Kind),
    "msgpack": msgspec.msgpack.Decoder(_Kind),
}


def decode_hello(data: bytes | str, *, encoding: Encoding, bytes_max: int = limits.hello_bytes_max) -> Hello:
    """The first frame of somebody who is not known yet: of anything but a hello nothing is made, however much it holds.

    Raises: HelloExpected; BadRequest for a hello that is not valid, and for what is no frame; TooLarge above bytes_max.
    """
    _check_size(data, limit="hello_bytes_max", bytes_max=bytes_max)
    try:
        decoded: Hello | list[Hello] = _hello_decoders[encoding].decode(data)
    except msgspec.ValidationError as error:
        if _kind_of(data, encoding) == "hello":
            raise BadRequest(f"hello refused: {error}") from None
        raise HelloExpected("hello is the first request, alone in its frame") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"frame refused: {error}") from None
    if isinstance(decoded, Hello):
        return decoded
    if len(decoded) != 1:
        raise HelloExpected("hello is the first request, alone in its frame")
    return decoded[0]


def _kind_of(data: bytes | str, encoding: Encoding) -> str:
    try:
        kind: _Kind = _kind_decoders[encoding].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return kind.type


def _check_size(data: bytes | str, *, limit: str, bytes_max: int) -> None:
    size_bytes = len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode(errors="replace"))
    if size_bytes > bytes_max:
        raise TooLarge(limit=limit, bytes_max=bytes_max)


def decode_requests(
    data: bytes | str, *, encoding: Encoding, bytes_max: int = limits.frame_bytes_max
) -> list[ClientFrame]:
    """The requests of one frame, in order.

    Raises: BadRequest for anything that is not one; TooLarge above bytes_max or requests_per_frame_max.
    """
    _check_size(data, limit="frame_bytes_max", bytes_max=bytes_max)
    try:
        decoded = _decoders[encoding].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"frame refused: {error}") from None
    if isinstance(decoded, list):
        if not 1 <= len(decoded) <= limits.requests_per_frame_max:
            raise BadRequest(f"a frame holds 1 to {limits.requests_per_frame_max} requests")
        return decoded
    return [decoded]


def decode_events(data: bytes | str, *, encoding: Encoding) -> list[ServerFrame]:
    """The events of one frame of the server. Raises: BadRequest."""
    try:
        events: list[ServerFrame] = _event_decoders[encoding].decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"frame refused: {error}") from None
    return events


def encode(value: Any, *, encoding: Encoding) -> bytes:
    """One event or request, or a list of them, as it is on the network."""
    encoded: bytes = _encoders[encoding].encode(value)
    return encoded


def join_chunks(encoded: Sequence[bytes | memoryview], *, encoding: Encoding) -> bytes:
    """Events that were encoded before, as they stand in a list; join_events() takes the result in place of them."""
    return (b"," if encoding == "json" else b"").join(encoded)


def join_events(encoded: Sequence[bytes | memoryview], *, encoding: Encoding, count: int | None = None) -> bytes:
    """One frame out of events that were encoded before, once for all their recipients. count: of events, if some are joined."""
    chunk = join_chunks(encoded, encoding=encoding)
    if encoding == "json":
        return b"[" + chunk + b"]"
    count = len(encoded) if count is None else count
    if count < 16:
        return bytes((0x90 | count,)) + chunk
    header = b"\xdc" + count.to_bytes(2, "big") if count < 65_536 else b"\xdd" + count.to_bytes(4, "big")
    return header + chunk
