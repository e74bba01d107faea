"""How a key of the server that others rely on names the one after it (docs/protocol.md, "The server's keys").

The old key signs that the new one follows; the new one signs too, so that nobody passes off another's key as its successor. What
the old key signs is good up to `time` and a margin: a key that is stolen later signs nothing that is believed.
"""

from typing import Final, Literal

from msgspec import Struct

from chatty.wire.canonical import canonical_json
from chatty.wire.types import KeyField, ServerNameField, SignatureField, TimeMsField

CHECKPOINT: Final = "checkpoint"  # signs rooms' checkpoints, horizons and removals
AUDIT: Final = "audit"  # signs heads of the audit log
margin_ms = 600_000  # clocks differ, and a process that was paused signs late


class KeySuccession(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="succession"):
    """old, new: Ed25519 public keys, unpadded base64. time: from when the new one signs, ms since 1970."""

    server: ServerNameField
    purpose: Literal["checkpoint", "audit"]
    old: KeyField
    new: KeyField
    time: TimeMsField
    signature: SignatureField
    new_signature: SignatureField


def succession_bytes(*, server: str, purpose: str, old: str, new: str, time: int) -> bytes:
    """What both keys sign."""
    statement = {
        "domain": "chatty.succession.v1",
        "server": server,
        "purpose": purpose,
        "old": old,
        "new": new,
        "time": time,
    }
    return canonical_json(statement)
