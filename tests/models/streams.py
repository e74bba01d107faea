"""Two models of delivery: room streams with their resume, and the device mailbox (docs/protocol.md, Streams).

**Room streams.** Events 1, 2, 3… of one room are committed; a doorbell tells the room's actor, or is lost. The actor
publishes in seq order to registered sessions, fills holes from the store, and may crash: it comes back with the
store's head as what it has `published`, and what was in its hands is gone. One session of one client has
`sent_up_to`, an inbox, a bounded outbox, and reads pages from the store. Its socket may be lost; the client connects
again with its cursor. *What must hold:* the client receives 1, 2, 3… with no hole and no repeat, and when faults stop
it gets all.

- The session drops an event at or below `sent_up_to` (else the client has it twice), and fills from the store before
  one that leaves a hole.
- The session registers first and reads its snapshot afterwards: else what is committed between the two reaches nobody.
- Every 2 s the store's head is compared with each *session's* `sent_up_to`. Compared with the *actor's* `published`, an
  event that the actor lost between commit and delivery stays lost, for a starting actor believes it published.
- Registrations live beside the actor, or die with it: with the comparison against sessions both hold, later.
- A starting actor tells its head to all registered sessions: this mends at once what the comparison mends late.
- From `lagging` on, the session drops events until the client's resync, whose cursor sets `sent_up_to`. If dropping
  moves `sent_up_to` as if the event had been sent, the client never gets it, or gets the next one after a hole.

**Device mailbox.** Rows get their ids before their commit, which come in any order. A device has two sockets, of which
the second supersedes the first; frames and acknowledgements may still be on their way on either.
*What must hold:* no row is deleted that is not on the client's disk, and when faults stop every row is there.

- A connection is given every row not yet given on it: a cursor skips a row committed late under a smaller id.
- The client acknowledges exact ids: "up to" deletes a row unseen. It acknowledges after its store is on disk.
- The 2-second comparison asks for a row that was not given: the largest id says nothing about a smaller one.

Not modelled: paging, limits in bytes, several rooms in one resume, gaps of what a member may not see.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from .checker import Model, Step, with_item

Seq: TypeAlias = int
RowId: TypeAlias = int
Stage: TypeAlias = Literal["connected", "half resumed", "filling", "live", "lagging"]

LAGGING: Seq = 0  # the frame `lagging` among the events of an outbox, whose seqs begin at 1
SOCKET_FRAMES_MAX = 3


@dataclass(frozen=True)
class RoomRules:
    """The protocol's rules for room streams; every value but the default drops, weakens or replaces a rule."""

    resume: Literal["register, snapshot", "snapshot, register"] = "register, snapshot"
    compares: Literal["sessions", "actor", "nothing"] = "sessions"
    registrations_outlive_actor: bool = True
    starting_actor_tells_head: bool = True
    dropping_moves_sent: bool = False
    drops_what_was_sent: bool = True
    fills_holes: bool = True


@dataclass(frozen=True)
class RoomWorld:
    events: int = 3
    outbox_max: int = 2
    has_faults: bool = True


class Session(NamedTuple):
    """`page_end` is the last event of the page that was read and not yet sent (0: none)."""

    stage: Stage
    sent_up_to: Seq
    inbox: tuple[Seq, ...] = ()
    outbox: tuple[Seq, ...] = ()
    page_end: Seq = 0


class RoomState(NamedTuple):
    """`received` is what the client has, 1 to here, and so its cursor."""

    head: Seq = 0
    doorbells: frozenset[Seq] = frozenset()
    published: Seq = 0
    is_registered: bool = False
    session: Session | None = None
    received: Seq = 0
    violation: str | None = None

    def published_to(self, seq: Seq) -> "RoomState":
        """The actor hands the events up to `seq` to the session, if that is registered."""
        return self.given(range(self.published + 1, seq + 1))._replace(published=max(self.published, seq))

    def given(self, events: Iterable[Seq]) -> "RoomState":
        if self.session is None or not self.is_registered:
            return self
        return self._replace(session=self.session._replace(inbox=(*self.session.inbox, *events)))


