"""The lies of a server about a room and about keys, each with the reason under which it is caught and the checks that catch it.

A Reader is one honest client's view: the checks of the SDK over a room that forge.py made. With a lie's checks taken out of it
the lie passes unnoticed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import msgspec

from chatty.client.device_lists import DeviceLists, UserKeys
from chatty.client.reasons import KeysNeeded, Lie, Reason
from chatty.client.rooms import RoomVerifier
from chatty.crypto.signatures import public_key
from chatty.crypto.tokens import SigningKey
from chatty.ids import DeviceId, ListVersion, SendNumber, Seq, UserId
from chatty.wire import chain
from chatty.wire.authority import VerifiedEvent
from chatty.wire.canonical import encode_base64
from chatty.wire.events import (
    Action,
    Content,
    DevicesContent,
    Kind,
    MemberContent,
    Policy,
    RemovalReason,
    RestoredContent,
    RoomRole,
    TimelineEvent,
    decode_content,
)
from chatty.wire.frames import RoomEntry
from chatty.wire.limits import send_window
from chatty.wire.signing import body_bytes
from tests.client.forge import SERVER, ForgedRoom, Person, altered, key_answer, naming, server_keys, tombstone

REMOVABLE: dict[str, Any] = {
    "check_order": lambda self, seq: None,
    "check_time": lambda self, event: None,
    "check_form": lambda self, event: of_any_form(event),
    "check_signature": lambda self, event, content: believed(event, content),
    "check_not_repeated": lambda self, event: None,
    "check_previous": lambda self, seq, content: None,
    "check_authority": lambda self, verified: None,
    "check_generation": lambda self, content: None,
    "check_restoration": lambda self, content: None,
    "check_claims": lambda self, seq, content: None,
    "check_head_claim": lambda self, seq, last_seq, last_head: None,
    "check_identities": lambda self, content: None,
    "check_device_list": lambda self, content: None,
    "check_sender": lambda self, event: None,
    "check_epoch": lambda self, event: None,
    "check_ack": lambda self, seq, leaf: None,
    "check_shown": lambda self, seq, leaf: None,
    "check_gap": lambda self, gap: None,
    "check_known": lambda self, entry: None,
    "check_explanation": lambda self, erased: None,
    "check_promise": lambda self, seq, verified: None,
    "check_withheld": lambda self, event: None,
    "check_owed": lambda self, seq, verified: None,
    "check_target": lambda self, seq, content: None,
    "check_hidden": lambda self, stretch: None,
    "check_mark": lambda self, mark: None,
    "check_horizon": lambda self, entry: None,
    "check_above_horizon": lambda self, event: None,
}
REMOVABLE_OF_LISTS: dict[str, Any] = {
    "check_identity": lambda self, user, identity: None,
    "check_own_signature": lambda self, user, device, keys: None,
    "check_keys_unchanged": lambda self, user, device, *, ed25519, curve25519="": None,
    "check_digest": lambda self, user, listed, devices: None,
    "check_named_digest": lambda self, user, version, digest: None,
}


def of_any_form(event: TimelineEvent) -> Content:
    """What a client makes of an event that takes a device's act from the server itself."""
    try:
        return decode_content(event)
    except msgspec.ValidationError:
        return msgspec.json.decode(event.body or b"", type=MemberContent)


def believed(event: TimelineEvent, content: Content) -> VerifiedEvent:
    """What a client without signature checks would make of an event."""
    return VerifiedEvent(event=event, content=content, signer=(event.sender, event.device) if event.sender else None)


def without(kind: type[Any], checks: Iterable[str], removable: dict[str, Any]) -> type[Any]:
    return type(kind.__name__, (kind,), {name: removable[name] for name in checks if name in removable})


@dataclass
class World:
    """Ann made the room and is who looks; Bob is inside; Cleo and the ghost are not."""

    ann: Person = field(default_factory=lambda: Person("ann"))
    bob: Person = field(default_factory=lambda: Person("bob"))
    cleo: Person = field(default_factory=lambda: Person("cleo"))
    ghost: Person = field(default_factory=lambda: Person("ghost"))

    def __post_init__(self) -> None:
        self.room = ForgedRoom(self.ann)
        self.room.join(self.bob, invited_by=self.ann)
        self.room.message(self.ann)
        self.people = [self.ann, self.bob, self.cleo, self.ghost]

    def reader(self, me: Person, *, removed_checks: Iterable[str] = (), room: ForgedRoom | None = None) -> "Reader":
        return Reader(me, self, removed_checks, room)


class Reader:
    """One honest client's view of the room, with the key answers that the server gives it. A lie leaves it as it was."""

    def __init__(
        self, me: Person, world: World, removed_checks: Iterable[str] = (), room: ForgedRoom | None = None
    ) -> None:
        self.world = world
        self.removed_checks = removed_checks
        self.users: dict[UserId, UserKeys] = {}
        self.lists = without(DeviceLists, removed_checks, REMOVABLE_OF_LISTS)(self.users, save=lambda user, keys: None)
        self.knows_server = False
        self.verifier = without(RoomVerifier, removed_checks, REMOVABLE)(
            (room or world.room).room, me=me.user, server=SERVER, lists=self.lists, server_key=self.server_key
        )

    def server_key(self, key_id: str, time: int) -> str | None:
        return server_keys(key_id, time) if self.knows_server else None

    def learn(self, *people: Person) -> None:
        for person in people:
            self.believe(partial(self.lists.accept, person.user, key_answer(person)))

    def read(self, *entries: RoomEntry) -> None:
        for entry in entries:
            try:
                self.believe(partial(self.verifier.accept, entry))
            except KeysNeeded as needed:
                self.knows_server = self.knows_server or needed.of_server
                self.learn(*(person for person in self.world.people if person.user in needed.users))
                self.believe(partial(self.verifier.accept, entry, keys_are_fresh=True))

    def believe(self, take: Callable[[], object]) -> None:
        before = self.believed()
        try:
            take()
        except Lie:
            assert self.believed() == before, "something of the lie was taken"
            raise

    def believed(self) -> object:
        """All that it holds for true, copied."""
        verifier = self.verifier
        return msgspec.to_builtins((verifier.position, verifier.state, verifier.changes, self.users))


