"""An operator's day at the console of one server with users and traffic: every group of commands, as JSON and as text.

In the evening the audit log has each act, and nothing else.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from chatty.admin import main
from tests.server.app_fixtures import RunningApp, open_chat, without_limits
from tests.server.commands import as_url, chatty_admin
from tests.server.test_metrics import missing_from, scrape
from tests.server.wire_client import ciphertext, open_live_socket
from tests.server.wire_people import WireDevice, WireRoom

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("logging_as_before")]
at_once_max = 8
ELSEWHERE = {"login", "logout"}  # the day is spent on the server's own machine


class Day:
    """What is said at the console. used: the groups."""

    def __init__(self, chat: RunningApp) -> None:
        self.chat = chat
        self.used: set[str] = set()

    async def look(self, words: str) -> Any:
        """With --json, and as text."""
        answer = await self.act(words)
        as_text = await self._say(words)
        assert (as_text.exit_code, "\x1b" in as_text.stdout) == (0, False), (words, as_text.stderr)
        assert as_text.stdout.strip()
        return answer

    async def act(self, words: str) -> Any:
        result = await self._say(f"{words} --json")
        assert (result.exit_code, result.stderr) == (0, ""), (words, result.stderr)
        return json.loads(result.stdout)

    async def text(self, words: str) -> str:
        result = await self._say(words)
        assert result.exit_code == 0, (words, result.stderr)
        return str(result.stdout)

    async def failing(self, words: str, code: str) -> None:
        result = await self._say(words)
        assert (result.exit_code, result.stderr.split(":")[0]) == (1, f"error {code}"), (words, result.stderr)

    async def _say(self, words: str) -> Any:
        self.used.add(words.split()[0])
        url = as_url(self.chat.database)
        return await chatty_admin(self.chat.settings.data_dir, *words.split(), CHATTY_DATABASE_URL=url)


async def people_of(chat: RunningApp, count: int) -> list[WireDevice]:
    people: dict[int, WireDevice] = {}
    places = trio.CapacityLimiter(at_once_max)

    async def sign_up(number: int) -> None:
        async with places:
            people[number] = await chat.sign_up(f"user-{number:03}")

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(sign_up, number)
    return [people[number] for number in range(count)]


@asynccontextmanager
async def traffic(rooms: list[tuple[WireDevice, WireRoom]], acked: Counter[str]) -> AsyncIterator[None]:
    """One member of each room sends, one message after the other."""

    async def send(sender: WireDevice, room: WireRoom, *, task_status: trio.TaskStatus[None]) -> None:
        async with open_live_socket(sender) as socket:
            task_status.started()
            while True:
                await socket.send(room.id, ciphertext(), epoch=room.epoch)
                acked[room.id] += 1
                await trio.sleep(0.02)

    async with trio.open_nursery() as nursery:
        for sender, room in rooms:
            await nursery.start(send, sender, room)
        yield
        nursery.cancel_scope.cancel()


async def test_an_operators_day(database: str, tmp_path: Path, counts: Callable[[int, int], int]) -> None:
    count, acked = counts(50, 200), Counter[str]()
    async with open_chat(database, tmp_path, **without_limits()) as chat:
        people = await people_of(chat, count)
        senders, victims = people[:4], people[4:]
        rooms = [(one, await one.create_room(people[-1 - place])) for place, one in enumerate(senders)]
        day = Day(chat)
        before = await chat.rows("SELECT coalesce(max(audit_id), 0) FROM audit")
        async with traffic(rooms, acked):
            await look_at_everything(day, people, rooms[0][1], tmp_path)
            expected = await act_on_everything(day, victims, tmp_path)
            top = await day.look("top")
            assert missing_from(await scrape(chat)) == set()
        assert top["rates"]["messages_per_s"] > 0
        acts = await chat.rows("SELECT action FROM audit WHERE audit_id > %s AND actor = ''", before[0][0])
        assert Counter(action for (action,) in acts) == expected
        stored = dict(
            await chat.rows("SELECT room_id, count(*) FROM timeline JOIN rooms USING (room_number) GROUP BY 1")
        )
        assert all(stored[room] >= sent_count for room, sent_count in acked.items())
        assert len(acked) == len(rooms)
    assert set(main.commands) - ELSEWHERE - day.used == set(), "these groups have no line in the operator's day"


async def look_at_everything(day: Day, people: list[WireDevice], room: WireRoom, folder: Path) -> None:
    user = people[0].user
    assert (await day.look("status"))["sessions_count"] == 4
    assert (await day.look("health"))["is_ready"]
    assert len((await day.look("users list"))["users"]) == len(people)
    assert len((await day.look("devices list"))["devices"]) == len(people)
    connected = [one for one in (await day.look("sessions list"))["sessions"] if one["is_connected"]]
    assert len(connected) == 4
    assert len((await day.look("rooms list"))["rooms"]) == 4
    shown = await day.look(f"rooms show {room.id}")
    assert shown["messages_count"] > 0
    assert (await day.look("rooms storage"))["stored_bytes"] > 0
    assert (await day.look("users storage"))["users_count"] >= 4
    for words in (
        "actors tree",
        "actors show journal/group",
        "limits list",
        f"limits why {user}",
        "users invitations",
        "users list --pending",
        f"users quotas {user}",
        "keys list",
        "jobs list",
        "jobs show integrity_check",
        "jobs history statistics",
        "jobs statistics",
        "cleanup --dry-run",
        "actors memory",
        "log errors",
        "db status",
        "db size",
        "db slow",
        "backup list",
        "config show",
        "audit list --count-max 20",
        "audit verify",
        "privacy",
        "db upgrade --dry-run",
    ):
        await day.look(words)
    await day.act(f"audit export {folder / 'audit.jsonl'}")
    await day.text("audit export-head")
    await day.text("config check")
    await day.failing("doctor", "not_well")  # this PostgreSQL syncs nothing to the disk
    await day.text("completion bash")


async def act_on_everything(day: Day, victims: list[WireDevice], folder: Path) -> Counter[str]:
    """Each act on somebody else. Returns what the audit log must have of them."""
    locked, ended, promoted, gone, old, lost = victims[:6]
    invitation = await day.act("users invite --role moderator")
    await day.act(f"users withdraw {invitation['id']}")
    await day.act(f"users role {promoted.user} admin")
    await day.act(f"users lock --yes {locked.user}")
    await day.act(f"users unlock {locked.user}")
    await day.act(f"users end-sessions --yes {ended.user}")
    [session] = (await day.act(f"sessions list --user {old.user}"))["sessions"]
    await day.act(f"sessions end --yes {session['session']}")
    await day.act(f"devices revoke --yes {lost.device}")
    await day.act(f"users delete --yes {gone.user}")
    await day.act("actors restart --yes notices/typing")
    await day.act("keys rotate signing")
    await day.act("jobs run statistics")
    await day.act("jobs pause integrity_check")
    await day.act("jobs resume integrity_check")
    for words in (
        f"users lock {promoted.user}",
        "users invite",
        f"devices revoke {promoted.device}",
        "jobs pause statistics",
    ):
        assert (await day.act(f"{words} --dry-run"))["is_dry_run"]
    return Counter(
        [
            "invitation.made",
            "invitation.withdrawn",
            "user.role_changed",
            "user.locked",
            "user.unlocked",
            "user.sessions_ended",
            "session.ended",
            "device.revoked",
            "account.deleted",
            "actor.restarted",
            "key.prepared",
            "job.run_ordered",
            "job.paused",
            "job.resumed",
        ]
    )
