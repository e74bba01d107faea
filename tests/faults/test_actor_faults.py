"""Actors that crash: restarted alone, their requests answered, their siblings undisturbed; and sessions leave nothing behind.

Crash points reach the application from this program's own Hooks; the product has no other way to them.
"""

import gc
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from chatty.actors.delivery import Session
from chatty.actors.journal import Append
from chatty.actors.runtime import Intensity
from chatty.actors.sessions import Connection
from chatty.app import Hooks, generous
from chatty.ids import UserSeq
from chatty.services.crash_points import CrashPoints, Point
from chatty.wire import frames
from chatty.wire.events import TimelineEvent
from tests.server.app_fixtures import RunningApp, open_chat
from tests.server.commands import chatty_admin
from tests.server.wire_client import WireSocket, ciphertext, cursor, open_live_socket, open_raw_socket
from tests.server.wire_people import HttpRefused, WireDevice, WireRoom

pytestmark = pytest.mark.usefixtures("logging_as_before")
SECRET = "what an exception's text may hold"
quick = Intensity(restart_count_max=4, within_s=30.0, backoff_s_min=0.01, backoff_s_max=0.02)


class Poisoned(Exception):
    """What the hooks here raise."""


class CrashHere(CrashPoints):
    """Raises at a point for as long as it is armed; or holds whoever comes there."""

    def __init__(self) -> None:
        self._points: dict[Point, int] = {}
        self._poison: set[bytes] = set()
        self._holding: bytes | None = None
        self.held = trio.Event()
        self.released = trio.Event()

    def arm(self, point: Point, *, count: int = 1) -> None:
        self._points[point] = count

    def poison(self, *bodies: bytes) -> None:
        """Whichever room's actor takes an append of these bodies crashes, each time."""
        self._poison.update(bodies)

    def hold(self, body: bytes) -> None:
        self._holding = body

    async def reach(self, point: Point, subject: object = None) -> None:
        if point == "room_message" and isinstance(subject, Append):
            await self._meet(subject.draft.new.body)
        if self._points.get(point, 0):
            self._points[point] -= 1
            raise Poisoned(SECRET)

    async def _meet(self, body: bytes) -> None:
        if body == self._holding:
            self.held.set()
            await self.released.wait()
        if body in self._poison:
            raise Poisoned(SECRET)


class Scene:
    """Ann and Bob, live in two rooms."""

    def __init__(
        self, chat: RunningApp, crash: CrashHere, people: Sequence[WireDevice], rooms: Sequence[WireRoom]
    ) -> None:
        self.chat, self.crash = chat, crash
        self.ann, self.bob = people
        self.one, self.other = rooms
        self.anns: WireSocket
        self.bobs: WireSocket

    def node(self, *names: str) -> dict[str, Any]:
        """A node of the tree, by the names on the way to it."""
        found = self.chat.app.snapshot()
        for name in names:
            [found] = [child for child in found.children if child.name == name]
        return {"restarts": found.restart_count, "quarantined": found.quarantined_count, "state": found.state}

    def restarts(self) -> dict[str, int]:
        """All that were restarted."""

        def walk(node: Any) -> dict[str, int]:
            counted = {node.name: node.restart_count} if node.restart_count else {}
            for child in node.children:
                counted |= walk(child)
            return counted

        return walk(self.chat.app.snapshot())

    async def number(self, room: WireRoom) -> int:
        [(number,)] = await self.chat.rows("SELECT room_number FROM rooms WHERE room_id = %s", room.id)
        return int(number)


@asynccontextmanager
async def open_scene(
    database: str, data_dir: Path, *, intensity: Intensity = generous, **settings: Any
) -> AsyncIterator[Scene]:
    crash = CrashHere()
    hooks = Hooks(crash_points=crash, intensity=intensity)
    async with open_chat(database, data_dir, hooks=hooks, **settings) as chat:
        ann, bob = await chat.sign_up_all("ann", "bob")
        rooms = [await ann.create_room(bob), await ann.create_room(bob)]
        scene = Scene(chat, crash, [ann, bob], rooms)
        async with open_live_socket(ann) as scene.anns, open_live_socket(bob) as scene.bobs:
            scene.bobs.pending.clear()
            yield scene


def answers_of(answers: Sequence[frames.ServerFrame]) -> list[str]:
    """ "ack", or the error's code. No answer has a word of what was raised, nor where."""
    found = []
    for answer in answers:
        if isinstance(answer, frames.Error):
            assert answer.details == {}
            assert not any(word in answer.message for word in (SECRET, "Poisoned", "Traceback", ".py"))
            found.append(answer.code)
        else:
            assert isinstance(answer, frames.Ack)
            found.append("ack")
    return found


