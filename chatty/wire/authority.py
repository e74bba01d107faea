"""Room authority: who may do what in a room, one pure rule that the server and every client run.

State is a fold over the room's create, member, policy and devices events in seq order; deletions are judged by it. A client
shares keys only with members whose whole history passes here; the server refuses what does not. The rule takes `VerifiedEvent`s,
and only crypto.verify_event() makes one, after it has checked the signature.

| action   | who                                            | of whom                                     |
|----------|------------------------------------------------|---------------------------------------------|
| join     | the creator at seq 2; the invited; who has an  | themselves, unless banned                   |
|          | open link; everybody, into a listed room       |                                             |
| add      | the creator of a direct room                   | the other of its pair, who never was inside |
| leave    | a member; the last owner only when alone       | themselves                                  |
| kick     | owner, admin                                   | a member of lower rank                      |
| ban      | owner, admin                                   | anybody of lower rank                       |
| unban    | owner, admin                                   | a banned user                               |
| role     | owner                                          | another member: admin or member             |
| transfer | owner, who becomes admin                       | another member, who becomes owner           |
| policy   | owner, admin; never in a direct room           |                                             |
| link     | who may invite                                 |                                             |
| its end  | owner, admin, its maker while a member         |                                             |
| listing  | owner; to take off also admin; never in a      |                                             |
|          | direct room                                    |                                             |
| remove   | the server                                     | whoever is or was a member                  |
| delete   | a member; owner, admin                         | own messages; anybody's                     |

Removing is all that the server may do to a member by itself (an account was deleted or locked); it adds and promotes nobody.
A restored event is the server's too, and changes nobody's rights: when one may come is for clients to check.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Protocol

from chatty.errors import BadRequest, Banned, Forbidden, InvitationVoid, LastOwner, LinkUnknown, NotAMember
from chatty.ids import DeviceId, ListVersion, Seq, UserId
from chatty.wire.events import (
    Action,
    Content,
    CreateContent,
    DeletionContent,
    DevicesContent,
    MemberChange,
    MemberContent,
    Policy,
    PolicyContent,
    RemovalContent,
    RestoredContent,
    RoomRole,
    TimelineEvent,
    action_of,
    changes_epoch,
)
from chatty.wire.room_directory import Listing, ListingContent
from chatty.wire.room_links import (
    Link,
    LinkContent,
    LinkProof,
    LinkRevocation,
    LinkRevocationContent,
    check_open,
    made,
    revoked,
    used,
)

_RANK = {RoomRole.OWNER: 3, RoomRole.ADMIN: 2, RoomRole.MEMBER: 1}


class Standing(Enum):
    JOINED = "joined"
    LEFT = "left"  # left or kicked
    BANNED = "banned"


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What the chain says about one user. `removed_seq`: seq of the newest leave, kick or ban; 0: none."""

    standing: Standing
    role: RoomRole
    changed_seq: Seq
    removed_seq: Seq = Seq(0)
    list_version: ListVersion = ListVersion(0)
    list_digest: str = ""
    identity: str = ""

    @property
    def is_joined(self) -> bool:
        return self.standing is Standing.JOINED


@dataclass(frozen=True, kw_only=True)
class VerifiedEvent:
    """A state event or deletion whose signature was checked. Made by crypto.verify_event() and by nothing else."""

    event: TimelineEvent
    content: Content
    signer: tuple[UserId, DeviceId] | None  # None: the server


class RoomFacts(Protocol):
    """What the rule asks about the room as it is before the event."""

    @property
    def create(self) -> CreateContent: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def public_title(self) -> str:
        """Of a listed room, which everybody of the server may join; empty: it is not listed."""
        ...

    def membership(self, user: UserId) -> Membership | None: ...
    def link(self, key: str) -> Link | None: ...
    def is_last_owner(self, user: UserId) -> bool:
        """The only owner, while somebody else is a member."""
        ...


def check_creation(create: CreateContent) -> None:
    """Else somebody could make a direct room of two others and sit in it. Raises: BadRequest."""
    pair = create.direct
    if pair is not None and (list(pair) != sorted(set(pair)) or create.creator not in pair):
        raise BadRequest("a direct room holds its sorted pair, the creator among them")


