"""What users let others see: columns of their rows."""

from typing import Any

from chatty.ids import UserNumber
from chatty.services.preferences import PreferenceRows, Shown
from chatty.store.connection import TrioConnection
from chatty.store.streams import append_user_event
from chatty.wire.preferences import Preferences

_READ = "SELECT shows_presence, shows_receipts FROM users WHERE user_number = %s"  # index: users_pkey
_WRITE = "UPDATE users SET shows_presence = %s, shows_receipts = %s WHERE user_number = %s"
_SHOWN = """SELECT u.shows_presence, u.shows_receipts,
ARRAY(SELECT b.blocked_number FROM blocks b WHERE b.user_number = u.user_number)
FROM users u WHERE u.user_number = %s"""  # index: users_pkey, blocks_pkey


class PostgresPreferences(PreferenceRows):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def read(self, user: UserNumber) -> Preferences:
        row = await (await self._connection.execute(_READ, (user,))).fetchone()
        assert row is not None
        return Preferences(shows_presence=row[0], shows_receipts=row[1])

    async def write(self, user: UserNumber, preferences: Preferences) -> None:
        values = (preferences.shows_presence, preferences.shows_receipts, user)
        await self._connection.execute(_WRITE, values)

    async def shown(self, user: UserNumber) -> Shown:
        row = await (await self._connection.execute(_SHOWN, (user,))).fetchone()
        if row is None:
            return Shown(presence=False, receipts=False)
        return Shown(presence=row[0], receipts=row[1], hidden_from=frozenset(map(UserNumber, row[2])))

    async def append_user_event(self, user: UserNumber, *, kind: str, content: dict[str, Any], time_ms: int) -> None:
        await append_user_event(self._connection, user, kind=kind, content=content, time_ms=time_ms)
