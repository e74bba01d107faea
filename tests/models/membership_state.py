"""The states of the model of membership (the theory: membership.py)."""

from typing import NamedTuple, TypeAlias

Devices: TypeAlias = frozenset[str]
Locks: TypeAlias = tuple[int | None, ...]

A1, B1, B2 = "a1", "b1", "b2"
FINISHED = -1


class Store(NamedTuple):
    """`lists[version]` are B's devices; `room_version` is what the chain says of B, `named_version` what it names (-1:
    nothing); `owed` are the versions whose `devices` event is still to be written."""

    lists: tuple[Devices, ...]
    dead: Devices
    is_member: bool
    room_version: int
    named_version: int
    epoch: int
    owed: frozenset[int]
    has_later_message: bool
    is_deleted: bool = False
    owes_removal: bool = False

    @property
    def reading(self) -> "Reading":
        return Reading(self.dead, self.is_member, self.epoch, self.owed, self.newest_version)

    @property
    def newest_version(self) -> int:
        return len(self.lists) - 1

    @property
    def readers(self) -> Devices:
        """The chain's set at the epoch."""
        return self.lists[self.room_version] | {A1} if self.is_member else frozenset((A1,))


class Reading(NamedTuple):
    """What the journal's statement saw of the store."""

    dead: Devices
    is_member: bool
    epoch: int
    owed: frozenset[int]
    newest_version: int


class Process(NamedTuple):
    """`position` is the next statement of the script; the other fields are what its transaction has read."""

    position: int = 0
    version: int = -1
    saw_member: bool = False
    reading: Reading | None = None


class RoomView(NamedTuple):
    epoch: int
    is_member: bool
    named_version: int


class Frame(NamedTuple):
    """A send on its way."""

    epoch: int
    encrypted_for: Devices


class Client(NamedTuple):
    view: RoomView | None = None
    cached_version: int = -1
    frame: Frame | None = None


class State(NamedTuple):
    store: Store
    locks: Locks
    processes: tuple[Process, ...]
    client: Client
    violation: str | None


def with_devices_event(store: Store, version: int) -> Store:
    """A `devices` event names this version for the room; it makes whom it names a member, so it is for members only."""
    written = store._replace(is_member=True, room_version=version, named_version=version, epoch=store.epoch + 1)
    return without_owed(written, version)


def without_owed(store: Store, version: int) -> Store:
    """What is owed up to this version is done."""
    return store._replace(owed=frozenset(owed for owed in store.owed if owed > version))
