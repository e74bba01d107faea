"""A model of membership: device lists, `devices` events, the epoch and the row locks (docs/protocol.md, Transactions).

*Who acts.* User A sends from device a1 and stays a member; user B has b1 and later b2. There is one room. Every
operation is a transaction at READ COMMITTED, written below as a *script* of statements that run one at a time beside
those of all others: a lock waits until the row is free, a read sees what is committed then, a commit applies its writes
at once and frees the locks. Two workers do the leased job that writes owed `devices` events, for a lease may have two
holders for a while. A's client reads the room, queries keys and sends; the journal commits; a reader of B reads.

*Who must be able to read.* The chain says it: at each epoch the members, each with a list version; `lists` turns B's
version into devices.

*What must hold*, at three strengths. SAFE: no live device of the set is left out in silence, now or for ever; nobody
whom an event removed is included; no dead device's message and no message of another epoch is committed; B reads
nothing from after its kick. STRICT: nothing is encrypted for a device that was dead when the journal read. EQUAL: a
message is encrypted for exactly the chain's set. And no deadlock: everything can end with nothing owed.

*Rules*, and what each prevents (the tests drop them one by one):
- Joins and device changes lock the user's row first, and read afterwards: else a join beside a new device leaves the
  device out while the epoch says "current".
- A kick locks the user, then the room: in the other order it deadlocks with a join.
- The job takes no user's row after a room's: deadlock again.
- The journal reads after its locks: else a message of an old epoch is committed.
- A revocation locks the device's `device_send` row too: else a dead device sends.
- A join event carries the list version read under the user's lock, and the client encrypts only with lists at least as
  new as those that the chain names (or queries all again after it has read the epoch): else a kick and a rejoin hide a
  device that was added in between.
- The job reads version and membership after the room's lock and writes only for members, only a version above the
  member's: else it writes an old version over a new one.
- The journal itself writes the events that are owed to a room which it has locked: without this, STRICT and EQUAL fail.
- A reader's membership and events come from one statement.
- The deletion of B's account ends its devices and notes the rooms to remove it from, under the user's lock; a join looks at
  the account under that lock: else a deleted account stays a member for ever. The removal locks the room alone.

Not modelled: several rooms in a transaction, signatures, limits, real time.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, TypeAlias

from .checker import Model, Step, with_item
from .membership_state import (
    A1,
    B1,
    B2,
    FINISHED,
    Client,
    Frame,
    Process,
    Reading,
    RoomView,
    State,
    Store,
    with_devices_event,
    without_owed,
)

Statement: TypeAlias = str
Script: TypeAlias = tuple[Statement, ...]

LOCKABLE = ("lock users[A]", "lock users[B]", "lock device_send[a1]", "lock rooms")  # in lock order


class Operation(IntEnum):
    ADD_B2 = 0
    REVOKE_B1 = 1
    KICK_B = 2
    JOIN_B = 3
    REVOKE_A1 = 4
    JOB = 5
    OTHER_JOB = 6
    JOURNAL = 7
    DELETE_B = 8
    REMOVAL = 9
    READER = 10

    @property
    def title(self) -> str:
        return self.name.lower().replace("_", " ")


ENDLESS = (Operation.JOB, Operation.OTHER_JOB, Operation.JOURNAL, Operation.REMOVAL, Operation.READER)
MENDING = (
    Operation.ADD_B2,
    Operation.REVOKE_B1,
    Operation.JOIN_B,
    Operation.JOB,
    Operation.OTHER_JOB,
    Operation.JOURNAL,
    Operation.DELETE_B,
    Operation.REMOVAL,
)


class Strength(IntEnum):
    """How much is asked of the set that a message is encrypted for."""

    SAFE = 0
    STRICT = 1
    EQUAL = 2


@dataclass(frozen=True)
class Rules:
    """The protocol's rules; every value but the default drops, weakens or replaces a rule."""

    locks_user_first: bool = True
    kick_locks: Literal["user, room", "room, user", "room"] = "user, room"
    job_locks_user_after_room: bool = False
    journal_reads: Literal["after its locks", "before its locks"] = "after its locks"
    revocation_locks_sender: bool = True
    join_names_version: bool = True
    job_reads_version: Literal["under the room's lock", "before it"] = "under the room's lock"
    job_checks_membership: bool = True
    client_trusts: Literal["versions the chain names", "queries after the epoch", "any query"] = (
        "versions the chain names"
    )
    journal_writes_owed: bool = True
    reader_uses_one_statement: bool = True
    join_reads_account: Literal["under the user's lock", "before it"] = "under the user's lock"


@dataclass(frozen=True)
class World:
    """Which operations run, which of them may run again, and how much is asked."""

    operations: tuple[Operation, ...]
    repeated: tuple[Operation, ...] = ()
    strength: Strength = Strength.EQUAL