Lies = Callable[[World, Reader], None]


def adds_a_member_itself(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.ghost, Action.JOIN, world.ghost, is_by_server=True))


def adds_a_member_with_keys_of_its_own(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.ghost, Action.JOIN, world.ghost))


def adds_a_member_with_a_forged_invitation(world: World, reader: Reader) -> None:
    invitation = world.room.invitation(world.ghost, world.ghost)
    reader.read(world.room.change(world.ghost, Action.JOIN, world.ghost, invitation=invitation))


def adds_a_member_in_anothers_name(world: World, reader: Reader) -> None:
    fake = world.ann.with_other_keys()
    reader.read(world.room.change(fake, Action.ADD, world.ghost))


def promotes_a_member(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.bob, Action.ROLE, world.ann, role=RoomRole.MEMBER))


def promotes_by_itself(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN, is_by_server=True))


def promotes_in_the_owners_name(world: World, reader: Reader) -> None:
    fake = world.ann.with_other_keys()
    reader.read(world.room.change(fake, Action.ROLE, world.bob, role=RoomRole.ADMIN))


def promotes_again_with_what_was_signed_once(world: World, reader: Reader) -> None:
    promotion = world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    reader.read(promotion, world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.MEMBER))
    reader.read(world.room.again(promotion))


def promotes_again_with_what_was_signed_long_ago(world: World, reader: Reader) -> None:
    promotion = world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    world.ann.numbers = count(promotion.n + send_window)
    reader.read(promotion, world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.MEMBER))
    reader.read(world.room.again(promotion))


def kicks_again_who_came_back(world: World, reader: Reader) -> None:
    kick = world.room.change(world.ann, Action.KICK, world.bob)
    reader.read(kick, world.room.join(world.bob, invited_by=world.ann))
    reader.read(world.room.again(kick))


def changes_the_policy_in_a_members_name(world: World, reader: Reader) -> None:
    reader.read(world.room.policy(world.bob, Policy(history="shared", invite=RoomRole.MEMBER)))


def kicks_a_member_itself(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.ann, Action.KICK, world.bob, is_by_server=True))


def removes_somebody_who_never_was_inside(world: World, reader: Reader) -> None:
    reader.read(world.room.removal(world.cleo))


def removes_somebody_with_another_key(world: World, reader: Reader) -> None:
    reader.read(world.room.removal(world.bob, key=SigningKey(b"x" * 32)))


def removes_somebody_with_a_removal_from_before(world: World, reader: Reader) -> None:
    removal = world.room.removal(world.bob)
    reader.read(removal, world.room.join(world.bob, invited_by=world.ann))
    reader.read(world.room.again(removal))


def removes_another_than_it_signed(world: World, reader: Reader) -> None:
    reader.read(altered(world.room.removal(world.bob), target=world.ann.user))


def lets_a_device_remove_in_its_place(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.ann, Action.REMOVE, world.bob))


def removes_somebody_on_another_history(world: World, reader: Reader) -> None:
    reader.read(world.room.removal(world.bob, last_head=b"h" * 32))


def shows_a_change_of_another_room(world: World, reader: Reader) -> None:
    other = ForgedRoom(world.ann)
    other.join(world.bob, invited_by=world.ann)
    other.message(world.ann)
    reader.read(world.room.again(other.change(world.ann, Action.KICK, world.bob)))


def shows_a_change_under_another_sender(world: World, reader: Reader) -> None:
    honest = world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    reader.read(altered(honest, sender=world.bob.user, device=world.bob.device))


def shows_a_change_under_another_n(world: World, reader: Reader) -> None:
    honest = world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    reader.read(altered(honest, n=SendNumber(honest.n + 1)))


def shows_a_change_of_another_target(world: World, reader: Reader) -> None:
    reader.read(altered(world.room.change(world.ann, Action.KICK, world.bob), target=world.cleo.user))


def shows_a_policy_with_a_target(world: World, reader: Reader) -> None:
    reader.read(altered(world.room.policy(world.ann, Policy()), target=world.bob.user))


def shows_a_device_list_of_another_target(world: World, reader: Reader) -> None:
    world.bob.list_version = ListVersion(2)
    reader.read(altered(world.room.devices(world.bob), target=world.cleo.user))


def shows_a_change_with_a_messages_fields(world: World, reader: Reader) -> None:
    reader.read(altered(world.room.change(world.ann, Action.KICK, world.bob), epoch=Seq(2)))


def adds_a_member_with_an_invitation_in_the_owners_name(world: World, reader: Reader) -> None:
    invitation = world.room.invitation(world.ann.with_other_keys(), world.ghost)
    reader.read(world.room.change(world.ghost, Action.JOIN, world.ghost, invitation=invitation))


def sits_in_a_direct_room_of_two_others(world: World, reader: Reader) -> None:
    room = ForgedRoom(world.ghost, direct=(world.ann, world.bob))
    room.change(world.ghost, Action.ADD, world.ann)
    elsewhere = world.reader(world.ann, removed_checks=reader.removed_checks, room=room)
    elsewhere.read(*room.events)
    assert world.ghost.user in elsewhere.verifier.joined()


def lets_an_invitation_outlive_a_kick(world: World, reader: Reader) -> None:
    invitation = world.room.invitation(world.ann, world.bob)
    reader.read(world.room.message(world.ann), world.room.change(world.ann, Action.KICK, world.bob))
    reader.read(world.room.change(world.bob, Action.JOIN, world.bob, invitation=invitation))


def alters_a_state_event(world: World, reader: Reader) -> None:
    honest = world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    reader.read(altered(honest, signature=bytes(64)))


def writes_a_state_event_in_another_form(world: World, reader: Reader) -> None:
    honest = world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    assert honest.body is not None
    reader.read(altered(honest, body=honest.body.replace(b'"role":', b'"role" :')))


def withholds_the_content_of_a_change(world: World, reader: Reader) -> None:
    honest = world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    reader.read(altered(honest, body=None, body_hash=chain.body_hash(honest)))


def shows_a_change_without_sense(world: World, reader: Reader) -> None:
    reader.read(altered(world.room.change(world.ann, Action.KICK, world.bob), body=b"{}"))


