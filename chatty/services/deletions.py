"""Deleting an account: at once nobody can use it, and then a job erases it, however long that takes.

    asked for ── one transaction ──> ended ── told to every room ── messages erased, room by room ── the rest ──> finished

*Ended*: devices, log-in sessions and sockets are over, the log-in key and the wrapped secrets gone, nobody can invite it, its
name is taken for ever by a hash. That is one transaction under the user's lock.

*Told*: a room learns it by a removal that the server signs, so that nobody encrypts for the user any more, and so that who reads
the room later knows why messages are missing. It is appended before the first of them goes.

*Messages* keep their place and their leaf, or the chain would break for all others; everything else about them goes. *Signed
events* (creation, membership, policy) stay, for the others' rights hang on them, and with them what verifies them: the user id,
the identity key, and the Ed25519 keys of the devices that signed one. A room that nobody else ever was in goes whole.

*The rest* are stages over the other tables, in one list (store/deletions.py), which a test compares with the schema.

The job is services/erasure.py. Nothing can be added for an account that has ended: whatever adds something locks the user's row
first and finds it gone.

The receipt says of each store how many rows were erased or kept, and why. It is opened by a token that only the client knows,
without an account, for `receipt_lifetime_s` after the end.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from chatty.crypto.sealing import Sealer
from chatty.errors import NotFound
from chatty.ids import DeviceId, RoomNumber, Seq, UserId, UserNumber
from chatty.services.caller import Caller
from chatty.services.devices import end_devices
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.issuer import Issuer
from chatty.services.jobs import Done
from chatty.services.login_throttle import LoginThrottle
from chatty.services.permissions import OPERATE
from chatty.services.sessions import SessionsUnit, check_own_password
from chatty.services.units import Transactions
from chatty.services.users import UserRows, UsersUnit, check_actor, check_other_owner, lock_with_actor, record_act
from chatty.wire.canonical import decode_base64, decode_base64url, encode_base64url
from chatty.wire.deletions import AccountDeletion, DeletedUser, Receipt, StoreReceipt
from chatty.wire.events import TimelineEvent

receipt_format = 1
receipt_lifetime_s = 30 * 86_400.0
stretch_seqs_max = 1_000  # places of a room in one transaction
receipts_a_step_max = 1_000

# What is left in a store after a deletion, and why; the others keep nothing of the user.
KEPT = {
    "users": "user id, identity key and list version, while signed room events stay",
    "devices": "id and Ed25519 key of devices that signed a room event which stays",
    "rooms": "signed creations: the others' rights in the room hang on them",
    "timeline": "the leaf of each message, for the chain; room events by and about the user: the others' rights hang on them",
    "bodies": "contents of room events by and about the user",
    "requests": "answers to other devices that they have not settled yet, in which ids and public keys may stand",
    "revocations": "numbers of the ended devices, for ten minutes, until every process has closed their sockets",
    "audit": "acts of the user and about the user: the log is a chain that must not be altered; addresses go as always",
    "erased_names": "a hash of the user id and one of the name, so that nobody can take the identity",
    "deletions": "this receipt, for 30 days",
}


# Ports --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class OwedRemoval:
    """was_inside: else the user was only banned from outside, and the room need not hear of it."""

    user_number: UserNumber
    user: UserId
    was_inside: bool


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Where to go on in one room of a deleted account, with its row locked. is_alone: nobody else ever was in it.

    last_seq: of the removal; of the room, where it goes whole.
    """

    room: RoomNumber
    user_number: UserNumber
    user: UserId
    next_seq: Seq
    last_seq: Seq
    is_alone: bool

    @property
    def end_seq(self) -> Seq:
        """The last place of this stretch."""
        return Seq(min(self.next_seq + stretch_seqs_max - 1, self.last_seq))

    @property
    def is_last(self) -> bool:
        return self.end_seq == self.last_seq


@dataclass(frozen=True, kw_only=True)
class Count:
    erased: int = 0
    kept: int = 0


Counts = Mapping[str, Count]


@dataclass(frozen=True, kw_only=True)
class StoredReceipt:
    """is_done: of a store, by its name. Times are ms since 1970."""

    began: int
    finished: int | None
    counts: Counts
    is_done: Mapping[str, bool] = field(default_factory=dict)


class Deletions(Protocol):
    """The store of deletions, inside one transaction."""

    async def begin(self, user: UserNumber, *, receipt_hash: bytes) -> None:
        """End the account and note what is to be erased; the user's row is locked, its devices are ended."""
        ...

    async def is_idle(self) -> bool:
        """No deletion is under way."""
        ...

    async def room_to_tell(self) -> RoomNumber | None:
        """A room that has not heard of a deletion, locked; those that somebody works on are passed over."""
        ...

    async def owed_removals(self, room: RoomNumber) -> Sequence[OwedRemoval]: ...

    async def note_removed(self, room: RoomNumber, user: UserNumber, *, seq: Seq | None) -> None:
        """The removal stands at seq; None: the user never was inside."""
        ...

    async def next_stretch(self) -> Stretch | None:
        """Of a room that has heard; its row of erasures locked. Those that somebody works on are passed over."""
        ...

    async def events(self, stretch: Stretch) -> Sequence[TimelineEvent]:
        """The user's messages, without their bodies, and the room events of all, in this stretch."""
        ...

    async def erase_messages(self, room: RoomNumber, leaves: Mapping[Seq, bytes]) -> Counts: ...

    async def erase_places(self, stretch: Stretch) -> Counts:
        """Everything at these places of a room of one's own."""
        ...

    async def move_on(self, stretch: Stretch) -> Counts:
        """The stretch is done; after the last one the room is done with, and a room of one's own is gone."""
        ...

    async def add_counts(self, user: UserNumber, counts: Counts, signers: set[DeviceId]) -> None: ...

    async def next_stage(self) -> bool:
        """One bounded piece of the other tables, of an account that is through with its rooms. False: there is none."""
        ...

    async def receipt(self, receipt_hash: bytes) -> StoredReceipt | None: ...

    async def forget_receipts(self, *, age_s: float, count_max: int) -> int:
        """Delete those that finished longer ago. Returns how many."""
        ...