Steps: TypeAlias = Iterator[Step[State]]


def scripts(rules: Rules) -> dict[Operation, Script]:
    """What each operation does, statement by statement; the lock order can be read off here."""
    change = ("lock users[B]", "read memberships", "commit list")
    join: Script = ("lock users[B]", "read list version", "lock rooms", "commit join")
    if not rules.locks_user_first:
        change, join = ("read memberships", "lock users[B]", "commit list"), join[1:]
    if rules.join_reads_account == "before it":
        join = ("read account", *join)
    kick_locks = {
        "user, room": ("lock users[B]", "lock rooms"),
        "room, user": ("lock rooms", "lock users[B]"),
        "room": ("lock rooms",),
    }
    revocation: Script = ("lock users[A]", "lock device_send[a1]", "commit revocation")
    job_locks: Script = ("lock rooms", "lock users[B]") if rules.job_locks_user_after_room else ("lock rooms",)
    job = ("take owed events", *job_locks, "commit owed events")
    journal_locks = ("lock device_send[a1]", "lock rooms")
    reads_late = rules.journal_reads == "after its locks"
    journal = (*journal_locks, "read") if reads_late else ("read", *journal_locks)
    apart = ("read membership", "read events")
    return {
        Operation.ADD_B2: change,
        Operation.REVOKE_B1: change,
        Operation.KICK_B: (*kick_locks[rules.kick_locks], "commit kick"),
        Operation.JOIN_B: join,
        Operation.REVOKE_A1: revocation if rules.revocation_locks_sender else (revocation[0], revocation[2]),
        Operation.JOB: job,
        Operation.OTHER_JOB: job,
        Operation.JOURNAL: ("begin", *journal, "commit message"),
        Operation.DELETE_B: ("lock users[B]", "read memberships", "commit deletion"),
        Operation.REMOVAL: ("take owed removal", "lock rooms", "commit removal"),
        Operation.READER: ("read membership and events",) if rules.reader_uses_one_statement else apart,
    }


