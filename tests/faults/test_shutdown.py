"""An orderly stop: who is connected is told, what was acked is there, and nobody can hold it up."""

import signal
from pathlib import Path

import pytest
import trio

from chatty.wire import frames
from chatty.wire.events import TimelineEvent
from tests.faults.chatty_process import open_serve
from tests.faults.test_slow_reader import leave_unread, open_people, send_round
from tests.server.app_fixtures import RunningApp
from tests.server.wire_client import WireSocket, ciphertext, open_live_socket, open_raw_socket
from tests.server.wire_people import WireDevice, sign_in

stop_within_s = 5.0


async def told_to_come_back(socket: WireSocket) -> None:
    """An error with id 0, then the close with the code of a server that stops."""
    reason = await socket.closed()
    error = await socket.event(frames.Error)
    assert (error.id, error.code, error.is_retryable) == (0, "shutting_down", True)
    assert error.retry_after_s is not None
    assert 1.0 <= error.retry_after_s <= 2.0
    assert (reason.code, reason.reason) == (4410, "shutting_down")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_who_is_connected_is_told_and_what_was_acked_is_there(
    database: str, open_directory: Path, number: signal.Signals
) -> None:
    async with open_serve(database, open_directory) as server, open_people(server, "ann", "bob") as (ann, bob):
        room = await ann.create_room(bob)
        async with (
            open_live_socket(ann) as anns,
            open_live_socket(bob) as bobs,
            open_raw_socket(server.origin) as early,
        ):
            drafts = [anns.draft(room.id, ciphertext(), epoch=room.epoch) for _ in range(200)]
            await anns.write(*drafts)
            first = await anns.answer(drafts[0].id)
            began = trio.current_time()
            server.running.send_signal(number)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(told_to_come_back, anns)
                nursery.start_soon(told_to_come_back, bobs)
                nursery.start_soon(told_to_come_back, early)
            assert await server.ended() == 0
            assert trio.current_time() - began < stop_within_s
        acked = [first, *(event for event in anns.pending if isinstance(event, frames.Ack))]
        log = server.log.read_text()
        assert log.index('"server.stopping"') < log.index('"server.stopped"')
        await server.start()
        history = [entry for entry in await ann.all_history(room.id) if isinstance(entry, TimelineEvent)]
        stored = {entry.n: entry.seq for entry in history if entry.device == ann.device}
        assert acked != []
        assert all(stored[ack.n] == ack.seq for ack in acked if isinstance(ack, frames.Ack))


async def test_peers_that_never_read_do_not_hold_it_up(database: str, open_directory: Path) -> None:
    async with open_serve(database, open_directory) as server, open_people(server, "ann", "sue") as (ann, sue):
        silent = [sue, *[await sign_in(sue) for _ in range(4)]]
        room = await ann.create_room(sue)
        async with trio.open_nursery() as nursery:
            stuck = [await nursery.start(hold_unread, device) for device in silent]
            async with open_live_socket(ann) as anns:
                anns.pending.clear()
                await send_round(anns, room, 400)
            assert len(stuck) == 5
            began = trio.current_time()
            server.running.terminate()
            with trio.fail_after(2 * stop_within_s):
                assert await server.ended() == 0
            assert trio.current_time() - began < stop_within_s
            nursery.cancel_scope.cancel()


async def hold_unread(device: WireDevice, *, task_status: trio.TaskStatus[WireSocket]) -> None:
    async with open_live_socket(device) as socket:
        leave_unread(socket)
        task_status.started(socket)
        await trio.sleep_forever()


async def test_while_it_drains_it_is_not_ready_and_says_why(chat: RunningApp) -> None:
    chat.app.begin_drain()
    answer = await chat.http.get("/readyz")
    assert answer.status_code == 503
    assert {"name": "serving", "is_ready": False, "reason": "draining"} in answer.json()["checks"]
    assert (await chat.http.get("/livez")).status_code == 200
