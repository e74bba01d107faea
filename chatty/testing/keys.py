"""What sending and resuming ask about keys: which devices may be sent to, and how many one-time keys are left. There are none."""

from collections.abc import Collection

from chatty.ids import DeviceNumber
from chatty.services.keys import Address
from chatty.services.mailbox import UsableDevices
from chatty.services.streams import KeyStock
from chatty.testing.transactions import Transaction
from chatty.wire.frames import OneTimeKeyCounts
from chatty.wire.keys import SIGNED_CURVE25519


class MemoryKeys(KeyStock, UsableDevices):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def counts(self, device: DeviceNumber) -> OneTimeKeyCounts:
        await self._transaction.read()
        return key_counts()

    async def usable_devices(self, wanted: Collection[Address]) -> dict[Address, DeviceNumber]:
        tables = await self._transaction.read()
        usable: dict[Address, DeviceNumber] = {}
        for user, name in wanted:
            device = tables.device_named(name)
            if device and device.is_live and device.in_set and tables.users[device.user_number].user == user:
                usable[user, name] = device.number
        return usable


def key_counts() -> OneTimeKeyCounts:
    return OneTimeKeyCounts(counts={SIGNED_CURVE25519: 0}, unused_fallback_algorithms=[])