class Membership(Model[State]):
    """One room, two users, and everything that changes who must be able to read."""

    def __init__(self, world: World, rules: Rules) -> None:
        self.world = world
        self.rules = rules
        self.scripts = scripts(rules)
        self._statements: Mapping[Statement, Callable[[State, Operation], Steps]] = {
            "read memberships": self._reads_memberships,
            "commit list": self._commits_list,
            "read list version": self._reads_version,
            "read account": self._reads_account,
            "commit deletion": self._commits_deletion,
            "take owed removal": self._takes_removal,
            "commit removal": self._commits_removal,
            "commit join": self._commits_join,
            "commit kick": self._commits_kick,
            "commit revocation": self._commits_revocation,
            "take owed events": self._takes_owed,
            "commit owed events": self._commits_owed,
            "begin": self._begins,
            "read": self._reads_store,
            "commit message": self._commits_message,
            "read membership and events": self._reads_at_once,
            "read membership": self._reads_membership,
            "read events": self._reads_events,
        } | dict.fromkeys(LOCKABLE, self._locks)

    def initial(self) -> State:
        store = Store((frozenset((B1,)),), frozenset(), True, 0, 0, 1, frozenset(), False)
        return State(store, (None,) * len(LOCKABLE), (Process(),) * len(Operation), Client(), None)

    def broken(self, state: State) -> str | None:
        store = state.store
        is_named = store.room_version == store.newest_version and not store.is_deleted
        if state.violation or store.owed or not store.is_member or is_named or store.owes_removal:
            return state.violation
        if any(state.processes[operation].position > 0 for operation in MENDING):
            return None
        if store.is_deleted:
            return "B's account was deleted and B stays a member for ever"
        return "B's newest list is not the room's and no event is owed: left out in silence for ever"

    def is_settled(self, state: State) -> bool:
        is_quiet = not state.store.owed and not state.store.owes_removal and state.client.frame is None
        return is_quiet and all(process.position <= 0 for process in state.processes)

    def steps(self, state: State) -> Steps:
        for operation in self.world.operations:
            process = state.processes[operation]
            if process.position != FINISHED:
                statement = self.scripts[operation][process.position]
                yield from self._statements[statement](state, operation)
        yield from self._client_steps(state)

    # A's client

    def _client_steps(self, state: State) -> Steps:
        store, client = state.store, state.client
        room = RoomView(store.epoch, store.is_member, store.named_version)
        if client.view != room:
            forgets = self.rules.client_trusts == "queries after the epoch"
            seen = client._replace(view=room, cached_version=-1 if forgets else client.cached_version)
            yield Step(f"client: reads the room, epoch {room.epoch}", False, state._replace(client=seen))
        if client.cached_version != store.newest_version:
            queried = client._replace(cached_version=store.newest_version)
            label = f"client: queries keys, B's list has version {store.newest_version}"
            yield Step(label, False, state._replace(client=queried))
        if client.view and client.frame is None and A1 not in store.dead and self._may_encrypt(client, client.view):
            of_b = store.lists[client.cached_version] if client.view.is_member else frozenset[str]()
            sent = client._replace(frame=Frame(client.view.epoch, of_b | {A1}))
            label = f"client: encrypts for epoch {client.view.epoch} with B's version {client.cached_version}"
            yield Step(label, False, state._replace(client=sent))

    def _may_encrypt(self, client: Client, view: RoomView) -> bool:
        checks = self.rules.client_trusts == "versions the chain names"
        needed_version = max(view.named_version, 0) if checks else 0
        return not view.is_member or client.cached_version >= needed_version

    # Statements

    def _advanced(self, state: State, operation: Operation, process: Process) -> State:
        moved = process._replace(position=process.position + 1)
        return state._replace(processes=with_item(state.processes, operation, moved))

    def _ended(self, state: State, operation: Operation, store: Store | None = None) -> State:
        """The transaction has ended, with these writes or none; its locks are free."""
        again = operation in ENDLESS or operation in self.world.repeated
        processes = with_item(state.processes, operation, Process() if again else Process(FINISHED))
        locks = tuple(None if holder == operation else holder for holder in state.locks)
        return state._replace(store=store or state.store, locks=locks, processes=processes)

    def _locks(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        statement = self.scripts[operation][process.position]
        row = LOCKABLE.index(statement)
        if state.locks[row] is None:
            locked = state._replace(locks=with_item(state.locks, row, int(operation)))
            yield Step(f"{operation.title}: {statement}", False, self._advanced(locked, operation, process))

    def _reads_store(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        reading = process._replace(reading=state.store.reading)
        label = f"{operation.title}: reads epoch {state.store.epoch}, B a member: {state.store.is_member}"
        yield Step(label, False, self._advanced(state, operation, reading))

    def _reads_memberships(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        reading = process._replace(saw_member=state.store.is_member)
        label = f"{operation.title}: reads memberships, a member: {reading.saw_member}"
        yield Step(label, False, self._advanced(state, operation, reading))

    def _reads_version(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        if state.store.is_deleted and self.rules.join_reads_account == "under the user's lock":
            yield Step(f"{operation.title}: refused, no such account", False, self._ended(state, operation))
            return
        reading = process._replace(version=state.store.newest_version)
        label = f"{operation.title}: reads list version {reading.version}"
        yield Step(label, False, self._advanced(state, operation, reading))

    def _reads_account(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        if state.store.is_deleted:
            yield Step(f"{operation.title}: refused, no such account", False, self._ended(state, operation))
        else:
            label = f"{operation.title}: reads the account, it lives"
            yield Step(label, False, self._advanced(state, operation, process))

    def _commits_deletion(self, state: State, operation: Operation) -> Steps:
        """All devices end; what is owed to the room: a `devices` event at once, and the removal."""
        process, store = state.processes[operation], state.store
        written = store._replace(
            lists=(*store.lists, frozenset[str]()),
            dead=store.dead.union(*store.lists),
            owed=store.owed | {len(store.lists)} if process.saw_member else store.owed,
            is_deleted=True,
            owes_removal=process.saw_member,
        )
        yield Step(f"{operation.title}: COMMIT, B's devices are dead", False, self._ended(state, operation, written))

    def _takes_removal(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        if state.store.owes_removal:
            label = f"{operation.title}: takes the owed removal"
            yield Step(label, False, self._advanced(state, operation, process))

    def _commits_removal(self, state: State, operation: Operation) -> Steps:
        store = state.store._replace(owes_removal=False)
        removed = store._replace(is_member=False, epoch=store.epoch + 1, has_later_message=False)
        written = removed if store.is_member else store
        yield Step(f"{operation.title}: COMMIT, epoch {written.epoch}", False, self._ended(state, operation, written))

    def _commits_list(self, state: State, operation: Operation) -> Steps:
        """A device change: the new list and, for a member, the event that is now owed to the room."""
        process = state.processes[operation]
        store, is_addition = state.store, operation is Operation.ADD_B2
        now = store.lists[-1] | {B2} if is_addition else store.lists[-1] - {B1}
        owed = store.owed | {len(store.lists)} if process.saw_member else store.owed
        dead = store.dead if is_addition else store.dead | {B1}
        written = store._replace(lists=(*store.lists, now), dead=dead, owed=owed)
        label = f"{operation.title}: COMMIT, B's list has version {written.newest_version}"
        yield Step(label, False, self._ended(state, operation, written))

    def _commits_kick(self, state: State, operation: Operation) -> Steps:
        store = state.store
        kicked = store._replace(is_member=False, epoch=store.epoch + 1, has_later_message=False)
        written = kicked if store.is_member else store
        yield Step(f"{operation.title}: COMMIT, epoch {written.epoch}", False, self._ended(state, operation, written))

    def _commits_join(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        store, version = state.store, process.version
        named = version if self.rules.join_names_version else -1
        joined = store._replace(is_member=True, room_version=version, named_version=named, epoch=store.epoch + 1)
        written = store if store.is_member else joined._replace(has_later_message=False)
        label = f"{operation.title}: COMMIT, version {written.room_version}, epoch {written.epoch}"
        yield Step(label, False, self._ended(state, operation, written))

    def _commits_revocation(self, state: State, operation: Operation) -> Steps:
        written = state.store._replace(dead=state.store.dead | {A1})
        yield Step(f"{operation.title}: COMMIT, a1 is dead", False, self._ended(state, operation, written))

    def _takes_owed(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        if state.store.owed:
            reading = process._replace(version=state.store.newest_version)
            label = f"{operation.title}: takes the owed events {sorted(state.store.owed)}"
            yield Step(label, False, self._advanced(state, operation, reading))

    def _commits_owed(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        store = state.store
        reads_late = self.rules.job_reads_version == "under the room's lock"
        version = store.newest_version if reads_late else process.version
        is_due = (store.is_member or not self.rules.job_checks_membership) and (
            version > store.room_version or not reads_late
        )
        written = with_devices_event(store, version) if is_due else without_owed(store, version)
        label = f"{operation.title}: COMMIT, version {written.room_version}, epoch {written.epoch}"
        yield Step(label, False, self._ended(state, operation, written))

    def _begins(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        if state.client.frame:
            yield Step(f"{operation.title}: begins", False, self._advanced(state, operation, process))

    def _commits_message(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        store, client, seen = state.store, state.client, process.reading
        assert seen is not None
        assert client.frame is not None
        stale = client._replace(view=None, frame=None)
        if self.rules.journal_writes_owed and seen.owed:
            is_due = seen.is_member and seen.newest_version > store.room_version
            change = with_devices_event if is_due else without_owed
            after = self._ended(state, operation, change(store, seen.newest_version))
            yield Step("journal: COMMIT of what is owed; device set stale", False, after._replace(client=stale))
        elif A1 in seen.dead:
            after = self._ended(state, operation)._replace(client=client._replace(frame=None))
            yield Step("journal: ROLLBACK, device dead", False, after)
        elif seen.epoch != client.frame.epoch:
            after = self._ended(state, operation)._replace(client=stale)
            yield Step(f"journal: ROLLBACK, device set stale, epoch {seen.epoch}", False, after)
        else:
            written = store._replace(has_later_message=store.has_later_message or not store.is_member)
            after = self._ended(state, operation, written)._replace(
                client=client._replace(frame=None), violation=self._judged(store, client.frame, seen)
            )
            yield Step(f"journal: COMMIT of the message at epoch {client.frame.epoch}", False, after)

    def _judged(self, store: Store, frame: Frame, seen: Reading) -> str | None:
        """The properties of a message at the moment of its commit."""
        due, given = store.readers, frame.encrypted_for
        asks_strict, asks_equal = (self.world.strength >= asked for asked in (Strength.STRICT, Strength.EQUAL))
        properties = (
            (A1 in store.dead, "a dead device's message is committed"),
            (frame.epoch != store.epoch, f"a message for epoch {frame.epoch} is committed at epoch {store.epoch}"),
            (due - given - store.dead, f"a live device is left out in silence: {sorted(due - given - store.dead)}"),
            (not store.is_member and given - {A1}, "a message is encrypted for one who is no member"),
            ((given - due) & store.dead, "a device that an event had removed is included"),
            (asks_strict and given & seen.dead, "a message is encrypted for a device that was dead at the reading"),
            (asks_equal and given != due, f"encrypted for {sorted(given)}, where the chain's set is {sorted(due)}"),
        )
        return next((sentence for is_broken, sentence in properties if is_broken), None)

    # A reader of B

    def _reads_at_once(self, state: State, operation: Operation) -> Steps:
        leaks = state.store.is_member and state.store.has_later_message
        yield self._has_read(state, operation, leaks=leaks)

    def _reads_membership(self, state: State, operation: Operation) -> Steps:
        process = state.processes[operation]
        if state.store.is_member:
            yield Step("reader: reads its membership, a member", False, self._advanced(state, operation, process))

    def _reads_events(self, state: State, operation: Operation) -> Steps:
        leaks = state.store.has_later_message and not state.store.is_member
        yield self._has_read(state, operation, leaks=leaks)

    def _has_read(self, state: State, operation: Operation, *, leaks: bool) -> Step[State]:
        violation = "B reads a message from after its kick" if leaks else state.violation
        return Step("reader: reads the events", False, self._ended(state, operation)._replace(violation=violation))
