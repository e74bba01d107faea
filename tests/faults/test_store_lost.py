"""PostgreSQL gone for a while, however it goes: frozen, killed, busy. Typed answers in time; then all goes on by itself."""

import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import trio

from chatty.store.connection import open_connection
from chatty.store.embedded import EmbeddedServer, open_embedded
from chatty.store.schema import upgrade
from chatty.wire import frames
from chatty.wire.events import TimelineEvent
from tests.faults.postgres_processes import kill_all, postgres_pids
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.commands import chatty_admin
from tests.server.wire_client import WireSocket, changed, ciphertext, open_live_socket, open_raw_socket
from tests.server.wire_people import WireDevice, WireRoom

pytestmark = pytest.mark.usefixtures("logging_as_before")
answered_within_s = 6.0  # whatever is asked while the database is gone
at_once_s = 0.5


@asynccontextmanager
async def open_own_store(directory: Path) -> AsyncIterator[tuple[EmbeddedServer, RunningApp]]:
    """The application on a PostgreSQL of its own: the other tests' is not ours to stop."""
    async with open_embedded(directory / "postgres", settings={"fsync": "off"}) as server:
        await upgrade(server.address)
        async with open_chat(
            server.address,
            directory,
            append_timeout_s=0.6,
            database_statement_timeout_s=1.0,
            pool_wait_timeout_s=0.5,
        ) as chat:
            yield server, chat


@contextmanager
def frozen(directory: Path) -> Iterator[None]:
    """No process of it does anything, and the kernel goes on taking its clients' bytes: a partition looks like this."""
    pids = postgres_pids(directory)
    send_signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send_signal(pids, signal.SIGCONT)


def send_signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def until_ready(http: httpx.AsyncClient) -> None:
    with trio.fail_after(20):
        while not (await http.get("/readyz")).is_success:  # noqa: ASYNC110  # as a balancer does
            await trio.sleep(0.05)


async def refused_in_time(socket: WireSocket, drafts: Sequence[frames.Send]) -> None:
    """Each send is answered by an error that says: the same again."""
    await socket.write(*drafts)
    answers = [await socket.answer(draft.id) for draft in drafts]
    errors = [answer for answer in answers if isinstance(answer, frames.Error)]
    assert len(errors) == len(drafts)
    assert {(error.code, error.is_retryable) for error in errors} == {("outcome_unknown", True)}


async def acked_again(socket: WireSocket, drafts: Sequence[frames.Send]) -> list[frames.Ack]:
    """The same sends once more: the same n, the same bytes."""
    again = [changed(draft, id=socket.request_id()) for draft in drafts]
    await socket.write(*again)
    answers = [await socket.answer(draft.id) for draft in again]
    return [answer for answer in answers if isinstance(answer, frames.Ack)]


async def tells_why_it_is_not_ready(chat: RunningApp) -> None:
    assert (await chat.http.get("/livez")).status_code == 200
    ready = await chat.http.get("/readyz")
    [check] = [check for check in ready.json()["checks"] if not check["is_ready"]]
    assert (ready.status_code, check["name"]) == (503, "database")
    assert check["reason"] in ("not answered within 1 s", "store_unavailable", "overloaded")


async def tells_the_operator(chat: RunningApp) -> None:
    looked = await chatty_admin(chat.settings.data_dir, "health")
    assert (looked.exit_code, "database" in looked.stdout) == (1, True)


async def refuses_over_http(ann: WireDevice, room: WireRoom) -> None:
    history = await ann.answer("GET", f"/v1/rooms/{room.id}/events")
    assert history.json()["code"] in ("store_unavailable", "overloaded")
    assert (history.status_code, history.headers["Retry-After"]) == (503, "1")


async def refuses_who_connects(device: WireDevice) -> None:
    async with open_raw_socket(device.origin, device=device) as socket:
        await socket.event(frames.Challenge)
        await socket.write(socket.hello())
        error = await socket.event(frames.Error)
        assert (error.id, error.code, error.is_retryable) == (0, "store_unavailable", True)
        assert (await socket.closed()).code == 4411


