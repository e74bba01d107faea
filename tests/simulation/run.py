"""One run: a storm of some seconds over clients and servers, then calm, then everything must be where it belongs.

The same seed gives the same run, event for event: Trio's scheduler draws from it, time is a MockClock's, and nothing else is
random. The garbage collector waits meanwhile, for when it runs hangs on what ran before.
"""

import gc
import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import count
from typing import Any

import structlog
import trio
import trio.testing

from chatty.ids import ListVersion, RoomId
from chatty.testing.tables import Tables
from tests.simulation import checks
from tests.simulation.chance import Chance
from tests.simulation.client import Client
from tests.simulation.place import make_place
from tests.simulation.server import Server
from tests.simulation.world import World

calm_s_max = 90.0
FAULTS = {"actor.crashed", "actor.start_failed", "ask.callback_failed"}
MADE = ("MadeCrash",)
STORE_FAILED = ("MadeCrash", "StoreUnavailable", "OutcomeUnknown", "StartFailed")


@dataclass(frozen=True, kw_only=True)
class Run:
    """violation: the first promise that was broken. digest: of all that happened."""

    seed: int
    violation: str | None
    digest: str
    lines: list[str] = field(repr=False)
    seen: Counter[str] = field(repr=False)

    def report(self, *, lines_count: int = 60) -> str:
        last = "\n".join(self.lines[-lines_count:])
        return f"{last}\n--seed {self.seed}: {self.violation}"


def simulate(seed: int) -> Run:
    place = make_place()
    chance = Chance(seed)
    with _deterministic(seed):
        world = World(chance, place)
        with _watched_actors(world):
            clock = trio.testing.MockClock(autojump_threshold=0)
            try:
                trio.run(_Simulation(world).run, clock=clock)
            except BaseException:
                print(f"--seed {seed} raised")
                raise
    return Run(
        seed=seed, violation=world.violation, digest=world.trace.digest, lines=world.trace.lines, seen=world.seen
    )


