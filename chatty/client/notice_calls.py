"""What an application says of its user, and hears of others: `client.notices`.

    await client.notices.watch([ben.user])
    async for notice in client.notices: ...

Offline, who is watched and how far was read is kept, and told to the server after the next hello; typing and presence are not.
"""

from collections.abc import Awaitable, Iterable
from contextlib import suppress

from chatty.client.connection import Link, LinkLost, MakeFrame, error_of
from chatty.client.http import Api
from chatty.client.notices import Notice, Notices, PresenceChanged
from chatty.errors import ChattyError
from chatty.ids import RoomId, Seq, UserId
from chatty.wire.frames import Error
from chatty.wire.preferences import Preferences
from chatty.wire.presence import SetPresence, WatchPresence
from chatty.wire.receipts import Read
from chatty.wire.typing_notices import Typing


class NoticeCalls:
    """One reader at a time; leaving the loop loses nothing."""

    def __init__(self, link: Link, api: Api, notices: Notices) -> None:
        self._link = link
        self._api = api
        self._notices = notices

    def __aiter__(self) -> "NoticeCalls":
        return self

    async def __anext__(self) -> Notice:
        return await self._notices.next()

    async def watch(self, users: Iterable[UserId]) -> None:
        """Be told of these users' presence, in place of those before. Raises: QuotaExceeded, PresenceOff, RateLimited."""
        self._notices.watch(users)
        await self._watch()

    async def _watch(self) -> None:
        users = sorted(self._notices.watched)
        await self._ask(lambda id_: WatchPresence(id=id_, users=users))

    def presence(self, user: UserId) -> PresenceChanged | None:
        """None: not watched, or not told yet."""
        return self._notices.presence(user)

    async def set_presence(self, state: str) -> None:
        """`online`, or `idle`: the user has turned away from this device. Raises: RateLimited."""
        if state not in ("online", "idle"):
            raise ValueError("a presence is set to online or idle")
        await self._ask(lambda id_: SetPresence(id=id_, state="online" if state == "online" else "idle"))

    async def preferences(self) -> Preferences:
        """What others may see of this account."""
        return await self._api.preferences()

    async def set_preferences(self, *, shows_presence: bool, shows_receipts: bool) -> None:
        await self._api.set_preferences(Preferences(shows_presence=shows_presence, shows_receipts=shows_receipts))

    async def typing(self, room: RoomId, *, is_typing: bool) -> None:
        """Raises: RateLimited, NotFound."""
        await self._ask(lambda id_: Typing(id=id_, room=room, is_typing=is_typing))

    async def read(self, room: RoomId, seq: Seq) -> None:
        """A lower one than before changes nothing. Raises: NotFound, CursorBeyondEnd."""
        if self._notices.read(room, seq):
            await self._tell_read(room, seq)

    async def _tell_read(self, room: RoomId, seq: Seq) -> None:
        try:
            is_answered = await self._ask(lambda id_: Read(id=id_, room=room, seq=seq))
        except ChattyError as error:
            if error.is_retryable:
                return  # it comes again after the next hello
            self._notices.note_told(room, seq)
            raise
        if is_answered:
            self._notices.note_told(room, seq)

    async def tell_again(self) -> None:
        """After a hello: what the server does not know of this connection, or has not taken yet."""
        if self._notices.watched:
            await self._again(self._watch())
        for room, seq in self._notices.untold():
            await self._again(self._tell_read(room, seq))

    async def _again(self, call: Awaitable[None]) -> None:
        """What is refused for good was told to whoever asked first; the rest comes again after the next hello."""
        with suppress(ChattyError):
            await call

    async def _ask(self, make: MakeFrame) -> bool:
        """False: there is no connection. Raises: what the server answers."""
        try:
            answer = await self._link.request(make)
        except LinkLost:
            return False
        if isinstance(answer, Error):
            raise error_of(answer)
        return True
