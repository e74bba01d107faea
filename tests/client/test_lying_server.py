"""Each lie of a server is caught under its own name; and with the check that catches it taken out, the lie passes unnoticed."""

from contextlib import nullcontext
from itertools import count
from typing import Any

import msgspec
import pytest

from chatty.client.device_lists import DeviceLists
from chatty.client.reasons import KeysNeeded, Lie, Reason, RoomFrozen
from chatty.client.rooms import RoomVerifier
from chatty.ids import ListVersion, Seq
from chatty.wire.events import Action, Kind, Policy, RemovalReason, RoomRole
from chatty.wire.frames import RoomEntry
from chatty.wire.limits import send_window
from tests.client.forge import tombstone
from tests.client.lies import LIES, LIES_OF_FORM, Lies, Reader, World

IDS = [lie.__name__ for lie, _, _ in LIES]


@pytest.mark.parametrize(("lie", "reason", "checks"), LIES, ids=IDS)
def test_a_lie_is_caught_under_its_own_name(lie: Lies, reason: Reason, checks: tuple[str, ...]) -> None:
    world = World()
    reader = world.reader(world.ann)
    reader.read(*world.room.events)
    with pytest.raises(Lie) as caught:
        lie(world, reader)
    assert caught.value.reason is reason


@pytest.mark.parametrize(("lie", "reason", "checks"), LIES, ids=IDS)
def test_with_the_check_taken_out_the_lie_passes(lie: Lies, reason: Reason, checks: tuple[str, ...]) -> None:
    world = World()
    reader = world.reader(world.ann, removed_checks=checks)
    reader.read(*world.room.events)
    lie(world, reader)


@pytest.mark.parametrize(("lie", "reason"), LIES_OF_FORM, ids=[lie.__name__ for lie, _ in LIES_OF_FORM])
def test_what_has_no_content_is_caught_under_its_own_name(lie: Lies, reason: Reason) -> None:
    for removed_checks, error in ((), Lie), (("check_form",), msgspec.DecodeError):
        world = World()
        reader = world.reader(world.ann, removed_checks=removed_checks)
        reader.read(*world.room.events)
        with pytest.raises(error) as caught:
            lie(world, reader)
        assert removed_checks or getattr(caught.value, "reason", None) is reason


def test_every_check_has_a_lie() -> None:
    tried = {check for _, _, checks in LIES for check in checks}
    rules = {name for kind in (RoomVerifier, DeviceLists) for name in vars(kind) if name.startswith("check_")}
    assert rules == tried


def test_an_honest_history_is_believed() -> None:
    world = World()
    reader = world.reader(world.bob)
    world.room.join(world.cleo, invited_by=world.ann)
    world.room.change(world.ann, Action.ROLE, world.cleo, role=RoomRole.ADMIN)
    world.room.change(world.cleo, Action.KICK, world.bob)
    reader.read(*world.room.events)
    assert reader.verifier.position.head == world.room.heads[-1]
    assert {user: member.role for user, member in reader.verifier.joined().items()} == {
        world.ann.user: RoomRole.OWNER,
        world.cleo.user: RoomRole.ADMIN,
    }


def test_a_removal_by_the_server_is_believed_once_its_key_is_known() -> None:
    world = World()
    reader = world.reader(world.ann)
    reader.read(*world.room.events)
    removal = world.room.removal(world.bob)
    with pytest.raises(KeysNeeded) as needed:
        reader.verifier.accept(removal)
    assert (needed.value.of_server, needed.value.users) == (True, frozenset())
    with pytest.raises(Lie) as caught:
        reader.verifier.accept(removal, keys_are_fresh=True)
    assert caught.value.reason is Reason.BAD_SIGNATURE
    reader.read(removal)
    assert set(reader.verifier.joined()) == {world.ann.user}
    assert reader.verifier.epoch == removal.seq
    reader.read(world.room.removal(world.bob))  # who is outside may be removed again: his account is deleted now


def test_whoever_was_removed_may_come_back_with_a_new_invitation_only() -> None:
    world = World()
    reader = world.reader(world.ann)
    old = world.room.invitation(world.ann, world.bob)
    removal = world.room.removal(world.bob, reason=RemovalReason.ACCOUNT_LOCKED)
    reader.read(*world.room.events)
    with pytest.raises(Lie):
        reader.read(world.room.change(world.bob, Action.JOIN, world.bob, invitation=old))
    world.room.events.pop()
    world.room.heads.pop()
    world.room.state_seq = removal.seq
    reader.read(world.room.join(world.bob, invited_by=world.ann))
    assert world.bob.user in reader.verifier.joined()


