"""What a batch's transaction decides: a pure function over what is locked and read."""

from dataclasses import replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from chatty.errors import DeviceRevoked, DeviceSetStale, MessageIdClosed, MessageIdConflict, NotAMember, SendWindowFull
from chatty.ids import (
    DeviceId,
    DeviceNumber,
    FamilyId,
    ListVersion,
    RoomId,
    RoomNumber,
    SendNumber,
    Seq,
    UserId,
    UserNumber,
)
from chatty.services.caller import Caller
from chatty.services.messages import Decision, Draft, Facts, Recorded, decide_batch
from chatty.services.requests import SendRow
from chatty.services.timeline import NewEvent, OwedDevices, RoomHead
from chatty.wire import chain
from chatty.wire.events import Committed, DevicesContent, Kind, decode_content

EPOCH, NOW_MS = Seq(2), 1_000


def caller(device: int = 1) -> Caller:
    return Caller(
        user=UserId(f"@user{device}:example.org"),
        user_number=UserNumber(device),
        device=DeviceId(f"DEVICE{device:02}"),
        device_number=DeviceNumber(device),
        family=FamilyId("family"),
        role="user",
        thumbprint="T" * 43,
        step_up_age_s=0.0,
        expires_at_s=2e9,
    )


def draft(n: int, *, body: bytes = b"body", room: int = 1, device: int = 1, low: int = 1, epoch: int = EPOCH) -> Draft:
    new = NewEvent(kind=Kind.MESSAGE, body=body, sender=caller(device).user, n=SendNumber(n), epoch=Seq(epoch))
    digest = chain.request_digest(f"{room} {epoch}", body)
    return Draft(
        caller=caller(device),
        room=RoomId(f"!{room}"),
        room_number=RoomNumber(room),
        n=SendNumber(n),
        low=SendNumber(low),
        digest=digest,
        new=new,
    )


def head(room: int = 1) -> RoomHead:
    return RoomHead(
        room_number=RoomNumber(room),
        room=RoomId(f"!{room}"),
        seq=Seq(2),
        head=b"h" * 32,
        epoch=EPOCH,
        state_seq=EPOCH,
        last_time=900,
    )


def row(*, low: int = 1, highest_n: int = 0, is_live: bool = True) -> SendRow:
    return SendRow(low=SendNumber(low), highest_n=SendNumber(highest_n), is_live=is_live)


def facts(*, rooms_count: int = 1, devices_count: int = 1) -> Facts:
    """All locked, all joined, nothing recorded."""
    rooms, devices = range(1, rooms_count + 1), range(1, devices_count + 1)
    return Facts(
        rows={DeviceNumber(device): row() for device in devices},
        recorded={},
        heads={RoomNumber(room): head(room) for room in rooms},
        joined={(RoomNumber(room), UserNumber(device)) for room in rooms for device in devices},
    )


def decide(drafts: list[Draft], known: Facts) -> Decision:
    return decide_batch(drafts, known, now_ms=NOW_MS)


def seqs(decision: Decision) -> list[int]:
    return [one.event.seq for one in decision.appended]


def recorded(one: Draft, *, refusal: str = "") -> Recorded:
    return Recorded(
        digest=one.digest, room=one.room, seq=Seq(0 if refusal else 9), time=7, leaf=b"leaf", refusal=refusal
    )


def test_what_is_right_is_numbered_in_its_order() -> None:
    decision = decide([draft(1), draft(3), draft(2)], facts())
    assert [(one.event.n, one.event.seq) for one in decision.appended] == [(1, 3), (3, 4), (2, 5)]
    assert [answer.seq for answer in decision.answers if isinstance(answer, Committed)] == [3, 4, 5]
    assert decision.rows[DeviceNumber(1)] == row(highest_n=3)


def test_the_chain_goes_on_from_the_rooms_head() -> None:
    decision = decide([draft(1), draft(2)], facts())
    expected = b"h" * 32
    for one in decision.appended:
        expected = chain.next_head(expected, chain.leaf(one.event))
        assert one.head == expected


def test_time_never_goes_back_within_a_room() -> None:
    known = facts()
    known.heads[RoomNumber(1)].last_time = 5_000
    assert [one.event.time for one in decide([draft(1)], known).appended] == [5_000]


def test_what_is_not_locked_belongs_into_the_next_batch() -> None:
    known = facts()
    decision = decide([draft(1, room=2), draft(1, device=2), draft(1)], known)
    assert decision.answers[:2] == [None, None]
    assert isinstance(decision.answers[2], Committed)


def test_a_resend_gets_the_recorded_outcome_and_writes_nothing() -> None:
    one, known = draft(1), facts()
    known.recorded[DeviceNumber(1), SendNumber(1)] = recorded(one)
    decision = decide([one], known)
    assert decision.answers == [Committed(room=one.room, seq=Seq(9), time=7, leaf=b"leaf")]
    assert (decision.appended, decision.recorded, decision.rows) == ([], [], {})


def test_a_refusal_is_given_again_also_to_one_who_is_a_member_by_now() -> None:
    one, known = draft(1), facts()
    known.recorded[DeviceNumber(1), SendNumber(1)] = recorded(one, refusal="not_a_member")
    assert isinstance(decide([one], known).answers[0], NotAMember)


