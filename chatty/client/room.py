"""One room, as an application sees it: its verified members, sending, and signed changes of members, policy and messages."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import msgspec
import trio

from chatty.client.details import RoomDetails, made_details, may_name
from chatty.client.engine import Engine
from chatty.client.http import PolicyPath
from chatty.client.messages import Writing, new_mid
from chatty.client.reasons import Reason, RoomFrozen
from chatty.client.relations import (
    About,
    Announcement,
    Edit,
    Reaction,
    Reply,
    Retraction,
    Thread,
    mentions_max,
    reaction_bytes_max,
)
from chatty.client.room_links import InvitationLink, new_link
from chatty.client.rooms import RoomVerifier
from chatty.client.update_queue import history_max
from chatty.client.updates import Message, MessageLost, Sent
from chatty.client.views import MessageView, views
from chatty.errors import BadRequest, CursorBeyondEnd, Forbidden, MessageGone, NotFound
from chatty.ids import EventId, RoomId, SendNumber, Seq, UserId
from chatty.wire.canonical import encode_base64
from chatty.wire.events import (
    Action,
    Deletion,
    Invitation,
    MemberChange,
    Policy,
    PolicyChange,
    RoomRole,
    SignedInvitation,
)
from chatty.wire.room_directory import Listing
from chatty.wire.room_links import Link, LinkRevocation, NewLink
from chatty.wire.rooms import (
    RoomCommitted,
    SignedAnyPolicy,
    SignedDeletion,
    SignedInvitationBody,
    SignedLinkRevocation,
    SignedListing,
    SignedMemberChange,
    SignedNewLink,
    SignedPolicyChange,
)
from chatty.wire.signing import Signable, signed_bytes

settle_timeout_s = 15.0
link_lifetime_s = 7 * 86_400.0


class Room:
    """`members` and `policy` are this client's own fold of the room's chain, never the server's word."""

    def __init__(self, engine: Engine, room: RoomId) -> None:
        self._engine = engine
        self.id = room

    def __repr__(self) -> str:
        return f"Room({self.id})"

    @property
    def members(self) -> Mapping[UserId, RoomRole]:
        """Who is inside now, as far as the history was read and verified."""
        return {user: membership.role for user, membership in self._verifier.joined().items()}

    @property
    def policy(self) -> Policy | None:
        state = self._verifier.state
        return None if state is None else state.policy

    @property
    def public_title(self) -> str:
        """Under which everybody of the server may find and join the room; empty: it is not listed."""
        state = self._verifier.state
        return "" if state is None else state.public_title

    @property
    def links(self) -> Mapping[str, Link]:
        """All invitation links that were ever made, by their public keys; what opens them is not here."""
        state = self._verifier.state
        return MappingProxyType({} if state is None else state.links)

    @property
    def direct_with(self) -> tuple[UserId, UserId] | None:
        """The pair of a direct room."""
        state = self._verifier.state
        return None if state is None else state.create.direct

    @property
    def frozen(self) -> Reason | None:
        """Why this room is not trusted any more; None: it is."""
        return self._verifier.frozen

    def history(self, *, count_max: int = 100) -> list[Message]:
        """The newest messages that this device has read, oldest first. Works offline."""
        return self._engine.updates.history(self.id, count_max=count_max)

    def lost(self) -> list[MessageLost]:
        """What this device has read, the server lost in a restore, and nobody has sent again, oldest first."""
        return self._engine.updates.lost(self.id)

    def timeline(self, *, count_max: int = 100) -> list[MessageView]:
        """The newest messages with their edits, reactions and threads put together, oldest first. Works offline."""
        return views(self._engine.updates.history(self.id, count_max=history_max))[-count_max:]

    @property
    def name(self) -> str:
        """As an owner or admin has said inside the encryption; empty: nobody has."""
        return self._engine.details.of_room(self.id).name

    @property
    def topic(self) -> str:
        return self._engine.details.of_room(self.id).topic

    @property
    def display_names(self) -> Mapping[UserId, str]:
        """What the members like to be called; those who have said it. No proof of anything: user ids are."""
        names = {user: self._engine.details.profile(self.id, user).name for user in self.members}
        return {user: name for user, name in names.items() if name}

    @property
    def receipts(self) -> Mapping[UserId, Seq]:
        """How far the members have read, as the server says; those who show it."""
        return self._engine.notices.receipts(self.id)

    @property
    def typing(self) -> frozenset[UserId]:
        """Who types now, as the server says."""
        return self._engine.notices.typing(self.id)

    @property
    def read_seq(self) -> Seq:
        """The own read cursor; 0: none."""
        return self._engine.notices.read_seq(self.id)

    @property
    def unread_count(self) -> int:
        """Messages of others above it: as the server counted after hello, and those that came since."""
        return self._engine.notices.unread_count(self.id)

    async def mark_read(self, seq: Seq) -> None:
        """Everything up to seq was read. Offline it is kept, and told later. Raises: CursorBeyondEnd, NotFound."""
        position = self._verifier.position
        if seq > position.seq:
            raise CursorBeyondEnd(head_seq=position.seq)
        await self._engine.notice_calls.read(self.id, seq)

    async def set_typing(self, is_typing: bool = True) -> None:
        """Holds for limits.typing_lifetime_s; who goes on typing says so every limits.typing_renew_s. Offline: nothing.

        Raises: RateLimited, NotFound.
        """
        await self._engine.notice_calls.typing(self.id, is_typing=is_typing)

    async def send(
        self,
        text: str,
        *,
        reply_to: Message | Sent | None = None,
        thread: Message | Sent | None = None,
        mentions: Iterable[UserId] = (),
    ) -> Sent:
        """Encrypt for the verified members, send, and wait until the server has committed it.

        reply_to: what it answers. thread: the root of the thread that it goes into. mentions: at most relations.mentions_max.
        Raises: NotAMember, RoomFrozen, TooLarge, Lie. Cancelled: the message stays in the outbox and is sent.
        """
        about: About | None = None
        if thread is not None:
            about = Thread(of=thread.event_id, reply_to=None if reply_to is None else reply_to.event_id)
        elif reply_to is not None:
            about = Reply(of=reply_to.event_id)
        return await self._say(text, about, mentions=mentions)

    async def edit(self, message: Message | Sent, text: str, *, mentions: Iterable[UserId] = ()) -> Sent:
        """Another text for one's own message; readers see that it was edited, and every text before. Raises: as send()."""
        return await self._say(text, Edit(of=message.event_id), mentions=mentions)

    async def react(self, message: Message | Sent, key: str) -> Sent:
        """key: an emoji or a short word. Raises: BadRequest (none, or more than relations.reaction_bytes_max), as send()."""
        if not 0 < len(key.encode()) <= reaction_bytes_max:
            raise BadRequest(f"a reaction has 1 to {reaction_bytes_max} bytes")
        return await self._say(key, Reaction(of=message.event_id, key=key))

    async def retract(self, reaction: Message | Sent) -> Sent:
        """Take back one's own reaction; the message that made it stays, and counts no more. Raises: as send()."""
        return await self._say("", Retraction(of=reaction.event_id))

    async def set_details(self, *, name: str, topic: str = "") -> None:
        """Name the room for its members; nobody else learns it.

        Raises: Forbidden (neither owner nor admin), BadRequest (too long), as send().
        """
        if not may_name(self._verifier.role_of(self._engine.identity.user)):
            raise Forbidden("only owners and admins name a room")
        sent = await self._say("", Announcement(), details=made_details(name=name, topic=topic))
        await self.read_up_to(sent.seq)

    async def announce(self) -> None:
        """Tell one's profile, and as an admin the room's details, now; else the next message tells it to who has come."""
        await self._say("", Announcement())

    async def _say(
        self,
        text: str,
        about: About | None,
        *,
        mentions: Iterable[UserId] = (),
        details: RoomDetails | None = None,
    ) -> Sent:
        writing = Writing(text=text, mid=new_mid(), about=about, mentions=list(mentions), details=details)
        if len(writing.mentions) > mentions_max:
            raise BadRequest(f"a message mentions at most {mentions_max} people")
        return await self._engine.outbox.send(self.id, writing)

    async def delete(self, message: Message | Sent) -> None:
        """Delete a message for everybody, signed by this device: one's own, or as an admin of the room anybody's.

        Its edits go with it, those that this device has read. Raises: MessageGone, NotFound, Forbidden, NotAMember, RoomFrozen.
        """
        sender = message.sender if isinstance(message, Message) else self._engine.identity.user
        views_of_it = [one for one in self.timeline(count_max=history_max) if one.message.event_id == message.event_id]
        for edit in [edit for view in views_of_it for edit in view.edits]:
            with suppress(MessageGone):
                await self._sign_deletion(edit.event_id, edit.seq, sender)
        await self._sign_deletion(message.event_id, message.seq, sender)

    async def _sign_deletion(self, target: EventId, target_seq: Seq, target_sender: UserId) -> None:
        engine = self._engine

        async def ask(n: SendNumber) -> RoomCommitted:
            position = self._trusted().position
            deletion = Deletion(
                domain="chatty.deletion.v1",
                server=engine.identity.server_name,
                room=self.id,
                sender=engine.identity.user,
                device=engine.identity.device,
                target=target,
                target_seq=target_seq,
                target_sender=target_sender,
                last_seq=position.seq,
                last_head=encode_base64(position.head),
                n=n,
            )
            body = SignedDeletion(signed=deletion, signature=sign(engine, deletion))
            return await engine.api.delete_message(self.id, body, n=n, low=engine.numbers.low)

        await self._commit(ask)

    async def set_policy(self, policy: Policy) -> None:
        """Sign another policy, timer and retention with it. Raises: Forbidden, NotAMember, RoomFrozen."""

        def signed(signer: dict[str, Any]) -> SignedAnyPolicy:
            change = PolicyChange(domain="chatty.policy.v1", policy=policy, **signer)
            return SignedPolicyChange(signed=change, signature=sign(self._engine, change))

        await self._change_policy("policy", signed)

    async def _commit(self, ask: Callable[[SendNumber], Awaitable[RoomCommitted]]) -> None:
        """Have one signed change committed, and wait until it was read back and verified."""
        n = await take_number(self._engine)
        try:
            committed = await ask(n)
        finally:
            self._engine.numbers.settle(n)
        await self.read_up_to(committed.seq)

    async def invite(self, user: UserId) -> None:
        """Sign an invitation. Raises: NotFound, InvitationVoid, RoomFrozen."""
        identity_key = await target_identity(self._engine, user)
        n = await take_number(self._engine)
        position = self._trusted().position
        invitation = Invitation(
            domain="chatty.invitation.v1",
            server=self._engine.identity.server_name,
            room=self.id,
            sender=self._engine.identity.user,
            device=self._engine.identity.device,
            target=user,
            target_identity=identity_key,
            last_seq=position.seq,
            last_head=encode_base64(position.head),
            n=n,
        )
        body = SignedInvitationBody(signed=invitation, signature=sign(self._engine, invitation))
        try:
            await self._engine.api.invite(self.id, body, n=n, low=self._engine.numbers.low)
        finally:
            self._engine.numbers.settle(n)

    async def make_link(self, *, uses_max: int = 1, lifetime_s: float = link_lifetime_s) -> InvitationLink:
        """A link by which so many may join, until it ends. Hand on its text, and only to those who are meant.

        Raises: InvitationVoid (may not invite), QuotaExceeded, RoomFrozen.
        """
        link = new_link(self._engine.api.origin, self.id)
        expires_at = int((time.time() + lifetime_s) * 1000)

        def signed(signer: dict[str, Any]) -> SignedAnyPolicy:
            new = NewLink(domain="chatty.link.v1", link=link.key, expires_at=expires_at, uses_max=uses_max, **signer)
            return SignedNewLink(signed=new, signature=sign(self._engine, new))

        await self._change_policy("links", signed)
        return link

    async def revoke_link(self, key: str) -> None:
        """End a link before its time. Raises: LinkUnknown, LinkRevoked, LinkExpired, LinkUsedUp, Forbidden, RoomFrozen."""

        def signed(signer: dict[str, Any]) -> SignedAnyPolicy:
            revocation = LinkRevocation(domain="chatty.link_revocation.v1", link=key, **signer)
            return SignedLinkRevocation(signed=revocation, signature=sign(self._engine, revocation))

        await self._change_policy("links/revoke", signed)

    async def list_publicly(self, title: str) -> None:
        """Let everybody of this server find and join the room, under a title that the server reads too; empty: no more.

        Raises: Forbidden, RoomFrozen.
        """

        def signed(signer: dict[str, Any]) -> SignedAnyPolicy:
            listing = Listing(domain="chatty.listing.v1", title=title, **signer)
            return SignedListing(signed=listing, signature=sign(self._engine, listing))

        await self._change_policy("listing", signed)

    async def _change_policy(self, what: PolicyPath, signed: Callable[[dict[str, Any]], SignedAnyPolicy]) -> None:
        """signed: makes the body, of the fields that say who signs, under which n, at the last position that was verified."""
        engine = self._engine

        async def ask(n: SendNumber) -> RoomCommitted:
            position = self._trusted().position
            signer = {
                "server": engine.identity.server_name,
                "room": self.id,
                "sender": engine.identity.user,
                "device": engine.identity.device,
                "last_seq": position.seq,
                "last_head": encode_base64(position.head),
                "n": n,
            }
            return await engine.api.change_policy(self.id, what, signed(signer), n=n, low=engine.numbers.low)

        await self._commit(ask)

    async def leave(self) -> None:
        """Raises: LastOwner, NotAMember."""
        await self.change(Action.LEAVE, self._engine.identity.user)

    async def kick(self, user: UserId) -> None:
        """Raises: Forbidden, NotAMember."""
        await self.change(Action.KICK, user)

    async def ban(self, user: UserId) -> None:
        """Raises: Forbidden."""
        await self.change(Action.BAN, user)

    async def unban(self, user: UserId) -> None:
        """Raises: Forbidden."""
        await self.change(Action.UNBAN, user)

    async def set_role(self, user: UserId, role: RoomRole) -> None:
        """Make another member admin or member. Raises: Forbidden, NotAMember."""
        await self.change(Action.ROLE, user, role=role)

    async def hand_over(self, user: UserId) -> None:
        """Make another member the owner, and be admin from then on. Raises: Forbidden, NotAMember, NotFound."""
        await self.change(Action.TRANSFER, user)

    async def join(self, *, invitation: SignedInvitation | None = None, link: InvitationLink | None = None) -> None:
        """With neither: a listed room.

        Raises: NotFound, InvitationVoid, Banned, LinkUnknown, LinkExpired, LinkUsedUp, LinkRevoked, RoomFrozen.
        """
        self._engine.book.add(self.id)
        await self.change(Action.JOIN, self._engine.identity.user, invitation=invitation, link=link)

    async def change(
        self,
        action: Action,
        target: UserId,
        *,
        role: RoomRole | None = None,
        invitation: SignedInvitation | None = None,
        link: InvitationLink | None = None,
    ) -> None:
        """Sign one change, have it committed, and wait until it was read back and verified."""
        engine, identity_key = self._engine, await target_identity(self._engine, target)

        async def ask(n: SendNumber) -> RoomCommitted:
            self._trusted()
            signed = member_change(
                engine, self.id, action, target, identity_key, n=n, role=role, invitation=invitation, link=link
            )
            return await engine.api.change_member(self.id, signed, n=n, low=engine.numbers.low)

        await self._commit(ask)

    async def read_up_to(self, seq: Seq) -> None:
        """Wait until this client has read and verified the room that far. Raises: RoomFrozen, trio.TooSlowError."""
        verifier = self._verifier
        with trio.fail_after(settle_timeout_s):
            await self._engine.book.wait_until(lambda: verifier.position.seq >= seq or verifier.frozen is not None)
        self._trusted()

    @property
    def _verifier(self) -> RoomVerifier:
        return self._engine.book.get(self.id)

    def _trusted(self) -> RoomVerifier:
        verifier = self._verifier
        if verifier.frozen is not None:
            raise RoomFrozen(self.id, verifier.frozen)
        return verifier


