"""Room authority: every role × action × target, and what each authorized event leaves behind."""

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatty.errors import Banned, ChattyError, Forbidden, InvitationVoid, LastOwner, NotAMember
from chatty.ids import DeviceId, ListVersion, RoomId, SendNumber, Seq, UserId
from chatty.wire.authority import Membership, RoomState, Standing, VerifiedEvent, authorize, is_last_owner, may_send
from chatty.wire.events import (
    Action,
    Content,
    CreateContent,
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
    RoomRole,
    SignedInvitation,
    TimelineEvent,
)

ROOM, SERVER, DEVICE, HEAD = RoomId("!" + "A" * 43), "example.org", DeviceId("DEVICE01"), "H" * 43
OWNER, ADMIN, MEMBER, OTHER_ADMIN, OTHER_MEMBER, LEFT, BANNED, STRANGER = (
    UserId(f"@{name}:{SERVER}")
    for name in ("owner", "admin", "member", "admin2", "member2", "left", "banned", "stranger")
)
IDENTITY = {
    user: user[1].upper() * 43 for user in (OWNER, ADMIN, MEMBER, OTHER_ADMIN, OTHER_MEMBER, LEFT, BANNED, STRANGER)
}
ACTORS = [OWNER, ADMIN, MEMBER, LEFT, BANNED, STRANGER]
TARGETS = [OWNER, OTHER_ADMIN, OTHER_MEMBER, LEFT, BANNED, STRANGER]


def membership(role: RoomRole, standing: Standing = Standing.JOINED, *, removed_seq: int = 0) -> Membership:
    return Membership(standing=standing, role=role, changed_seq=Seq(2), removed_seq=Seq(removed_seq))


def room(*, direct: tuple[UserId, UserId] | None = None, policy: Policy | None = None) -> RoomState:
    create = CreateContent(
        domain="chatty.create.v1",
        server=SERVER,
        creator=OWNER,
        creator_identity=IDENTITY[OWNER],
        device=DEVICE,
        nonce="N" * 22,
        policy=policy or Policy(),
        direct=direct,
        n=SendNumber(1),
    )
    return RoomState(create=create, policy=create.policy)


def full_room(**options: Policy) -> RoomState:
    state = room(**options)  # type: ignore[arg-type]  # policy alone
    state.seq, state.epoch = Seq(20), Seq(20)
    state.memberships = {
        OWNER: membership(RoomRole.OWNER),
        ADMIN: membership(RoomRole.ADMIN),
        OTHER_ADMIN: membership(RoomRole.ADMIN),
        MEMBER: membership(RoomRole.MEMBER),
        OTHER_MEMBER: membership(RoomRole.MEMBER),
        LEFT: membership(RoomRole.MEMBER, Standing.LEFT, removed_seq=10),
        BANNED: membership(RoomRole.MEMBER, Standing.BANNED, removed_seq=11),
    }
    return state


def verified(state: RoomState, content: Content, kind: Kind, signer: UserId | None) -> VerifiedEvent:
    """As verify_event() would make it, had the signature been checked."""
    event = TimelineEvent(room=ROOM, seq=Seq(state.seq + 1), time=0, kind=kind, sender=signer or UserId(""))
    return VerifiedEvent(event=event, content=content, signer=(signer, DEVICE) if signer else None)


def change(
    state: RoomState,
    action: Action,
    sender: UserId,
    target: UserId,
    *,
    role: RoomRole | None = None,
    invitation: SignedInvitation | None = None,
    is_by_server: bool = False,
) -> VerifiedEvent:
    signed = MemberChange(
        domain="chatty.member.v1",
        server=SERVER,
        room=ROOM,
        action=action,
        sender=sender,
        device=DEVICE,
        target=target,
        target_identity=IDENTITY[target],
        last_seq=state.seq,
        last_head=HEAD,
        n=SendNumber(1),
        role=role if role is not None or action is not Action.ROLE else RoomRole.ADMIN,
        invitation=invitation,
    )
    content = MemberContent(signed=signed, previous=state.seq, list_version=ListVersion(3), list_digest=HEAD)
    return verified(state, content, Kind.MEMBER, None if is_by_server else sender)


def invitation(
    sender: UserId, target: UserId, *, last_seq: int = 20, room_: RoomId = ROOM, identity: str = ""
) -> SignedInvitation:
    signed = Invitation(
        domain="chatty.invitation.v1",
        server=SERVER,
        room=room_,
        sender=sender,
        device=DEVICE,
        target=target,
        target_identity=identity or IDENTITY[target],
        last_seq=Seq(last_seq),
        last_head=HEAD,
        n=SendNumber(2),
    )
    return SignedInvitation(signed=signed, signature="s" * 86)