def test_what_a_deleted_account_wrote_may_be_erased_and_the_chain_goes_on() -> None:
    world = World()
    for _ in range(2):
        world.room.message(world.bob)
    world.room.removal(world.bob)
    world.room.message(world.ann)
    first, second = world.room.seq - 3, world.room.seq - 2
    removal_seq = second + 1
    reader = world.reader(world.ann)
    reader.read(*world.room.events[: first - 1])
    assert not reader.verifier.has_unexplained
    reader.read(world.room.erased(first, removal_seq=removal_seq), world.room.erased(second, removal_seq=removal_seq))
    assert reader.verifier.has_unexplained
    reader.read(*world.room.events[second:])
    assert not reader.verifier.has_unexplained
    assert reader.verifier.position.head == world.room.heads[-1]
    reader.verifier.check_known(world.room.erased(first, removal_seq=removal_seq))


def test_a_later_deletion_explains_what_is_erased_too() -> None:
    world = World()
    bobs = world.room.message(world.bob).seq
    removal = world.room.removal(world.bob)
    world.room.join(world.cleo, invited_by=world.ann)
    cleos = world.room.message(world.cleo).seq
    later = world.room.removal(world.cleo).seq
    reader = world.reader(world.ann)
    reader.read(*world.room.events[: bobs - 1], world.room.erased(bobs, removal_seq=later), removal)
    assert reader.verifier.has_unexplained  # the newest one is named, whose messages it may be about
    reader.read(*world.room.events[bobs + 1 : cleos - 1], world.room.erased(cleos, removal_seq=later))
    reader.read(world.room.last)
    assert not reader.verifier.has_unexplained
    assert reader.verifier.position.head == world.room.heads[-1]


def test_the_removal_that_was_named_is_hidden_from_nobody() -> None:
    world = World()
    bobs = world.room.message(world.bob).seq
    world.room.removal(world.bob)
    world.room.message(world.ann)
    world.room.join(world.cleo, invited_by=world.ann)
    reader = world.reader(world.cleo)
    reader.read(*world.room.events[: bobs - 1], world.room.erased(bobs, removal_seq=bobs + 1))
    with pytest.raises(Lie) as caught:
        reader.read(world.room.gap(bobs + 1, bobs + 2))
    assert caught.value.reason is Reason.MISSING_EVENT


def test_a_gap_does_not_end_the_wait_for_the_removal() -> None:
    world = World()
    bobs = world.room.message(world.bob).seq
    world.room.message(world.bob)
    world.room.removal(world.bob, reason=RemovalReason.ACCOUNT_LOCKED)
    reader = world.reader(world.cleo)
    reader.read(*world.room.events[: bobs - 1], world.room.erased(bobs, removal_seq=bobs + 2))
    reader.read(world.room.gap(bobs + 1, bobs + 1))
    with pytest.raises(Lie) as caught:
        reader.read(world.room.last)
    assert caught.value.reason is Reason.CONTENT_WITHHELD_BY_SERVER


def test_a_deleted_message_is_believed_with_its_deletion_by_the_sender_or_an_admin() -> None:
    world = World()
    reader = world.reader(world.ann)
    reader.read(*world.room.events)
    own, others = world.room.message(world.bob), world.room.message(world.bob)
    deletions = [world.room.deletion(world.bob, own), world.room.deletion(world.ann, others)]
    reader.read(tombstone(own, deletion_seq=deletions[0].seq), tombstone(others, deletion_seq=deletions[1].seq))
    assert reader.verifier.has_unexplained
    reader.read(*deletions)
    assert not reader.verifier.has_unexplained
    assert reader.verifier.position.head == world.room.heads[-1]
    again = world.reader(world.bob)  # with the ciphertexts, as it was when they were read
    again.read(*world.room.events)
    again.verifier.check_known(tombstone(own, deletion_seq=deletions[0].seq))


def test_an_expired_message_needs_no_more_than_its_expiry() -> None:
    world = World()
    reader = world.reader(world.ann)
    reader.read(*world.room.events, tombstone(world.room.message(world.bob, expiry=5)))
    assert not reader.verifier.has_unexplained
    assert reader.verifier.position.head == world.room.heads[-1]


def test_what_is_below_the_horizon_may_be_gone_and_the_chain_goes_on() -> None:
    world = World()
    gone = [world.room.message(world.bob) for _ in range(2)]
    deletion = world.room.deletion(world.bob, gone[0])
    later = world.room.message(world.ann)
    kept = world.room.message(world.ann)
    reader = world.reader(world.ann)
    reader.read(*world.room.events[:4])
    own = world.room.horizon(5, gone[1].seq, at=later.seq)
    reader.read(own, deletion, world.room.horizon(later.seq, later.seq), kept)
    assert reader.verifier.position.head == world.room.heads[-1]


