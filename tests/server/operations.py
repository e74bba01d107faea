"""An example of every operation of the server, over HTTP and on a socket: what one sends about these or those things.

    asked = await request_of(route, ann, things)          # path, body and number, with things in all places that name one
    answer = await ask(ann, asked)

For tests that walk all routes and frames. A route or frame without an example fails them, and so does a path that names something
which is not among Things. Signed bodies are really signed, by whoever asks.
"""

import inspect
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, get_args

import httpx
import msgspec

from chatty.ids import (
    DeviceId,
    EventId,
    FamilyId,
    InvitationId,
    MailboxId,
    PasskeyId,
    RoomId,
    SendNumber,
    Seq,
    UserId,
    UserSeq,
)
from chatty.web.routes import Route
from chatty.wire import chain, frames
from chatty.wire.accounts import Empty
from chatty.wire.canonical import canonical_json, encode_base64
from chatty.wire.events import Action, Deletion, Invitation, Policy, PolicyChange, RoomRole, SignedInvitation
from chatty.wire.frames import ClientFrame
from chatty.wire.presence import SetPresence, WatchPresence
from chatty.wire.receipts import Read
from chatty.wire.room_directory import Listing
from chatty.wire.room_links import LinkRevocation, NewLink
from chatty.wire.typing_notices import Typing
from tests.people import new_device_id
from tests.server.wire_client import SESSION_ID, UNPROVEN, ciphertext
from tests.server.wire_people import SERVER_NAME, WireDevice, WireLink

Json = dict[str, Any]
_NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True)
class Peer:
    user: UserId
    identity_key: str


@dataclass(frozen=True, kw_only=True)
class Things:
    """What a request may name. peer: somebody to act on in the room."""

    user: UserId
    peer: Peer
    device: DeviceId
    room: RoomId
    family: FamilyId
    passkey: PasskeyId
    application: int
    invitation: InvitationId
    mailbox_id: MailboxId

    @property
    def start(self) -> tuple[Seq, bytes]:
        """The only position in the room that everybody knows."""
        return Seq(0), chain.empty_head(self.room)


def absent_things() -> Things:
    """Of the same forms; they never were."""
    text = secrets.token_urlsafe(32)
    return Things(
        user=UserId(f"@nobody-{secrets.token_hex(4)}:{SERVER_NAME}"),
        peer=Peer(user=UserId(f"@nobody-{secrets.token_hex(4)}:{SERVER_NAME}"), identity_key="A" * 43),
        device=DeviceId(f"ABSENT{secrets.token_hex(4)}"),
        room=RoomId(f"!{text}"),
        family=FamilyId(text[:22]),
        passkey=PasskeyId(text),
        invitation=InvitationId(secrets.token_hex(8)),
        application=2**40 + secrets.randbelow(2**20),
        mailbox_id=MailboxId(2**40 + secrets.randbelow(2**20)),
    )


# HTTP ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request. n: of a numbered one."""

    route: Route
    path: str
    body: Json | None
    n: int | None

    def headers(self) -> dict[str, str]:
        numbers = {} if self.n is None else {"Idempotency-Key": str(self.n), "Chatty-Low": str(self.n)}
        return numbers if self.body is None else {**numbers, "Content-Type": "application/json"}

    def content(self) -> bytes | None:
        return None if self.body is None else msgspec.json.encode(self.body)


def examples_of(route: Route) -> list["Example"]:
    """Of its body; one of nothing for a route that takes none."""
    if route.body is None or (route.body is Empty and route.operation not in BODIES):
        return [lambda by, things: {}]
    assert route.operation in BODIES, f"{route.operation} has no example: give it one in BODIES of {__name__}"
    return BODIES[route.operation]


async def request_of(route: Route, by: WireDevice, things: Things, example: "Example") -> Asked:
    made = example(by, things)
    body: Json = msgspec.to_builtins(await made if inspect.isawaitable(made) else made)
    if route.body is not None:  # an example that is no request shows nothing
        msgspec.json.decode(msgspec.json.encode(body), type=route.body)
    n = number_of(body) or by.take_n() if route.is_numbered else None
    by.unsettled.clear()
    path = route.path.format_map(in_path(things))
    return Asked(route=route, path=path, body=None if route.body is None else body, n=n)


def resigned(body: Json, by: WireDevice) -> Json:
    """After a change: whatever is signed is signed anew, by whoever asks."""
    again = {name: _resigned(value, by) for name, value in body.items()}
    return _signed_anew(again, by)


def _resigned(value: Any, by: WireDevice) -> Any:
    if isinstance(value, dict):
        return resigned(value, by)
    return [_resigned(one, by) for one in value] if isinstance(value, list) else value


