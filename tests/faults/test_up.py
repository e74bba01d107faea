"""`chatty up` itself: killed with its database left behind, and stopped by a terminal's Ctrl-C while people talk."""

import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import trio

from tests.faults.chatty_process import ChattyProcess, open_chatty_up
from tests.faults.postgres_processes import is_alive, postgres_pids, postmaster_pid
from tests.faults.storm import all_faults, open_storm

TALKERS = ("ann", "bob")


def processes_of(server: ChattyProcess) -> Sequence[int]:
    """Of Chatty and its PostgreSQL, at this moment."""
    return [server.running.pid, *postgres_pids(server.data_dir)]


async def until_none_is_alive(pids: Sequence[int]) -> None:
    with trio.fail_after(10):
        while any(map(is_alive, pids)):  # noqa: ASYNC110  # PostgreSQL's are no children of ours
            await trio.sleep(0.01)


def postgres_log(server: ChattyProcess) -> str:
    return (server.data_dir / "postgres" / "log" / "postgresql.log").read_text()


async def test_killed_it_serves_again_on_the_same_data(open_directory: Path, seed: int) -> None:
    async with (
        open_chatty_up(open_directory) as server,
        open_storm(server, random.Random(seed), names=TALKERS) as storm,
    ):
        await storm.until_acked(100)
        orphan = postmaster_pid(server.data_dir)
        await server.kill()
        assert orphan is not None
        assert is_alive(orphan)  # PostgreSQL has outlived its Chatty
        await server.start()
        assert not is_alive(orphan)
        assert postmaster_pid(server.data_dir) not in (None, orphan)
        await storm.until_acked(100)
        await storm.settle()
        assert await all_faults(storm) == []


async def test_a_terminals_interrupt_stops_it_in_order_and_loses_nothing(open_directory: Path, seed: int) -> None:
    async with (
        open_chatty_up(open_directory) as server,
        open_storm(server, random.Random(seed), names=TALKERS) as storm,
    ):
        await storm.until_acked(100)
        pids = processes_of(server)
        assert len(pids) > 3
        os.killpg(server.running.pid, signal.SIGINT)  # all that a terminal's Ctrl-C reaches
        with trio.fail_after(5):
            assert await server.ended() == 0
        await until_none_is_alive(pids)
        assert "database system is shut down" in postgres_log(server).splitlines()[-1]
        assert '"server.stopped"' in server.log.read_text()
        assert "Traceback" not in server.log.read_text()
        await server.start()
        await storm.until_acked(100)
        await storm.settle()
        assert await all_faults(storm) == []
        assert "not properly shut down" not in postgres_log(server)


async def test_a_second_interrupt_makes_no_mess(open_directory: Path) -> None:
    """It cuts the stop short (130), or comes when the stop is done (0)."""
    async with open_chatty_up(open_directory) as server:
        pids = processes_of(server)
        os.killpg(server.running.pid, signal.SIGINT)
        os.killpg(server.running.pid, signal.SIGTERM)
        with trio.fail_after(5):
            assert await server.ended() in (0, 130)
        await until_none_is_alive(pids)
        assert "Traceback" not in server.log.read_text()
        assert "database system is shut down" in postgres_log(server).splitlines()[-1]
