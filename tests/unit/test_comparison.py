"""What the comparison of a node's sessions with the store takes for lost, and what for being on its way."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import trio
from trio.testing import MockClock

from chatty.actors.directory import Directory, Listener
from chatty.actors.runtime import ActorSpec, Mailbox, open_supervisor
from chatty.actors.watch import compare_actor
from chatty.ids import DeviceId, DeviceNumber, FamilyId, MailboxId, RoomNumber, Seq, UserId, UserNumber, UserSeq
from chatty.services.caller import Caller
from chatty.services.streams import Behind, StreamSteps

ROOM = RoomNumber(7)
INTERVAL_S = 2.0


@dataclass
class Sent:
    sent: Seq


@dataclass(eq=False)
class Member:
    """A session that takes down which heads it was found not to have reached."""

    caller: Caller
    rooms: dict[RoomNumber, Sent]
    user_sent: UserSeq = UserSeq(0)
    given: set[MailboxId] = field(default_factory=set)
    missed: list[Seq] = field(default_factory=list)

    def note_head(self, room: RoomNumber, head: Seq) -> None:
        if self.rooms[room].sent < head:
            self.missed.append(head)

    def is_sent(self, upto: int) -> None:
        self.rooms[ROOM].sent = Seq(upto)


class Store(StreamSteps):
    """With one room."""

    def __init__(self) -> None:
        self.newest = Seq(0)

    async def compare(
        self,
        rooms: Mapping[RoomNumber, Seq],
        users: Mapping[UserNumber, UserSeq],
        given: Mapping[DeviceNumber, Collection[MailboxId]],
    ) -> Behind:
        await trio.lowlevel.checkpoint()
        heads = {ROOM: self.newest} if rooms[ROOM] < self.newest else {}
        return Behind(heads=heads, stream_seqs={}, devices=())


def member(directory: Directory, number: int) -> Member:
    caller = Caller(
        user=UserId(f"@user-{number}:x"),
        user_number=UserNumber(number),
        device=DeviceId(f"DEVICE{number:02}"),
        device_number=DeviceNumber(number),
        family=FamilyId("f"),
        role="user",
        thumbprint="T" * 43,
        step_up_age_s=0.0,
        expires_at_s=0.0,
    )
    entered = Member(caller, {ROOM: Sent(Seq(0))})
    listener = cast(Listener, entered)
    directory.enter(listener)
    directory.register(ROOM, listener)
    return entered


@asynccontextmanager
async def compared(directory: Directory, store: Store) -> AsyncIterator[None]:
    """Half-way between the first look and the second."""

    async def run(inbox: Mailbox[None]) -> None:
        await compare_actor(inbox, directory=directory, streams=store, interval_s=INTERVAL_S)

    async with open_supervisor("root") as root:
        await root.start(ActorSpec(name="compare", run=run, mailbox_count_max=1))
        await trio.sleep(INTERVAL_S / 2)
        yield


async def test_whoever_lags_behind_a_busy_room_but_moves_on_is_left_alone(autojump_clock: MockClock) -> None:
    directory, store = Directory(), Store()
    moves, stands = member(directory, 1), member(directory, 2)
    store.newest = Seq(10)
    async with compared(directory, store):
        for look in range(1, 4):
            moves.is_sent(look * 10)  # all that was there at the last look, and never what has come since
            store.newest = Seq((look + 1) * 10)
            await trio.sleep(INTERVAL_S)
            assert moves.missed == []
            assert stands.missed == [Seq(10 * one) for one in range(1, look + 1)]


async def test_what_has_just_come_is_no_proof_and_what_was_missed_is_found_at_the_second_look(
    autojump_clock: MockClock,
) -> None:
    directory, store = Directory(), Store()
    ann = member(directory, 1)
    async with compared(directory, store):
        store.newest = Seq(1)
        await trio.sleep(INTERVAL_S)
        assert ann.missed == []
        await trio.sleep(INTERVAL_S)
        assert ann.missed == [Seq(1)]
        ann.is_sent(1)
        await trio.sleep(3 * INTERVAL_S)
        assert ann.missed == [Seq(1)]
