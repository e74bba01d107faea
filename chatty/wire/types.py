"""Annotated types of the fields: patterns and ranges that every decoder enforces and every schema shows.

`$(?!\\n)` because Python's `$` also matches before a last line feed; the text is the same rule in JSON Schema's dialect.
"""

from typing import Annotated

from msgspec import Meta, Struct

from chatty.ids import (
    DeviceId,
    EventId,
    InvitationId,
    ListVersion,
    MailboxId,
    PasskeyId,
    RoomId,
    SendNumber,
    Seq,
    UserId,
    UserSeq,
)
from chatty.wire import limits

_KEY = r"^[A-Za-z0-9+/]{43}$(?!\n)"

NameField = Annotated[str, Meta(pattern=r"^[a-z0-9._-]{1,64}$(?!\n)")]
ServerNameField = Annotated[str, Meta(pattern=r"^[a-z0-9.:-]{1,255}$(?!\n)")]
UserIdField = Annotated[UserId, Meta(pattern=r"^@[a-z0-9._-]{1,64}:[a-z0-9.:-]{1,255}$(?!\n)")]
DeviceIdField = Annotated[DeviceId, Meta(pattern=r"^[A-Za-z0-9_-]{8,64}$(?!\n)")]
RoomIdField = Annotated[RoomId, Meta(pattern=r"^![A-Za-z0-9_-]{43}$(?!\n)")]
EventIdField = Annotated[EventId, Meta(pattern=r"^\$[A-Za-z0-9_-]{43}$(?!\n)")]
SeqField = Annotated[Seq, Meta(ge=0, le=limits.integer_max)]
UserSeqField = Annotated[UserSeq, Meta(ge=0, le=limits.integer_max)]
SendNumberField = Annotated[SendNumber, Meta(ge=1, le=limits.integer_max)]
ListVersionField = Annotated[ListVersion, Meta(ge=0, le=limits.integer_max)]
MailboxIdField = Annotated[MailboxId, Meta(ge=1, le=limits.integer_max)]
TimeMsField = Annotated[int, Meta(ge=0, le=limits.integer_max)]
RequestIdField = Annotated[int, Meta(ge=1, le=4_294_967_295)]
KeyField = Annotated[str, Meta(pattern=_KEY)]  # 32 bytes, unpadded base64
SignatureField = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{86}$(?!\n)")]  # 64 bytes, unpadded base64
KeyIdField = Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,32}:[A-Za-z0-9+/=_.-]{1,64}$(?!\n)")]  # "algorithm:id"
TextField = Annotated[str, Meta(max_length=255, pattern=r"^[^\u0000]*$(?!\n)")]
SessionIdField = Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]{43}$(?!\n)")]  # a Megolm session's Ed25519 key
TokenField = Annotated[str, Meta(min_length=1, max_length=4096, pattern=r"^[A-Za-z0-9._~+/=-]+$(?!\n)")]
ThumbprintField = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{43}$(?!\n)")]  # RFC 7638, of a DPoP key
PasskeyIdField = Annotated[PasskeyId, Meta(pattern=r"^[A-Za-z0-9_-]{1,1364}$(?!\n)")]  # up to 1,023 bytes, base64url
InvitationIdField = Annotated[InvitationId, Meta(pattern=r"^[0-9a-f]{16}$(?!\n)")]
TotpCodeField = Annotated[str, Meta(pattern=r"^[0-9]{6}$(?!\n)")]
RecoveryCodeField = Annotated[str, Meta(pattern=r"^[A-Za-z0-9 -]{20,64}$(?!\n)")]
HeadField = KeyField  # a SHA-256, unpadded base64


class Frame(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Root of all frames: immutable, unknown fields refused."""
