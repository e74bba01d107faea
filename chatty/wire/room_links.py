"""Invitation links: what is signed and shown about them, and when one still lets somebody in (docs/protocol.md, "Links").

A link holds the 32-byte seed of an Ed25519 key that nobody but its holders has. Its public half, its end and how often it is good
stand in a signed event of the room; whoever joins by it signs with the link's key that this very device joins this very room. So
members and server check the same thing, and the server, which never sees a seed, can let nobody in with it.

A link ends by its time, by its last use, or by a revocation; it is never opened again, and its key never counts for another one.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from msgspec import Meta, Struct

from chatty.errors import LinkExpired, LinkRevoked, LinkUsedUp
from chatty.ids import Seq, UserId
from chatty.wire import limits
from chatty.wire.types import (
    DeviceIdField,
    HeadField,
    KeyField,
    RoomIdField,
    SendNumberField,
    SeqField,
    ServerNameField,
    SignatureField,
    UserIdField,
)

EndField = Annotated[int, Meta(ge=1, le=limits.integer_max)]
UsesField = Annotated[int, Meta(ge=1, le=limits.link_uses_max)]


class NewLink(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the acting device signs to make a link. link: its public key; expires_at: ms since 1970, by the room's own time."""

    domain: Literal["chatty.link.v1"]
    server: ServerNameField
    room: RoomIdField
    sender: UserIdField
    device: DeviceIdField
    link: KeyField
    expires_at: EndField
    uses_max: UsesField
    last_seq: SeqField
    last_head: HeadField
    n: SendNumberField


class LinkRevocation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the acting device signs to end a link before its time."""

    domain: Literal["chatty.link_revocation.v1"]
    server: ServerNameField
    room: RoomIdField
    sender: UserIdField
    device: DeviceIdField
    link: KeyField
    last_seq: SeqField
    last_head: HeadField
    n: SendNumberField


class LinkContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a policy event that makes a link. previous: as in MemberContent."""

    signed: NewLink
    previous: SeqField


class LinkRevocationContent(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a policy event that ends one. previous: as in MemberContent."""

    signed: LinkRevocation
    previous: SeqField


class LinkProof(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In a join by link: which one, and its key's signature over wire.signing.link_proof_bytes()."""

    link: KeyField
    signature: SignatureField


@dataclass(frozen=True, kw_only=True)
class Link:
    """What the chain says about one link. made_seq: where it was made; expires_at: ms since 1970."""

    maker: UserId
    made_seq: Seq
    expires_at: int
    uses_max: int
    uses_count: int = 0
    is_revoked: bool = False

    def is_open(self, *, at_ms: int) -> bool:
        return not self.is_revoked and at_ms < self.expires_at and self.uses_count < self.uses_max


def check_open(link: Link, *, at_ms: int) -> None:
    """Raises: LinkRevoked, LinkExpired, LinkUsedUp."""
    if link.is_revoked:
        raise LinkRevoked("the link was revoked")
    if at_ms >= link.expires_at:
        raise LinkExpired("the link's time is over")
    if link.uses_count >= link.uses_max:
        raise LinkUsedUp(f"the link was used {link.uses_count} times")


def made(content: LinkContent, *, seq: Seq) -> Link:
    """As the event at `seq` leaves it."""
    new = content.signed
    return Link(maker=new.sender, made_seq=seq, expires_at=new.expires_at, uses_max=new.uses_max)


def used(link: Link) -> Link:
    return replace(link, uses_count=link.uses_count + 1)


def revoked(link: Link) -> Link:
    return replace(link, is_revoked=True)
