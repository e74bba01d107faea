"""What was told to an actor and is not handled yet: three places, one order.

    in hand  ─  taken by the run that is going on; done when it asks for the next message, or returns
    returned ─  were in hand at a crash; come back before all others, one at a time, once
    channel  ─  a Trio memory channel with the actor's bound; `tell` is its send_nowait

`_told_at` has the time of each message, in exactly this order, so the oldest is always at its head.
Invariant: len(_told_at) == len(in hand) + len(returned) + len(channel).

Each message is delivered at most twice: the second time alone; if the actor crashes again, that message is the
culprit and goes into quarantine. An ask that was answered is done, wherever it lies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Generic, TypeVar

import trio

from chatty.actors.runtime.asks import Ask

M = TypeVar("M")


class Queue(Generic[M]):
    """The three places, shared by the actor's Mailbox, its ActorRef and the supervisor; outlives restarts."""

    def __init__(self, count_max: int) -> None:
        self.count_max = count_max
        self.handled_count = 0
        self.quarantined_count = 0
        self.has_ended = False  # the iteration of this run is over: idle or drained
        self.idle_since_s: float | None = None
        self._now: Callable[[], float] = trio.lowlevel.current_clock().current_time
        self._told_at: deque[float] = deque()
        self._in_hand: list[M] = []
        self._returned: deque[M] = deque()
        self._is_redelivery = False
        self._wait_scope: trio.CancelScope | None = None
        self.open()
        self.close(RuntimeError("never open"))

    def open(self) -> None:
        """Take messages. Closed at first, and while the actor is passive: nobody's channel is left open."""
        self._send, self._receive = trio.open_memory_channel[M](self.count_max)
        self._send_nowait = self._send.send_nowait

    def put(self, message: M) -> None:
        """Raises trio.WouldBlock at the bound, trio.ClosedResourceError when passive, draining or stopped."""
        self._send_nowait(message)
        self._told_at.append(self._now())

    @property
    def waiting_count(self) -> int:
        return len(self._told_at) - len(self._in_hand)

    @property
    def is_idle(self) -> bool:
        """Whether the actor waits for a message and none is on its way to it."""
        return self.idle_since_s is not None and not self._told_at

    def oldest_age_s(self) -> float:
        return self._now() - self._told_at[0] if self._told_at else 0.0

    def next_number(self) -> int:
        """The number, from 1, of the oldest message that is not done: how a log names it without its content."""
        return self.handled_count + self.quarantined_count + 1

    async def next(self, idle_timeout_s: float | None) -> M:
        """The next message, in hand from now on. Raises StopAsyncIteration when idle for so long, or drained.

        Cancelled: no message is taken.
        """
        self.finish()
        if self.has_ended:
            raise StopAsyncIteration
        if self._returned:
            await trio.lowlevel.checkpoint()
            message = self._returned.popleft()
            self._is_redelivery = True
        elif self._told_at:
            message = await self._receive.receive()
        else:
            message = await self._wait(idle_timeout_s)
        self._in_hand.append(message)
        return message

    async def _wait(self, idle_timeout_s: float | None) -> M:
        self.idle_since_s = self._now()
        deadline = float("inf") if idle_timeout_s is None else trio.current_time() + idle_timeout_s
        try:
            with trio.CancelScope(deadline=deadline) as self._wait_scope:
                return await self._receive.receive()
        except trio.EndOfChannel:
            pass
        finally:
            self.idle_since_s = self._wait_scope = None
        self.has_ended = True
        raise StopAsyncIteration

    def take_queued(self, count_max: int) -> Sequence[M]:
        """Up to count_max more messages into the hand; none while returned ones come back one at a time."""
        batch: list[M] = []
        if self._is_redelivery or self._returned:
            return batch
        receive_nowait = self._receive.receive_nowait
        try:
            for _ in range(count_max):
                batch.append(receive_nowait())  # noqa: PERF401, what came before WouldBlock is kept
        except (trio.WouldBlock, trio.EndOfChannel):
            pass
        self._in_hand += batch
        return batch

    def finish(self) -> None:
        """Those in hand are done."""
        if self._in_hand:
            self.handled_count += len(self._in_hand)
            for _ in self._in_hand:
                self._told_at.popleft()
            self._in_hand.clear()
            self._is_redelivery = False

    def put_back(self) -> None:
        """Return those in hand to the front, except asks that were answered: they are done."""
        told_at = [self._told_at.popleft() for _ in self._in_hand]
        is_done = [isinstance(message, Ask) and message.is_answered for message in self._in_hand]
        open_ones = [index for index, done in enumerate(is_done) if not done]
        self._returned.extendleft(self._in_hand[index] for index in reversed(open_ones))
        self._told_at.extendleft(told_at[index] for index in reversed(open_ones))
        self.handled_count += len(told_at) - len(open_ones)
        self._in_hand.clear()
        self._is_redelivery = False

    def take_culprit(self) -> M | None:
        """After a crash: the message that was in hand alone, for the second time, removed for ever."""
        if not self._is_redelivery:
            return None
        self._is_redelivery = False
        culprit = self._in_hand.pop()
        self._told_at.popleft()
        self.quarantined_count += 1
        return culprit

    def end_wait(self) -> None:
        """End the iteration of an actor that is idle, as its idle timeout would."""
        if self._wait_scope is not None:
            self._wait_scope.cancel()

    def end(self) -> None:
        """Take no more messages; the iteration ends after those that are here."""
        self._send.close()

    def refuse_returned(self, error: Exception) -> None:
        """Give up on those that were in hand, and tell their askers."""
        while self._returned:
            self._told_at.popleft()
            _refuse(self._returned.popleft(), error)

    def close(self, error: Exception) -> int:
        """Take no more messages, drop all that are here and tell their askers. Returns how many were dropped."""
        self._send.close()
        self.put_back()
        dropped = [*self._returned, *self.take_all()]
        self._receive.close()
        self._returned.clear()
        self._told_at.clear()
        for message in dropped:
            _refuse(message, error)
        return len(dropped)

    def take_all(self) -> list[M]:
        taken: list[M] = []
        try:
            while True:
                taken.append(self._receive.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
            return taken


def _refuse(message: object, error: Exception) -> None:
    if isinstance(message, Ask):
        request: Ask[Any] = message
        request.refuse(error)


class Mailbox(Generic[M]):
    """The actor's end: what its `run` is called with. One task reads it. Outlives a restart."""

    def __init__(self, queue: Queue[M], *, idle_timeout_s: float | None, on_ready: Callable[[], None]) -> None:
        self._queue = queue
        self._idle_timeout_s = idle_timeout_s
        self._on_ready = on_ready

    def ready(self) -> None:
        """The state is loaded: whoever waits in `start` or `get` goes on. As `task_status.started()`."""
        self._on_ready()

    def __aiter__(self) -> AsyncIterator[M]:
        """Messages in the order told. Asking for the next says that all in hand are done.

        Ends when the actor drains and has handled what was queued, or has been idle for its idle_timeout_s.
        Cancelled: no message is lost; those in hand stay in hand.
        """
        return self

    async def __anext__(self) -> M:
        return await self._queue.next(self._idle_timeout_s)

    def take_queued(self, count_max: int) -> Sequence[M]:
        """Up to count_max of the messages that wait, for a batch with the one in hand. No checkpoint.

        After a crash it gives none until all that were in hand have come back, one at a time.
        """
        return self._queue.take_queued(count_max)
