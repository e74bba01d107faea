"""For each route a whole request: one that succeeds, made of the route's own types out of what a scene holds.

What must be signed, encrypted or fresh has a maker, by the body's Struct. A new route whose body needs one is told by
test_openapi.py, which asks for a success of every route.
"""

import secrets
import time
from base64 import b32decode, b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from typing import Any

import httpx
import msgspec
from msgspec import Struct, inspect

from chatty.crypto import totp
from chatty.ids import RoomId, Seq
from chatty.web.routes import Route
from chatty.wire.accounts import Login, PasswordChange, Refresh, Registration, StepUp
from chatty.wire.console import ConsoleRequest
from chatty.wire.deletions import AccountDeletion
from chatty.wire.events import MEGOLM, Action, Kind, Policy, RoomRole, TimelineEvent
from chatty.wire.keys import KeyClaim, KeyUpload, ToDevice
from chatty.wire.rooms import (
    HttpSend,
    RoomCreation,
    SignedDeletion,
    SignedInvitationBody,
    SignedLinkRevocation,
    SignedListing,
    SignedMemberChange,
    SignedNewLink,
    SignedPolicyChange,
)
from chatty.wire.second_factors import NewPasskey, TotpConfirmation
from chatty.wire.signing import passkey_challenge
from tests.people import Person
from tests.server.deleting import body_of as deletion
from tests.server.deleting import delete, until_erased
from tests.server.scenes import Scene, new_name, sample
from tests.server.test_passwords import body_of as password_change
from tests.server.wire_client import SESSION_ID, ciphertext
from tests.server.wire_people import ORIGIN, SERVER_NAME, WireLink, WireRoom
from tests.software_authenticator import Authenticator


@dataclass(frozen=True, kw_only=True)
class WholeRequest:
    """path: with its parameters filled in. headers: all but the token and its proof. body: what JSON is made of, if any."""

    route: Route
    path: str
    path_parameters: Mapping[str, Any]
    headers: Mapping[str, str]
    body: Any

    async def ask(self, scene: Scene) -> httpx.Response:
        """By ann."""
        content = None if self.body is None else msgspec.json.encode(self.body)
        token = scene.ann.access_token if self.route.permission.needs_caller else ""
        return await scene.ann.person.prover.ask(
            scene.ann.http,
            self.route.method,
            self.path,
            access_token=token,
            headers=dict(self.headers),
            content=content,
        )


async def whole_request(route: Route, scene: Scene, *, variant: int = 0, **path_parameters: Any) -> WholeRequest:
    """variant: others than the first are as well made, and may be refused. path_parameters: those that are chosen already.

    Raises: HttpRefused for a room that ann cannot read.
    """
    known = scene.known
    if route.operation in PREPARED and not path_parameters:
        path_parameters = await PREPARED[route.operation](scene)
    for item in route.parameters:
        if item.place == "path":
            path_parameters.setdefault(item.name, sample(inspect.type_info(item.type), known))
    n, body = 0, None
    if route.body in MAKERS:
        room = WireRoom(RoomId(path_parameters.get("room", scene.room.id)), Seq(0))
        n, body = await MAKERS[route.body](scene, room, variant)
    elif route.body is not None:
        body = sample(inspect.type_info(route.body), known)
    return WholeRequest(
        route=route,
        path=route.path.format(**path_parameters),
        path_parameters=path_parameters,
        headers=_headers(route, scene, n),
        body=msgspec.to_builtins(body),
    )


def _headers(route: Route, scene: Scene, n: int) -> dict[str, str]:
    headers = {} if route.body is None else {"Content-Type": "application/json"}
    if not route.is_numbered:
        return headers
    n = n or _take(scene)
    return {**headers, "Idempotency-Key": str(n), "Chatty-Low": str(n)}


def _take(scene: Scene) -> int:
    """Ann's next number; whatever was asked before is settled."""
    scene.ann.unsettled.clear()
    return scene.ann.take_n()


# Makers: the body, and its n where it holds one -------------------------------------------------------------------


async def _registration(scene: Scene, _: WireRoom, _variant: int) -> tuple[int, Any]:
    """Somebody new, with ann's DPoP key: so who has the answer can go on."""
    person = Person(http=scene.ann.http, name=new_name("eve"), server_name=SERVER_NAME, origin=ORIGIN)
    person.prover = scene.ann.person.prover
    return 0, await person.registration()


async def _login(scene: Scene, _: WireRoom, _variant: int) -> tuple[int, Any]:
    return 0, await scene.ann.person.login()


async def _step_up(scene: Scene, _: WireRoom, _variant: int) -> tuple[int, Any]:
    nonce = await scene.ann.person.nonce()
    return 0, {"nonce": nonce, "signature": scene.ann.person.sign(nonce, "step_up")}


async def _password_change(scene: Scene, _: WireRoom, _variant: int) -> tuple[int, Any]:
    """Which nobody takes over: it is to be the last of ann's log-ins."""
    derivation = (await scene.ann.get("/v1/account"))["key_derivation"]
    new_seed = secrets.token_bytes(32)
    return 0, await password_change(scene.ann.person, new_seed, key_derivation=derivation, end_other_sessions=False)