def _signed_anew(body: Json, by: WireDevice) -> Json:
    if body.keys() == {"signed", "signature"}:
        return {**body, "signature": by.olm.account.sign(canonical_json(body["signed"])).to_base64()}
    if isinstance(body.get("signatures"), dict):
        return by.olm.signed({name: value for name, value in body.items() if name != "signatures"})
    return body


def in_path(things: Things) -> Mapping[str, str]:
    """By the parameter's name; a parameter of another name fails."""
    return {
        "room": things.room,
        "device": things.device,
        "user": things.user,
        "number": str(things.application),
        "passkey": things.passkey,
        "invitation": things.invitation,
        "token": "A" * 43,  # whoever knows a receipt's may read it
    }


def number_of(body: Json) -> int | None:
    """That of the signed object, which the request must have too."""
    signed = body.get("create", body).get("signed", {})
    return signed.get("n") or body.get("low")


async def ask(
    by: WireDevice, asked: Asked, *, is_signed_in: bool = True, headers: Mapping[str, str] = _NO_HEADERS
) -> httpx.Response:
    """is_signed_in: else without a token. headers: beside its own."""
    method, content, all_headers = asked.route.method, asked.content(), {**asked.headers(), **headers}
    if asked.route.permission.needs_caller and not is_signed_in:
        return await by.http.request(method, asked.path, headers=all_headers, content=content)
    token = by.access_token if asked.route.permission.needs_caller else ""
    return await by.person.prover.ask(
        by.http, method, asked.path, access_token=token, headers=all_headers, content=content
    )


# Bodies -------------------------------------------------------------------------------------------------------------

Example = Callable[[WireDevice, Things], Json | msgspec.Struct | Awaitable[Json]]


async def _registration(by: WireDevice, things: Things) -> Json:
    new_device = {"device": things.device, "name": ""}
    return await by.person.registration(name="somebody", new_device=new_device, registration_token="unknown")


async def _login(by: WireDevice, things: Things) -> Json:
    return await by.person.login(user=things.user, new_device={"device": things.device})


async def _replacing_login(by: WireDevice, things: Things) -> Json:
    return await by.person.login(new_device={"device": new_device_id()}, replaces=things.device)


async def _known_login(by: WireDevice, things: Things) -> Json:
    return await by.person.login(user=things.user, known_refresh_token=_refresh_token(things))


async def _passkey_login(by: WireDevice, things: Things) -> Json:
    return await by.person.login(user=things.user, signature=_assertion(things))


async def _login_with_passkey(by: WireDevice, things: Things) -> Json:
    return await by.person.login(second_factor={"passkey": _assertion(things)})


def _assertion(things: Things) -> Json:
    """By nobody's authenticator."""
    return {"passkey": things.passkey, "client_data": "e30=", "authenticator_data": "AAAA", "signature": "AAAA"}


async def _step_up(by: WireDevice, things: Things) -> Json:
    nonce = await by.person.nonce()
    return {"nonce": nonce, "signature": by.person.sign(nonce, "step_up")}


async def _passkey_step_up(by: WireDevice, things: Things) -> Json:
    return {"nonce": await by.person.nonce(), "signature": _assertion(things)}


async def _password_change(by: WireDevice, things: Things) -> Json:
    """Signed for something else."""
    nonce = await by.person.nonce()
    registration = await by.person.registration()
    kept = {name: registration[name] for name in ("login_key", "key_derivation", "wrapped_recovery")}
    signature = by.person.sign(nonce, "step_up")
    return {**kept, "nonce": nonce, "signature": signature, "new_signature": signature}


async def _deletion(by: WireDevice, things: Things) -> Json:
    """Signed for something else: whoever asks is needed again."""
    nonce = await by.person.nonce()
    return {"receipt_hash": "A" * 43, "nonce": nonce, "signature": by.person.sign(nonce, "step_up")}


def _refresh_token(things: Things) -> str:
    """With a forged end: the server alone can make a whole one."""
    return f"{things.family}.1.{'A' * 43}"


def _key_upload(by: WireDevice, things: Things) -> Json:
    return {"device_keys": by.olm.device_keys(user_id=things.user, device_id=things.device)}


def _to_device(by: WireDevice, things: Things) -> Json:
    content = {
        "algorithm": "m.megolm.v1.aes-sha2",
        "code": "m.unverified",
        "sender_key": by.olm.curve25519,
        "room_id": things.room,
        "session_id": SESSION_ID,
        "from_device": by.device,
    }
    return {"type": "m.room_key.withheld", "messages": {things.user: {things.device: content}}}