def newcomer(world: World, reader: Reader, *, first_hidden: int) -> Reader:
    """Cleo joins, and is shown as a gap what stands from there up to her join; with the same checks taken out."""
    gap = world.room.gap(first_hidden, world.room.seq)
    shown = world.room.events[: first_hidden - 1]
    cleo = world.reader(world.cleo, removed_checks=reader.removed_checks)
    cleo.read(*shown, gap, world.room.join(world.cleo, invited_by=world.ann))
    return cleo


def hides_a_kick_from_a_newcomer(world: World, reader: Reader) -> None:
    kick = world.room.change(world.ann, Action.KICK, world.bob)
    world.room.message(world.ann)
    assert world.bob.user in newcomer(world, reader, first_hidden=kick.seq).verifier.joined()


def hides_a_ban_from_a_newcomer(world: World, reader: Reader) -> None:
    ban = world.room.change(world.ann, Action.BAN, world.bob)
    assert world.bob.user in newcomer(world, reader, first_hidden=ban.seq).verifier.joined()


def hides_a_demotion_from_a_newcomer(world: World, reader: Reader) -> None:
    world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    demotion = world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.MEMBER)
    cleo = newcomer(world, reader, first_hidden=demotion.seq)
    assert cleo.verifier.joined()[world.bob.user].role is RoomRole.ADMIN


def hides_a_policy_from_a_newcomer(world: World, reader: Reader) -> None:
    policy = world.room.policy(world.ann, Policy(history="joined", invite=RoomRole.OWNER))
    state = newcomer(world, reader, first_hidden=policy.seq).verifier.state
    assert state is not None
    assert state.policy.invite is RoomRole.ADMIN


def hides_a_device_list_from_a_newcomer(world: World, reader: Reader) -> None:
    world.bob.list_version = ListVersion(2)
    devices = world.room.devices(world.bob)
    assert newcomer(world, reader, first_hidden=devices.seq).verifier.joined()[world.bob.user].list_version == 1


def hides_a_kick_from_who_comes_back(world: World, reader: Reader) -> None:
    world.room.join(world.cleo, invited_by=world.ann)
    world.room.change(world.bob, Action.LEAVE, world.bob)
    bob = world.reader(world.bob, removed_checks=reader.removed_checks)
    bob.read(*world.room.events)
    kick = world.room.change(world.ann, Action.KICK, world.cleo)
    bob.read(world.room.gap(kick.seq, kick.seq), world.room.join(world.bob, invited_by=world.ann))
    assert world.cleo.user in bob.verifier.joined()


def makes_up_a_device_list_for_a_newcomer(world: World, reader: Reader) -> None:
    """In the place of a message that is not for her, behind a gap whose head everybody knows."""
    place = world.room.message(world.ann).seq
    world.room.message(world.ann)
    made_up = DevicesContent(
        user=world.bob.user, list_version=ListVersion(2), list_digest=world.bob.digest, previous=Seq(3)
    )
    event = altered(
        world.room.events[place - 1],
        kind=Kind.DEVICES,
        sender=UserId(""),
        device=DeviceId(""),
        n=SendNumber(0),
        algorithm="",
        session_id="",
        epoch=Seq(0),
        target=world.bob.user,
        body=body_bytes(made_up),
    )
    gap, join = world.room.gap(place + 1, place + 1), world.room.join(world.cleo, invited_by=world.ann)
    cleo = world.reader(world.cleo, removed_checks=reader.removed_checks)
    cleo.read(*world.room.events[: place - 1], event, gap, join)
    assert cleo.verifier.joined()[world.bob.user].list_version == 2


def names_a_message_as_the_state_event_before(world: World, reader: Reader) -> None:
    honest = world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    reader.read(naming(honest, honest.seq - 1))


def names_an_older_state_event_before_a_policy(world: World, reader: Reader) -> None:
    reader.read(naming(world.room.policy(world.ann, Policy()), 1))


def names_an_older_state_event_before_a_device_list(world: World, reader: Reader) -> None:
    world.bob.list_version = ListVersion(2)
    reader.read(naming(world.room.devices(world.bob), 2))


def names_a_state_event_to_come(world: World, reader: Reader) -> None:
    honest = world.room.change(world.ann, Action.KICK, world.bob)
    reader.read(naming(honest, honest.seq))


def alters_what_stood_before(world: World, reader: Reader) -> None:
    honest = world.room.message(world.ann)
    reader.read(altered(honest, time=honest.time + 1))
    reader.read(world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN))


def drops_an_event(world: World, reader: Reader) -> None:
    world.room.message(world.bob)
    reader.read(world.room.message(world.bob))


def drops_an_event_and_numbers_anew(world: World, reader: Reader) -> None:
    world.room.message(world.bob)
    signed_behind_it = world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    reader.read(altered(signed_behind_it, seq=Seq(signed_behind_it.seq - 1)))


def hides_an_event_from_a_member(world: World, reader: Reader) -> None:
    world.room.message(world.bob)
    reader.read(world.room.gap(world.room.seq, world.room.seq))


def swaps_two_events_and_numbers_anew(world: World, reader: Reader) -> None:
    first = world.room.message(world.bob)
    second = world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN)
    reader.read(altered(second, seq=first.seq), altered(first, seq=second.seq, time=second.time))


def begins_a_generation_twice(world: World, reader: Reader) -> None:
    reader.read(world.room.restored(2), world.room.restored(2))


def begins_an_older_generation(world: World, reader: Reader) -> None:
    reader.read(world.room.restored(3), world.room.restored(2))


def begins_a_generation_with_another_key(world: World, reader: Reader) -> None:
    reader.read(world.room.restored(key=SigningKey(b"m" * 32)))


def begins_a_generation_that_was_signed_for_another_place(world: World, reader: Reader) -> None:
    restored = world.room.restored()
    reader.read(altered(world.room.message(world.bob), seq=restored.seq, time=restored.time))
    reader.read(altered(restored, seq=Seq(restored.seq + 1)))


def is_restored_behind_another_history(world: World, reader: Reader) -> None:
    content = decode_content(world.room.restored(last_head=b"h" * 32))
    assert isinstance(content, RestoredContent)
    reader.verifier.check_restoration(content)