class _Simulation:
    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance
        self._servers: list[Server | None] = [None] * world.chance.faults.servers_count
        self._mids = count(1)
        self._clients: list[Client] = []

    async def run(self) -> None:
        world = self._world
        world.trace.note(str(self._chance.faults))
        with world.scope:
            async with trio.open_nursery() as nursery:
                for slot in range(len(self._servers)):
                    nursery.start_soon(self._keep_server, slot)
                for identity in world.place.devices:
                    self._clients.append(Client(world, identity, self._pick_server, nursery, self._mids))
                for client in self._clients:
                    nursery.start_soon(client.run)
                await self._storm()
                self._calm_down()
                await self._settle()
                for promise in checks.broken(world, self._clients):
                    world.fail(promise)
                nursery.cancel_scope.cancel()

    def _pick_server(self) -> Server | None:
        up = [server for server in self._servers if server is not None and server.is_up]
        return self._chance.dice.choice(up) if up else None

    async def _keep_server(self, slot: int) -> None:
        """One after the other, as whatever starts servers does."""
        while True:
            server = self._servers[slot] = Server(self._chance, self._world.store, self._world.place.callers)
            self._world.trace.note(f"server {slot} starts")
            await server.run()
            self._world.trace.note(f"server {slot} has gone")
            self._world.seen["server gone"] += 1
            await trio.sleep(0.1 + self._chance.seconds(2.0))

    # The storm -------------------------------------------------------------------------------------------------------

    async def _storm(self) -> None:
        faults = self._chance.faults
        with trio.move_on_after(faults.storm_s):
            async with trio.open_nursery() as nursery:
                for client in self._clients:
                    nursery.start_soon(self._act, client)
                for _ in range(faults.outages_count):
                    nursery.start_soon(self._outage)
                for _ in range(faults.server_crashes_count):
                    nursery.start_soon(self._kill_server)

    def _calm_down(self) -> None:
        self._world.trace.note("calm")
        self._chance.is_stormy = self._world.weather.is_out = False

    async def _outage(self) -> None:
        await trio.sleep(self._chance.dice.random() * self._chance.faults.storm_s)
        self._world.trace.note("the store goes")
        self._world.seen["outage"] += 1
        self._world.weather.is_out = True
        await trio.sleep(self._chance.seconds(8.0))
        self._world.weather.is_out = False
        self._world.trace.note("the store is back")

    async def _kill_server(self) -> None:
        await trio.sleep(self._chance.dice.random() * self._chance.faults.storm_s)
        server = self._pick_server()
        if server is not None:
            self._world.trace.note("a server is killed")
            server.kill()

    async def _act(self, client: Client) -> None:
        dice = self._chance.dice
        while True:
            await trio.sleep(dice.random() * self._chance.faults.pause_s_max)
            room = dice.choice(list(self._world.place.rooms))
            match dice.choices(["send", "burst", "mail", "remove", "invite", "devices"], [60, 5, 6, 4, 8, 1])[0]:
                case "send" if client.is_inside(room):
                    client.begin(client.send, room)
                case "burst" if client.is_inside(room):
                    for _ in range(dice.randrange(2, 12)):
                        client.begin(client.send, room)
                case "mail":
                    others = [one for one in self._world.place.devices if one is not client.identity]
                    client.begin(client.write_to, dice.sample(others, 2))
                case "remove":
                    self._remove(client, room)
                case "invite":
                    self._invite(client, room)
                case "devices":
                    await self._change_devices(client)

    def _remove(self, client: Client, room: RoomId) -> None:
        """The owner kicks somebody, others leave. An owner stays."""
        owner = self._clients[0].user
        if client.user == owner:
            inside = sorted(client.books[room].state.inside - {owner})
            if inside:
                client.begin(client.remove, room, self._chance.dice.choice(inside))
        elif client.is_inside(room):
            client.begin(client.remove, room, client.user)

    def _invite(self, client: Client, room: RoomId) -> None:
        outside = sorted({one.user for one in self._clients} - client.books[room].state.inside)
        if client.user == self._clients[0].user and outside:
            client.begin(client.invite, room, self._chance.dice.choice(outside))

    async def _change_devices(self, client: Client) -> None:
        """As the steps of keys do: a new list, and a devices event owed to each of the user's rooms."""
        user, store = client.identity.caller.user_number, self._world.store

        def change(tables: Tables) -> None:
            row = tables.users[user]
            version = ListVersion(row.list_version + 1)
            tables.users[user] = replace(row, list_version=version, list_digest=bytes([version % 256]) * 32)
            for room in tables.rooms:
                if tables.is_joined(room, user):
                    tables.owed_devices[room, user] = version

        self._world.seen["devices"] += 1
        await trio.lowlevel.checkpoint()
        if store.locks.take(client, ("users", user)):
            store.tables = store.tables.copy()
            change(store.tables)
            store.locks.release(client)

    # The calm --------------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        deadline = trio.current_time() + calm_s_max
        while found := checks.unsettled(self._world, self._clients):
            if trio.current_time() > deadline:
                self._world.fail(f"does not calm down: {'; '.join(found)}")
            await trio.sleep(0.5)


# What must not differ between two runs of a seed --------------------------------------------------------------------


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    scheduler: Any = import_module("trio._core._run")
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate(), gc.isenabled()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    gc.collect(0)
    gc.disable()
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        scheduler._r.setstate(before[1])
        if before[2]:
            gc.enable()


class _Crashes(logging.Handler):
    """A crash that was not made is a fault, and so is a callback that failed, or a start that no failure of the store
    explains; a room reads from the store at its start.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        what, error = record.getMessage(), str(getattr(record, "error", ""))
        self._world.seen[what] += 1
        starts_anew = what == "actor.start_failed" or str(getattr(record, "actor", "")).startswith("room ")
        explained = STORE_FAILED if starts_anew else MADE
        if what in FAULTS and not any(name in error for name in explained):
            self._world.fail(f"{what}: {error}\n{getattr(record, 'frames', '')}")


@contextmanager
def _watched_actors(world: World) -> Iterator[None]:
    """The runtime's log goes to the run, the others' nowhere."""
    logger, handler = logging.getLogger("chatty.actors"), _Crashes(world)
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    configured = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        structlog.configure(**configured)