async def _deletion(scene: Scene, _: WireRoom, _variant: int) -> tuple[int, Any]:
    return 0, await deletion(scene.ann, secrets.token_bytes(32))


async def _refresh(scene: Scene, _: WireRoom, _variant: int) -> tuple[int, Any]:
    return 0, {"refresh_token": scene.ann.tokens["refresh_token"]}


async def _key_upload(scene: Scene, _: WireRoom, _variant: int) -> tuple[int, Any]:
    return 0, scene.ann.olm.upload(one_time_keys_count=1, with_fallback=True)


async def _key_claim(scene: Scene, _: WireRoom, _variant: int) -> tuple[int, Any]:
    return 0, {"one_time_keys": {scene.bob.user: {scene.bob.device: "signed_curve25519"}}}


async def _to_device(scene: Scene, _: WireRoom, variant: int) -> tuple[int, Any]:
    key = scene.ann.olm.curve25519
    withheld = {"algorithm": MEGOLM, "code": "m.blacklisted", "sender_key": key, "reason": "not you"}
    kind, content = [
        ("m.room.encrypted", scene.ann.olm_content(scene.bob)),
        ("m.room_key.withheld", withheld),
    ][variant % 2]
    return 0, {"type": kind, "messages": {scene.bob.user: {scene.bob.device: content}}}


async def _room(scene: Scene, _: WireRoom, variant: int) -> tuple[int, Any]:
    scene.ann.unsettled.clear()
    made = scene.ann.creation(Policy(), other=scene.bob if variant % 2 else None)
    return made["n"], made["body"]


