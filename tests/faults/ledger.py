"""What was sent, acked and read, against what the room holds: find_faults() is empty, or says what was broken in whose eyes.

Only seq gives order: that of n within a room is not promised. So "in order" means that every reader has the same one.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from chatty.ids import RoomId, Seq
from chatty.wire import chain
from chatty.wire.events import Committed, Kind, TimelineEvent
from chatty.wire.frames import Ack, RoomEntry, Send, Stretch
from tests.server.wire_people import leaf_of


@dataclass(kw_only=True)
class Sending:
    """One message of one device. ack: None while the outcome is unknown to its sender. refusal: its code, if it is final.

    sent_at: Trio's time before the first copy of these bytes left. copies: the outcomes of copies that were sent beside it.
    """

    device: str
    request: Send
    sent_at: float = 0.0
    ack: Ack | None = None
    copies: list[Committed] = field(default_factory=list)
    refusal: str = ""

    @property
    def name(self) -> tuple[str, int]:
        return self.device, self.request.n

    @property
    def acks(self) -> list[Ack | Committed]:
        """All of them should be one."""
        return [*([self.ack] if self.ack is not None else []), *self.copies]


def find_faults(
    room: RoomId, *, history: Sequence[RoomEntry], sendings: Sequence[Sending], live: Mapping[str, Sequence[RoomEntry]]
) -> list[str]:
    """history: read anew from the beginning by somebody who may see all of it. live: what each reader's connections brought."""
    faults = list(order_faults(room, history))
    if faults:
        return faults
    heads = heads_of(room, history)
    faults += delivery_faults([one for one in history if isinstance(one, TimelineEvent)], sendings)
    for reader, entries in live.items():
        faults += [f"{reader}: {fault}" for fault in reading_faults(room, entries, heads)]
    return faults


def order_faults(room: RoomId, entries: Sequence[RoomEntry]) -> Iterator[str]:
    """Holes, repeats, other rooms' events, times that go back."""
    seq, time = 0, 0
    for entry in entries:
        first = entry.from_seq if isinstance(entry, Stretch) else entry.seq
        if first != seq + 1:
            yield f"{'a hole' if first > seq else 'a repeat'}: {first} comes after {seq}"
        if entry.room != room:
            yield f"{first} is of another room"
        if isinstance(entry, TimelineEvent):
            if entry.time < time:
                yield f"the time goes back at {first}"
            time = entry.time
        seq = entry.to_seq if isinstance(entry, Stretch) else entry.seq


def heads_of(room: RoomId, entries: Sequence[RoomEntry]) -> dict[Seq, bytes]:
    """The chain's head at each entry's end, from entries without a hole."""
    head = chain.empty_head(room)
    heads = {Seq(0): head}
    for entry in entries:
        if isinstance(entry, Stretch):
            head = heads[entry.to_seq] = entry.head
        else:
            head = heads[entry.seq] = chain.next_head(head, leaf_of(entry))
    return heads


def reading_faults(room: RoomId, entries: Sequence[RoomEntry], heads: Mapping[Seq, bytes]) -> list[str]:
    """Does this reader have the whole room, each entry once, in the room's order?"""
    faults = list(order_faults(room, entries))
    if faults:
        return faults
    own = heads_of(room, entries)
    if max(own) != max(heads):
        faults.append(f"read up to {max(own)} of {max(heads)}")
    return (
        faults + [f"another event at {seq}" for seq in sorted(own.keys() & heads.keys()) if own[seq] != heads[seq]][:1]
    )


def delivery_faults(events: Sequence[TimelineEvent], sendings: Sequence[Sending]) -> Iterator[str]:
    """Acked once and where the ack says, unacked at most once, refused never, nothing that nobody sent."""
    messages = [event for event in events if event.kind is Kind.MESSAGE]
    stored = {name_of(event): event for event in messages}
    sent = {one.name: one for one in sendings}
    for name, count in Counter(map(name_of, messages)).items():
        if count > 1:
            yield f"{name} is there {count} times"
        if name not in sent:
            yield f"nobody sent {name}"
    for name, one in sent.items():
        event = stored.get(name)
        if event is None:
            if one.acks:
                yield f"{name} was acked at {one.acks[0].seq} and is missing"
        elif one.refusal:
            yield f"{name} was refused ({one.refusal}) and stands at {event.seq}"
        elif (event.body, event.epoch) != (one.request.body, one.request.epoch):
            yield f"{name} has other bytes at {event.seq} than were sent"
        else:
            for ack in one.acks:
                if (ack.seq, ack.leaf) != (event.seq, chain.leaf(event)):
                    yield f"{name} was acked at {ack.seq} and stands at {event.seq}"


def name_of(event: TimelineEvent) -> tuple[str, int]:
    return event.device, event.n