RoomSteps: TypeAlias = Iterator[Step[RoomState]]


class RoomStream(Model[RoomState]):
    """One room, one session, one client."""

    def __init__(self, world: RoomWorld, rules: RoomRules) -> None:
        self.world = world
        self.rules = rules

    def initial(self) -> RoomState:
        return RoomState()

    def broken(self, state: RoomState) -> str | None:
        return state.violation

    def is_settled(self, state: RoomState) -> bool:
        session = state.session
        if session is None or session.stage != "live" or session.inbox or session.outbox:
            return False
        return state.received == state.head == self.world.events and not state.doorbells

    def steps(self, state: RoomState) -> RoomSteps:
        yield from self._store_steps(state)
        yield from self._actor_steps(state)
        yield from self._comparison_steps(state)
        if state.session is None:
            connected = state._replace(session=Session("connected", state.received), is_registered=False)
            yield Step(f"client: connects with cursor {state.received}", False, connected)
        else:
            if self.world.has_faults:
                yield Step("socket: is lost", True, state._replace(session=None, is_registered=False))
            yield from self._session_steps(state, state.session)
            yield from self._client_steps(state, state.session)

    def _store_steps(self, state: RoomState) -> RoomSteps:
        seq = state.head + 1
        if seq <= self.world.events:
            committed = state._replace(head=seq)
            rung = committed._replace(doorbells=state.doorbells | {seq})
            yield Step(f"store: commits {seq}, a doorbell is on its way", False, rung)
            if self.world.has_faults:
                yield Step(f"store: commits {seq}, the doorbell is lost", True, committed)

    def _actor_steps(self, state: RoomState) -> RoomSteps:
        """Doorbells come in any order; what is missing below is filled from the store."""
        for seq in state.doorbells:
            told = state.published_to(seq)._replace(doorbells=state.doorbells - {seq})
            yield Step(f"actor: hears of {seq}, publishes up to {told.published}", False, told)
        if self.world.has_faults and (state.doorbells or state.published < state.head):
            kept = state.is_registered and self.rules.registrations_outlive_actor
            started = state._replace(doorbells=frozenset(), published=state.head, is_registered=kept)
            told = started.given((state.head,)) if self.rules.starting_actor_tells_head else started
            yield Step(f"actor: crashes, starts with published={state.head}", True, told)

    def _comparison_steps(self, state: RoomState) -> RoomSteps:
        if self.rules.compares == "actor" and state.published < state.head:
            label = f"comparison: the actor has {state.published}, the store {state.head}"
            yield Step(label, False, state.published_to(state.head))
        session = state.session
        if self.rules.compares != "sessions" or session is None or session.stage != "live" or session.inbox:
            return
        if session.sent_up_to < state.head:
            label = f"comparison: the session has sent {session.sent_up_to}, the store has {state.head}"
            yield Step(label, False, state._replace(session=_filling(session, state.head)))

    def _session_steps(self, state: RoomState, session: Session) -> RoomSteps:
        if session.stage in ("connected", "half resumed"):
            yield self._resumes(state, session)
        elif session.stage == "filling":
            page = range(session.sent_up_to + 1, session.page_end + 1)
            sent_up_to = max(session.sent_up_to, session.page_end)
            sent = session._replace(stage="live", sent_up_to=sent_up_to, outbox=(*session.outbox, *page), page_end=0)
            yield Step(f"session: sends the page {list(page)}", False, state._replace(session=sent))
        elif session.inbox:
            label, following = self._takes(state, session)
            yield Step(f"session: {label}", False, state._replace(session=following))

    def _resumes(self, state: RoomState, session: Session) -> Step[RoomState]:
        is_first = session.stage == "connected"
        following = session._replace(stage="half resumed" if is_first else "filling")
        if is_first == (self.rules.resume == "register, snapshot"):
            return Step("session: registers at the room", False, state._replace(session=following, is_registered=True))
        read = following._replace(page_end=state.head)
        return Step(f"session: reads its snapshot up to {state.head}", False, state._replace(session=read))

    def _takes(self, state: RoomState, session: Session) -> tuple[str, Session]:
        """The next live event: sent, dropped, or the reason for a fill or for `lagging`."""
        seq, waiting = session.inbox[0], session.inbox[1:]
        taken = session._replace(inbox=waiting)
        if session.stage == "lagging":
            return f"is lagging, drops {seq}", taken
        if seq <= session.sent_up_to and self.rules.drops_what_was_sent:
            return f"drops {seq}, sent before", taken
        if len(session.outbox) >= self.world.outbox_max:
            sent_up_to = seq if self.rules.dropping_moves_sent else session.sent_up_to
            lagging = taken._replace(stage="lagging", sent_up_to=sent_up_to, outbox=(*session.outbox, LAGGING))
            return f"has no room for {seq}, tells lagging", lagging
        if seq <= session.sent_up_to + 1 or not self.rules.fills_holes:
            sent_up_to = max(seq, session.sent_up_to)
            return f"sends {seq}", taken._replace(sent_up_to=sent_up_to, outbox=(*session.outbox, seq))
        return f"sees a hole before {seq}, fills up to {state.head}", _filling(taken, state.head)

    def _client_steps(self, state: RoomState, session: Session) -> RoomSteps:
        if not session.outbox:
            return
        seq, rest = session.outbox[0], session._replace(outbox=session.outbox[1:])
        if seq == LAGGING:
            yield self._resyncs(state, rest)
            return
        received = state._replace(session=rest, received=seq)
        if seq != state.received + 1:
            kind = "hole" if seq > state.received else "repeat"
            received = received._replace(violation=f"a {kind}: the client has 1 to {state.received} and receives {seq}")
        yield Step(f"client: receives {seq}", False, received)

    def _resyncs(self, state: RoomState, session: Session) -> Step[RoomState]:
        """The cursor of the client sets `sent_up_to`; where the rule is dropped, the session believes its own."""
        label = f"client: is told lagging, resyncs from {state.received}"
        if self.rules.dropping_moves_sent:
            return Step(label, False, state._replace(session=session._replace(stage="live")))
        following = _filling(session, state.head)._replace(sent_up_to=state.received)
        return Step(label, False, state._replace(session=following))


