"""verify_event(): the only maker of a VerifiedEvent, for the server before it commits and for clients before they believe."""

from collections.abc import Callable

import msgspec

from chatty.crypto.signatures import verify
from chatty.errors import BadRequest, BadSignature
from chatty.ids import DeviceId, UserId
from chatty.wire import chain
from chatty.wire.authority import VerifiedEvent
from chatty.wire.canonical import encode_base64
from chatty.wire.events import (
    Action,
    Content,
    CreateContent,
    DeletionContent,
    DevicesContent,
    MemberChange,
    MemberContent,
    PolicyContent,
    Removal,
    RemovalContent,
    Restoration,
    RestoredContent,
    SignedInvitation,
    TimelineEvent,
    decode_content,
)
from chatty.wire.room_directory import ListingContent
from chatty.wire.room_links import LinkContent, LinkProof, LinkRevocationContent
from chatty.wire.signing import body_bytes, link_proof_bytes, signed_bytes

DeviceKey = Callable[[UserId, DeviceId], str | None]  # the device's Ed25519 key, unpadded base64; None: unknown
# The server's Ed25519 key of this id, unpadded base64, for what it signed at a time (ms); None: unknown, or its turn was over.
ServerKey = Callable[[str, int], str | None]


def no_server_key(key_id: str, time: int) -> str | None:
    """For who has no business with what the server signs."""
    return None


def verify_event(
    event: TimelineEvent, *, server: str, device_key: DeviceKey, server_key: ServerKey = no_server_key
) -> VerifiedEvent:
    """Check a create, member, policy or devices event, or a deletion: its form, its ids, its signatures.

    Says nothing about authority: wire.authority does, and takes nothing else.
    Raises: BadRequest (no such content, not canonical, ids that disagree), BadSignature.
    """
    try:
        content = decode_content(event)
    except (msgspec.DecodeError, KeyError, RecursionError) as error:
        raise BadRequest(f"{event.kind.value} content refused: {error}") from None
    if body_bytes(content) != event.body:
        raise BadRequest("the body is not the canonical JSON of its content")
    _verify_no_message(event)
    _verify_previous(event, content)
    match content:
        case CreateContent():
            if chain.room_id(event.body) != event.room or event.seq != 1:
                raise BadSignature("the creation event does not hash to the room id")
            _verify_envelope(event, content.creator, content.device, content.n, target="")
            _verify_server(content.server, server)
            verify(
                _key_of(device_key, content.creator, content.device),
                signed_bytes(content),
                encode_base64(event.signature),
            )
            return VerifiedEvent(event=event, content=content, signer=(content.creator, content.device))
        case MemberContent(signed=change):
            _verify_envelope(event, change.sender, change.device, change.n, target=change.target)
            _verify_room(event, change.room, change.server, server)
            _verify_member_form(content)
            verify(
                _key_of(device_key, change.sender, change.device), signed_bytes(change), encode_base64(event.signature)
            )
            if change.invitation is not None:
                verify_invitation(change.invitation, server=server, device_key=device_key)
            if change.link is not None:
                verify_link_proof(change, change.link)
            return VerifiedEvent(event=event, content=content, signer=(change.sender, change.device))
        case PolicyContent() | LinkContent() | LinkRevocationContent() | ListingContent():
            policy = content.signed
            _verify_envelope(event, policy.sender, policy.device, policy.n, target="")
            _verify_room(event, policy.room, policy.server, server)
            verify(
                _key_of(device_key, policy.sender, policy.device), signed_bytes(policy), encode_base64(event.signature)
            )
            return VerifiedEvent(event=event, content=content, signer=(policy.sender, policy.device))
        case DeletionContent(signed=deletion):
            _verify_envelope(event, deletion.sender, deletion.device, deletion.n, target=deletion.target)
            _verify_room(event, deletion.room, deletion.server, server)
            if deletion.target_seq >= event.seq:
                raise BadRequest("deletes what does not stand before it")
            verify(
                _key_of(device_key, deletion.sender, deletion.device),
                signed_bytes(deletion),
                encode_base64(event.signature),
            )
            return VerifiedEvent(event=event, content=content, signer=(deletion.sender, deletion.device))
        case RemovalContent() | RestoredContent():
            _verify_servers_own(event, content.signed, server, server_key)
            return VerifiedEvent(event=event, content=content, signer=None)
        case DevicesContent(user=user):
            if event.sender or event.device or event.n or event.signature:
                raise BadRequest("a devices event is the server's")
            if event.target != user:
                raise BadRequest("the envelope names another target than the content")
            return VerifiedEvent(event=event, content=content, signer=None)


