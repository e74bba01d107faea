"""One actor's life: its runs, its crashes, its end.

    wake ─> a life: one task in its supervisor's nursery
              first run ── not ready ──────────────> StartFailed: mailbox refused, passive
              run ── crash ──> put back or quarantine ──> back off ──> run …
              run ── idle, nothing came ───────────> passive: no task, no channel; the next tell wakes it
              run ── returned, crashed for good, drained ──> stopped
              cancelled from outside ──────────────> suspended, until its supervisor starts it again or closes it

This is the one place that catches `Exception` around an actor's code. `except*` leaves Cancelled, KeyboardInterrupt
and SystemExit alone, also inside a group.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import PurePath
from traceback import extract_tb, format_tb
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from chatty.actors.runtime import order
from chatty.actors.runtime.asks import Ask
from chatty.actors.runtime.errors import ActorCrashed, ActorStopped, StartFailed
from chatty.actors.runtime.mailbox import Mailbox, Queue
from chatty.actors.runtime.refs import ActorRef
from chatty.actors.runtime.restarts import Backoff
from chatty.actors.runtime.specs import ActorSpec, Intensity, Restart, Snapshot, State

M = TypeVar("M")

_log: Final = logging.getLogger("chatty.actors")


class Owner(Protocol):
    """What an actor needs of the place it lives in: a supervisor, or one key's place in a registry."""

    intensity: Intensity
    path: order.Path
    checks_asks: bool
    passivates_on_return: bool

    def spawn(self, task: Callable[[], Awaitable[None]], name: str) -> None:
        """Start the task in the owner's nursery. Raises ActorStopped when the owner is down."""

    async def admit(self) -> None:
        """Wait for a free place. Raises StartFailed when there is none."""

    def delay_before_restart(self, child: Restartable, error: Exception | None) -> float | None:
        """Seconds to wait; None to give the child up. Fails the owner itself, and gives inf, beyond its intensity."""

    def note_crash(self, error: Exception) -> None:
        """An actor crashed or could not start."""

    def note_restart(self) -> None:
        """It is run again."""

    def note_woken(self, actor: Actor[Any]) -> None:
        """A life begins."""

    def note_left(self, actor: Actor[Any]) -> None:
        """It has become passive or has stopped."""


class Restartable(Protocol):
    name: str

    def next_backoff_s(self) -> float: ...


class Start:
    """One attempt to start, and all who wait for it."""

    def __init__(self) -> None:
        self._over = trio.Event()
        self._error: Exception | None = None

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def succeed(self) -> None:
        self._over.set()

    def fail(self, error: Exception) -> None:
        if not self.is_over:
            self._error = error
            self._over.set()

    async def wait(self, name: str) -> None:
        """Raises StartFailed, a new one for each who waits."""
        await self._over.wait()
        if isinstance(self._error, StartFailed):
            raise StartFailed(name, self._error.reason) from self._error.__cause__
        if self._error is not None:
            raise StartFailed(name, place_of(self._error)) from self._error


