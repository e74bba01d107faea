"""Who gets a room's key: the devices of the joined members whose authority was verified, with lists as new as the chain names.

For epoch e the lists must be at least as new as those that the chain names at e; older ones are queried anew, after e was read. A
device without an Olm session gets one from a claimed one-time key that it signed; one without keys is told why it cannot read.
What goes to devices is on disk, with its n and the moved ratchets, before it leaves; after a crash the same bytes go again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import trio
from msgspec import to_builtins

from chatty.client.device_lists import DeviceLists, KnownDevice
from chatty.client.directory import Directory
from chatty.client.errors import is_retryable
from chatty.client.http import Api
from chatty.client.megolm import MegolmSessions, RoomKey
from chatty.client.numbers import SendNumbers
from chatty.client.olm import OlmAccount, RoomKeyContent
from chatty.client.reasons import Lie, Reason, RoomFrozen
from chatty.client.room_book import RoomBook
from chatty.client.rooms import RoomVerifier
from chatty.client.store import LocalStore
from chatty.errors import ChattyError, NotAMember
from chatty.ids import DeviceId, RoomId, SendNumber, Seq, UserId
from chatty.wire import limits
from chatty.wire.events import MEGOLM
from chatty.wire.keys import KeyClaim, ToDevice, WithheldContent

_OPEN = "open_to_device"


@dataclass(frozen=True, kw_only=True)
class Recipient:
    user: UserId
    known: KnownDevice


def outdated_members(verifier: RoomVerifier, lists: DeviceLists) -> list[UserId]:
    """Members whose list is older than the one that the chain names."""
    return [user for user, membership in verifier.joined().items() if lists.version(user) < membership.list_version]


def recipients_of(verifier: RoomVerifier, lists: DeviceLists, *, own: DeviceId) -> list[Recipient]:
    """Every device that must be able to read, but this one."""
    return [
        Recipient(user=user, known=known)
        for user in verifier.joined()
        for known in lists.in_set(user)
        if known.device != own
    ]


def newest_removal(verifier: RoomVerifier) -> Seq:
    """Seq of the newest leave, kick or ban; 0: none."""
    memberships = verifier.state.memberships.values() if verifier.state is not None else ()
    return max((membership.removed_seq for membership in memberships), default=Seq(0))


class KeySharing:
    """One room is prepared by one task at a time."""

    def __init__(
        self,
        store: LocalStore,
        *,
        me: UserId,
        device: DeviceId,
        api: Api,
        directory: Directory,
        lists: DeviceLists,
        book: RoomBook,
        olm: OlmAccount,
        megolm: MegolmSessions,
        numbers: SendNumbers,
    ) -> None:
        self._store = store
        self._me = me
        self._device = device
        self._api = api
        self._directory = directory
        self._lists = lists
        self._book = book
        self._olm = olm
        self._megolm = megolm
        self._numbers = numbers
        self._locks: dict[RoomId, trio.Lock] = {}
        self._unsent = {SendNumber(int(name)): request for name, request in store.items(_OPEN, ToDevice)}

    def lock(self, room: RoomId) -> trio.Lock:
        """Held over queries, claims and the encryption after them: the key goes out once, before what it encrypts."""
        return self._locks.setdefault(room, trio.Lock())

    async def prepare(self, room: RoomId) -> Seq:
        """Give the room's key to everybody who lacks it. Returns the epoch that it is ready for; encrypt before awaiting again.

        Raises: RoomFrozen, NotAMember, ChattyError. Cancelled: some have the key, which does no harm.
        """
        while True:
            await self._send_unsent()
            verifier = self._trusted(room)
            epoch = verifier.epoch
            outdated = outdated_members(verifier, self._lists)
            if outdated:
                await self._update_lists(verifier, outdated)
                continue
            recipients = recipients_of(verifier, self._lists, own=self._device)
            devices = [recipient.known.device for recipient in recipients]
            key = self._megolm.room_key(room, recipients=devices, removed_seq=newest_removal(verifier))
            lacking = self._megolm.lacking(room, devices)
            if not lacking:
                return epoch
            await self._give(room, key, [one for one in recipients if one.known.device in lacking])

    def _trusted(self, room: RoomId) -> RoomVerifier:
        verifier = self._book.get(room)
        if verifier.frozen is not None:
            raise RoomFrozen(room, verifier.frozen)
        if self._me not in verifier.joined():
            raise NotAMember(f"not a member of {room}")
        return verifier

    async def _update_lists(self, verifier: RoomVerifier, users: list[UserId]) -> None:
        wanted = {user: verifier.joined()[user].list_version for user in users}
        await self._directory.learn(users)
        for user, version in wanted.items():
            if self._lists.version(user) < version and verifier.frozen is None:
                detail = f"the server shows an older list of {user} than the chain names"
                with self._store.transaction():
                    self._book.caught(Lie(Reason.DEVICE_LIST_MISMATCH, detail, room=verifier.room, user=user))

    async def _give(self, room: RoomId, key: RoomKey, recipients: list[Recipient]) -> None:
        await self._start_sessions([one for one in recipients if not self._olm.can_send(one.known)])
        for page in _pages(recipients):
            self._trusted(room)  # may have been frozen meanwhile: then nobody gets anything
            await self._send(*self._write(room, key, page))
        for page in _pages([one for one in recipients if not self._olm.can_send(one.known)]):
            await self._send(*self._write_withheld(room, key, page))

    async def _start_sessions(self, recipients: list[Recipient]) -> None:
        for at in range(0, len(recipients), limits.claim_devices_max):
            page = recipients[at : at + limits.claim_devices_max]
            wanted: dict[UserId, dict[DeviceId, Literal["signed_curve25519"]]] = {}
            for one in page:
                wanted.setdefault(one.user, {})[one.known.device] = "signed_curve25519"
            await self._numbers.wait_for_room()
            n = self._numbers.take()
            try:
                claimed = await self._api.claim_keys(KeyClaim(one_time_keys=wanted), n=n, low=self._numbers.low)
            finally:
                self._numbers.settle(n)  # not repeated after a failure: keys are cheap
            with self._store.transaction():
                for one in page:
                    for signed in claimed.one_time_keys.get(one.user, {}).get(one.known.device, {}).values():
                        self._start_session(one, signed)

    def _start_session(self, one: Recipient, signed: Any) -> None:
        try:
            self._olm.start_session(one.user, one.known, signed)
        except Lie as lie:
            self._book.caught(lie)

    def _write(self, room: RoomId, key: RoomKey, recipients: list[Recipient]) -> tuple[SendNumber, ToDevice]:
        """Encrypt for those with whom a session exists, and write it with its n. The others are not asked again."""
        content = RoomKeyContent(algorithm=MEGOLM, room_id=room, session_id=key.session_id, session_key=key.session_key)
        messages: dict[UserId, dict[DeviceId, dict[str, Any]]] = {}
        with self._store.transaction():
            for one in recipients:
                if self._olm.can_send(one.known):
                    encrypted = self._olm.encrypt_room_key(one.user, one.known, content)
                    messages.setdefault(one.user, {})[one.known.device] = encrypted
            request = ToDevice(type="m.room.encrypted", messages=messages)
            n = self._numbers.take()
            self._store.put(_OPEN, str(n), request)
            self._megolm.mark_shared(room, key.session_id, [one.known.device for one in recipients])
        return n, request

    def _write_withheld(self, room: RoomId, key: RoomKey, recipients: list[Recipient]) -> tuple[SendNumber, ToDevice]:
        """Tell devices that had no one-time key left why they cannot read."""
        content = WithheldContent(
            algorithm=MEGOLM,
            code="m.no_olm",
            sender_key=self._olm.curve25519,
            room_id=room,
            session_id=key.session_id,
            from_device=self._device,
        )
        messages: dict[UserId, dict[DeviceId, dict[str, Any]]] = {}
        for one in recipients:
            messages.setdefault(one.user, {})[one.known.device] = to_builtins(content)
        request = ToDevice(type="m.room_key.withheld", messages=messages)
        with self._store.transaction():
            n = self._numbers.take()
            self._store.put(_OPEN, str(n), request)
        return n, request

    async def _send(self, n: SendNumber, request: ToDevice) -> None:
        """Until it has an outcome. Raises: ChattyError while it has none: it stays open and goes again."""
        try:
            if request.messages:
                await self._api.to_device(request, n=n, low=self._numbers.low)
        except ChattyError as error:
            if is_retryable(error):
                self._unsent[n] = request
                raise
        with self._store.transaction():
            self._store.delete(_OPEN, str(n))
        self._unsent.pop(n, None)
        self._numbers.settle(n)

    async def _send_unsent(self) -> None:
        """What an earlier run, or a try without an answer, left behind."""
        for n, request in list(self._unsent.items()):
            await self._send(n, request)


def open_to_device(store: LocalStore) -> set[int]:
    """The n of room keys that have no outcome yet."""
    return {int(name) for name, _ in store.items(_OPEN, ToDevice)}


def _pages(recipients: list[Recipient]) -> Iterator[list[Recipient]]:
    size = limits.to_device_recipients_max
    for at in range(0, len(recipients), size):
        yield recipients[at : at + size]
