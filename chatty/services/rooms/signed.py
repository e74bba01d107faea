"""Rules about signed requests: who signed what, and the events that they become. Pure."""

from collections.abc import Sequence

from chatty.errors import BadRequest, BadSignature
from chatty.ids import DeviceId, RoomId, SendNumber, Seq, UserId
from chatty.services.caller import Caller
from chatty.services.rooms.port import UserRow
from chatty.services.timeline import NewEvent
from chatty.wire import chain
from chatty.wire.authority import Membership, check_creation
from chatty.wire.canonical import decode_base64
from chatty.wire.events import (
    Action,
    AnyPolicyChange,
    AnyPolicyContent,
    Deletion,
    DeletionContent,
    Invitation,
    Kind,
    MemberChange,
    MemberContent,
    PolicyChange,
    PolicyContent,
)
from chatty.wire.limits import send_window
from chatty.wire.room_directory import Listing, ListingContent
from chatty.wire.room_links import LinkContent, LinkRevocation, LinkRevocationContent, NewLink
from chatty.wire.rooms import RoomCreation, SignedAnyPolicy, SignedDeletion, SignedMemberChange
from chatty.wire.signing import body_bytes

ADDITIONS = (Action.JOIN, Action.ADD)


class Keys:
    """Ed25519 keys of the devices that signed something, looked up before the pure check runs."""

    def __init__(self, found: dict[tuple[UserId, DeviceId], str | None]) -> None:
        self._found = found

    def __call__(self, user: UserId, device: DeviceId) -> str | None:
        return self._found.get((user, device))


def pair_of(direct: Sequence[UserId]) -> str:
    return " ".join(direct)


def check_creation_request(caller: Caller, request: RoomCreation, *, low: SendNumber) -> None:
    create = request.create.signed
    if (create.creator, create.device) != (caller.user, caller.device):
        raise BadSignature("signed by another device")
    room = chain.room_id(body_bytes(create))
    for member in request.members:
        check_signer(caller, room, member.signed)
    numbers = [create.n, *(member.signed.n for member in request.members)]
    if numbers != sorted(set(numbers)) or numbers[-1] >= low + send_window:
        raise BadRequest("the changes of a creation have growing n, within the window")
    check_creation(create)
    pair, expected = create.direct, [(Action.JOIN, caller.user)]
    if pair is not None:
        expected.append((Action.ADD, pair[0] if pair[1] == caller.user else pair[1]))
    if [(member.signed.action, member.signed.target) for member in request.members] != expected:
        raise BadRequest("a creation holds the creator's join and, in a direct room, the other one's add")


def check_signer(caller: Caller, room: RoomId, signed: MemberChange | Invitation | AnyPolicyChange | Deletion) -> None:
    if (signed.sender, signed.device) != (caller.user, caller.device):
        raise BadSignature("signed by another device")
    if signed.room != room:
        raise BadSignature("signed for another room")


def _event(
    caller: Caller,
    kind: Kind,
    body: bytes,
    *,
    n: SendNumber,
    signature: str,
    target: str = "",
    action: Action | None = None,
) -> NewEvent:
    """What the caller's device has signed under this n."""
    return NewEvent(
        kind=kind,
        body=body,
        sender=caller.user,
        sender_number=caller.user_number,
        device=caller.device,
        device_number=caller.device_number,
        n=n,
        target=target,
        signature=decode_base64(signature),
        action=action,
    )


def create_event(caller: Caller, request: RoomCreation, body: bytes) -> NewEvent:
    create = request.create
    return _event(caller, Kind.CREATE, body, n=create.signed.n, signature=create.signature)


def member_event(caller: Caller, request: SignedMemberChange, target: UserRow, *, previous: Seq) -> NewEvent:
    signed = request.signed
    is_addition = signed.action in ADDITIONS
    content = MemberContent(
        signed=signed,
        previous=previous,
        list_version=target.list_version if is_addition else None,
        list_digest=target.list_digest if is_addition else None,
    )
    return _event(
        caller,
        Kind.MEMBER,
        body_bytes(content),
        n=signed.n,
        signature=request.signature,
        target=signed.target,
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


def policy_event(caller: Caller, request: SignedAnyPolicy, *, previous: Seq) -> NewEvent:
    body = body_bytes(_policy_content(request.signed, previous))
    return _event(caller, Kind.POLICY, body, n=request.signed.n, signature=request.signature)


def deletion_event(caller: Caller, request: SignedDeletion) -> NewEvent:
    signed = request.signed
    body = body_bytes(DeletionContent(signed=signed))
    return _event(caller, Kind.DELETION, body, n=signed.n, signature=request.signature, target=signed.target)


def shown(membership: Membership) -> dict[str, str]:
    """For the audit log."""
    return {"standing": membership.standing.value, "role": membership.role.value}
