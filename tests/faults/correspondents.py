"""Two people with the SDK, each a process with its sealed store on disk, that is killed and goes on where its store stands.

A reader sees each message at least once: the last one before a death may come again as the first one after it, and nothing else.
"""

import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import trio

from chatty.client import Client, Invited, Message, Room, ServerLied, Undecryptable, open_client
from chatty.client.outbox import OpenSend
from chatty.client.store import LocalStore
from chatty.ids import Seq
from chatty.wire.frames import RoomEntry, Stretch
from tests.faults.chatty_process import ROOT, child_environment
from tests.faults.client_program import Call, Line, command
from tests.faults.ledger import heads_of, order_faults

settle_timeout_s = 180.0  # against a hang only: on a busy machine kills in a row keep the clients away for a minute
GOODBYE = "goodbye"


@dataclass(frozen=True, kw_only=True)
class Death:
    """At the frame of so many sends (it stands in the store and never left), or when so many lines were told."""

    at_send: int | None = None
    after_lines: int = 0


@dataclass(kw_only=True)
class Correspondent:
    """acked, read: what its processes told, in order, all runs together. unsent: texts that stood in the store at a death."""

    name: str
    origin: str
    store: Path
    acked: list[Line] = field(default_factory=list)
    read: list[Line] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unsent: list[str] = field(default_factory=list)
    runs_count: int = 0
    has_died_enough: trio.Event = field(default_factory=trio.Event)

    @property
    def key(self) -> bytes:
        return self.name[:1].encode() * 32

    async def run(self, deaths: Sequence[Death], stopping: trio.Event) -> None:
        """Die as told, then talk until `stopping`, then send what is open and end."""
        for death in deaths:
            await self._run_to_death(death)
        self.has_died_enough.set()
        async with self._process() as process, trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, process)
            await stopping.wait()
            assert process.stdin is not None
            await process.stdin.aclose()
            with trio.fail_after(settle_timeout_s):
                assert await process.wait() == 0
        assert self._open_sends() == []

    async def _run_to_death(self, death: Death) -> None:
        async with self._process(dies_at_send=death.at_send) as process:
            with trio.fail_after(settle_timeout_s):
                await self._listen(process, kill_after=None if death.at_send is not None else death.after_lines)
                assert await process.wait() == -9
        unsent = self._open_sends()
        if death.at_send is not None:
            assert unsent, "it died before its store was written"
        self.unsent += unsent

    def _open_sends(self) -> list[str]:
        store = LocalStore(self.store, key=self.key)
        try:
            return [one.writing.text for _, one in store.items("open_sends", OpenSend)]
        finally:
            store.close()

    @asynccontextmanager
    async def _process(self, *, dies_at_send: int | None = None) -> AsyncIterator[trio.Process]:
        self.runs_count += 1
        call = Call(
            origin=self.origin,
            store=str(self.store),
            key=self.key,
            prefix=f"{self.name}/{self.runs_count}",
            dies_at_send=dies_at_send,
        )
        process = await trio.lowlevel.open_process(
            command(call), stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=child_environment()
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with process.stdin, process.stdout:
                yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()

    async def _listen(self, process: trio.Process, *, kill_after: int | None = None) -> None:
        """Until its stdout ends. What was written before a death still comes."""
        assert process.stdout is not None
        told_count, rest = 0, b""
        async for chunk in process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._take(msgspec.json.decode(line, type=Line))
            told_count += len(lines)
            if kill_after is not None and told_count >= kill_after:
                process.kill()

    def _take(self, line: Line) -> None:
        match line.what:
            case "acked":
                self.acked.append(line)
            case "read":
                self.read.append(line)
            case _:
                self.faults.append(line.text)

    # At the end --------------------------------------------------------------------------------------------------------

    async def read_to_goodbyes(self, client: Client, *, count: int) -> None:
        """What no process has read yet."""
        left_count = count
        async for update in client.messages():
            match update:
                case Message():
                    self.read.append(Line(what="read", room=update.room, seq=update.seq, text=update.text))
                    left_count -= update.text == GOODBYE
                case Undecryptable() | ServerLied():
                    self.faults.append(repr(update))
            if left_count == 0:
                return


async def introduce(ann: Correspondent, bob: Correspondent, *, rooms_count: int) -> None:
    """Accounts, and rooms in which both are; then their clients are closed."""
    async with (
        open_client(ann.origin, ann.store, store_key=ann.key) as first,
        open_client(bob.origin, bob.store, store_key=bob.key) as second,
    ):
        await first.register(ann.name, f"the long password of {ann.name}")
        await second.register(bob.name, f"the long password of {bob.name}")
        for _ in range(rooms_count):
            room = await first.create_room(invite=[second.user])
            async for update in second.messages():
                if isinstance(update, Invited):
                    break
            await second.join(room.id)


async def correspondence_faults(ann: Correspondent, bob: Correspondent) -> list[str]:
    """What is wrong between the two, after all their processes have ended."""
    async with (
        open_client(ann.origin, ann.store, store_key=ann.key) as first,
        open_client(bob.origin, bob.store, store_key=bob.key) as second,
    ):
        rooms = first.rooms()
        for room in rooms:
            await room.send(GOODBYE)
        with trio.fail_after(settle_timeout_s):
            await ann.read_to_goodbyes(first, count=len(rooms))
            await bob.read_to_goodbyes(second, count=len(rooms))
        faults = [f"{one.name}: {fault}" for one in (ann, bob) for fault in one.faults]
        for room in rooms:
            faults += text_faults(room.id, ann, bob)
            for client in (first, second):
                faults += await chain_faults(client, client.room(room.id))
        read = {line.text for line in ann.read}
        return faults + [f"in the store and never sent: {text}" for text in ann.unsent + bob.unsent if text not in read]


def text_faults(room: str, ann: Correspondent, bob: Correspondent) -> list[str]:
    """Both read the same texts at the same places, each once; what was acked or stood in a store is among them."""
    one, other = (without_repeats([line for line in reader.read if line.room == room]) for reader in (ann, bob))
    faults = [f"not read by both: {place}" for place in sorted(set(one) ^ set(other))]
    seqs, texts = [seq for seq, _ in one], [text for _, text in one]
    faults += [] if seqs == sorted(set(seqs)) else ["read out of order"]
    faults += [] if len(texts) == len(set(texts)) else ["a text is there twice"]
    acked = [(line.seq, line.text) for writer in (ann, bob) for line in writer.acked if line.room == room]
    return faults + [f"acked and not read: {seq} {text}" for seq, text in sorted(set(acked) - set(one))]


def seq_of(entries: Sequence[RoomEntry]) -> Seq:
    if not entries:
        return Seq(0)
    last = entries[-1]
    return last.to_seq if isinstance(last, Stretch) else last.seq


def without_repeats(lines: Sequence[Line]) -> list[tuple[int, str]]:
    """Told twice in a row is told once: the process died between telling and asking for the next."""
    places = [(line.seq, line.text) for line in lines]
    return [place for number, place in enumerate(places) if number == 0 or place != places[number - 1]]


async def chain_faults(client: Client, room: Room) -> list[str]:
    """The room as the server has it, against what the client itself has verified."""
    if room.frozen is not None:
        return [f"{client.user} has frozen the room: {room.frozen}"]
    verified = client._engine.book.get(room.id).position
    entries: list[RoomEntry] = []
    while page := (await client._engine.api.events(room.id, after=seq_of(entries))).entries:
        entries += page
    faults = list(order_faults(room.id, entries))
    if faults or heads_of(room.id, entries).get(verified.seq) == verified.head:
        return faults
    return [f"{client.user} has verified another history"]
