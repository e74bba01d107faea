"""Who is connected to this node and registered where: plain dicts beside the actors, so that they outlive an actor's restart."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import trio

from chatty.actors.notices import Notices
from chatty.actors.outbox import Shared
from chatty.errors import ChattyError
from chatty.ids import DeviceNumber, MailboxId, RoomNumber, Seq, UserId, UserNumber, UserSeq
from chatty.services.caller import Caller

token_period_s = 60  # tokens that end within the same one are looked at together
K = TypeVar("K")


class Listener(Protocol):
    """A session, as the others see it. None of its methods waits. See delivery.Session."""

    caller: Caller
    given: set[MailboxId]
    user_sent: UserSeq
    rooms: dict[RoomNumber, Any]
    notices: Notices
    is_lagging: bool
    open_requests: dict[int, float]
    write_began: float | None
    end: Callable[[ChattyError], None]

    def offer(self, room: RoomNumber, shared: Shared) -> None: ...
    def note_head(self, room: RoomNumber, head: Seq) -> None: ...
    def mark_behind(self, room: RoomNumber) -> None: ...
    def note_mailbox(self) -> None: ...
    def note_user_stream(self) -> None: ...
    def note_removal(self, room: RoomNumber) -> None: ...
    def note_role(self, role: str) -> None: ...
    def note_receipts(self, room: RoomNumber) -> None: ...
    def is_live_in(self, room: RoomNumber) -> bool: ...
    def expire(self, now: float) -> None: ...


class Directory:
    """One for a node. Every session takes itself out when it ends.

    waited_for: sessions with requests that are not settled, or with a write that has not ended.
    """

    def __init__(self) -> None:
        self._by_device: dict[DeviceNumber, Listener] = {}
        self._by_user: dict[UserNumber, dict[Listener, None]] = {}
        self._by_name: dict[UserId, dict[Listener, None]] = {}
        self._by_room: dict[RoomNumber, dict[Listener, None]] = {}
        self._by_token: dict[tuple[str, int], dict[Listener, None]] = {}
        self.waited_for: dict[Listener, None] = {}
        self._left = trio.Event()

    async def wait_empty(self) -> None:
        """Until nobody is connected."""
        while self._by_device:
            await self._left.wait()

    def __len__(self) -> int:
        return len(self._by_device)

    def __iter__(self) -> Iterator[Listener]:
        return iter(list(self._by_device.values()))

    def enter(self, session: Listener) -> Listener | None:
        """Add a session; returns the older one of the same device, which is superseded."""
        older = self._by_device.get(session.caller.device_number)
        if older is not None:
            self.leave(older)
        self._by_device[session.caller.device_number] = session
        self._by_user.setdefault(session.caller.user_number, {})[session] = None
        self._by_name.setdefault(session.caller.user, {})[session] = None
        self._by_token.setdefault(_token(session), {})[session] = None
        return older

    def renew(self, session: Listener, caller: Caller) -> None:
        """With the token that it holds from now on."""
        _remove(self._by_token, _token(session), session)
        session.caller = caller
        self._by_token.setdefault(_token(session), {})[session] = None

    def leave(self, session: Listener) -> None:
        """Take it out everywhere; may be called again."""
        if self._by_device.get(session.caller.device_number) is session:
            del self._by_device[session.caller.device_number]
            self._left.set()
            self._left = trio.Event()
        _remove(self._by_user, session.caller.user_number, session)
        _remove(self._by_name, session.caller.user, session)
        _remove(self._by_token, _token(session), session)
        self.waited_for.pop(session, None)
        for room in list(session.rooms):
            _remove(self._by_room, room, session)

    def register(self, room: RoomNumber, session: Listener) -> None:
        self._by_room.setdefault(room, {})[session] = None

    def unregister(self, room: RoomNumber, session: Listener) -> None:
        _remove(self._by_room, room, session)

    def in_room(self, room: RoomNumber) -> Iterable[Listener]:
        """A live view: do not await while it is iterated."""
        return self._by_room.get(room, ())

    def of_user(self, user: UserNumber) -> list[Listener]:
        return list(self._by_user.get(user, ()))

    def named(self, user: UserId) -> Collection[Listener]:
        """A live view, as in_room()."""
        return self._by_name.get(user, ())

    def of_device(self, device: DeviceNumber) -> Listener | None:
        return self._by_device.get(device)

    def expiring(self, now_s: float, is_revoked: Callable[[str], bool]) -> list[Listener]:
        """Whose token's time is over, or its key revoked. It looks at few sessions, however many there are."""
        found: list[Listener] = []
        for (key_id, period), sessions in self._by_token.items():
            if is_revoked(key_id):
                found += sessions
            elif period * token_period_s <= now_s:
                found += [session for session in sessions if session.caller.expires_at_s <= now_s]
        return found

    def is_connected(self, device: DeviceNumber) -> bool:
        return device in self._by_device

    @property
    def rooms(self) -> Iterable[RoomNumber]:
        return self._by_room.keys()

    @property
    def users(self) -> Iterable[UserNumber]:
        return self._by_user.keys()


def _token(session: Listener) -> tuple[str, int]:
    """The key that signed its token, and in which period that ends."""
    return session.caller.token_key_id, int(session.caller.expires_at_s // token_period_s)


def _remove(index: dict[K, dict[Listener, None]], key: K, session: Listener) -> None:
    found = index.get(key)
    if found is not None:
        found.pop(session, None)
        if not found:
            del index[key]