def shows_an_older_event_after_a_newer(world: World, reader: Reader) -> None:
    first, second = world.room.message(world.bob), world.room.message(world.bob)
    reader.read(first, second, first)


def repeats_an_event(world: World, reader: Reader) -> None:
    event = world.room.message(world.bob)
    reader.read(event, event)


def shows_two_histories(world: World, reader: Reader) -> None:
    fork = altered(world.room.message(world.bob), body=b"for Ann alone")
    reader.read(fork)
    reader.read(world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN))


def shows_two_histories_inside_messages(world: World, reader: Reader) -> None:
    reader.read(altered(world.room.message(world.bob), body=b"for Ann alone"))
    head = chain.next_head(b"h" * 32, b"l" * 32)
    reader.verifier.check_head_claim(Seq(world.room.seq + 1), world.room.seq, encode_base64(head))


def acks_a_message_and_shows_another(world: World, reader: Reader) -> None:
    shown = altered(world.room.message(world.ann), body=b"another")
    reader.verifier.expect(world.room.seq, chain.leaf(altered(shown, body=b"what Ann sent")))
    reader.read(shown)


def acks_a_message_after_it_showed_another(world: World, reader: Reader) -> None:
    shown = world.room.message(world.ann)
    reader.read(shown)
    reader.verifier.expect(shown.seq, chain.leaf(altered(shown, body=b"what Ann sent")))


def acks_a_message_at_another_place(world: World, reader: Reader) -> None:
    shown = world.room.message(world.ann)
    elsewhere = Seq(shown.seq + 1)
    reader.verifier.expect(elsewhere, chain.leaf(altered(shown, seq=elsewhere)))
    reader.read(shown, world.room.message(world.bob))


def shows_another_event_again(world: World, reader: Reader) -> None:
    event = world.room.message(world.bob)
    reader.read(event)
    reader.verifier.check_known(altered(event, body=b"another"))


def erases_a_message_and_names_nothing(world: World, reader: Reader) -> None:
    world.room.message(world.bob)
    reader.read(world.room.erased(world.room.seq))


def erases_a_message_after_the_removal(world: World, reader: Reader) -> None:
    reader.read(world.room.removal(world.bob), world.room.message(world.ann))
    world.room.message(world.ann)
    reader.read(world.room.erased(world.room.seq, removal_seq=world.room.seq - 2))


def erases_a_message_and_names_a_removal_that_is_none(world: World, reader: Reader) -> None:
    world.room.message(world.bob)
    reader.read(world.room.erased(world.room.seq, removal_seq=world.room.seq + 1), world.room.message(world.ann))


def erases_a_message_and_names_a_kick(world: World, reader: Reader) -> None:
    erased = world.room.erased(world.room.message(world.bob).seq, removal_seq=world.room.seq + 1)
    reader.read(erased, world.room.change(world.ann, Action.KICK, world.bob))


def erases_a_message_for_an_account_that_was_locked(world: World, reader: Reader) -> None:
    erased = world.room.erased(world.room.message(world.bob).seq, removal_seq=world.room.seq + 1)
    reader.read(erased, world.room.removal(world.bob, reason=RemovalReason.ACCOUNT_LOCKED))


def erases_the_removal_that_it_named(world: World, reader: Reader) -> None:
    world.room.message(world.bob)
    first = world.room.erased(world.room.seq, removal_seq=world.room.seq + 1)
    world.room.message(world.bob)
    reader.read(first, world.room.erased(world.room.seq, removal_seq=world.room.seq + 9))


def erases_another_message_than_it_acked(world: World, reader: Reader) -> None:
    acked = chain.leaf(altered(world.room.message(world.ann), body=b"what Ann sent"))
    reader.verifier.expect(world.room.seq, acked)
    reader.read(world.room.erased(world.room.seq, removal_seq=world.room.seq + 1))


def erases_another_message_than_it_showed(world: World, reader: Reader) -> None:
    event = world.room.message(world.bob)
    reader.read(altered(event, body=b"another"))
    reader.verifier.check_known(world.room.erased(event.seq, removal_seq=event.seq + 1))


def withholds_a_message(world: World, reader: Reader) -> None:
    reader.read(tombstone(world.room.message(world.bob)))


def deletes_a_message_itself(world: World, reader: Reader) -> None:
    message = world.room.message(world.bob)
    reader.read(tombstone(message, deletion_seq=message.seq + 1), world.room.message(world.bob))


def deletes_a_message_and_names_a_deletion_before_it(world: World, reader: Reader) -> None:
    first = world.room.message(world.bob)
    deletion, second = world.room.deletion(world.bob, first), world.room.message(world.bob)
    reader.read(first, deletion, tombstone(second, deletion_seq=deletion.seq))


def deletes_a_message_and_shows_the_deletion_of_another(world: World, reader: Reader) -> None:
    first, second = world.room.message(world.bob), world.room.message(world.bob)
    deletion = world.room.deletion(world.bob, first)
    reader.read(first, tombstone(second, deletion_seq=deletion.seq), deletion)


def deletes_two_messages_with_one_deletion(world: World, reader: Reader) -> None:
    first, second = world.room.message(world.bob), world.room.message(world.bob)
    deletion = world.room.deletion(world.bob, second)
    reader.read(tombstone(first, deletion_seq=deletion.seq), tombstone(second, deletion_seq=deletion.seq), deletion)


def deletes_a_message_by_a_deletion_for_another_sender(world: World, reader: Reader) -> None:
    message = world.room.message(world.ann)
    deletion = world.room.deletion(world.bob, message, of=world.bob)
    reader.read(tombstone(message, deletion_seq=deletion.seq), deletion)


def deletes_a_message_in_its_senders_name(world: World, reader: Reader) -> None:
    message = world.room.message(world.bob)
    deletion = world.room.deletion(world.bob.with_other_keys(), message)
    reader.read(tombstone(message, deletion_seq=deletion.seq), deletion)


def deletes_a_message_by_somebody_who_may_not(world: World, reader: Reader) -> None:
    message = world.room.message(world.ann)
    deletion = world.room.deletion(world.bob, message)
    reader.read(tombstone(message, deletion_seq=deletion.seq), deletion)


