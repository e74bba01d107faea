"""Checkpoints: a room's head, signed by the server, on request and at most once a second for a room.

A client that shows two checkpoints of one room and seq with different heads has caught the server. Never stored.
"""

from collections import OrderedDict
from typing import Protocol

from chatty.errors import NotFound
from chatty.ids import RoomId, Seq, UserNumber
from chatty.services.caller import Caller
from chatty.services.messages import Clock
from chatty.services.units import Transactions
from chatty.wire.rooms import SignedCheckpoint
from chatty.wire.signing import checkpoint_bytes

lifetime_ms = 1_000
remembered_max = 10_000


class Heads(Protocol):
    async def signable_head(self, room: RoomId, user: UserNumber) -> tuple[Seq, bytes] | None:
        """The room's newest seq and head; None unless the user is a member."""
        ...


class HeadsUnit(Protocol):
    @property
    def streams(self) -> Heads: ...


class Signer(Protocol):
    @property
    def key_id(self) -> str: ...
    def sign(self, message: bytes) -> bytes: ...


class Checkpoints:
    def __init__(
        self, units: Transactions[HeadsUnit], *, signer: Signer, clock: Clock, server_name: str, generation: int
    ) -> None:
        self._units = units
        self._signer = signer
        self._clock = clock
        self._server_name = server_name
        self._generation = generation
        self._newest: OrderedDict[RoomId, SignedCheckpoint] = OrderedDict()

    async def checkpoint(self, caller: Caller, room: RoomId) -> SignedCheckpoint:
        """Raises: NotFound unless the caller is a member now."""
        async with self._units.snapshot() as unit:
            found = await unit.streams.signable_head(room, caller.user_number)
        if found is None:
            raise NotFound("no such room")
        newest = self._newest.get(room)
        if newest is not None and self._clock() - newest.time < lifetime_ms:
            return newest
        return self._remember(room, self._sign(room, *found))

    def _sign(self, room: RoomId, seq: Seq, head: bytes) -> SignedCheckpoint:
        time = self._clock()
        statement = checkpoint_bytes(
            server=self._server_name, room=room, generation=self._generation, seq=seq, head=head, time=time
        )
        return SignedCheckpoint(
            room=room,
            generation=Seq(self._generation),
            seq=seq,
            head=head,
            time=time,
            key_id=self._signer.key_id,
            signature=self._signer.sign(statement),
        )

    def _remember(self, room: RoomId, checkpoint: SignedCheckpoint) -> SignedCheckpoint:
        self._newest[room] = checkpoint
        self._newest.move_to_end(room)
        if len(self._newest) > remembered_max:
            self._newest.popitem(last=False)
        return checkpoint