def authorize(room: RoomFacts, verified: VerifiedEvent) -> None:
    """Check one member, policy or devices event, or deletion, against the room before it, at the event's own time.

    Raises: NotAMember, Forbidden, InvitationVoid, Banned, LinkUnknown, LinkRevoked, LinkExpired, LinkUsedUp, LastOwner. A create
    event is right at seq 1 only.
    """
    at_ms = verified.event.time
    match verified.content:
        case CreateContent():
            raise Forbidden("a room is created once")
        case MemberContent(signed=change):
            if verified.signer is None:
                raise Forbidden("the server only removes")
            _authorize_member(room, change, at_ms=at_ms)
        case RemovalContent(signed=removal):
            if room.membership(removal.target) is None:
                raise NotAMember(f"{removal.target} never was a member")
        case RestoredContent():
            return
        case PolicyContent(signed=policy):
            _require_rank(room, policy.sender, RoomRole.ADMIN)
            if room.create.direct is not None:
                raise Forbidden("a direct room's policy is fixed")
        case DeletionContent(signed=deletion):
            is_own = deletion.target_sender == deletion.sender
            _require_rank(room, deletion.sender, RoomRole.MEMBER if is_own else RoomRole.ADMIN)
        case LinkContent(signed=new):
            may_invite(room, new.sender)
            if room.link(new.link) is not None:
                raise Forbidden("this link was made before")
            check_open(made(verified.content, seq=verified.event.seq), at_ms=at_ms)
        case LinkRevocationContent(signed=revocation):
            _authorize_revocation(room, revocation, at_ms=at_ms)
        case ListingContent(signed=listing):
            _authorize_listing(room, listing)
        case DevicesContent(user=user):
            if (membership := room.membership(user)) is None or not membership.is_joined:
                raise NotAMember(f"{user} is no member")


def _authorize_member(room: RoomFacts, change: MemberChange, *, at_ms: int) -> None:
    match change.action:
        case Action.JOIN:
            _authorize_join(room, change, at_ms=at_ms)
        case Action.ADD:
            _authorize_add(room, change)
        case Action.LEAVE:
            _authorize_leave(room, change)
        case Action.KICK:
            _require_joined(room, change.target)
            _require_above(room, change)
        case Action.BAN:
            _require_above(room, change)
        case Action.UNBAN:
            _require_rank(room, change.sender, RoomRole.ADMIN)
            target = room.membership(change.target)
            if target is None or target.standing is not Standing.BANNED:
                raise Forbidden(f"{change.target} is not banned")
        case Action.ROLE:
            _authorize_role(room, change)
        case Action.TRANSFER:
            _require_rank(room, change.sender, RoomRole.OWNER)
            _require_other(room, change)
        case Action.REMOVE:
            raise Forbidden("only the server removes; a member kicks")


def _authorize_join(room: RoomFacts, change: MemberChange, *, at_ms: int) -> None:
    _require_self(change)
    target = room.membership(change.target)
    if target is not None and target.is_joined:
        raise Forbidden("is a member already")
    if target is not None and target.standing is Standing.BANNED:
        raise Banned("is banned")
    if change.target == room.create.creator and target is None:
        if change.target_identity != room.create.creator_identity:
            raise InvitationVoid("another identity created this room")
        return
    if change.invitation is not None:
        check_invitation(room, change)
    elif change.link is not None:
        check_link(room, change.link, change.target, at_ms=at_ms)
    elif not room.public_title:
        raise InvitationVoid("no invitation, and the room is not listed")


def check_invitation(room: RoomFacts, change: MemberChange) -> None:
    """Does the join's invitation allow it, with the room as it is now? Its signature was checked by verify_event.

    An invitation from before the target's last removal is void: else one who was kicked could come back with it.
    """
    assert change.invitation is not None
    invitation = change.invitation.signed
    if (invitation.room, invitation.target) != (change.room, change.target):
        raise InvitationVoid("for another room or user")
    if invitation.target_identity != change.target_identity:
        raise InvitationVoid("for another identity")
    target = room.membership(change.target)
    if target is not None and invitation.last_seq < target.removed_seq:
        raise InvitationVoid("older than the removal")
    may_invite(room, invitation.sender)


def check_link(room: RoomFacts, proof: LinkProof, target: UserId, *, at_ms: int) -> None:
    """Does the link let this user in now? That its key was there was checked by verify_event.

    Like an invitation it is void once its maker may not invite. Whoever has left or was put out since it was made comes back by
    another one only, be it the maker, whose links end with that, or the one who joins.
    """
    link = room.link(proof.link)
    if link is None:
        raise LinkUnknown("this room has no such link")
    check_open(link, at_ms=at_ms)
    for user in (target, link.maker):
        before = room.membership(user)
        if before is not None and link.made_seq < before.removed_seq:
            raise InvitationVoid(f"older than the removal of {user}")
    may_invite(room, link.maker)