def sign(engine: Engine, signable: Signable) -> str:
    """By this device, over bytes that begin with a domain of ours."""
    return engine.olm.sign(signed_bytes(signable))


async def take_number(engine: Engine) -> SendNumber:
    """The next n, when the window has room, and everything was read since the server was restored."""
    await engine.book.wait_until(lambda: not engine.generations.is_raised)
    await engine.numbers.wait_for_room()
    return engine.numbers.take()


async def target_identity(engine: Engine, user: UserId) -> str:
    """The pinned identity key; asked for at first sight. Raises: NotFound."""
    if not engine.lists.identity(user):
        await engine.directory.learn([user])
    identity_key = engine.lists.identity(user)
    if not identity_key:
        raise NotFound(f"nobody is called {user}")
    return identity_key


def member_change(
    engine: Engine,
    room: RoomId,
    action: Action,
    target: UserId,
    identity_key: str,
    *,
    n: SendNumber,
    role: RoomRole | None = None,
    invitation: SignedInvitation | None = None,
    link: InvitationLink | None = None,
) -> SignedMemberChange:
    """Signed, with the last position of the room that this client verified."""
    position = engine.book.get(room).position
    change = MemberChange(
        domain="chatty.member.v1",
        server=engine.identity.server_name,
        room=room,
        action=action,
        sender=engine.identity.user,
        device=engine.identity.device,
        target=target,
        target_identity=identity_key,
        last_seq=position.seq,
        last_head=encode_base64(position.head),
        n=n,
        role=role,
        invitation=invitation,
    )
    if link is not None:
        change = msgspec.structs.replace(change, link=link.proof(change))
    return SignedMemberChange(signed=change, signature=sign(engine, change))
