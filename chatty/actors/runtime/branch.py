"""What a supervisor and a registry have in common: a nursery of their own, and how it fails, restarts and ends.

A branch that fails cancels its nursery: its children are suspended, not drained. It reports to its own supervisor,
which counts the failure against its own intensity and, within it, starts the branch again after a back-off, with the
children fresh. Beyond it that supervisor fails in turn; the failure of the root leaves `open_supervisor`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import trio

from chatty.actors.runtime.actor import Actor, Restartable, Start, place_of
from chatty.actors.runtime.errors import ActorStopped, StartFailed, SupervisorFailed
from chatty.actors.runtime.order import Path
from chatty.actors.runtime.restarts import Backoff, Window
from chatty.actors.runtime.specs import Intensity, Load, Observer, Sample, Snapshot, State

_log: Final = logging.getLogger("chatty.actors")


@dataclass(frozen=True, kw_only=True)
class Tree:
    """What is the same for the whole tree.

    context: of whoever opened it. Every actor runs in a copy of this one, not in that of the request that happened
    to start it, whose log fields it would carry for the rest of its life.
    observer: told of crashes and restarts.
    """

    context: Context
    checks_asks: bool
    observer: Observer


class Parent(Protocol):
    """What a branch needs of the one above it."""

    intensity: Intensity

    def spawn(self, task: Callable[[], Awaitable[None]], name: str) -> None: ...
    def delay_before_restart(self, child: Restartable, error: Exception | None) -> float | None: ...


class Branch(ABC):
    def __init__(self, name: str, *, tree: Tree, path: Path, intensity: Intensity, parent: Parent) -> None:
        self.name = name
        self.path = path
        self.intensity = intensity
        self.checks_asks = tree.checks_asks
        self.state = State.STARTING
        self.failure: SupervisorFailed | None = None
        self._tree = tree
        self._parent = parent
        self._window = Window(intensity)
        self._backoff = Backoff(parent.intensity)
        self._restart_count = 0
        self._last_error: str | None = None
        self._nursery: trio.Nursery | None = None
        self._start = Start()
        self._stop_asked = trio.Event()
        self._ended = trio.Event()
        self._began_at_s = 0.0

    def spawn(self, task: Callable[[], Awaitable[None]], name: str) -> None:
        """Raises ActorStopped when this branch is stopping, or waits for its own restart."""
        if self._nursery is None:
            raise ActorStopped(name, f"{self.name} is {self.state.value}")
        self._tree.context.copy().run(partial(self._nursery.start_soon, task, name=name))

    # --- its life

    async def begin(self) -> None:
        """Start, again after a failure of the parent, with all children. Raises StartFailed."""
        self._start = Start()
        self._ended = trio.Event()
        self.state = State.STARTING
        self._parent.spawn(self._live_until_stopped, self.name)
        await self._start.wait(self.name)

    async def _live_until_stopped(self) -> None:
        try:
            while (failure := await self._run_once()) is not None:
                self._start.fail(failure)
                if not await self._wait_for_restart(failure):
                    break
            self.state = State.STOPPED
        finally:
            self._ended.set()
            self._start.fail(StartFailed(self.name, "cancelled while it started"))
            self.state = State.STOPPED if self.state is State.STOPPED else State.SUSPENDED

    async def _run_once(self) -> SupervisorFailed | None:
        """Hold the nursery until the branch has drained, then None, or has failed."""
        async with trio.open_nursery() as nursery:
            self.adopt(nursery)
            try:
                await self._start_children()
                self.state = State.RUNNING
                self._start.succeed()
                await self._stop_asked.wait()
                await self._drain_children()
            except (StartFailed, ActorStopped) as error:
                self.fail(error)
            finally:
                self._nursery = None
        return self.failure

    def adopt(self, nursery: trio.Nursery) -> None:
        """From now on children live in this nursery."""
        self._nursery = nursery
        self._window = Window(self.intensity)
        self._began_at_s = trio.current_time()
        self.failure = None

    async def _wait_for_restart(self, failure: SupervisorFailed) -> bool:
        if self._stop_asked.is_set():
            return False
        delay_s = self._parent.delay_before_restart(self, failure)
        if delay_s is None:
            return False
        self._restart_count += 1
        self.note_restart()
        self.state = State.BACKING_OFF
        with trio.move_on_after(delay_s):
            await self._stop_asked.wait()
        return not self._stop_asked.is_set()

    def note_crash(self, error: Exception) -> None:
        self._tree.observer.note_crash(self.name, error)

    def note_restart(self) -> None:
        self._tree.observer.note_restart(self.name)

    def next_backoff_s(self) -> float:
        return self._backoff.next_s(lived_s=trio.current_time() - self._began_at_s)

    def fail(self, cause: Exception | None) -> None:
        """Give up: cancel all children and let the parent decide."""
        if self.failure is None and self._nursery is not None:
            self._last_error = "returned too often" if cause is None else place_of(cause)
            _log.error("supervisor.failed", extra={"supervisor": self.name, "error": self._last_error})
            self.failure = SupervisorFailed(self.name, self._last_error)
            self.failure.__cause__ = cause
            self._nursery.cancel_scope.cancel()
            self._nursery = None

    async def drain(self) -> None:
        """Stop the children, the last one first, each after what it has queued; return when all have ended."""
        self._stop_asked.set()
        if self.state is not State.SUSPENDED:
            await self._ended.wait()
        self.close()

    def refuse_when_stopping(self) -> None:
        if self._stop_asked.is_set():
            raise ActorStopped(self.name)

    def begin_stopping(self) -> None:
        """For the root, whose nursery is that of open_supervisor."""
        self._stop_asked.set()

    # --- what differs

    @abstractmethod
    async def _start_children(self) -> None:
        """Start again those that are there; none are at the first start. Raises StartFailed."""

    @abstractmethod
    async def _drain_children(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Stop for good what is left, without waiting; no child's task is running any more."""

    def sample(self, *, count_max: int) -> Sample:
        """Actors spread evenly over the branch."""
        actors = self._actors()
        step = max(len(actors) // count_max, 1)
        roots = [actor.roots() for actor in actors[::step][:count_max]]
        return Sample(branch=self.name, actors_count=len(actors), roots=roots)

    def _actors(self) -> Sequence[Actor[Any]]:
        return [child for child in self.below() if isinstance(child, Actor)]

    def _children(self) -> list[Snapshot]:
        return [child.snapshot() for child in self.below()]

    def load(self) -> Load:
        """A plain read, as snapshot()."""
        actors = self._actors()
        return Load(
            branch=self.name,
            actors_count=len(actors),
            mailbox_count=sum(actor.queue.waiting_count for actor in actors),
            oldest_age_s=max((actor.queue.oldest_age_s() for actor in actors), default=0.0),
        )

    @abstractmethod
    def below(self) -> Sequence[Actor[Any] | Branch]:
        """The children that are live."""

    def actor_at(self, names: Sequence[str]) -> Actor[Any] | None:
        """A live actor by the names on the way down to it; None when there is none, or a branch is there."""
        found = next((child for child in self.below() if child.name == names[0]), None)
        if isinstance(found, Branch):
            return found.actor_at(names[1:]) if len(names) > 1 else None
        return found if len(names) == 1 else None

    def snapshot(self) -> Snapshot:
        """A plain read: no message, no await; it works while an actor hangs."""
        return Snapshot(
            name=self.name,
            state=self.state.value,
            restart_count=self._restart_count,
            last_error=self._last_error,
            children=self._children(),
        )