def outcome(state: RoomState, event: VerifiedEvent) -> type[ChattyError] | None:
    try:
        authorize(state, event)
    except ChattyError as error:
        return type(error)
    return None


# The table ----------------------------------------------------------------------------------------------------------

_outside = {LEFT, BANNED, STRANGER}
ALLOWED = {
    Action.JOIN: set(),
    Action.ADD: set(),
    Action.LEAVE: set(),
    Action.KICK: {(OWNER, OTHER_ADMIN), (OWNER, OTHER_MEMBER), (ADMIN, OTHER_MEMBER)},
    Action.BAN: {(OWNER, OTHER_ADMIN), (OWNER, OTHER_MEMBER), (ADMIN, OTHER_MEMBER)}
    | set(product((OWNER, ADMIN), _outside)),
    Action.UNBAN: {(OWNER, BANNED), (ADMIN, BANNED)},
    Action.ROLE: {(OWNER, OTHER_ADMIN), (OWNER, OTHER_MEMBER)},
    Action.TRANSFER: {(OWNER, OTHER_ADMIN), (OWNER, OTHER_MEMBER)},
    Action.REMOVE: set(),
}


@pytest.mark.parametrize("action", Action)
def test_an_action_on_somebody_else_is_for_those_in_the_table_and_for_nobody_else(action: Action) -> None:
    state = full_room()
    pairs = {(actor, target) for actor, target in product(ACTORS, TARGETS) if actor != target}
    allowed = {pair for pair in pairs if outcome(state, change(state, action, *pair)) is None}
    assert allowed == ALLOWED[action]


@pytest.mark.parametrize("action", Action)
def test_on_oneself_only_leaving_is_allowed(action: Action) -> None:
    state = full_room()
    allowed = {actor for actor in ACTORS if outcome(state, change(state, action, actor, actor)) is None}
    assert allowed == ({ADMIN, MEMBER} if action is Action.LEAVE else set())


def test_the_policy_is_the_owners_and_the_admins() -> None:
    for state, allowed in ((full_room(), {OWNER, ADMIN}), (direct_room(), set())):
        signers = {user for user in ACTORS if outcome(state, policy_change(state, user)) is None}
        assert signers == allowed


def policy_change(state: RoomState, sender: UserId, policy: Policy | None = None) -> VerifiedEvent:
    signed = PolicyChange(
        domain="chatty.policy.v1",
        server=SERVER,
        room=ROOM,
        sender=sender,
        device=DEVICE,
        policy=policy or Policy(history="shared"),
        last_seq=state.seq,
        last_head=HEAD,
        n=SendNumber(1),
    )
    return verified(state, PolicyContent(signed=signed, previous=state.seq), Kind.POLICY, sender)


def direct_room() -> RoomState:
    state = room(direct=(MEMBER, OWNER))
    state.apply(change(state, Action.JOIN, OWNER, OWNER))
    return state


@pytest.mark.parametrize("user", ACTORS)
def test_whoever_is_joined_may_send(user: UserId) -> None:
    state = full_room()
    if user in _outside:
        with pytest.raises(NotAMember):
            may_send(state, user)
    else:
        may_send(state, user)


@pytest.mark.parametrize("action", Action)
def test_no_act_of_a_device_is_the_servers(action: Action) -> None:
    state = full_room()
    for target in TARGETS:
        assert outcome(state, change(state, action, OWNER, target, is_by_server=True)) is Forbidden


def removal(state: RoomState, target: UserId) -> VerifiedEvent:
    signed = Removal(
        domain="chatty.removal.v1",
        server=SERVER,
        room=ROOM,
        target=target,
        reason=RemovalReason.ACCOUNT_DELETED,
        last_seq=state.seq,
        last_head=HEAD,
        key_id=HEAD,
    )
    return verified(state, RemovalContent(signed=signed, previous=state.seq), Kind.MEMBER, None)


def test_the_server_removes_whoever_is_or_was_a_member() -> None:
    for state in (full_room(), full_room(policy=Policy(invite=RoomRole.OWNER))):
        refused = {target for target in [*TARGETS, ADMIN, MEMBER] if outcome(state, removal(state, target)) is not None}
        assert refused == {STRANGER}
        assert outcome(state, removal(state, STRANGER)) is NotAMember


