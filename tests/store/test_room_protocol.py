"""A search for steps after which the room protocol breaks a promise: Hypothesis drives services, journal, rooms and sessions on
a real PostgreSQL; room_scene.py takes the steps and room_model.py, plain Python, says what must come of each.

Only sockets are missing: clients stand behind the Socket port (memory_client.py) and read when the search lets them, so that
outboxes overflow and connections break amid a resume. Promised: no loss, no double, no hole, gapless seq, the right refusals.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, get_args

import httpx
import msgspec
import pytest
import trio
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from chatty.actors.delivery import Session
from chatty.actors.outbox import Shared
from chatty.app import App, Hooks, open_app
from chatty.errors import BadRequest, MessageIdConflict
from chatty.ids import RoomNumber, Seq
from chatty.services import messages, requests
from chatty.services.streams import RoomPage, StreamSteps
from chatty.telemetry import configure_logging
from chatty.wire.frames import Encoding
from chatty.wire.limits import send_window
from tests.server.app_fixtures import chat_settings
from tests.store.memory_client import MemoryClient
from tests.store.room_scene import Draft, Person, Room, Scene

pytestmark = pytest.mark.usefixtures("logging_as_before")
R = TypeVar("R")
SITUATIONS = {
    "message_id_conflict",
    "send_window_full",
    "device_set_stale",
    "not_a_member",
    "resent",
    "rejoin",
    "gap",
    "lagging",
    "broken off amid a resume",
    "sent before a removal",
    "sent after a removal",
}
outbox_bytes = 6_144  # a client that does not read lags after some twenty messages
_numbers = itertools.count(1)


class World:
    """The application in a Trio loop of its own thread, for as long as a search takes; run() does one step in there."""

    def __init__(self, scene: Scene, token: trio.lowlevel.TrioToken) -> None:
        self.empty_scene = scene
        self.seen = scene.seen
        self.failures: list[BaseException] = []
        self._token = token

    def new_scene(self) -> Scene:
        one = self.empty_scene
        return Scene(app=one.app, http=one.http, nursery=one.nursery, seen=one.seen)

    def run(self, step: Callable[..., Awaitable[R]], *arguments: Any) -> R:
        return trio.from_thread.run(step, *arguments, trio_token=self._token)


@contextmanager
def open_world(database: str, data_dir: Path, *, is_bus_silent: bool) -> Iterator[World]:
    ready: Future[tuple[World, trio.Event]] = Future()
    options = chat_settings(
        data_dir,
        outbox_bytes_max=outbox_bytes,
        frame_bytes_max=outbox_bytes,
        compare_interval_s=0.02,
        limit_registrations_address="1000000 per second",
        limit_registrations_server="1000000 per second",
    )

    async def serve() -> None:
        stop = trio.Event()
        async with (
            open_app(options, address=database, hooks=Hooks(is_bus_silent=is_bus_silent)) as app,
            httpx.AsyncClient(transport=_in_memory(app), base_url="http://in.memory", timeout=20) as http,
            trio.open_nursery() as nursery,
        ):
            scene = Scene(app=app, http=http, nursery=nursery, seen=Counter())
            ready.set_result((World(scene, trio.lowlevel.current_trio_token()), stop))
            await stop.wait()
            nursery.cancel_scope.cancel()

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    configure_logging("error")  # thousands of requests
    thread = threading.Thread(target=run, name="application of the search", daemon=True)
    thread.start()
    try:
        world, stop = ready.result(timeout=60)
        try:
            yield world
        finally:
            world.run(_set, stop)
    finally:
        thread.join(timeout=60)


async def _set(stop: trio.Event) -> None:
    stop.set()


def _in_memory(app: App) -> httpx.ASGITransport:
    asgi: Any = app.asgi  # Quart's scopes are typed more narrowly than httpx's
    return httpx.ASGITransport(asgi)


people = st.integers(0, 2)
others = st.integers(1, 2)  # all but the owner
picks = st.integers(0, 50)
encodings: st.SearchStrategy[Encoding] = st.sampled_from(get_args(Encoding))


class RoomProtocol(RuleBasedStateMachine):
    """Three people, each with one device; one of them owns the rooms. Numbers are indexes, taken modulo what there is."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.scene = self.world.new_scene()
        self.has_failed = False

    @initialize()
    def begin(self) -> None:
        number = next(_numbers)
        for name in ("ann", "bob", "cid"):
            self.do(self.scene.sign_up, f"{name}{number}")
        self.do(self.scene.create_room, self.owner)
        self.join(1, 0)

    def do(self, step: Callable[..., Awaitable[R]], *arguments: Any) -> R:
        try:
            return self.world.run(step, *arguments)
        except BaseException as error:
            self.has_failed = True
            self.world.failures.append(error)
            raise

    @property
    def owner(self) -> Person:
        return self.scene.people[0]

    def room(self, pick: int) -> Room:
        return self.scene.rooms[pick % len(self.scene.rooms)]

    def sent(self, person: Person, pick: int) -> Draft:
        return list(person.requests.values())[pick % len(person.requests)]

    # Who is inside ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.scene.rooms) < 2)
    @rule()
    def create_room(self) -> None:
        self.do(self.scene.create_room, self.owner)

    @rule(joiner=others, pick=picks)
    def join(self, joiner: int, pick: int) -> None:
        person, room = self.scene.people[joiner], self.room(pick)
        if not room.model.is_inside(person.user):
            self.do(partial(self.scene.join, person, room, invited_by=self.owner))

    @rule(leaver=others, pick=picks, is_kick=st.booleans())
    def remove_amid_talk(self, leaver: int, pick: int, is_kick: bool) -> None:
        """The room is awake before, and goes on after."""
        person, room = self.scene.people[leaver], self.room(pick)
        if room.model.is_inside(person.user):
            self.send(0, pick, 1)
            self.do(partial(self.scene.remove, person, room, by=self.owner if is_kick else person))
            self.send(0, pick, 1)

    @rule(leaver=others, sender=people, pick=picks, is_kick=st.booleans())
    def remove_while_somebody_sends(self, leaver: int, sender: int, pick: int, is_kick: bool) -> None:
        person, room, writer = self.scene.people[leaver], self.room(pick), self.scene.people[sender]
        if room.model.is_inside(person.user) and room.model.is_inside(writer.user):
            by = self.owner if is_kick else person
            drafts = self.scene.drafts_before(by, writer, room, count=3)
            self.do(partial(self.scene.remove_while_sending, person, room, drafts, by=by))

    # Sending ---------------------------------------------------------------------------------------------------------

    @rule(sender=people, pick=picks, count=st.integers(1, 8))
    def send(self, sender: int, pick: int, count: int) -> None:
        person, room = self.scene.people[sender], self.room(pick)
        self.do(self.scene.send, *[self.scene.draft(person, room) for _ in range(count)])

    @rule(pick=picks)
    def send_together(self, pick: int) -> None:
        self.do(self.scene.send, *[self.scene.draft(one, self.room(pick)) for one in self.scene.people * 2])

    @rule(pick=picks, bursts_count=st.integers(1, 3))
    def fill_the_outboxes_of_those_who_do_not_read(self, pick: int, bursts_count: int) -> None:
        for _ in range(bursts_count):
            self.send(0, pick, 12)

    @rule(sender=people, pick=picks)
    def send_twice_in_one_frame(self, sender: int, pick: int) -> None:
        draft = self.scene.draft(self.scene.people[sender], self.room(pick))
        self.do(self.scene.send, draft, draft)

    @rule(sender=people, pick=picks)
    def send_for_an_older_epoch(self, sender: int, pick: int) -> None:
        person, room = self.scene.people[sender], self.room(pick)
        draft = self.scene.draft(person, room)
        older = room.model.epochs[pick % len(room.model.epochs)]
        self.do(self.scene.send, replace(draft, request=replace(draft.request, epoch=older)))

    @precondition(lambda self: any(one.requests for one in self.scene.people))
    @rule(sender=people, pick=picks, is_http=st.booleans(), is_low_later=st.booleans())
    def resend(self, sender: int, pick: int, is_http: bool, is_low_later: bool) -> None:
        person = self.scene.people[sender]
        if person.requests:
            draft = self.sent(person, pick)
            if is_low_later:
                draft = self.scene.draft(person, draft.room, n=draft.n, request=draft.request)
            self.do(self.scene.send_over_http if is_http else self.scene.send, draft)

    @precondition(lambda self: any(one.requests for one in self.scene.people))
    @rule(sender=people, pick=picks)
    def resend_with_other_bytes(self, sender: int, pick: int) -> None:
        """A conflict; but for an n that nothing was stored under it is just the message encrypted anew."""
        person = self.scene.people[sender]
        if person.requests:
            draft = self.sent(person, pick)
            self.do(self.scene.send, self.scene.draft(person, draft.room, n=draft.n))

    @rule(sender=people, pick=picks, ahead=st.sampled_from([1, 40, send_window - 1, send_window, send_window + 40]))
    def send_far_ahead_of_what_is_settled(self, sender: int, pick: int, ahead: int) -> None:
        person = self.scene.people[sender]
        n = person.device.low + ahead
        self.do(self.scene.send, self.scene.draft(person, self.room(pick), n=n))
        if n in person.model.recorded:
            person.device.unsettled.add(n)
            person.device.last_n = max(person.device.last_n, n)

    @rule(sender=people, count=st.integers(1, 8))
    def settle(self, sender: int, count: int) -> None:
        """The client's disk has these outcomes: its low rises, and the server may forget."""
        device = self.scene.people[sender].device
        for n in sorted(device.unsettled)[:count]:
            device.settle(n)

    # Reading ---------------------------------------------------------------------------------------------------------

    @rule(reader=people, encoding=encodings)
    def connect(self, reader: int, encoding: Encoding) -> None:
        self.do(self.scene.connect, self.scene.people[reader], encoding)

    @rule(reader=people, encoding=encodings, frames_count=st.integers(0, 4))
    def break_off_a_resume(self, reader: int, encoding: Encoding, frames_count: int) -> None:
        self.do(self.scene.break_off, self.scene.people[reader], encoding, frames_count)

    @rule(reader=people)
    def disconnect(self, reader: int) -> None:
        self.do(self.scene.people[reader].client.disconnect)

    @rule(reader=people)
    def catch_up(self, reader: int) -> None:
        if self.scene.people[reader].is_connected:
            self.do(self.scene.catch_up, self.scene.people[reader])

    def teardown(self) -> None:
        """In the end everybody reads everything."""
        try:
            for person in [] if self.has_failed else self.scene.people:
                self.do(self.scene.read_all, person)
        finally:
            for person in self.scene.people:
                self.do(person.client.disconnect)