def deletes_a_message_by_somebody_outside(world: World, reader: Reader) -> None:
    message = world.room.message(world.bob)
    kick = world.room.change(world.ann, Action.KICK, world.bob)
    deletion = world.room.deletion(world.bob, message)
    reader.read(tombstone(message, deletion_seq=deletion.seq), kick, deletion)


def deletes_another_message_than_it_showed(world: World, reader: Reader) -> None:
    message = world.room.message(world.bob)
    reader.read(altered(message, body=b"another"), world.room.deletion(world.bob, message, last_head=b"h" * 32))


def deletes_again_with_what_was_signed_once(world: World, reader: Reader) -> None:
    message = world.room.message(world.bob)
    deletion = world.room.deletion(world.bob, message)
    reader.read(message, deletion, world.room.append(altered(deletion, time=deletion.time + 1)))


def hides_the_deletion_that_it_named(world: World, reader: Reader) -> None:
    message = world.room.message(world.bob)
    deletion = world.room.deletion(world.bob, message)
    cleo = world.reader(world.cleo, removed_checks=reader.removed_checks)
    shown = world.room.events[: message.seq - 1]
    cleo.read(*shown, tombstone(message, deletion_seq=deletion.seq), world.room.gap(deletion.seq, deletion.seq))


def calls_a_message_older_than_it_is(world: World, reader: Reader) -> None:
    message = world.room.message(world.bob)
    reader.read(world.room.horizon(message.seq, message.seq, before=world.room.events[0].time))


def calls_one_message_old_and_shows_another(world: World, reader: Reader) -> None:
    first, second = world.room.message(world.bob), world.room.message(world.bob)
    reader.read(world.room.horizon(first.seq, first.seq, at=second.seq), second)


def calls_one_message_old_and_shows_another_as_old(world: World, reader: Reader) -> None:
    first, second = world.room.message(world.bob), world.room.message(world.bob)
    reader.read(world.room.horizon(first.seq, first.seq, before=second.time + 1), second)


def signs_a_horizon_with_another_key(world: World, reader: Reader) -> None:
    message = world.room.message(world.bob)
    reader.read(world.room.horizon(message.seq, message.seq, key=SigningKey(b"x" * 32)))


def shows_another_head_at_the_horizon(world: World, reader: Reader) -> None:
    message = world.room.message(world.bob)
    reader.read(world.room.horizon(message.seq, message.seq, head=b"h" * 32))


def puts_time_back(world: World, reader: Reader) -> None:
    reader.read(altered(world.room.message(world.bob), time=1))


def takes_a_message_from_a_stranger(world: World, reader: Reader) -> None:
    reader.read(world.room.message(world.ghost))


def takes_a_message_from_who_was_kicked(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.ann, Action.KICK, world.bob))
    reader.read(world.room.message(world.bob))


def takes_a_message_for_an_older_device_set(world: World, reader: Reader) -> None:
    reader.read(world.room.message(world.bob, epoch=Seq(2)))


def hands_out_another_key_under_a_known_device(world: World, reader: Reader) -> None:
    fake = world.bob.with_other_keys()
    fake.list_version = ListVersion(2)
    reader.learn(fake)


def hands_out_keys_that_the_device_did_not_sign(world: World, reader: Reader) -> None:
    shown = key_answer(world.cleo)
    keys = shown.device_keys[world.cleo.user][world.cleo.device]
    signed_by_another = Person("cleo", device=world.cleo.device).device_keys().signatures
    forged = msgspec.structs.replace(keys, signatures=signed_by_another)
    answer = msgspec.structs.replace(shown, device_keys={world.cleo.user: {world.cleo.device: forged}})
    reader.lists.accept(world.cleo.user, answer)


def leaves_a_device_out_of_a_list(world: World, reader: Reader) -> None:
    answer = key_answer(world.cleo)
    reader.lists.accept(world.cleo.user, msgspec.structs.replace(answer, device_keys={}))


def shows_another_list_than_the_chain_names(world: World, reader: Reader) -> None:
    world.bob.list_version = ListVersion(2)
    reader.read(world.room.devices(world.bob, digest="A" * 43))
    reader.learn(world.bob)


def goes_back_to_an_older_list(world: World, reader: Reader) -> None:
    world.bob.list_version = ListVersion(3)
    reader.read(world.room.devices(world.bob))
    world.bob.list_version = ListVersion(2)
    reader.read(world.room.devices(world.bob))


def shows_another_identity(world: World, reader: Reader) -> None:
    reader.learn(world.bob.with_other_identity())


def lets_another_identity_join(world: World, reader: Reader) -> None:
    reader.learn(world.cleo)
    other = world.cleo.with_other_identity()
    reader.read(world.room.join(other, invited_by=world.ann))


# Administration

LINK, OTHER_LINK = b"l" * 32, b"m" * 32


def lets_a_banned_user_in_by_an_invitation(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.ann, Action.BAN, world.cleo))
    reader.read(world.room.join(world.cleo, invited_by=world.ann))


def lets_a_banned_member_back_in(world: World, reader: Reader) -> None:
    reader.read(world.room.link(world.ann, LINK), world.room.change(world.ann, Action.BAN, world.bob))
    reader.read(world.room.join_by(world.bob, LINK))


def lets_a_banned_user_in_by_a_link(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.ann, Action.BAN, world.cleo), world.room.link(world.ann, LINK))
    reader.read(world.room.join_by(world.cleo, LINK))


def lets_a_banned_user_into_a_listed_room(world: World, reader: Reader) -> None:
    reader.read(world.room.listing(world.ann, "Open"), world.room.change(world.ann, Action.BAN, world.cleo))
    reader.read(world.room.join_by(world.cleo, None))


def lets_somebody_in_by_an_expired_link(world: World, reader: Reader) -> None:
    link = world.room.link(world.ann, LINK, expires_at=1_000 + world.room.seq + 1)
    join = world.room.join_by(world.cleo, LINK)
    assert link.time + 1 == join.time
    reader.read(link, join)


def lets_more_in_by_a_link_than_it_is_good_for(world: World, reader: Reader) -> None:
    reader.read(world.room.link(world.ann, LINK, uses_max=1), world.room.join_by(world.cleo, LINK))
    reader.read(world.room.join_by(world.ghost, LINK))


