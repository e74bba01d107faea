"""Which relations count: whatever anybody writes, in whatever order it is read, only the sender changes what a sender said."""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatty.client.relations import (
    AnyRelation,
    Edit,
    Reaction,
    Reply,
    Retraction,
    Thread,
    about_of,
    encoded,
    reaction_bytes_max,
)
from chatty.client.updates import Message
from chatty.client.views import MessageView, is_of_its_sender, views
from chatty.ids import DeviceId, EventId, RoomId, Seq, UserId

ROOM = RoomId("!" + "R" * 43)
PEOPLE = [UserId(f"@{name}:example.org") for name in ("ann", "bob", "cid")]
ANN, BOB, CID = PEOPLE


def event_id(seq: int) -> EventId:
    return EventId(f"${seq:043d}")


def message(seq: int, sender: UserId, relation: AnyRelation | None = None, text: str = "") -> Message:
    return Message(
        room=ROOM,
        seq=Seq(seq),
        event_id=event_id(seq),
        sender=sender,
        device=DeviceId("DEVICE12"),
        time_ms=seq,
        text=text or f"text {seq}",
        relation=relation,
        mentions=(sender,),
    )


# By example ---------------------------------------------------------------------------------------------------------


def test_the_newest_edit_by_the_sender_has_the_word_and_all_are_kept() -> None:
    original, first, second = (
        message(1, ANN),
        message(2, ANN, Edit(of=event_id(1))),
        message(3, ANN, Edit(of=event_id(1))),
    )
    [view] = views([second, original, first])
    assert (view.message, view.text, view.edits) == (original, "text 3", (first, second))


def test_an_edit_by_somebody_else_is_not_believed_and_is_no_message() -> None:
    [view] = views([message(1, ANN), message(2, BOB, Edit(of=event_id(1)))])
    assert (view.text, view.edits) == ("text 1", ())


def test_a_retraction_by_somebody_else_is_not_believed() -> None:
    said = [message(1, ANN), message(2, BOB, Reaction(of=event_id(1), key="+1"))]
    assert views([*said, message(3, ANN, Retraction(of=event_id(2)))])[0].reactions == {"+1": {BOB}}
    assert views([*said, message(3, BOB, Retraction(of=event_id(2)))])[0].reactions == {}


def test_a_retraction_of_a_message_takes_no_message_away() -> None:
    [view] = views([message(1, ANN), message(2, ANN, Retraction(of=event_id(1)))])
    assert view.text == "text 1"


def test_the_same_reaction_twice_is_one_and_two_people_are_two() -> None:
    reactions = [
        message(seq, sender, Reaction(of=event_id(1), key="+1")) for seq, sender in ((2, BOB), (3, BOB), (4, CID))
    ]
    assert views([message(1, ANN), *reactions])[0].reactions == {"+1": {BOB, CID}}
    left = views([message(1, ANN), *reactions, message(5, BOB, Retraction(of=event_id(2)))])
    assert left[0].reactions == {"+1": {BOB, CID}}


def test_nothing_hangs_on_an_edit_or_a_reaction() -> None:
    said = [
        message(1, ANN),
        message(2, ANN, Edit(of=event_id(1)), "edited"),
        message(3, ANN, Edit(of=event_id(2)), "edit of an edit"),
        message(4, BOB, Reaction(of=event_id(2), key="to an edit")),
    ]
    [view] = views(said)
    assert (view.text, view.reactions) == ("edited", {})


def test_what_names_what_comes_after_it_does_not_count() -> None:
    said = [
        message(1, ANN, Edit(of=event_id(4))),
        message(2, BOB, Reaction(of=event_id(4), key="x")),
        message(3, BOB, Thread(of=event_id(4))),
        message(4, ANN),
    ]
    threaded, view = views(said)
    assert threaded.thread == event_id(4)
    assert (view.text, view.reactions, view.replies_count) == ("text 4", {}, 0)


def test_a_thread_counts_its_messages_and_is_in_no_other_thread() -> None:
    said = [
        message(1, ANN),
        message(2, BOB, Thread(of=event_id(1))),
        message(3, CID, Thread(of=event_id(1), reply_to=event_id(2))),
        message(4, CID, Thread(of=event_id(2))),
        message(5, ANN, Reply(of=event_id(1))),
    ]
    root, first, second, nested, reply = views(said)
    assert (root.replies_count, first.replies_count) == (2, 0)
    assert (first.thread, second.thread, second.reply_to) == (event_id(1), event_id(1), event_id(2))
    assert nested.thread == event_id(2)
    assert (reply.reply_to, reply.thread) == (event_id(1), None)


def test_mentions_are_those_of_the_newest_text() -> None:
    edit = replace(message(2, ANN, Edit(of=event_id(1))), mentions=(CID,))
    assert views([message(1, ANN)])[0].mentions == {ANN}
    assert views([message(1, ANN), edit])[0].mentions == {CID}


def test_a_change_in_another_room_changes_nothing() -> None:
    other = replace(message(2, ANN, Edit(of=event_id(1))), room=RoomId("!" + "O" * 43))
    assert not is_of_its_sender(other, message(1, ANN))
    assert views([message(1, ANN), other])[0].text == "text 1"


