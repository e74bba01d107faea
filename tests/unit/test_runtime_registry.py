"""Registries: one actor a key, started once, passivated when idle, and one sick key harms no other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from chatty.actors.runtime import (
    ActorCrashed,
    ActorRef,
    ActorSpec,
    ActorStopped,
    Ask,
    AskOutOfOrder,
    Intensity,
    Mailbox,
    Registry,
    Restart,
    StartFailed,
    Supervisor,
    open_supervisor,
)


class Refused(Exception):
    """A domain error."""


@dataclass(eq=False)
class Post(Ask[str]):
    text: str


class House:
    """Makes rooms, and writes down what they do."""

    def __init__(self, **more: Any) -> None:
        self.log: list[str] = []
        self.more = more
        self.broken: set[str] = set()

    def make_spec(self, key: str) -> ActorSpec[Post]:
        async def room(mailbox: Mailbox[Post]) -> None:
            await self.run(key, mailbox)

        return ActorSpec(name=f"room {key}", run=room, mailbox_count_max=10, **self.more)

    async def run(self, key: str, mailbox: Mailbox[Post]) -> None:
        await trio.sleep(1)
        if key in self.broken:
            raise OSError
        self.log.append(f"+{key}")
        mailbox.ready()
        async for post in mailbox:
            with post.refusing(Refused):
                await self.handle(key, post)
        await trio.sleep(1)
        self.log.append(f"-{key}")

    async def handle(self, key: str, post: Post) -> None:
        match post.text:
            case "crash":
                raise ValueError
            case "refuse":
                raise Refused
            case "work":
                await trio.sleep(100)
        post.answer(f"{key} {post.text}")


async def open_rooms(root: Supervisor, house: House, **more: Any) -> Registry[str, Post]:
    return await root.start_registry("rooms", house.make_spec, **{"live_count_max": 10, **more})


async def post(rooms: Registry[str, Post], key: str, text: str) -> str:
    return await (await rooms.get(key)).ask(Post(text), timeout_s=10)


def live(root: Supervisor) -> list[str]:
    return [child.name for child in root.snapshot().children[0].children]


async def together(count: int, task: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(task)


async def test_however_many_get_it_it_starts_once(autojump_clock: MockClock) -> None:
    house = House()
    refs: list[ActorRef[Post]] = []
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, house)

        async def get() -> None:
            refs.append(await rooms.get("a"))

        await together(5, get)
        assert len(refs) == 5
        assert len(set(refs)) == 1
        assert house.log == ["+a"]


async def test_a_start_that_fails_reaches_all_who_wait_and_harms_no_sibling(autojump_clock: MockClock) -> None:
    house = House()
    errors: list[StartFailed] = []
    async with open_supervisor("root", intensity=Intensity(restart_count_max=0)) as root:
        rooms = await open_rooms(root, house, intensity=Intensity(restart_count_max=0))
        await rooms.get("well")
        house.broken.add("a")

        async def get() -> None:
            with pytest.raises(StartFailed) as caught:
                await rooms.get("a")
            errors.append(caught.value)

        await together(5, get)
        assert len(set(errors)) == 5
        assert all(isinstance(error.__cause__, OSError) for error in errors)
        assert live(root) == ["room well"]
        house.broken.clear()
        assert await post(rooms, "a", "x") == "a x"


async def test_who_leaves_while_it_starts_does_not_stop_the_start(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, House())
        with trio.move_on_after(0.5):
            await rooms.get("a")
        await trio.sleep(1)
        assert live(root) == ["room a"]


async def test_find_never_starts_but_sees_one_that_starts(autojump_clock: MockClock) -> None:
    heard: list[str | Exception] = []
    async with open_supervisor("root") as root, trio.open_nursery() as nursery:
        rooms = await open_rooms(root, House(idle_timeout_s=5))
        assert rooms.find("a") is None
        nursery.start_soon(rooms.get, "a")
        await wait_all_tasks_blocked()
        ref = rooms.find("a")
        assert ref is not None
        ref.tell(Post("early", on_answer=heard.append))
        await trio.sleep(30)
        assert rooms.find("a") is None
    assert heard == ["a early"]


async def test_it_is_passivated_when_idle_and_the_same_ref_wakes_it(autojump_clock: MockClock) -> None:
    house = House(idle_timeout_s=5)
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, house)
        ref = await rooms.get("a")
        await trio.sleep(10)
        assert live(root) == []
        ref.tell(Post("x"))
        assert live(root) == ["room a"]
        assert await rooms.get("a") is ref
        assert house.log == ["+a", "-a", "+a"]


async def test_get_finds_the_passive_one_again(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, House(idle_timeout_s=5))
        ref = await rooms.get("a")
        await trio.sleep(10)
        assert await rooms.get("a") is ref  # or there would be two actors for one key


async def test_a_message_while_it_leaves_keeps_it(autojump_clock: MockClock) -> None:
    house = House(idle_timeout_s=5)
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, house)
        ref = await rooms.get("a")
        await trio.sleep(5.5)  # between the end of its loop and its return
        assert await ref.ask(Post("x"), timeout_s=5) == "a x"
        assert house.log == ["+a", "-a", "+a"]
        assert root.snapshot().children[0].children[0].restart_count == 0


async def test_nobody_who_was_told_is_lost_to_passivation(autojump_clock: MockClock) -> None:
    heard: list[str | Exception] = []
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, House(idle_timeout_s=0.7))
        for number in range(200):
            ref = await rooms.get("a")
            ref.tell(Post(str(number), on_answer=heard.append))
            await trio.sleep(0.01 * number)
        await trio.sleep(10)
    assert heard == [f"a {number}" for number in range(200)]


async def test_when_full_the_longest_idle_makes_room(autojump_clock: MockClock) -> None:
    house = House()
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, house, live_count_max=2)
        for key in ("a", "b"):
            await post(rooms, key, "x")
        await trio.sleep(1)
        await post(rooms, "a", "y")  # so b has been idle for longer
        await trio.sleep(1)
        await post(rooms, "c", "x")
        assert live(root) == ["room a", "room c"]
        assert house.log == ["+a", "+b", "-b", "+c"]


async def test_when_full_and_none_idle_the_start_fails(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, House(), live_count_max=1)
        (await rooms.get("a")).tell(Post("work"))
        with pytest.raises(StartFailed, match="busy"):
            await rooms.get("b")
        await trio.sleep(200)
        assert await post(rooms, "b", "x") == "b x"


async def test_one_that_is_woken_when_none_is_idle_refuses_what_it_was_told(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, House(idle_timeout_s=3), live_count_max=1)
        ref = await rooms.get("a")
        await trio.sleep(10)
        (await rooms.get("b")).tell(Post("work"))
        with pytest.raises(StartFailed):
            await ref.ask(Post("x"), timeout_s=5)
        await trio.sleep(200)
        assert await ref.ask(Post("x"), timeout_s=5) == "a x"


async def test_many_getters_never_exceed_the_places(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        house = House(idle_timeout_s=2)
        rooms = await open_rooms(root, house, live_count_max=3)
        counts: list[int] = []

        async def visit(key: str) -> None:
            try:
                await post(rooms, key, "x")
            except StartFailed:
                counts.append(-1)
            ended = sum(line.startswith("-") for line in house.log)
            counts.append(len(house.log) - 2 * ended)

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(visit, str(number % 17))
                await trio.sleep(0.3)
        assert max(counts) == 3
        assert -1 in counts


async def test_stop_drains_one_and_the_next_get_makes_another(autojump_clock: MockClock) -> None:
    house = House()
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, house)
        ref = await rooms.get("a")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rooms.stop, "a")
            await wait_all_tasks_blocked()
            assert rooms.find("a") is None
            other = await rooms.get("a")  # waits for the old one's end
        with pytest.raises(ActorStopped):
            ref.tell(Post("x"))
        assert other is not ref
        assert house.log == ["+a", "-a", "+a"]
        await rooms.stop("unknown")


async def test_one_that_returns_by_itself_is_passivated(autojump_clock: MockClock) -> None:
    async def once(mailbox: Mailbox[Post]) -> None:
        mailbox.ready()
        async for request in mailbox:
            request.answer("once")
            return

    def make_spec(key: str) -> ActorSpec[Post]:
        return ActorSpec(name=key, run=once, mailbox_count_max=10)

    async with open_supervisor("root") as root:
        rooms = await root.start_registry("rooms", make_spec, live_count_max=10)
        assert await post(rooms, "a", "x") == "once"
        await wait_all_tasks_blocked()
        assert live(root) == []
        assert await post(rooms, "a", "x") == "once"


async def test_a_temporary_one_that_crashes_is_gone(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, House(restart=Restart.TEMPORARY))
        ref = await rooms.get("a")
        with pytest.raises(ActorCrashed):
            await ref.ask(Post("crash"), timeout_s=5)
        await ref.wait_stopped()
        assert await post(rooms, "a", "x") == "a x"


async def test_a_thousand_refusals_take_no_room_down(autojump_clock: MockClock) -> None:
    house = House()
    none_bearable = Intensity(restart_count_max=0)
    async with open_supervisor("root", intensity=none_bearable) as root:
        rooms = await open_rooms(root, house, intensity=none_bearable)
        for number in range(1_000):
            with pytest.raises(Refused):
                await post(rooms, "ab"[number % 2], "refuse")
        assert house.log == ["+a", "+b"]


async def test_a_crash_storm_of_one_key_takes_no_sibling_down(autojump_clock: MockClock) -> None:
    house = House()
    async with open_supervisor("root", intensity=Intensity(restart_count_max=0)) as root:
        rooms = await open_rooms(root, house, intensity=Intensity(restart_count_max=1, within_s=60))
        await rooms.get("well")
        for _ in range(20):
            ref = await rooms.get("sick")
            with pytest.raises(ActorCrashed):
                await ref.ask(Post("crash"), timeout_s=10)
            await ref.wait_stopped()
        assert await post(rooms, "well", "x") == "well x"
        assert house.log.count("+well") == 1
        assert root.snapshot().children[0].restart_count == 0


async def test_when_many_keys_are_sick_the_registry_fails_and_starts_over(autojump_clock: MockClock) -> None:
    house = House()
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, house, intensity=Intensity(restart_count_max=1, within_s=60))
        well = await rooms.get("well")
        for key in ("sick", "sicker"):
            with pytest.raises((ActorCrashed, ActorStopped)):
                await post(rooms, key, "crash")
        await trio.sleep(1)
        assert root.snapshot().children[0].restart_count == 1
        assert live(root) == []
        assert await well.ask(Post("x"), timeout_s=5) == "well x"
        assert await rooms.get("well") is well


async def test_all_rooms_drain_at_once(autojump_clock: MockClock) -> None:
    house = House()
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, house)
        refs = [await rooms.get(key) for key in ("a", "b", "c")]
        for ref in refs:
            ref.tell(Post("x"))
    assert trio.current_time() == 4  # three starts, one after the other, then one second for all
    assert sorted(house.log[3:]) == ["-a", "-b", "-c"]
    for ref in refs:
        with pytest.raises(ActorStopped):
            ref.tell(Post("x"))
    with pytest.raises(ActorStopped):
        await rooms.get("a")


async def test_a_passive_ref_is_dead_after_the_end(autojump_clock: MockClock) -> None:
    async with open_supervisor("root") as root:
        rooms = await open_rooms(root, House(idle_timeout_s=1))
        ref = await rooms.get("a")
        await trio.sleep(5)
    await ref.wait_stopped()
    with pytest.raises(ActorStopped):
        ref.tell(Post("x"))


async def test_while_it_drains_nobody_is_woken(autojump_clock: MockClock) -> None:
    errors: list[str] = []
    refs: dict[str, ActorRef[Post]] = {}

    def make_spec(key: str) -> ActorSpec[Post]:
        async def run(mailbox: Mailbox[Post]) -> None:
            mailbox.ready()
            async for _ in mailbox:
                pass
            if key == "parting":
                try:
                    refs["passive"].tell(Post("x"))
                except ActorStopped:
                    errors.append(key)

        return ActorSpec(name=key, run=run, mailbox_count_max=10, idle_timeout_s=5 if key == "passive" else None)

    async with open_supervisor("root") as root:
        rooms = await root.start_registry("rooms", make_spec, live_count_max=10)
        for key in ("passive", "parting"):
            refs[key] = await rooms.get(key)
        await trio.sleep(10)
    assert errors == ["parting"]


async def test_siblings_in_a_registry_may_not_ask_one_another(autojump_clock: MockClock) -> None:
    seen: list[str] = []

    def make_spec(key: str) -> ActorSpec[Post]:
        async def run(mailbox: Mailbox[Post]) -> None:
            mailbox.ready()
            async for request in mailbox:
                try:
                    await post(rooms, "earlier", "x")
                except AskOutOfOrder:
                    seen.append(key)
                request.answer("")

        return ActorSpec(name=key, run=run, mailbox_count_max=10)

    async with open_supervisor("root", check_asks=True) as root:
        rooms = await root.start_registry("rooms", make_spec, live_count_max=10)
        await rooms.get("earlier")
        await post(rooms, "later", "x")
    assert seen == ["later"]
