"""What a room's actor makes of commits that queued up while it delivered."""

from collections.abc import Sequence

import pytest

from chatty.actors.rooms import joined
from chatty.ids import RoomId, Seq
from chatty.wire.events import Kind, TimelineEvent


def make_event(seq: int) -> TimelineEvent:
    return TimelineEvent(room=RoomId("!a"), seq=Seq(seq), time=0, kind=Kind.MESSAGE)


@pytest.mark.parametrize(
    ("stretches", "expected"),
    [
        ([], []),
        ([[]], []),
        ([[1, 2], [], [3]], [[1, 2, 3]]),
        ([[3], [1, 2]], [[1, 2, 3]]),
        ([[1], [3], [4]], [[1], [3, 4]]),
        ([[1, 2], [2, 3]], [[1, 2], [2, 3]]),
    ],
)
def test_what_follows_without_a_gap_is_one_stretch(
    stretches: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]
) -> None:
    found = joined([make_event(seq) for seq in stretch] for stretch in stretches)
    assert [[event.seq for event in stretch] for stretch in found] == expected