def _room(by: WireDevice, things: Things) -> Json:
    body: Json = by.creation(Policy())["body"]
    return body


def _direct_room(by: WireDevice, things: Things) -> Json:
    body: Json = by.creation(Policy(history="joined", invite=RoomRole.OWNER), other=things.peer)["body"]
    return body


def _ban(by: WireDevice, things: Things) -> Json:
    return by.signed(by.change(things.room, Action.BAN, things.peer, things.start))


def _join(by: WireDevice, things: Things) -> Json:
    """With an invitation that was made up; who is inside, as one's own room says, lets in again whom _ban shut out."""
    if things.user == by.user:
        return by.signed(by.change(things.room, Action.UNBAN, things.peer, things.start))
    forged = _invitation_of(by, things, target=by.user, identity=by.identity_key)
    invitation = SignedInvitation(signed=forged, signature=by.sign(forged))
    return by.signed(by.change(things.room, Action.JOIN, by, things.start, invitation=invitation))


def _invitation_of(by: WireDevice, things: Things, *, target: UserId, identity: str) -> Invitation:
    return Invitation(
        domain="chatty.invitation.v1",
        server=SERVER_NAME,
        room=things.room,
        sender=by.user,
        device=by.device,
        target=target,
        target_identity=identity,
        last_seq=things.start[0],
        last_head=encode_base64(things.start[1]),
        n=by.take_n(),
    )


def _invitation(by: WireDevice, things: Things) -> Json:
    return by.signed(_invitation_of(by, things, target=things.peer.user, identity=things.peer.identity_key))


def _policy(by: WireDevice, things: Things) -> Json:
    change = PolicyChange(
        domain="chatty.policy.v1",
        server=SERVER_NAME,
        room=things.room,
        sender=by.user,
        device=by.device,
        policy=Policy(),
        last_seq=things.start[0],
        last_head=encode_base64(things.start[1]),
        n=by.take_n(),
    )
    return by.signed(change)


def _message_deletion(by: WireDevice, things: Things) -> Json:
    """Of what stands nowhere yet."""
    deletion = Deletion(
        domain="chatty.deletion.v1",
        server=SERVER_NAME,
        room=things.room,
        sender=by.user,
        device=by.device,
        target=EventId("$" + "A" * 43),
        target_seq=Seq(2**31),
        target_sender=by.user,
        last_seq=things.start[0],
        last_head=encode_base64(things.start[1]),
        n=by.take_n(),
    )
    return by.signed(deletion)


def _signer(by: WireDevice, things: Things) -> dict[str, Any]:
    return {
        "server": SERVER_NAME,
        "room": things.room,
        "sender": by.user,
        "device": by.device,
        "last_seq": things.start[0],
        "last_head": encode_base64(things.start[1]),
        "n": by.take_n(),
    }


def _link(by: WireDevice, things: Things) -> Json:
    new = NewLink(domain="chatty.link.v1", link=WireLink().key, expires_at=2**50, uses_max=1, **_signer(by, things))
    return by.signed(new)


def link_of(room: RoomId) -> WireLink:
    """That whoever makes the room makes with it, so that it can be ended."""
    return WireLink(sha256(room.encode()).digest())


def _link_revocation(by: WireDevice, things: Things) -> Json:
    key, signer = link_of(things.room).key, _signer(by, things)
    return by.signed(LinkRevocation(domain="chatty.link_revocation.v1", link=key, **signer))


def _listing(by: WireDevice, things: Things) -> Json:
    """Off the list again, where it never was: so that nobody finds it there."""
    return by.signed(Listing(domain="chatty.listing.v1", title="", **_signer(by, things)))


def _join_by_link(by: WireDevice, things: Things) -> Json:
    """With a link that was made up; who is inside, as one's own room says, shuts out once more whom _ban shut out."""
    if things.user == by.user:
        return by.signed(by.change(things.room, Action.BAN, things.peer, things.start))
    return by.signed(WireLink().prove(by.change(things.room, Action.JOIN, by, things.start)))


def _message(by: WireDevice, things: Things) -> Json:
    return {
        "low": by.take_n(),
        "epoch": 2,
        "algorithm": "m.megolm.v1.aes-sha2",
        "session_id": SESSION_ID,
        "body": ciphertext(),
    }