def may_invite(room: RoomFacts, user: UserId) -> None:
    """Raises InvitationVoid unless the user's role may invite now."""
    inviter = room.membership(user)
    if inviter is None or not inviter.is_joined or _RANK[inviter.role] < _RANK[room.policy.invite]:
        raise InvitationVoid(f"{user} may not invite")
    if room.create.direct is not None:
        raise InvitationVoid("a direct room has two members")


def _authorize_add(room: RoomFacts, change: MemberChange) -> None:
    pair = room.create.direct
    if pair is None or change.sender != room.create.creator or change.target not in pair:
        raise Forbidden("only the creator of a direct room adds, and only the other one")
    if room.membership(change.target) is not None:
        raise Forbidden("was inside before")
    _require_joined(room, change.sender)


def _authorize_leave(room: RoomFacts, change: MemberChange) -> None:
    _require_self(change)
    _require_joined(room, change.target)
    if room.is_last_owner(change.target):
        raise LastOwner("the last owner cannot leave while others are members")


def _authorize_role(room: RoomFacts, change: MemberChange) -> None:
    _require_rank(room, change.sender, RoomRole.OWNER)
    if change.role not in (RoomRole.ADMIN, RoomRole.MEMBER):
        raise Forbidden("an owner makes others admin or member; ownership is handed over")
    _require_other(room, change)


def _authorize_revocation(room: RoomFacts, revocation: LinkRevocation, *, at_ms: int) -> None:
    rank = _RANK[_require_joined(room, revocation.sender).role]
    link = room.link(revocation.link)
    if link is None:
        raise LinkUnknown("this room has no such link")
    if link.maker != revocation.sender and rank < _RANK[RoomRole.ADMIN]:
        raise Forbidden("only its maker, an admin or the owner ends a link")
    check_open(link, at_ms=at_ms)


def _authorize_listing(room: RoomFacts, listing: Listing) -> None:
    _require_rank(room, listing.sender, RoomRole.OWNER if listing.title else RoomRole.ADMIN)


def _require_other(room: RoomFacts, change: MemberChange) -> None:
    _require_joined(room, change.target)
    if change.target == change.sender:
        raise Forbidden("not of oneself")


def _require_self(change: MemberChange) -> None:
    if change.sender != change.target:
        raise Forbidden("only for oneself")


def _require_joined(room: RoomFacts, user: UserId) -> Membership:
    membership = room.membership(user)
    if membership is None or not membership.is_joined:
        raise NotAMember(f"{user} is no member")
    return membership


def _require_rank(room: RoomFacts, user: UserId, role: RoomRole) -> int:
    rank = _RANK[_require_joined(room, user).role]
    if rank < _RANK[role]:
        raise Forbidden(f"needs the role {role.value}")
    return rank


def _require_above(room: RoomFacts, change: MemberChange) -> None:
    rank = _require_rank(room, change.sender, RoomRole.ADMIN)
    if change.sender == change.target:
        raise Forbidden("not of oneself")
    target = room.membership(change.target)
    if target is not None and target.is_joined and _RANK[target.role] >= rank:
        raise Forbidden("not of an equal or a superior")


def may_send(room: RoomFacts, user: UserId) -> None:
    """Raises NotAMember unless the user may send messages now. Every joined role may."""
    _require_joined(room, user)


def change_memberships(room: RoomFacts, verified: VerifiedEvent) -> dict[UserId, Membership]:
    """The memberships that an authorized member or devices event leaves behind, the target's first; none for other kinds.

    Two of them only after a transfer.
    """
    content, seq = verified.content, verified.event.seq
    match content:
        case MemberContent(signed=change) if change.action is Action.TRANSFER:
            roles = {change.target: RoomRole.OWNER, change.sender: RoomRole.ADMIN}
            inside = {user: membership for user in roles if (membership := room.membership(user)) is not None}
            return {user: replace(membership, role=roles[user]) for user, membership in inside.items()}
        case MemberContent(signed=change):
            return {change.target: _after_member_event(room, content, seq)}
        case RemovalContent(signed=removal):
            before = room.membership(removal.target)
            is_banned = before is not None and before.standing is Standing.BANNED
            standing = Standing.BANNED if is_banned else Standing.LEFT
            left = Membership(standing=standing, role=RoomRole.MEMBER, changed_seq=seq, removed_seq=seq)
            return {removal.target: left}
        case DevicesContent(user=user):
            joined = _require_joined(room, user)
            version, digest = content.list_version, content.list_digest
            return {user: replace(joined, changed_seq=seq, list_version=version, list_digest=digest)}
        case _:
            return {}


