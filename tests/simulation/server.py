"""One server process of the simulation: the product's actors over the doubled store, put together as app/tree.py does.

What is not here: notices' own loops, revocations, the janitor, HTTP itself. Killed: all actors are cancelled, nothing is drained,
and the lines are cut before, so that nobody hears a last word.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import trio

from chatty.actors.bus import LocalBus
from chatty.actors.directory import Directory
from chatty.actors.journal import Entry, JournalParts, blocking_journal_actor, journal_actor
from chatty.actors.presence import PresenceBook
from chatty.actors.receipts import ReadCursorWriter
from chatty.actors.rooms import RoomActors, RoomParts
from chatty.actors.runtime import (
    ActorError,
    ActorSpec,
    Intensity,
    Mailbox,
    Restart,
    Supervisor,
    SupervisorFailed,
    open_supervisor,
)
from chatty.actors.session_parts import SessionLimits, SessionParts
from chatty.actors.sessions import End, close_with, session_actor
from chatty.actors.typing_notices import TypingNotices
from chatty.actors.watch import compare_actor, deadline_actor
from chatty.app.routes import append_over_http
from chatty.errors import ChattyError, OutcomeUnknown, Unauthenticated
from chatty.ids import Seq
from chatty.services.caller import Caller
from chatty.services.checkpoints import Checkpoints
from chatty.services.limits import unlimited
from chatty.services.mailbox import MailboxSteps
from chatty.services.messages import Draft
from chatty.services.permissions import Policy
from chatty.services.preferences import PreferenceSteps
from chatty.services.receipts import ReceiptSteps
from chatty.services.rooms import RoomSteps
from chatty.services.streams import StreamSteps
from chatty.telemetry import Metrics
from chatty.testing.doorbells import FaultyDoorbells
from chatty.testing.journal import MemoryJournal
from chatty.testing.transactions import MemoryStore
from chatty.testing.units import MemoryUnitOfWork
from chatty.web.problems import error_frame
from chatty.wire import frames
from chatty.wire.events import Committed
from tests.simulation.chance import Chance
from tests.simulation.network import Line
from tests.simulation.place import SERVER_NAME, Unsigned, make_quotas, now_ms
from tests.simulation.weather import Crashes, MadeCrash

R = TypeVar("R")
intensity = Intensity(restart_count_max=20, within_s=10.0, backoff_s_max=0.25)
append_timeout_s = 4.0
METRICS = Metrics()


class Gone(Exception):
    """The server, or the connection to it, went before it had answered."""


class Server:
    """`run()` is its life; kill() ends it."""

    def __init__(self, chance: Chance, store: MemoryStore, callers: dict[str, Caller]) -> None:
        self._chance = chance
        self._callers = callers
        self._units = MemoryUnitOfWork(store)
        self._journal = MemoryJournal(store, clock=now_ms)
        self._directory = Directory()
        self._streams = StreamSteps(self._units)
        self._lines: dict[Line, None] = {}
        self._scope = trio.CancelScope()
        self.is_up = False

    async def run(self) -> None:
        """Until it is killed, or its tree has given up."""
        try:
            with self._scope:
                async with (
                    trio.open_nursery() as self._nursery,
                    open_supervisor("chatty", intensity=intensity, check_asks=True) as root,
                ):
                    await self._start(root)
                    self.is_up = True
                    await trio.sleep_forever()
        except* SupervisorFailed:
            pass
        finally:
            self.is_up = False
            self._cut_lines()

    def kill(self) -> None:
        self.is_up = False
        self._cut_lines()
        self._scope.cancel()

    def _cut_lines(self) -> None:
        for line in self._lines:
            line.cut(server_learns_after_s=0)

    # The tree --------------------------------------------------------------------------------------------------------

    async def _start(self, root: Supervisor) -> None:
        branch = await root.start_supervisor("journal", intensity=intensity)
        crashes = Crashes(self._chance)
        journal_parts = JournalParts(journal=self._journal, metrics=METRICS, crash_points=crashes, batch_max=8)

        async def run_blocking(inbox: Mailbox[Entry]) -> None:
            await blocking_journal_actor(inbox, journal_parts)

        blocking = await branch.start(ActorSpec(name="blocking", run=run_blocking, mailbox_count_max=64))

        async def run_journal(inbox: Mailbox[Entry]) -> None:
            await journal_actor(inbox, journal_parts, blocking)

        journal = await branch.start(ActorSpec(name="group", run=run_journal, mailbox_count_max=64))
        self._rooms = RoomActors(
            RoomParts(
                journal=journal,
                streams=self._streams,
                directory=self._directory,
                crash_points=crashes,
                idle_timeout_s=self._chance.faults.room_idle_timeout_s,
            )
        )
        await self._rooms.open(root, live_count_max=8, intensity=intensity)
        self._sessions = await root.start_supervisor("sessions", intensity=intensity)
        await self._start_watch(root)
        self._make_steps()

    async def _start_watch(self, root: Supervisor) -> None:
        branch = await root.start_supervisor("watch", intensity=intensity)
        deadlines = partial(
            deadline_actor,
            directory=self._directory,
            interval_s=0.25,
            clock_s=lambda: now_ms() / 1000,
            is_revoked=lambda _: False,
        )
        compare = partial(compare_actor, directory=self._directory, streams=self._streams, interval_s=2.0)
        await branch.start(ActorSpec[None](name="deadlines", run=deadlines, mailbox_count_max=1))
        await branch.start(ActorSpec[None](name="compare", run=compare, mailbox_count_max=1))

    def _make_steps(self) -> None:
        bells = FaultyDoorbells(LocalBus(self._directory, self._rooms), self._nursery, self._bell_fate)
        receipts = ReceiptSteps(self._units)
        units: Any = self._units  # who changes preferences locks devices too; here they are only read
        self.mailbox = MailboxSteps(unit_of_work=self._units, doorbells=bells)
        self.rooms = RoomSteps(
            self._units,
            doorbells=bells,
            clock=now_ms,
            server_name=SERVER_NAME,
            limits=unlimited(),
            quotas=make_quotas(),
        )
        self._parts = SessionParts(
            directory=self._directory,
            rooms=self._rooms,
            streams=self._streams,
            checkpoints=Checkpoints(
                self._units, signer=Unsigned(), clock=now_ms, server_name=SERVER_NAME, generation=1
            ),
            policy=Policy(),
            quotas=make_quotas(),
            authenticate=self._authenticate,
            make_nonce=lambda: str(self._chance.dice.random()),
            generation=frames.Generation(number=Seq(1), id="first"),
            error_frame=error_frame,
            metrics=METRICS,
            preferences=PreferenceSteps(units, doorbells=bells, clock_ms=now_ms),
            receipts=receipts,
            read_cursors=ReadCursorWriter(self._directory, receipts, interval_s=1.0),
            typing=TypingNotices(self._directory, METRICS),
            presence=PresenceBook(
                self._directory, METRICS, clock_s=lambda: now_ms() / 1000, idle_after_s=300, is_on=True
            ),
            clock_s=lambda: now_ms() / 1000,
            greetings=trio.CapacityLimiter(2),
            limits=SessionLimits(
                outbox_bytes_max=self._chance.faults.outbox_bytes_max,
                outbox_write_timeout_s=5.0,
                frame_bytes_max=self._chance.faults.outbox_bytes_max,
                hello_timeout_s=10.0,
                heartbeat_interval_s=30.0,
                append_timeout_s=append_timeout_s,
            ),
        )

    def _bell_fate(self) -> float | None:
        if self._chance.happens(self._chance.faults.bell_lost):
            return None
        return self._chance.seconds(3.0) if self._chance.happens(self._chance.faults.bell_late) else 0.0

    async def _authenticate(self, token: str, _proof: str, _nonce: str) -> Caller:
        await trio.lowlevel.checkpoint()
        if token not in self._callers:
            raise Unauthenticated("nobody")
        return self._callers[token]

    # What clients reach ----------------------------------------------------------------------------------------------

    def accept(self, line: Line) -> None:
        self._lines[line] = None
        self._nursery.start_soon(self._serve, line)

    async def _serve(self, line: Line) -> None:
        """As app/sockets.py does."""
        has_crashed = True

        async def run(inbox: Mailbox[End]) -> None:
            nonlocal has_crashed
            await session_actor(inbox, line, self._parts)
            has_crashed = False

        try:
            spec = ActorSpec(name="session", run=run, mailbox_count_max=8, restart=Restart.TEMPORARY)
            ref = await self._sessions.start(spec)
            await ref.wait_stopped()
            if has_crashed:
                await close_with(line, self._parts, OutcomeUnknown("this session crashed; connect again"))
        except ActorError:
            pass  # its branch waits for a restart
        finally:
            line.end()
            self._lines.pop(line, None)

    async def ask(self, step: Callable[[], Awaitable[R]]) -> R:
        """A request over HTTP. Raises: what the step does; Gone. Its client may leave in the middle: the step is cancelled."""
        if not self.is_up:
            raise Gone
        outcome: list[R | Exception] = []
        done, scope = trio.Event(), trio.CancelScope()

        async def handle() -> None:
            try:
                with scope:
                    outcome.append(await step())
            except (ChattyError, MadeCrash) as error:
                outcome.append(error)
            finally:
                done.set()

        self._nursery.start_soon(handle)
        if self._chance.happens(self._chance.faults.ask_cancelled):
            scope.deadline = trio.current_time() + self._chance.seconds(0.5)
        with trio.move_on_after(3 * append_timeout_s):
            await done.wait()
        if not outcome or isinstance(outcome[0], MadeCrash):
            raise Gone
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    async def append(self, draft: Draft) -> Committed:
        """As app/routes.py does."""
        return await append_over_http(self._rooms, unlimited(), make_quotas(), draft, timeout_s=append_timeout_s)
