"""A member whose socket nobody reads: it slows nobody, costs the server little memory, and loses nothing when it reads on."""

import socket as sockets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from chatty.ids import Seq, UserSeq
from chatty.wire import frames
from chatty.wire.events import TimelineEvent
from tests.faults.chatty_process import ChattyProcess, open_serve
from tests.server.app_fixtures import over_both_paths
from tests.server.wire_client import WireSocket, ciphertext_of, cursor, open_live_socket
from tests.server.wire_people import WireDevice, WireRoom, sign_up

pytestmark = over_both_paths

message_bytes = 16_000
window_count = 32
growth_bytes_max = 8_000_000
sample_interval_s = 0.01
page_bytes = 4_096


@asynccontextmanager
async def open_people(server: ChattyProcess, *names: str) -> AsyncIterator[list[WireDevice]]:
    async with httpx.AsyncClient(base_url=server.origin, timeout=20) as http:
        yield [await sign_up(http, name, origin=server.origin) for name in names]


def leave_unread(socket: WireSocket) -> None:
    """Nobody takes anything out of its buffers from now on; and they are small, that this is soon felt."""
    stream = socket.inner._stream
    assert isinstance(stream, trio.SocketStream)
    stream.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 65_536)


# A round of messages ------------------------------------------------------------------------------------------------


async def send_round(socket: WireSocket, room: WireRoom, count: int) -> None:
    """As fast as acks return; reads its own events along the way."""
    body = ciphertext_of(message_bytes)
    sent_count, acked_count, events_count = 0, 0, 0
    while acked_count < count or events_count < count:
        drafts: list[frames.ClientFrame] = []
        while sent_count < count and sent_count - acked_count + len(drafts) < window_count:
            drafts.append(socket.draft(room.id, body, epoch=room.epoch))
            sent_count += 1
        if drafts:
            await socket.write(*drafts)
        for event in await socket.read():
            match event:
                case frames.Ack():
                    socket.device.settle(event.n)
                    acked_count += 1
                case TimelineEvent():
                    events_count += 1
                case frames.Error():
                    raise AssertionError(event.code)


async def read_round(socket: WireSocket, count: int, seqs: list[Seq]) -> None:
    while len(seqs) < count:
        seqs += [event.seq for event in await socket.read() if isinstance(event, TimelineEvent)]


async def talk(sender: WireSocket, readers: Sequence[WireSocket], room: WireRoom, count: int) -> None:
    """Until each reader has all of them, in order."""
    read: list[list[Seq]] = [[] for _ in readers]
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_round, sender, room, count)
            for reader, seqs in zip(readers, read, strict=True):
                nursery.start_soon(read_round, reader, count, seqs)
    for seqs in read:
        assert seqs == list(range(seqs[0], seqs[0] + count))


# Memory -------------------------------------------------------------------------------------------------------------


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page_bytes


@asynccontextmanager
async def watched_memory(pid: int) -> AsyncIterator[list[int]]:
    """What the process held, sampled for as long as the block runs."""
    samples = [resident_bytes(pid)]

    async def sample() -> None:
        while True:
            samples.append(resident_bytes(pid))
            await trio.sleep(sample_interval_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sample)
        yield samples
        nursery.cancel_scope.cancel()


# Reading on ---------------------------------------------------------------------------------------------------------


async def read_on(socket: WireSocket) -> tuple[list[Seq], list[frames.ServerFrame]]:
    """The seqs up to `lagging`, and what came behind it within the same frame."""
    seqs: list[Seq] = []
    while True:
        events = [*socket.pending] or await socket.read()
        socket.pending.clear()
        for place, event in enumerate(events):
            match event:
                case TimelineEvent():
                    seqs.append(event.seq)
                case frames.Lagging():
                    return seqs, events[place + 1 :]


@pytest.mark.long
async def test_who_never_reads_slows_nobody_costs_little_memory_and_loses_nothing_when_it_reads_on(
    database: str, open_directory: Path, counts: Callable[[int, int], int], capsys: pytest.CaptureFixture[str]
) -> None:
    count = counts(250, 1_000)
    async with (
        open_serve(database, open_directory) as server,
        open_people(server, "ann", "bob", "eve", "sue") as people,
    ):
        ann, bob, eve, sue = people
        room = await ann.create_room(bob, eve, sue)
        async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs, open_live_socket(eve) as eves:
            for socket in (anns, bobs, eves):
                socket.pending.clear()
            async with open_live_socket(sue) as sues:
                await talk(anns, [bobs, eves, sues], room, count)  # the warm-up
            history = await sue.position(room.id)
            async with (
                open_live_socket(sue, cursors=[cursor(room.id, history[0])]) as sues,
                watched_memory(server.running.pid) as samples,
            ):
                leave_unread(sues)
                await talk(anns, [bobs, eves], room, count)
                growth_bytes = max(samples) - samples[0]
                with capsys.disabled():
                    print(f"\n{count} messages beside a silent reader: + {growth_bytes / 1e6:.1f} MB")
                assert growth_bytes < growth_bytes_max
                await reads_on_without_loss(sues, room, first=Seq(history[0] + 1), last=Seq(history[0] + count))


async def reads_on_without_loss(socket: WireSocket, room: WireRoom, *, first: Seq, last: Seq) -> None:
    with trio.fail_after(60):
        seqs, behind = await read_on(socket)
        assert (behind, seqs) == ([], list(range(first, first + len(seqs))))  # what had left before; then nothing live
        assert len(seqs) < last - first
        request = socket.request_id()
        reached = seqs[-1] if seqs else Seq(first - 1)
        await socket.write(frames.Resync(id=request, user_seq=UserSeq(0), cursors=[cursor(room.id, reached)]))
        rest: list[Seq] = []
        await read_round(socket, last - reached, rest)
        assert rest == list(range(reached + 1, last + 1))


async def test_who_does_not_read_for_too_long_is_let_go(database: str, open_directory: Path) -> None:
    settings = {"CHATTY_OUTBOX_WRITE_TIMEOUT_S": "1", "CHATTY_TCP_USER_TIMEOUT_S": "1"}
    async with (
        open_serve(database, open_directory, **settings) as server,
        open_people(server, "ann", "sue") as (ann, sue),
    ):
        room = await ann.create_room(sue)
        async with open_live_socket(ann) as anns, open_live_socket(sue) as sues:
            anns.pending.clear()
            leave_unread(sues)
            await talk(anns, [], room, 250)
            with trio.fail_after(15):
                while "chatty_websocket_connections 1.0" not in (await ann.http.get("/metrics")).text:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            await talk(anns, [], room, 1)