async def send_together(socket: WireSocket, room: WireRoom, bodies: Sequence[bytes]) -> list[frames.ServerFrame]:
    drafts = [socket.draft(room.id, body, epoch=room.epoch) for body in bodies]
    await socket.write(*drafts)
    return [await socket.answer(draft.id) for draft in drafts]


# One crash ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "who"),
    [
        ("room_message", "room {number}"),
        ("before_ack", "room {number}"),
        ("before_commit", "group"),
        ("after_commit", "group"),
        ("before_delivery", "group"),
    ],
)
async def test_whoever_crashes_once_is_restarted_alone_and_every_message_arrives_once(
    database: str, tmp_path: Path, point: Point, who: str
) -> None:
    async with open_scene(database, tmp_path) as scene:
        await scene.anns.send(scene.one.id, ciphertext(), epoch=scene.one.epoch)  # its actor is there
        await scene.bobs.messages(1)
        bodies = [ciphertext() for _ in range(6)]
        scene.crash.arm(point)
        answers = await send_together(scene.anns, scene.one, bodies)
        assert answers_of(answers) == ["ack"] * 6
        events = await scene.bobs.messages(6)
        assert [event.body for event in events] == bodies
        assert [event.seq for event in events] == [answer.seq for answer in answers if isinstance(answer, frames.Ack)]
        assert scene.restarts() == {who.format(number=await scene.number(scene.one)): 1}
        assert [one for one in await scene.bobs.settle() if isinstance(one, TimelineEvent)] == []


async def test_while_one_room_is_down_messages_go_on_in_another(database: str, tmp_path: Path) -> None:
    slow = Intensity(restart_count_max=20, within_s=10.0, backoff_s_min=1.0, backoff_s_max=1.0)
    async with open_scene(database, tmp_path, intensity=slow) as scene:
        bad, good = ciphertext(), [ciphertext() for _ in range(5)]
        number = await scene.number(scene.one)
        scene.crash.arm("room_message")
        await scene.anns.write(draft := scene.anns.draft(scene.one.id, bad, epoch=scene.one.epoch))
        acks = [await scene.anns.send(scene.other.id, body, epoch=scene.other.epoch) for body in good]
        assert scene.node("rooms", f"room {number}")["state"] == "backing off"
        assert [event.body for event in await scene.bobs.messages(5)] == good
        assert [ack.seq for ack in acks] == list(range(acks[0].seq, acks[0].seq + 5))
        assert answers_of([await scene.anns.answer(draft.id)]) == ["ack"]
        assert [event.body for event in await scene.bobs.messages(1)] == [bad]
        assert scene.restarts() == {f"room {number}": 1}


async def test_a_session_that_crashes_is_closed_alone_and_its_client_loses_nothing(chat: RunningApp) -> None:
    ann, bob = await chat.sign_up_all("ann", "bob")
    room = await ann.create_room(bob)
    async with open_live_socket(ann) as anns:
        async with open_live_socket(bob) as bobs:
            first = await anns.send(room.id, ciphertext(), epoch=room.epoch)
            [read] = await bobs.messages(1)
            [session] = [one for one in chat.app.directory if one.caller.user == bob.user]
            session.resync = partial(crash)  # type: ignore[attr-defined]
            await bobs.write(frames.Resync(id=bobs.request_id(), user_seq=UserSeq(0), cursors=[]))
            reason = await bobs.closed()
            error = await bobs.event(frames.Error)
            assert (reason.code, reason.reason, error.id, error.is_retryable) == (4411, "outcome_unknown", 0, True)
            answers_of([error])
        second = await anns.send(room.id, ciphertext(), epoch=room.epoch)
        async with open_live_socket(bob, cursors=[cursor(room.id, first.seq)]) as bobs:
            [missed] = await bobs.messages(1)
            assert (read.seq, missed.seq) == (first.seq, second.seq)
    branches = {child.name: child.restart_count for child in chat.app.snapshot().children}
    assert set(branches.values()) == {0}


def crash(*_: object, **__: object) -> None:
    raise Poisoned(SECRET)


# Poison -------------------------------------------------------------------------------------------------------------