@pytest.mark.parametrize(
    ("target", "standing"), [(MEMBER, Standing.LEFT), (LEFT, Standing.LEFT), (BANNED, Standing.BANNED)]
)
def test_a_removal_leaves_a_ban_and_ends_all_else(target: UserId, standing: Standing) -> None:
    state = full_room()
    state.apply(removal(state, target))
    left = Membership(standing=standing, role=RoomRole.MEMBER, changed_seq=Seq(21), removed_seq=Seq(21))
    assert state.memberships[target] == left
    assert (state.seq, state.epoch) == (21, 21)
    old = change(state, Action.JOIN, target, target, invitation=invitation(OWNER, target, last_seq=20))
    assert outcome(state, old) is (Banned if standing is Standing.BANNED else InvitationVoid)


def test_a_room_goes_on_without_its_only_owner() -> None:
    state = full_room()
    state.apply(removal(state, OWNER))
    assert [role for one in state.joined().values() if (role := one.role) is RoomRole.OWNER] == []
    for action, target in ((Action.KICK, MEMBER), (Action.BAN, STRANGER), (Action.UNBAN, BANNED)):
        state.apply(change(state, action, ADMIN, target))
    state.apply(policy_change(state, ADMIN))
    state.apply(change(state, Action.JOIN, LEFT, LEFT, invitation=invitation(ADMIN, LEFT)))
    assert outcome(state, change(state, Action.ROLE, ADMIN, OTHER_MEMBER)) is Forbidden
    for user in (ADMIN, OTHER_ADMIN, OTHER_MEMBER, LEFT):
        state.apply(change(state, Action.LEAVE, user, user))
    assert state.joined() == {}


def test_a_room_is_created_once() -> None:
    state = full_room()
    assert outcome(state, verified(state, state.create, Kind.CREATE, OWNER)) is Forbidden


# Joining ------------------------------------------------------------------------------------------------------------


def test_the_creator_joins_first_and_becomes_the_owner() -> None:
    state = room()
    assert outcome(state, change(state, Action.JOIN, STRANGER, STRANGER)) is InvitationVoid
    state.apply(change(state, Action.JOIN, OWNER, OWNER))
    assert state.memberships[OWNER].role is RoomRole.OWNER
    assert outcome(state, change(state, Action.JOIN, OWNER, OWNER)) is Forbidden


def test_a_creator_of_another_identity_is_not_the_creator() -> None:
    state = room()
    event = change(state, Action.JOIN, OWNER, OWNER)
    state.create = CreateContent(
        **{name: getattr(state.create, name) for name in state.create.__struct_fields__}
        | {"creator_identity": IDENTITY[STRANGER]}
    )
    assert outcome(state, event) is InvitationVoid


@pytest.mark.parametrize("lowest", RoomRole)
@pytest.mark.parametrize("inviter", ACTORS)
def test_who_may_invite_is_the_policys_to_say(lowest: RoomRole, inviter: UserId) -> None:
    state = full_room(policy=Policy(invite=lowest))
    joined = {OWNER: 3, ADMIN: 2, MEMBER: 1}
    is_right = joined.get(inviter, 0) >= {RoomRole.OWNER: 3, RoomRole.ADMIN: 2, RoomRole.MEMBER: 1}[lowest]
    event = change(state, Action.JOIN, LEFT, LEFT, invitation=invitation(inviter, LEFT))
    assert outcome(state, event) is (None if is_right else InvitationVoid)


def test_an_invitation_is_for_its_room_its_target_and_its_identity() -> None:
    state = full_room()
    right = invitation(OWNER, STRANGER)
    assert outcome(state, change(state, Action.JOIN, STRANGER, STRANGER, invitation=right)) is None
    for wrong in (
        invitation(OWNER, LEFT),
        invitation(OWNER, STRANGER, room_=RoomId("!" + "B" * 43)),
        invitation(OWNER, STRANGER, identity="x" * 43),
    ):
        assert outcome(state, change(state, Action.JOIN, STRANGER, STRANGER, invitation=wrong)) is InvitationVoid


@pytest.mark.parametrize(("last_seq", "is_void"), [(9, True), (10, False), (20, False)])
def test_an_invitation_from_before_the_removal_is_void(last_seq: int, is_void: bool) -> None:
    state = full_room()
    event = change(state, Action.JOIN, LEFT, LEFT, invitation=invitation(OWNER, LEFT, last_seq=last_seq))
    assert outcome(state, event) is (InvitationVoid if is_void else None)


def test_no_invitation_overrules_a_ban() -> None:
    state = full_room()
    assert outcome(state, change(state, Action.JOIN, BANNED, BANNED, invitation=invitation(OWNER, BANNED))) is Banned


