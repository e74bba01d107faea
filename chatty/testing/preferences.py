"""What users let others see, in memory."""

from dataclasses import replace
from typing import Any

from chatty.ids import UserNumber
from chatty.services.preferences import PreferenceRows, Shown
from chatty.testing.tables import Tables
from chatty.testing.transactions import Transaction
from chatty.wire.preferences import Preferences


class MemoryPreferences(PreferenceRows):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def read(self, user: UserNumber) -> Preferences:
        row = (await self._transaction.read()).users[user]
        return Preferences(shows_presence=row.shows_presence, shows_receipts=row.shows_receipts)

    async def write(self, user: UserNumber, preferences: Preferences) -> None:
        def change(tables: Tables) -> None:
            tables.users[user] = replace(
                tables.users[user],
                shows_presence=preferences.shows_presence,
                shows_receipts=preferences.shows_receipts,
            )

        await self._transaction.write(change)

    async def shown(self, user: UserNumber) -> Shown:
        return shown(await self._transaction.read(), user)

    async def append_user_event(self, user: UserNumber, *, kind: str, content: dict[str, Any], time_ms: int) -> None:
        await self._transaction.write(
            lambda tables: tables.append_user_event(user, kind=kind, content=content, time_ms=time_ms)
        )


def shown(tables: Tables, user: UserNumber) -> Shown:
    row = tables.users.get(user)
    if row is None:
        return Shown(presence=False, receipts=False)
    return Shown(presence=row.shows_presence, receipts=row.shows_receipts, hidden_from=tables.hidden_from(user))