def lets_somebody_in_by_a_revoked_link(world: World, reader: Reader) -> None:
    reader.read(world.room.link(world.ann, LINK), world.room.revocation(world.ann, LINK))
    reader.read(world.room.join_by(world.cleo, LINK))


def lets_somebody_in_by_a_link_of_another_room(world: World, reader: Reader) -> None:
    reader.read(world.room.link(world.ann, LINK))
    ForgedRoom(world.ann).link(world.ann, OTHER_LINK)
    reader.read(world.room.join_by(world.cleo, OTHER_LINK))


def says_that_somebody_had_a_link(world: World, reader: Reader) -> None:
    """It knows the link's public key, and has another one to sign with."""
    reader.read(world.room.link(world.ann, LINK))
    honest = world.room.signed_change(world.ghost, Action.JOIN, world.ghost, link=OTHER_LINK)
    assert honest.link is not None
    named = msgspec.structs.replace(honest, link=msgspec.structs.replace(honest.link, link=public_key(LINK)))
    reader.read(world.room.place(world.ghost, named, world.ghost))


def shows_anothers_proof_of_a_link(world: World, reader: Reader) -> None:
    reader.read(world.room.link(world.ann, LINK, uses_max=2))
    proof = world.room.signed_change(world.cleo, Action.JOIN, world.cleo, link=LINK).link
    join = world.room.signed_change(world.ghost, Action.JOIN, world.ghost)
    reader.read(world.room.place(world.ghost, msgspec.structs.replace(join, link=proof), world.ghost))


def shows_a_proof_of_a_link_for_another_device(world: World, reader: Reader) -> None:
    """By a device that the server added to the user's list, after the user had shown the link."""
    reader.read(world.room.link(world.ann, LINK, uses_max=2))
    join = world.room.signed_change(world.cleo, Action.JOIN, world.cleo, link=LINK)
    fake = Person("cleo", identity_seed=world.cleo.identity_seed)
    world.people[2] = fake
    reader.read(world.room.place(fake, msgspec.structs.replace(join, device=fake.device), fake))


def shows_a_proof_of_a_link_for_another_room(world: World, reader: Reader) -> None:
    reader.read(world.room.link(world.ann, LINK))
    other = ForgedRoom(world.ann)
    proof = other.signed_change(world.cleo, Action.JOIN, world.cleo, link=LINK).link
    join = world.room.signed_change(world.cleo, Action.JOIN, world.cleo)
    reader.read(world.room.place(world.cleo, msgspec.structs.replace(join, link=proof), world.cleo))


def lets_somebody_in_by_a_link_of_who_was_kicked(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN))
    reader.read(world.room.link(world.bob, LINK), world.room.change(world.ann, Action.KICK, world.bob))
    reader.read(world.room.join_by(world.cleo, LINK))


def lets_a_link_outlive_a_kick(world: World, reader: Reader) -> None:
    reader.read(world.room.link(world.ann, LINK), world.room.change(world.ann, Action.KICK, world.bob))
    reader.read(world.room.join_by(world.bob, LINK))


def makes_a_link_in_a_members_name(world: World, reader: Reader) -> None:
    reader.read(world.room.link(world.bob, LINK))


def makes_a_link_in_the_owners_name(world: World, reader: Reader) -> None:
    reader.read(world.room.link(world.ann.with_other_keys(), LINK))


def opens_a_link_again(world: World, reader: Reader) -> None:
    reader.read(world.room.link(world.ann, LINK), world.room.revocation(world.ann, LINK))
    reader.read(world.room.link(world.ann, LINK))


def ends_a_link_in_a_members_name(world: World, reader: Reader) -> None:
    reader.read(world.room.link(world.ann, LINK))
    reader.read(world.room.revocation(world.bob, LINK))


def ends_a_link_that_never_was(world: World, reader: Reader) -> None:
    reader.read(world.room.revocation(world.ann, LINK))


def hides_the_end_of_a_link_from_a_newcomer(world: World, reader: Reader) -> None:
    world.room.link(world.ann, LINK)
    revocation = world.room.revocation(world.ann, LINK)
    state = newcomer(world, reader, first_hidden=revocation.seq).verifier.state
    assert state is not None
    assert not state.links[public_key(LINK)].is_revoked


def lists_a_room_in_an_admins_name(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.ann, Action.ROLE, world.bob, role=RoomRole.ADMIN))
    reader.read(world.room.listing(world.bob, "Open to all"))


def lists_a_room_in_the_owners_name(world: World, reader: Reader) -> None:
    reader.read(world.room.listing(world.ann.with_other_keys(), "Open to all"))


def lets_somebody_into_a_room_that_is_listed_no_more(world: World, reader: Reader) -> None:
    reader.read(world.room.listing(world.ann, "Open"), world.room.listing(world.ann, ""))
    reader.read(world.room.join_by(world.cleo, None))


def hands_a_room_over_in_a_members_name(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.bob, Action.TRANSFER, world.ann))


def hands_a_room_over_to_somebody_outside(world: World, reader: Reader) -> None:
    reader.read(world.room.change(world.ann, Action.TRANSFER, world.cleo))


def hands_a_room_over_again(world: World, reader: Reader) -> None:
    transfer = world.room.change(world.ann, Action.TRANSFER, world.bob)
    reader.read(transfer, world.room.change(world.bob, Action.TRANSFER, world.ann), world.room.again(transfer))


