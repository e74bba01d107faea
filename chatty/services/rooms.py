"""Rooms: creation, invitations, membership, policy, deletion of messages (docs/protocol.md, "Rooms").

Each change is a signed object. In one transaction: lock the target's user row, the acting device's send row, the room's row; then
read, verify the signature, ask the one authority rule, append the event and move membership, intervals and user streams with it.
The order of the locks matters: a join beside a new device would else leave the device out while the epoch says "current".

A final refusal is recorded under (device, n) like an answer, so that a late copy of the request cannot succeed after all.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from chatty.crypto.events import verify_event, verify_invitation, verify_link_proof
from chatty.errors import (
    BadRequest,
    BadSignature,
    Banned,
    ChattyError,
    Forbidden,
    InvitationVoid,
    LastOwner,
    LinkExpired,
    LinkRevoked,
    LinkUnknown,
    LinkUsedUp,
    MessageGone,
    NotAMember,
    NotFound,
)
from chatty.ids import DeviceId, ListVersion, RoomId, RoomNumber, SendNumber, Seq, UserId, UserNumber
from chatty.services.blocks import BlockCheck
from chatty.services.caller import Caller
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.limits import Limits, count_lookups
from chatty.services.messages import Clock
from chatty.services.quotas import Quotas
from chatty.services.requests import Requests
from chatty.services.room_links import RoomDirectory, RoomLinks, check_open_count, link_of, policy_act
from chatty.services.timeline import Appended, NewEvent, RoomHead, append, new_room_head
from chatty.services.units import Audit
from chatty.wire import chain
from chatty.wire.authority import (
    Membership,
    RoomState,
    Standing,
    VerifiedEvent,
    authorize,
    change_link,
    change_memberships,
    check_creation,
    created_room,
    may_invite,
)
from chatty.wire.canonical import canonical_json, decode_base64, encode_base64
from chatty.wire.events import (
    REMOVALS,
    Action,
    AnyPolicyChange,
    AnyPolicyContent,
    CreateContent,
    Deletion,
    DeletionContent,
    Invitation,
    Kind,
    MemberChange,
    MemberContent,
    Policy,
    PolicyChange,
    PolicyContent,
    SignedInvitation,
)
from chatty.wire.frames import Erased, PlacedEntry
from chatty.wire.limits import send_window
from chatty.wire.room_directory import Listing, ListingContent
from chatty.wire.room_links import Link, LinkContent, LinkRevocation, LinkRevocationContent, NewLink
from chatty.wire.rooms import (
    Members,
    RoomCommitted,
    RoomCreation,
    RoomSummary,
    SignedAnyPolicy,
    SignedDeletion,
    SignedInvitationBody,
    SignedMemberChange,
)
from chatty.wire.signing import body_bytes

_LINK_ERRORS = (LinkUnknown, LinkExpired, LinkUsedUp, LinkRevoked)
_ROOM_ERRORS = (Forbidden, NotAMember, InvitationVoid, Banned, *_LINK_ERRORS, LastOwner, MessageGone)
_FINAL = (*_ROOM_ERRORS, BadSignature, BadRequest)
_BY_CODE: dict[str, type[ChattyError]] = {error.code: error for error in _FINAL}
_additions = (Action.JOIN, Action.ADD)


@dataclass(frozen=True, kw_only=True)
class UserRow:
    """What a membership event needs of its target, read under the user's lock."""

    user: UserId
    user_number: UserNumber
    identity_key: str
    list_version: ListVersion
    list_digest: str
    is_locked: bool


@dataclass(kw_only=True)
class LockedRoom:
    """A room under its lock, as the authority rule asks for it: memberships of those concerned, and of all owners.

    links: the one that the change is about, if there is such a one.
    """

    head: RoomHead
    create: CreateContent
    policy: Policy
    public_title: str = ""
    memberships: dict[UserId, Membership] = field(default_factory=dict)
    joined_count: int = 0
    links: dict[str, Link] = field(default_factory=dict)

    def membership(self, user: UserId) -> Membership | None:
        return self.memberships.get(user)

    def link(self, key: str) -> Link | None:
        return self.links.get(key)

    def is_last_owner(self, user: UserId) -> bool:
        owners = [name for name, one in self.memberships.items() if one.is_joined and one.role.value == "owner"]
        return owners == [user] and self.joined_count > 1


