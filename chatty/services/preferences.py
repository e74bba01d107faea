"""What a user lets others see: presence, receipts. Both are shown unless the user says no.

A change is told to the user's own devices by a `settings` event in the user's stream: each open socket reads them again by it, on
every node. So does a change of whom the user has blocked, since who is blocked sees neither presence nor typing nor receipts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from chatty.ids import UserNumber
from chatty.services.caller import Caller
from chatty.services.devices import DevicesUnit, lock_caller
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.units import Transactions
from chatty.wire.preferences import Preferences

SETTINGS_EVENT = "settings"


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What others may see of a user. hidden_from: nobody of these sees any of it."""

    presence: bool = True
    receipts: bool = True
    hidden_from: frozenset[UserNumber] = frozenset()


class PreferenceRows(Protocol):
    """What the steps need of the store, inside one transaction."""

    async def read(self, user: UserNumber) -> Preferences: ...
    async def write(self, user: UserNumber, preferences: Preferences) -> None: ...
    async def shown(self, user: UserNumber) -> Shown: ...
    async def append_user_event(
        self, user: UserNumber, *, kind: str, content: dict[str, Any], time_ms: int
    ) -> None: ...


class PreferencesUnit(DevicesUnit, Protocol):
    @property
    def preferences(self) -> PreferenceRows: ...


class PreferenceSteps:
    """clock_ms: since 1970."""

    def __init__(
        self, units: Transactions[PreferencesUnit], *, doorbells: Doorbells, clock_ms: Callable[[], int]
    ) -> None:
        self._units = units
        self._doorbells = doorbells
        self._clock_ms = clock_ms

    async def read(self, caller: Caller) -> Preferences:
        async with self._units.autocommit() as unit:
            return await unit.preferences.read(caller.user_number)

    async def shown(self, user: UserNumber) -> Shown:
        async with self._units.autocommit() as unit:
            return await unit.preferences.shown(user)

    async def write(self, caller: Caller, preferences: Preferences) -> None:
        """The same again changes nothing and tells nobody. Raises: DeviceRevoked."""
        user = caller.user_number
        async with self._units.begin() as unit:
            await lock_caller(unit, caller)
            if await unit.preferences.read(user) == preferences:
                return
            await unit.preferences.write(user, preferences)
            await tell_settings(unit.preferences, user, time_ms=self._clock_ms())
        self._doorbells.ring(Doorbell(users=[user]))


async def tell_settings(rows: PreferenceRows, user: UserNumber, *, time_ms: int) -> None:
    """To the user's own devices, that something of theirs was set anew; the user's row is locked."""
    await rows.append_user_event(user, kind=SETTINGS_EVENT, content={}, time_ms=time_ms)
