"""People and their devices over plain HTTP: signed up, with real keys, and able to sign what changes a room. No SDK.

ann = await sign_up(http, "ann")                  # http: of a running server
room = await ann.create_room(bob, cid)            # all of them joined
committed = await room.kick(ann, bob)
"""

import secrets
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
import msgspec

from chatty.crypto import signatures
from chatty.crypto.signatures import public_key
from chatty.ids import DeviceId, RoomId, SendNumber, Seq, UserId
from chatty.wire import chain
from chatty.wire.canonical import encode_base64
from chatty.wire.events import (
    STATE_KINDS,
    Action,
    CreateContent,
    Deletion,
    Invitation,
    MemberChange,
    Policy,
    PolicyChange,
    RoomRole,
    SignedInvitation,
    TimelineEvent,
)
from chatty.wire.frames import Erased, PlacedEntry, RoomEntry, Stretch
from chatty.wire.room_directory import Listing
from chatty.wire.room_links import LinkProof, LinkRevocation, NewLink
from chatty.wire.rooms import Page, RoomCommitted
from chatty.wire.signing import Signable, body_bytes, link_proof_bytes, signed_bytes
from tests.olm_devices import OlmDevice
from tests.people import Person, new_device_id

ORIGIN = "http://chatty.test"  # as the server is told; it listens elsewhere
SERVER_NAME = "localhost"