@dataclass(frozen=True, kw_only=True)
class StoredPlace:
    """What stands at one place of a room. has_body: its ciphertext or content is there too, not the event alone."""

    entry: PlacedEntry
    has_body: bool


class Rooms(Protocol):
    """The store of rooms, inside one unit of work."""

    async def room_number(self, room: RoomId) -> RoomNumber | None: ...
    async def user(self, user: UserId) -> UserRow | None: ...
    async def lock_users(self, users: Iterable[UserNumber]) -> None: ...
    async def lock(self, room: RoomNumber, concerned: Iterable[UserId], *, link: str = "") -> LockedRoom:
        """The room's row locked, then the link read, and the memberships of `concerned`, of the owners and of its maker.

        Raises: NotFound.
        """
        ...

    async def insert(self, head: RoomHead, create: CreateContent, body: bytes) -> RoomNumber:
        """A new row at seq 0; its events follow with write()."""
        ...

    async def direct_room(self, pair: str) -> tuple[RoomId, Seq, Seq] | None:
        """The pair's room: id, seq and epoch."""
        ...

    async def created(self, room: RoomId) -> tuple[RoomId, Seq, Seq] | None: ...
    async def head_at(self, room: RoomNumber, seq: Seq) -> bytes | None: ...
    async def device_key(self, user: UserId, device: DeviceId) -> str | None: ...
    async def write(self, head: RoomHead, appended: Sequence[Appended]) -> None: ...
    async def set_membership(self, room: RoomNumber, user: UserNumber, membership: Membership, *, seq: Seq) -> None:
        """The member row, and the interval that begins or ends with it at `seq`."""
        ...

    async def note_creation(self, user: UserNumber) -> int:
        """How many rooms this user has created with this one; the user's row is locked."""
        ...

    async def role_of(self, user: UserId) -> str | None:
        """The server role; None: nobody of this name."""
        ...

    async def set_policy(self, room: RoomNumber, policy: Policy) -> None: ...
    async def place(self, room: RoomNumber, seq: Seq) -> StoredPlace | None: ...
    async def take_out(self, room: RoomNumber, seq: Seq, *, deletion_seq: Seq) -> None:
        """Drop the message's ciphertext, and note where the deletion stands. Its event stays for the chain."""
        ...

    async def append_user_event(
        self, user: UserNumber, *, kind: str, content: dict[str, object], time_ms: int
    ) -> None: ...
    async def summaries(self, user: UserNumber, *, after: str, count_max: int) -> list[RoomSummary]: ...
    async def members(self, room: RoomNumber) -> Members: ...
    async def is_joined(self, room: RoomNumber, user: UserNumber) -> bool: ...
    async def was_inside(self, room: RoomNumber, user: UserId) -> bool:
        """Is or was a member, ever."""
        ...


class RoomUnit(Protocol):
    @property
    def rooms(self) -> Rooms: ...
    @property
    def links(self) -> RoomLinks: ...
    @property
    def directory(self) -> RoomDirectory: ...
    @property
    def requests(self) -> Requests: ...
    @property
    def audit(self) -> Audit: ...
    @property
    def blocks(self) -> BlockCheck: ...


class RoomUnits(Protocol):
    def begin(self) -> AbstractAsyncContextManager[RoomUnit]: ...
    def snapshot(self) -> AbstractAsyncContextManager[RoomUnit]: ...


@dataclass(frozen=True, kw_only=True)
class _Change:
    """What the steps below share for one signed change of one room."""

    caller: Caller
    operation: str
    n: SendNumber
    low: SendNumber
    digest: bytes


def _change(caller: Caller, operation: str, request: msgspec.Struct, *, n: SendNumber, low: SendNumber) -> _Change:
    if low > n:
        raise BadRequest("low is above n")
    digest = chain.request_digest(operation, canonical_json(msgspec.to_builtins(request)))
    return _Change(caller=caller, operation=operation, n=n, low=low, digest=digest)


