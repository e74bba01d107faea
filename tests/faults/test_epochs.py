"""What epochs.py looks for is found in histories that were made up for it, and nothing in a sound one."""

from collections.abc import Callable, Sequence
from typing import Any

import httpx
import msgspec
import pytest

from chatty.crypto.signatures import public_key
from chatty.ids import DeviceId, ListVersion, SendNumber, Seq
from chatty.wire import chain
from chatty.wire.canonical import decode_base64, encode_base64
from chatty.wire.events import (
    MEGOLM,
    REMOVALS,
    Action,
    CreateContent,
    DevicesContent,
    Invitation,
    Kind,
    MemberChange,
    MemberContent,
    Policy,
    SignedInvitation,
    TimelineEvent,
)
from chatty.wire.frames import Gap, Send
from chatty.wire.signing import body_bytes
from tests.faults.churn import is_one_outcome
from tests.faults.epochs import (
    KnownList,
    Name,
    Revocation,
    authority_faults,
    change_faults,
    epoch_faults,
    revocation_faults,
    sight_faults,
    visible_to,
)
from tests.faults.ledger import Sending, heads_of
from tests.olm_devices import OlmDevice
from tests.people import Person
from tests.server.wire_people import ORIGIN, SERVER_NAME, WireDevice


def unregistered(name: str, device: str) -> WireDevice:
    """It signs, and asks no server."""
    http = httpx.AsyncClient(verify=False)
    person = Person(http=http, name=name, server_name=SERVER_NAME, origin=ORIGIN)
    olm = OlmDevice(user=person.user, device=DeviceId(device))
    return WireDevice(http=http, person=person, identity_key=public_key(bytes(32)), olm=olm, tokens={})


ANN, BEN, PHONE = unregistered("ann", "ANNLAPTOP"), unregistered("ben", "BENLAPTOP"), unregistered("ben", "BENPHONE1")


def known(version: int, *devices: WireDevice, answered_at: float) -> KnownList:
    keys = frozenset((one.device, one.olm.curve25519, one.olm.ed25519) for one in devices)
    return KnownList(version=ListVersion(version), devices=keys, answered_at=answered_at)


LISTS = {
    ANN.user: [known(1, ANN, answered_at=1)],
    BEN.user: [known(1, BEN, answered_at=1), known(2, BEN, PHONE, answered_at=10), known(3, BEN, answered_at=20)],
}


class Timeline:
    """A room of Ann's, made event by event."""

    def __init__(self) -> None:
        creation: dict[str, Any] = ANN.creation(Policy())["body"]
        create = msgspec.convert(creation["create"]["signed"], CreateContent)
        self.room = chain.room_id(body_bytes(create))
        self.events: list[TimelineEvent] = []
        self.state_seq = Seq(0)
        self.sendings: list[Sending] = []
        self._add(Kind.CREATE, create, by=ANN, n=create.n, signature=creation["create"]["signature"])
        self._member(msgspec.convert(creation["members"][0]["signed"], MemberChange), by=ANN)

    def _add(self, kind: Kind, content: Any, *, by: WireDevice | None, signature: str = "", **more: Any) -> None:
        if by is not None:
            more |= {"sender": by.user, "device": by.device, "signature": decode_base64(signature)}
        seq = self.state_seq = Seq(len(self.events) + 1)
        self.events.append(TimelineEvent(room=self.room, seq=seq, time=1, kind=kind, body=body_bytes(content), **more))

    def _member(self, change: MemberChange, *, by: WireDevice, digest: str | None = None) -> None:
        content = MemberContent(signed=change, previous=self.state_seq)
        if change.action not in REMOVALS:
            named = LISTS[change.target][0]
            content = msgspec.structs.replace(content, list_version=named.version, list_digest=digest or named.digest)
        self._add(Kind.MEMBER, content, by=by, n=change.n, signature=by.sign(change), target=change.target)

    def join(self, who: WireDevice, *, digest: str | None = None) -> None:
        """Invited by Ann, with the list of the beginning."""
        beginning = (Seq(0), chain.empty_head(self.room))
        invitation = Invitation(
            domain="chatty.invitation.v1",
            server=SERVER_NAME,
            room=self.room,
            sender=ANN.user,
            device=ANN.device,
            target=who.user,
            target_identity=who.identity_key,
            last_seq=Seq(len(self.events)),
            last_head=encode_base64(beginning[1]),
            n=ANN.take_n(),
        )
        signed = SignedInvitation(signed=invitation, signature=ANN.sign(invitation))
        self._member(who.change(self.room, Action.JOIN, who, beginning, invitation=signed), by=who, digest=digest)

    def remove(self, target: WireDevice, *, by: WireDevice) -> None:
        action = Action.LEAVE if by is target else Action.KICK
        self._member(by.change(self.room, action, target, (Seq(0), chain.empty_head(self.room))), by=by)

    def devices(self, who: WireDevice, version: int, *, digest: str | None = None, previous: int | None = None) -> None:
        content = DevicesContent(
            user=who.user,
            list_version=ListVersion(version),
            list_digest=digest or LISTS[who.user][version - 1].digest,
            previous=self.state_seq if previous is None else Seq(previous),
        )
        self._add(Kind.DEVICES, content, by=None, target=who.user)

    def message(self, by: WireDevice, *, epoch: int, sent_at: float) -> None:
        n = by.take_n()
        request = Send(
            id=1,
            n=n,
            low=SendNumber(1),
            room=self.room,
            epoch=Seq(epoch),
            algorithm="m.megolm.v1.aes-sha2",
            session_id="S",
            body=b"body",
        )
        self.sendings.append(Sending(device=by.device, request=request, sent_at=sent_at))
        self.events.append(
            TimelineEvent(
                room=self.room,
                seq=Seq(len(self.events) + 1),
                time=1,
                kind=Kind.MESSAGE,
                sender=by.user,
                device=by.device,
                n=n,
                algorithm=MEGOLM,
                session_id="S",
                epoch=Seq(epoch),
                body=b"body",
            )
        )

    def faults(self) -> list[str]:
        keys = {(one.user, one.device): one.olm.ed25519 for one in (ANN, BEN, PHONE)}
        gone = Revocation(device=PHONE.device, answered_at=20, heads={self.room: Seq(6)})
        return [
            *epoch_faults(self.events, self.sendings, LISTS),
            *revocation_faults(self.room, self.events, self.sendings, [gone]),
            *authority_faults(
                self.events, server=SERVER_NAME, device_key=lambda user, device: keys.get((user, device))
            ),
        ]


