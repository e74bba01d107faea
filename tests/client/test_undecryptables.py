"""What could not be read is reported by reason and count, a while later, and once."""

import pytest
import trio
from trio.testing import MockClock

from chatty.client.reasons import Reason
from chatty.client.undecryptables import UndecryptableReports, report_delay_s
from chatty.client.updates import SignedOut, Undecryptable
from chatty.errors import StoreUnavailable
from chatty.ids import EventId, RoomId, Seq, UserId
from chatty.wire.undecryptables import Undecryptables


def unread(reason: Reason) -> Undecryptable:
    return Undecryptable(
        room=RoomId("!room"),
        seq=Seq(1),
        event_id=EventId("$event"),
        sender=UserId("@ann:example.org"),
        reason=reason,
        detail="",
    )


class Server:
    def __init__(self) -> None:
        self.is_away = False
        self.told: list[dict[str, int]] = []

    async def take(self, report: Undecryptables) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise StoreUnavailable("away")
        self.told.append({one.reason: one.count for one in report.counts})


@pytest.fixture
def server() -> Server:
    return Server()


async def test_they_are_told_together_a_while_later_and_once(
    server: Server, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    reports = UndecryptableReports(server.take)
    nursery.start_soon(reports.run)
    await trio.sleep(1)
    for reason in (Reason.NO_KEY_YET, Reason.REPLAYED, Reason.NO_KEY_YET):
        reports.note(unread(reason))
    reports.note(SignedOut(detail=""))
    await trio.sleep(report_delay_s - 1)
    assert server.told == []
    await trio.sleep(2)
    assert server.told == [{"no_key_yet": 2, "replayed": 1}]
    await trio.sleep(10 * report_delay_s)
    assert len(server.told) == 1


async def test_who_cannot_be_told_is_told_with_the_next_one(
    server: Server, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    reports, server.is_away = UndecryptableReports(server.take), True
    nursery.start_soon(reports.run)
    reports.note(unread(Reason.WITHHELD))
    await trio.sleep(2 * report_delay_s)
    server.is_away = False
    reports.note(unread(Reason.WITHHELD))
    await trio.sleep(2 * report_delay_s)
    assert server.told == [{"withheld": 2}]