class EndingUnit(UsersUnit, Protocol):
    """What it takes to end an account."""

    @property
    def deletions(self) -> Deletions: ...


class DeletionsUnit(SessionsUnit, Protocol):
    """What asking for a deletion, and its receipt, needs of a transaction."""

    @property
    def deletions(self) -> Deletions: ...
    @property
    def users(self) -> UserRows: ...


# Steps --------------------------------------------------------------------------------------------------------------


async def end_account(
    unit: EndingUnit, by: Caller | None, user: UserId, *, receipt_hash: bytes, now_ms: int
) -> Doorbell:
    """Nobody can use it from the commit on, and the job finds it; the server and the user are locked.

    by: the user; None: the operator. Raises: NotFound, LastOwner.
    """
    now = await unit.users.find(user)
    if now is None:
        raise NotFound("no such user")
    await check_other_owner(unit, now)
    doorbell = await end_devices(unit, now.number, now_ms=now_ms)
    await unit.deletions.begin(now.number, receipt_hash=receipt_hash)
    await record_act(unit, by, "account.deleted", user)
    return doorbell


class OperatorDeletion:
    """For the operator at the console, whom nobody asks for a password. clock_ms: milliseconds since 1970."""

    def __init__(
        self, *, unit_of_work: Transactions[EndingUnit], doorbells: Doorbells, clock_ms: Callable[[], int]
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._clock_ms = clock_ms

    async def delete(self, by: Caller | None, user: UserId) -> DeletedUser:
        """End the account now; a running server erases it. Returns what opens the receipt.

        by: the operator elsewhere; None: on the machine. Raises: NotFound, LastOwner, Forbidden, DeviceRevoked, Outranked.
        """
        raw = secrets.token_bytes(32)
        async with self._unit_of_work.begin() as unit:
            await lock_with_actor(unit, by, user)
            await check_actor(unit, by, OPERATE)
            doorbell = await end_account(unit, by, user, receipt_hash=sha256(raw).digest(), now_ms=self._clock_ms())
        self._doorbells.ring(doorbell)
        return DeletedUser(user=user, receipt=encode_base64url(raw))


class DeletionSteps:
    def __init__(
        self,
        *,
        unit_of_work: Transactions[DeletionsUnit],
        doorbells: Doorbells,
        issuer: Issuer,
        sealer: Sealer,
        throttle: LoginThrottle,
        server_name: str,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._doorbells = doorbells
        self._issuer = issuer
        self._sealer = sealer
        self._throttle = throttle
        self._server_name = server_name

    async def delete(self, caller: Caller, body: AccountDeletion, *, address: str = "") -> Receipt:
        """End the caller's account now; the rest follows by itself. Returns how far it is.

        Raises: LoginRefused (the password's signature, or the nonce), RateLimited, LastOwner.
        """
        receipt_hash = decode_base64(body.receipt_hash, length=32)
        what, device = "delete_v1_account", caller.device
        with self._throttle.attempt(caller.user, what=what, address=address, known_device=device):
            async with self._unit_of_work.begin() as unit:
                doorbell = await self._delete(unit, caller, body, receipt_hash)
        self._doorbells.ring(doorbell)
        return await self._receipt(receipt_hash)

    async def _delete(
        self, unit: DeletionsUnit, caller: Caller, body: AccountDeletion, receipt_hash: bytes
    ) -> Doorbell:
        await unit.users.lock_server()
        await check_own_password(
            unit,
            self._issuer,
            self._sealer,
            caller,
            nonce=body.nonce,
            signature=body.signature,
            purpose="delete_account",
            about=receipt_hash,
        )
        now_ms = self._issuer.now_ms()
        return await end_account(unit, caller, caller.user, receipt_hash=receipt_hash, now_ms=now_ms)

    async def receipt(self, token: str) -> Receipt:
        """Raises: NotFound, also when its time is over."""
        return await self._receipt(sha256(decode_base64url(token, length=32)).digest())

    async def _receipt(self, receipt_hash: bytes) -> Receipt:
        async with self._unit_of_work.autocommit() as unit:
            found = await unit.deletions.receipt(receipt_hash)
        if found is None:
            raise NotFound("no such receipt")
        return Receipt(
            format=receipt_format,
            server=self._server_name,
            began=found.began,
            finished=found.finished,
            stores=[_shown(store, is_done, found) for store, is_done in found.is_done.items()],
        )


def _shown(store: str, is_done: bool, found: StoredReceipt) -> StoreReceipt:
    count = found.counts.get(store, Count())
    return StoreReceipt(
        store=store, is_done=is_done, erased_count=count.erased, kept_count=count.kept, kept=KEPT.get(store, "")
    )


# Jobs ---------------------------------------------------------------------------------------------------------------


class CleanUpReceipts:
    """The job receipts_cleanup: receipts whose time is over are forgotten."""

    name = "receipts_cleanup"

    def __init__(self, *, units: Transactions[DeletionsUnit]) -> None:
        self._units = units

    async def step(self) -> Done:
        """One transaction."""
        async with self._units.begin() as unit:
            count = await unit.deletions.forget_receipts(age_s=receipt_lifetime_s, count_max=receipts_a_step_max)
        return Done(count, has_more=count == receipts_a_step_max)