def verify_invitation(invitation: SignedInvitation, *, server: str, device_key: DeviceKey) -> None:
    """Raises: BadSignature, BadRequest."""
    signed = invitation.signed
    _verify_server(signed.server, server)
    verify(_key_of(device_key, signed.sender, signed.device), signed_bytes(signed), invitation.signature)


def verify_link_proof(change: MemberChange, proof: LinkProof) -> None:
    """Did whoever has the link's key mean this very join? Whether the room has such a link is for wire.authority to say.

    Raises: BadSignature.
    """
    verify(proof.link, link_proof_bytes(change, proof.link), proof.signature)


def _key_of(device_key: DeviceKey, user: UserId, device: DeviceId) -> str:
    key = device_key(user, device)
    if key is None:
        raise BadSignature(f"unknown device {device} of {user}")
    return key


def _verify_server(named: str, server: str) -> None:
    if named != server:
        raise BadSignature("signed for another server")


def _verify_room(event: TimelineEvent, room: str, named: str, server: str) -> None:
    _verify_server(named, server)
    if room != event.room:
        raise BadSignature("signed for another room")


def _verify_envelope(event: TimelineEvent, user: UserId, device: DeviceId, n: int, *, target: str) -> None:
    if (event.sender, event.device, event.n, event.target) != (user, device, n, target):
        raise BadSignature("the envelope names another sender, device, n or target than the signed object")


def _verify_no_message(event: TimelineEvent) -> None:
    """What only messages have is at its default: it stands in the chain, and nobody signed it."""
    fields = (event.algorithm, event.session_id, event.epoch, event.silent, event.expiry, event.body_hash)
    if fields != ("", "", 0, False, 0, None) or event.deletion_seq:
        raise BadRequest("an envelope with a message's fields")


def _verify_previous(event: TimelineEvent, content: Content) -> None:
    """Whether the newest state event stands there is known to who folds the room."""
    if not isinstance(content, CreateContent | DeletionContent) and content.previous >= event.seq:
        raise BadRequest("previous is no place before the event")


def _verify_servers_own(
    event: TimelineEvent, signed: Removal | Restoration, server: str, server_key: ServerKey
) -> None:
    """It is signed for one place in the chain: nowhere else can it be shown again."""
    _verify_room(event, signed.room, signed.server, server)
    target = signed.target if isinstance(signed, Removal) else ""
    _verify_envelope(event, UserId(""), DeviceId(""), 0, target=target)
    if signed.last_seq + 1 != event.seq:
        raise BadSignature("signed for another place")
    if (key := server_key(signed.key_id, event.time)) is None:
        raise BadSignature(f"unknown key {signed.key_id} of the server")
    verify(key, signed_bytes(signed), encode_base64(event.signature))


def _verify_member_form(content: MemberContent) -> None:
    change = content.signed
    is_addition = change.action in (Action.JOIN, Action.ADD)
    if is_addition != (content.list_version is not None) or is_addition != (content.list_digest is not None):
        raise BadRequest("exactly joins and adds carry a device list")
    if (change.role is not None) != (change.action is Action.ROLE):
        raise BadRequest("exactly a role change carries a role")
    if change.action is not Action.JOIN and (change.invitation is not None or change.link is not None):
        raise BadRequest("only a join carries an invitation or a link")
    if change.invitation is not None and change.link is not None:
        raise BadRequest("a join is by an invitation or by a link")