def change_link(room: RoomFacts, verified: VerifiedEvent) -> tuple[str, Link] | None:
    """The link that an authorized event makes, uses or ends, by its key; None for other events."""
    match verified.content:
        case LinkContent(signed=new):
            return new.link, made(verified.content, seq=verified.event.seq)
        case LinkRevocationContent(signed=revocation) if (link := room.link(revocation.link)) is not None:
            return revocation.link, revoked(link)
        case MemberContent(signed=change) if (
            change.link is not None and (link := room.link(change.link.link)) is not None
        ):
            return change.link.link, used(link)
        case _:
            return None


def _after_member_event(room: RoomFacts, content: MemberContent, seq: Seq) -> Membership:
    change = content.signed
    before = room.membership(change.target)
    removed_seq = before.removed_seq if before is not None else Seq(0)
    match change.action:
        case Action.JOIN | Action.ADD:
            is_creator = change.target == room.create.creator and room.create.direct is None and before is None
            return Membership(
                standing=Standing.JOINED,
                role=RoomRole.OWNER if is_creator else RoomRole.MEMBER,
                changed_seq=seq,
                removed_seq=removed_seq,
                list_version=content.list_version or ListVersion(0),
                list_digest=content.list_digest or "",
                identity=change.target_identity,
            )
        case Action.LEAVE | Action.KICK | Action.UNBAN | Action.BAN | Action.REMOVE:
            standing = Standing.BANNED if change.action is Action.BAN else Standing.LEFT
            # An unban frees the name for a new invitation; the removal it follows stays the newest one.
            removed = removed_seq if change.action is Action.UNBAN else seq
            return Membership(standing=standing, role=RoomRole.MEMBER, changed_seq=seq, removed_seq=removed)
        case Action.ROLE:
            assert before is not None
            assert change.role is not None
            return replace(before, role=change.role)
        case Action.TRANSFER:
            raise AssertionError("two memberships change")


@dataclass(kw_only=True)
class RoomState:
    """A client's fold of a room: facts for the rule, and who must be able to read. `epoch`: see docs/protocol.md.

    seq: of the newest state event, which the next one names as its `previous`.
    """

    create: CreateContent
    policy: Policy
    seq: Seq = Seq(1)
    epoch: Seq = Seq(0)
    memberships: dict[UserId, Membership] = field(default_factory=dict)
    public_title: str = ""
    links: dict[str, Link] = field(default_factory=dict)

    def link(self, key: str) -> Link | None:
        return self.links.get(key)

    def membership(self, user: UserId) -> Membership | None:
        return self.memberships.get(user)

    def is_last_owner(self, user: UserId) -> bool:
        return is_last_owner(self.joined(), user)

    def joined(self) -> dict[UserId, Membership]:
        return {user: membership for user, membership in self.memberships.items() if membership.is_joined}

    def apply(self, verified: VerifiedEvent) -> None:
        """Authorize the event and take it into the state. Raises as authorize(); then nothing changed."""
        authorize(self, verified)
        self.take(verified)

    def take(self, verified: VerifiedEvent) -> None:
        """Take an authorized event into the state."""
        if (changed := change_link(self, verified)) is not None:
            self.links[changed[0]] = changed[1]
        self.memberships |= change_memberships(self, verified)
        match verified.content:
            case PolicyContent(signed=policy):
                self.policy = policy.policy
            case ListingContent(signed=listing):
                self.public_title = listing.title
        if changes_epoch(verified.event.kind, action_of(verified.content)):
            self.epoch = verified.event.seq
        self.seq = verified.event.seq


def is_last_owner(joined: Mapping[UserId, Membership], user: UserId) -> bool:
    """Is `user` the only owner, while somebody else is a member?"""
    owners = [name for name, membership in joined.items() if membership.role is RoomRole.OWNER]
    return owners == [user] and len(joined) > 1


def created_room(verified: VerifiedEvent) -> RoomState:
    """The state after seq 1: nobody is a member yet; the creator joins with seq 2."""
    assert isinstance(verified.content, CreateContent)
    return RoomState(create=verified.content, policy=verified.content.policy)
