"""Every WebSocket from its opening on, each served by an actor."""

import random
import secrets
from contextlib import suppress

import trio

from chatty.actors.runtime import (
    ActorError,
    ActorRef,
    ActorSpec,
    Mailbox,
    Restart,
    Supervisor,
)
from chatty.actors.session_parts import SessionParts
from chatty.actors.sessions import End, Socket, close_with, session_actor
from chatty.errors import OutcomeUnknown, Overloaded, RateLimited, ShuttingDown
from chatty.services.audit import Origin, set_origin
from chatty.services.limits import Asker, subject_of_address


class OpenSockets:
    """All sockets from their opening on; each takes a place, before its hello too.

    reconnects_per_s: how many a drain asks to come back in one second.
    """

    def __init__(self, branch: Supervisor, parts: SessionParts, *, count_max: int, reconnects_per_s: int) -> None:
        self._branch = branch
        self._parts = parts
        self._places = trio.CapacityLimiter(count_max)
        self._refs: set[ActorRef[End]] = set()
        self._reconnects_per_s = reconnects_per_s
        self._is_draining = False
        self._spread_s = 0.0
        self._left = trio.Event()

    async def serve(self, socket_: Socket) -> None:
        """One session, until it has ended."""
        try:
            asker = Asker(what="websocket", address=socket_.address)
            self._parts.asking.take("sockets_address", subject_of_address(socket_.address), asker)
        except RateLimited as error:
            await close_with(socket_, self._parts, error)
            return
        try:
            self._places.acquire_on_behalf_of_nowait(socket_)
        except trio.WouldBlock:
            await close_with(socket_, self._parts, Overloaded(limiter="sessions_max", retry_after_s=5.0))
            return
        try:
            await self._live(socket_)
        finally:
            self._places.release_on_behalf_of(socket_)
            self._left.set()
            self._left = trio.Event()

    async def _live(self, socket_: Socket) -> None:
        has_crashed = True

        async def run(inbox: Mailbox[End]) -> None:
            nonlocal has_crashed
            set_origin(Origin(address=socket_.address))
            await session_actor(inbox, socket_, self._parts)
            has_crashed = False

        name = f"session {secrets.token_urlsafe(6)}"
        spec = ActorSpec(name=name, run=run, mailbox_count_max=8, restart=Restart.TEMPORARY)
        ref = await self._branch.start(spec)
        self._refs.add(ref)
        if self._is_draining:
            self._send_away(ref)
        try:
            await ref.wait_stopped()
        finally:
            self._refs.remove(ref)
        if has_crashed:
            await close_with(socket_, self._parts, OutcomeUnknown("this session crashed; connect again"))

    def drain(self) -> None:
        """End those that are open, and those that will be; each is told another time to come back, the more the later."""
        self._is_draining = True
        self._spread_s = len(self._refs) / self._reconnects_per_s
        for ref in self._refs:
            self._send_away(ref)

    def _send_away(self, ref: ActorRef[End]) -> None:
        """When: at random, for those of all nodes may come to one."""
        wait_s = round(1.0 + random.random() * self._spread_s, 3)  # noqa: S311 # no secret
        with suppress(ActorError):  # it ends already, or was told so often that it cannot hear
            ref.tell(End(ShuttingDown("the server is stopping", retry_after_s=wait_s)))

    async def wait_none(self) -> None:
        """Until every one has been told and closed."""
        while self._places.borrowed_tokens:
            await self._left.wait()