class RoomSteps:
    """Every step is one transaction. Cancelled: nothing or all of it is committed; the same request again settles which."""

    def __init__(
        self,
        units: RoomUnits,
        *,
        doorbells: Doorbells,
        clock: Clock,
        server_name: str,
        limits: Limits,
        quotas: Quotas,
    ) -> None:
        self._units = units
        self._doorbells = doorbells
        self._clock = clock
        self._server_name = server_name
        self._limits = limits
        self._quotas = quotas

    async def _settle(self, change: "_Change", act: "_Act") -> RoomCommitted:
        """Run one change in a transaction of its own; then ring.

        A final refusal leaves nothing of the change behind and is recorded in its place, unless a copy of the request was faster
        meanwhile: then that one's outcome counts. Likewise for whom the room is gone: a leave that is sent again comes from
        outside.
        """
        try:
            async with self._units.begin() as unit:
                committed, doorbell = await act(unit)
        except _FINAL as error:
            return await self._settle_refused(change, error)
        except NotFound as error:
            return await self._settle_unseen(change, error)
        self._doorbells.ring(doorbell)
        return committed

    async def _settle_refused(self, change: "_Change", error: ChattyError) -> RoomCommitted:
        async with self._units.begin() as unit:
            if (recorded := await self._recorded(unit, change)) is not None:
                return recorded
            answer = b"-" + error.code.encode()
            await unit.requests.record(change.caller.device_number, n=change.n, digest=change.digest, answer=answer)
        raise error

    async def _settle_unseen(self, change: "_Change", error: NotFound) -> RoomCommitted:
        async with self._units.begin() as unit:
            if (recorded := await self._recorded(unit, change)) is not None:
                return recorded
            raise error  # inside: the number stays free

    # Creation ------------------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, request: RoomCreation, *, low: SendNumber) -> RoomCommitted:
        """seq 1, the creator's join and, in a direct room, the other one's add. The same request again gives the same answer;
        a direct room that exists already is the answer, with is_new false.

        Raises: BadRequest, BadSignature, Forbidden, NotFound (the other one), QuotaExceeded (rooms), RateLimited, and as
        (device, n) does.
        """
        create = request.create.signed
        _check_creation(caller, request, low=low)
        if create.direct is not None:
            count_lookups(self._limits, caller, "post_v1_rooms")
        change = _change(caller, "create_room", request, n=create.n, low=low)

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
            found = await unit.rooms.direct_room(_pair(create.direct))
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
        first = append(head, _create_event(caller, request, body), now_ms=now_ms)
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
        keys: "Keys",
    ) -> Appended:
        target = await self._require_user(unit, member.signed.target)
        appended = append(head, _member_event(caller, member, target, previous=head.state_seq), now_ms=head.last_time)
        verified = verify_event(appended.event, server=self._server_name, device_key=keys)
        if member.signed.target_identity != target.identity_key:
            raise BadSignature("another identity than the user's")
        state.apply(verified)
        membership = state.memberships[target.user]
        await unit.rooms.set_membership(head.room_number, target.user_number, membership, seq=appended.event.seq)
        await self._tell_target(unit, target, member.signed.action, appended)
        return appended

    # Membership ----------------------------------------------------------------------------------------------------

    async def change_member(
        self, caller: Caller, room: RoomId, request: SignedMemberChange, *, low: SendNumber
    ) -> RoomCommitted:
        """Join, add, leave, kick, ban, unban, role or transfer: as the authority rule allows.

        Raises: NotFound (room or target, or none of the caller's business), Forbidden, NotAMember, InvitationVoid, Banned,
        LinkUnknown, LinkExpired, LinkUsedUp, LinkRevoked, LastOwner, BadSignature, BadRequest, QuotaExceeded (room_members),
        RateLimited, and as (device, n) does.
        """
        signed = request.signed
        _check_signer(caller, room, signed)
        if signed.target != caller.user:
            count_lookups(self._limits, caller, "post_v1_rooms_room_members")
        change = _change(caller, "change_member", request, n=signed.n, low=low)

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
        new = _member_event(caller, request, target, previous=locked.head.state_seq)
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
        if signed.action in _additions or (before is not None and before.is_joined):
            await self._tell_target(unit, target, signed.action, appended)
        await self._audit(unit, signed, locked.head.room, before=before, after=changed[target.user])
        return RoomCommitted(room=locked.head.room, seq=appended.event.seq, epoch=locked.head.epoch)

    async def _put_link(self, unit: RoomUnit, locked: LockedRoom, verified: VerifiedEvent) -> None:
        if (changed := change_link(locked, verified)) is not None:
            await unit.links.put(locked.head.room_number, *changed)

    async def _check_members_count(self, unit: RoomUnit, locked: LockedRoom, action: Action) -> None:
        """Not a final refusal: the same request succeeds once somebody has left."""
        if action in _additions:
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
                before=_shown(before) if before is not None else None,
                after=_shown(after),
            )

    async def _tell_target(self, unit: RoomUnit, target: UserRow, action: Action, appended: Appended) -> None:
        kind = "room_joined" if action in _additions else "room_left" if action in REMOVALS else None
        if kind is not None:
            content: dict[str, object] = {"room": appended.event.room, "seq": appended.event.seq}
            await unit.rooms.append_user_event(
                target.user_number, kind=kind, content=content, time_ms=appended.event.time
            )

    async def invite(self, caller: Caller, room: RoomId, request: SignedInvitationBody, *, low: SendNumber) -> None:
        """Put a signed invitation into the target's stream, unless the target has blocked the caller, which shows nowhere.

        Raises: as change_member().
        """
        signed = request.signed
        _check_signer(caller, room, signed)
        count_lookups(self._limits, caller, "post_v1_rooms_room_invitations")
        change = _change(caller, "invite", request, n=signed.n, low=low)

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

    async def change_policy(
        self, caller: Caller, room: RoomId, request: SignedAnyPolicy, *, low: SendNumber
    ) -> RoomCommitted:
        """The policy, a link, or the listing. Raises: as change_member(); QuotaExceeded (room_links_max)."""
        signed = request.signed
        _check_signer(caller, room, signed)
        change = _change(caller, "change_policy", request, n=signed.n, low=low)

        async def act(unit: RoomUnit) -> tuple[RoomCommitted, Doorbell]:
            number = await self._visible_room(unit, room, caller)
            if (answer := await self._recorded(unit, change)) is not None:
                return answer, Doorbell()
            locked = await unit.rooms.lock(number, {signed.sender}, link=link_of(signed))
            await self._check_position(unit, locked, signed.last_seq, signed.last_head)
            keys = await self._device_keys(unit, [(signed.sender, signed.device)])
            new = _policy_event(caller, request, previous=locked.head.state_seq)
            appended = append(locked.head, new, now_ms=self._clock())
            verified = verify_event(appended.event, server=self._server_name, device_key=keys)
            authorize(locked, verified)
            await unit.rooms.write(locked.head, [appended])
            await self._store_policy(unit, locked, verified, signed)
            committed = RoomCommitted(room=room, seq=appended.event.seq, epoch=locked.head.epoch)
            return await self._record(unit, change, committed), Doorbell(rooms=[number])

        return await self._settle(change, act)

    async def delete_message(
        self, caller: Caller, room: RoomId, request: SignedDeletion, *, low: SendNumber
    ) -> RoomCommitted:
        """Append the signed deletion and drop the ciphertext with it.

        Raises: MessageGone, NotFound (also no such message), Forbidden, NotAMember, BadSignature, BadRequest, and as (device, n)
        does.
        """
        signed = request.signed
        _check_signer(caller, room, signed)
        change = _change(caller, "delete_message", request, n=signed.n, low=low)

        async def act(unit: RoomUnit) -> tuple[RoomCommitted, Doorbell]:
            number = await self._visible_room(unit, room, caller)
            if (answer := await self._recorded(unit, change)) is not None:
                return answer, Doorbell()
            locked = await unit.rooms.lock(number, {signed.sender})
            await self._check_position(unit, locked, signed.last_seq, signed.last_head)
            keys = await self._device_keys(unit, [(signed.sender, signed.device)])
            appended = append(locked.head, _deletion_event(caller, request), now_ms=self._clock())
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

    # Reading -------------------------------------------------------------------------------------------------------

    async def rooms_of(self, caller: Caller, *, after: str, count_max: int) -> list[RoomSummary]:
        """The caller's rooms in room-id order, those after `after`."""
        async with self._units.snapshot() as unit:
            return await unit.rooms.summaries(caller.user_number, after=after, count_max=count_max)

    async def members_of(self, caller: Caller, room: RoomId) -> Members:
        """Raises: NotFound unless the caller is a member."""
        async with self._units.snapshot() as unit:
            number = await self._joined_room(unit, room, caller)
            return await unit.rooms.members(number)

    # Shared --------------------------------------------------------------------------------------------------------

    async def _visible_room(
        self, unit: RoomUnit, room: RoomId, caller: Caller, *, joining: MemberChange | None = None
    ) -> RoomNumber:
        """Raises NotFound for no room, and for a room that is none of the caller's business: the two are not told apart.

        joining: what the caller shows of a right to know of the room, whether it still counts or not.
        """
        number = await unit.rooms.room_number(room)
        if number is not None:
            if await unit.rooms.is_joined(number, caller.user_number):
                return number
            if joining is not None and joining.action is Action.JOIN and await self._is_let_know(unit, number, joining):
                return number
        raise NotFound("no such room")

    async def _is_let_know(self, unit: RoomUnit, number: RoomNumber, joining: MemberChange) -> bool:
        if joining.invitation is not None and await self._is_from_inside(
            unit, number, joining.room, joining.invitation
        ):
            return True
        return await self._has_link(unit, number, joining) or await unit.directory.is_listed(number)

    async def _has_link(self, unit: RoomUnit, number: RoomNumber, joining: MemberChange) -> bool:
        """Does the caller hold the key of a link that was made for this room?"""
        proof = joining.link
        if proof is None or not await unit.links.has(number, proof.link):
            return False
        with suppress(BadSignature):
            verify_link_proof(joining, proof)
            return True
        return False

    async def _is_from_inside(
        self, unit: RoomUnit, number: RoomNumber, room: RoomId, invitation: SignedInvitation
    ) -> bool:
        """Was this really signed by somebody who is or was in the room? Who has it knows of the room, whether it still counts."""
        signed = invitation.signed
        if signed.room != room or not await unit.rooms.was_inside(number, signed.sender):
            return False
        keys = await self._device_keys(unit, [(signed.sender, signed.device)])
        with suppress(BadSignature, BadRequest):
            verify_invitation(invitation, server=self._server_name, device_key=keys)
            return True
        return False

    async def _joined_room(self, unit: RoomUnit, room: RoomId, caller: Caller) -> RoomNumber:
        return await self._visible_room(unit, room, caller)

    async def _require_user(self, unit: RoomUnit, user: UserId) -> UserRow:
        """To be let in. Raises: NotFound for nobody, and for a locked user."""
        row = await unit.rooms.user(user)
        if row is None or row.is_locked:
            raise NotFound("no such user")
        return row

    async def _require_target(self, unit: RoomUnit, signed: MemberChange) -> UserRow:
        """A locked user can be put out, and not be given a room. Raises: NotFound."""
        if signed.action in (*_additions, Action.TRANSFER):
            return await self._require_user(unit, signed.target)
        row = await unit.rooms.user(signed.target)
        if row is None:
            raise NotFound("no such user")
        return row

    async def _recorded(self, unit: RoomUnit, change: _Change) -> RoomCommitted | None:
        answer = await unit.requests.open(change.caller.device_number, n=change.n, low=change.low, digest=change.digest)
        if answer is None:
            return None
        if answer.startswith(b"-"):
            raise _BY_CODE[answer[1:].decode()]("refused before")
        return msgspec.json.decode(answer, type=RoomCommitted)

    async def _record(self, unit: RoomUnit, change: _Change, committed: RoomCommitted) -> RoomCommitted:
        answer = msgspec.json.encode(committed)
        await unit.requests.record(change.caller.device_number, n=change.n, digest=change.digest, answer=answer)
        return committed

    async def _check_position(self, unit: RoomUnit, locked: LockedRoom, seq: Seq, head: str) -> None:
        """The signer names its last verified position: a position that never was is refused."""
        stored = (
            chain.empty_head(locked.head.room) if seq == 0 else await unit.rooms.head_at(locked.head.room_number, seq)
        )
        if stored is None or decode_base64(head, length=32) != stored:
            raise BadRequest("last_head is not this room's head at last_seq")

    async def _device_keys(self, unit: RoomUnit, signers: Sequence[tuple[UserId, DeviceId]]) -> "Keys":
        found = {(user, device): await unit.rooms.device_key(user, device) for user, device in signers}
        return Keys(found)


