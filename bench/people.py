"""Accounts and rooms for a load, made through the public HTTP routes, with real keys and signatures.

Only Argon2 is left out: the log-in key is random, as if it had been derived. What is sent is shaped like Megolm, which is all
that the server can see of it; nobody decrypts here.
"""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

import httpx
import msgspec
import nacl.bindings

from chatty.crypto.dpop import DpopKey
from chatty.crypto.passwords import DEFAULT_DERIVATION
from chatty.crypto.signatures import public_key, sign
from chatty.ids import DeviceId, RoomId, SendNumber, Seq, UserId, UserSeq
from chatty.wire import chain
from chatty.wire.accounts import NewDevice, Registration, Salt, SaltRequest, Tokens
from chatty.wire.canonical import encode_base64
from chatty.wire.events import (
    MEGOLM,
    OLM,
    Action,
    CreateContent,
    Invitation,
    MemberChange,
    Policy,
    SignedInvitation,
)
from chatty.wire.keys import DeviceKeys, KeyUpload
from chatty.wire.rooms import RoomCommitted, RoomCreation, SignedCreate, SignedInvitationBody, SignedMemberChange
from chatty.wire.signing import body_bytes, login_bytes, matrix_signed_bytes, signed_bytes

T = TypeVar("T")


@dataclass(kw_only=True)
class Person:
    """One user with one device. `tokens` are there after enrol(). user_seq: how far its own stream has come."""

    user: UserId
    origin: str
    device: DeviceId = field(default_factory=lambda: DeviceId("D" + secrets.token_hex(8)))
    login_seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    identity_seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    device_seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    access_token: str = ""
    user_seq: UserSeq = UserSeq(0)

    def __post_init__(self) -> None:
        self._numbers = count(1)
        self.identity = public_key(self.identity_seed)
        self.dpop = DpopKey(secrets.token_bytes(32))

    @property
    def name(self) -> str:
        return self.user[1:].partition(":")[0]

    def next_n(self) -> SendNumber:
        return SendNumber(next(self._numbers))

    def proof(self, method: str, url: str, *, nonce: str) -> str:
        """DPoP, for a request with the access token."""
        jti, token = secrets.token_urlsafe(12), self.access_token
        return self.dpop.proof(method=method, url=url, nonce=nonce, jti=jti, now_s=time.time(), access_token=token)

    def device_keys(self) -> DeviceKeys:
        curve25519 = encode_base64(nacl.bindings.crypto_scalarmult_base(secrets.token_bytes(32)))
        key_id = f"ed25519:{self.device}"
        unsigned = DeviceKeys(
            user_id=self.user,
            device_id=self.device,
            algorithms=[OLM, MEGOLM],
            keys={f"curve25519:{self.device}": curve25519, key_id: public_key(self.device_seed)},
            signatures={},
        )
        signature = sign(self.device_seed, matrix_signed_bytes(msgspec.to_builtins(unsigned)))
        return msgspec.structs.replace(unsigned, signatures={self.user: {key_id: signature}})


@dataclass(frozen=True, kw_only=True)
class MadeRoom:
    room: RoomId
    epoch: Seq
    seq: Seq