# What has no content can be read by nobody: these pass nowhere, checked or not.
LIES_OF_FORM: list[tuple[Lies, Reason]] = [
    (withholds_the_content_of_a_change, Reason.CONTENT_WITHHELD_BY_SERVER),
    (shows_a_change_without_sense, Reason.MALFORMED_EVENT),
]
LIES: list[tuple[Lies, Reason, tuple[str, ...]]] = [
    (adds_a_member_itself, Reason.FORGED_MEMBERSHIP, ("check_form", "check_signature", "check_authority")),
    (adds_a_member_with_keys_of_its_own, Reason.FORGED_MEMBERSHIP, ("check_authority",)),
    (adds_a_member_with_a_forged_invitation, Reason.FORGED_MEMBERSHIP, ("check_authority",)),
    (adds_a_member_in_anothers_name, Reason.BAD_SIGNATURE, ("check_signature", "check_authority")),
    (promotes_a_member, Reason.FORGED_ROLE, ("check_authority",)),
    (promotes_by_itself, Reason.FORGED_ROLE, ("check_form", "check_signature", "check_authority")),
    (promotes_in_the_owners_name, Reason.BAD_SIGNATURE, ("check_signature",)),
    (promotes_again_with_what_was_signed_once, Reason.DUPLICATE_EVENT, ("check_not_repeated",)),
    (promotes_again_with_what_was_signed_long_ago, Reason.DUPLICATE_EVENT, ("check_not_repeated",)),
    (kicks_again_who_came_back, Reason.DUPLICATE_EVENT, ("check_not_repeated",)),
    (changes_the_policy_in_a_members_name, Reason.FORGED_POLICY, ("check_authority",)),
    (kicks_a_member_itself, Reason.FORGED_MEMBERSHIP, ("check_form", "check_signature", "check_authority")),
    (removes_somebody_who_never_was_inside, Reason.FORGED_MEMBERSHIP, ("check_authority",)),
    (removes_somebody_with_another_key, Reason.BAD_SIGNATURE, ("check_signature",)),
    (removes_somebody_with_a_removal_from_before, Reason.BAD_SIGNATURE, ("check_signature",)),
    (removes_another_than_it_signed, Reason.BAD_SIGNATURE, ("check_signature",)),
    (lets_a_device_remove_in_its_place, Reason.FORGED_MEMBERSHIP, ("check_authority",)),
    (removes_somebody_on_another_history, Reason.FORKED_HISTORY, ("check_claims",)),
    (shows_a_change_of_another_room, Reason.BAD_SIGNATURE, ("check_signature", "check_claims")),
    (shows_a_change_under_another_sender, Reason.BAD_SIGNATURE, ("check_signature",)),
    (shows_a_change_under_another_n, Reason.BAD_SIGNATURE, ("check_signature",)),
    (shows_a_change_of_another_target, Reason.BAD_SIGNATURE, ("check_signature",)),
    (shows_a_policy_with_a_target, Reason.BAD_SIGNATURE, ("check_signature",)),
    (shows_a_device_list_of_another_target, Reason.MALFORMED_EVENT, ("check_signature",)),
    (shows_a_change_with_a_messages_fields, Reason.MALFORMED_EVENT, ("check_signature",)),
    (adds_a_member_with_an_invitation_in_the_owners_name, Reason.BAD_SIGNATURE, ("check_signature",)),
    (sits_in_a_direct_room_of_two_others, Reason.FORGED_MEMBERSHIP, ("check_authority",)),
    (lets_an_invitation_outlive_a_kick, Reason.FORGED_MEMBERSHIP, ("check_authority",)),
    (alters_a_state_event, Reason.BAD_SIGNATURE, ("check_signature",)),
    (writes_a_state_event_in_another_form, Reason.MALFORMED_EVENT, ("check_signature",)),
    (hides_a_kick_from_a_newcomer, Reason.WRONG_PREVIOUS, ("check_previous",)),
    (hides_a_ban_from_a_newcomer, Reason.WRONG_PREVIOUS, ("check_previous",)),
    (hides_a_demotion_from_a_newcomer, Reason.WRONG_PREVIOUS, ("check_previous",)),
    (hides_a_policy_from_a_newcomer, Reason.WRONG_PREVIOUS, ("check_previous",)),
    (hides_a_device_list_from_a_newcomer, Reason.WRONG_PREVIOUS, ("check_previous",)),
    (hides_a_kick_from_who_comes_back, Reason.WRONG_PREVIOUS, ("check_previous",)),
    (makes_up_a_device_list_for_a_newcomer, Reason.WRONG_PREVIOUS, ("check_previous",)),
    (names_a_message_as_the_state_event_before, Reason.WRONG_PREVIOUS, ("check_previous",)),
    (names_an_older_state_event_before_a_policy, Reason.WRONG_PREVIOUS, ("check_previous",)),
    (names_an_older_state_event_before_a_device_list, Reason.WRONG_PREVIOUS, ("check_previous",)),
    (names_a_state_event_to_come, Reason.MALFORMED_EVENT, ("check_signature", "check_previous")),
    (alters_what_stood_before, Reason.FORKED_HISTORY, ("check_claims",)),
    (drops_an_event, Reason.MISSING_EVENT, ("check_order",)),
    (drops_an_event_and_numbers_anew, Reason.FORKED_HISTORY, ("check_claims",)),
    (hides_an_event_from_a_member, Reason.MISSING_EVENT, ("check_gap",)),
    (swaps_two_events_and_numbers_anew, Reason.FORKED_HISTORY, ("check_claims",)),
    (begins_a_generation_twice, Reason.GENERATION_WENT_BACK, ("check_generation",)),
    (begins_an_older_generation, Reason.GENERATION_WENT_BACK, ("check_generation",)),
    (begins_a_generation_with_another_key, Reason.BAD_SIGNATURE, ("check_signature",)),
    (begins_a_generation_that_was_signed_for_another_place, Reason.BAD_SIGNATURE, ("check_signature",)),
    (is_restored_behind_another_history, Reason.FORKED_HISTORY, ("check_restoration",)),
    (shows_an_older_event_after_a_newer, Reason.REORDERED_EVENT, ("check_order", "check_time")),
    (repeats_an_event, Reason.DUPLICATE_EVENT, ("check_order",)),
    (shows_two_histories, Reason.FORKED_HISTORY, ("check_claims",)),
    (shows_two_histories_inside_messages, Reason.FORKED_HISTORY, ("check_head_claim",)),
    (acks_a_message_and_shows_another, Reason.FORKED_HISTORY, ("check_ack",)),
    (acks_a_message_after_it_showed_another, Reason.FORKED_HISTORY, ("check_shown",)),
    (acks_a_message_at_another_place, Reason.FORKED_HISTORY, ("check_ack",)),
    (shows_another_event_again, Reason.FORKED_HISTORY, ("check_known",)),
    (erases_a_message_and_names_nothing, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_explanation",)),
    (erases_a_message_after_the_removal, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_explanation",)),
    (erases_a_message_and_names_a_removal_that_is_none, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_promise",)),
    (erases_a_message_and_names_a_kick, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_promise",)),
    (erases_a_message_for_an_account_that_was_locked, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_promise",)),
    (erases_the_removal_that_it_named, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_explanation",)),
    (erases_another_message_than_it_acked, Reason.FORKED_HISTORY, ("check_ack",)),
    (erases_another_message_than_it_showed, Reason.FORKED_HISTORY, ("check_known",)),
    (withholds_a_message, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_withheld",)),
    (deletes_a_message_itself, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_owed",)),
    (deletes_a_message_and_names_a_deletion_before_it, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_withheld",)),
    (deletes_a_message_and_shows_the_deletion_of_another, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_owed",)),
    (deletes_two_messages_with_one_deletion, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_withheld",)),
    (deletes_a_message_by_a_deletion_for_another_sender, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_owed",)),
    (deletes_a_message_in_its_senders_name, Reason.BAD_SIGNATURE, ("check_signature",)),
    (deletes_a_message_by_somebody_who_may_not, Reason.FORGED_DELETION, ("check_authority",)),
    (deletes_a_message_by_somebody_outside, Reason.FORGED_DELETION, ("check_authority",)),
    (deletes_another_message_than_it_showed, Reason.FORKED_HISTORY, ("check_claims", "check_target")),
    (deletes_again_with_what_was_signed_once, Reason.DUPLICATE_EVENT, ("check_not_repeated",)),
    (hides_the_deletion_that_it_named, Reason.MISSING_EVENT, ("check_hidden",)),
    (calls_a_message_older_than_it_is, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_horizon",)),
    (calls_one_message_old_and_shows_another, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_above_horizon",)),
    (calls_one_message_old_and_shows_another_as_old, Reason.CONTENT_WITHHELD_BY_SERVER, ("check_above_horizon",)),
    (signs_a_horizon_with_another_key, Reason.BAD_SIGNATURE, ("check_mark",)),
    (shows_another_head_at_the_horizon, Reason.FORKED_HISTORY, ("check_horizon",)),
    (puts_time_back, Reason.TIME_WENT_BACK, ("check_time",)),
    (takes_a_message_from_a_stranger, Reason.UNAUTHORIZED_MEMBER, ("check_sender",)),
    (takes_a_message_from_who_was_kicked, Reason.UNAUTHORIZED_MEMBER, ("check_sender",)),
    (takes_a_message_for_an_older_device_set, Reason.WRONG_EPOCH, ("check_epoch",)),
    (hands_out_another_key_under_a_known_device, Reason.DEVICE_KEY_CHANGED, ("check_keys_unchanged",)),
    (hands_out_keys_that_the_device_did_not_sign, Reason.BAD_SIGNATURE, ("check_own_signature",)),
    (leaves_a_device_out_of_a_list, Reason.DEVICE_LIST_MISMATCH, ("check_digest",)),
    (shows_another_list_than_the_chain_names, Reason.DEVICE_LIST_MISMATCH, ("check_named_digest",)),
    (goes_back_to_an_older_list, Reason.DEVICE_LIST_MISMATCH, ("check_device_list",)),
    (shows_another_identity, Reason.IDENTITY_CHANGED, ("check_identity",)),
    (lets_a_banned_user_in_by_an_invitation, Reason.BANNED_MEMBER, ("check_authority",)),
    (lets_a_banned_member_back_in, Reason.BANNED_MEMBER, ("check_authority",)),
    (lets_a_banned_user_in_by_a_link, Reason.BANNED_MEMBER, ("check_authority",)),
    (lets_a_banned_user_into_a_listed_room, Reason.BANNED_MEMBER, ("check_authority",)),
    (lets_somebody_in_by_an_expired_link, Reason.VOID_LINK, ("check_authority",)),
    (lets_more_in_by_a_link_than_it_is_good_for, Reason.VOID_LINK, ("check_authority",)),
    (lets_somebody_in_by_a_revoked_link, Reason.VOID_LINK, ("check_authority",)),
    (lets_somebody_in_by_a_link_of_another_room, Reason.VOID_LINK, ("check_authority",)),
    (says_that_somebody_had_a_link, Reason.BAD_SIGNATURE, ("check_signature",)),
    (shows_anothers_proof_of_a_link, Reason.BAD_SIGNATURE, ("check_signature",)),
    (shows_a_proof_of_a_link_for_another_device, Reason.BAD_SIGNATURE, ("check_signature",)),
    (shows_a_proof_of_a_link_for_another_room, Reason.BAD_SIGNATURE, ("check_signature",)),
    (lets_somebody_in_by_a_link_of_who_was_kicked, Reason.FORGED_MEMBERSHIP, ("check_authority",)),
    (lets_a_link_outlive_a_kick, Reason.FORGED_MEMBERSHIP, ("check_authority",)),
    (makes_a_link_in_a_members_name, Reason.FORGED_LINK, ("check_authority",)),
    (makes_a_link_in_the_owners_name, Reason.BAD_SIGNATURE, ("check_signature",)),
    (opens_a_link_again, Reason.FORGED_LINK, ("check_authority",)),
    (ends_a_link_in_a_members_name, Reason.FORGED_LINK, ("check_authority",)),
    (ends_a_link_that_never_was, Reason.FORGED_LINK, ("check_authority",)),
    (hides_the_end_of_a_link_from_a_newcomer, Reason.WRONG_PREVIOUS, ("check_previous",)),
    (lists_a_room_in_an_admins_name, Reason.FORGED_LISTING, ("check_authority",)),
    (lists_a_room_in_the_owners_name, Reason.BAD_SIGNATURE, ("check_signature",)),
    (lets_somebody_into_a_room_that_is_listed_no_more, Reason.FORGED_MEMBERSHIP, ("check_authority",)),
    (hands_a_room_over_in_a_members_name, Reason.FORGED_ROLE, ("check_authority",)),
    (hands_a_room_over_to_somebody_outside, Reason.FORGED_ROLE, ("check_authority",)),
    (hands_a_room_over_again, Reason.DUPLICATE_EVENT, ("check_not_repeated",)),
    (lets_another_identity_join, Reason.IDENTITY_CHANGED, ("check_identities", "check_identity")),
]
