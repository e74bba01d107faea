"""People with real keys and rooms with a real chain, made by hand: what an honest server shows, and what a lying one could."""

import base64
import secrets
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, TypeVar

import msgspec
import nacl.bindings

from chatty.crypto.signatures import public_key, sign
from chatty.crypto.tokens import SigningKey
from chatty.ids import DeviceId, ListVersion, RoomId, SendNumber, Seq, UserId
from chatty.wire import chain
from chatty.wire.canonical import encode_base64
from chatty.wire.events import (
    MEGOLM,
    OLM,
    STATE_KINDS,
    Action,
    Content,
    CreateContent,
    Deletion,
    DeletionContent,
    DevicesContent,
    Invitation,
    Kind,
    MemberChange,
    MemberContent,
    Policy,
    PolicyChange,
    PolicyContent,
    Removal,
    RemovalContent,
    RemovalReason,
    Restoration,
    RestoredContent,
    RoomRole,
    SignedInvitation,
    TimelineEvent,
    decode_content,
)
from chatty.wire.frames import Erased, Gap, Horizon, HorizonMark
from chatty.wire.keys import DeviceKeys, DeviceList, KeyAnswer, SignedKey
from chatty.wire.room_directory import Listing, ListingContent
from chatty.wire.room_links import LinkContent, LinkProof, LinkRevocation, LinkRevocationContent, NewLink
from chatty.wire.signing import body_bytes, horizon_bytes, link_proof_bytes, matrix_signed_bytes, signed_bytes

T = TypeVar("T", bound=msgspec.Struct)
SERVER = "example.org"
SERVER_KEY = SigningKey(b"\x0c" * 32)


def server_keys(key_id: str, time: int) -> str | None:
    """As a client knows them that has asked."""
    return encode_base64(SERVER_KEY.public.public_bytes_raw()) if key_id == SERVER_KEY.key_id else None


