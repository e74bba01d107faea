"""What a message is besides its text: how it stands to another message. No I/O.

A relation stands inside the ciphertext and names its target by event id; the server sees nothing of it. Anybody can write any
relation, so none is believed for being there: views.py says which ones count.

A kind that this client does not know is passed over, and the text is shown as it is: newer clients may say more. A known kind in
another form than here makes the message unreadable.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from chatty.wire.types import EventIdField, UserIdField

reaction_bytes_max = 64
mentions_max = 100
room_name_chars_max = 128
topic_chars_max = 512
profile_name_chars_max = 64

ReactionField = Annotated[str, Meta(min_length=1, max_length=reaction_bytes_max)]
MentionsField = Annotated[list[UserIdField], Meta(max_length=mentions_max)]


class Relation(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """of: the event id of the message that this one is about."""

    of: EventIdField


class Reply(Relation, frozen=True, kw_only=True, tag="reply"):
    """An answer to one message."""


class Thread(Relation, frozen=True, kw_only=True, tag="thread"):
    """A message in the thread that hangs on `of`, its root; reply_to: which message of the thread it answers."""

    reply_to: EventIdField | None = None


class Edit(Relation, frozen=True, kw_only=True, tag="edit"):
    """Text and mentions stand in place of those of `of`, by the same sender."""


class Reaction(Relation, frozen=True, kw_only=True, tag="reaction"):
    """key: an emoji or a short word."""

    key: ReactionField


class Retraction(Relation, frozen=True, kw_only=True, tag="retraction"):
    """Takes back the reaction that `of` names, by the same sender."""


class Announcement(Struct, frozen=True, kw_only=True, tag_field="kind", tag="announcement"):
    """No message: it carries a room's details or a profile alone."""


AnyRelation = Reply | Thread | Edit | Reaction | Retraction
About = AnyRelation | Announcement

_KINDS = frozenset({"reply", "thread", "edit", "reaction", "retraction", "announcement"})
_DECODER: msgspec.json.Decoder[About] = msgspec.json.Decoder(About)


class _Kind(Struct):
    kind: str


def about_of(raw: bytes | None) -> About | None:
    """None: the message stands for itself, or its kind is not known here. Raises: msgspec.DecodeError."""
    if raw is None or msgspec.json.decode(raw, type=_Kind).kind not in _KINDS:
        return None
    about = _DECODER.decode(raw)
    if isinstance(about, Reaction) and len(about.key.encode()) > reaction_bytes_max:
        raise msgspec.ValidationError(f"a reaction of more than {reaction_bytes_max} bytes")
    return about


def encoded(about: Any) -> msgspec.Raw | msgspec.UnsetType:
    """As it stands in the content; left out without one."""
    return msgspec.UNSET if about is None else msgspec.Raw(msgspec.json.encode(about))
