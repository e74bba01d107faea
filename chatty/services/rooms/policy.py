"""A room's policy, its links and its listing."""

from chatty.crypto.events import verify_event
from chatty.ids import RoomId, SendNumber
from chatty.services.caller import Caller
from chatty.services.doorbells import Doorbell
from chatty.services.room_links import check_open_count, link_of, policy_act
from chatty.services.rooms.changes import Changes, change_of
from chatty.services.rooms.port import LockedRoom, RoomUnit
from chatty.services.rooms.signed import check_signer, policy_event
from chatty.services.timeline import append
from chatty.wire.authority import VerifiedEvent, authorize
from chatty.wire.events import AnyPolicyChange, PolicyChange
from chatty.wire.room_directory import Listing
from chatty.wire.room_links import LinkRevocation, NewLink
from chatty.wire.rooms import RoomCommitted, SignedAnyPolicy


class PolicySteps(Changes):
    async def change_policy(
        self, caller: Caller, room: RoomId, request: SignedAnyPolicy, *, low: SendNumber
    ) -> RoomCommitted:
        """The policy, a link, or the listing. Raises: as change_member(); QuotaExceeded (room_links_max)."""
        signed = request.signed
        check_signer(caller, room, signed)
        change = change_of(caller, "change_policy", request, n=signed.n, low=low)

        async def act(unit: RoomUnit) -> tuple[RoomCommitted, Doorbell]:
            number = await self._visible_room(unit, room, caller)
            if (answer := await self._recorded(unit, change)) is not None:
                return answer, Doorbell()
            locked = await unit.rooms.lock(number, {signed.sender}, link=link_of(signed))
            await self._check_position(unit, locked, signed.last_seq, signed.last_head)
            keys = await self._device_keys(unit, [(signed.sender, signed.device)])
            new = policy_event(caller, request, previous=locked.head.state_seq)
            appended = append(locked.head, new, now_ms=self._clock())
            verified = verify_event(appended.event, server=self._server_name, device_key=keys)
            authorize(locked, verified)
            await unit.rooms.write(locked.head, [appended])
            await self._store_policy(unit, locked, verified, signed)
            committed = RoomCommitted(room=room, seq=appended.event.seq, epoch=locked.head.epoch)
            return await self._record(unit, change, committed), Doorbell(rooms=[number])

        return await self._settle(change, act)

    async def _store_policy(
        self, unit: RoomUnit, locked: LockedRoom, verified: VerifiedEvent, signed: AnyPolicyChange
    ) -> None:
        """What the authorized event changes, and its audit row."""
        number = locked.head.room_number
        match signed:
            case PolicyChange(policy=policy):
                await unit.rooms.set_policy(number, policy)
            case Listing(title=title):
                await unit.directory.set_title(number, title)
            case NewLink():
                check_open_count(await unit.links.open_count(number, at_ms=verified.event.time))
                await self._put_link(unit, locked, verified)
            case LinkRevocation():
                await self._put_link(unit, locked, verified)
        act = policy_act(signed, before=locked.policy, was_listed=bool(locked.public_title))
        await unit.audit.record(
            actor=signed.sender,
            device=signed.device,
            action=act.action,
            object_=locked.head.room,
            detail=act.detail,
            before=act.before,
            after=act.after,
        )