class HttpRefused(Exception):
    """The answer was no success. problem: the problem document."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(f"{answer.status_code}: {answer.text}")
        self.status: int = answer.status_code
        self.problem: dict[str, Any] = answer.json()

    @property
    def code(self) -> str:
        return str(self.problem["code"])


class Somebody(Protocol):
    """Whom a change is about."""

    @property
    def user(self) -> UserId: ...
    @property
    def identity_key(self) -> str: ...


@dataclass(kw_only=True)
class WireDevice:
    """One signed-in device with published keys, and the numbers of its requests."""

    http: httpx.AsyncClient
    person: Person
    identity_key: str
    olm: OlmDevice
    tokens: dict[str, Any]
    last_n: int = 0
    unsettled: set[int] = field(default_factory=set)

    @property
    def origin(self) -> str:
        """Where the server listens."""
        return str(self.http.base_url).rstrip("/")

    @property
    def user(self) -> UserId:
        return self.olm.user

    @property
    def device(self) -> DeviceId:
        return self.olm.device

    @property
    def access_token(self) -> str:
        return str(self.tokens["access_token"])

    # Numbers ---------------------------------------------------------------------------------------------------------

    @property
    def low(self) -> SendNumber:
        """Everything below was settled."""
        return SendNumber(min(self.unsettled, default=self.last_n + 1))

    def take_n(self) -> SendNumber:
        """The next number, open until settle()."""
        self.last_n += 1
        self.unsettled.add(self.last_n)
        return SendNumber(self.last_n)

    def settle(self, n: int) -> None:
        self.unsettled.discard(n)

    # HTTP ------------------------------------------------------------------------------------------------------------

    async def answer(self, method: str, path: str, body: Any = None, *, n: int | None = None) -> httpx.Response:
        """Whatever the server says. n: makes it a numbered request."""
        headers: dict[str, str] = {}
        if n is not None:
            headers |= {"Idempotency-Key": str(n), "Chatty-Low": str(min(self.low, n))}
        if body is None:
            return await self.ask(method, path, headers=headers)
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        headers["Content-Type"] = "application/json"
        return await self.ask(method, path, headers=headers, content=content)

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """As httpx takes it, with this device's token and a proof."""
        return await self.person.prover.ask(self.http, method, path, access_token=self.access_token, **options)

    def proof(self, nonce: str) -> str:
        """For a socket whose challenge holds this nonce."""
        return self.person.prover.proof("GET", "/v1/ws", access_token=self.access_token, nonce=nonce)

    async def get(self, path: str) -> dict[str, Any]:
        """Raises: HttpRefused."""
        return _successful(await self.answer("GET", path))

    async def post(self, path: str, body: Any, *, n: int | None = None) -> dict[str, Any]:
        """Raises: HttpRefused. Success settles n."""
        answer = _successful(await self.answer("POST", path, body, n=n))
        if n is not None:
            self.settle(n)
        return answer

    # Keys and the mailbox --------------------------------------------------------------------------------------------

    async def publish_keys(self, *, one_time_keys_count: int = 0, with_fallback: bool = False) -> None:
        upload = self.olm.upload(one_time_keys_count=one_time_keys_count, with_fallback=with_fallback)
        await self.post("/v1/keys/upload", upload)

    def olm_content(self, recipient: "WireDevice", text: str = "AwAA") -> dict[str, Any]:
        """In the shape of an Olm message; the server cannot look inside."""
        return {
            "algorithm": "m.olm.v1.curve25519-aes-sha2",
            "sender_key": self.olm.curve25519,
            "ciphertext": {recipient.olm.curve25519: {"type": 0, "body": text}},
        }

    async def send_to_devices(self, *recipients: "WireDevice", text: str = "AwAA") -> dict[str, Any]:
        messages: dict[str, dict[str, Any]] = {}
        for one in recipients:
            messages.setdefault(one.user, {})[one.device] = self.olm_content(one, text)
        return await self.post("/v1/to-device", {"type": "m.room.encrypted", "messages": messages}, n=self.take_n())

    # Rooms -----------------------------------------------------------------------------------------------------------

    def sign(self, signable: Signable) -> str:
        return self.olm.account.sign(signed_bytes(signable)).to_base64()

    def signed(self, signable: Signable) -> dict[str, Any]:
        """The body of a request that changes a room."""
        return {"signed": msgspec.to_builtins(signable), "signature": self.sign(signable)}

    async def create_room(self, *others: "WireDevice", policy: Policy | None = None) -> "WireRoom":
        """A room in which the others have joined."""
        room = await self._create(policy or Policy(), other=None)
        for other in others:
            await room.join(other, invited_by=self)
        return room

    async def create_direct(self, other: "WireDevice") -> "WireRoom":
        return await self._create(Policy(history="joined", invite=RoomRole.OWNER), other=other)

    async def _create(self, policy: Policy, *, other: "WireDevice | None") -> "WireRoom":
        committed = await self.post("/v1/rooms", **self.creation(policy, other=other))
        return WireRoom(RoomId(committed["room"]), Seq(committed["epoch"]))

    def creation(self, policy: Policy, *, other: Somebody | None = None) -> dict[str, Any]:
        """Body and n of a room's creation."""
        n = self.take_n()
        pair = sorted((self.user, other.user)) if other is not None else None
        create = CreateContent(
            domain="chatty.create.v1",
            server=SERVER_NAME,
            creator=self.user,
            creator_identity=self.identity_key,
            device=self.device,
            nonce=encode_base64(secrets.token_bytes(16)),
            policy=policy,
            direct=(pair[0], pair[1]) if pair is not None else None,
            n=n,
        )
        room = chain.room_id(body_bytes(create))
        start = (Seq(0), chain.empty_head(room))
        members = [self.signed(self.change(room, Action.JOIN, self, start))]
        if other is not None:
            members.append(self.signed(self.change(room, Action.ADD, other, start)))
        for member in members:
            self.settle(member["signed"]["n"])
        return {"body": {"create": self.signed(create), "members": members}, "n": n}

    def change(
        self,
        room: RoomId,
        action: Action,
        target: Somebody,
        position: tuple[Seq, bytes],
        *,
        role: RoomRole | None = None,
        invitation: SignedInvitation | None = None,
    ) -> MemberChange:
        """A member change under the next n. position: the last (seq, head) that the signer knows."""
        return MemberChange(
            domain="chatty.member.v1",
            server=SERVER_NAME,
            room=room,
            action=action,
            sender=self.user,
            device=self.device,
            target=target.user,
            target_identity=target.identity_key,
            last_seq=position[0],
            last_head=encode_base64(position[1]),
            n=self.take_n(),
            role=role,
            invitation=invitation,
        )

    async def history(self, room: RoomId, *, after: int = 0, limit: int = 500) -> Page:
        """One page. Raises: HttpRefused."""
        answer = _succeeded(await self.answer("GET", f"/v1/rooms/{room}/events?after={after}&limit={limit}"))
        return msgspec.json.decode(answer.content, type=Page)

    async def all_history(self, room: RoomId) -> list[RoomEntry]:
        """Every page; a hole in them is the reader's own to find."""
        entries: list[RoomEntry] = []
        while True:
            page = await self.history(room, after=last_seq(entries))
            entries += page.entries
            if not page.entries or last_seq(entries) == page.head_seq:
                return entries

    async def position(self, room: RoomId) -> tuple[Seq, bytes]:
        """The last (seq, head) of the room as this device can compute it."""
        return fold_chain(room, await self.all_history(room))


@dataclass(frozen=True)
class WireLink:
    """The secret of an invitation link; the server has its public key alone."""

    seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    @property
    def key(self) -> str:
        return public_key(self.seed)

    def prove(self, change: MemberChange) -> MemberChange:
        """The join, with the link's proof."""
        signature = signatures.sign(self.seed, link_proof_bytes(change, self.key))
        return msgspec.structs.replace(change, link=LinkProof(link=self.key, signature=signature))


