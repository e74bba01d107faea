"""A room comes into being: its first event, the creator's join and, in a direct room, the other one's add."""

from collections.abc import Sequence

from chatty.crypto.events import verify_event
from chatty.errors import BadRequest, BadSignature, NotFound
from chatty.ids import RoomId, SendNumber
from chatty.services.caller import Caller
from chatty.services.doorbells import Doorbell
from chatty.services.limits import count_lookups
from chatty.services.rooms.changes import Changes, change_of
from chatty.services.rooms.port import RoomUnit, UserRow
from chatty.services.rooms.signed import Keys, check_creation_request, create_event, member_event, pair_of
from chatty.services.timeline import Appended, RoomHead, append, new_room_head
from chatty.wire import chain
from chatty.wire.authority import RoomState, created_room
from chatty.wire.canonical import encode_base64
from chatty.wire.events import CreateContent
from chatty.wire.rooms import RoomCommitted, RoomCreation, SignedMemberChange
from chatty.wire.signing import body_bytes


class CreationSteps(Changes):
    async def create(self, caller: Caller, request: RoomCreation, *, low: SendNumber) -> RoomCommitted:
        """seq 1, the creator's join and, in a direct room, the other one's add. The same request again gives the same answer;
        a direct room that exists already is the answer, with is_new false.

        Raises: BadRequest, BadSignature, Forbidden, NotFound (the other one), QuotaExceeded (rooms), RateLimited, and as
        (device, n) does.
        """
        create = request.create.signed
        check_creation_request(caller, request, low=low)
        if create.direct is not None:
            count_lookups(self._limits, caller, "post_v1_rooms")
        change = change_of(caller, "create_room", request, n=create.n, low=low)

        async def act(unit: RoomUnit) -> tuple[RoomCommitted, Doorbell]:
            users = [await self._require_user(unit, user) for user in create.direct or (create.creator,)]
            await unit.rooms.lock_users([user.user_number for user in users])
            if (answer := await self._recorded(unit, change)) is not None:
                return answer, Doorbell()
            existing = await self._existing(unit, create, chain.room_id(body_bytes(create)))
            if existing is not None:
                return await self._record(unit, change, existing), Doorbell()
            await self._check_not_blocked(unit, caller, users)
            self._quotas.check_rooms(caller.role, created_count=await unit.rooms.note_creation(caller.user_number) - 1)
            head, committed = await self._append_creation(unit, caller, request)
            await self._record(unit, change, committed)
            return committed, Doorbell(rooms=[head.room_number], users=[user.user_number for user in users])

        return await self._settle(change, act)

    async def _check_not_blocked(self, unit: RoomUnit, caller: Caller, users: Sequence[UserRow]) -> None:
        """Whom the other one of a direct room has blocked is told what is told about nobody. Raises: NotFound."""
        for user in users:
            if await unit.blocks.is_blocked(caller.user_number, by=user.user_number):
                raise NotFound("no such user")

    async def _existing(self, unit: RoomUnit, create: CreateContent, room: RoomId) -> RoomCommitted | None:
        found = await unit.rooms.created(room)
        if found is None and create.direct is not None:
            found = await unit.rooms.direct_room(pair_of(create.direct))
        if found is None:
            return None
        return RoomCommitted(room=found[0], seq=found[1], epoch=found[2], is_new=False)

    async def _append_creation(
        self, unit: RoomUnit, caller: Caller, request: RoomCreation
    ) -> tuple[RoomHead, RoomCommitted]:
        create, now_ms = request.create.signed, self._clock()
        body = body_bytes(create)
        head = new_room_head(chain.room_id(body))
        head.room_number = await unit.rooms.insert(head, create, body)
        first = append(head, create_event(caller, request, body), now_ms=now_ms)
        keys = await self._device_keys(unit, [(create.creator, create.device)])
        state = created_room(verify_event(first.event, server=self._server_name, device_key=keys))
        appended = [first]
        for member in request.members:
            if (member.signed.last_seq, member.signed.last_head) != (0, encode_base64(chain.empty_head(head.room))):
                raise BadRequest("members of a creation name last_seq 0 and head(0)")
            appended.append(await self._append_first_member(unit, caller, state, head, member, keys=keys))
        await unit.rooms.write(head, appended)
        return head, RoomCommitted(room=head.room, seq=head.seq, epoch=head.epoch)

    async def _append_first_member(
        self,
        unit: RoomUnit,
        caller: Caller,
        state: RoomState,
        head: RoomHead,
        member: SignedMemberChange,
        *,
        keys: Keys,
    ) -> Appended:
        target = await self._require_user(unit, member.signed.target)
        appended = append(head, member_event(caller, member, target, previous=head.state_seq), now_ms=head.last_time)
        verified = verify_event(appended.event, server=self._server_name, device_key=keys)
        if member.signed.target_identity != target.identity_key:
            raise BadSignature("another identity than the user's")
        state.apply(verified)
        membership = state.memberships[target.user]
        await unit.rooms.set_membership(head.room_number, target.user_number, membership, seq=appended.event.seq)
        await self._tell_target(unit, target, member.signed.action, appended)
        return appended