@pytest.mark.parametrize("ending", ["goes on", "is killed"])
async def test_a_database_that_hangs_is_answered_for_until_it_is_back(open_directory: Path, ending: str) -> None:
    async with open_own_store(open_directory) as (server, chat):
        ann, bob, eve = await chat.sign_up_all("ann", "bob", "eve")
        room = await ann.create_room(bob)
        async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
            bodies = [ciphertext() for _ in range(20)]
            await anns.send_all(room.id, bodies[:5], epoch=room.epoch)
            drafts = [anns.draft(room.id, body, epoch=room.epoch) for body in bodies[5:]]
            with frozen(open_directory):
                with trio.fail_after(answered_within_s):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(refused_in_time, anns, drafts)
                        nursery.start_soon(refuses_who_connects, eve)
                        nursery.start_soon(refuses_over_http, ann, room)
                        nursery.start_soon(tells_why_it_is_not_ready, chat)
                        nursery.start_soon(tells_the_operator, chat)
                await bobs.ask(frames.Ping(id=bobs.request_id()))  # his socket is as good as before
                if ending == "is killed":
                    kill_all(postgres_pids(open_directory))
            await until_ready(chat.http)
            acks = await acked_again(anns, drafts)
            events = await bobs.messages(len(bodies))
            assert [event.body for event in events] == bodies  # what was acked, and each of the others once
            assert [ack.seq for ack in acks] == [event.seq for event in events[5:]]
            assert [event for event in await bobs.settle() if isinstance(event, TimelineEvent)] == []
        async with open_live_socket(eve) as eves:
            await eves.ask(frames.Ping(id=eves.request_id()))
        assert server.restart_count == (1 if ending == "is killed" else 0)
        assert {branch.restart_count for branch in chat.app.snapshot().children} == {0}


# A database that is merely busy -------------------------------------------------------------------------------------


@asynccontextmanager
async def locked(database: str, table: str) -> AsyncIterator[None]:
    """Whoever wants to read this table waits, as while somebody rewrites it."""
    async with open_connection(database) as connection, connection.transaction():
        await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield


async def timed_answer(device: WireDevice, path: str, answers: list[tuple[float, httpx.Response]]) -> None:
    began = trio.current_time()
    answer = await device.answer("GET", path)
    answers.append((trio.current_time() - began, answer))


async def test_a_saturated_pool_refuses_at_once_and_statements_end_at_their_deadline(
    database: str, tmp_path: Path
) -> None:
    async with open_chat(
        database, tmp_path, pool_connections_max=3, pool_waiting_max=3, database_statement_timeout_s=1.0
    ) as chat:
        ann = await chat.sign_up("ann")
        room = await ann.create_room()
        path = f"/v1/rooms/{room.id}/events"
        answers: list[tuple[float, httpx.Response]] = []
        async with locked(database, "timeline"), trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(timed_answer, ann, path, answers)
        assert {(answer.status_code, answer.headers["Retry-After"]) for _, answer in answers} == {(503, "1")}
        limiters = [answer.json()["limiter"] for _, answer in answers]
        assert limiters.count("database_pool") >= 6
        assert limiters.count("database_statement_timeout") >= 3
        at_once = [duration_s for duration_s, answer in answers if answer.json()["limiter"] == "database_pool"]
        assert max(at_once) < at_once_s
        waited = [duration_s for duration_s, answer in answers if answer.json()["limiter"] != "database_pool"]
        assert 0.9 < min(waited) <= max(waited) < 1.0 + answered_within_s
        assert (await ann.history(room.id)).entries != []


async def test_a_send_that_meets_a_busy_table_is_refused_by_its_deadline_and_the_journal_goes_on(
    database: str, tmp_path: Path
) -> None:
    async with open_chat(database, tmp_path, database_statement_timeout_s=0.5) as chat:
        ann = await chat.sign_up("ann")
        room = await ann.create_room()
        async with open_live_socket(ann) as anns:
            draft = anns.draft(room.id, ciphertext(), epoch=room.epoch)
            async with locked(database, "timeline"):
                await anns.write(draft)
                error = await anns.answer(draft.id)
                assert isinstance(error, frames.Error)
                assert (error.code, error.is_retryable) == ("overloaded", True)
            [ack] = await acked_again(anns, [draft])
            [event] = await anns.messages(1)
            assert (event.body, event.seq) == (draft.body, ack.seq)