@pytest.mark.parametrize(
    "changes", [{"head": b"h" * 31}, {"room": "!" + "A" * 43}, {"from_seq": Seq(9)}, {"to_seq": Seq(9)}]
)
def test_a_horizon_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    world = World()
    reader = world.reader(world.ann)
    reader.read(*world.room.events)
    message = world.room.message(world.bob)
    with pytest.raises(Lie):
        reader.read(msgspec.structs.replace(world.room.horizon(message.seq, message.seq), **changes))


@pytest.mark.parametrize("changes", [{"leaf": b"l" * 31}, {"room": "!" + "A" * 43}, {"seq": Seq(9)}])
def test_an_erased_message_of_another_form_is_refused(changes: dict[str, Any]) -> None:
    world = World()
    bobs = world.room.message(world.bob).seq
    reader = world.reader(world.ann)
    reader.read(*world.room.events[: bobs - 1])
    with pytest.raises(Lie):
        reader.read(msgspec.structs.replace(world.room.erased(bobs, removal_seq=bobs + 1), **changes))


def test_what_was_before_ones_own_time_may_be_hidden() -> None:
    world = World()
    world.room.join(world.cleo, invited_by=world.ann)
    reader = world.reader(world.cleo)
    *before, _, join = world.room.events
    reader.read(*before, world.room.gap(4, 4), join)
    assert reader.verifier.position.head == world.room.heads[-1]


@pytest.mark.parametrize("hidden", [2, 3, 5, 7, 8, 10, 11, 13, 14])
def test_a_newcomer_misses_whichever_state_event_is_hidden(hidden: int) -> None:
    cleo, shown = newcomers_view(hidden=Seq(hidden))
    with pytest.raises(Lie) as caught:
        cleo.read(*shown)
    assert caught.value.reason is Reason.WRONG_PREVIOUS


def test_a_newcomer_believes_a_history_whose_messages_alone_are_hidden() -> None:
    cleo, shown = newcomers_view()
    cleo.read(*shown)
    assert cleo.verifier.position.head == cleo.world.room.heads[-1]
    assert cleo.verifier.is_joined


def newcomers_view(*, hidden: Seq | None = None) -> tuple[Reader, list[RoomEntry]]:
    """Somebody who comes late, and what she is shown: no message, all state events but the hidden one, at the end her join."""
    world = World()
    room, ann, bob = world.room, world.ann, world.bob
    room.change(ann, Action.ROLE, bob, role=RoomRole.ADMIN)
    room.message(bob)
    bob.list_version = ListVersion(2)
    room.devices(bob)
    room.policy(bob, Policy(history="joined", invite=RoomRole.OWNER))
    room.message(ann)
    room.change(ann, Action.BAN, bob)
    room.change(ann, Action.UNBAN, bob)
    room.message(ann)
    room.join(bob, invited_by=ann)
    room.change(bob, Action.LEAVE, bob)
    room.join(world.cleo, invited_by=ann)
    unseen = {event.seq for event in room.events if event.kind is Kind.MESSAGE} | {hidden}
    shown: list[RoomEntry] = [room.gap(event.seq, event.seq) if event.seq in unseen else event for event in room.events]
    return world.reader(world.cleo), shown


@pytest.mark.parametrize(("behind", "is_believed"), [(send_window - 1, True), (send_window, False)])
def test_changes_of_one_device_may_overtake_each_other_within_the_window(behind: int, is_believed: bool) -> None:
    world = World()
    reader = world.reader(world.bob)
    newest = 1_000
    world.ann.numbers = count(newest)
    world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    world.ann.numbers = count(newest - behind)
    world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.MEMBER)
    with nullcontext() if is_believed else pytest.raises(Lie, match="duplicate_event"):
        reader.read(*world.room.events)


def test_a_frozen_room_takes_nothing_more() -> None:
    world = World()
    reader = world.reader(world.ann)
    reader.read(*world.room.events)
    reader.verifier.frozen = Reason.FORKED_HISTORY
    with pytest.raises(RoomFrozen):
        reader.read(world.room.message(world.bob))


def test_an_unknown_signer_is_asked_for_first_and_then_a_lie() -> None:
    world = World()
    reader = world.reader(world.ann)
    create = world.room.events[0]
    assert create.kind is Kind.CREATE
    with pytest.raises(KeysNeeded) as needed:
        reader.verifier.accept(create)
    assert needed.value.users == {world.ann.user}
    with pytest.raises(Lie) as caught:
        reader.verifier.accept(create, keys_are_fresh=True)
    assert caught.value.reason is Reason.BAD_SIGNATURE
