"""The states of the model of sending, and what a COMMIT, a crash and an answer do to them (the theory: sending.py)."""

from typing import Literal, NamedTuple, TypeAlias

from .checker import with_item

Answer: TypeAlias = Literal["ack", "refused", "closed", "conflict", "window full"]
Phase: TypeAlias = Literal["early check", "snapshot", "lock rooms", "read", "read outcomes", "commit", "nothing"]


class Request(NamedTuple):
    device: int
    n: int
    low: int


class Outcome(NamedTuple):
    """What the store keeps under (device, n)."""

    answer: Answer
    digest: int


class Reply(NamedTuple):
    device: int
    n: int
    answer: Answer


class Client(NamedTuple):
    """`refused` are the numbers whose final refusal it was told; `node` is where it is connected."""

    next_n: int
    open_on_disk: frozenset[int]
    open_in_memory: frozenset[int]
    refused: frozenset[int]
    node: int | None


class DeviceRow(NamedTuple):
    """A row of `device_send` with its outcomes; `commit_counts` is the checker's own book."""

    low: int
    outcomes: tuple[Outcome | None, ...]
    commit_counts: tuple[int, ...]
    locked_by: int | None


class Reading(NamedTuple):
    """What a statement saw of the store."""

    devices: tuple[DeviceRow, ...]
    is_member: bool


class Decision(NamedTuple):
    """What COMMIT will write, and whom it will tell what."""

    replies: tuple[Reply, ...]
    outcomes: tuple[tuple[int, int, Outcome], ...]
    lows: tuple[int, ...]


class Transaction(NamedTuple):
    """`phase` is the next statement; the row locks it holds stand in the rows."""

    phase: Phase
    requests: tuple[Request, ...]
    snapshot: Reading | None = None
    lows: tuple[int, ...] = ()
    decision: Decision | None = None


class Node(NamedTuple):
    queue: tuple[Request, ...] = ()
    transaction: Transaction | None = None

    @property
    def load(self) -> int:
        return len(self.queue) + (len(self.transaction.requests) if self.transaction else 0)


class State(NamedTuple):
    clients: tuple[Client, ...]
    nodes: tuple[Node, ...]
    devices: tuple[DeviceRow, ...]
    room_locks: tuple[int | None, ...]
    is_member: bool
    changes_left: int
    violation: str | None

    def with_client(self, device: int, client: Client) -> "State":
        return self._replace(clients=with_item(self.clients, device, client))

    def with_node(self, index: int, queue: tuple[Request, ...], transaction: Transaction | None) -> "State":
        return self._replace(nodes=with_item(self.nodes, index, Node(queue, transaction)))


def told(state: State, reply: Reply) -> State:
    """An answer reaches the client; one about an `n` that it has settled changes nothing."""
    client, bit = state.clients[reply.device], frozenset((reply.n,))
    if not bit <= client.open_in_memory:
        return state
    commit_count = state.devices[reply.device].commit_counts[reply.n]
    violation = state.violation
    if reply.answer == "ack" and commit_count != 1:
        violation = f"n={reply.n} is acked and was committed {commit_count} times"
    elif reply.answer == "refused" and commit_count:
        violation = f"n={reply.n} is finally refused and was committed"
    elif reply.answer not in ("ack", "refused"):
        violation = f"an honest client is told '{reply.answer}' for its open n={reply.n}"
    refused = client.refused | bit if reply.answer == "refused" else client.refused
    settled = client._replace(open_in_memory=client.open_in_memory - bit, refused=refused)
    return state.with_client(reply.device, settled)._replace(violation=violation)


def committed(state: State, decision: Decision) -> State:
    """The store after COMMIT: outcomes added, `low` raised, what is below it forgotten."""
    rows, violation = list(state.devices), state.violation
    for device, n, outcome in decision.outcomes:
        row = rows[device]
        counts = row.commit_counts
        if outcome.answer == "ack":
            counts = with_item(counts, n, counts[n] + 1)
            if counts[n] > 1:
                violation = f"n={n} of device {device} is committed twice"
            if n in state.clients[device].refused:
                violation = f"n={n} is committed after its final refusal"
        rows[device] = row._replace(outcomes=with_item(row.outcomes, n, outcome), commit_counts=counts)
    for device in {reply.device for reply in decision.replies}:
        rows[device] = _forgotten(rows[device], below=max(rows[device].low, decision.lows[device]))
    return state._replace(devices=tuple(rows), violation=violation)


def _forgotten(row: DeviceRow, *, below: int) -> DeviceRow:
    kept = tuple(None if n < below else outcome for n, outcome in enumerate(row.outcomes))
    return row._replace(low=below, outcomes=kept)


def released(state: State, node: int) -> State:
    """The node's transaction has ended; its queue stays."""
    rows = tuple(row._replace(locked_by=None) if row.locked_by == node else row for row in state.devices)
    room_locks = tuple(None if holder == node else holder for holder in state.room_locks)
    return state._replace(devices=rows, room_locks=room_locks).with_node(node, state.nodes[node].queue, None)


def without_connections(state: State, node: int) -> State:
    """The node has died with its queue; its clients notice."""
    clients = tuple(client._replace(node=None) if client.node == node else client for client in state.clients)
    return state._replace(clients=clients).with_node(node, (), None)


def mirrored(state: State) -> State:
    """The same state with nodes 0 and 1 exchanged. Snapshots are kept as they are: they name no node that matters."""
    return state._replace(
        clients=tuple(client._replace(node=_other(client.node)) for client in state.clients),
        nodes=state.nodes[::-1],
        devices=tuple(row._replace(locked_by=_other(row.locked_by)) for row in state.devices),
        room_locks=tuple(_other(holder) for holder in state.room_locks),
    )


def _other(node: int | None) -> int | None:
    return None if node is None else 1 - node