async def test_a_poisonous_request_in_a_batch_is_put_aside_and_the_others_arrive_in_order(
    database: str, tmp_path: Path
) -> None:
    async with open_scene(database, tmp_path) as scene:
        bodies = [ciphertext() for _ in range(6)]
        scene.crash.poison(bodies[2])
        answers = await send_together(scene.anns, scene.one, bodies)
        assert answers_of(answers) == ["ack", "ack", "request_quarantined", "ack", "ack", "ack"]
        assert [event.body for event in await scene.bobs.messages(5)] == [*bodies[:2], *bodies[3:]]
        name = f"room {await scene.number(scene.one)}"
        assert scene.node("rooms", name) == {"restarts": 2, "quarantined": 1, "state": "running"}
        assert scene.restarts() == {name: 2}
        assert answers_of(await send_together(scene.anns, scene.one, [ciphertext()])) == ["ack"]


async def test_over_http_it_is_a_problem_with_a_code_and_no_traceback(database: str, tmp_path: Path) -> None:
    async with open_scene(database, tmp_path) as scene:
        body = ciphertext()
        scene.crash.poison(body)
        draft = scene.anns.draft(scene.one.id, body, epoch=scene.one.epoch)
        content = json.loads(frames.encode(draft, encoding="json"))
        content = {key: value for key, value in content.items() if key not in ("type", "id", "n", "room")}
        with pytest.raises(HttpRefused) as refused:
            await scene.ann.post(f"/v1/rooms/{scene.one.id}/messages", content, n=draft.n)
        assert (refused.value.status, refused.value.code) == (500, "request_quarantined")
        assert not any(word in str(refused.value) for word in (SECRET, "Poisoned", "Traceback", ".py"))


# Refusals are no crashes --------------------------------------------------------------------------------------------


async def test_a_thousand_refused_sends_are_no_crash(database: str, tmp_path: Path) -> None:
    async with open_scene(database, tmp_path, journal_batch_max=3, journal_queue_max=3) as scene:
        codes: list[str] = []
        while len(codes) < 1_000:
            stale = [scene.anns.draft(scene.one.id, ciphertext(), epoch=scene.one.epoch - 1) for _ in range(50)]
            await scene.anns.write(*stale)
            answers = [await scene.anns.answer(draft.id) for draft in stale]
            codes += [answer.code for answer in answers if isinstance(answer, frames.Error)]
            for draft in stale:
                scene.ann.settle(draft.n)
        assert set(codes) == {"device_set_stale", "overloaded"}  # refused by the journal, and by its full mailbox
        assert scene.restarts() == {}
        assert answers_of(await send_together(scene.anns, scene.one, [ciphertext()])) == ["ack"]


# Beyond the intensity -----------------------------------------------------------------------------------------------


async def test_a_room_beyond_the_intensity_is_given_up_its_siblings_stay_and_the_next_message_starts_it_anew(
    database: str, tmp_path: Path
) -> None:
    async with open_scene(database, tmp_path, intensity=quick) as scene:
        bodies = [ciphertext() for _ in range(3)]  # two restarts each: the third is beyond four
        scene.crash.poison(*bodies)
        for body in bodies:
            assert answers_of(await send_together(scene.anns, scene.one, [body])) == ["request_quarantined"]
            assert answers_of(await send_together(scene.anns, scene.other, [ciphertext()])) == ["ack"]
        name = f"room {await scene.number(scene.one)}"
        assert name not in [child.name for child in branch_of(scene, "rooms").children]
        assert scene.restarts() == {}
        good = ciphertext()
        assert answers_of(await send_together(scene.anns, scene.one, [good])) == ["ack"]
        assert scene.node("rooms", name) == {"restarts": 0, "quarantined": 0, "state": "running"}
        assert good in [event.body for event in await scene.bobs.messages(4)]


async def test_a_journal_beyond_it_fails_its_branch_which_is_restarted_and_nothing_acked_is_lost(
    database: str, tmp_path: Path
) -> None:
    async with open_scene(database, tmp_path, intensity=quick, append_timeout_s=2.0) as scene:
        bodies = [ciphertext() for _ in range(8)]
        assert answers_of(await send_together(scene.anns, scene.one, bodies[:3])) == ["ack"] * 3
        scene.crash.arm("before_commit", count=5)
        answers = answers_of(await send_together(scene.anns, scene.one, bodies[3:7]))
        assert set(answers) <= {"ack", "request_quarantined", "outcome_unknown"}
        assert scene.node("journal")["restarts"] == 1
        assert scene.node()["state"] == "running"
        scene.crash.arm("before_commit", count=0)
        assert answers_of(await send_together(scene.anns, scene.one, bodies[7:])) == ["ack"]
        kept = [body for body, answer in zip(bodies, ["ack"] * 3 + answers + ["ack"], strict=True) if answer == "ack"]
        assert [event.body for event in await scene.bobs.messages(len(kept))] == kept