@dataclass
class WireRoom:
    """A room and its newest epoch, as far as the changes made through this object tell."""

    id: RoomId
    epoch: Seq

    async def change(
        self,
        by: WireDevice,
        action: Action,
        target: WireDevice,
        *,
        role: RoomRole | None = None,
        invitation: SignedInvitation | None = None,
    ) -> RoomCommitted:
        """Raises: HttpRefused."""
        position = (Seq(0), chain.empty_head(self.id)) if action is Action.JOIN else await by.position(self.id)
        change = by.change(self.id, action, target, position, role=role, invitation=invitation)
        return await self.post_change(by, change)

    async def post_change(self, by: WireDevice, change: MemberChange) -> RoomCommitted:
        answer = await by.post(f"/v1/rooms/{self.id}/members", by.signed(change), n=change.n)
        committed = msgspec.convert(answer, RoomCommitted)
        self.epoch = committed.epoch
        return committed

    async def invitation(self, by: WireDevice, target: WireDevice) -> SignedInvitation:
        """Signed, and not sent."""
        seq, head = await by.position(self.id)
        invitation = Invitation(
            domain="chatty.invitation.v1",
            server=SERVER_NAME,
            room=self.id,
            sender=by.user,
            device=by.device,
            target=target.user,
            target_identity=target.identity_key,
            last_seq=seq,
            last_head=encode_base64(head),
            n=by.take_n(),
        )
        return SignedInvitation(signed=invitation, signature=by.sign(invitation))

    async def invite(self, by: WireDevice, target: WireDevice) -> SignedInvitation:
        """Raises: HttpRefused."""
        invitation = await self.invitation(by, target)
        await by.post(f"/v1/rooms/{self.id}/invitations", invitation, n=invitation.signed.n)
        return invitation

    async def join(self, joiner: WireDevice, *, invited_by: WireDevice) -> RoomCommitted:
        invitation = await self.invite(invited_by, joiner)
        return await self.change(joiner, Action.JOIN, joiner, invitation=invitation)

    async def leave(self, who: WireDevice) -> RoomCommitted:
        return await self.change(who, Action.LEAVE, who)

    async def kick(self, by: WireDevice, target: WireDevice) -> RoomCommitted:
        return await self.change(by, Action.KICK, target)

    def joining(self, joiner: WireDevice, link: WireLink | None = None) -> MemberChange:
        """By a link, or into a listed room; not sent."""
        change = joiner.change(self.id, Action.JOIN, joiner, (Seq(0), chain.empty_head(self.id)))
        return change if link is None else link.prove(change)

    async def join_by(self, joiner: WireDevice, link: WireLink | None) -> RoomCommitted:
        """None: into a listed room. Raises: HttpRefused."""
        return await self.post_change(joiner, self.joining(joiner, link))

    async def signer(self, by: WireDevice) -> dict[str, Any]:
        """The fields that say who signs, and where."""
        seq, head = await by.position(self.id)
        return {
            "server": SERVER_NAME,
            "room": self.id,
            "sender": by.user,
            "device": by.device,
            "last_seq": seq,
            "last_head": encode_base64(head),
            "n": by.take_n(),
        }

    async def new_link(
        self, by: WireDevice, link: WireLink, *, uses_max: int = 1, lifetime_s: float = 600.0
    ) -> NewLink:
        """Not sent."""
        expires_at = int((time.time() + lifetime_s) * 1000)
        fields = await self.signer(by)
        return NewLink(domain="chatty.link.v1", link=link.key, expires_at=expires_at, uses_max=uses_max, **fields)

    async def make_link(
        self, by: WireDevice, *, link: WireLink | None = None, uses_max: int = 1, lifetime_s: float = 600.0
    ) -> WireLink:
        """Raises: HttpRefused."""
        link = link or WireLink()
        await self.post_policy(by, "links", await self.new_link(by, link, uses_max=uses_max, lifetime_s=lifetime_s))
        return link

    async def revocation(self, by: WireDevice, link: WireLink) -> LinkRevocation:
        """Not sent."""
        return LinkRevocation(domain="chatty.link_revocation.v1", link=link.key, **await self.signer(by))

    async def revoke_link(self, by: WireDevice, link: WireLink) -> RoomCommitted:
        """Raises: HttpRefused."""
        return await self.post_policy(by, "links/revoke", await self.revocation(by, link))

    async def listing(self, by: WireDevice, title: str) -> Listing:
        """Not sent."""
        return Listing(domain="chatty.listing.v1", title=title, **await self.signer(by))

    async def list_publicly(self, by: WireDevice, title: str) -> RoomCommitted:
        """Raises: HttpRefused."""
        return await self.post_policy(by, "listing", await self.listing(by, title))

    async def post_policy(self, by: WireDevice, what: str, signed: NewLink | LinkRevocation | Listing) -> RoomCommitted:
        answer = await by.post(f"/v1/rooms/{self.id}/{what}", by.signed(signed), n=signed.n)
        return msgspec.convert(answer, RoomCommitted)

    async def set_policy(self, by: WireDevice, policy: Policy) -> RoomCommitted:
        """Raises: HttpRefused."""
        change = await self.policy_change(by, policy)
        answer = await by.post(f"/v1/rooms/{self.id}/policy", by.signed(change), n=change.n)
        return msgspec.convert(answer, RoomCommitted)

    async def deletion(self, by: WireDevice, event: TimelineEvent, **changes: Any) -> Deletion:
        """Not sent. changes: what it says instead."""
        seq, head = await by.position(self.id)
        deletion = Deletion(
            domain="chatty.deletion.v1",
            server=SERVER_NAME,
            room=self.id,
            sender=by.user,
            device=by.device,
            target=chain.event_id(chain.leaf(event)),
            target_seq=event.seq,
            target_sender=event.sender,
            last_seq=seq,
            last_head=encode_base64(head),
            n=by.take_n(),
        )
        return msgspec.structs.replace(deletion, **changes)

    async def delete(self, by: WireDevice, target: TimelineEvent, **changes: Any) -> RoomCommitted:
        """Raises: HttpRefused."""
        return await self.post_deletion(by, await self.deletion(by, target, **changes))

    async def post_deletion(self, by: WireDevice, deletion: Deletion) -> RoomCommitted:
        answer = await by.post(f"/v1/rooms/{self.id}/deletions", by.signed(deletion), n=deletion.n)
        return msgspec.convert(answer, RoomCommitted)

    async def policy_change(self, by: WireDevice, policy: Policy) -> PolicyChange:
        """Not sent."""
        seq, head = await by.position(self.id)
        return PolicyChange(
            domain="chatty.policy.v1",
            server=SERVER_NAME,
            room=self.id,
            sender=by.user,
            device=by.device,
            policy=policy,
            last_seq=seq,
            last_head=encode_base64(head),
            n=by.take_n(),
        )


