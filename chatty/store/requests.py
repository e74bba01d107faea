"""The (device, n) register: outcomes of requests, kept until the client's `low` passes them."""

from chatty.errors import DeviceRevoked
from chatty.ids import DeviceNumber, SendNumber
from chatty.services.requests import Requests, check_number
from chatty.store.connection import TrioConnection
from chatty.store.locks import lock_device_send

_LOOK_UP = """SELECT s.low, s.highest_n, s.is_live, r.digest, r.answer FROM device_send s
LEFT JOIN requests r ON r.device_number = s.device_number AND r.n = %s WHERE s.device_number = %s"""  # requests_pkey
_RECORD = "INSERT INTO requests (device_number, n, digest, answer) VALUES (%s, %s, %s, %s)"
_RAISE = "UPDATE device_send SET low = greatest(low, %s), highest_n = greatest(highest_n, %s) WHERE device_number = %s"
_FORGET = "DELETE FROM requests WHERE device_number = %s AND n < %s"


class PostgresRequests(Requests):
    """On one connection, inside its transaction."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def open(self, device: DeviceNumber, *, n: SendNumber, low: SendNumber, digest: bytes) -> bytes | None:
        """A recorded answer is bytes (perhaps empty); None: the request is new, `low` is raised and n is taken."""
        row = await lock_device_send(self._connection, device)
        if row is None:
            raise DeviceRevoked("no such device")
        found = await (await self._connection.execute(_LOOK_UP, (n, device))).fetchone()
        assert found is not None
        recorded_digest, answer = found[3], found[4]
        if check_number(row, n=n, low=low, recorded_digest=recorded_digest, digest=digest):
            return bytes(answer or b"")
        await self._connection.execute(_RAISE, (low, n, device))
        await self._connection.execute(_FORGET, (device, max(low, row.low)))
        return None

    async def record(self, device: DeviceNumber, *, n: SendNumber, digest: bytes, answer: bytes) -> None:
        await self._connection.execute(_RECORD, (device, n, digest, answer))