_Act = Callable[[RoomUnit], Awaitable[tuple[RoomCommitted, Doorbell]]]


class Keys:
    """Ed25519 keys of the devices that signed something, looked up before the pure check runs."""

    def __init__(self, found: dict[tuple[UserId, DeviceId], str | None]) -> None:
        self._found = found

    def __call__(self, user: UserId, device: DeviceId) -> str | None:
        return self._found.get((user, device))


def _pair(direct: Sequence[UserId]) -> str:
    return " ".join(direct)


def _check_creation(caller: Caller, request: RoomCreation, *, low: SendNumber) -> None:
    create = request.create.signed
    if (create.creator, create.device) != (caller.user, caller.device):
        raise BadSignature("signed by another device")
    room = chain.room_id(body_bytes(create))
    for member in request.members:
        _check_signer(caller, room, member.signed)
    numbers = [create.n, *(member.signed.n for member in request.members)]
    if numbers != sorted(set(numbers)) or numbers[-1] >= low + send_window:
        raise BadRequest("the changes of a creation have growing n, within the window")
    check_creation(create)
    pair, expected = create.direct, [(Action.JOIN, caller.user)]
    if pair is not None:
        expected.append((Action.ADD, pair[0] if pair[1] == caller.user else pair[1]))
    if [(member.signed.action, member.signed.target) for member in request.members] != expected:
        raise BadRequest("a creation holds the creator's join and, in a direct room, the other one's add")


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