@dataclass
class Person:
    """One user with one device. A copy made with other seeds is what a lying server shows in their place."""

    name: str
    device: DeviceId = field(default_factory=lambda: DeviceId("D" + secrets.token_hex(6)))
    seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    identity_seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    curve_seed: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    list_version: ListVersion = ListVersion(1)
    removed: dict[DeviceId, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.numbers = count(1)

    @property
    def user(self) -> UserId:
        return UserId(f"@{self.name}:{SERVER}")

    @property
    def identity(self) -> str:
        return public_key(self.identity_seed)

    @property
    def ed25519(self) -> str:
        return public_key(self.seed)

    @property
    def curve25519(self) -> str:
        return encode_base64(nacl.bindings.crypto_scalarmult_base(self.curve_seed))

    @property
    def digest(self) -> str:
        return encode_base64(chain.device_list_digest([(self.device, self.curve25519, self.ed25519)]))

    def n(self) -> SendNumber:
        return SendNumber(next(self.numbers))

    def device_keys(self) -> DeviceKeys:
        keys = {f"curve25519:{self.device}": self.curve25519, f"ed25519:{self.device}": self.ed25519}
        unsigned = DeviceKeys(
            user_id=self.user, device_id=self.device, algorithms=[OLM, MEGOLM], keys=keys, signatures={}
        )
        signature = sign(self.seed, matrix_signed_bytes(msgspec.to_builtins(unsigned)))
        return msgspec.structs.replace(unsigned, signatures={self.user: {f"ed25519:{self.device}": signature}})

    def one_time_key(self) -> SignedKey:
        """As this device would sign it."""
        key = encode_base64(nacl.bindings.crypto_scalarmult_base(secrets.token_bytes(32)))
        unsigned = SignedKey(key=key, signatures={})
        signature = sign(self.seed, matrix_signed_bytes(msgspec.to_builtins(unsigned)))
        return msgspec.structs.replace(unsigned, signatures={self.user: {f"ed25519:{self.device}": signature}})

    def with_other_keys(self) -> "Person":
        return replace(self, seed=secrets.token_bytes(32), curve_seed=secrets.token_bytes(32))

    def with_other_identity(self) -> "Person":
        return replace(self, identity_seed=secrets.token_bytes(32))


def key_answer(*people: Person) -> KeyAnswer:
    """What an honest server answers about these people."""
    return KeyAnswer(
        device_keys={person.user: {person.device: person.device_keys()} for person in people},
        device_lists={
            person.user: DeviceList(
                list_version=person.list_version,
                list_digest=person.digest,
                identity_key=person.identity,
                removed=person.removed,
            )
            for person in people
        },
    )


class ForgedRoom:
    """A room's timeline, numbered and chained as the server does it. `events` is what members are shown."""

    def __init__(self, creator: Person, *, nonce: str = "", direct: tuple[Person, Person] | None = None) -> None:
        create = CreateContent(
            domain="chatty.create.v1",
            server=SERVER,
            creator=creator.user,
            creator_identity=creator.identity,
            device=creator.device,
            nonce=nonce or encode_base64(secrets.token_bytes(16)),
            policy=Policy(),
            direct=(direct[0].user, direct[1].user) if direct is not None else None,
            n=creator.n(),
        )
        self.room: RoomId = chain.room_id(body_bytes(create))
        self.events: list[TimelineEvent] = []
        self.heads = [chain.empty_head(self.room)]
        self.epoch = Seq(0)
        self.state_seq = Seq(0)
        self._append_state(Kind.CREATE, create, creator, signature=sign(creator.seed, signed_bytes(create)), n=create.n)
        self.change(creator, Action.JOIN, creator)

    @property
    def seq(self) -> Seq:
        return Seq(len(self.heads) - 1)

    @property
    def last(self) -> TimelineEvent:
        return self.events[-1]

    def append(self, event: TimelineEvent) -> TimelineEvent:
        """Give the event the next place."""
        placed = msgspec.structs.replace(event, room=self.room, seq=Seq(self.seq + 1))
        self.events.append(placed)
        self.heads.append(chain.next_head(self.heads[-1], chain.leaf(placed)))
        if placed.kind in STATE_KINDS:
            self.state_seq = placed.seq
        return placed

    def again(self, event: TimelineEvent) -> TimelineEvent:
        """What was signed once, at the next place."""
        return self.append(msgspec.structs.replace(naming(event, self.state_seq), time=1_000 + self.seq))

    def _append_state(
        self,
        kind: Kind,
        content: Content,
        by: Person | None,
        *,
        signature: str = "",
        n: int = 0,
        target: str = "",
    ) -> TimelineEvent:
        event = TimelineEvent(
            room=self.room,
            seq=Seq(0),
            time=1_000 + self.seq,
            kind=kind,
            sender=by.user if by is not None else UserId(""),
            device=by.device if by is not None else DeviceId(""),
            n=SendNumber(n),
            target=target,
            signature=_raw(signature),
            body=body_bytes(content),
        )
        return self.append(event)

    def invitation(self, by: Person, target: Person) -> SignedInvitation:
        invitation = Invitation(
            domain="chatty.invitation.v1",
            server=SERVER,
            room=self.room,
            sender=by.user,
            device=by.device,
            target=target.user,
            target_identity=target.identity,
            last_seq=self.seq,
            last_head=encode_base64(self.heads[-1]),
            n=by.n(),
        )
        return SignedInvitation(signed=invitation, signature=sign(by.seed, signed_bytes(invitation)))

    def signed_change(
        self,
        by: Person,
        action: Action,
        target: Person,
        *,
        role: RoomRole | None = None,
        invitation: SignedInvitation | None = None,
        link: bytes | None = None,
        last_head: bytes | None = None,
    ) -> MemberChange:
        """link: the seed of one."""
        change = MemberChange(
            domain="chatty.member.v1",
            server=SERVER,
            room=self.room,
            action=action,
            sender=by.user,
            device=by.device,
            target=target.user,
            target_identity=target.identity,
            last_seq=self.seq,
            last_head=encode_base64(last_head or self.heads[-1]),
            n=by.n(),
            role=role,
            invitation=invitation,
        )
        if link is None:
            return change
        key = public_key(link)
        proof = LinkProof(link=key, signature=sign(link, link_proof_bytes(change, key)))
        return msgspec.structs.replace(change, link=proof)

    def change(
        self,
        by: Person,
        action: Action,
        target: Person,
        *,
        role: RoomRole | None = None,
        invitation: SignedInvitation | None = None,
        link: bytes | None = None,
        last_head: bytes | None = None,
        signature: str | None = None,
        is_by_server: bool = False,
    ) -> TimelineEvent:
        """A member event; unless a lie is asked for, as an honest one."""
        change = self.signed_change(
            by, action, target, role=role, invitation=invitation, link=link, last_head=last_head
        )
        return self.place(by, change, target, signature=signature, is_by_server=is_by_server)

    def place(
        self,
        by: Person,
        change: MemberChange,
        target: Person,
        *,
        signature: str | None = None,
        is_by_server: bool = False,
    ) -> TimelineEvent:
        """What was signed, as the server appends it."""
        action = change.action
        is_addition = action in (Action.JOIN, Action.ADD)
        content = MemberContent(
            signed=change,
            previous=self.state_seq,
            list_version=target.list_version if is_addition else None,
            list_digest=target.digest if is_addition else None,
        )
        signed = sign(by.seed, signed_bytes(change)) if signature is None else signature
        if is_by_server:
            event = self._append_state(Kind.MEMBER, content, None, target=target.user)
        else:
            event = self._append_state(Kind.MEMBER, content, by, signature=signed, n=change.n, target=target.user)
        if action not in (Action.ROLE, Action.TRANSFER):
            self.epoch = event.seq
        return event

    def join(self, target: Person, *, invited_by: Person) -> TimelineEvent:
        return self.change(target, Action.JOIN, target, invitation=self.invitation(invited_by, target))

    def join_by(self, target: Person, link: bytes | None) -> TimelineEvent:
        """None: into a listed room."""
        return self.change(target, Action.JOIN, target, link=link)

    def _signer(self, by: Person) -> dict[str, Any]:
        return {
            "server": SERVER,
            "room": self.room,
            "sender": by.user,
            "device": by.device,
            "last_seq": self.seq,
            "last_head": encode_base64(self.heads[-1]),
            "n": by.n(),
        }

    def link(self, by: Person, seed: bytes, *, uses_max: int = 1, expires_at: int = 1_000_000) -> TimelineEvent:
        new = NewLink(
            domain="chatty.link.v1",
            link=public_key(seed),
            uses_max=uses_max,
            expires_at=expires_at,
            **self._signer(by),
        )
        content = LinkContent(signed=new, previous=self.state_seq)
        return self._append_state(Kind.POLICY, content, by, signature=sign(by.seed, signed_bytes(new)), n=new.n)

    def revocation(self, by: Person, seed: bytes) -> TimelineEvent:
        signed = LinkRevocation(domain="chatty.link_revocation.v1", link=public_key(seed), **self._signer(by))
        content = LinkRevocationContent(signed=signed, previous=self.state_seq)
        return self._append_state(Kind.POLICY, content, by, signature=sign(by.seed, signed_bytes(signed)), n=signed.n)

    def listing(self, by: Person, title: str) -> TimelineEvent:
        signed = Listing(domain="chatty.listing.v1", title=title, **self._signer(by))
        content = ListingContent(signed=signed, previous=self.state_seq)
        return self._append_state(Kind.POLICY, content, by, signature=sign(by.seed, signed_bytes(signed)), n=signed.n)

    def policy(self, by: Person, policy: Policy) -> TimelineEvent:
        change = PolicyChange(
            domain="chatty.policy.v1",
            server=SERVER,
            room=self.room,
            sender=by.user,
            device=by.device,
            policy=policy,
            last_seq=self.seq,
            last_head=encode_base64(self.heads[-1]),
            n=by.n(),
        )
        signature = sign(by.seed, signed_bytes(change))
        content = PolicyContent(signed=change, previous=self.state_seq)
        return self._append_state(Kind.POLICY, content, by, signature=signature, n=change.n)

    def removal(
        self,
        target: Person,
        *,
        reason: RemovalReason = RemovalReason.ACCOUNT_DELETED,
        key: SigningKey = SERVER_KEY,
        last_head: bytes | None = None,
    ) -> TimelineEvent:
        """By the server."""
        removal = Removal(
            domain="chatty.removal.v1",
            server=SERVER,
            room=self.room,
            target=target.user,
            reason=reason,
            last_seq=self.seq,
            last_head=encode_base64(last_head or self.heads[-1]),
            key_id=SERVER_KEY.key_id,
        )
        event = TimelineEvent(
            room=self.room,
            seq=Seq(0),
            time=1_000 + self.seq,
            kind=Kind.MEMBER,
            target=target.user,
            signature=key.sign(signed_bytes(removal)),
            body=body_bytes(RemovalContent(signed=removal, previous=self.state_seq)),
        )
        placed = self.append(event)
        self.epoch = placed.seq
        return placed

    def restored(
        self, generation: int = 2, *, key: SigningKey = SERVER_KEY, last_head: bytes | None = None
    ) -> TimelineEvent:
        """By the server."""
        signed = Restoration(
            domain="chatty.restored.v1",
            server=SERVER,
            room=self.room,
            generation=Seq(generation),
            generation_id=f"id {generation}",
            last_seq=self.seq,
            last_head=encode_base64(last_head or self.heads[-1]),
            key_id=SERVER_KEY.key_id,
        )
        event = TimelineEvent(
            room=self.room,
            seq=Seq(0),
            time=1_000 + self.seq,
            kind=Kind.RESTORED,
            signature=key.sign(signed_bytes(signed)),
            body=body_bytes(RestoredContent(signed=signed, previous=self.state_seq)),
        )
        return self.append(event)

    def devices(self, of: Person, *, digest: str = "") -> TimelineEvent:
        content = DevicesContent(
            user=of.user,
            list_version=of.list_version,
            list_digest=digest or of.digest,
            previous=self.state_seq,
        )
        event = self._append_state(Kind.DEVICES, content, None, target=of.user)
        self.epoch = event.seq
        return event

    def message(
        self, by: Person, *, body: bytes = b"ciphertext", epoch: Seq | None = None, expiry: int = 0
    ) -> TimelineEvent:
        event = TimelineEvent(
            room=self.room,
            seq=Seq(0),
            time=1_000 + self.seq,
            kind=Kind.MESSAGE,
            sender=by.user,
            device=by.device,
            n=by.n(),
            algorithm=MEGOLM,
            session_id="S" * 43,
            epoch=self.epoch if epoch is None else epoch,
            expiry=expiry,
            body=body,
        )
        return self.append(event)

    def deletion(
        self, by: Person, target: TimelineEvent, *, of: Person | None = None, last_head: bytes | None = None
    ) -> TimelineEvent:
        """of: whose message it is said to be; else whose it is."""
        deletion = Deletion(
            domain="chatty.deletion.v1",
            server=SERVER,
            room=self.room,
            sender=by.user,
            device=by.device,
            target=chain.event_id(chain.leaf(target)),
            target_seq=target.seq,
            target_sender=of.user if of is not None else target.sender,
            last_seq=self.seq,
            last_head=encode_base64(last_head or self.heads[-1]),
            n=by.n(),
        )
        signature = sign(by.seed, signed_bytes(deletion))
        content = DeletionContent(signed=deletion)
        return self._append_state(Kind.DELETION, content, by, signature=signature, n=deletion.n, target=deletion.target)

    def horizon(
        self,
        from_seq: int,
        to_seq: int,
        *,
        at: int | None = None,
        before: int | None = None,
        key: SigningKey = SERVER_KEY,
        head: bytes | None = None,
    ) -> Horizon:
        """What is shown of a stretch below the horizon `at`, else to_seq."""
        at = to_seq if at is None else at
        before = self.events[at - 1].time + 1 if before is None else before
        key_id, time, mark_head = SERVER_KEY.key_id, before + 1_000, self.heads[at]
        statement = horizon_bytes(
            server=SERVER, room=self.room, seq=Seq(at), head=mark_head, before=before, time=time, key_id=key_id
        )
        mark = HorizonMark(
            seq=Seq(at), head=mark_head, before=before, time=time, key_id=key_id, signature=key.sign(statement)
        )
        shown = self.heads[to_seq] if head is None else head
        return Horizon(room=self.room, from_seq=Seq(from_seq), to_seq=Seq(to_seq), head=shown, mark=mark)

    def gap(self, from_seq: int, to_seq: int) -> Gap:
        return Gap(room=self.room, from_seq=Seq(from_seq), to_seq=Seq(to_seq), head=self.heads[to_seq])

    def erased(self, seq: int, *, removal_seq: int | None = None) -> Erased:
        """What is left of a message whose sender's account was deleted. removal_seq: the newest event's."""
        leaf = chain.leaf(self.events[seq - 1])
        return Erased(room=self.room, seq=Seq(seq), leaf=leaf, removal_seq=Seq(removal_seq or self.seq))


def _raw(signature: str) -> bytes:
    return base64.b64decode(signature + "==")


def naming(event: TimelineEvent, previous: int) -> TimelineEvent:
    """The event as it would be behind another state event: nobody signed what it names."""
    content = decode_content(event)
    assert not isinstance(content, CreateContent)
    return altered(event, body=body_bytes(msgspec.structs.replace(content, previous=Seq(previous))))


def tombstone(event: TimelineEvent, *, deletion_seq: int = 0) -> TimelineEvent:
    """What is left of a message without its ciphertext."""
    return altered(event, body=None, body_hash=chain.body_hash(event), deletion_seq=Seq(deletion_seq))


def altered(value: T, **changes: object) -> T:
    return msgspec.structs.replace(value, **changes)