def sound() -> Timeline:
    """Ben's phone comes and goes, then Ben is kicked."""
    made = Timeline()
    made.join(BEN)
    made.message(ANN, epoch=3, sent_at=5)
    made.devices(BEN, 2)
    made.message(PHONE, epoch=5, sent_at=20)
    made.devices(BEN, 3)
    made.message(ANN, epoch=7, sent_at=25)
    made.remove(BEN, by=ANN)
    made.message(ANN, epoch=9, sent_at=30)
    return made


def test_a_sound_timeline_has_no_faults() -> None:
    assert sound().faults() == []


def test_a_list_whose_upload_was_not_answered_yet_need_not_be_named() -> None:
    made = Timeline()
    made.join(BEN)
    made.message(ANN, epoch=3, sent_at=9)
    made.message(ANN, epoch=3, sent_at=10)  # at that very moment: nobody can tell which was first
    made.devices(BEN, 2)
    made.message(ANN, epoch=6, sent_at=0)  # before any answer, and it waited long
    made.message(ANN, epoch=6, sent_at=9)
    assert made.faults() == []


def removed_writes(made: Timeline) -> None:
    made.message(BEN, epoch=9, sent_at=40)


def old_epoch(made: Timeline) -> None:
    made.message(ANN, epoch=7, sent_at=40)


def phone_left_out(made: Timeline) -> None:
    made.join(BEN)
    made.message(ANN, epoch=11, sent_at=15)


def phone_still_named(made: Timeline) -> None:
    made.join(BEN)
    made.devices(BEN, 2)
    made.message(ANN, epoch=12, sent_at=40)


def joined_with_another_list(made: Timeline) -> None:
    made.join(BEN, digest=LISTS[BEN.user][1].digest)


def another_list(made: Timeline) -> None:
    made.join(BEN)
    made.devices(BEN, 3, digest=LISTS[BEN.user][1].digest)


def list_of_nobody(made: Timeline) -> None:
    made.join(BEN)
    made.devices(BEN, 4, digest=LISTS[BEN.user][1].digest)


def another_previous(made: Timeline) -> None:
    made.join(BEN)
    made.devices(BEN, 2, previous=9)


def revoked_writes(made: Timeline) -> None:
    made.join(BEN)
    made.devices(BEN, 3)
    made.message(PHONE, epoch=12, sent_at=21)


def revoked_comes_late(made: Timeline) -> None:
    made.join(BEN)
    made.devices(BEN, 3)
    made.message(PHONE, epoch=12, sent_at=19)


