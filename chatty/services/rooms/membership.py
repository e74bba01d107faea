"""Who is in a room and as what, and invitations to it."""

import msgspec

from chatty.crypto.events import verify_event, verify_invitation
from chatty.errors import BadSignature, Banned, Forbidden
from chatty.ids import RoomId, RoomNumber, SendNumber
from chatty.services.caller import Caller
from chatty.services.doorbells import Doorbell
from chatty.services.limits import count_lookups
from chatty.services.rooms.changes import Changes, change_of
from chatty.services.rooms.port import LockedRoom, RoomUnit
from chatty.services.rooms.signed import ADDITIONS, check_signer, member_event, shown
from chatty.services.timeline import append
from chatty.wire.authority import Membership, Standing, authorize, change_memberships, may_invite
from chatty.wire.events import Action, MemberChange, SignedInvitation
from chatty.wire.rooms import RoomCommitted, SignedInvitationBody, SignedMemberChange


class MembershipSteps(Changes):
    async def change_member(
        self, caller: Caller, room: RoomId, request: SignedMemberChange, *, low: SendNumber
    ) -> RoomCommitted:
        """Join, add, leave, kick, ban, unban, role or transfer: as the authority rule allows.

        Raises: NotFound (room or target, or none of the caller's business), Forbidden, NotAMember, InvitationVoid, Banned,
        LinkUnknown, LinkExpired, LinkUsedUp, LinkRevoked, LastOwner, BadSignature, BadRequest, QuotaExceeded (room_members),
        RateLimited, and as (device, n) does.
        """
        signed = request.signed
        check_signer(caller, room, signed)
        if signed.target != caller.user:
            count_lookups(self._limits, caller, "post_v1_rooms_room_members")
        change = change_of(caller, "change_member", request, n=signed.n, low=low)

        async def act(unit: RoomUnit) -> tuple[RoomCommitted, Doorbell]:
            number = await self._visible_room(unit, room, caller, joining=signed)
            target = await self._require_target(unit, signed)
            await unit.rooms.lock_users([target.user_number])
            if (recorded := await self._recorded(unit, change)) is not None:
                return recorded, Doorbell()
            committed = await self._change_member(unit, caller, number, request)
            await self._record(unit, change, committed)
            return committed, Doorbell(rooms=[number], users=[target.user_number])

        return await self._settle(change, act)

    async def _change_member(
        self, unit: RoomUnit, caller: Caller, number: RoomNumber, request: SignedMemberChange
    ) -> RoomCommitted:
        signed = request.signed
        concerned = {signed.sender, signed.target}
        signers = [(signed.sender, signed.device)]
        if signed.invitation is not None:
            concerned.add(signed.invitation.signed.sender)
            signers.append((signed.invitation.signed.sender, signed.invitation.signed.device))
        link = signed.link.link if signed.link is not None else ""
        locked = await unit.rooms.lock(number, concerned, link=link)
        target = await self._require_target(unit, signed)  # read again: now under its lock
        await self._check_position(unit, locked, signed.last_seq, signed.last_head)
        if signed.target_identity != target.identity_key:
            raise BadSignature("another identity than the user's")
        keys = await self._device_keys(unit, signers)
        new = member_event(caller, request, target, previous=locked.head.state_seq)
        appended = append(locked.head, new, now_ms=self._clock())
        verified = verify_event(appended.event, server=self._server_name, device_key=keys)
        authorize(locked, verified)
        await self._check_members_count(unit, locked, signed.action)
        before, changed = locked.membership(target.user), change_memberships(locked, verified)
        await unit.rooms.write(locked.head, [appended])
        numbers = {caller.user: caller.user_number, target.user: target.user_number}
        for user, membership in changed.items():
            await unit.rooms.set_membership(number, numbers[user], membership, seq=appended.event.seq)
        await self._put_link(unit, locked, verified)
        if signed.action in ADDITIONS or (before is not None and before.is_joined):
            await self._tell_target(unit, target, signed.action, appended)
        await self._audit(unit, signed, locked.head.room, before=before, after=changed[target.user])
        return RoomCommitted(room=locked.head.room, seq=appended.event.seq, epoch=locked.head.epoch)

    async def _check_members_count(self, unit: RoomUnit, locked: LockedRoom, action: Action) -> None:
        """Not a final refusal: the same request succeeds once somebody has left."""
        if action in ADDITIONS:
            creator_role = await unit.rooms.role_of(locked.create.creator)
            self._quotas.check_room_members(creator_role, joined_count=locked.joined_count)

    async def _audit(
        self, unit: RoomUnit, signed: MemberChange, room: RoomId, *, before: Membership | None, after: Membership
    ) -> None:
        if signed.action in (Action.KICK, Action.BAN, Action.UNBAN, Action.ROLE, Action.TRANSFER):
            await unit.audit.record(
                actor=signed.sender,
                device=signed.device,
                action=f"room.{signed.action.value}",
                object_=room,
                detail={"target": signed.target},
                before=shown(before) if before is not None else None,
                after=shown(after),
            )

    async def invite(self, caller: Caller, room: RoomId, request: SignedInvitationBody, *, low: SendNumber) -> None:
        """Put a signed invitation into the target's stream, unless the target has blocked the caller, which shows nowhere.

        Raises: as change_member().
        """
        signed = request.signed
        check_signer(caller, room, signed)
        count_lookups(self._limits, caller, "post_v1_rooms_room_invitations")
        change = change_of(caller, "invite", request, n=signed.n, low=low)

        async def act(unit: RoomUnit) -> tuple[RoomCommitted, Doorbell]:
            number = await self._visible_room(unit, room, caller)
            target = await self._require_user(unit, signed.target)
            await unit.rooms.lock_users([target.user_number])
            if (recorded := await self._recorded(unit, change)) is not None:
                return recorded, Doorbell()
            target = await self._require_user(unit, signed.target)  # read again: an account that was deleted is gone
            locked = await unit.rooms.lock(number, {signed.sender, signed.target})
            await self._check_position(unit, locked, signed.last_seq, signed.last_head)
            if signed.target_identity != target.identity_key:
                raise BadSignature("another identity than the user's")
            invitation = SignedInvitation(signed=signed, signature=request.signature)
            keys = await self._device_keys(unit, [(signed.sender, signed.device)])
            verify_invitation(invitation, server=self._server_name, device_key=keys)
            may_invite(locked, signed.sender)
            if (there := locked.membership(signed.target)) is not None and there.is_joined:
                raise Forbidden("is a member already")
            if there is not None and there.standing is Standing.BANNED:
                raise Banned("lift the ban first")
            doorbell = Doorbell()
            if not await unit.blocks.is_blocked(caller.user_number, by=target.user_number):
                content: dict[str, object] = {"invitation": msgspec.to_builtins(invitation)}
                await unit.rooms.append_user_event(
                    target.user_number, kind="invitation", content=content, time_ms=self._clock()
                )
                doorbell = Doorbell(users=[target.user_number])
            committed = RoomCommitted(room=room, seq=locked.head.seq, epoch=locked.head.epoch)
            return await self._record(unit, change, committed), doorbell

        await self._settle(change, act)
