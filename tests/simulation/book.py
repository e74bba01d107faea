"""What a client has on its disk of one room, checked as it comes: in seq order, no hole, no repeat."""

from dataclasses import dataclass, field

from chatty.ids import RoomId, Seq, UserId
from chatty.wire import chain
from chatty.wire.events import REMOVALS, Kind, TimelineEvent, action_of, changes_epoch, decode_content
from chatty.wire.frames import Gap

Entry = TimelineEvent | Gap


class OutOfOrder(Exception):
    """The server left a hole or sent something twice."""


@dataclass(frozen=True, kw_only=True)
class State:
    """After one entry. head: of the chain. inside: who is a member."""

    cursor: Seq
    head: bytes
    epoch: Seq = Seq(0)
    inside: frozenset[UserId] = frozenset()


@dataclass
class RoomBook:
    room: RoomId
    entries: list[Entry] = field(default_factory=list)
    _states: list[State] = field(default_factory=list)

    @property
    def state(self) -> State:
        return self._states[-1] if self._states else State(cursor=Seq(0), head=chain.empty_head(self.room))

    def take(self, entry: Entry) -> None:
        """Raises: OutOfOrder."""
        first = entry.from_seq if isinstance(entry, Gap) else entry.seq
        if first != self.state.cursor + 1:
            raise OutOfOrder(f"{first} after {self.state.cursor}")
        self._states.append(_after(self.state, entry))
        self.entries.append(entry)

    def forget(self, entries_count: int) -> None:
        """The newest were not on the disk yet; the first is kept, for a room without any is no room to come back to."""
        kept = max(min(1, len(self.entries)), len(self.entries) - entries_count)
        del self.entries[kept:], self._states[kept:]


def _after(state: State, entry: Entry) -> State:
    if isinstance(entry, Gap):
        return State(cursor=entry.to_seq, head=entry.head, epoch=state.epoch, inside=state.inside)
    head = chain.next_head(state.head, chain.leaf(entry))
    epoch, inside = state.epoch, state.inside
    if entry.kind is not Kind.MESSAGE:
        action = action_of(decode_content(entry))
        epoch = entry.seq if changes_epoch(entry.kind, action) else epoch
        if entry.kind is Kind.MEMBER:
            target = frozenset({UserId(entry.target)})
            inside = inside - target if action in REMOVALS else inside | target
    return State(cursor=entry.seq, head=head, epoch=epoch, inside=inside)
