"""The job that erases deleted accounts: rooms are told, messages emptied, then all else goes. Why: services/deletions.py.

Each step is one bounded transaction that locks, reads, and writes what is missing, so it may be killed at any point and may run
beside another: what is done is noted in the transaction that does it. Lock order: a room's row, or a row of erasures, then the
row of the deletion; no user's row after a room's.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from chatty.crypto.events import verify_event
from chatty.ids import DeviceId, Seq, UserId
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.deletions import Count, Counts, Deletions, OwedRemoval, Stretch
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.jobs import Done
from chatty.services.messages import Clock
from chatty.services.rooms import LockedRoom, Rooms
from chatty.services.timeline import NewEvent, RoomHead, append
from chatty.services.units import Transactions
from chatty.wire import chain
from chatty.wire.authority import authorize, change_memberships
from chatty.wire.canonical import encode_base64
from chatty.wire.events import (
    Action,
    Kind,
    Removal,
    RemovalContent,
    RemovalReason,
    TimelineEvent,
    decode_content,
    signers_of,
)
from chatty.wire.signing import body_bytes, signed_bytes

# Ports --------------------------------------------------------------------------------------------------------------


class RemovalSigner(Protocol):
    """The server's key for checkpoints and removals. public_text: unpadded base64."""

    @property
    def key_id(self) -> str: ...
    @property
    def public_text(self) -> str: ...
    def sign(self, message: bytes) -> bytes: ...


class ErasureUnit(Protocol):
    """What the job needs of a transaction."""

    @property
    def deletions(self) -> Deletions: ...
    @property
    def rooms(self) -> Rooms: ...


# Rules --------------------------------------------------------------------------------------------------------------


def removal_event(head: RoomHead, target: UserId, *, server: str, signer: RemovalSigner) -> NewEvent:
    """The server removes somebody whose account was deleted, at the place behind this head and nowhere else."""
    removal = Removal(
        domain="chatty.removal.v1",
        server=server,
        room=head.room,
        target=target,
        reason=RemovalReason.ACCOUNT_DELETED,
        last_seq=head.seq,
        last_head=encode_base64(head.head),
        key_id=signer.key_id,
    )
    return NewEvent(
        kind=Kind.MEMBER,
        body=body_bytes(RemovalContent(signed=removal, previous=head.state_seq)),
        target=target,
        signature=signer.sign(signed_bytes(removal)),
        action=Action.REMOVE,
    )


def signing_devices(event: TimelineEvent, user: UserId) -> set[DeviceId]:
    """The user's devices whose signatures stand in this room event, as actor or as inviter."""
    return {device for signer, device in signers_of(decode_content(event)) if signer == user}


# Steps --------------------------------------------------------------------------------------------------------------


class EraseAccounts:
    """The job account_erasure. clock: ms since 1970."""

    name = "account_erasure"

    def __init__(
        self,
        *,
        units: Transactions[ErasureUnit],
        doorbells: Doorbells,
        signer: RemovalSigner,
        server_name: str,
        clock: Clock,
        crash_points: CrashPoints = NO_CRASH_POINTS,
    ) -> None:
        self._units = units
        self._doorbells = doorbells
        self._signer = signer
        self._server_name = server_name
        self._clock = clock
        self._crash_points = crash_points

    async def step(self) -> Done:
        """One transaction with work in it, which counts as a row.

        Raises: StoreUnavailable, Overloaded, OutcomeUnknown. Cancelled: all of it is committed or nothing.
        """
        async with self._units.autocommit() as unit:
            if await unit.deletions.is_idle():
                return Done()
        works: Sequence[Callable[[ErasureUnit], Awaitable[Doorbell | None]]] = (self._tell, self._erase, self._go_on)
        for work in works:
            async with self._units.begin() as unit:
                doorbell = await work(unit)
                if doorbell is not None:
                    await self._crash_points.reach("before_commit", self.name)
            if doorbell is not None:
                await self._crash_points.reach("after_commit", self.name)
                self._doorbells.ring(doorbell)
                return Done(1, has_more=True)
        return Done()

    async def _tell(self, unit: ErasureUnit) -> Doorbell | None:
        """One room, of all the deleted accounts that it has not heard of."""
        room = await unit.deletions.room_to_tell()
        if room is None:
            return None
        owed = await unit.deletions.owed_removals(room)
        locked = await unit.rooms.lock(room, [one.user for one in owed])
        for one in owed:
            seq = await self._remove(unit, locked, one) if one.was_inside else None
            await unit.deletions.note_removed(room, one.user_number, seq=seq)
        return Doorbell(rooms=[room])

    async def _remove(self, unit: ErasureUnit, locked: LockedRoom, owed: OwedRemoval) -> Seq:
        """Through the one rule, like every other change of a room."""
        new = removal_event(locked.head, owed.user, server=self._server_name, signer=self._signer)
        appended = append(locked.head, new, now_ms=self._clock())
        verified = verify_event(
            appended.event, server=self._server_name, device_key=lambda *_: None, server_key=self._own_key
        )
        authorize(locked, verified)
        changed = change_memberships(locked, verified)
        await unit.rooms.write(locked.head, [appended])
        seq = appended.event.seq
        await unit.rooms.set_membership(locked.head.room_number, owed.user_number, changed[owed.user], seq=seq)
        return seq

    def _own_key(self, key_id: str, time: int) -> str | None:
        return self._signer.public_text if key_id == self._signer.key_id else None

    async def _erase(self, unit: ErasureUnit) -> Doorbell | None:
        stretch = await unit.deletions.next_stretch()
        if stretch is None:
            return None
        if stretch.is_alone:
            counts, signers = await unit.deletions.erase_places(stretch), set[DeviceId]()
        else:
            counts, signers = await self._erase_messages(unit, stretch)
        left = await unit.deletions.move_on(stretch)
        await unit.deletions.add_counts(stretch.user_number, _sum(counts, left), signers)
        return Doorbell()

    async def _erase_messages(self, unit: ErasureUnit, stretch: Stretch) -> tuple[Counts, set[DeviceId]]:
        events = await unit.deletions.events(stretch)
        leaves = {event.seq: chain.leaf(event) for event in events if event.kind is Kind.MESSAGE}
        erased = await unit.deletions.erase_messages(stretch.room, leaves) if leaves else {}
        signers, kept_count, created_count = set[DeviceId](), 0, 0
        for event in events:
            if event.kind is Kind.MESSAGE:
                continue
            signing = signing_devices(event, stretch.user)
            signers |= signing
            kept_count += bool(signing) or stretch.user in (event.sender, event.target)
            created_count += event.kind is Kind.CREATE and event.sender == stretch.user
        counts = {
            "timeline": Count(kept=kept_count + len(leaves)),
            "bodies": Count(erased=erased.get("bodies", Count()).erased, kept=kept_count),
            "passing_bodies": erased.get("passing_bodies", Count()),
            "rooms": Count(kept=created_count),
        }
        return counts, signers

    async def _go_on(self, unit: ErasureUnit) -> Doorbell | None:
        return Doorbell() if await unit.deletions.next_stage() else None


def _sum(one: Counts, other: Counts) -> Counts:
    stores = [*one, *(store for store in other if store not in one)]
    both = {store: (one.get(store, Count()), other.get(store, Count())) for store in stores}
    return {store: Count(erased=a.erased + b.erased, kept=a.kept + b.kept) for store, (a, b) in both.items()}