# In any case --------------------------------------------------------------------------------------------------------

TARGETS = st.integers(1, 9).map(event_id)
RELATIONS = st.one_of(
    st.none(),
    TARGETS.map(lambda of: Edit(of=of)),
    TARGETS.map(lambda of: Retraction(of=of)),
    TARGETS.map(lambda of: Reply(of=of)),
    st.builds(lambda of, to: Thread(of=of, reply_to=to), TARGETS, st.none() | TARGETS),
    st.builds(lambda of, key: Reaction(of=of, key=key), TARGETS, st.sampled_from("+-")),
)


@st.composite
def rooms(draw: st.DrawFn) -> list[Message]:
    said = draw(st.lists(st.tuples(st.sampled_from(PEOPLE), RELATIONS), max_size=9))
    return [message(seq, sender, relation) for seq, (sender, relation) in enumerate(said, start=1)]


def by_id(said: list[Message]) -> dict[EventId, MessageView]:
    return {view.message.event_id: view for view in views(said)}


@given(rooms(), st.randoms())
def test_the_order_of_reading_and_repeats_make_no_difference(said: list[Message], random: object) -> None:
    shuffled = [*said, *said[:3]]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert views(shuffled) == views(said)


@given(rooms())
def test_nobody_changes_what_another_said(said: list[Message]) -> None:
    for name, view in by_id(said).items():
        sender = view.message.sender
        own = [one for one in said if one.sender == sender]
        assert by_id(own)[name].text == view.text
        assert by_id(own)[name].edits == view.edits


@given(rooms())
def test_who_reacted_is_who_said_so_last(said: list[Message]) -> None:
    for name, view in by_id(said).items():
        for key, users in view.reactions.items():
            for user in users:
                theirs = [one for one in said if one.sender == user]
                made = {one.event_id: one.seq for one in theirs if one.relation == Reaction(of=name, key=key)}
                back = {one.relation.of: one.seq for one in theirs if isinstance(one.relation, Retraction)}
                assert any(back.get(reaction, Seq(0)) < seq for reaction, seq in made.items())


@given(rooms(), st.sampled_from(PEOPLE))
def test_what_one_person_takes_back_takes_nothing_from_others(said: list[Message], user: UserId) -> None:
    without = [one for one in said if not (one.sender == user and isinstance(one.relation, Retraction | Edit))]
    for name, view in by_id(without).items():
        after = by_id(said)[name]
        for key, users in view.reactions.items():
            assert users - {user} <= after.reactions.get(key, frozenset())
        if view.message.sender != user:
            assert (after.text, after.edits) == (view.text, view.edits)


@given(rooms(), st.integers(1, 9))
def test_what_is_gone_takes_its_edits_and_reactions_with_it_and_nothing_else(said: list[Message], seq: int) -> None:
    left = by_id([one for one in said if one.seq != seq])
    assert event_id(seq) not in left
    for name, view in by_id(said).items():
        if any(one.seq == seq and one.relation is not None and one.relation.of == name for one in said):
            continue  # it hung on this one
        if name != event_id(seq):
            assert (left[name].text, left[name].edits) == (view.text, view.edits)


@given(rooms())
def test_everything_that_is_shown_was_said_and_edits_and_reactions_are_not_shown_as_messages(
    said: list[Message],
) -> None:
    shown = [one for one in said if not isinstance(one.relation, Edit | Reaction | Retraction)]
    assert [view.message for view in views(said)] == shown


# As bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "about",
    [
        Reply(of=event_id(1)),
        Thread(of=event_id(1)),
        Thread(of=event_id(1), reply_to=event_id(2)),
        Edit(of=event_id(1)),
        Reaction(of=event_id(1), key="\U0001f469\u200d\U0001f469\u200d\U0001f467"),
        Retraction(of=event_id(1)),
    ],
)
def test_what_is_written_is_read_alike(about: AnyRelation) -> None:
    raw = encoded(about)
    assert isinstance(raw, msgspec.Raw)
    assert about_of(bytes(raw)) == about


def test_a_kind_of_a_newer_client_is_passed_over() -> None:
    assert about_of(b'{"kind": "poll", "options": 3}') is None
    assert about_of(b'{"kind": "edit", "of": "$' + b"A" * 43 + b'", "and": "more"}') == Edit(of=EventId("$" + "A" * 43))


@pytest.mark.parametrize(
    "raw",
    [
        b"7",
        b"{}",
        b'{"kind": 7}',
        b'{"kind": "edit"}',
        b'{"kind": "edit", "of": "$short"}',
        b'{"kind": "reaction", "of": "$' + b"A" * 43 + b'", "key": ""}',
        b'{"kind": "reaction", "of": "$' + b"A" * 43 + b'", "key": "' + "\u00e9".encode() * reaction_bytes_max + b'"}',
        b'{"kind": "thread", "of": "$' + b"A" * 43 + b'", "reply_to": 1}',
    ],
)
def test_a_known_kind_of_another_form_is_refused(raw: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        about_of(raw)
