"""`chatty-admin top` on a real pseudo-terminal, over a server with traffic that is stopped and started again."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.commands import chatty_admin, chatty_admin_json
from tests.server.terminal import Terminal, open_terminal
from tests.server.wire_client import ciphertext, open_live_socket

pytestmark = pytest.mark.usefixtures("logging_as_before")


@asynccontextmanager
async def traffic(chat: RunningApp, name: str) -> AsyncIterator[None]:
    """Somebody sends, faster and slower, until the block is left."""
    ann = await chat.sign_up(name)
    room = await ann.create_room()
    async with open_live_socket(ann) as socket, trio.open_nursery() as nursery:

        async def send() -> None:
            for pause_s in (0.002 + 0.01 * (turn % 40) / 40 for turn in range(1_000_000)):
                await socket.send(room.id, ciphertext(), epoch=room.epoch)
                await trio.sleep(pause_s)

        nursery.start_soon(send)
        yield
        nursery.cancel_scope.cancel()


def messages_per_s(text: str) -> float:
    found = re.search(r"messages ([0-9.]+)/s", text)
    return float(found[1]) if found is not None else 0.0


async def differing_rates(terminal: Terminal) -> None:
    first = messages_per_s(await terminal.until(messages_per_s))
    await terminal.until(lambda text: messages_per_s(text) not in (0.0, first))


def check_whole(terminal: Terminal, answer: dict[str, object]) -> None:
    """No line is longer than the screen, and each actor that is shown is shown by its whole name."""
    actors = answer["actors"]
    assert isinstance(actors, list)
    names = {one["path"].rpartition("/")[2] for one in actors}
    lines = terminal.screen.lines
    header = next(place for place, line in enumerate(lines) if line.split()[:2] == ["actor", "state"])
    states = r"running|passive|starting|backing off"
    shown = [re.split(rf"\s{{2,}}(?={states})", line.strip())[0] for line in lines[header + 1 : -2] if line.strip()]
    assert shown
    assert set(shown) <= names


async def test_it_shows_the_server_live_in_every_size_and_survives_its_end(database: str, tmp_path: Path) -> None:
    with trio.fail_after(240):
        async with open_chat(database, tmp_path) as chat, traffic(chat, "ann"):
            data_dir = chat.settings.data_dir
            async with open_terminal("--data-dir", str(data_dir), "top") as terminal:
                before = terminal.attributes()
                await differing_rates(terminal)
                text = await terminal.until(lambda text: "q quit" in text)
                assert re.search(r"batch [0-9.]+ +commit [0-9.]+ ms", text)
                assert re.search(r"memory [0-9]+ MiB +CPU [0-9.]+ % +disk", text)
                answer = await chatty_admin_json(data_dir, "top")
                check_whole(terminal, answer)
                terminal.resize(200, 50)
                await terminal.until(lambda text: "last error" in text and "audit_sealing" in text)
                check_whole(terminal, answer)
                await act_on_a_room(terminal, chat)
                await filter_and_sort(terminal)
                terminal.press("q")
                assert await terminal.ended() == 0
                assert terminal.attributes() == before


async def act_on_a_room(terminal: Terminal, chat: RunningApp) -> None:
    terminal.press("2")
    await terminal.until(lambda text: "[rooms]" in text and "rooms/room 1" in text)
    terminal.press("\r")
    await terminal.until(lambda text: "why it is slow" in text and re.search(r"connected 1\b", text))
    terminal.press("r")
    await terminal.until(lambda text: "Restart rooms/room 1? y" in text)
    terminal.press("n")
    await terminal.until(lambda text: "not restarted" in text)
    assert await chat.rows("SELECT 1 FROM audit WHERE action = 'actor.restarted'") == []
    terminal.press("ry")
    await terminal.until(lambda text: "rooms/room 1 was restarted" in text and "restarts 1" in text)
    assert await chat.rows("SELECT object FROM audit WHERE action = 'actor.restarted'") == [("rooms/room 1",)]
    terminal.press("\x1b")
    await terminal.until(lambda text: "[rooms]" in text and "why" not in text.partition("enter")[0])


async def filter_and_sort(terminal: Terminal) -> None:
    terminal.press("1/jour")
    await terminal.until(lambda text: "filter: jour_" in text and "watch" not in text)
    terminal.press("\r")
    await terminal.until(lambda text: "journal/group" in text and "enter keeps it" not in text)
    terminal.press("\x1bs")
    await terminal.until(lambda text: "sort rate" in text and "filter" not in text.partition("/ filter")[0])
    terminal.press("\x1b[B\x1b[A4")
    await terminal.until(lambda text: "[jobs]" in text and "janitor/audit_sealing" in text and "scheduled" in text)


async def test_a_server_that_stops_is_told_and_comes_back(database: str, tmp_path: Path) -> None:
    with trio.fail_after(240):
        async with open_chat(database, tmp_path) as chat:
            opened = open_terminal("--data-dir", str(chat.settings.data_dir), "top")
            terminal = await opened.__aenter__()
            await terminal.until(lambda text: "messages 0.0/s" in text)
        try:
            # Half a screen may have come when its first line is there.
            gone = await terminal.until(lambda text: "trying again" in text and "messages" in text)
            assert "no server is running" in gone
            assert "messages 0.0/s" in gone
            async with open_chat(database, tmp_path):
                await terminal.until(lambda text: "trying again" not in text)
                terminal.press("\x03")
                assert await terminal.ended() == 130
        finally:
            await opened.__aexit__(None, None, None)


async def test_where_nobody_watches_one_look_is_printed(chat: RunningApp) -> None:
    async with traffic(chat, "ann"):
        answer = await chatty_admin_json(chat.settings.data_dir, "top")
        as_text = await chatty_admin(chat.settings.data_dir, "top", COLUMNS="80")
    assert answer["rates"]["messages_per_s"] > 0
    assert answer["rates"]["commit_ms"] > 0
    [room] = [one for one in answer["actors"] if one["path"].startswith("rooms/")]
    assert (room["connected_count"], room["room"][0], room["handled_per_s"] > 0) == (1, "!", True)
    assert [(one["user"], one["rooms_count"]) for one in answer["sessions"]] == [("@ann:localhost", 1)]
    assert (as_text.exit_code, "group" in as_text.stdout, "\x1b" in as_text.stdout) == (0, True, False)
    assert max(map(len, as_text.stdout.splitlines())) <= 80
