"""Links, listings, bans and the handing over of a room: the one rule against a small model, over random sequences of acts."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatty.crypto.events import verify_event, verify_link_proof
from chatty.crypto.signatures import public_key, sign
from chatty.errors import (
    BadRequest,
    BadSignature,
    Banned,
    ChattyError,
    Forbidden,
    InvitationVoid,
    LastOwner,
    LinkExpired,
    LinkRevoked,
    LinkUnknown,
    LinkUsedUp,
    NotAMember,
)
from chatty.ids import SendNumber, Seq, UserId
from chatty.wire.authority import RoomState, Standing
from chatty.wire.canonical import canonical_json
from chatty.wire.events import Action, Content, Kind, MemberChange, MemberContent, Policy, RoomRole, decode_content
from chatty.wire.room_directory import Listing, ListingContent
from chatty.wire.room_links import Link, LinkContent, LinkProof, LinkRevocation, LinkRevocationContent, NewLink
from chatty.wire.signing import body_bytes, link_proof_bytes
from tests.client.forge import SERVER, ForgedRoom, Person, altered
from tests.unit.test_authority import (
    ADMIN,
    BANNED,
    DEVICE,
    HEAD,
    IDENTITY,
    LEFT,
    MEMBER,
    OTHER_ADMIN,
    OTHER_MEMBER,
    OWNER,
    ROOM,
    STRANGER,
    change,
    direct_room,
    full_room,
    invitation,
    outcome,
    policy_change,
    verified,
)
from tests.unit.test_authority import SERVER as NAME

PEOPLE = [OWNER, ADMIN, OTHER_ADMIN, MEMBER, OTHER_MEMBER, LEFT, BANNED, STRANGER]
OUTSIDE = [LEFT, BANNED, STRANGER]
KEYS = [letter * 43 for letter in "KLM"]


def at(state: RoomState, content: Content, sender: UserId, *, time_ms: int = 0) -> Any:
    one = verified(state, content, Kind.POLICY, sender)
    return replace(one, event=altered(one.event, time=time_ms))


def signer(state: RoomState, sender: UserId) -> dict[str, Any]:
    named = {"server": NAME, "room": ROOM, "sender": sender, "device": DEVICE}
    return {**named, "last_seq": state.seq, "last_head": HEAD, "n": SendNumber(1)}


def link(
    state: RoomState, sender: UserId, *, key: str = KEYS[0], expires_at: int = 100, uses_max: int = 1, time_ms: int = 0
) -> Any:
    new = NewLink(domain="chatty.link.v1", link=key, expires_at=expires_at, uses_max=uses_max, **signer(state, sender))
    return at(state, LinkContent(signed=new, previous=state.seq), sender, time_ms=time_ms)


def revocation(state: RoomState, sender: UserId, *, key: str = KEYS[0], time_ms: int = 0) -> Any:
    signed = LinkRevocation(domain="chatty.link_revocation.v1", link=key, **signer(state, sender))
    return at(state, LinkRevocationContent(signed=signed, previous=state.seq), sender, time_ms=time_ms)


def listing(state: RoomState, sender: UserId, title: str = "Open") -> Any:
    signed = Listing(domain="chatty.listing.v1", title=title, **signer(state, sender))
    return at(state, ListingContent(signed=signed, previous=state.seq), sender)


def join(state: RoomState, target: UserId, *, key: str = "", time_ms: int = 0) -> Any:
    """By a link, or by none."""
    one = change(state, Action.JOIN, target, target)
    if key:
        assert isinstance(one.content, MemberContent)
        signed = altered(one.content.signed, link=LinkProof(link=key, signature="s" * 86))
        one = replace(one, content=altered(one.content, signed=signed))
    return replace(one, event=altered(one.event, time=time_ms))


# Links --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lowest", RoomRole)
def test_a_link_is_made_by_who_may_invite(lowest: RoomRole) -> None:
    state = full_room(policy=Policy(invite=lowest))
    ranks = {OWNER: 3, ADMIN: 2, OTHER_ADMIN: 2, MEMBER: 1, OTHER_MEMBER: 1}
    needed = {RoomRole.OWNER: 3, RoomRole.ADMIN: 2, RoomRole.MEMBER: 1}[lowest]
    allowed = {user for user in PEOPLE if outcome(state, link(state, user)) is None}
    assert allowed == {user for user, rank in ranks.items() if rank >= needed}


def test_a_direct_room_has_no_links_and_is_never_listed_or_handed_over() -> None:
    state = direct_room()
    state.apply(change(state, Action.ADD, OWNER, MEMBER))
    assert outcome(state, link(state, OWNER)) is InvitationVoid
    for event in (listing(state, OWNER), change(state, Action.TRANSFER, OWNER, MEMBER)):
        assert outcome(state, event) is Forbidden


def test_who_joins_by_a_link_is_a_member_and_takes_one_of_its_uses() -> None:
    state = full_room()
    state.apply(link(state, ADMIN, uses_max=2))
    assert state.links == {KEYS[0]: Link(maker=ADMIN, made_seq=Seq(21), expires_at=100, uses_max=2)}
    state.apply(join(state, STRANGER, key=KEYS[0]))
    assert (state.memberships[STRANGER].role, state.epoch) == (RoomRole.MEMBER, 22)
    assert state.links[KEYS[0]].uses_count == 1
    state.apply(join(state, LEFT, key=KEYS[0]))
    state.apply(change(state, Action.LEAVE, STRANGER, STRANGER))
    assert outcome(state, join(state, STRANGER, key=KEYS[0])) is LinkUsedUp


@pytest.mark.parametrize(("time_ms", "expected"), [(99, None), (100, LinkExpired), (101, LinkExpired)])
def test_a_link_ends_by_the_rooms_own_time(time_ms: int, expected: type[ChattyError] | None) -> None:
    state = full_room()
    state.apply(link(state, ADMIN, expires_at=100))
    assert outcome(state, join(state, STRANGER, key=KEYS[0], time_ms=time_ms)) is expected
    assert outcome(state, link(state, ADMIN, key=KEYS[1], expires_at=100, time_ms=time_ms)) is expected
    assert outcome(state, revocation(state, ADMIN, time_ms=time_ms)) is expected


def test_a_link_is_ended_by_its_maker_and_by_admins_once() -> None:
    state = full_room(policy=Policy(invite=RoomRole.MEMBER))
    state.apply(link(state, MEMBER))
    refused = {user: kind for user in PEOPLE if (kind := outcome(state, revocation(state, user))) is not None}
    assert refused == {OTHER_MEMBER: Forbidden} | dict.fromkeys(OUTSIDE, NotAMember)
    assert outcome(state, revocation(state, OWNER, key=KEYS[1])) is LinkUnknown
    state.apply(revocation(state, MEMBER))
    for event in (join(state, STRANGER, key=KEYS[0]), revocation(state, OWNER)):
        assert outcome(state, event) is LinkRevoked
    assert outcome(state, link(state, OWNER)) is Forbidden  # nor is it opened again, by whomever


def test_a_link_that_this_room_never_made_lets_nobody_in() -> None:
    assert outcome(full_room(), join(full_room(), STRANGER, key=KEYS[0])) is LinkUnknown


def test_a_link_is_void_once_its_maker_may_not_invite() -> None:
    state = full_room()
    state.apply(link(state, ADMIN))
    state.apply(change(state, Action.ROLE, OWNER, ADMIN, role=RoomRole.MEMBER))
    assert outcome(state, join(state, STRANGER, key=KEYS[0])) is InvitationVoid
    state.apply(change(state, Action.ROLE, OWNER, ADMIN, role=RoomRole.ADMIN))
    assert outcome(state, join(state, STRANGER, key=KEYS[0])) is None
    state.apply(policy_change(state, OWNER, Policy(invite=RoomRole.OWNER)))
    assert outcome(state, join(state, STRANGER, key=KEYS[0])) is InvitationVoid


def test_the_links_of_who_was_put_out_stay_void_when_they_come_back() -> None:
    state = full_room(policy=Policy(invite=RoomRole.MEMBER))
    state.apply(link(state, MEMBER))
    state.apply(change(state, Action.KICK, OWNER, MEMBER))
    assert outcome(state, join(state, STRANGER, key=KEYS[0])) is InvitationVoid
    state.apply(change(state, Action.JOIN, MEMBER, MEMBER, invitation=invitation(OWNER, MEMBER, last_seq=state.seq)))
    assert outcome(state, join(state, STRANGER, key=KEYS[0])) is InvitationVoid


def test_who_was_put_out_does_not_come_back_by_the_link_from_before() -> None:
    state = full_room()
    state.apply(link(state, OWNER, uses_max=5))
    state.apply(change(state, Action.KICK, OWNER, MEMBER))
    assert outcome(state, join(state, MEMBER, key=KEYS[0])) is InvitationVoid
    state.apply(link(state, OWNER, key=KEYS[1]))
    assert outcome(state, join(state, MEMBER, key=KEYS[1])) is None


def test_a_ban_keeps_out_whoever_it_names_by_every_way_until_it_is_lifted() -> None:
    state = full_room()
    state.apply(link(state, OWNER, uses_max=5))
    state.apply(listing(state, OWNER))
    ways = [
        join(state, BANNED),
        join(state, BANNED, key=KEYS[0]),
        change(state, Action.JOIN, BANNED, BANNED, invitation=invitation(OWNER, BANNED)),
    ]
    assert [outcome(state, way) for way in ways] == [Banned] * 3
    state.apply(change(state, Action.UNBAN, ADMIN, BANNED))
    assert [outcome(state, way) for way in ways] == [None] * 3


# Listings and ownership ---------------------------------------------------------------------------------------------


def test_the_owner_lists_a_room_and_admins_take_it_off() -> None:
    state = full_room()
    assert {user for user in PEOPLE if outcome(state, listing(state, user)) is None} == {OWNER}
    assert {user for user in PEOPLE if outcome(state, listing(state, user, "")) is None} == {OWNER, ADMIN, OTHER_ADMIN}


def test_a_listed_room_is_everybodys_who_is_not_banned() -> None:
    state = full_room()
    assert outcome(state, join(state, STRANGER)) is InvitationVoid
    state.apply(listing(state, OWNER))
    assert state.public_title == "Open"
    found = {user: outcome(state, join(state, user)) for user in PEOPLE}
    inside = [user for user in PEOPLE if user not in OUTSIDE]
    assert found == {LEFT: None, STRANGER: None, BANNED: Banned} | dict.fromkeys(inside, Forbidden)
    state.apply(listing(state, ADMIN, ""))
    assert outcome(state, join(state, STRANGER)) is InvitationVoid


def test_a_room_is_handed_over_at_one_stroke() -> None:
    state = full_room()
    before = state.memberships[MEMBER], state.memberships[OWNER]
    state.apply(change(state, Action.TRANSFER, OWNER, MEMBER))
    assert state.memberships[MEMBER] == replace(before[0], role=RoomRole.OWNER)
    assert state.memberships[OWNER] == replace(before[1], role=RoomRole.ADMIN)
    assert outcome(state, change(state, Action.TRANSFER, OWNER, ADMIN)) is Forbidden
    assert outcome(state, change(state, Action.LEAVE, MEMBER, MEMBER)) is LastOwner
    assert outcome(state, change(state, Action.LEAVE, OWNER, OWNER)) is None
    assert outcome(state, change(state, Action.TRANSFER, MEMBER, MEMBER)) is Forbidden


# The proof ----------------------------------------------------------------------------------------------------------

SEED = b"s" * 32


def proven(**changes: object) -> tuple[MemberChange, LinkProof]:
    """A join whose proof was made for it, and then something else is put there."""
    ann, cleo = Person("ann"), Person("cleo")
    signed = ForgedRoom(ann).signed_change(cleo, Action.JOIN, cleo, link=SEED)
    assert signed.link is not None
    return altered(signed, **changes), signed.link


def test_a_proof_is_good_for_one_join_of_one_device_into_one_room() -> None:
    verify_link_proof(*proven())
    other = {"device": "ANOTHERDEVICE", "room": ROOM, "server": "other.org", "target": STRANGER, "n": 99}
    for name, value in [*other.items(), ("target_identity", IDENTITY[STRANGER])]:
        with pytest.raises(BadSignature):
            verify_link_proof(*proven(**{name: value}))


def test_a_proof_by_another_key_is_none() -> None:
    signed, proof = proven()
    with pytest.raises(BadSignature):
        verify_link_proof(signed, altered(proof, link=public_key(b"o" * 32)))


def test_what_a_links_key_signs_is_written_down() -> None:
    signed, proof = proven()
    statement = {
        "domain": "chatty.link_proof.v1",
        "server": SERVER,
        "room": signed.room,
        "link": public_key(SEED),
        "user": signed.target,
        "identity": signed.target_identity,
        "device": signed.device,
        "n": signed.n,
    }
    assert link_proof_bytes(signed, proof.link) == canonical_json(statement)
    assert proof.signature == sign(SEED, canonical_json(statement))


@pytest.mark.parametrize("action", [one for one in Action if one is not Action.JOIN])
def test_only_a_join_carries_a_link(action: Action) -> None:
    with pytest.raises(BadRequest):
        _verify(action=action, role=RoomRole.ADMIN if action is Action.ROLE else None)


def test_a_join_is_by_an_invitation_or_by_a_link() -> None:
    _verify()
    ann, cleo = Person("ann"), Person("cleo")
    with pytest.raises(BadRequest):
        _verify(invitation=ForgedRoom(ann).invitation(ann, cleo))


def _verify(**changes: Any) -> None:
    """A join by link in which something was put before it was signed."""
    ann, cleo = Person("ann"), Person("cleo")
    room = ForgedRoom(ann)
    signed = altered(room.signed_change(cleo, Action.JOIN, cleo, link=SEED), **changes)
    event = room.place(cleo, signed, cleo)
    verify_event(event, server=SERVER, device_key=lambda user, device: cleo.ed25519)


def test_a_policy_event_is_told_by_what_is_signed_in_it() -> None:
    room = ForgedRoom(Person("ann"))
    ann = Person("ann")
    events = [room.link(ann, SEED), room.revocation(ann, SEED), room.listing(ann, "Open"), room.policy(ann, Policy())]
    kinds = [type(decode_content(event)).__name__ for event in events]
    assert kinds == ["LinkContent", "LinkRevocationContent", "ListingContent", "PolicyContent"]
    body = body_bytes(decode_content(events[0])).replace(b"chatty.link.v1", b"chatty.none.v1")
    with pytest.raises(KeyError):
        decode_content(altered(events[0], body=body))


# A small model ------------------------------------------------------------------------------------------------------


@dataclass
class Model:
    """The room in words of its own: who is inside in which role, who is banned, since when somebody was out."""

    roles: dict[UserId, str]
    banned: set[UserId]
    out_at: dict[UserId, int]
    place: int
    now: int = 0
    is_listed: bool = False
    invite: str = "admin"
    links: dict[str, dict[str, Any]] = field(default_factory=dict)

    ORDER = ("member", "admin", "owner")

    def rank(self, user: UserId) -> int:
        return self.ORDER.index(self.roles[user]) if user in self.roles else -1

    def may_invite(self, user: UserId) -> bool:
        return user in self.roles and self.rank(user) >= self.ORDER.index(self.invite)

    def is_good(self, key: str) -> bool:
        found = self.links.get(key)
        return found is not None and not found["ended"] and self.now < found["until"] and found["left"] > 0

    def lets_in(self, user: UserId, way: str) -> bool:
        if user in self.roles or user in self.banned:
            return False
        if way == "invitation":
            return self.may_invite(OWNER)
        if way == "listing":
            return self.is_listed
        found = self.links.get(way)
        if found is None or not self.is_good(way) or not self.may_invite(found["maker"]):
            return False
        return all(found["at"] >= self.out_at.get(one, 0) for one in (user, found["maker"]))

    def put_out(self, user: UserId) -> None:
        self.roles.pop(user, None)
        self.out_at[user] = self.place

    def act(self, name: str, by: UserId, whom: UserId, detail: str) -> bool:
        """Does it if it is allowed; whether it was."""
        is_allowed = bool(getattr(self, f"may_{name}")(by, whom, detail))
        if is_allowed:
            self.place += 1
            getattr(self, f"do_{name}")(by, whom, detail)
        return is_allowed

    def may_join(self, by: UserId, whom: UserId, way: str) -> bool:
        return self.lets_in(by, way)

    def do_join(self, by: UserId, whom: UserId, way: str) -> None:
        self.roles[by] = "member"
        if way in self.links:
            self.links[way]["left"] -= 1

    def may_leave(self, by: UserId, whom: UserId, detail: str) -> bool:
        return by in self.roles and (self.roles[by] != "owner" or len(self.roles) == 1)

    def do_leave(self, by: UserId, whom: UserId, detail: str) -> None:
        self.put_out(by)

    def may_kick(self, by: UserId, whom: UserId, detail: str) -> bool:
        return whom in self.roles and self.rank(by) >= 1 and self.rank(by) > self.rank(whom)

    def do_kick(self, by: UserId, whom: UserId, detail: str) -> None:
        self.put_out(whom)

    def may_ban(self, by: UserId, whom: UserId, detail: str) -> bool:
        return by != whom and self.rank(by) >= 1 and self.rank(by) > self.rank(whom)

    def do_ban(self, by: UserId, whom: UserId, detail: str) -> None:
        self.put_out(whom)
        self.banned.add(whom)

    def may_unban(self, by: UserId, whom: UserId, detail: str) -> bool:
        return self.rank(by) >= 1 and whom in self.banned

    def do_unban(self, by: UserId, whom: UserId, detail: str) -> None:
        self.banned.discard(whom)

    def may_role(self, by: UserId, whom: UserId, detail: str) -> bool:
        return self.rank(by) == 2 and whom in self.roles and whom != by

    def do_role(self, by: UserId, whom: UserId, detail: str) -> None:
        self.roles[whom] = "admin"

    def may_transfer(self, by: UserId, whom: UserId, detail: str) -> bool:
        return self.may_role(by, whom, detail)

    def do_transfer(self, by: UserId, whom: UserId, detail: str) -> None:
        self.roles |= {whom: "owner", by: "admin"}

    def may_link(self, by: UserId, whom: UserId, key: str) -> bool:
        return self.may_invite(by) and key in KEYS and key not in self.links

    def do_link(self, by: UserId, whom: UserId, key: str) -> None:
        self.links[key] = {"maker": by, "at": self.place, "until": self.now + 3, "left": 2, "ended": False}

    def may_revoke(self, by: UserId, whom: UserId, key: str) -> bool:
        return by in self.roles and self.is_good(key) and (self.rank(by) >= 1 or self.links[key]["maker"] == by)

    def do_revoke(self, by: UserId, whom: UserId, key: str) -> None:
        self.links[key]["ended"] = True

    def may_list(self, by: UserId, whom: UserId, detail: str) -> bool:
        return self.rank(by) == 2

    def do_list(self, by: UserId, whom: UserId, detail: str) -> None:
        self.is_listed = True

    def may_unlist(self, by: UserId, whom: UserId, detail: str) -> bool:
        return self.rank(by) >= 1

    def do_unlist(self, by: UserId, whom: UserId, detail: str) -> None:
        self.is_listed = False

    def may_policy(self, by: UserId, whom: UserId, detail: str) -> bool:
        return self.rank(by) >= 1

    def do_policy(self, by: UserId, whom: UserId, detail: str) -> None:
        self.invite = "owner" if self.invite == "member" else "member"


WAYS = ["invitation", "listing", *KEYS]
ACTS = sorted(name.removeprefix("do_") for name in vars(Model) if name.startswith("do_"))


def real_act(state: RoomState, model: Model, name: str, by: UserId, whom: UserId, detail: str) -> Any:
    match name:
        case "join" if detail == "invitation":
            invited = invitation(OWNER, by, last_seq=state.seq)
            return change(state, Action.JOIN, by, by, invitation=invited)
        case "join":
            return join(state, by, key="" if detail == "listing" else detail, time_ms=model.now)
        case "leave":
            return change(state, Action.LEAVE, by, by)
        case "link":
            return link(state, by, key=detail, expires_at=model.now + 3, uses_max=2, time_ms=model.now)
        case "revoke":
            return revocation(state, by, key=detail, time_ms=model.now)
        case "list" | "unlist":
            return listing(state, by, "Open" if name == "list" else "")
        case "policy":
            lowest = RoomRole.OWNER if model.invite == "member" else RoomRole.MEMBER
            return policy_change(state, by, Policy(invite=lowest))
        case _:
            return change(state, Action(name), by, whom)


def agree(state: RoomState, model: Model) -> None:
    assert {user: one.role.value for user, one in state.joined().items()} == model.roles
    banned = {user for user, one in state.memberships.items() if one.standing is Standing.BANNED}
    assert (banned, bool(state.public_title), state.seq) == (model.banned, model.is_listed, model.place)
    shown = {key: (one["maker"], 2 - one["left"], one["ended"]) for key, one in model.links.items()}
    assert {key: (one.maker, one.uses_count, one.is_revoked) for key, one in state.links.items()} == shown


@given(
    st.lists(
        st.tuples(
            st.sampled_from(ACTS),
            st.sampled_from(PEOPLE),
            st.sampled_from(PEOPLE),
            st.sampled_from(WAYS),
            st.booleans(),
        ),
        min_size=1,
        max_size=40,
    )
)
def test_the_rule_does_what_the_model_does(acts: list[tuple[str, UserId, UserId, str, bool]]) -> None:
    state = full_room()
    roles = {user: one.role.value for user, one in state.joined().items()}
    model = Model(roles=roles, banned={BANNED}, out_at={LEFT: 10, BANNED: 11}, place=state.seq)
    for name, by, whom, way, is_later in acts:
        model.now += is_later
        detail = KEYS[WAYS.index(way) % 3] if name in ("link", "revoke") else way
        event, before = real_act(state, model, name, by, whom, detail), replace(model)
        is_allowed = model.act(name, by, whom, detail)
        found = outcome(state, event)
        assert (found is None) is is_allowed, (name, by, whom, detail, found, before)
        if is_allowed:
            state.apply(event)
        agree(state, model)
        assert sum(one == "owner" for one in model.roles.values()) == (1 if model.roles else 0)