def _filling(session: Session, page_end: Seq) -> Session:
    return session._replace(stage="filling", page_end=page_end)


@dataclass(frozen=True)
class MailboxRules:
    """The protocol's rules for the device mailbox; every value but the default drops a rule."""

    gives: Literal["what was not given", "above the last given"] = "what was not given"
    deletes: Literal["exact ids", "up to the id"] = "exact ids"
    acks: Literal["after the disk", "on receipt"] = "after the disk"
    compares: Literal["what was not given", "the largest id"] = "what was not given"


class Socket(NamedTuple):
    """`is_told`: a doorbell or the comparison said that there is something to give."""

    is_told: bool = True
    given: frozenset[RowId] = frozenset()
    frames: tuple[RowId, ...] = ()
    acks: tuple[RowId, ...] = ()


class MailboxState(NamedTuple):
    rows: frozenset[RowId] = frozenset()
    committed: frozenset[RowId] = frozenset()
    sockets: tuple[Socket | None, ...] = (None, None)
    in_memory: frozenset[RowId] = frozenset()
    on_disk: frozenset[RowId] = frozenset()
    violation: str | None = None

    def with_socket(self, index: int, socket: Socket | None) -> "MailboxState":
        return self._replace(sockets=with_item(self.sockets, index, socket))


MailboxSteps: TypeAlias = Iterator[Step[MailboxState]]