def test_the_products_own_intensity_can_be_exceeded() -> None:
    """With waits that doubled without end, 20 restarts would never fall into its 10 s."""
    waited_s = sum(
        min(generous.backoff_s_min * 2**count, generous.backoff_s_max) for count in range(generous.restart_count_max)
    )
    assert waited_s < generous.within_s / 2


def branch_of(scene: Scene, name: str) -> Any:
    [found] = [child for child in scene.chat.app.snapshot().children if child.name == name]
    return found


# Seen from the console ----------------------------------------------------------------------------------------------


async def test_the_console_shows_restarts_quarantine_and_what_waits_while_an_actor_hangs(
    database: str, tmp_path: Path
) -> None:
    async with open_scene(database, tmp_path) as scene:
        bad, held = ciphertext(), ciphertext()
        scene.crash.poison(bad)
        await send_together(scene.anns, scene.one, [bad])
        scene.crash.hold(held)
        drafts = [scene.anns.draft(scene.one.id, body, epoch=scene.one.epoch) for body in (held, ciphertext())]
        await scene.anns.write(drafts[0])
        await scene.crash.held.wait()
        await scene.anns.write(drafts[1])
        await send_together(scene.anns, scene.other, [ciphertext()])  # so the one before has come to its room
        data_dir = scene.chat.settings.data_dir
        tree = json.loads((await chatty_admin(data_dir, "actors", "tree", "--json")).stdout)
        drawn = (await chatty_admin(data_dir, "actors", "tree")).stdout
        scene.crash.released.set()
        assert answers_of([await scene.anns.answer(draft.id) for draft in drafts]) == ["ack", "ack"]
        name = f"room {await scene.number(scene.one)}"
        [shown] = [room for branch in tree["children"] for room in branch["children"] if room["name"] == name]
        assert (shown["restart_count"], shown["quarantined_count"], shown["mailbox_count"]) == (2, 1, 1)
        assert (shown["oldest_age_s"] > 0, "Poisoned at test_actor_faults.py" in shown["last_error"]) == (True, True)
        [line] = [line for line in drawn.splitlines() if f"{name} " in line]
        for part in ("restarts 2", "quarantined 1", "mailbox 1/", "Poisoned"):
            assert part in line
        assert SECRET not in drawn + json.dumps(tree)


# Sessions that end --------------------------------------------------------------------------------------------------


def counted(kind: type[Any]) -> int:
    return sum(type(one) is kind for one in gc.get_objects())


async def cut(socket: WireSocket) -> None:
    """Gone without a word."""
    await socket.inner._stream.aclose()


async def come_and_go(device: WireDevice, turn: int) -> None:
    """In one of five ways, the half-way ones included."""
    match turn % 5:
        case 0:
            async with open_live_socket(device):
                pass
        case 1:  # cut without a word, live
            async with open_live_socket(device) as socket:
                await cut(socket)
        case 2:  # gone before hello
            async with open_raw_socket(device.origin, device=device) as socket:
                await cut(socket)
        case 3:  # gone with hello on its way
            async with open_raw_socket(device.origin, device=device) as socket:
                await socket.write(socket.hello())
                await cut(socket)
        case _:  # superseded by a second one of the same device
            async with open_live_socket(device) as older, open_live_socket(device):
                await older.closed()


@pytest.mark.long
async def test_sessions_that_ended_leave_nothing_behind(chat: RunningApp, counts: Callable[[int, int], int]) -> None:
    people = await chat.sign_up_all("ann", "bob", "eve", "dan")
    await people[0].create_room(*people[1:])

    async def many(device: WireDevice) -> None:
        for turn in range(counts(20, 125)):
            await come_and_go(device, turn)

    async with trio.open_nursery() as nursery:
        for device in people:
            nursery.start_soon(many, device)
    with trio.fail_after(10):
        while branch_sessions(chat):  # noqa: ASYNC110  # cut sockets are noticed by and by
            await trio.sleep(0.01)
    directory = chat.app.directory
    assert (len(directory), list(directory.rooms), list(directory.users)) == (0, [], [])
    assert "chatty_websocket_connections 0.0" in (await chat.http.get("/metrics")).text
    gc.collect()
    assert (counted(Session), counted(Connection)) == (0, 0)


def branch_sessions(chat: RunningApp) -> int:
    [branch] = [child for child in chat.app.snapshot().children if child.name == "sessions"]
    return len(branch.children)
