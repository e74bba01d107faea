"""The server goes on from an older state: with a raised generation clients mend what is lost, without one they call it a fork."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from psycopg import conninfo

from chatty.app.generations import raise_generation
from chatty.client import Client, MessageLost, Reason, RoomLost, ServerLied, ServerRestored, SignedOut, Update
from chatty.client.room import Room
from chatty.client.update_queue import history_max
from chatty.config import Settings
from chatty.ids import RoomId
from chatty.store.embedded import EmbeddedServer
from tests.client.conftest import Open
from tests.postgres_fixtures import temporary_database
from tests.server.sdk_people import free_port, open_origin, opener

U = TypeVar("U")


@dataclass
class Person:
    """A client, and all that it has told."""

    client: Client
    told: list[Update] = field(default_factory=list)

    async def listen(self) -> None:
        async for update in self.client.messages():
            self.told.append(update)

    def of(self, kind: type[U]) -> list[U]:
        return [update for update in self.told if isinstance(update, kind)]

    def has(self, room: RoomId, text: str) -> bool:
        return text in self.texts(room)

    def has_caught(self, *rooms: RoomId) -> bool:
        """Calls each a fork."""
        lies = [told for told in self.told if isinstance(told, ServerLied) and told.reason is Reason.FORKED_HISTORY]
        return {lie.room for lie in lies} >= set(rooms)

    def texts(self, room: RoomId) -> list[str]:
        return sorted(message.text for message in self.client.room(room).history(count_max=history_max))


async def until(is_so: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not is_so():  # noqa: ASYNC110  # as an application that looks now and then
            await trio.sleep(0.02)


@asynccontextmanager
async def people(open_one: Open, *names: str) -> AsyncIterator[list[Person]]:
    async with AsyncExitStack() as stack:
        found = [Person(await stack.enter_async_context(open_one(name))) for name in names]
        async with trio.open_nursery() as nursery:
            for person in found:
                nursery.start_soon(person.listen)
            yield found
            nursery.cancel_scope.cancel()


@dataclass
class Scene:
    """`quiet`: a room whose members stay; `busy`: one that cid enters after the backup; `young`: made after it.

    port: 0: another one each time; then access tokens of before are refused.
    """

    folder: Path
    quiet: RoomId = RoomId("")
    busy: RoomId = RoomId("")
    young: RoomId = RoomId("")
    port: int = 0

    def settings(self) -> Settings:
        return Settings(data_dir=self.folder / "data", registration="open")

    @asynccontextmanager
    async def served(self, database: str, *names: str) -> AsyncIterator[list[Person]]:
        async with (
            open_origin(database, self.folder, port=self.port) as origin,
            people(opener(origin, self.folder), *names) as found,
        ):
            yield found


def inside(room: Room, client: Client) -> bool:
    return client.user in room.members


async def befriend(host: Client, guest: Client, *rooms: Room) -> None:
    for room in rooms:
        await room.invite(guest.user)
        await until(guest.invitations)
        await guest.join(guest.invitations()[0])
        await until(partial(inside, room, guest))


async def before_the_backup(scene: Scene, database: str) -> None:
    async with scene.served(database, "ann", "bob", "cid") as (ann, bob, cid):
        for name, person in zip(("ann", "bob", "cid"), (ann, bob, cid), strict=True):
            await person.client.register(name, f"the password of {name}")
        quiet, busy = await ann.client.create_room(), await ann.client.create_room()
        scene.quiet, scene.busy = quiet.id, busy.id
        await befriend(ann.client, bob.client, quiet, busy)
        for room in (quiet, busy):
            await room.send("kept")
            await until(partial(bob.has, room.id, "kept"))


async def after_the_backup(scene: Scene, database: str) -> None:
    async with scene.served(database, "ann", "bob", "cid", "dan") as (ann, bob, cid, dan):
        await dan.client.register("dan", "the password of dan")
        quiet, busy = ann.client.room(scene.quiet), ann.client.room(scene.busy)
        young = await ann.client.create_room()
        scene.young = young.id
        await befriend(ann.client, bob.client, young)
        await befriend(ann.client, cid.client, busy)
        await bob.client.room(busy.id).send("lost, by bob")
        for room in (quiet, busy, young):
            await room.send("lost, by ann")
        await until(lambda: bob.texts(quiet.id) == ["kept", "lost, by ann"])
        await until(lambda: cid.texts(busy.id) == ["lost, by ann", "lost, by bob"])
        await until(lambda: ann.texts(busy.id) == bob.texts(busy.id) == ["kept", "lost, by ann", "lost, by bob"])
        await until(lambda: bob.texts(young.id) == ["lost, by ann"])


@pytest.fixture
def copies(postgres: EmbeddedServer, database: str) -> Iterator[Callable[[], str]]:
    """Another database with what this one holds now; no server may be running on it."""
    made = []

    def copy() -> str:
        name = str(conninfo.conninfo_to_dict(database)["dbname"])
        manager = temporary_database(postgres, template=name)
        made.append(manager)
        return manager.__enter__()

    yield copy
    for manager in made:
        manager.__exit__(None, None, None)


async def test_clients_mend_what_a_restored_server_has_lost(
    database: str, copies: Callable[[], str], tmp_path: Path
) -> None:
    scene = Scene(tmp_path)
    await before_the_backup(scene, database)
    backup = await trio.to_thread.run_sync(copies)
    await after_the_backup(scene, database)
    raised = await raise_generation(scene.settings(), backup)
    assert (raised.generation.number, raised.rooms_count, raised.users_count, raised.sessions_count) == (2, 2, 3, 3)
    assert raised.one_time_keys_count > 0
    async with scene.served(backup, "ann", "bob", "cid", "dan") as (ann, bob, cid, dan):
        await until(lambda: all(one.of(ServerRestored) for one in (ann, bob, cid)))
        both = ["kept", "lost, by ann", "lost, by bob"]
        await until(lambda: ann.texts(scene.busy) == bob.texts(scene.busy) == both)
        await until(lambda: ann.texts(scene.quiet) == bob.texts(scene.quiet) == ["kept", "lost, by ann"])
        await until(lambda: all(one.of(RoomLost) for one in (ann, bob, cid)))
        await until(lambda: len(bob.of(MessageLost)) >= 4)
        assert [len(one.of(ServerRestored)) for one in (ann, bob, cid)] == [1, 1, 1]
        assert [told.room for told in ann.of(RoomLost)] == [told.room for told in bob.of(RoomLost)] == [scene.young]
        assert [told.room for told in cid.of(RoomLost)] == [scene.busy]
        lost = sorted((told.room == scene.busy, told.text) for told in bob.of(MessageLost))
        assert lost == [
            (False, "lost, by ann"),
            (False, "lost, by ann"),
            (True, "lost, by ann"),
            (True, "lost, by bob"),
        ]
        await until(lambda: bob.client.room(scene.busy).lost() == [])
        assert [one.text for one in bob.client.room(scene.young).lost()] == ["lost, by ann"]
        assert set(ann.client.room(scene.busy).members) == {ann.client.user, bob.client.user}
        await until(lambda: dan.of(SignedOut))
        await befriend(ann.client, cid.client, ann.client.room(scene.busy))
        for person in (ann, bob, cid):
            await person.client.room(scene.busy).send("new, by " + person.client.user[1:4])
        new = ["new, by ann", "new, by bob", "new, by cid"]
        await until(
            lambda: cid.texts(scene.busy) == new and ann.texts(scene.busy) == bob.texts(scene.busy) == both + new
        )
        assert not any(one.of(ServerLied) or one.of(SignedOut) for one in (ann, bob, cid))
    async with scene.served(backup, "ann", "bob", "cid") as again:
        for one in again:
            await one.client.wait_online()
        await again[0].client.room(scene.busy).send("later")
        await until(lambda: all("later" in one.texts(scene.busy) for one in again))
        assert not any(one.of(ServerLied) or one.of(ServerRestored) or one.of(MessageLost) for one in again)


async def test_the_same_without_a_raised_generation_is_called_a_fork(
    database: str, copies: Callable[[], str], tmp_path: Path
) -> None:
    scene = Scene(tmp_path, port=await free_port())
    await before_the_backup(scene, database)
    backup = await trio.to_thread.run_sync(copies)
    await after_the_backup(scene, database)
    async with scene.served(backup, "ann", "bob") as both:
        for one in both:
            await until(partial(one.has_caught, scene.quiet, scene.busy))
