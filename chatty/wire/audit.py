"""The audit log's formats: what is hashed, what is signed, and the lines of its files (docs/protocol.md, "The audit log").

head(0) = SHA-256("chatty.audit.v1" || server name)
leaf(p) = SHA-256(0x00 || p as 8 bytes, big-endian || SHA-256(canonical JSON of the row))
head(p) = SHA-256(0x01 || head(p-1) || leaf(p))

The row stands in its leaf with SHA-256(salt || address) in the address's place, so that salt and address can be erased. The
position is part of the leaf: a row that was moved still tells where it was sealed.
"""

from hashlib import sha256
from typing import Annotated, Any

from msgspec import Meta, Struct, to_builtins

from chatty.wire import limits
from chatty.wire.canonical import canonical_json, encode_base64
from chatty.wire.successions import KeySuccession
from chatty.wire.types import HeadField, KeyField, ServerNameField, SignatureField, TimeMsField

PositionField = Annotated[int, Meta(ge=0, le=limits.integer_max)]
archive_format = 1


class AuditRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One act, as the chain holds it. time_us: microseconds since 1970. actor: a user id; empty: the server or its operator.

    address_hash: unpadded base64, empty where there was no address. detail, before, after: JSON objects without secrets.
    """

    time_us: int
    actor: str
    device: str
    family: str
    action: str
    object: str
    detail: Any
    before: Any
    after: Any
    request_id: str
    address_hash: str


class SealedRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="sealed"):
    """A place in the chain. row: None if there is none any more. leaf: base64 of what was sealed."""

    position: PositionField
    audit_id: int
    leaf: str
    row: AuditRow | None = None
    address: str | None = None
    salt: str | None = None


class UnsealedRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="unsealed"):
    """A row without a place in the chain. claims_seal: it is marked as sealed all the same."""

    audit_id: int
    row: AuditRow
    claims_seal: bool = False


class ListedRow(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row for whoever reads the log. position: None while it waits for the sealer. address: None where there was none, or
    where it is erased.
    """

    audit_id: int
    position: int | None
    row: AuditRow
    address: str | None


class AuditPage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """GET /v1/admin/audit: the newest first. next_before: where the next page begins; 0: the end."""

    rows: list[ListedRow]
    next_before: int


class AuditHead(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="head"):
    """The chain up to `position`, signed. head, key, signature: unpadded base64. time: ms since 1970."""

    server: ServerNameField
    generation: PositionField
    position: PositionField
    head: HeadField
    time: TimeMsField
    key: KeyField
    signature: SignatureField


class ArchiveStart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="archive"):
    """The first line of an archive."""

    format: int
    server: ServerNameField
    time: TimeMsField


ArchiveLine = ArchiveStart | KeySuccession | SealedRow | AuditHead | UnsealedRow


def content_digest(row: AuditRow) -> bytes:
    """Raises: BadRequest for values that have no canonical form."""
    return sha256(canonical_json({"domain": "chatty.audit.v1", **to_builtins(row)})).digest()


def leaf(position: int, content: bytes) -> bytes:
    """content: the row's digest."""
    return sha256(b"\x00" + position.to_bytes(8, "big") + content).digest()


def empty_head(server: str) -> bytes:
    """head(0)."""
    return sha256(b"chatty.audit.v1" + server.encode()).digest()


def next_head(head: bytes, leaf_: bytes) -> bytes:
    return sha256(b"\x01" + head + leaf_).digest()


def address_hash(salt: bytes, address: str) -> bytes:
    return sha256(salt + address.encode()).digest()


def head_bytes(*, server: str, generation: int, position: int, head: bytes, time: int, key: str) -> bytes:
    """What the audit key signs."""
    statement = {
        "domain": "chatty.audit_head.v1",
        "server": server,
        "generation": generation,
        "position": position,
        "head": encode_base64(head),
        "time": time,
        "key": key,
    }
    return canonical_json(statement)