async def _member_change(scene: Scene, room: WireRoom, variant: int) -> tuple[int, Any]:
    """A role for bob; else any other action on any of the three."""
    scene.ann.unsettled.clear()
    actions, people = (
        [Action.ROLE, *(one for one in Action if one is not Action.ROLE)],
        [scene.bob, scene.cid, scene.ann],
    )
    action, target = actions[variant % len(actions)], people[variant // len(actions) % len(people)]
    role = RoomRole.ADMIN if action is Action.ROLE else None
    change = scene.ann.change(room.id, action, target, await scene.ann.position(room.id), role=role)
    return change.n, scene.ann.signed(change)


async def _invitation(scene: Scene, room: WireRoom, variant: int) -> tuple[int, Any]:
    scene.ann.unsettled.clear()
    invitation = await room.invitation(scene.ann, [scene.cid, scene.bob, scene.ann][variant % 3])
    return invitation.signed.n, invitation


async def _policy_change(scene: Scene, room: WireRoom, _variant: int) -> tuple[int, Any]:
    scene.ann.unsettled.clear()
    change = await room.policy_change(scene.ann, Policy(history="shared"))
    return change.n, scene.ann.signed(change)


async def _new_link(scene: Scene, room: WireRoom, _variant: int) -> tuple[int, Any]:
    scene.ann.unsettled.clear()
    new = await room.new_link(scene.ann, WireLink())
    return new.n, scene.ann.signed(new)


async def _open_link(scene: Scene, room: WireRoom) -> WireLink:
    """Made now only if there is none: a request that is refused must have left nothing behind."""
    told = await scene.ann.all_history(room.id)
    events = b"".join(entry.body or b"" for entry in told if isinstance(entry, TimelineEvent))
    for number in count():
        link = WireLink(sha256(f"{room.id} {number}".encode()).digest())
        times_named = events.count(link.key.encode())  # once where it was made, once more where it was ended
        if times_named == 0:
            new = await room.new_link(scene.ann, link)
            await scene.ann.answer("POST", f"/v1/rooms/{room.id}/links", scene.ann.signed(new), n=new.n)
        if times_named < 2:
            return link
    raise AssertionError("count() has no end")


async def _link_revocation(scene: Scene, room: WireRoom, _variant: int) -> tuple[int, Any]:
    scene.ann.unsettled.clear()
    revocation = await room.revocation(scene.ann, await _open_link(scene, room))
    return revocation.n, scene.ann.signed(revocation)


async def _listing(scene: Scene, room: WireRoom, _variant: int) -> tuple[int, Any]:
    scene.ann.unsettled.clear()
    listing = await room.listing(scene.ann, "Lunch")
    return listing.n, scene.ann.signed(listing)


async def _message(scene: Scene, room: WireRoom, _variant: int) -> tuple[int, Any]:
    n = _take(scene)
    epoch = (await scene.ann.get(f"/v1/rooms/{room.id}/members"))["epoch"]
    body = b64encode(ciphertext()).decode()
    return n, {"low": n, "epoch": epoch, "algorithm": MEGOLM, "session_id": SESSION_ID, "body": body}


async def _message_deletion(scene: Scene, room: WireRoom, variant: int) -> tuple[int, Any]:
    """Of a message of ann's, sent now if there is none left; else of what is no message: the room's creation."""
    scene.ann.unsettled.clear()
    events = await _events(scene, room)
    if not any(is_there_to_delete(event) for event in events):
        n, body = await _message(scene, room, 0)
        await scene.ann.post(f"/v1/rooms/{room.id}/messages", body, n=n)
        events = await _events(scene, room)
    target = events[0] if variant % 2 else next(event for event in events if is_there_to_delete(event))
    deletion = await room.deletion(scene.ann, target)
    return deletion.n, scene.ann.signed(deletion)


async def _events(scene: Scene, room: WireRoom) -> list[TimelineEvent]:
    return [one for one in await scene.ann.all_history(room.id) if isinstance(one, TimelineEvent)]


def is_there_to_delete(event: TimelineEvent) -> bool:
    return event.kind is Kind.MESSAGE and event.body is not None


async def _totp_confirmation(scene: Scene, _: WireRoom, _variant: int) -> tuple[int, Any]:
    new = await scene.ann.post("/v1/totp", {})
    return 0, {"code": totp.code(b32decode(new["secret"]), totp.step_at(time.time()))}


async def _passkey(scene: Scene, _: WireRoom, _variant: int) -> tuple[int, Any]:
    options = await scene.ann.get("/v1/passkeys/options")
    challenge = passkey_challenge(scene.ann.person.statement(options["nonce"], "add_passkey"))
    made = Authenticator(rp_id=options["rp_id"], origin=ORIGIN).make(challenge)
    return 0, {"nonce": options["nonce"], "name": "key", **made}


# What must be there first: the path's parameters that name it --------------------------------------------------------


async def _with_totp(scene: Scene) -> dict[str, Any]:
    _, body = await _totp_confirmation(scene, scene.room, 0)
    await scene.ann.post("/v1/totp/confirm", body)
    return {}


async def _with_passkey(scene: Scene) -> dict[str, Any]:
    if there := (await scene.ann.get("/v1/second-factors"))["passkeys"]:
        return {"passkey": there[0]["passkey"]}
    _, body = await _passkey(scene, scene.room, 0)
    return {"passkey": (await scene.ann.post("/v1/passkeys", body))["passkey"]}


async def _console(scene: Scene, _: WireRoom, _variant: int) -> tuple[int, Any]:
    return 0, {"command": "users quotas", "arguments": {"user": scene.ann.user}}


_APPLY = """INSERT INTO registration_requests
(user_id, name_skeleton, login_key_sealed, key_derivation, identity_key, wrapped_recovery, wrapped_identity)
VALUES (%s, %s, '', '{"algorithm": "", "memory_bytes": 1, "passes": 1}', %s, '', '')"""
_INVITE = """INSERT INTO registration_tokens (token_hash, role, uses_left, expires_at)
VALUES (%s, 'user', 1, now() + interval '1 day')"""
_NEWEST = "SELECT max(request_number) FROM registration_requests"


async def _with_receipt(scene: Scene) -> dict[str, Any]:
    """Of a deletion that has ended: nothing goes on in the background."""
    token = await delete(await scene.chat.sign_up(new_name("gil")))
    await until_erased(scene.chat.http, token)
    return {"token": token}


async def _with_application(scene: Scene) -> dict[str, Any]:
    name = new_name("fay")
    await scene.chat.execute(_APPLY, f"@{name}:{SERVER_NAME}", name, name.encode())
    [(number,)] = await scene.chat.rows(_NEWEST)
    return {"number": number}


async def _with_invitation(scene: Scene) -> dict[str, Any]:
    hashed = secrets.token_bytes(32)
    await scene.chat.execute(_INVITE, hashed)
    return {"invitation": hashed[:8].hex()}


PREPARED: dict[str, Callable[[Scene], Awaitable[dict[str, Any]]]] = {
    "delete_v1_totp": _with_totp,
    "get_v1_receipts_token": _with_receipt,
    "post_v1_recovery_codes": _with_totp,
    "post_v1_admin_applications_number_approve": _with_application,
    "post_v1_admin_applications_number_reject": _with_application,
    "delete_v1_admin_invitations_invitation": _with_invitation,
    "put_v1_passkeys_passkey": _with_passkey,
    "delete_v1_passkeys_passkey": _with_passkey,
}
Maker = Callable[[Scene, WireRoom, int], Awaitable[tuple[int, Any]]]
MAKERS: dict[type[Struct] | None, Maker] = {
    ConsoleRequest: _console,
    Registration: _registration,
    Login: _login,
    StepUp: _step_up,
    PasswordChange: _password_change,
    AccountDeletion: _deletion,
    Refresh: _refresh,
    KeyUpload: _key_upload,
    KeyClaim: _key_claim,
    ToDevice: _to_device,
    RoomCreation: _room,
    SignedMemberChange: _member_change,
    SignedInvitationBody: _invitation,
    SignedPolicyChange: _policy_change,
    SignedDeletion: _message_deletion,
    SignedNewLink: _new_link,
    SignedLinkRevocation: _link_revocation,
    SignedListing: _listing,
    HttpSend: _message,
    TotpConfirmation: _totp_confirmation,
    NewPasskey: _passkey,
}
