"""The hash chain of a room, and the other digests of the protocol (docs/protocol.md, "The chain").

head(0) = SHA-256("chatty.room.v1" || room id)
leaf(n) = SHA-256(0x00 || meta(n) || SHA-256(body))
head(n) = SHA-256(0x01 || head(n-1) || leaf(n))

meta is a fixed sequence of fields, each behind its length as 4 bytes, big-endian; integers are 8 bytes, big-endian; silent is
one byte. So no two events share a meta, whatever their fields hold.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256
from struct import Struct as Layout

from chatty.ids import EventId, RoomId
from chatty.wire.canonical import canonical_json, encode_base64url
from chatty.wire.events import Kind, TimelineEvent

_LENGTH = Layout(">I").pack
_INTEGER = Layout(">Q").pack
_INTEGER_FIELD = Layout(">IQ").pack  # a length of 8 and the integer


def _fields(parts: Iterable[bytes]) -> bytes:
    return b"".join([_LENGTH(len(part)) + part for part in parts])


def empty_head(room: RoomId) -> bytes:
    """head(0)."""
    return sha256(b"chatty.room.v1" + room.encode()).digest()


def meta(event: TimelineEvent) -> bytes:
    """The bytes of everything but the body."""
    return b"".join(
        (
            _fields((event.room.encode(),)),
            _INTEGER_FIELD(8, event.seq),
            _INTEGER_FIELD(8, event.time),
            _fields((event.kind.value.encode(), event.sender.encode(), event.device.encode())),
            _INTEGER_FIELD(8, event.n),
            _fields((event.algorithm.encode(), event.session_id.encode())),
            _INTEGER_FIELD(8, event.epoch),
            _fields((b"\x01" if event.silent else b"\x00",)),
            _INTEGER_FIELD(8, event.expiry),
            _fields((event.target.encode(), event.signature)),
        )
    )


def body_hash(event: TimelineEvent) -> bytes:
    """SHA-256 of the body, or what stands for it where the body is withheld."""
    if event.body is None:
        return event.body_hash or b""
    return sha256(event.body).digest()


def leaf(event: TimelineEvent) -> bytes:
    """The event's own hash; its event id is made of it."""
    return sha256(b"\x00" + meta(event) + body_hash(event)).digest()


def next_head(head: bytes, leaf_: bytes) -> bytes:
    return sha256(b"\x01" + head + leaf_).digest()


def event_id(leaf_: bytes) -> EventId:
    return EventId("$" + encode_base64url(leaf_))


def room_id(create_body: bytes) -> RoomId:
    """The id of the room that this creation event (canonical JSON of a CreateContent) makes."""
    return RoomId("!" + encode_base64url(sha256(create_body).digest()))


def device_list_digest(devices: Sequence[tuple[str, str, str]]) -> bytes:
    """Digest over a user's `in_set` devices, each (device id, curve25519, ed25519), in any order."""
    return sha256(canonical_json(["chatty.device_list.v1", [list(device) for device in sorted(devices)]])).digest()


def send_digest(
    *,
    kind: Kind,
    room: RoomId,
    epoch: int,
    algorithm: str,
    session_id: str,
    silent: bool,
    expiry: int,
    target: str,
    body: bytes,
) -> bytes:
    """Names the exact request behind (device, n): all decoded fields but `low` and the request id."""
    text = (kind.value, room, algorithm, session_id, target)
    numbers = (epoch, int(silent), expiry)
    return sha256(
        _fields([part.encode() for part in text] + [_INTEGER(number) for number in numbers] + [body])
    ).digest()


def request_digest(operation: str, body: bytes) -> bytes:
    """The same for a write over HTTP: `operation` as in OpenAPI, `body` the canonical JSON of the decoded request."""
    return sha256(_fields((b"http", operation.encode(), body))).digest()
