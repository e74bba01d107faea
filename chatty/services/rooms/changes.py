"""What all signed changes of a room have in common: transaction, record, who may know of the room, where the signer stands."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from chatty.crypto.events import verify_invitation, verify_link_proof
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
from chatty.ids import DeviceId, RoomId, RoomNumber, SendNumber, Seq, UserId
from chatty.services.caller import Caller
from chatty.services.doorbells import Doorbell, Doorbells
from chatty.services.limits import Limits
from chatty.services.messages import Clock
from chatty.services.quotas import Quotas
from chatty.services.rooms.port import LockedRoom, RoomUnit, RoomUnits, UserRow
from chatty.services.rooms.signed import ADDITIONS, Keys
from chatty.services.timeline import Appended
from chatty.wire import chain
from chatty.wire.authority import VerifiedEvent, change_link
from chatty.wire.canonical import canonical_json, decode_base64
from chatty.wire.events import REMOVALS, Action, MemberChange, SignedInvitation
from chatty.wire.rooms import RoomCommitted

_LINK_ERRORS = (LinkUnknown, LinkExpired, LinkUsedUp, LinkRevoked)
_ROOM_ERRORS = (Forbidden, NotAMember, InvitationVoid, Banned, *_LINK_ERRORS, LastOwner, MessageGone)
_FINAL = (*_ROOM_ERRORS, BadSignature, BadRequest)
_BY_CODE: dict[str, type[ChattyError]] = {error.code: error for error in _FINAL}


@dataclass(frozen=True, kw_only=True)
class Change:
    """What the steps below share for one signed change of one room."""

    caller: Caller
    operation: str
    n: SendNumber
    low: SendNumber
    digest: bytes


def change_of(caller: Caller, operation: str, request: msgspec.Struct, *, n: SendNumber, low: SendNumber) -> Change:
    if low > n:
        raise BadRequest("low is above n")
    digest = chain.request_digest(operation, canonical_json(msgspec.to_builtins(request)))
    return Change(caller=caller, operation=operation, n=n, low=low, digest=digest)


Act = Callable[[RoomUnit], Awaitable[tuple[RoomCommitted, Doorbell]]]


class Changes:
    """Every step of those who extend it is one transaction.

    Cancelled: nothing or all of it is committed; the same request again settles which.
    """

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

    async def _settle(self, change: Change, act: Act) -> RoomCommitted:
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

    async def _settle_refused(self, change: Change, error: ChattyError) -> RoomCommitted:
        async with self._units.begin() as unit:
            if (recorded := await self._recorded(unit, change)) is not None:
                return recorded
            answer = b"-" + error.code.encode()
            await unit.requests.record(change.caller.device_number, n=change.n, digest=change.digest, answer=answer)
        raise error

    async def _settle_unseen(self, change: Change, error: NotFound) -> RoomCommitted:
        async with self._units.begin() as unit:
            if (recorded := await self._recorded(unit, change)) is not None:
                return recorded
            raise error  # inside: the number stays free

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

    async def _require_user(self, unit: RoomUnit, user: UserId) -> UserRow:
        """To be let in. Raises: NotFound for nobody, and for a locked user."""
        row = await unit.rooms.user(user)
        if row is None or row.is_locked:
            raise NotFound("no such user")
        return row

    async def _require_target(self, unit: RoomUnit, signed: MemberChange) -> UserRow:
        """A locked user can be put out, and not be given a room. Raises: NotFound."""
        if signed.action in (*ADDITIONS, Action.TRANSFER):
            return await self._require_user(unit, signed.target)
        row = await unit.rooms.user(signed.target)
        if row is None:
            raise NotFound("no such user")
        return row

    async def _recorded(self, unit: RoomUnit, change: Change) -> RoomCommitted | None:
        answer = await unit.requests.open(change.caller.device_number, n=change.n, low=change.low, digest=change.digest)
        if answer is None:
            return None
        if answer.startswith(b"-"):
            raise _BY_CODE[answer[1:].decode()]("refused before")
        return msgspec.json.decode(answer, type=RoomCommitted)

    async def _record(self, unit: RoomUnit, change: Change, committed: RoomCommitted) -> RoomCommitted:
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

    async def _device_keys(self, unit: RoomUnit, signers: Sequence[tuple[UserId, DeviceId]]) -> Keys:
        found = {(user, device): await unit.rooms.device_key(user, device) for user, device in signers}
        return Keys(found)

    async def _put_link(self, unit: RoomUnit, locked: LockedRoom, verified: VerifiedEvent) -> None:
        if (changed := change_link(locked, verified)) is not None:
            await unit.links.put(locked.head.room_number, *changed)

    async def _tell_target(self, unit: RoomUnit, target: UserRow, action: Action, appended: Appended) -> None:
        kind = "room_joined" if action in ADDITIONS else "room_left" if action in REMOVALS else None
        if kind is not None:
            content: dict[str, object] = {"room": appended.event.room, "seq": appended.event.seq}
            await unit.rooms.append_user_event(
                target.user_number, kind=kind, content=content, time_ms=appended.event.time
            )
