"""Every WebSocket from its opening on, each served by an actor."""

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
from chatty.errors import ChattyError, OutcomeUnknown, Overloaded, RateLimited
from chatty.services.audit import Origin, set_origin
from chatty.services.limits import Asker, subject_of_address


class OpenSockets:
    """All sockets from their opening on; each takes a place, before its hello too."""

    def __init__(self, branch: Supervisor, parts: SessionParts, *, count_max: int) -> None:
        self._branch = branch
        self._parts = parts
        self._places = trio.CapacityLimiter(count_max)
        self._refs: set[ActorRef[End]] = set()
        self._end: End | None = None
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
        if self._end is not None:
            _tell_end(ref, self._end)
        try:
            await ref.wait_stopped()
        finally:
            self._refs.remove(ref)
        if has_crashed:
            await close_with(socket_, self._parts, OutcomeUnknown("this session crashed; connect again"))

    def end_all(self, error: ChattyError) -> None:
        """Those that are open, and those that will be."""
        self._end = End(error)
        for ref in self._refs:
            _tell_end(ref, self._end)

    async def wait_none(self) -> None:
        """Until every one has been told and closed."""
        while self._places.borrowed_tokens:
            await self._left.wait()


def _tell_end(ref: ActorRef[End], end: End) -> None:
    with suppress(ActorError):  # it ends already, or was told so often that it cannot hear
        ref.tell(end)