def _check_signer(caller: Caller, room: RoomId, signed: MemberChange | Invitation | AnyPolicyChange | Deletion) -> None:
    if (signed.sender, signed.device) != (caller.user, caller.device):
        raise BadSignature("signed by another device")
    if signed.room != room:
        raise BadSignature("signed for another room")


def _create_event(caller: Caller, request: RoomCreation, body: bytes) -> NewEvent:
    return NewEvent(
        kind=Kind.CREATE,
        body=body,
        sender=caller.user,
        sender_number=caller.user_number,
        device=caller.device,
        device_number=caller.device_number,
        n=request.create.signed.n,
        signature=decode_base64(request.create.signature),
    )


def _member_event(caller: Caller, request: SignedMemberChange, target: UserRow, *, previous: Seq) -> NewEvent:
    signed = request.signed
    is_addition = signed.action in _additions
    content = MemberContent(
        signed=signed,
        previous=previous,
        list_version=target.list_version if is_addition else None,
        list_digest=target.list_digest if is_addition else None,
    )
    return NewEvent(
        kind=Kind.MEMBER,
        body=body_bytes(content),
        sender=caller.user,
        sender_number=caller.user_number,
        device=caller.device,
        device_number=caller.device_number,
        n=signed.n,
        target=signed.target,
        signature=decode_base64(request.signature),
        action=signed.action,
    )


