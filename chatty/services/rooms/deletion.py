"""A message is deleted: the signed deletion is appended and the ciphertext goes with it."""

from chatty.crypto.events import verify_event
from chatty.errors import BadRequest, Forbidden, MessageGone, NotFound
from chatty.ids import RoomId, SendNumber
from chatty.services.caller import Caller
from chatty.services.doorbells import Doorbell
from chatty.services.rooms.changes import Changes, change_of
from chatty.services.rooms.port import RoomUnit, StoredPlace
from chatty.services.rooms.signed import check_signer, deletion_event
from chatty.services.timeline import append
from chatty.wire import chain
from chatty.wire.authority import authorize
from chatty.wire.events import Deletion, Kind
from chatty.wire.frames import Erased
from chatty.wire.rooms import RoomCommitted, SignedDeletion


class DeletionSteps(Changes):
    async def delete_message(
        self, caller: Caller, room: RoomId, request: SignedDeletion, *, low: SendNumber
    ) -> RoomCommitted:
        """Append the signed deletion and drop the ciphertext with it.

        Raises: MessageGone, NotFound (also no such message), Forbidden, NotAMember, BadSignature, BadRequest, and as (device, n)
        does.
        """
        signed = request.signed
        check_signer(caller, room, signed)
        change = change_of(caller, "delete_message", request, n=signed.n, low=low)

        async def act(unit: RoomUnit) -> tuple[RoomCommitted, Doorbell]:
            number = await self._visible_room(unit, room, caller)
            if (answer := await self._recorded(unit, change)) is not None:
                return answer, Doorbell()
            locked = await unit.rooms.lock(number, {signed.sender})
            await self._check_position(unit, locked, signed.last_seq, signed.last_head)
            keys = await self._device_keys(unit, [(signed.sender, signed.device)])
            appended = append(locked.head, deletion_event(caller, request), now_ms=self._clock())
            verified = verify_event(appended.event, server=self._server_name, device_key=keys)
            check_target(signed, await unit.rooms.place(number, signed.target_seq))
            authorize(locked, verified)
            await unit.rooms.write(locked.head, [appended])
            await unit.rooms.take_out(number, signed.target_seq, deletion_seq=appended.event.seq)
            if signed.target_sender != signed.sender:
                await unit.audit.record(
                    actor=caller.user,
                    device=caller.device,
                    action="room.message_deleted",
                    object_=room,
                    detail={"target": signed.target_sender, "event": signed.target},
                )
            committed = RoomCommitted(room=room, seq=appended.event.seq, epoch=locked.head.epoch)
            return await self._record(unit, change, committed), Doorbell(rooms=[number])

        return await self._settle(change, act)


def check_target(signed: Deletion, place: StoredPlace | None) -> None:
    """Is it a message, the one that is named, with something left to delete?

    Raises: NotFound, Forbidden (an event that others' rights or the chain hang on), MessageGone, BadRequest (another's).
    """
    entry = place.entry if place is not None else None
    if entry is None or signed.target != chain.event_id(entry.leaf if isinstance(entry, Erased) else chain.leaf(entry)):
        raise NotFound("no such message")
    if isinstance(entry, Erased):
        raise MessageGone("its sender's account was deleted")
    if entry.kind is not Kind.MESSAGE:
        raise Forbidden("only messages can be deleted")
    if signed.target_sender != entry.sender:
        raise BadRequest("the message is another user's than the signed object says")
    if place is not None and not place.has_body:
        raise MessageGone("deleted or expired before")
