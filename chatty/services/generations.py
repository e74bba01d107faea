"""A new generation: the server goes on from a backup, and says so wherever somebody may know more than it does.

What was committed after the backup is lost to the server, not to its clients. In one transaction, before anybody is let in:

- the generation is raised above every one that clients may know of;
- each room gets a `restored` event behind the last that the backup holds, signed for that place alone; each user's stream
  likewise. A client of an earlier generation is shown both from there on again, although it has read further;
- one-time keys that nobody had claimed are purged: those handed out after the backup would be handed out a second time, and their
  devices have thrown the secrets away. Fallback keys are made to be used often, and stay;
- leases of jobs end, and the audit log has a row.

Log-in sessions live on by the rule of services/tokens.py. Those that were ended after the backup live again, for the backup does
not know it: `end_sessions` ends them all.
*Cancelled, killed*: all of it or nothing; who calls this sees to it that a database without it is never served.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from chatty.errors import ServerNameMismatch
from chatty.ids import RoomNumber, Seq, UserNumber
from chatty.services.devices import DevicesUnit, end_devices
from chatty.services.erasure import RemovalSigner
from chatty.services.messages import Clock
from chatty.services.server import Server, ServerIdentity
from chatty.services.timeline import Appended, NewEvent, RoomHead, append
from chatty.services.units import Transactions
from chatty.wire.canonical import encode_base64
from chatty.wire.events import Kind, Restoration, RestoredContent
from chatty.wire.frames import Generation
from chatty.wire.signing import body_bytes, signed_bytes

rooms_a_piece_max = 500
RESTORED_EVENT = "restored"


@dataclass(frozen=True, kw_only=True)
class Raised:
    """What was done. sessions_count: log-in sessions that live now, or were ended."""

    generation: Generation
    rooms_count: int
    users_count: int
    one_time_keys_count: int
    sessions_count: int


class Generations(Protocol):
    """Inside one transaction, with nobody else at work."""

    async def set_generation(self, generation: Generation) -> None: ...
    async def lock_rooms(self, *, after: RoomNumber, count_max: int) -> Sequence[RoomHead]:
        """The next rooms in number order, locked."""
        ...

    async def write(self, heads: Sequence[RoomHead], appended: Sequence[Appended], *, generation: Seq) -> None:
        """The new events, the moved heads, and where the generation begins in each."""
        ...

    async def tell_users(self, *, kind: str, content: dict[str, Any], time_ms: int) -> int:
        """One entry at the end of everybody's stream. Returns how many."""
        ...

    async def purge_one_time_keys(self) -> int:
        """None is handed out any more, and none of them can be uploaded again. Returns how many."""
        ...

    async def forget_leases(self) -> None: ...
    async def live_sessions_count(self) -> int: ...
    async def lock_users_signed_in(self) -> Sequence[UserNumber]:
        """Those with a device that lives, in number order, locked."""
        ...


class GenerationUnit(DevicesUnit, Protocol):
    @property
    def server(self) -> Server: ...
    @property
    def generations(self) -> Generations: ...


def restored_event(head: RoomHead, generation: Generation, *, server: str, signer: RemovalSigner) -> NewEvent:
    """The generation begins at the place behind this head and nowhere else."""
    signed = Restoration(
        domain="chatty.restored.v1",
        server=server,
        room=head.room,
        generation=generation.number,
        generation_id=generation.id,
        last_seq=head.seq,
        last_head=encode_base64(head.head),
        key_id=signer.key_id,
    )
    body = body_bytes(RestoredContent(signed=signed, previous=head.state_seq))
    return NewEvent(kind=Kind.RESTORED, body=body, signature=signer.sign(signed_bytes(signed)))


class RaiseGeneration:
    """clock: ms since 1970."""

    def __init__(self, *, units: Transactions[GenerationUnit], signer: RemovalSigner, clock: Clock) -> None:
        self._units = units
        self._signer = signer
        self._clock = clock

    async def run(
        self,
        *,
        name: str,
        generation_id: str,
        backup: ServerIdentity | None = None,
        above: int = 0,
        end_sessions: bool = False,
        source: str = "",
    ) -> Raised:
        """backup: who the backup's server was, where the database does not say so. above: a generation that clients may have seen
        beside the backup's own. source: which backup, for the audit log.

        Raises: ServerNameMismatch; StoreUnavailable.
        """
        async with self._units.begin() as unit:
            await unit.server.lock()
            found = await unit.server.identity()
            if found is None and backup is not None:
                await unit.server.set_identity(backup)
                found = backup
            if found is None or found.name != name:
                raise ServerNameMismatch(stored="" if found is None else found.name, configured=name)
            number = Seq(max(found.generation.number, above) + 1)
            generation = Generation(number=number, id=generation_id)
            raised = await self._raise(unit, found, generation, end_sessions=end_sessions)
            await unit.audit.record(
                actor="",
                device="",
                action="backup.restored",
                object_=source,
                after={"generation": number, "is_ended": end_sessions, "sessions_count": raised.sessions_count},
            )
        return raised

    async def _raise(
        self, unit: GenerationUnit, found: ServerIdentity, generation: Generation, *, end_sessions: bool
    ) -> Raised:
        store, now_ms = unit.generations, self._clock()
        await store.set_generation(generation)
        sessions_count = await store.live_sessions_count()
        if end_sessions:
            for user in await store.lock_users_signed_in():
                await end_devices(unit, user, now_ms=now_ms)
        content = {"generation": generation.number, "generation_id": generation.id}
        users_count = await store.tell_users(kind=RESTORED_EVENT, content=content, time_ms=now_ms)
        purged_count = await store.purge_one_time_keys()
        await store.forget_leases()
        return Raised(
            generation=generation,
            users_count=users_count,
            one_time_keys_count=purged_count,
            rooms_count=await self._tell_rooms(store, found.name, generation, now_ms=now_ms),
            sessions_count=sessions_count,
        )

    async def _tell_rooms(self, store: Generations, server: str, generation: Generation, *, now_ms: int) -> int:
        count, after = 0, RoomNumber(0)
        while heads := await store.lock_rooms(after=after, count_max=rooms_a_piece_max):
            events = [restored_event(head, generation, server=server, signer=self._signer) for head in heads]
            appended = [append(head, new, now_ms=now_ms) for head, new in zip(heads, events, strict=True)]
            await store.write(heads, appended, generation=generation.number)
            count, after = count + len(heads), heads[-1].room_number
        return count
