"""Asks the server for device lists, and believes of the answer what was verified."""

from collections.abc import Iterable

from chatty.client.device_lists import DeviceLists
from chatty.client.http import Api
from chatty.client.reasons import KeysNeeded, Lie
from chatty.client.room_book import RoomBook
from chatty.client.server_keys import ServerKeys
from chatty.client.store import LocalStore
from chatty.ids import UserId
from chatty.wire.keys import KeyAnswer, KeyQuery
from chatty.wire.limits import query_users_max


class Directory:
    """One query at a time is not needed: an older answer never replaces a newer list."""

    def __init__(
        self, api: Api, store: LocalStore, *, lists: DeviceLists, book: RoomBook, server_keys: ServerKeys
    ) -> None:
        self._api = api
        self._store = store
        self._server_keys = server_keys
        self._lists = lists
        self._book = book

    async def learn_needed(self, needed: KeysNeeded) -> None:
        """Raises: as learn()."""
        if needed.of_server:
            jwks = await self._api.jwks()
            with self._store.transaction():
                self._server_keys.take(jwks)
        await self.learn(needed.users)

    async def learn(self, users: Iterable[UserId]) -> None:
        """Query these users. A lie about one freezes the rooms that they share with us; the others are taken.

        Raises: ChattyError when the server does not answer. Cancelled: some were learnt.
        """
        wanted = sorted(set(users))
        for at in range(0, len(wanted), query_users_max):
            page = wanted[at : at + query_users_max]
            answer = await self._api.query_keys(KeyQuery(device_keys={user: [] for user in page}))
            with self._store.transaction():
                for user in page:
                    self._take(user, answer)

    def _take(self, user: UserId, answer: KeyAnswer) -> None:
        try:
            self._lists.accept(user, answer)
        except Lie as lie:
            self._book.caught(lie)
