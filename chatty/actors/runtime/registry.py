"""One actor a key, started at first use, passivated when idle.

Restarts are counted for each key by itself: one that uses up the intensity is given up (stopped, its askers told; the
next `get` starts it anew), and no sibling notices. Only when more than restart_count_max *different* keys were given
up within within_s does the registry fail, upwards: then it is not the key that is sick.

Siblings are not ordered: they may not ask one another, and they drain all at once.

A passive actor has no task and no place here but a weak one, by which `get` finds it again while anybody holds its
ref: so there are never two actors for one key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

import trio

from chatty.actors.runtime.actor import Actor, Restartable
from chatty.actors.runtime.branch import Branch, Parent, Tree
from chatty.actors.runtime.errors import StartFailed
from chatty.actors.runtime.order import Path
from chatty.actors.runtime.refs import ActorRef
from chatty.actors.runtime.restarts import Window
from chatty.actors.runtime.specs import ActorSpec, Intensity, State

M = TypeVar("M")
K = TypeVar("K", bound=Hashable)


class Registry(Branch, Generic[K, M]):
    def __init__(
        self,
        name: str,
        make_spec: Callable[[K], ActorSpec[M]],
        *,
        live_count_max: int,
        tree: Tree,
        path: Path,
        intensity: Intensity,
        parent: Parent,
    ) -> None:
        super().__init__(name, tree=tree, path=path, intensity=intensity, parent=parent)
        self._make_spec = make_spec
        self._live_count_max = live_count_max
        self._live_by_key: dict[K, Actor[M]] = {}
        self._passive_by_key: WeakValueDictionary[K, Actor[M]] = WeakValueDictionary()
        self._admitted: set[K] = set()

    async def get(self, key: K) -> ActorRef[M]:
        """The key's actor, started when it is not live: once, however many wait.

        Between the return and a `tell` is no checkpoint, and a `tell` wakes an actor that was passivated: no race.
        Raises: StartFailed, to all who wait; ActorStopped when the registry drains or waits for its restart;
        what make_spec raises.
        Cancelled: the start goes on; the actor is the registry's, not the asker's.
        """
        await trio.lowlevel.checkpoint()
        while (actor := self._live_by_key.get(key)) is not None and actor.is_stopping:
            await actor.wait_stopped()
        self.refuse_when_stopping()
        if actor is None:
            actor = self._passive_by_key.get(key) or self._make(key)
            actor.wake()
        await actor.wait_started()
        return actor.ref

    def find(self, key: K) -> ActorRef[M] | None:
        """Only if live, never starts. One that is starting is live: what it is told waits until it is ready."""
        actor = self._live_by_key.get(key)
        return None if actor is None or actor.is_stopping else actor.ref

    async def stop(self, key: K) -> None:
        """Drain the key's actor; its ref is dead for good, the next get makes another. Not from that actor itself."""
        actor = self._live_by_key.get(key) or self._passive_by_key.get(key)
        if actor is not None:
            await actor.drain()

    def _make(self, key: K) -> Actor[M]:
        return Actor(self._make_spec(key), _Place(self, key), self.path)

    # --- for the places

    def note_woken(self, key: K, actor: Actor[M]) -> None:
        self._passive_by_key.pop(key, None)
        self._live_by_key[key] = actor

    def note_left(self, key: K, actor: Actor[M]) -> None:
        if self._live_by_key.get(key) is actor:
            del self._live_by_key[key]
            self._admitted.discard(key)
        if actor.state is State.PASSIVE:
            self._passive_by_key[key] = actor
        elif self._passive_by_key.get(key) is actor:
            del self._passive_by_key[key]

    def note_given_up(self, key: K, error: Exception | None) -> None:
        if self._window.is_exceeded_by(trio.current_time(), key=key):
            self.fail(error)

    async def admit(self, key: K) -> None:
        """Wait for a free place; when full, passivate the longest idle. StartFailed when none is idle."""
        while len(self._admitted) >= self._live_count_max:
            idle = [actor for actor in self._live_by_key.values() if actor.queue.is_idle]
            if not idle:
                raise StartFailed(self.name, f"all {self._live_count_max} places are busy")
            await min(idle, key=_idle_since_s).passivate()
        self._admitted.add(key)

    # --- as a branch

    async def _start_children(self) -> None:
        """After a failure: none is live; refs that are still held wake theirs."""
        for actor in [*self._live_by_key.values()]:
            actor.shelve()

    async def _drain_children(self) -> None:
        self._close_passive()  # first, so that none is woken behind our back
        async with trio.open_nursery() as nursery:
            for actor in [*self._live_by_key.values()]:
                nursery.start_soon(actor.drain)

    def close(self) -> None:
        self.state = State.STOPPED
        for actor in [*self._live_by_key.values()]:
            actor.close()
        self._close_passive()

    def _close_passive(self) -> None:
        for actor in [*self._passive_by_key.values()]:
            actor.close()

    def below(self) -> Sequence[Actor[M]]:
        return [*self._live_by_key.values()]


class _Place(Generic[K, M]):
    """One key's place in a registry, and the owner of its actor: counts that key's restarts."""

    passivates_on_return = True

    def __init__(self, registry: Registry[K, M], key: K) -> None:
        self.intensity = registry.intensity
        self.path = registry.path
        self.checks_asks = registry.checks_asks
        self._registry = registry
        self._key = key
        self._window = Window(registry.intensity)

    def spawn(self, task: Callable[[], Awaitable[None]], name: str) -> None:
        self._registry.spawn(task, name)

    async def admit(self) -> None:
        await self._registry.admit(self._key)

    def delay_before_restart(self, child: Restartable, error: Exception | None) -> float | None:
        if self._window.is_exceeded_by(trio.current_time()):
            self._registry.note_given_up(self._key, error)
            return None
        return child.next_backoff_s()

    def note_crash(self, error: Exception) -> None:
        self._registry.note_crash(error)

    def note_restart(self) -> None:
        self._registry.note_restart()

    def note_woken(self, actor: Actor[Any]) -> None:
        self._registry.note_woken(self._key, actor)

    def note_left(self, actor: Actor[Any]) -> None:
        self._registry.note_left(self._key, actor)


def _idle_since_s(actor: Actor[Any]) -> float:
    return actor.queue.idle_since_s or 0.0
