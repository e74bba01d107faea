"""Routes for rooms, members, messages and history. What each may do is decided by the steps and by wire.authority."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from msgspec import Meta

from chatty.errors import (
    BadRequest,
    BadSignature,
    Banned,
    DeviceSetStale,
    ExpiryRefused,
    InvitationVoid,
    LastOwner,
    LinkExpired,
    LinkRevoked,
    LinkUnknown,
    LinkUsedUp,
    MessageGone,
    MessageIdClosed,
    MessageIdConflict,
    NotAMember,
    NotEncrypted,
    NotFound,
    OutcomeUnknown,
    QuotaExceeded,
    RequestQuarantined,
    SendWindowFull,
)
from chatty.ids import RoomId, SendNumber, Seq, UserSeq
from chatty.services.caller import Caller
from chatty.services.checkpoints import Checkpoints
from chatty.services.messages import draft
from chatty.services.permissions import CHAT
from chatty.services.rooms import RoomSteps
from chatty.services.streams import StreamSteps
from chatty.web.routes import NumberedRequest, Reply, Route, route
from chatty.wire import limits
from chatty.wire.accounts import Empty
from chatty.wire.events import Committed
from chatty.wire.rooms import (
    HttpSend,
    Members,
    Page,
    RoomCommitted,
    RoomCreation,
    Rooms,
    SignedCheckpoint,
    SignedDeletion,
    SignedInvitationBody,
    SignedMemberChange,
    SignedPolicyChange,
    UserPage,
)
from chatty.wire.types import RoomIdField, SeqField, UserSeqField

rooms_page_max = 200

CountField = Annotated[int, Meta(ge=1, le=limits.page_events_max)]
AfterField = Annotated[str, Meta(pattern=r"^(![A-Za-z0-9_-]{43})?$(?!\n)")]
AppendDraft = Callable[..., Awaitable[Committed]]

_number_errors = (MessageIdConflict, MessageIdClosed, SendWindowFull, OutcomeUnknown)
link_errors = (LinkUnknown, LinkExpired, LinkUsedUp, LinkRevoked)
change_errors = (NotFound, NotAMember, InvitationVoid, Banned, LastOwner, BadSignature, QuotaExceeded, *_number_errors)


def routes(rooms: RoomSteps, streams: StreamSteps, checkpoints: Checkpoints, append: AppendDraft) -> list[Route]:
    return [*_changes(rooms), *_reading(rooms, streams, checkpoints), *_sending(streams, append)]


def _changes(rooms: RoomSteps) -> list[Route]:
    @route("POST", "/v1/rooms", permission=CHAT, statuses=(201, 200), errors=(NotFound, BadSignature))
    async def create(caller: Caller, body: RoomCreation, request: NumberedRequest) -> Reply[RoomCommitted]:
        """Create a room; 200 and is_new false for a direct room that exists, or the same creation again."""
        require_n(request, body.create.signed.n)
        committed = await rooms.create(caller, body, low=request.low)
        return Reply(committed, 201 if committed.is_new else 200)

    @route("POST", "/v1/rooms/{room}/members", permission=CHAT, errors=(*change_errors, *link_errors))
    async def change_member(
        caller: Caller, room: RoomIdField, body: SignedMemberChange, request: NumberedRequest
    ) -> RoomCommitted:
        """Join, add, leave, kick, ban, unban, change a role or hand over ownership."""
        require_n(request, body.signed.n)
        return await rooms.change_member(caller, room, body, low=request.low)

    @route("POST", "/v1/rooms/{room}/invitations", permission=CHAT, errors=change_errors)
    async def invite(caller: Caller, room: RoomIdField, body: SignedInvitationBody, request: NumberedRequest) -> Empty:
        """Put a signed invitation into the target's stream."""
        require_n(request, body.signed.n)
        await rooms.invite(caller, room, body, low=request.low)
        return Empty()

    @route("POST", "/v1/rooms/{room}/policy", permission=CHAT, errors=change_errors)
    async def change_policy(
        caller: Caller, room: RoomIdField, body: SignedPolicyChange, request: NumberedRequest
    ) -> RoomCommitted:
        """Change the room's policy."""
        require_n(request, body.signed.n)
        return await rooms.change_policy(caller, room, body, low=request.low)

    @route("POST", "/v1/rooms/{room}/deletions", permission=CHAT, errors=(*change_errors, MessageGone))
    async def delete_message(
        caller: Caller, room: RoomIdField, body: SignedDeletion, request: NumberedRequest
    ) -> RoomCommitted:
        """Delete a message: its ciphertext goes, and who deleted it is written in its place's stead."""
        require_n(request, body.signed.n)
        return await rooms.delete_message(caller, room, body, low=request.low)

    return [create, change_member, invite, change_policy, delete_message]


def _reading(rooms: RoomSteps, streams: StreamSteps, checkpoints: Checkpoints) -> list[Route]:
    @route("GET", "/v1/rooms", permission=CHAT)
    async def own_rooms(caller: Caller, after: AfterField = "", limit: CountField = rooms_page_max) -> Rooms:
        """The caller's rooms in room-id order."""
        found = await rooms.rooms_of(caller, after=after, count_max=limit)
        return Rooms(rooms=found, next_after=found[-1].room if len(found) == limit else "")

    @route("GET", "/v1/rooms/{room}/members", permission=CHAT, errors=(NotFound,))
    async def members(caller: Caller, room: RoomIdField) -> Members:
        """The room's members as the server has them; clients believe their own fold of the chain."""
        return await rooms.members_of(caller, room)

    @route("GET", "/v1/rooms/{room}/events", permission=CHAT, errors=(NotFound,))
    async def events(
        caller: Caller, room: RoomIdField, after: SeqField = Seq(0), limit: CountField = limits.page_events_max
    ) -> Page:
        """The events after a seq that the caller may see; hidden stretches are one gap."""
        return await streams.history(caller, room, after=after, count_max=limit)

    @route("GET", "/v1/rooms/{room}/checkpoint", permission=CHAT, errors=(NotFound,))
    async def checkpoint(caller: Caller, room: RoomIdField) -> SignedCheckpoint:
        """The room's head, signed by the server."""
        return await checkpoints.checkpoint(caller, room)

    @route("GET", "/v1/stream", permission=CHAT)
    async def stream(caller: Caller, after: UserSeqField = UserSeq(0)) -> UserPage:
        """A page of the caller's own stream."""
        return await streams.stream(caller, after=after)

    return [own_rooms, members, events, checkpoint, stream]


def _sending(streams: StreamSteps, append: AppendDraft) -> list[Route]:
    errors = (NotFound, NotAMember, NotEncrypted, DeviceSetStale, ExpiryRefused, RequestQuarantined)

    @route("POST", "/v1/rooms/{room}/messages", permission=CHAT, errors=errors)
    async def send(caller: Caller, room: RoomIdField, body: HttpSend, request: NumberedRequest) -> Committed:
        """Send one encrypted message; `low` stands in the body and in the header alike."""
        if body.low != request.low:
            raise BadRequest("Chatty-Low is not the body's low")
        number = await streams.room_number(caller, RoomId(room))
        return await append(draft(caller, body, room=room, room_number=number, n=request.n))

    return [send]


def require_n(request: NumberedRequest, n: SendNumber) -> None:
    """The signed object names its n; the header that makes it idempotent names the same."""
    if request.n != n:
        raise BadRequest("Idempotency-Key is not the signed n")
