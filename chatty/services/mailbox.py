"""The device mailbox: what devices send each other outside rooms, stored until the recipient has it on disk.

It is a set, not a sequence. A connection is given every row that was not yet given on it, in id order, and acknowledges exact
ids, which deletes them. (With a cursor, a row that commits late under a smaller id would be skipped, and "acknowledge up to"
would delete an Olm key unseen.) The recipient drops a second (sender device, n). Nobody locks the recipient.

Types are an allow-list, each with the shape of its content: nothing but Olm envelopes and refusals of keys gets in.

Full: `rows_per_sender_max` rows from one device to another, exact, because a sender's requests come one by one; `rows_max`
rows in all, which requests that commit at the same moment may pass by theirs. The new request is refused whole; no old row is
dropped. Whoever was blocked (blocks.py) is answered as if it had arrived.
Cancelled or crashed: all rows of a request are stored, or none.
Source: Matrix client-server API, "Send-to-Device messaging".
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from chatty.errors import BadRequest, MailboxQuotaExceeded, TooLarge
from chatty.ids import DeviceId, DeviceNumber, MailboxId, SendNumber, UserId
from chatty.services.blocks import BlockCheck
from chatty.services.caller import Caller
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.keys import Address, addresses
from chatty.services.requests import Requests
from chatty.services.units import Transactions
from chatty.wire import frames, limits
from chatty.wire.canonical import canonical_json
from chatty.wire.chain import request_digest
from chatty.wire.keys import TO_DEVICE_CONTENTS, ToDevice, ToDeviceAnswer, ToDeviceContent


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """One row to be: content is the JSON that the recipient will get."""

    recipient: DeviceNumber
    content: str


# Rules --------------------------------------------------------------------------------------------------------------


def check_contents(body: ToDevice) -> dict[Address, str]:
    """The content for each device named, checked against the shape of its type.

    Raises: BadRequest (no such type, another shape, too many devices), TooLarge.
    """
    shape = TO_DEVICE_CONTENTS.get(body.type)
    if shape is None:
        raise BadRequest(f"{body.type} may not be sent to devices")
    named = addresses(body.messages, count_max=limits.to_device_recipients_max)
    return {(user, device): _content_json(body.messages[user][device], shape) for user, device in named}


def _content_json(content: ToDeviceContent, shape: type[msgspec.Struct]) -> str:
    try:
        encoded = msgspec.json.encode(msgspec.convert(content, shape))
    except msgspec.ValidationError as error:
        raise BadRequest(f"content refused: {error}") from None
    if len(encoded) > limits.to_device_content_bytes_max:
        raise TooLarge(limit="to_device_content_bytes_max", bytes_max=limits.to_device_content_bytes_max)
    return encoded.decode()


# Ports --------------------------------------------------------------------------------------------------------------


class Mailbox(Protocol):
    async def full(
        self, recipients: Collection[DeviceNumber], *, sender: DeviceNumber, of_sender_max: int, in_all_max: int
    ) -> tuple[Collection[DeviceNumber], Collection[DeviceNumber]]:
        """Those that hold of_sender_max rows of this sender already, and those that hold in_all_max of anybody."""
        ...

    async def put(self, parcels: Sequence[Parcel], *, sender: DeviceNumber, n: SendNumber, kind: str) -> None: ...

    async def rows(
        self, device: DeviceNumber, *, given: Collection[MailboxId], count_max: int, bytes_max: int
    ) -> list[frames.Mailbox]:
        """Rows of the device that are not among `given`, in id order.

        At most count_max, with contents of at most bytes_max together; the first is given however large it is.
        """
        ...

    async def acknowledge(self, device: DeviceNumber, ids: Collection[MailboxId]) -> None:
        """Delete exactly these rows of this device; ids of others and of no row are passed over."""
        ...

    async def pending(self, given: Mapping[DeviceNumber, Collection[MailboxId]]) -> set[DeviceNumber]:
        """Which of these devices have a row that was not yet given to them; one statement for all."""
        ...


class UsableDevices(Protocol):
    async def usable_devices(self, wanted: Collection[Address]) -> Mapping[Address, DeviceNumber]:
        """Those that are live and in their user's set."""
        ...


class MailboxUnit(Protocol):
    """What these steps need of a transaction."""

    @property
    def requests(self) -> Requests: ...
    @property
    def keys(self) -> UsableDevices: ...
    @property
    def mailbox(self) -> Mailbox: ...
    @property
    def blocks(self) -> BlockCheck: ...


# Steps --------------------------------------------------------------------------------------------------------------


class MailboxSteps:
    """rows_per_sender_max: from one device to another; rows_max: in one device's mailbox."""

    def __init__(
        self,
        *,
        unit_of_work: Transactions[MailboxUnit],
        doorbells: Doorbells,
        rows_per_sender_max: int = 1_000,
        rows_max: int = 20_000,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._rows_per_sender_max = rows_per_sender_max
        self._rows_max = rows_max

    async def send(self, caller: Caller, body: ToDevice, *, n: SendNumber, low: SendNumber) -> ToDeviceAnswer:
        """Put one row into the mailbox of each device named; a resend puts none and gets the same answer.

        Returns: the devices that are gone, revoked or not in their user's set.
        Raises: BadRequest, TooLarge, MailboxQuotaExceeded; MessageIdConflict, MessageIdClosed, SendWindowFull, DeviceRevoked.
        Cancelled: all rows are stored, or none.
        """
        contents = check_contents(body)
        digest = request_digest("post_v1_to_device", canonical_json(msgspec.to_builtins(body)))
        async with self._unit_of_work.begin() as unit:
            recorded = await unit.requests.open(caller.device_number, n=n, low=low, digest=digest)
            if recorded is not None:
                return msgspec.json.decode(recorded, type=ToDeviceAnswer)
            numbers = await unit.keys.usable_devices(contents)
            await self._check_room(unit.mailbox, caller, numbers)
            deaf = await unit.blocks.deaf_devices(numbers.values(), sender=caller.user_number)
            parcels = [
                Parcel(recipient=number, content=contents[address])
                for address, number in numbers.items()
                if number not in deaf
            ]
            await unit.mailbox.put(parcels, sender=caller.device_number, n=n, kind=body.type)
            answer = _answer(contents, numbers)
            await unit.requests.record(caller.device_number, n=n, digest=digest, answer=msgspec.json.encode(answer))
        self._doorbells.ring(Doorbell(devices=[parcel.recipient for parcel in parcels]))
        return answer

    async def _check_room(self, mailbox: Mailbox, caller: Caller, numbers: Mapping[Address, DeviceNumber]) -> None:
        of_sender, in_all = await mailbox.full(
            numbers.values(),
            sender=caller.device_number,
            of_sender_max=self._rows_per_sender_max,
            in_all_max=self._rows_max,
        )
        named = {number: device for (_, device), number in numbers.items()}
        for quota, count_max, full in (
            ("mailbox_rows_per_sender_max", self._rows_per_sender_max, of_sender),
            ("mailbox_rows_max", self._rows_max, in_all),
        ):
            if full:
                raise MailboxQuotaExceeded(quota=quota, count_max=count_max, devices=[named[device] for device in full])


def _answer(contents: Collection[Address], numbers: Mapping[Address, DeviceNumber]) -> ToDeviceAnswer:
    unknown: dict[UserId, list[DeviceId]] = {}
    for user, device in contents:
        if (user, device) not in numbers:
            unknown.setdefault(user, []).append(device)
    return ToDeviceAnswer(unknown=unknown)