def _policy_content(signed: AnyPolicyChange, previous: Seq) -> AnyPolicyContent:
    match signed:
        case PolicyChange():
            return PolicyContent(signed=signed, previous=previous)
        case NewLink():
            return LinkContent(signed=signed, previous=previous)
        case LinkRevocation():
            return LinkRevocationContent(signed=signed, previous=previous)
        case Listing():
            return ListingContent(signed=signed, previous=previous)


def _policy_event(caller: Caller, request: SignedAnyPolicy, *, previous: Seq) -> NewEvent:
    return NewEvent(
        kind=Kind.POLICY,
        body=body_bytes(_policy_content(request.signed, previous)),
        sender=caller.user,
        sender_number=caller.user_number,
        device=caller.device,
        device_number=caller.device_number,
        n=request.signed.n,
        signature=decode_base64(request.signature),
    )


def _deletion_event(caller: Caller, request: SignedDeletion) -> NewEvent:
    return NewEvent(
        kind=Kind.DELETION,
        body=body_bytes(DeletionContent(signed=request.signed)),
        sender=caller.user,
        sender_number=caller.user_number,
        device=caller.device,
        device_number=caller.device_number,
        n=request.signed.n,
        target=request.signed.target,
        signature=decode_base64(request.signature),
    )


def _shown(membership: Membership) -> dict[str, str]:
    """For the audit log."""
    return {"standing": membership.standing.value, "role": membership.role.value}
