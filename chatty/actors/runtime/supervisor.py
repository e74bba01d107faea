"""One for one: a child that crashes is restarted alone. Starts in call order, stops in reverse.

Refs are made before use and outlive restarts, so no sibling needs to know; for "these together", nest supervisors.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Any, TypeVar

import trio

from chatty.actors.runtime.actor import Actor, Restartable
from chatty.actors.runtime.branch import Branch, Parent, Tree
from chatty.actors.runtime.errors import ActorStopped
from chatty.actors.runtime.order import Path
from chatty.actors.runtime.refs import ActorRef
from chatty.actors.runtime.registry import Registry
from chatty.actors.runtime.specs import (
    ActorSpec,
    Intensity,
    Load,
    Observer,
    Restart,
    Sample,
    State,
    Unobserved,
)

M = TypeVar("M")
K = TypeVar("K", bound=Hashable)


class Supervisor(Branch):
    passivates_on_return = False

    def __init__(self, name: str, *, tree: Tree, path: Path, intensity: Intensity, parent: Parent) -> None:
        super().__init__(name, tree=tree, path=path, intensity=intensity, parent=parent)
        self._nodes: list[Actor[Any] | Branch] = []
        self._started_count = 0

    async def start(self, spec: ActorSpec[M]) -> ActorRef[M]:
        """Start an actor; return when it is ready.

        Raises: StartFailed, and the actor is gone; ActorStopped when this supervisor drains or waits for its restart.
        Cancelled: the actor is stopped.
        """
        self.refuse_when_stopping()
        actor = Actor(spec, self, self._next_path())
        await self._begin(actor, actor.abort)
        return actor.ref

    async def start_supervisor(self, name: str, *, intensity: Intensity = Intensity()) -> Supervisor:
        """Start a supervisor below this one. Its failure counts here; it is then restarted with its children fresh."""
        self.refuse_when_stopping()
        path = self._next_path()
        supervisor = Supervisor(name, tree=self._tree, path=path, intensity=intensity, parent=self)
        await self._begin(supervisor, supervisor.begin_stopping)
        return supervisor

    async def start_registry(
        self,
        name: str,
        make_spec: Callable[[K], ActorSpec[M]],
        *,
        live_count_max: int,
        intensity: Intensity = Intensity(),
    ) -> Registry[K, M]:
        """Start a registry below this one: an actor a key. make_spec is a named function, or mypy loses its types."""
        self.refuse_when_stopping()
        registry = Registry(
            name,
            make_spec,
            live_count_max=live_count_max,
            tree=self._tree,
            path=self._next_path(),
            intensity=intensity,
            parent=self,
        )
        await self._begin(registry, registry.begin_stopping)
        return registry

    def _next_path(self) -> Path:
        self._started_count += 1
        return (*self.path, self._started_count - 1)

    async def _begin(self, child: Actor[Any] | Branch, abort: Callable[[], None]) -> None:
        has_begun = False
        self._nodes.append(child)
        try:
            await child.begin()
            has_begun = True
        finally:
            if not has_begun:
                self._nodes.remove(child)
                abort()

    # --- as the owner of actors

    async def admit(self) -> None:
        """There is always a place."""

    def delay_before_restart(self, child: Restartable, error: Exception | None) -> float | None:
        """Beyond the intensity this supervisor fails, and the child waits until it is cancelled with the others."""
        if self._window.is_exceeded_by(trio.current_time()):
            self.fail(error)
            return float("inf")
        return child.next_backoff_s()

    def note_woken(self, actor: Actor[Any]) -> None:
        """It has its place already."""

    def note_left(self, actor: Actor[Any]) -> None:
        if actor.state is State.STOPPED and actor in self._nodes:
            self._nodes.remove(actor)

    # --- as a branch

    async def _start_children(self) -> None:
        for child in [*self._nodes]:
            if isinstance(child, Actor) and child.spec.restart is Restart.TEMPORARY:
                child.close()
            else:
                await child.begin()

    async def drain_children(self) -> None:
        for child in reversed([*self._nodes]):
            await child.drain()

    _drain_children = drain_children

    def close(self) -> None:
        self.state = State.STOPPED
        for child in reversed([*self._nodes]):
            child.close()

    def below(self) -> Sequence[Actor[Any] | Branch]:
        return [*self._nodes]

    def loads(self) -> list[Load]:
        """Of the branches below this one."""
        return [node.load() for node in self._nodes if isinstance(node, Branch)]

    def samples(self, *, count_max: int) -> list[Sample]:
        """Of the branches below this one."""
        return [node.sample(count_max=count_max) for node in self._nodes if isinstance(node, Branch)]


class _Nobody:
    """Above the root: its failure goes out of open_supervisor."""

    intensity = Intensity()

    def spawn(self, task: Callable[[], Awaitable[None]], name: str) -> None:
        raise ActorStopped(name, "the root is not restarted")

    def delay_before_restart(self, child: Restartable, error: Exception | None) -> float | None:
        return None


@asynccontextmanager
async def open_supervisor(
    name: str,
    *,
    intensity: Intensity = Intensity(),
    check_asks: bool = False,
    observer: Observer = Unobserved(),
) -> AsyncIterator[Supervisor]:
    """The root of a tree, open for the block; at its end the children drain, the last one first.

    check_asks: raise AskOutOfOrder in an actor that asks one which is not in an earlier branch. For tests.
    observer: told of crashes and restarts.
    Raises: SupervisorFailed when the root's intensity is exceeded (the block is cancelled); else what the block
    raises, after the drain and not wrapped in a group.
    Cancelled: the actors are cancelled too, nothing is drained, who still asks gets ActorStopped.
    """
    tree = Tree(context=copy_context(), checks_asks=check_asks, observer=observer)
    root = Supervisor(name, tree=tree, path=(), intensity=intensity, parent=_Nobody())
    block_error: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            root.adopt(nursery)
            root.state = State.RUNNING
            try:
                yield root
            except Exception as error:
                block_error = error
            root.state = State.DRAINING
            root.begin_stopping()
            await root.drain_children()
    finally:
        root.close()
    if root.failure is not None:
        raise root.failure
    if block_error is not None:
        raise block_error
