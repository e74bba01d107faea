"""The people and rooms of one run of the search, and the steps that it may take: each asks the server, then the model.

A step raises AssertionError when the server does what the model does not.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx
import msgspec
import trio

from chatty.app import App
from chatty.ids import RoomId, SendNumber, Seq, UserId
from chatty.wire import chain, frames
from chatty.wire.events import MEGOLM, Action, Committed, Kind, SignedInvitation
from chatty.wire.frames import Encoding
from chatty.wire.limits import send_window
from chatty.wire.rooms import HttpSend
from tests.server.wire_client import SESSION_ID, ciphertext
from tests.server.wire_people import HttpRefused, WireDevice, WireRoom, sign_up
from tests.store.memory_client import MemoryClient
from tests.store.room_model import (
    CONFLICT,
    NOT_A_MEMBER,
    STALE,
    DeviceModel,
    Outcome,
    Refused,
    Request,
    RoomModel,
    Stored,
    Written,
)


@dataclass(kw_only=True, eq=False)
class Person:
    """requests: what was sent under each number."""

    device: WireDevice
    client: MemoryClient
    model: DeviceModel
    requests: dict[int, "Draft"] = field(default_factory=dict)

    @property
    def user(self) -> UserId:
        return self.device.user

    @property
    def is_connected(self) -> bool:
        return self.client.connection is not None

    def make_window(self, count: int) -> None:
        """Settle the oldest, where the next numbers, so many, would else be refused."""
        while self.device.last_n + count >= self.device.low + send_window:
            self.device.settle(self.device.low)


@dataclass(kw_only=True, eq=False)
class Room:
    wire: WireRoom
    model: RoomModel


@dataclass(frozen=True, kw_only=True)
class Draft:
    """One send. low never exceeds n, however far the device has settled."""

    person: Person
    room: Room
    request: Request
    n: int
    low: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """leaf: of an ack. details: of a refusal."""

    outcome: Outcome
    leaf: bytes = b""
    details: dict[str, object] = field(default_factory=dict)


@dataclass(kw_only=True)
class Scene:
    """seen: what the search has met, so that a test can tell a search from a stroll."""

    app: App
    http: httpx.AsyncClient
    nursery: trio.Nursery
    seen: Counter[str]
    people: list[Person] = field(default_factory=list)
    rooms: list[Room] = field(default_factory=list)
    leaves: dict[tuple[RoomId, int], bytes] = field(default_factory=dict)

    # Who is inside ---------------------------------------------------------------------------------------------------

    async def sign_up(self, name: str) -> Person:
        device = await sign_up(self.http, name)
        client = MemoryClient(app=self.app, nursery=self.nursery, device=device, seen=self.seen)
        person = Person(device=device, client=client, model=DeviceModel(device.user))
        self.people.append(person)
        return person

    async def create_room(self, creator: Person) -> Room:
        async def create() -> int:
            made.append(await creator.device.create_room())
            return made[0].epoch

        made: list[WireRoom] = []
        creator.make_window(2)  # the creation and the creator's own join
        await _numbered(creator, create)
        room = Room(wire=made[0], model=RoomModel(id=made[0].id))
        room.model.commit(Written(kind=Kind.CREATE, sender=creator.user), seq=1)
        room.model.commit_join(creator.user, seq=2)
        self.rooms.append(room)
        return room

    async def join(self, joiner: Person, room: Room, *, invited_by: Person) -> None:
        async def invite() -> int:
            invitations.append(await room.wire.invite(invited_by.device, joiner.device))
            return 0

        async def join() -> int:
            committed = await room.wire.change(joiner.device, Action.JOIN, joiner.device, invitation=invitations[0])
            return committed.seq

        invitations: list[SignedInvitation] = []
        await _numbered(invited_by, invite)
        self.seen["rejoin" if room.model.knows(joiner.user) else "join"] += 1
        room.model.commit_join(joiner.user, seq=await _numbered(joiner, join))

    async def remove(self, target: Person, room: Room, *, by: Person) -> None:
        """A leave, by oneself, or a kick."""
        seq = await _numbered(by, _removal(target, room, by))
        room.model.commit_removal(target.user, by=by.user, seq=seq)
        self.seen["removal"] += 1

    async def remove_while_sending(self, target: Person, room: Room, drafts: Sequence[Draft], *, by: Person) -> None:
        """At once: what comes before the removal is stored, what comes after it is refused."""
        seqs: list[int] = []
        answers: list[Answer] = []

        async def remove() -> None:
            seqs.append(await _numbered(by, _removal(target, room, by)))

        async def send() -> None:
            answers.extend(await self._ask(drafts))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(remove)
            nursery.start_soon(send)
        late = NOT_A_MEMBER if target is drafts[0].person else STALE
        before = [(draft, answer) for draft, answer in zip(drafts, answers, strict=True) if answer.outcome != late]
        after = [(draft, answer) for draft, answer in zip(drafts, answers, strict=True) if answer.outcome == late]
        self._note(before)
        room.model.commit_removal(target.user, by=by.user, seq=seqs[0])
        self._note(after)
        self.seen["sent before a removal"] += bool(before)
        self.seen["sent after a removal"] += bool(after)

    # Sending ---------------------------------------------------------------------------------------------------------

    def drafts_before(self, by: Person, writer: Person, room: Room, *, count: int) -> list[Draft]:
        """To be sent beside a change by the same device, perhaps: none of them is at the window's edge."""
        by.make_window(count + 1)
        writer.make_window(count + 1)
        return [self.draft(writer, room) for _ in range(count)]

    def draft(self, person: Person, room: Room, *, n: int | None = None, request: Request | None = None) -> Draft:
        """A new message for the room's epoch under the device's next number, unless another request or number is given."""
        number = person.device.take_n() if n is None else n
        request = request or Request(room=room.model.id, epoch=room.model.epoch, body=ciphertext(8))
        low = min(person.device.low, number)
        return Draft(person=person, room=room, request=request, n=number, low=low)

    async def send(self, *drafts: Draft) -> None:
        """In one frame a person, all at once; each is answered as the model says."""
        people = dict.fromkeys(draft.person for draft in drafts)
        groups = [[draft for draft in drafts if draft.person is person] for person in people]
        answered: list[tuple[Draft, Answer]] = []

        async def ask(group: Sequence[Draft]) -> None:
            answered.extend(zip(group, await self._ask(group), strict=True))

        async with trio.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(ask, group)
        self._note(answered)

    async def _ask(self, drafts: Sequence[Draft]) -> list[Answer]:
        """All of one person: over its socket, or over HTTP while it has none."""
        person = drafts[0].person
        if person.is_connected:
            requests = [_frame(draft, person.client.open.next_id()) for draft in drafts]
            person.client.write(list(requests))
            return [_answer(await person.client.answer(request.id)) for request in requests]
        return [await self.ask_over_http(draft) for draft in drafts]

    async def ask_over_http(self, draft: Draft) -> Answer:
        body = HttpSend(
            low=draft.low,
            epoch=Seq(draft.request.epoch),
            algorithm=MEGOLM,
            session_id=SESSION_ID,
            body=draft.request.body,
        )
        device = draft.person.device
        headers = {
            "Idempotency-Key": str(draft.n),
            "Chatty-Low": str(draft.low),
            "Content-Type": "application/json",
        }
        path = f"/v1/rooms/{draft.request.room}/messages"
        answer = await device.ask("POST", path, content=msgspec.json.encode(body), headers=headers)
        if not answer.is_success:
            refused = HttpRefused(answer)
            return Answer(outcome=Refused(code=refused.code), details=refused.problem)
        committed = msgspec.json.decode(answer.content, type=Committed)
        return Answer(outcome=Stored(seq=committed.seq), leaf=committed.leaf)

    async def send_over_http(self, draft: Draft) -> None:
        self._note([(draft, await self.ask_over_http(draft))])

    def _note(self, answered: Sequence[tuple[Draft, Answer]]) -> None:
        """Hold each answer against the model, then tell the model what was stored: in the order of seq, for n has none."""
        stored: dict[int, Draft] = {}
        for draft, answer in answered:
            person, model = draft.person, draft.person.model
            expected = model.expect(draft.request, draft.room.model, n=draft.n, low=draft.low)
            if expected is None:
                assert isinstance(answer.outcome, Stored), f"refused: {answer}"
                assert answer.outcome.seq not in stored, "one place for two messages"
                stored[answer.outcome.seq] = draft
                self.leaves[draft.request.room, answer.outcome.seq] = answer.leaf
            else:
                assert answer.outcome == expected, f"{answer} is not {expected}"
                _check_details(draft, answer, expected)
            self.seen[answer.outcome.code if isinstance(answer.outcome, Refused) else "stored"] += 1
            self.seen["resent"] += draft.n in model.recorded and expected != CONFLICT
            if model.take(draft.n, draft.low, draft.request, answer.outcome):
                person.requests[draft.n] = draft
            person.requests.setdefault(draft.n, draft)
        for seq, draft in sorted(stored.items()):
            written = Written(kind=Kind.MESSAGE, sender=draft.person.user, body=draft.request.body)
            draft.room.model.commit(written, seq=seq)

    # Reading ---------------------------------------------------------------------------------------------------------

    async def connect(self, person: Person, encoding: Encoding) -> None:
        await person.client.connect(encoding, owed={room.model.id: room.model.end(person.user) for room in self.rooms})

    async def break_off(self, person: Person, encoding: Encoding, frames_count: int) -> None:
        """The connection breaks after the greeting and so many frames; what had come is on the client's disk."""
        await self.connect(person, encoding)
        for _ in range(frames_count):
            if not person.client.open.is_resumed:
                await person.client.read_frame()
        self.seen["broken off" if person.client.open.is_resumed else "broken off amid a resume"] += 1
        await person.client.disconnect()

    async def read_all(self, person: Person) -> None:
        """On whatever connection there is; without one, on a new one."""
        if not person.is_connected:
            await self.connect(person, "msgpack")
        await self.catch_up(person)

    async def catch_up(self, person: Person) -> None:
        """Read until nothing is left; then all that the model shows has come, and nothing that it hides."""
        with trio.fail_after(person.client.wait_timeout_s):
            while any(person.client.cursors.get(one.model.id, 0) < one.model.end(person.user) for one in self.rooms):
                await person.client.read_frame()
            await person.client.ping()
        for room in self.rooms:
            self.check(person, room)

    def check(self, person: Person, room: Room) -> None:
        """What is on the client's disk is what the model shows, up to the client's cursor."""
        client, model = person.client, room.model
        cursor = client.cursors.get(model.id, 0)
        assert cursor <= model.end(person.user), f"{person.user} was given {cursor}, may have {model.end(person.user)}"
        entries = client.entries.get(model.id, {})
        for seq, written in enumerate(model.timeline[:cursor], start=1):
            event = entries.get(seq)
            if not model.is_shown(person.user, seq):
                assert event is None, f"{person.user} was shown {event}"
                continue
            assert event is not None, f"{person.user} was not shown {seq}"
            assert (event.kind, event.sender) == (written.kind, written.sender)
            if event.kind is Kind.MESSAGE:
                assert event.body == written.body
                assert chain.leaf(event) == self.leaves[model.id, seq], "acknowledged as another event"