def member_kicks_owner(made: Timeline) -> None:
    made.join(BEN)
    made.remove(ANN, by=BEN)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (removed_writes, "at 11: @ben:localhost is no member"),
        (old_epoch, "at 11 names the epoch 7, the room's is 9"),
        (phone_left_out, "at 12: the epoch 11 leaves out BENPHONE1 of @ben:localhost"),
        (phone_still_named, "at 13: the epoch 12 still names BENPHONE1 of @ben:localhost"),
        (joined_with_another_list, "list 1 of @ben:localhost at 11 is not what was uploaded"),
        (another_list, "list 3 of @ben:localhost at 12 is not what was uploaded"),
        (list_of_nobody, "list 4 of @ben:localhost at 12 is not what was uploaded"),
        (another_previous, "devices at 12 names 9 as the state event before it, which stands at 11"),
        (revoked_writes, "at 13 was sent after the revocation"),
        (revoked_comes_late, "at 13 was committed after the revocation"),
        (member_kicks_owner, "member at 12: forbidden"),
    ],
)
def test_each_wrong_event_is_found(spoil: Callable[[Timeline], None], found: str) -> None:
    made = sound()
    spoil(made)
    assert any(found in fault for fault in made.faults())


def test_changes_must_stand_where_they_were_committed_and_nowhere_if_refused() -> None:
    made = sound()
    kick = made.events[8]
    name: Name = (kick.device, kick.n)
    assert list(change_faults(made.events, {name: Seq(9)}, {("OTHER", 1): "forbidden"})) == []
    assert list(change_faults(made.events, {name: Seq(8)}, {})) == [
        f"the change {name} was committed at 8 and stands at 9"
    ]
    assert list(change_faults(made.events, {("OTHER", 1): Seq(8)}, {})) == [
        "the change ('OTHER', 1) was committed at 8 and stands at None"
    ]
    assert list(change_faults(made.events, {}, {name: "forbidden"})) == [
        f"the change {name} was refused (forbidden) and stands at 9"
    ]
    assert list(change_faults([*made.events, kick], {name: Seq(9)}, {})) == [f"the change {name} is there 2 times"]


# What Ben may see: all state, no message from before the join, nothing behind the kick.


def bens(made: Timeline, *seqs: int) -> list[str]:
    entries = [made.events[seq - 1] for seq in seqs]
    heads = heads_of(made.room, made.events)
    return sight_faults(made.room, BEN.user, entries, history=made.events, heads=heads)


def test_a_reader_is_given_its_own_time_to_its_end() -> None:
    made, early = sound(), Timeline()
    early.message(ANN, epoch=2, sent_at=5)
    early.join(BEN)
    assert [event.seq for event in visible_to(BEN.user, early.events)] == [1, 2, 4]
    made.message(ANN, epoch=9, sent_at=35)
    assert [event.seq for event in visible_to(BEN.user, made.events)] == list(range(1, 10))
    assert bens(made, *range(1, 10)) == []
    assert bens(made, *range(1, 9)) == ["read up to 8 of 9", "was not given [9]"]
    assert bens(made, *range(1, 11)) == ["read up to 10 of 9", "was given [10], which are not for @ben:localhost"]


def test_a_gap_hides_what_is_not_for_the_reader_and_nothing_else() -> None:
    made = sound()
    made.join(BEN)
    heads = heads_of(made.room, made.events)

    def seen(entries: Sequence[TimelineEvent | Gap], *, is_whole: bool = True) -> list[str]:
        return sight_faults(made.room, BEN.user, entries, history=made.events, heads=heads, is_whole=is_whole)

    def gap(from_seq: int, to_seq: int) -> Gap:
        return Gap(room=made.room, from_seq=Seq(from_seq), to_seq=Seq(to_seq), head=heads[Seq(to_seq)])

    assert seen([*made.events[:9], gap(10, 10), made.events[10]]) == []
    assert seen([*made.events[:7], gap(8, 8), made.events[8], gap(10, 10), made.events[10]]) == ["was not given [8]"]
    assert seen(made.events) == ["was given [10], which are not for @ben:localhost"]
    assert seen(made.events[:6], is_whole=False) == []
    assert seen([*made.events[:4], gap(5, 5), made.events[5]], is_whole=False) != []


@pytest.mark.parametrize(
    ("outcomes", "is_one"),
    [
        ([9], True),
        ([9, 9], True),
        ([9, 8], False),
        ([9, "forbidden"], False),
        ([9, "not_found"], False),
        (["forbidden", "forbidden"], True),
        (["forbidden", "not_a_member"], False),
        (["forbidden", "not_found"], True),
        (["not_found", "not_found"], True),
    ],
)
def test_copies_of_one_request_have_one_outcome(outcomes: list[object], is_one: bool) -> None:
    assert is_one_outcome(outcomes) is is_one