class Mailbox(Model[MailboxState]):
    """The rows of one device and its two sockets."""

    def __init__(self, row_count: int, rules: MailboxRules) -> None:
        self.row_ids = frozenset(range(1, row_count + 1))
        self.rules = rules

    def initial(self) -> MailboxState:
        return MailboxState()

    def broken(self, state: MailboxState) -> str | None:
        return state.violation

    def is_settled(self, state: MailboxState) -> bool:
        return state.committed == self.row_ids == state.on_disk and not state.rows

    def steps(self, state: MailboxState) -> MailboxSteps:
        yield from self._sender_steps(state)
        for index, socket in enumerate(state.sockets):
            if socket is not None:
                yield from self._socket_steps(state, index, socket)
            elif index == 1 or state.sockets[1] is None:
                yield Step(f"client: connects socket {index}", False, state.with_socket(index, Socket()))
        if state.in_memory != state.on_disk:
            yield Step("client: its store reaches the disk", False, state._replace(on_disk=state.in_memory))
        if state.in_memory != state.on_disk or any(state.sockets):
            crashed = state._replace(sockets=(None, None), in_memory=state.on_disk)
            yield Step("client: crashes", True, crashed)

    def _sender_steps(self, state: MailboxState) -> MailboxSteps:
        for row in sorted(self.row_ids - state.committed):
            committed = state._replace(rows=state.rows | {row}, committed=state.committed | {row})
            sockets = tuple(socket and socket._replace(is_told=True) for socket in state.sockets)
            yield Step(f"sender: commits row {row}", False, committed._replace(sockets=sockets))
            yield Step(f"sender: commits row {row}, the doorbell is lost", True, committed)

    def _socket_steps(self, state: MailboxState, index: int, socket: Socket) -> MailboxSteps:
        name = f"socket {index}"
        yield Step(f"{name}: is lost", True, state.with_socket(index, None))
        if socket.is_told and len(socket.frames) < SOCKET_FRAMES_MAX:
            fresh = self._to_give(state, socket)
            given = socket._replace(is_told=False, given=socket.given.union(fresh), frames=socket.frames + fresh)
            yield Step(f"{name}: gives {list(fresh)}", False, state.with_socket(index, given))
        if not socket.is_told and self._comparison_finds(state, socket):
            told = socket._replace(is_told=True)
            yield Step(f"{name}: the comparison finds something", False, state.with_socket(index, told))
        if socket.frames:
            row = socket.frames[0]
            read = socket._replace(frames=socket.frames[1:], acks=(*socket.acks, row))
            received = state.with_socket(index, read)._replace(in_memory=state.in_memory | {row})
            yield Step(f"client: receives row {row} on {name}", False, received)
        if socket.acks and (self.rules.acks == "on receipt" or socket.acks[0] in state.on_disk):
            yield self._deletes(state, index, socket)

    def _to_give(self, state: MailboxState, socket: Socket) -> tuple[RowId, ...]:
        if self.rules.gives == "what was not given":
            return tuple(sorted(state.rows - socket.given))
        cursor = max(socket.given, default=0)
        return tuple(sorted(row for row in state.rows if row > cursor))

    def _comparison_finds(self, state: MailboxState, socket: Socket) -> bool:
        if self.rules.compares == "what was not given":
            return not state.rows <= socket.given
        return max(state.rows, default=0) > max(socket.given, default=0)

    def _deletes(self, state: MailboxState, index: int, socket: Socket) -> Step[MailboxState]:
        acked = socket.acks[0]
        up_to = frozenset(row for row in state.rows if row <= acked)
        gone = up_to if self.rules.deletes == "up to the id" else frozenset((acked,)) & state.rows
        after = state.with_socket(index, socket._replace(acks=socket.acks[1:]))._replace(rows=state.rows - gone)
        if gone - state.on_disk:
            after = after._replace(violation=f"row {min(gone - state.on_disk)} is deleted and not on the client's disk")
        return Step(f"server: deletes {sorted(gone)} for the ack of {acked}", False, after)
