"""A model of sending: `n`, `low`, the window, the journal, lost answers (docs/protocol.md, Sending and Transactions).

*Who acts.* A client persists each `n` in its outbox before a frame leaves, sends any open `n` again at any time to the
node it is connected to, and names with each send `low`, its smallest open `n`. A node has a bounded queue and one
journal transaction at a time, whose statements are separate steps: lock the senders' device rows (SKIP LOCKED), lock
the rooms (SKIP LOCKED), read, decide, COMMIT and answer. Several nodes share one store. An administrator kicks the
sender from room 0 and takes it back, under the room's lock.

*What goes wrong.* Each answer may be lost; a client restarts from its disk; a node dies before or after COMMIT, or
loses the store at COMMIT without knowing the outcome, and then submits the same requests again.

*What must hold.* An ack means committed exactly once. A final refusal means never committed, then or later. An honest
client is never told `closed`, `conflict` or `window full` for an `n` that is open for it. And when faults stop, every
`n` is settled.

*Rules*, and what each prevents (the tests drop them one by one):
- `low` counts what is settled on the client's disk. Counted in memory, a client that crashes has an open `n` below a
  `low` that it has already told.
- The look-up is a statement after the locks. In the locking statement its snapshot is older than the lock, so a
  resend beside the first copy commits twice.
- The journal locks the device's row, or reads `low` and the outcomes in one statement. Without both, `low` moves and
  the outcomes go between the two reads, and a resend commits twice.
- The digest leaves `low` out, for an honest resend carries a later one.
- A final refusal comes from the journal alone and is recorded under (device, n) like an ack. An actor that refuses on
  its own, by membership, by two statements or by one snapshot, tells "no" about an `n` that another copy commits.

Not modelled: epochs (membership.py), the blocking way of a room that was skipped twice, limits in bytes, real time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, TypeAlias

from .checker import Model, Step
from .sending_state import (
    Answer,
    Client,
    Decision,
    DeviceRow,
    Node,
    Outcome,
    Reading,
    Reply,
    Request,
    State,
    Transaction,
    committed,
    mirrored,
    released,
    told,
    without_connections,
)


@dataclass(frozen=True)
class Rules:
    """The protocol's rules; every value but the default drops or weakens a rule."""

    low_counts: Literal["settled on disk", "settled in memory"] = "settled on disk"
    look_up: Literal["after the locks", "with the lock"] = "after the locks"
    locks_device: bool = True
    reads_in_one_statement: bool = True
    digest_holds_low: bool = False
    early_refusal: Literal["never", "on membership", "in two statements", "in one snapshot"] = "never"
    records_refusals: bool = True


@dataclass(frozen=True)
class World:
    """How large the world is; `mirrors_nodes` explores one of each pair of states with two nodes exchanged."""

    devices: int = 1
    numbers: int = 2
    window: int = 2
    nodes: int = 2
    queue_max: int = 1
    rooms: int = 1
    membership_changes: int = 2
    mirrors_nodes: bool = False


Steps: TypeAlias = Iterator[Step[State]]


