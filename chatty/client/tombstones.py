"""Messages whose ciphertext the server says was deleted: what is left of each, and what explains it."""

from msgspec import Struct

from chatty.ids import Seq, UserId
from chatty.wire import chain
from chatty.wire.authority import VerifiedEvent
from chatty.wire.events import DeletionContent, Kind, TimelineEvent


class Tombstone(Struct, frozen=True, kw_only=True):
    """A message without its ciphertext: its place, its leaf, whose it was."""

    seq: Seq
    leaf: bytes
    sender: UserId


def tombstone_of(event: TimelineEvent, leaf: bytes) -> Tombstone | None:
    """None: not called deleted."""
    if event.kind is not Kind.MESSAGE or event.body is not None or not event.deletion_seq:
        return None
    return Tombstone(seq=event.seq, leaf=leaf, sender=event.sender)


def is_explained_by(tombstone: Tombstone, verified: VerifiedEvent | None) -> bool:
    """Is that the deletion of this very message? Its authority was checked, for the sender that it names."""
    if verified is None or not isinstance(verified.content, DeletionContent):
        return False
    signed = verified.content.signed
    named = (signed.target, signed.target_seq, signed.target_sender)
    return named == (chain.event_id(tombstone.leaf), tombstone.seq, tombstone.sender)
