"""Who has blocked whom, as other features ask."""

from collections.abc import Collection

from chatty.ids import DeviceNumber, UserNumber
from chatty.services.blocks import BlockCheck
from chatty.testing.tables import Tables
from chatty.testing.transactions import Transaction


class MemoryBlocks(BlockCheck):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def is_blocked(self, user: UserNumber, *, by: UserNumber) -> bool:
        return (by, user) in (await self._transaction.read()).blocks

    async def deaf_devices(self, devices: Collection[DeviceNumber], *, sender: UserNumber) -> set[DeviceNumber]:
        tables = await self._transaction.read()
        return {device for device in devices if _is_deaf(tables, tables.devices[device].user_number, sender)}


def _is_deaf(tables: Tables, user: UserNumber, sender: UserNumber) -> bool:
    shares_room = any(tables.is_joined(room, user) and tables.is_joined(room, sender) for room in tables.rooms)
    return (user, sender) in tables.blocks and not shares_room