class Actor(Generic[M]):
    def __init__(self, spec: ActorSpec[M], owner: Owner, path: order.Path) -> None:
        self.name = spec.name
        self.spec = spec
        self.path = path
        self.state = State.PASSIVE
        self.queue: Queue[M] = Queue(spec.mailbox_count_max)
        self.ref: ActorRef[M] = ActorRef(self, self.queue)
        self.check_ask = partial(order.check_ask, spec.name, path) if owner.checks_asks else None
        self._owner = owner
        self._mailbox = Mailbox(self.queue, idle_timeout_s=spec.idle_timeout_s, on_ready=self._note_ready)
        self._backoff = Backoff(owner.intensity)
        self._restart_count = 0
        self._last_error: str | None = None
        self._stopped = trio.Event()
        self._is_restart_asked = False
        self._task: trio.lowlevel.Task | None = None
        self._prepare()

    def _prepare(self) -> None:
        self._start = Start()
        self._scope = trio.CancelScope()
        self._stop_asked = trio.Event()
        self._left = trio.Event()
        self._ready_at_s: float | None = None
        self._is_leaving_idle = False

    @property
    def is_stopping(self) -> bool:
        return self._stop_asked.is_set()

    # --- starting

    def wake(self) -> None:
        """Begin a life. Raises ActorStopped unless it is passive or suspended, and when its supervisor is down."""
        if self.state not in (State.PASSIVE, State.SUSPENDED):
            raise ActorStopped(self.name)
        self._owner.spawn(self._live, self.name)
        if self.state is State.PASSIVE:
            self.queue.open()
        self._prepare()
        self.state = State.STARTING
        self._owner.note_woken(self)

    async def begin(self) -> None:
        """Wake it and wait until it is ready. Raises StartFailed."""
        self.wake()
        await self.wait_started()

    async def wait_started(self) -> None:
        """Returns at once (no checkpoint) when it is ready. Raises StartFailed."""
        start = self._start
        if self.state is State.STARTING:
            await start.wait(self.name)

    def _note_ready(self) -> None:
        if self._ready_at_s is not None:
            return
        self._ready_at_s = trio.current_time()
        if not self.is_stopping:
            self._scope.deadline = float("inf")
            self.state = State.RUNNING
        self._start.succeed()

    # --- living

    async def _live(self) -> None:
        if self._owner.checks_asks:
            order.note_running(self.name, self.path)
        next_state = State.SUSPENDED
        self._task = trio.lowlevel.current_task()
        try:
            next_state = await self._run_until_over()
        finally:
            self._task = None
            self._end_life(next_state)

    async def _run_until_over(self) -> State:
        error = await self._run(self._scope, is_first=True)
        if not self._start.is_over:
            return self._note_start_failed(error or StartFailed(self.name, "returned before it was ready"))
        while (delay_s := self._delay_before_next(error)) is not None:
            if not await self._wait_unless_stopped(delay_s):
                return State.STOPPED
            error = await self._run(trio.CancelScope(), is_first=False)
        return State.PASSIVE if self._is_leaving_idle else State.STOPPED

    async def _run(self, scope: trio.CancelScope, *, is_first: bool) -> Exception | None:
        """Call the actor's function once. Returns what it crashed with; None when it returned or was told to stop."""
        crash: Exception | None = None
        self._begin_run(scope)
        try:
            with scope:
                if is_first:
                    await self._owner.admit()
                await self.spec.run(self._mailbox)
        except* Exception as group:
            crash = sole(group)
        if crash is not None:
            return crash
        if self._ready_at_s is None and not self.is_stopping:
            reason = f"not ready within {self.spec.start_timeout_s} s" if scope.cancelled_caught else "returned unready"
            return StartFailed(self.name, reason)
        if scope.cancelled_caught and not self._is_restart_asked:
            _log.warning("actor.drain_timed_out", extra={"actor": self.name})
        return None

    def _begin_run(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._is_restart_asked = False
        self.queue.has_ended = False
        self._ready_at_s = None
        timeout_s = self.spec.drain_timeout_s if self.is_stopping else self.spec.start_timeout_s
        scope.deadline = min(scope.deadline, trio.current_time() + timeout_s)

    async def _wait_unless_stopped(self, delay_s: float) -> bool:
        with trio.move_on_after(delay_s):
            await self._stop_asked.wait()
        return not self.is_stopping

    # --- after a run

    def _delay_before_next(self, error: Exception | None) -> float | None:
        """Seconds until the next run; None when this life is over."""
        if error is not None:
            return self._delay_after_crash(error)
        if self._scope.cancelled_caught:
            return self._delay_after_restart_asked()
        self.queue.finish()
        return None if self.is_stopping else self._delay_after_return()

    def _delay_after_crash(self, error: Exception) -> float | None:
        self._note_crash(error)
        delay_s = None
        if not self.is_stopping and self.spec.restart is not Restart.TEMPORARY:
            delay_s = self._delay_before_restart(error)
        if delay_s is None:
            self.queue.refuse_returned(ActorCrashed(self.name, place_of(error)))
        return delay_s

    def _delay_after_restart_asked(self) -> float | None:
        """None: nobody asked, the drain was cut short."""
        if not self._is_restart_asked or self.is_stopping:
            return None
        self.queue.put_back()
        self._restart_count += 1
        self._owner.note_restart()
        self.state = State.BACKING_OFF
        return 0.0

    def _delay_after_return(self) -> float | None:
        went_idle = self.queue.has_ended
        is_permanent = self.spec.restart is Restart.PERMANENT
        if went_idle and self.queue.waiting_count:
            self._left.set()
            self._left = trio.Event()
            return 0.0
        if went_idle or (is_permanent and self._owner.passivates_on_return and not self.queue.waiting_count):
            self._is_leaving_idle = True
            return None
        return self._delay_before_restart(None) if is_permanent else None

    def _delay_before_restart(self, error: Exception | None) -> float | None:
        delay_s = self._owner.delay_before_restart(self, error)
        if delay_s is not None:
            self._restart_count += 1
            self._owner.note_restart()
            self.state = State.BACKING_OFF
        return delay_s

    def next_backoff_s(self) -> float:
        lived_s = 0.0 if self._ready_at_s is None else trio.current_time() - self._ready_at_s
        return self._backoff.next_s(lived_s=lived_s)

    def _note_crash(self, error: Exception) -> None:
        self._last_error = place_of(error)
        frames = "".join(format_tb(error.__traceback__))
        _log.error("actor.crashed", extra={"actor": self.name, "error": self._last_error, "frames": frames})
        self._owner.note_crash(error)
        number = self.queue.next_number()
        culprit = self.queue.take_culprit()
        if culprit is not None:
            extra = {"actor": self.name, "message_type": type(culprit).__qualname__, "message_number": number}
            _log.error("actor.message_quarantined", extra=extra)
            if isinstance(culprit, Ask):
                culprit.refuse(ActorCrashed(self.name, self._last_error))
        self.queue.put_back()

    # --- ending

    def _note_start_failed(self, error: Exception) -> State:
        self._last_error = place_of(error)
        if self.is_stopping:
            return State.STOPPED
        extra = {"actor": self.name, "error": self._last_error, "frames": "".join(format_tb(error.__traceback__))}
        _log.error("actor.start_failed", extra=extra)
        self._owner.note_crash(error)
        self._start.fail(error)
        self._drop(StartFailed(self.name, self._last_error))
        return State.PASSIVE

    def _end_life(self, next_state: State) -> None:
        """The life's task ends; without a checkpoint, so that no message can come in between."""
        if next_state is State.SUSPENDED:
            self.queue.put_back()
        if next_state is State.PASSIVE:
            self._drop(ActorStopped(self.name))
        self.state = next_state
        self._start.fail(StartFailed(self.name, "stopped while it started"))
        self._left.set()
        if next_state is State.STOPPED:
            self.close()
        elif next_state is State.PASSIVE:
            self._owner.note_left(self)

    def _drop(self, error: Exception) -> None:
        dropped_count = self.queue.close(error)
        if dropped_count:
            extra = {"actor": self.name, "dropped_count": dropped_count, "error": type(error).__name__}
            _log.warning("actor.messages_dropped", extra=extra)

    async def drain(self) -> None:
        """Handle what is queued, then stop; cancelled after drain_timeout_s. Returns when it has stopped.

        One that backs off, or never became ready, does not handle what is queued: the askers get ActorStopped.
        """
        if self.state in (State.PASSIVE, State.SUSPENDED):
            self.close()
        if not self.is_stopping and self.state is not State.STOPPED:
            self._stop_asked.set()
            self.state = State.DRAINING
            self.queue.end()
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + self.spec.drain_timeout_s)
        await self._stopped.wait()

    @property
    def may_restart(self) -> bool:
        """Whether restart() does something: it runs, and is of those that are started again."""
        return self.state is State.RUNNING and self.spec.restart is not Restart.TEMPORARY

    def restart(self) -> None:
        """Cancel the run that is going on, and run anew at once; what was in hand comes back, as after a crash.

        Counted as a restart, not against the intensity: it was asked for. Nothing happens unless `may_restart`.
        """
        if self.may_restart:
            self._is_restart_asked = True
            self._scope.cancel()

    def abort(self) -> None:
        """Stop without waiting: for a start that nobody waits for any more."""
        if self.state in (State.PASSIVE, State.SUSPENDED):
            self.close()
        else:
            self._stop_asked.set()
            self._scope.cancel()

    async def passivate(self) -> None:
        """End an idle actor's iteration; return when it has left, or has stayed because a message came."""
        left = self._left
        self.queue.end_wait()
        await left.wait()

    def shelve(self) -> None:
        """From suspended to passive: its messages are gone, the next tell or get starts it anew."""
        if self.state is State.SUSPENDED:
            self.state = State.PASSIVE
            self._drop(ActorStopped(self.name, "its registry was restarted"))
            self._owner.note_left(self)

    def close(self) -> None:
        """Stopped for good; only when no life is going on. May be called again."""
        if not self._stopped.is_set():
            self.state = State.STOPPED
            self._drop(ActorStopped(self.name))
            self._stopped.set()
            self._owner.note_left(self)

    async def wait_stopped(self) -> None:
        await self._stopped.wait()

    def roots(self) -> list[object]:
        """What it holds hangs on these: its queue, and the coroutines of its task and of those that it has started."""
        return [self.queue, *(task.coro for task in _tasks_from(self._task))]

    def snapshot(self) -> Snapshot:
        return Snapshot(
            name=self.name,
            state=self.state.value,
            mailbox_count=self.queue.waiting_count,
            mailbox_count_max=self.queue.count_max,
            oldest_age_s=self.queue.oldest_age_s(),
            handled_count=self.queue.handled_count,
            restart_count=self._restart_count,
            quarantined_count=self.queue.quarantined_count,
            last_error=self._last_error,
        )


def _tasks_from(task: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    if task is not None:
        yield task
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from _tasks_from(child)


def sole(group: ExceptionGroup[Exception]) -> Exception:
    """The one error in a group of groups, or the group."""
    error: Exception = group
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def place_of(error: Exception) -> str:
    """Type and place, never the text, which may hold content: "KeyError at rooms.py:57"."""
    kind = type(error).__name__
    if isinstance(error, ExceptionGroup):
        kind += f" of {', '.join(type(one).__name__ for one in error.exceptions)}"
    frames = extract_tb(error.__traceback__)
    return f"{kind} at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else kind