def search(world: World, *, examples_count: int, phases: list[Phase] | None = None) -> None:
    """Raises the AssertionError of the shortest sequence of steps that breaks a promise."""
    options = settings(
        max_examples=examples_count,
        stateful_step_count=25,
        deadline=None,
        database=None,
        phases=phases or [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    in_world = type("RoomProtocol", (RoomProtocol,), {"world": world})
    run_state_machine_as_test(in_world, settings=options)


@pytest.mark.long
@pytest.mark.parametrize("is_bus_silent", [False, True], ids=["bus", "silent bus"])
def test_no_sequence_of_steps_loses_doubles_or_leaks_a_message(
    database: str, tmp_path: Path, counts: Callable[[int, int], int], is_bus_silent: bool
) -> None:
    with open_world(database, tmp_path, is_bus_silent=is_bus_silent) as world:
        search(world, examples_count=counts(8, 150))
        print(dict(world.seen))
        assert len(SITUATIONS & world.seen.keys()) >= counts(4, len(SITUATIONS)), "the search met too little"


# A server that breaks a promise -------------------------------------------------------------------------------------

BreakIt = Callable[[pytest.MonkeyPatch], None]


def forget_what_was_recorded(patch: pytest.MonkeyPatch) -> None:
    """A resend with other bytes is taken for the first: the register's digest is not looked at."""

    def check_number(row: requests.SendRow, **request: Any) -> bool:
        try:
            return requests.check_number(row, **request)
        except MessageIdConflict:
            return True

    patch.setattr(messages, "check_number", check_number)


def let_the_window_grow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(requests, "send_window", 10 * send_window)


def send_live_over_a_hole(patch: pytest.MonkeyPatch) -> None:
    def offer(session: Session, room: RoomNumber, shared: Shared) -> None:
        cursor = session.rooms.get(room)
        if cursor is not None and shared.last > cursor.sent:
            after = max(cursor.sent, Seq(shared.first - 1))
            if session.outbox.offer(shared.item(session.encoding, after=after)):
                cursor.sent = shared.last

    patch.setattr(Session, "offer", offer)


def send_a_page_twice(patch: pytest.MonkeyPatch) -> None:
    read = StreamSteps.page

    async def page(steps: StreamSteps, caller: Any, room: RoomNumber, *, after: Seq) -> RoomPage:
        return await read(steps, caller, room, after=Seq(max(0, after - 1)))

    patch.setattr(StreamSteps, "page", page)


def lose_the_end_of_a_page(patch: pytest.MonkeyPatch) -> None:
    read = StreamSteps.page

    async def page(steps: StreamSteps, caller: Any, room: RoomNumber, *, after: Seq) -> RoomPage:
        found = await read(steps, caller, room, after=after)
        return replace(found, entries=found.entries[:-1] if len(found.entries) > 3 else found.entries)

    patch.setattr(StreamSteps, "page", page)


def forget_what_was_dropped(patch: pytest.MonkeyPatch) -> None:
    """An outbox overflows, and the session believes that it was all sent."""
    lag = Session._lag

    def lag_without_going_back(session: Session) -> None:
        sent = {room: cursor.sent for room, cursor in session.rooms.items()}
        lag(session)
        for room, seq in sent.items():
            session.rooms[room].sent = seq

    patch.setattr(Session, "_lag", lag_without_going_back)
    patch.setattr(Session, "resync", _resync_without_going_back)


def _resync_without_going_back(session: Session, _cursors: Any, **_more: Any) -> None:
    session.is_lagging = False
    session.note_user_stream()


def keep_the_removed_in_the_fan_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Session, "note_removal", lambda *_: None)


@pytest.mark.parametrize(
    "break_it",
    [
        forget_what_was_recorded,
        let_the_window_grow,
        send_live_over_a_hole,
        send_a_page_twice,
        lose_the_end_of_a_page,
    ],
)
def test_a_broken_server_is_found(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, break_it: BreakIt
) -> None:
    """Each with one rule less. The search that finds nothing in the product finds something in these."""
    monkeypatch.setattr(MemoryClient, "wait_timeout_s", 1.0)
    break_it(monkeypatch)
    with open_world(database, tmp_path, is_bus_silent=False) as world:
        with pytest.raises(Exception):  # noqa: B017, PT011 # a race may not come again when Hypothesis looks twice
            search(world, examples_count=200)
        # A frame that cannot be read is a finding too: what was recorded of a leave, say, given as the answer to a send.
        found = AssertionError, trio.TooSlowError, msgspec.ValidationError, BadRequest
        assert not [one for one in _leaves(world.failures[0]) if not isinstance(one, found)]


def be_removed_amid_talk(machine: RoomProtocol) -> None:
    machine.connect(1, "json")
    machine.send(0, 0, 1)
    machine.catch_up(1)
    machine.remove_amid_talk(1, 0, True)
    machine.catch_up(1)


def lag_and_read_on(machine: RoomProtocol) -> None:
    machine.connect(1, "json")
    machine.catch_up(1)
    machine.fill_the_outboxes_of_those_who_do_not_read(0, 4)
    machine.catch_up(1)


@pytest.mark.parametrize(
    ("break_it", "steps"),
    [
        (forget_what_was_dropped, lag_and_read_on),
        (keep_the_removed_in_the_fan_out, be_removed_amid_talk),
    ],
)
def test_what_the_search_seldom_meets_is_found(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: BreakIt,
    steps: Callable[[RoomProtocol], None],
) -> None:
    """By hand: the same steps hold on a sound server and fail on the broken one."""
    monkeypatch.setattr(MemoryClient, "wait_timeout_s", 1.0)
    with open_world(database, tmp_path, is_bus_silent=False) as world:
        walk(world, steps)
        break_it(monkeypatch)
        with pytest.raises((AssertionError, trio.TooSlowError)):
            walk(world, steps, times=20)  # what should not have been sent may come when the client has already looked


def walk(world: World, steps: Callable[[RoomProtocol], None], *, times: int = 1) -> None:
    for _ in range(times):
        machine: RoomProtocol = type("RoomProtocol", (RoomProtocol,), {"world": world})()
        machine.begin()
        try:
            steps(machine)
        finally:
            machine.teardown()


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _leaves(one)
    else:
        yield error
