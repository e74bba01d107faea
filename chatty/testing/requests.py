"""The (device, n) register in memory."""

from chatty.errors import DeviceRevoked
from chatty.ids import DeviceNumber, SendNumber
from chatty.services.messages import Recorded
from chatty.services.requests import Requests, check_number
from chatty.testing.tables import Request
from chatty.testing.transactions import Transaction


class MemoryRequests(Requests):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def open(self, device: DeviceNumber, *, n: SendNumber, low: SendNumber, digest: bytes) -> bytes | None:
        """A recorded answer is bytes (perhaps empty); None: the request is new, `low` is raised and n is taken."""
        await self._transaction.lock([("device_send", device)])
        tables = await self._transaction.read()
        row, known = tables.sends.get(device), tables.requests.get((device, n))
        if row is None:
            raise DeviceRevoked("no such device")
        recorded_digest = known.recorded.digest if known is not None else None
        if check_number(row, n=n, low=low, recorded_digest=recorded_digest, digest=digest):
            return known.answer if known is not None else b""
        await self._transaction.write(lambda tables: tables.raise_low(device, low=low, highest_n=n))
        return None

    async def record(self, device: DeviceNumber, *, n: SendNumber, digest: bytes, answer: bytes) -> None:
        request = Request(recorded=Recorded(digest=digest), answer=answer)
        await self._transaction.write(lambda tables: tables.record(device, n, request))