def _check_details(draft: Draft, answer: Answer, expected: Outcome) -> None:
    """A refusal carries what mends it."""
    model, room = draft.person.model, draft.room.model
    if expected == STALE:
        changed = answer.details["changed"]
        assert isinstance(changed, list)
        users = {one["user"] for one in changed}
        assert answer.details["epoch"] == room.epoch
        assert users == {user for user, seq in room.changed.items() if seq > draft.request.epoch}
    elif "highest_n" in answer.details:
        assert (answer.details["highest_n"], answer.details["low"]) == (model.highest_n, model.low)


def _removal(target: Person, room: Room, by: Person) -> Callable[[], Awaitable[int]]:
    async def remove() -> int:
        action = Action.LEAVE if by is target else Action.KICK
        return (await room.wire.change(by.device, action, target.device)).seq

    return remove


async def _numbered(person: Person, change: Callable[[], Awaitable[int]]) -> int:
    """A durable write that is no send: it takes the device's next number in the same register. Returns its seq."""
    person.make_window(1)
    n = person.device.last_n + 1
    low = min(person.device.unsettled | {n})
    seq = await change()
    person.model.take(n, low, None, Stored(seq=seq))
    return seq


def _frame(draft: Draft, request_id: int) -> frames.Send:
    return frames.Send(
        id=request_id,
        n=SendNumber(draft.n),
        low=SendNumber(draft.low),
        room=draft.request.room,
        epoch=Seq(draft.request.epoch),
        algorithm="m.megolm.v1.aes-sha2",
        session_id=SESSION_ID,
        body=draft.request.body,
    )


def _answer(event: frames.ServerFrame) -> Answer:
    if isinstance(event, frames.Error):
        return Answer(outcome=Refused(code=event.code), details=event.details)
    assert isinstance(event, frames.Ack), event
    return Answer(outcome=Stored(seq=event.seq), leaf=event.leaf)