def test_a_direct_room_adds_the_other_of_its_pair_once() -> None:
    state = direct_room()
    assert outcome(state, change(state, Action.ADD, OWNER, STRANGER)) is Forbidden
    assert outcome(state, change(state, Action.ADD, MEMBER, OWNER)) is Forbidden
    assert (
        outcome(state, change(state, Action.JOIN, MEMBER, MEMBER, invitation=invitation(OWNER, MEMBER)))
        is InvitationVoid
    )
    state.apply(change(state, Action.ADD, OWNER, MEMBER))
    assert state.memberships[MEMBER].is_joined
    state.apply(change(state, Action.LEAVE, MEMBER, MEMBER))
    assert outcome(state, change(state, Action.ADD, OWNER, MEMBER)) is Forbidden


# Leaving ------------------------------------------------------------------------------------------------------------


def test_the_last_owner_leaves_alone_or_not_at_all() -> None:
    state = full_room()
    assert outcome(state, change(state, Action.LEAVE, OWNER, OWNER)) is LastOwner
    state.memberships = {OWNER: membership(RoomRole.OWNER), LEFT: membership(RoomRole.MEMBER, Standing.LEFT)}
    assert outcome(state, change(state, Action.LEAVE, OWNER, OWNER)) is None


@given(st.dictionaries(st.sampled_from(ACTORS), st.sampled_from(RoomRole).map(membership)))
def test_there_is_a_last_owner_only_beside_others(joined: dict[UserId, Membership]) -> None:
    owners = {user for user, one in joined.items() if one.role is RoomRole.OWNER}
    assert {user for user in joined if is_last_owner(joined, user)} == (
        owners if len(owners) == 1 < len(joined) else set()
    )


# What remains -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "changes_epoch"),
    [(Action.KICK, True), (Action.BAN, True), (Action.ROLE, False), (Action.TRANSFER, False)],
)
def test_what_changes_who_reads_changes_the_epoch(action: Action, changes_epoch: bool) -> None:
    state = full_room()
    state.apply(change(state, action, OWNER, MEMBER))
    assert (state.seq, state.epoch) == (21, 21 if changes_epoch else 20)


def test_a_join_keeps_the_list_and_when_the_last_removal_was() -> None:
    state = full_room()
    state.apply(change(state, Action.JOIN, LEFT, LEFT, invitation=invitation(OWNER, LEFT)))
    assert state.memberships[LEFT] == Membership(
        standing=Standing.JOINED,
        role=RoomRole.MEMBER,
        changed_seq=Seq(21),
        removed_seq=Seq(10),
        list_version=ListVersion(3),
        list_digest=HEAD,
        identity=IDENTITY[LEFT],
    )


def test_an_unban_leaves_the_removal_it_follows_the_newest() -> None:
    state = full_room()
    state.apply(change(state, Action.UNBAN, OWNER, BANNED))
    assert (state.memberships[BANNED].standing, state.memberships[BANNED].removed_seq) == (Standing.LEFT, 11)
    old = change(state, Action.JOIN, BANNED, BANNED, invitation=invitation(OWNER, BANNED, last_seq=10))
    assert outcome(state, old) is InvitationVoid


def test_a_devices_event_is_about_a_member() -> None:
    state = full_room()
    for user, expected in ((MEMBER, None), (LEFT, NotAMember), (STRANGER, NotAMember)):
        content = DevicesContent(user=user, list_version=ListVersion(9), list_digest=HEAD, previous=state.seq)
        assert outcome(state, verified(state, content, Kind.DEVICES, None)) is expected
    content = DevicesContent(user=MEMBER, list_version=ListVersion(9), list_digest=HEAD, previous=state.seq)
    before = state.memberships[MEMBER]
    state.apply(verified(state, content, Kind.DEVICES, None))
    after = state.memberships[MEMBER]
    assert after == replace(before, changed_seq=Seq(21), list_version=ListVersion(9), list_digest=HEAD)
    assert state.epoch == 21


@given(st.lists(st.tuples(st.sampled_from(Action), st.sampled_from(ACTORS), st.sampled_from(TARGETS)), max_size=30))
def test_whatever_is_refused_changes_nothing_and_an_owner_always_remains(
    acts: list[tuple[Action, UserId, UserId]],
) -> None:
    state = full_room()
    for action, sender, target in acts:
        event = change(state, action, sender, target, invitation=_invitation_for(state, action, target))
        before = (state.seq, state.epoch, dict(state.memberships), state.policy)
        try:
            state.apply(event)
        except ChattyError:
            assert (state.seq, state.epoch, state.memberships, state.policy) == before
        else:
            assert state.seq == before[0] + 1
            assert state.epoch in (before[1], state.seq)
        assert len([user for user, one in state.joined().items() if one.role is RoomRole.OWNER]) == 1


def _invitation_for(state: RoomState, action: Action, target: UserId) -> SignedInvitation | None:
    return invitation(OWNER, target, last_seq=state.seq) if action is Action.JOIN else None