async def sign_up(http: httpx.AsyncClient, name: str, *, origin: str = ORIGIN, **keys: Any) -> WireDevice:
    """A new account and its first device, in its user's set. keys: as publish_keys() takes them."""
    person = Person(http=http, name=name, server_name=SERVER_NAME, origin=origin)
    identity_key = public_key(secrets.token_bytes(32))
    device = DeviceId(new_device_id())
    answer = await person.register(identity_key=identity_key, new_device={"device": device, "name": name})
    return await _device(person, identity_key, _successful(answer), **keys)


async def sign_in(first: WireDevice, **keys: Any) -> WireDevice:
    """A further device of the same person."""
    person = first.person
    answer = await person.log_in(new_device={"device": new_device_id()})
    return await _device(person, first.identity_key, _successful(answer), **keys)


async def _device(person: Person, identity_key: str, tokens: dict[str, Any], **keys: Any) -> WireDevice:
    olm = OlmDevice(user=person.user, device=DeviceId(tokens["device"]))
    device = WireDevice(http=person.http, person=person, identity_key=identity_key, olm=olm, tokens=tokens)
    await device.publish_keys(**keys)
    return device


def last_seq(entries: list[RoomEntry]) -> Seq:
    if not entries:
        return Seq(0)
    last = entries[-1]
    return last.to_seq if isinstance(last, Stretch) else last.seq


def leaf_of(entry: PlacedEntry) -> bytes:
    return entry.leaf if isinstance(entry, Erased) else chain.leaf(entry)


def fold_chain(room: RoomId, entries: list[RoomEntry]) -> tuple[Seq, bytes]:
    """(seq, head) after these entries, from the room's beginning; checks that they are gapless and hide no state event."""
    seq, head, state_seq = Seq(0), chain.empty_head(room), Seq(0)
    for entry in entries:
        first = entry.from_seq if isinstance(entry, Stretch) else entry.seq
        assert first == seq + 1, f"a hole: {first} after {seq}"
        if isinstance(entry, Stretch):
            seq, head = entry.to_seq, entry.head
        else:
            seq, head = entry.seq, chain.next_head(head, leaf_of(entry))
            if isinstance(entry, TimelineEvent) and entry.kind in STATE_KINDS:
                named = msgspec.json.decode(entry.body or b"").get("previous", 0)
                assert named == state_seq, f"{seq} names {named} as the state event before it, not {state_seq}"
                state_seq = seq
    return seq, head


def _succeeded(answer: httpx.Response) -> httpx.Response:
    if not answer.is_success:
        raise HttpRefused(answer)
    return answer


def _successful(answer: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = _succeeded(answer).json()
    return body