class Sending(Model[State]):
    """Clients, nodes and one store."""

    def __init__(self, world: World, rules: Rules) -> None:
        self.world = world
        self.rules = rules

    def initial(self) -> State:
        world, nothing = self.world, frozenset[int]()
        row = DeviceRow(0, (None,) * world.numbers, (0,) * world.numbers, None)
        return State(
            clients=(Client(0, nothing, nothing, nothing, None),) * world.devices,
            nodes=(Node(),) * world.nodes,
            devices=(row,) * world.devices,
            room_locks=(None,) * world.rooms,
            is_member=True,
            changes_left=world.membership_changes,
            violation=None,
        )

    def broken(self, state: State) -> str | None:
        return state.violation

    def is_settled(self, state: State) -> bool:
        all_written = all(client.next_n == self.world.numbers for client in state.clients)
        any_open = any(client.open_on_disk or client.open_in_memory for client in state.clients)
        return all_written and not any_open and not any(node.load for node in state.nodes)

    def representative(self, state: State) -> State:
        return min(state, mirrored(state), key=hash) if self.world.mirrors_nodes else state

    def steps(self, state: State) -> Steps:
        for device in range(self.world.devices):
            yield from self._client_steps(state, device)
        if state.changes_left and state.room_locks[0] is None:
            label = "admin: kicks the sender" if state.is_member else "admin: takes the sender back"
            changed = state._replace(is_member=not state.is_member, changes_left=state.changes_left - 1)
            yield Step(label, False, changed)
        for node in range(self.world.nodes):
            yield from self._node_steps(state, node)

    # The client

    def _client_steps(self, state: State, device: int) -> Steps:
        client = state.clients[device]
        name = f"client {device}"
        n = client.next_n
        if n < self.world.numbers and n < self._low(client) + self.world.window:
            written = client._replace(
                next_n=n + 1, open_on_disk=client.open_on_disk | {n}, open_in_memory=client.open_in_memory | {n}
            )
            yield Step(f"{name}: writes n={n} to its outbox", False, state.with_client(device, written))
        if client.open_on_disk != client.open_in_memory:
            flushed = client._replace(open_on_disk=client.open_on_disk & client.open_in_memory)
            yield Step(f"{name}: a settlement reaches its disk", False, state.with_client(device, flushed))
        for node in range(self.world.nodes):
            if node != client.node:
                connected = client._replace(node=node)
                yield Step(f"{name}: connects to node {node}", False, state.with_client(device, connected))
        yield from self._sends(state, device, client)
        if client.open_on_disk != client.open_in_memory or client.node is not None:
            restarted = client._replace(
                open_in_memory=client.open_on_disk, refused=client.refused - client.open_on_disk, node=None
            )
            yield Step(f"{name}: crashes, starts again from its disk", True, state.with_client(device, restarted))

    def _sends(self, state: State, device: int, client: Client) -> Steps:
        if client.node is None:
            return
        queue, transaction = node = state.nodes[client.node]
        low = self._low(client)
        if node.load < self.world.queue_max:
            for n in sorted(client.open_in_memory):
                sent = state.with_node(client.node, (*queue, Request(device, n, low)), transaction)
                yield Step(f"client {device}: sends n={n}, low={low} to node {client.node}", False, sent)

    def _low(self, client: Client) -> int:
        on_disk = self.rules.low_counts == "settled on disk"
        return min(client.open_on_disk if on_disk else client.open_in_memory, default=client.next_n)

    # The node: early refusals, and the journal's statements in their order

    def _node_steps(self, state: State, node: int) -> Steps:
        queue, transaction = state.nodes[node]
        if queue and self.rules.early_refusal != "never":
            yield from self._early_steps(state, node)
        if transaction is None:
            if queue:
                yield self._begins(state, node)
        else:
            yield from self._statement(state, node, transaction)
        if queue or transaction:
            crashed = without_connections(released(state, node), node)
            yield Step(f"node {node}: crashes, nothing committed", True, crashed)

    def _begins(self, state: State, node: int) -> Step[State]:
        queue = state.nodes[node].queue
        if self.rules.look_up == "after the locks":
            return self._locks_devices(state, node, queue, late=(), snapshot=None)
        begun = Transaction("snapshot", queue, snapshot=Reading(state.devices, state.is_member))
        return Step(f"node {node}: begins, its lock's snapshot is taken", False, state.with_node(node, (), begun))

    def _statement(self, state: State, node: int, transaction: Transaction) -> Steps:
        match transaction.phase:
            case "early check":
                yield from self._checks_membership_early(state, node, transaction)
            case "snapshot":
                late = state.nodes[node].queue
                yield self._locks_devices(state, node, transaction.requests, late=late, snapshot=transaction.snapshot)
            case "lock rooms":
                yield self._locks_rooms(state, node, transaction)
            case "read":
                yield self._reads(state, node, transaction)
            case "read outcomes":
                reading = Reading(state.devices, state.is_member)
                yield self._decides(state, node, transaction, reading, transaction.lows)
            case "commit":
                yield from self._commits(state, node, transaction)
            case "nothing":
                yield Step(f"node {node}: got no locks, ends", False, released(state, node))

    def _locks_devices(
        self,
        state: State,
        node: int,
        requests: tuple[Request, ...],
        *,
        late: tuple[Request, ...],
        snapshot: Reading | None,
    ) -> Step[State]:
        wanted = {request.device for request in requests}
        rows = tuple(
            row._replace(locked_by=node)
            if self.rules.locks_device and device in wanted and row.locked_by is None
            else row
            for device, row in enumerate(state.devices)
        )
        begun = Transaction("lock rooms", requests, snapshot=snapshot)
        locked = state._replace(devices=rows).with_node(node, late, begun)
        return Step(f"node {node}: locks what it gets of devices {sorted(wanted)}", False, locked)

    def _locks_rooms(self, state: State, node: int, transaction: Transaction) -> Step[State]:
        """What misses either lock waits in the queue for the next batch."""
        sent_by_ours = [r for r in transaction.requests if self._may_send(state, node, r.device)]
        wanted = {self._room(request) for request in sent_by_ours}
        rooms = {room for room in wanted if state.room_locks[room] is None}
        taken = tuple(request for request in sent_by_ours if self._room(request) in rooms)
        missed = tuple(request for request in transaction.requests if request not in taken)
        room_locks = tuple(node if room in rooms else holder for room, holder in enumerate(state.room_locks))
        following = transaction._replace(phase="read" if taken else "nothing", requests=taken)
        queue = missed + state.nodes[node].queue
        locked = state._replace(room_locks=room_locks).with_node(node, queue, following)
        label = f"node {node}: locks rooms {sorted(rooms)}, takes n={[request.n for request in taken]}"
        return Step(label, False, locked)

    def _may_send(self, state: State, node: int, device: int) -> bool:
        return not self.rules.locks_device or state.devices[device].locked_by == node

    def _room(self, request: Request) -> int:
        return request.n % self.world.rooms

    def _reads(self, state: State, node: int, transaction: Transaction) -> Step[State]:
        reading = transaction.snapshot or Reading(state.devices, state.is_member)
        lows = tuple(row.low for row in reading.devices)
        if self.rules.reads_in_one_statement:
            return self._decides(state, node, transaction, reading, lows)
        following = transaction._replace(phase="read outcomes", lows=lows)
        return Step(f"node {node}: reads low {lows}", False, state.with_node(node, state.nodes[node].queue, following))

    def _decides(
        self, state: State, node: int, transaction: Transaction, reading: Reading, lows: tuple[int, ...]
    ) -> Step[State]:
        """Judge the whole batch, each request after those before it."""
        moved_lows = list(lows)
        fresh: dict[tuple[int, int], Outcome] = {}
        replies = []
        for request in transaction.requests:
            device, n, low = request
            recorded = fresh.get((device, n)) or reading.devices[device].outcomes[n]
            digest = low if self.rules.digest_holds_low else 0
            answer = self._answer(request, recorded, digest, moved_lows[device], is_member=reading.is_member)
            if recorded is None and (answer == "ack" or (answer == "refused" and self.rules.records_refusals)):
                fresh[device, n] = Outcome(answer, digest)
            replies.append(Reply(device, n, answer))
            moved_lows[device] = max(moved_lows[device], low)
        outcomes = tuple((device, n, outcome) for (device, n), outcome in fresh.items())
        following = Transaction(
            "commit", transaction.requests, decision=Decision(tuple(replies), outcomes, tuple(moved_lows))
        )
        label = f"node {node}: decides " + ", ".join(f"{reply.answer} for n={reply.n}" for reply in replies)
        return Step(label, False, state.with_node(node, state.nodes[node].queue, following))

    def _answer(self, request: Request, recorded: Outcome | None, digest: int, low: int, *, is_member: bool) -> Answer:
        if request.n < low:
            return "closed"
        if recorded is not None:
            return recorded.answer if recorded.digest == digest else "conflict"
        if request.n >= max(low, request.low) + self.world.window:
            return "window full"
        return "ack" if is_member or self._room(request) else "refused"

    def _commits(self, state: State, node: int, transaction: Transaction) -> Steps:
        assert transaction.decision is not None
        after_commit = released(committed(state, transaction.decision), node)
        yield from self._answers(after_commit, node, transaction.decision.replies, "COMMIT")
        yield Step(f"node {node}: crashes after COMMIT", True, without_connections(after_commit, node))
        for outcome, after in (("committed", after_commit), ("rolled back", released(state, node))):
            queue = transaction.requests + after.nodes[node].queue
            again = after.with_node(node, queue, None)
            yield Step(f"node {node}: loses the store at COMMIT ({outcome}), submits again", True, again)

    # Refusals outside the journal: all of them are rules broken

    def _early_steps(self, state: State, node: int) -> Steps:
        queue, transaction = state.nodes[node]
        if transaction is not None and transaction.phase == "early check":
            return
        request = queue[0]
        row = state.devices[request.device]
        is_new = row.outcomes[request.n] is None and request.n >= row.low
        kind = self.rules.early_refusal
        if not state.is_member and (kind == "on membership" or (kind == "in one snapshot" and is_new)):
            refused = state.with_node(node, queue[1:], transaction)
            yield from self._answers(refused, node, (Reply(request.device, request.n, "refused"),), "refuses early")
        if kind == "in two statements" and not state.is_member and transaction is None and is_new:
            checking = state.with_node(node, queue[1:], Transaction("early check", (request,)))
            yield Step(f"node {node}: looks up n={request.n} early, it is no resend", False, checking)

    def _checks_membership_early(self, state: State, node: int, transaction: Transaction) -> Steps:
        queue, request = state.nodes[node].queue, transaction.requests[0]
        if state.is_member:
            passed = state.with_node(node, (request, *queue), None)
            yield Step(f"node {node}: reads the membership early: a member", False, passed)
        else:
            refused = state.with_node(node, queue, None)
            reply = Reply(request.device, request.n, "refused")
            yield from self._answers(refused, node, (reply,), "reads the membership early: refuses")

    # Answers

    def _answers(self, state: State, node: int, replies: tuple[Reply, ...], occasion: str) -> Steps:
        """Each answer arrives or is lost, on the connection as it is now."""
        choices = [(True, False) if state.clients[reply.device].node == node else (False,) for reply in replies]
        for arrivals in product(*choices):
            after, words = state, []
            for reply, arrives in zip(replies, arrivals, strict=True):
                after = told(after, reply) if arrives else after
                words.append(f"{reply.answer} for n={reply.n} {'arrives' if arrives else 'is lost'}")
            yield Step(f"node {node}: {occasion}; {', '.join(words)}", not all(arrivals), after)