def test_a_resend_is_answered_even_when_the_device_is_dead() -> None:
    one, known = draft(1), facts()
    known.recorded[DeviceNumber(1), SendNumber(1)] = recorded(one)
    known.rows[DeviceNumber(1)] = row(highest_n=1, is_live=False)
    first, second = decide([one, draft(2)], known).answers
    assert isinstance(first, Committed)
    assert isinstance(second, DeviceRevoked)


def test_a_copy_within_the_batch_is_a_resend() -> None:
    decision = decide([draft(1), draft(1), draft(1, body=b"other")], facts())
    first, second, third = decision.answers
    assert isinstance(first, Committed)
    assert second == first
    assert isinstance(third, MessageIdConflict)
    assert (seqs(decision), len(decision.recorded)) == ([3], 1)


def test_a_later_low_of_the_batch_closes_what_is_below_it() -> None:
    decision = decide([draft(5, low=5), draft(4, low=1)], facts())
    assert isinstance(decision.answers[1], MessageIdClosed)


def test_the_window_is_full_at_low_and_256() -> None:
    first, second = decide([draft(256), draft(257)], facts()).answers
    assert isinstance(first, Committed)
    assert isinstance(second, SendWindowFull)


def test_who_is_no_member_is_refused_for_good_and_before_the_epoch_is_looked_at() -> None:
    known = facts()
    known.joined.clear()
    decision = decide([draft(1, epoch=99)], known)
    assert isinstance(decision.answers[0], NotAMember)
    [(device, n, outcome, room)] = decision.recorded
    assert (device, n, room, outcome.refusal, outcome.seq) == (1, 1, 1, "not_a_member", 0)
    assert decision.appended == []


def test_a_stale_message_is_refused_and_leaves_its_number_free() -> None:
    decision = decide([draft(1, epoch=1), draft(1, body=b"anew")], facts())
    assert isinstance(decision.answers[0], DeviceSetStale)
    assert isinstance(decision.answers[1], Committed)
    assert decision.stale == [0]
    assert len(decision.recorded) == 1


def owed(version: int, member_version: int | None, *, user: int = 7) -> OwedDevices:
    return OwedDevices(
        room_number=RoomNumber(1),
        user_number=UserNumber(user),
        user=UserId(f"@user{user}:example.org"),
        list_version=ListVersion(version),
        list_digest="D" * 43,
        member_version=member_version,
    )


def test_owed_devices_go_first_and_make_the_older_epoch_stale() -> None:
    known = facts()
    known.owed = [owed(2, 1)]
    decision = decide([draft(1), draft(1, epoch=3)], known)
    assert [(one.event.kind, one.event.seq) for one in decision.appended] == [(Kind.DEVICES, 3), (Kind.MESSAGE, 4)]
    first = decision.answers[0]
    assert isinstance(first, DeviceSetStale)
    assert first.epoch == 3


def test_each_devices_event_of_a_batch_names_the_state_event_before_it() -> None:
    known, locked = facts(), head()
    locked.seq, locked.state_seq = Seq(9), Seq(5)
    known.heads[RoomNumber(1)] = locked
    known.owed = [owed(2, 1), owed(2, 1, user=8)]
    decision = decide([draft(1, epoch=11)], known)
    assert seqs(decision) == [10, 11, 12]
    contents = [decode_content(one.event) for one in decision.appended[:2]]
    assert [content.previous for content in contents if isinstance(content, DevicesContent)] == [5, 10]
    assert (locked.seq, locked.state_seq) == (12, 11)


def test_nothing_is_owed_to_who_left_or_knows_the_version() -> None:
    known = facts()
    known.owed = [owed(2, None), owed(2, 2, user=8), owed(1, 2, user=9)]
    decision = decide([draft(1)], known)
    assert [one.event.kind for one in decision.appended] == [Kind.MESSAGE]


drafts = st.builds(
    draft,
    st.integers(1, 300),
    body=st.sampled_from([b"one", b"two"]),
    room=st.integers(1, 3),
    device=st.integers(1, 3),
    low=st.integers(1, 4),
    epoch=st.sampled_from([1, EPOCH]),
)


@given(st.lists(drafts, max_size=30), st.sets(st.tuples(st.integers(1, 3), st.integers(1, 3))))
def test_one_batch_and_its_messages_one_by_one_come_to_the_same(
    batch: list[Draft], outside: set[tuple[int, int]]
) -> None:
    def known() -> Facts:
        found = facts(rooms_count=2, devices_count=3)
        found.joined -= {(RoomNumber(room), UserNumber(user)) for room, user in outside}
        return found

    together, carried, one_by_one = decide(batch, known()), known(), []
    for one in batch:
        one_by_one += decide([one], carried).answers
    assert [_named(answer) for answer in together.answers] == [_named(answer) for answer in one_by_one]
    for room in (1, 2):
        numbered = [one.event.seq for one in together.appended if one.room_number == room]
        assert numbered == list(range(3, 3 + len(numbered)))
    names = [(device, n) for device, n, _, _ in together.recorded]
    assert len(names) == len(set(names))


def _named(answer: object) -> object:
    return msgspec.to_builtins(answer) if isinstance(answer, Committed) else type(answer)


@given(st.lists(drafts, max_size=30))
def test_low_and_the_highest_number_only_rise(batch: list[Draft]) -> None:
    known = facts(rooms_count=3, devices_count=3)
    before = {device: replace(one) for device, one in known.rows.items()}
    for device, after in decide(batch, known).rows.items():
        assert after.low >= before[device].low
        assert after.highest_n >= before[device].highest_n