class Town:
    """The server, seen by whoever fills it with people and rooms."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self._nonce = ""
        self._http = httpx.Client(base_url=origin, timeout=30)
        self.server_name = str(self._http.get("/v1/server").raise_for_status().json()["server_name"])

    def close(self) -> None:
        self._http.close()

    def _post(
        self, path: str, body: msgspec.Struct, answer: type[T], *, by: Person | None = None, n: int | None = None
    ) -> T:
        headers = {"Content-Type": "application/json"}
        if by is not None:
            headers |= {"Authorization": f"DPoP {by.access_token}", "DPoP": self._proof(by, path)}
        if n is not None:
            headers |= {"Idempotency-Key": str(n), "Chatty-Low": str(n)}
        response = self._http.post(path, content=msgspec.json.encode(body), headers=headers)
        self._nonce = response.headers["DPoP-Nonce"]
        if response.status_code == 401 and response.json()["code"] == "use_dpop_nonce":
            return self._post(path, body, answer, by=by, n=n)
        if response.is_error:
            raise RuntimeError(f"{path}: {response.status_code} {response.text}")
        return msgspec.json.decode(response.content, type=answer)

    def _proof(self, by: Person, path: str) -> str:
        return by.proof("POST", self.origin + path, nonce=self._nonce)

    def enrol(self, name: str) -> Person:
        """A registered user whose device has published its keys."""
        person = Person(user=UserId(f"@{name}:{self.server_name}"), origin=self.origin)
        salt = self._post("/v1/salt", SaltRequest(user=person.user), Salt)
        statement = login_bytes(
            origin=self.origin,
            user=person.user,
            nonce=salt.nonce,
            dpop_thumbprint=person.dpop.thumbprint,
            purpose="register",
        )
        registration = Registration(
            name=name,
            login_key=public_key(person.login_seed),
            identity_key=person.identity,
            wrapped_recovery=b"wrapped",
            wrapped_identity=b"wrapped",
            key_derivation=DEFAULT_DERIVATION,
            new_device=NewDevice(device=person.device),
            nonce=salt.nonce,
            signature=sign(person.login_seed, statement),
            dpop_thumbprint=person.dpop.thumbprint,
        )
        person.access_token = self._post("/v1/register", registration, Tokens).access_token
        self._post("/v1/keys/upload", KeyUpload(device_keys=person.device_keys()), dict[str, Any], by=person)
        return person

    def make_room(self, members: Sequence[Person]) -> MadeRoom:
        """The first creates it and invites the others, who join. Two members: a direct room."""
        if len(members) == 2:
            return self._make_direct_room(members[0], members[1])
        creator = members[0]
        committed, room = self._create(creator, direct=None)
        for member in members[1:]:
            committed = self._join(member, self._invite(creator, member, room), room)
        return MadeRoom(room=room, epoch=committed.epoch, seq=committed.seq)

    def _make_direct_room(self, creator: Person, other: Person) -> MadeRoom:
        committed, room = self._create(creator, direct=other)
        return MadeRoom(room=room, epoch=committed.epoch, seq=committed.seq)

    def _create(self, creator: Person, *, direct: Person | None) -> tuple[RoomCommitted, RoomId]:
        create, room = sign_create(creator, direct, server=self.server_name)
        members = [sign_change(creator, Action.JOIN, creator, room, server=self.server_name)]
        if direct is not None:
            members.append(sign_change(creator, Action.ADD, direct, room, server=self.server_name))
        body = RoomCreation(create=create, members=members)
        return self._post("/v1/rooms", body, RoomCommitted, by=creator, n=create.signed.n), room

    def _invite(self, by: Person, target: Person, room: RoomId) -> SignedInvitation:
        invitation = sign_invitation(by, target, room, server=self.server_name)
        body = SignedInvitationBody(signed=invitation.signed, signature=invitation.signature)
        path = f"/v1/rooms/{room}/invitations"
        self._post(path, body, dict[str, Any], by=by, n=invitation.signed.n)
        return invitation

    def _join(self, member: Person, invitation: SignedInvitation, room: RoomId) -> RoomCommitted:
        change = sign_change(member, Action.JOIN, member, room, server=self.server_name, invitation=invitation)
        return self._post(f"/v1/rooms/{room}/members", change, RoomCommitted, by=member, n=change.signed.n)


# What people sign. Everybody here stands at the room's beginning: the position that is checked is head(0). -----------


def sign_create(creator: Person, direct: Person | None, *, server: str) -> tuple[SignedCreate, RoomId]:
    """The creation, which is the room's id."""
    pair = tuple(sorted((creator.user, direct.user))) if direct is not None else None
    create = CreateContent(
        domain="chatty.create.v1",
        server=server,
        creator=creator.user,
        creator_identity=creator.identity,
        device=creator.device,
        nonce=encode_base64(secrets.token_bytes(16)),
        policy=Policy(),
        direct=msgspec.convert(pair, tuple[UserId, UserId] | None),
        n=creator.next_n(),
    )
    signature = sign(creator.device_seed, signed_bytes(create))
    return SignedCreate(signed=create, signature=signature), chain.room_id(body_bytes(create))


def sign_change(
    by: Person,
    action: Action,
    target: Person,
    room: RoomId,
    *,
    server: str,
    invitation: SignedInvitation | None = None,
) -> SignedMemberChange:
    change = MemberChange(
        domain="chatty.member.v1",
        server=server,
        room=room,
        action=action,
        sender=by.user,
        device=by.device,
        target=target.user,
        target_identity=target.identity,
        last_seq=Seq(0),
        last_head=encode_base64(chain.empty_head(room)),
        n=by.next_n(),
        invitation=invitation,
    )
    return SignedMemberChange(signed=change, signature=sign(by.device_seed, signed_bytes(change)))


def sign_invitation(by: Person, target: Person, room: RoomId, *, server: str) -> SignedInvitation:
    invitation = Invitation(
        domain="chatty.invitation.v1",
        server=server,
        room=room,
        sender=by.user,
        device=by.device,
        target=target.user,
        target_identity=target.identity,
        last_seq=Seq(0),
        last_head=encode_base64(chain.empty_head(room)),
        n=by.next_n(),
    )
    return SignedInvitation(signed=invitation, signature=sign(by.device_seed, signed_bytes(invitation)))


# What people send ----------------------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return out + bytes((value,))


_MAC_AND_SIGNATURE_BYTES = 8 + 64


def megolm_message(number: int, *, ciphertext_bytes: int) -> bytes:
    """Shaped like a Megolm message of this index; its ciphertext is a multiple of 16 bytes."""
    head = b"\x03\x08" + _varint(number) + b"\x12" + _varint(ciphertext_bytes)
    return head + secrets.token_bytes(ciphertext_bytes + _MAC_AND_SIGNATURE_BYTES)


def number_of(body: bytes) -> int:
    """The index."""
    at, number = 2, body[2] & 0x7F
    while body[at] & 0x80:
        at += 1
        number |= (body[at] & 0x7F) << 7 * (at - 2)
    return number
