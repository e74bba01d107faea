"""Messages as an application shows them: each with its newest text, its reactions, its thread. Pure: read messages in, views out.

*Whom to believe.* Everybody writes what they like into a relation; here it counts only if
- its target stands before it, in the same room, and is there: one that was deleted, has expired or was never read has no view;
- an edit and a retraction are by the sender of what they change, whatever role others have;
- an edit, a reaction or a thread hangs on a message, never on an edit or a reaction; a thread's root is in no thread itself.
What does not count is passed over, and shows nowhere: an edit by somebody else is no message either.
*Order.* Only `seq` matters, so whatever order messages were read in, the views are the same; the newest edit has the word.
*Cost*: a walk over the messages that are given, which the store bounds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chatty.client.relations import Edit, Reaction, Reply, Retraction, Thread
from chatty.client.updates import Message
from chatty.ids import EventId, UserId


@dataclass(frozen=True, kw_only=True)
class MessageView:
    """message: as it was sent. text, mentions: as its newest edit says. edits: all of them, oldest first.

    reactions: who reacted with which key. reply_to, thread: what it answers, and the root of its thread; both may be
    gone. replies_count: of its own thread.
    """

    message: Message
    text: str
    mentions: frozenset[UserId]
    edits: tuple[Message, ...] = ()
    reactions: Mapping[str, frozenset[UserId]]
    reply_to: EventId | None = None
    thread: EventId | None = None
    replies_count: int = 0


def views(messages: Iterable[Message]) -> list[MessageView]:
    """Of the messages of one room, in their order. The same one twice counts once."""
    ordered = sorted({message.event_id: message for message in messages}.values(), key=lambda one: one.seq)
    shown = {one.event_id: one for one in ordered if isinstance(one.relation, Reply | Thread | None)}
    edits = _edits(ordered, shown)
    reactions = _reactions(ordered, shown)
    replies = _replies_counts(shown)
    return [
        _view(one, edits.get(name, ()), reactions.get(name, {}), replies_count=replies.get(name, 0))
        for name, one in shown.items()
    ]


def _view(
    message: Message, edits: tuple[Message, ...], reactions: Mapping[str, frozenset[UserId]], *, replies_count: int
) -> MessageView:
    newest, relation = edits[-1] if edits else message, message.relation
    return MessageView(
        message=message,
        text=newest.text,
        mentions=frozenset(newest.mentions),
        edits=edits,
        reactions=reactions,
        reply_to=relation.of if isinstance(relation, Reply) else getattr(relation, "reply_to", None),
        thread=relation.of if isinstance(relation, Thread) else None,
        replies_count=replies_count,
    )


def _edits(ordered: list[Message], shown: Mapping[EventId, Message]) -> dict[EventId, tuple[Message, ...]]:
    found: dict[EventId, tuple[Message, ...]] = {}
    for one in ordered:
        if isinstance(one.relation, Edit) and is_of_its_sender(one, shown.get(one.relation.of)):
            found[one.relation.of] = (*found.get(one.relation.of, ()), one)
    return found


def is_of_its_sender(change: Message, target: Message | None) -> bool:
    """May this change that? It stands behind it, in its room, and both are by the same sender."""
    return (
        target is not None and (change.room, change.sender) == (target.room, target.sender) and change.seq > target.seq
    )


def _reactions(ordered: list[Message], shown: Mapping[EventId, Message]) -> dict[EventId, dict[str, frozenset[UserId]]]:
    made = {one.event_id: one for one in ordered if isinstance(one.relation, Reaction)}
    for one in ordered:
        if isinstance(one.relation, Retraction) and is_of_its_sender(one, made.get(one.relation.of)):
            del made[one.relation.of]
    found: dict[EventId, dict[str, frozenset[UserId]]] = {}
    for one in made.values():
        assert isinstance(one.relation, Reaction)
        target = shown.get(one.relation.of)
        if target is not None and target.seq < one.seq:
            keys = found.setdefault(one.relation.of, {})
            keys[one.relation.key] = keys.get(one.relation.key, frozenset()) | {one.sender}
    return found


def _replies_counts(shown: Mapping[EventId, Message]) -> dict[EventId, int]:
    counts: dict[EventId, int] = {}
    for one in shown.values():
        root = shown.get(one.relation.of) if isinstance(one.relation, Thread) else None
        if root is not None and root.seq < one.seq and not isinstance(root.relation, Thread):
            counts[root.event_id] = counts.get(root.event_id, 0) + 1
    return counts
