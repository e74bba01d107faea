"""The ledger finds what the crash test looks for: in made-up histories, and on servers that have lost one promise."""

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psycopg
import pytest

from chatty.ids import DeviceId, RoomId, SendNumber, Seq, UserId
from chatty.store.embedded import address_of_running
from chatty.wire import chain
from chatty.wire.events import MEGOLM, Committed, Kind, TimelineEvent
from chatty.wire.frames import Ack, Gap, RoomEntry, Send
from tests.faults.chatty_process import ChattyProcess, open_installation
from tests.faults.ledger import Sending, delivery_faults, find_faults
from tests.faults.postgres_processes import kill_postgres, postmaster_pid
from tests.faults.storm import Kill, Storm, open_storm

ROOM = RoomId("!room")
TALKERS = ("ann", "bob")


def message(seq: int, n: int, *, body: bytes = b"body", time: int = 1) -> TimelineEvent:
    return TimelineEvent(
        room=ROOM,
        seq=Seq(seq),
        time=time,
        kind=Kind.MESSAGE,
        sender=UserId("@ann:localhost"),
        device=DeviceId("ANN"),
        n=SendNumber(n),
        algorithm=MEGOLM,
        session_id="S",
        epoch=Seq(1),
        body=body,
    )


def sending(event: TimelineEvent, *, is_acked: bool = True) -> Sending:
    assert event.body is not None
    request = Send(
        id=1,
        n=event.n,
        low=SendNumber(1),
        room=ROOM,
        epoch=event.epoch,
        algorithm="m.megolm.v1.aes-sha2",
        session_id="S",
        body=event.body,
    )
    ack = Ack(id=1, n=event.n, room=ROOM, seq=event.seq, time=event.time, leaf=chain.leaf(event))
    return Sending(device=event.device, request=request, ack=ack if is_acked else None)


SOUND = [message(1, 1), message(2, 2), message(3, 3)]
SENT = [sending(event) for event in SOUND]


def faults(
    *,
    history: Sequence[RoomEntry] = SOUND,
    sendings: Sequence[Sending] = SENT,
    live: Sequence[RoomEntry] = SOUND,
) -> list[str]:
    return find_faults(ROOM, history=history, sendings=sendings, live={"bob": live})


def test_a_sound_room_has_no_faults() -> None:
    assert faults() == []


def test_a_send_without_an_outcome_may_be_there_or_not() -> None:
    for unacked in (message(3, 3), message(4, 4)):
        assert faults(sendings=[*SENT[:2], sending(unacked, is_acked=False), SENT[2]]) == []


def test_a_refused_send_and_a_copy_acked_elsewhere_are_found() -> None:
    refused, copied = sending(SOUND[2], is_acked=False), sending(SOUND[2])
    refused.refusal = "not_a_member"
    copied.copies.append(Committed(room=ROOM, seq=Seq(3), time=1, leaf=chain.leaf(SOUND[2])))
    assert faults(sendings=[*SENT[:2], refused]) == ["('ANN', 3) was refused (not_a_member) and stands at 3"]
    assert faults(sendings=[*SENT[:2], copied]) == []
    copied.copies.append(Committed(room=ROOM, seq=Seq(4), time=1, leaf=chain.leaf(SOUND[2])))
    assert faults(sendings=[*SENT[:2], copied]) == ["('ANN', 3) was acked at 4 and stands at 3"]


def test_a_gap_stands_for_what_a_reader_may_not_see() -> None:
    head = chain.next_head(chain.empty_head(ROOM), chain.leaf(SOUND[0]))
    gap = Gap(room=ROOM, from_seq=Seq(1), to_seq=Seq(1), head=head)
    assert faults(live=[gap, *SOUND[1:]]) == []
    assert faults(live=[msgspec.structs.replace(gap, head=b"x" * 32), *SOUND[1:]]) == ["bob: another event at 1"]


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        ({"history": SOUND[:2], "live": SOUND[:2]}, "('ANN', 3) was acked at 3 and is missing"),
        ({"history": [*SOUND, message(4, 2)], "live": [*SOUND, message(4, 2)]}, "('ANN', 2) is there 2 times"),
        ({"history": [SOUND[0], SOUND[2]]}, "a hole: 3 comes after 1"),
        ({"history": [*SOUND[:2], *SOUND[1:]]}, "a repeat: 2 comes after 2"),
        ({"history": [SOUND[0], message(2, 2, time=0)]}, "the time goes back at 2"),
        ({"history": [message(1, 1), message(2, 3), message(3, 2)]}, "('ANN', 2) was acked at 2 and stands at 3"),
        ({"history": [*SOUND[:2], message(3, 3, body=b"x")]}, "('ANN', 3) has other bytes at 3 than were sent"),
        ({"history": [*SOUND, message(4, 4)]}, "nobody sent ('ANN', 4)"),
        ({"live": SOUND[:2]}, "bob: read up to 2 of 3"),
        ({"live": []}, "bob: read up to 0 of 3"),
        ({"live": [SOUND[0], SOUND[2]]}, "bob: a hole: 3 comes after 1"),
        ({"live": [*SOUND, SOUND[2]]}, "bob: a repeat: 3 comes after 3"),
        ({"live": [SOUND[0], message(2, 2, body=b"x"), SOUND[2]]}, "bob: another event at 2"),
    ],
)
def test_each_broken_promise_is_found(broken: dict[str, list[RoomEntry]], found: str) -> None:
    assert found in faults(**broken)  # type: ignore[arg-type]  # two of the three keywords, both sequences of entries


async def stored_faults(storm: Storm) -> list[str]:
    """In the store alone: what the talkers saw before is a matter of its own. They are silent."""
    talkers, faults = storm.talkers, list[str]()
    for room in talkers[0].rooms:
        history = await talkers[0].device.all_history(room)
        sendings = [one for talker in talkers for one in talker.sendings.values() if one.request.room == room]
        faults += delivery_faults([one for one in history if isinstance(one, TimelineEvent)], sendings)
    return faults


async def test_a_server_that_forgets_requests_doubles_and_is_found(open_directory: Path, seed: int) -> None:
    """Killed after a commit, the senders send again; without the look-up it is a new message."""
    async with (
        open_installation(open_directory, spoiled="memory of requests") as server,
        open_storm(server, random.Random(seed), names=TALKERS) as storm,
    ):
        await storm.strike(Kill(victim=None, point="after_commit", passed_count=5))
        storm.talking.cancel()
        found = await stored_faults(storm)
    assert any("is there 2 times" in fault for fault in found)


def flush(server: ChattyProcess) -> None:
    """One commit as it should be: all before it is on the disk with it."""
    with psycopg.connect(address_of_running(server.data_dir / "postgres"), autocommit=True) as connection:
        connection.execute("SET synchronous_commit = on")
        connection.execute("CREATE TABLE flushed ()")


async def test_a_server_that_acks_before_the_disk_loses_and_is_found(open_directory: Path, seed: int) -> None:
    """Without synchronous commits, a killed PostgreSQL forgets the last moments; the acks of them are out."""
    async with (
        open_installation(open_directory, spoiled="durable commit") as server,
        open_storm(server, random.Random(seed), names=TALKERS) as storm,
    ):
        await storm.until_acked(50)
        flush(server)
        await storm.until_acked(100)
        postmaster = postmaster_pid(server.data_dir)
        kill_postgres(server.data_dir, "everything")
        storm.talking.cancel()
        await server.until_other_postmaster(postmaster)
        found = await stored_faults(storm)
    assert any("is missing" in fault for fault in found)