BODIES: Mapping[str, list[Example]] = {
    "post_v1_salt": [lambda by, things: {"user": things.user}],
    "post_v1_register": [_registration],
    "post_v1_login": [_login, _replacing_login, _known_login, _passkey_login, _login_with_passkey],
    "post_v1_token": [lambda by, things: {"refresh_token": _refresh_token(things)}],
    "post_v1_step_up": [_step_up, _passkey_step_up],
    "post_v1_account_password": [_password_change],
    "delete_v1_account": [_deletion],
    "post_v1_totp_confirm": [lambda by, things: {"code": "000000"}],
    "post_v1_passkeys": [lambda by, things: {"nonce": "n", "client_data": "e30=", "attestation": "oA=="}],
    "put_v1_passkeys_passkey": [lambda by, things: {"name": "key"}],
    "put_v1_account_preferences": [lambda by, things: {"shows_presence": True, "shows_receipts": False}],
    "post_v1_undecryptables": [lambda by, things: {"counts": [{"reason": "no_key_yet", "count": 2}]}],
    "put_v1_devices_device_name": [lambda by, things: {"name": "phone"}],
    "post_v1_keys_upload": [_key_upload],
    "post_v1_keys_query": [lambda by, things: {"device_keys": {things.user: [things.device]}}],
    "post_v1_keys_claim": [
        lambda by, things: {"one_time_keys": {things.user: {things.device: "signed_curve25519"}}},
    ],
    "post_v1_to_device": [_to_device],
    "post_v1_rooms": [_room, _direct_room],
    "post_v1_rooms_room_members": [_ban, _join_by_link, _join],
    "post_v1_rooms_room_invitations": [_invitation],
    "post_v1_rooms_room_policy": [_policy],
    "post_v1_rooms_room_deletions": [_message_deletion],
    "post_v1_rooms_room_links": [_link],
    "post_v1_rooms_room_links_revoke": [_link_revocation],
    "post_v1_rooms_room_listing": [_listing],
    "post_v1_rooms_room_messages": [_message],
    "put_v1_admin_users_user_role": [lambda by, things: {"role": "bot"}],
    "put_v1_admin_users_user_lock": [
        lambda by, things: {"is_locked": True},
        lambda by, things: {"is_locked": False},
    ],
    "post_v1_admin_console": [lambda by, things: {"command": "status"}],
    "post_v1_admin_invitations": [lambda by, things: {}],
}


# Frames -------------------------------------------------------------------------------------------------------------

FrameExample = Callable[[WireDevice, Things, int], ClientFrame]


def _hello(by: WireDevice, things: Things, request_id: int) -> ClientFrame:
    return frames.Hello(
        id=request_id,
        access_token=by.access_token,
        dpop_proof=UNPROVEN,
        low=SendNumber(1),
        user_seq=UserSeq(0),
        cursors=_cursors(things),
    )


def _cursors(things: Things) -> list[frames.Cursor]:
    return [frames.Cursor(room=things.room, seq=Seq(1))]


def _send(by: WireDevice, things: Things, request_id: int) -> ClientFrame:
    n = by.take_n()
    return frames.Send(
        id=request_id,
        n=n,
        low=n,
        room=things.room,
        epoch=Seq(2),
        algorithm="m.megolm.v1.aes-sha2",
        session_id=SESSION_ID,
        body=ciphertext(),
    )


FRAMES: Mapping[type[Any], FrameExample] = {
    frames.Hello: _hello,
    frames.Cursors: lambda by, things, request_id: frames.Cursors(id=request_id, cursors=_cursors(things)),
    frames.Resync: lambda by, things, request_id: frames.Resync(
        id=request_id, user_seq=UserSeq(0), cursors=_cursors(things)
    ),
    frames.Token: lambda by, things, request_id: frames.Token(
        id=request_id, access_token=by.access_token, dpop_proof=UNPROVEN
    ),
    frames.Send: _send,
    frames.MailboxAck: lambda by, things, request_id: frames.MailboxAck(id=request_id, ids=[things.mailbox_id]),
    frames.CheckpointRequest: lambda by, things, request_id: frames.CheckpointRequest(id=request_id, room=things.room),
    frames.Ping: lambda by, things, request_id: frames.Ping(id=request_id),
    Typing: lambda by, things, request_id: Typing(id=request_id, room=things.room),
    Read: lambda by, things, request_id: Read(id=request_id, room=things.room, seq=Seq(1)),
    WatchPresence: lambda by, things, request_id: WatchPresence(id=request_id, users=[things.user]),
    SetPresence: lambda by, things, request_id: SetPresence(id=request_id, state="online"),
}


def frame_of(kind: type[Any], by: WireDevice, things: Things, request_id: int) -> ClientFrame:
    assert kind in FRAMES, f"{kind.__name__} has no example: give it one in FRAMES of {__name__}"
    return FRAMES[kind](by, things, request_id)


FRAME_KINDS: tuple[type[Any], ...] = get_args(ClientFrame)
