"""What the parts of a run share: the place, the store, who serves, what was seen, and the first broken promise."""

from collections import Counter
from collections.abc import Sequence
from hashlib import sha256

import trio

from chatty.ids import DeviceId, RoomId, Seq, UserNumber
from chatty.testing.tables import Tables
from chatty.testing.transactions import MemoryStore
from chatty.wire import chain, frames
from chatty.wire.frames import ServerFrame
from tests.simulation.chance import Chance
from tests.simulation.place import Place
from tests.simulation.weather import Storm

lines_kept_max = 4_000


class Trace:
    """Everything that happened, with its time; the digest names the whole of it."""

    def __init__(self) -> None:
        self._hash = sha256()
        self.lines: list[str] = []

    def note(self, what: str) -> None:
        line = f"{trio.current_time():10.4f} {what}"
        self._hash.update(line.encode() + b"\n")
        self.lines.append(line)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


class World:
    """seen: how often what happened, so that one can tell a storm from a stroll."""

    def __init__(self, chance: Chance, place: Place) -> None:
        self.chance = chance
        self.place = place
        self.trace = Trace()
        self.seen: Counter[str] = Counter()
        self.violation: str | None = None
        self.scope = trio.CancelScope()
        self.weather = Storm(chance, on_spin=lambda: self.fail("somebody asks the store without a pause"))
        self.store = MemoryStore(place.tables, weather=self.weather, on_commit=self._check_commit)

    def fail(self, promise: str) -> None:
        """The run ends here; the first one counts."""
        if self.violation is None:
            self.violation = promise
            self.trace.note(f"BROKEN {promise}")
        self.scope.cancel()

    # During the run --------------------------------------------------------------------------------------------------

    def _check_commit(self, before: Tables, after: Tables) -> None:
        """I3: whatever a commit adds to a room goes on where the room ended, in its numbers and in its chain."""
        for number, room in after.rooms.items():
            old = before.rooms[number]
            head = old.head
            for seq in range(old.seq + 1, room.seq + 1):
                added = after.timeline.get((number, Seq(seq)))
                if added is None:
                    return self.fail(f"I3: room {number} has no seq {seq}")
                head = chain.next_head(head, chain.leaf(added.event))
                self.trace.note(f"commit {number}/{seq} {added.event.kind.value} {added.event.device} {added.event.n}")
            if room.head != head or len(after.timeline) - len(before.timeline) != _growth(before, after):
                return self.fail(f"I3: room {number} does not stand at its newest event")
        return None

    def check_emitted(self, device: DeviceId, events: Sequence[ServerFrame]) -> None:
        """An ack that leaves the server speaks of what is committed, by this device under this n."""
        for event in events:
            if isinstance(event, frames.Ack):
                self.check_ack(device, room=event.room, seq=event.seq, n=event.n, leaf=event.leaf)

    def check_ack(self, device: DeviceId, *, room: RoomId, seq: Seq, n: int, leaf: bytes) -> None:
        stored = self.store.tables.timeline.get((self.place.rooms[room], seq))
        if stored is None:
            self.fail(f"an ack of what is not committed: {device} {n} at {seq}")
        elif (stored.event.device, stored.event.n, stored.leaf) != (device, n, leaf):
            self.fail(f"I2: an ack of another request: {device} {n} at {seq}")

    def ends(self, user: UserNumber) -> dict[RoomId, Seq]:
        """Where each room ends for a member."""
        tables = self.store.tables
        return {
            room: tables.rooms[number].seq
            for room, number in self.place.rooms.items()
            if tables.is_joined(number, user)
        }


def _growth(before: Tables, after: Tables) -> int:
    return sum(room.seq - before.rooms[number].seq for number, room in after.rooms.items())
