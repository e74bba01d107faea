"""How one actor, or anyone else in the same Trio run, talks to another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, cast

import trio

from chatty.actors.runtime.asks import Ask
from chatty.actors.runtime.errors import ActorError, AskTimeout, MailboxFull
from chatty.actors.runtime.mailbox import Queue

M = TypeVar("M")
R = TypeVar("R")


class Told(Protocol):
    """What a ref needs of its actor beyond the queue; all of it off the hot path of `tell`."""

    @property
    def name(self) -> str: ...
    @property
    def check_ask(self) -> Callable[[], None] | None: ...
    def wake(self) -> None: ...
    async def wait_stopped(self) -> None: ...


class ActorRef(Generic[M]):
    """One for the actor's life: restarts, passivation and its supervisor's restarts included."""

    __slots__ = ("__weakref__", "_actor", "_queue")

    def __init__(self, actor: Told, queue: Queue[M]) -> None:
        self._actor = actor
        self._queue = queue

    @property
    def name(self) -> str:
        return self._actor.name

    def __repr__(self) -> str:
        return f"<ActorRef {self.name}>"

    def tell(self, message: M) -> None:
        """Queue the message; wake the actor if it was passivated. Never waits: no checkpoint.

        Raises: MailboxFull at the actor's bound; ActorStopped when it drains, has stopped, or its supervisor is down.
        """
        try:
            self._queue.put(message)
        except trio.WouldBlock:
            raise MailboxFull(self.name) from None
        except trio.ClosedResourceError:
            self._actor.wake()
            self._queue.put(message)

    async def ask(self, request: Ask[R], *, timeout_s: float) -> R:
        """Tell it and wait for the answer.

        Raises: what `refuse()` gave; AskTimeout; ActorCrashed when the request crashed the actor and went into
        quarantine; MailboxFull and ActorStopped, also when the actor stops before it answers.
        Cancelled, AskTimeout: the request may still take effect; its answer is dropped.
        """
        if self._actor.check_ask is not None:
            self._actor.check_ask()
        answered = request.expect()
        try:
            self.tell(cast("M", request))
        except ActorError:
            request.forget_asker()
            raise
        with trio.move_on_after(timeout_s):
            await answered.wait()
        if not answered.is_set():
            raise AskTimeout(self.name, f"waited {timeout_s} s")
        return request.result()

    async def wait_stopped(self) -> None:
        """Return when it has stopped for good; passivation and restarts do not count."""
        await self._actor.wait_stopped()
