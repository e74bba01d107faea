"""Blocks: whom a user does not want to hear from (docs/protocol.md, "Blocking").

A block keeps out what comes from outside the rooms that both are in: invitations, new direct rooms, to-device messages. Inside a
shared room nothing changes, for there the others must be able to read both; but neither presence nor typing nor receipts of the
blocking user are shown to the blocked one (services/preferences.py).

The blocked one is not told. An invitation and a to-device message are answered as if they had arrived; a direct room, which
cannot be made without the other, is refused as for somebody who does not exist. Who compares that with a key query may guess.

A block and what it keeps out are decided under the lock of the blocking user's row; but to-device messages lock nobody, and one
that is sent at the same moment may still arrive.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from chatty.errors import BadRequest, NotFound
from chatty.ids import DeviceNumber, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.limits import Limits, count_lookups
from chatty.services.preferences import PreferenceRows, tell_settings
from chatty.services.quotas import Quotas
from chatty.services.units import Transactions

# Ports --------------------------------------------------------------------------------------------------------------


class BlockCheck(Protocol):
    """What other features ask."""

    async def is_blocked(self, user: UserNumber, *, by: UserNumber) -> bool: ...

    async def deaf_devices(self, devices: Collection[DeviceNumber], *, sender: UserNumber) -> set[DeviceNumber]:
        """Those whose users have blocked the sender and share no room with it; one statement for all."""
        ...


class Blocks(BlockCheck, Protocol):
    async def lock_pair(self, user: UserNumber, other: UserId) -> UserNumber | None:
        """Both rows locked; the other's number. None: nobody of this name."""
        ...

    async def blocked(self, user: UserNumber) -> Sequence[UserId]:
        """Sorted."""
        ...

    async def count(self, user: UserNumber) -> int: ...
    async def add(self, user: UserNumber, *, blocked: UserNumber) -> None: ...

    async def remove(self, user: UserNumber, *, blocked: UserNumber) -> None:
        """Passed over if there is none."""
        ...


class BlocksUnit(Protocol):
    """What these steps need of a transaction."""

    @property
    def blocks(self) -> Blocks: ...
    @property
    def preferences(self) -> PreferenceRows: ...


# Steps --------------------------------------------------------------------------------------------------------------


class BlockSteps:
    """No audit row: whom one blocks is nobody's business, and would stand there for ever. clock_ms: since 1970."""

    def __init__(
        self,
        *,
        unit_of_work: Transactions[BlocksUnit],
        limits: Limits,
        quotas: Quotas,
        doorbells: Doorbells,
        clock_ms: Callable[[], int],
    ) -> None:
        self._unit_of_work = unit_of_work
        self._limits = limits
        self._quotas = quotas
        self._doorbells = doorbells
        self._clock_ms = clock_ms

    async def blocked(self, caller: Caller) -> Sequence[UserId]:
        async with self._unit_of_work.autocommit() as unit:
            return await unit.blocks.blocked(caller.user_number)

    async def block(self, caller: Caller, user: UserId) -> None:
        """The same again changes nothing.

        Raises: NotFound (no such user), BadRequest (oneself), QuotaExceeded (blocks), RateLimited.
        """
        if user == caller.user:
            raise BadRequest("nobody blocks himself")
        count_lookups(self._limits, caller, "put_v1_blocks_user")
        async with self._unit_of_work.begin() as unit:
            other = await unit.blocks.lock_pair(caller.user_number, user)
            if other is None:
                raise NotFound("no such user")
            if await unit.blocks.is_blocked(other, by=caller.user_number):
                return
            self._quotas.check_blocks(caller.role, count=await unit.blocks.count(caller.user_number))
            await unit.blocks.add(caller.user_number, blocked=other)
            await tell_settings(unit.preferences, caller.user_number, time_ms=self._clock_ms())
        self._doorbells.ring(Doorbell(users=[caller.user_number]))

    async def unblock(self, caller: Caller, user: UserId) -> None:
        """Somebody who is not blocked may be named too. Raises: NotFound (no such user), RateLimited."""
        count_lookups(self._limits, caller, "delete_v1_blocks_user")
        async with self._unit_of_work.begin() as unit:
            other = await unit.blocks.lock_pair(caller.user_number, user)
            if other is None:
                raise NotFound("no such user")
            if not await unit.blocks.is_blocked(other, by=caller.user_number):
                return
            await unit.blocks.remove(caller.user_number, blocked=other)
            await tell_settings(unit.preferences, caller.user_number, time_ms=self._clock_ms())
        self._doorbells.ring(Doorbell(users=[caller.user_number]))
