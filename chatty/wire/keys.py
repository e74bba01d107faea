"""HTTP bodies about keys, in Matrix's shapes (client-server API: /keys/upload, /keys/query, /keys/claim, sendToDevice)."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from chatty.wire import limits
from chatty.wire.accounts import HttpBody
from chatty.wire.types import (
    DeviceIdField,
    HeadField,
    KeyField,
    KeyIdField,
    ListVersionField,
    SignatureField,
    TimeMsField,
    UserIdField,
)

SIGNED_CURVE25519 = "signed_curve25519"

AlgorithmField = Annotated[str, Meta(max_length=64, pattern=r"^[a-z0-9._-]+$(?!\n)")]
Signatures = dict[UserIdField, dict[KeyIdField, SignatureField]]


class DeviceKeys(HttpBody, frozen=True, kw_only=True):
    """A device's identity keys, signed by its own Ed25519 key (and later by the self-signing key)."""

    user_id: UserIdField
    device_id: DeviceIdField
    algorithms: Annotated[list[AlgorithmField], Meta(max_length=8)]
    keys: Annotated[dict[KeyIdField, KeyField], Meta(max_length=4)]
    signatures: Annotated[Signatures, Meta(max_length=4)]

    @property
    def curve25519(self) -> str:
        return self.keys.get(f"curve25519:{self.device_id}", "")

    @property
    def ed25519(self) -> str:
        return self.keys.get(f"ed25519:{self.device_id}", "")


class SignedKey(HttpBody, frozen=True, kw_only=True):
    """A one-time or fallback key."""

    key: KeyField
    signatures: Annotated[Signatures, Meta(max_length=4)]
    fallback: bool = False


KeyMap = Annotated[dict[KeyIdField, SignedKey], Meta(max_length=100)]


class KeyUpload(HttpBody, frozen=True, kw_only=True):
    device_keys: DeviceKeys | None = None
    one_time_keys: KeyMap = {}
    fallback_keys: KeyMap = {}


class KeyCounts(HttpBody, frozen=True, kw_only=True):
    one_time_key_counts: dict[str, int]
    unused_fallback_key_types: list[str]


class KeyQuery(HttpBody, frozen=True, kw_only=True):
    """Which users; the list of devices is Matrix's filter, empty: all. timeout: Matrix's, of waiting for other servers."""

    timeout: TimeMsField = 0

    device_keys: Annotated[
        dict[UserIdField, Annotated[list[DeviceIdField], Meta(max_length=100)]], Meta(max_length=limits.query_users_max)
    ]


class DeviceList(HttpBody, frozen=True, kw_only=True):
    """Of one user: the version and digest that room chains name, and Ed25519 keys of devices that have left the set."""

    list_version: ListVersionField
    list_digest: HeadField
    identity_key: KeyField
    removed: dict[DeviceIdField, KeyField]


class KeyAnswer(HttpBody, frozen=True, kw_only=True):
    """device_keys: Matrix's; device_lists: from the same snapshot. Unknown users are left out of both."""

    device_keys: dict[UserIdField, dict[DeviceIdField, DeviceKeys]]
    device_lists: dict[UserIdField, DeviceList]
    failures: dict[str, Any] = {}


class KeyClaim(HttpBody, frozen=True, kw_only=True):
    """One key a device. Idempotent under the Idempotency-Key header (the device's n). timeout: as in KeyQuery."""

    timeout: TimeMsField = 0
    one_time_keys: Annotated[
        dict[UserIdField, dict[DeviceIdField, Literal["signed_curve25519"]]], Meta(max_length=limits.claim_devices_max)
    ]


class ClaimedKeys(HttpBody, frozen=True, kw_only=True):
    """Only the devices that had a key left, one-time or fallback."""

    one_time_keys: dict[UserIdField, dict[DeviceIdField, dict[KeyIdField, SignedKey]]]
    failures: dict[str, Any] = {}


class OlmCiphertext(HttpBody, frozen=True, kw_only=True):
    type: Annotated[int, Meta(ge=0, le=1)]
    body: Annotated[str, Meta(pattern=r"^[A-Za-z0-9+/]+$(?!\n)", max_length=limits.to_device_content_bytes_max)]


class OlmContent(HttpBody, frozen=True, kw_only=True):
    """The only content that m.room.encrypted may have between devices: an Olm envelope."""

    algorithm: Annotated[str, Meta(pattern=r"^m\.olm\.v1\.curve25519-aes-sha2$(?!\n)")]
    sender_key: KeyField
    ciphertext: Annotated[dict[KeyField, OlmCiphertext], Meta(min_length=1, max_length=1)]
    message_id: Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_-]*$(?!\n)")] = msgspec.field(
        name="org.matrix.msgid", default=""
    )


class WithheldContent(HttpBody, frozen=True, kw_only=True):
    """m.room_key.withheld: why somebody got no key; carries no secret."""

    algorithm: Annotated[str, Meta(max_length=64, pattern=r"^[a-z0-9._-]+$(?!\n)")]
    code: Annotated[str, Meta(max_length=64, pattern=r"^[a-z0-9._]+$(?!\n)")]
    sender_key: KeyField
    reason: Annotated[str, Meta(max_length=255, pattern=r"^[^\u0000]*$(?!\n)")] = ""
    room_id: Annotated[str, Meta(max_length=64)] = ""
    session_id: Annotated[str, Meta(max_length=64)] = ""
    from_device: Annotated[str, Meta(max_length=64)] = ""


ToDeviceContent = dict[str, Any]

# The allow-list: every type a device may send to another, and the shape of its content.
TO_DEVICE_CONTENTS: dict[str, type[HttpBody]] = {
    "m.room.encrypted": OlmContent,
    "m.room_key.withheld": WithheldContent,
}


class ToDevice(HttpBody, frozen=True, kw_only=True):
    """POST /v1/to-device, idempotent under the Idempotency-Key header (the device's n)."""

    type: Annotated[str, Meta(pattern=r"^m\.(room\.encrypted|room_key\.withheld)$(?!\n)")]
    messages: Annotated[
        dict[
            UserIdField,
            Annotated[dict[DeviceIdField, ToDeviceContent], Meta(max_length=limits.to_device_recipients_max)],
        ],
        Meta(max_length=limits.to_device_recipients_max),
    ]


class ToDeviceAnswer(HttpBody, frozen=True, kw_only=True):
    """Devices that are gone are listed, not an error: the sender's list was older than the server's."""

    unknown: dict[UserIdField, list[DeviceIdField]]
