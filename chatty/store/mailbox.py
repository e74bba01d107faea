"""Device mailboxes in PostgreSQL: rows without foreign keys, so that a sender locks nothing of the recipient."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from chatty.ids import DeviceId, DeviceNumber, MailboxId, SendNumber, UserId
from chatty.services.mailbox import Mailbox, Parcel
from chatty.store.connection import TrioConnection, bigints
from chatty.wire import frames

# Counted no further than the bound. mailbox_sender (device_number, sender_device_number), mailbox_device (device_number, …)
_FULL = """SELECT device_number,
(SELECT count(*) FROM (SELECT FROM mailbox m WHERE m.device_number = r.device_number AND m.sender_device_number = %s
LIMIT %s) AS counted) >= %s,
(SELECT count(*) FROM (SELECT FROM mailbox m WHERE m.device_number = r.device_number LIMIT %s) AS counted) >= %s
FROM unnest(%s::bigint[]) AS r (device_number)"""
_PUT = """INSERT INTO mailbox (device_number, sender_device_number, n, kind, content)
SELECT device_number, %s, %s, %s, content FROM unnest(%s::bigint[], %s::text[]) AS parcels (device_number, content)"""
# The rows given before are anti-joined: a list in the condition would be compared with each row one by one.
_ROWS = """SELECT mailbox_id, user_id, device_id, n, kind, content FROM (
SELECT m.mailbox_id, u.user_id, d.device_id, m.n, m.kind, m.content,
sum(octet_length(m.content)) OVER (ORDER BY m.mailbox_id) AS bytes_so_far, octet_length(m.content) AS bytes
FROM mailbox m JOIN devices d ON d.device_number = m.sender_device_number JOIN users u ON u.user_number = d.user_number
WHERE m.device_number = %s
AND NOT EXISTS (SELECT FROM unnest(%s::bigint[]) AS given (mailbox_id) WHERE given.mailbox_id = m.mailbox_id)
ORDER BY m.mailbox_id LIMIT %s) AS page
WHERE bytes_so_far <= %s OR bytes_so_far = bytes ORDER BY mailbox_id"""  # mailbox_device (device_number, mailbox_id)
# Two sockets of one device may acknowledge the same rows: both lock them in the same order.
_ACKNOWLEDGE = """DELETE FROM mailbox WHERE mailbox_id IN (SELECT mailbox_id FROM mailbox
WHERE device_number = %s AND mailbox_id = ANY(%s) ORDER BY mailbox_id FOR UPDATE)"""  # mailbox_pkey
_PENDING = """SELECT device_number FROM unnest(%s::bigint[]) AS asked (device_number) WHERE EXISTS (
SELECT FROM mailbox m WHERE m.device_number = asked.device_number
AND NOT EXISTS (SELECT FROM unnest(%s::bigint[]) AS given (mailbox_id) WHERE given.mailbox_id = m.mailbox_id))"""


class PostgresMailbox(Mailbox):
    """On one connection, inside its transaction or, for a single statement, without one."""

    def __init__(self, connection: TrioConnection) -> None:
        self._connection = connection

    async def full(
        self, recipients: Collection[DeviceNumber], *, sender: DeviceNumber, of_sender_max: int, in_all_max: int
    ) -> tuple[list[DeviceNumber], list[DeviceNumber]]:
        bounds = (sender, of_sender_max, of_sender_max, in_all_max, in_all_max)
        rows = await self._rows(_FULL, *bounds, list(recipients))
        of_sender = [DeviceNumber(device) for device, is_full, _ in rows if is_full]
        return of_sender, [DeviceNumber(device) for device, _, is_full in rows if is_full]

    async def put(self, parcels: Sequence[Parcel], *, sender: DeviceNumber, n: SendNumber, kind: str) -> None:
        columns = ([parcel.recipient for parcel in parcels], [parcel.content for parcel in parcels])
        await self._connection.execute(_PUT, (sender, n, kind, *columns))

    async def rows(
        self, device: DeviceNumber, *, given: Collection[MailboxId], count_max: int, bytes_max: int
    ) -> list[frames.Mailbox]:
        found = await self._rows(_ROWS, device, list(given), count_max, bytes_max)
        return [
            frames.Mailbox(
                id=MailboxId(mailbox_id),
                sender=UserId(sender),
                sender_device=DeviceId(sender_device),
                n=SendNumber(n),
                kind=kind,
                content=msgspec.json.decode(content),
            )
            for mailbox_id, sender, sender_device, n, kind, content in found
        ]

    async def acknowledge(self, device: DeviceNumber, ids: Collection[MailboxId]) -> None:
        await self._connection.execute(_ACKNOWLEDGE, (device, list(ids)))

    async def pending(self, given: Mapping[DeviceNumber, Collection[MailboxId]]) -> set[DeviceNumber]:
        all_given = [mailbox_id for ids in given.values() for mailbox_id in ids]  # an id belongs to one device only
        return {DeviceNumber(number) for (number,) in await self._rows(_PENDING, bigints(given), all_given)}

    async def _rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return await (await self._connection.execute(sql, parameters)).fetchall()
