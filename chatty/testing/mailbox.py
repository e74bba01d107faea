"""Device mailboxes in memory."""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from chatty.ids import DeviceNumber, MailboxId, SendNumber
from chatty.services.mailbox import Mailbox, Parcel
from chatty.testing import tables as rows_
from chatty.testing.tables import Tables
from chatty.testing.transactions import Transaction
from chatty.wire import frames


class MemoryMailbox(Mailbox):
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def full(
        self, recipients: Collection[DeviceNumber], *, sender: DeviceNumber, of_sender_max: int, in_all_max: int
    ) -> tuple[list[DeviceNumber], list[DeviceNumber]]:
        held = list((await self._transaction.read()).mailbox.values())

        def count(recipient: DeviceNumber, *senders: DeviceNumber) -> int:
            return sum(row.recipient == recipient and (not senders or row.sender in senders) for row in held)

        return (
            [recipient for recipient in recipients if count(recipient, sender) >= of_sender_max],
            [recipient for recipient in recipients if count(recipient) >= in_all_max],
        )

    async def put(self, parcels: Sequence[Parcel], *, sender: DeviceNumber, n: SendNumber, kind: str) -> None:
        new = {
            MailboxId(self._transaction.next_number()): rows_.Parcel(
                recipient=parcel.recipient, sender=sender, n=n, kind=kind, content=parcel.content
            )
            for parcel in parcels
        }
        await self._transaction.write(lambda tables: tables.mailbox.update(new))

    async def rows(
        self, device: DeviceNumber, *, given: Collection[MailboxId], count_max: int, bytes_max: int
    ) -> list[frames.Mailbox]:
        tables = await self._transaction.read()
        of_device = sorted(one for one, row in tables.mailbox.items() if row.recipient == device and one not in given)
        found: list[frames.Mailbox] = []
        bytes_so_far = 0
        for one in of_device[:count_max]:
            bytes_so_far += len(tables.mailbox[one].content.encode())
            if found and bytes_so_far > bytes_max:
                break
            found.append(_frame(tables, one))
        return found

    async def acknowledge(self, device: DeviceNumber, ids: Collection[MailboxId]) -> None:
        def delete(tables: Tables) -> None:
            for one in ids:
                if one in tables.mailbox and tables.mailbox[one].recipient == device:
                    del tables.mailbox[one]

        await self._transaction.write(delete)

    async def pending(self, given: Mapping[DeviceNumber, Collection[MailboxId]]) -> set[DeviceNumber]:
        held = (await self._transaction.read()).mailbox
        return {row.recipient for one, row in held.items() if one not in given.get(row.recipient, {one})}


def _frame(tables: Tables, one: MailboxId) -> frames.Mailbox:
    row = tables.mailbox[one]
    device = tables.devices[row.sender]
    return frames.Mailbox(
        id=one,
        sender=tables.users[device.user_number].user,
        sender_device=device.device,
        n=row.n,
        kind=row.kind,
        content=msgspec.json.decode(row.content),
    )
