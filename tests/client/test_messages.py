"""What a reader believes of a message: each lie is caught under its name, and passes without its check. Real Olm and Megolm."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chatty.client.details import Carried, Details
from chatty.client.device_lists import DeviceLists, KnownDevice
from chatty.client.mailbox import MailboxIntake
from chatty.client.megolm import MegolmSessions, rotation_messages
from chatty.client.messages import MessageReader, SessionOwner, Writing, clock_slack_ms, new_mid, plaintext_bytes
from chatty.client.olm import OlmAccount, OlmPayload, PayloadChecks, RoomKeyContent
from chatty.client.pending import MessageIntake
from chatty.client.reasons import KeysNeeded, Lie, Reason, Unreadable
from chatty.client.rooms import Position, RoomVerifier
from chatty.client.store import LocalStore
from chatty.client.updates import Expired, Message, Undecryptable, Update
from chatty.crypto.events import no_server_key
from chatty.ids import DeviceId, MailboxId, RoomId, SendNumber, Seq, UserId
from chatty.wire import chain
from chatty.wire.events import MEGOLM, Kind, TimelineEvent
from chatty.wire.frames import Mailbox
from chatty.wire.keys import OlmContent

ROOM = RoomId("!" + "R" * 43)
EPOCH = Seq(2)


class Device:
    """One device's cryptography over its own store, with everything it was told in `told`."""

    def __init__(self, name: str, folder: Path, *, reader: MessageReader | None = None) -> None:
        self.user = UserId(f"@{name}:example.org")
        self.device = DeviceId(f"DEVICE{name}")
        self.store = LocalStore(folder / name, key=b"k" * 32)
        self.olm = OlmAccount(self.store, user=self.user, device=self.device)
        self.owner = SessionOwner(
            user=self.user, device=self.device, ed25519=self.olm.ed25519, curve25519=self.olm.curve25519
        )
        self.megolm = MegolmSessions(self.store, own=self.owner)
        self.lists = DeviceLists({}, save=lambda user, keys: None)
        self.told: list[Update] = []
        self.now_s = 1_000.0
        self.details = Details(self.store, tell=self.told.append)
        self.messages = MessageIntake(
            self.store,
            megolm=self.megolm,
            tell=self.told.append,
            forget=self.forget,
            details=self.details,
            reader=reader,
            now_s=lambda: self.now_s,
        )
        self.mailbox = self.make_mailbox(PayloadChecks(user=self.user, ed25519=self.olm.ed25519))
        self.verifier = RoomVerifier(
            ROOM, me=self.user, server="example.org", lists=self.lists, server_key=no_server_key
        )
        self.sent = 0

    def forget(self, room: RoomId, seq: Seq) -> None:
        self.told[:] = [one for one in self.told if not isinstance(one, Message) or (one.room, one.seq) != (room, seq)]

    def make_mailbox(self, checks: PayloadChecks) -> MailboxIntake:
        return MailboxIntake(
            self.store, olm=self.olm, megolm=self.megolm, lists=self.lists, checks=checks, messages=self.messages
        )

    @property
    def known(self) -> KnownDevice:
        return KnownDevice(device=self.device, ed25519=self.olm.ed25519, curve25519=self.olm.curve25519)

    def meet(self, other: "Device") -> None:
        self.lists.know_own(other.user, other.known)

    def encrypt(self, text: str, **changes: Any) -> TimelineEvent:
        """A message as it stands in the timeline; changes: what the plaintext says instead."""
        self.sent += 1
        said: dict[str, Any] = {
            "room": ROOM,
            "writing": Writing(text=text, mid=new_mid()),
            "n": SendNumber(self.sent),
            "epoch": EPOCH,
            "expiry": 0,
            "carried": Carried(),
            "position": Position(seq=Seq(0), head=chain.empty_head(ROOM)),
            "sender": self.user,
            "device": self.device,
        } | changes
        self.megolm.room_key(ROOM, recipients=[], removed_seq=Seq(0))
        session_id, body = self.megolm.encrypt(ROOM, plaintext_bytes(**said), epoch=EPOCH)
        return TimelineEvent(
            room=ROOM,
            seq=Seq(10 + self.sent),
            time=1,
            kind=Kind.MESSAGE,
            sender=self.user,
            device=self.device,
            n=SendNumber(self.sent),
            algorithm=MEGOLM,
            session_id=session_id,
            epoch=EPOCH,
            expiry=said["expiry"],
            body=body,
        )

    def room_key_for(self, other: "Device", *, recipient: UserId | None = None, n: int = 1) -> Mailbox:
        """The mailbox row that gives `other` the key of the present session."""
        if not self.olm.can_send(other.known):
            keys = other.olm.one_time_keys(on_server_count=0)
            self.olm.start_session(other.user, other.known, next(iter(keys.values())))
        key = self.megolm.room_key(ROOM, recipients=[], removed_seq=Seq(0))
        content = RoomKeyContent(algorithm=MEGOLM, room_id=ROOM, session_id=key.session_id, session_key=key.session_key)
        encrypted = self.olm.encrypt_room_key(recipient or other.user, other.known, content)
        return Mailbox(
            id=MailboxId(n),
            sender=self.user,
            sender_device=self.device,
            n=SendNumber(n),
            kind="m.room.encrypted",
            content=encrypted,
        )

    def take_row(self, row: Mailbox) -> bool:
        """True: a key came."""
        arrived = self.mailbox.take(row, keys_are_fresh=True)
        if arrived is not None:
            self.messages.retry(self.verifier, arrived[1])
        return arrived is not None

    def reasons(self) -> list[Reason]:
        return [update.reason for update in self.told if isinstance(update, Undecryptable)]

    def texts(self) -> list[str]:
        return [update.text for update in self.told if isinstance(update, Message)]


def removed(check: str, result: Any = None) -> MessageReader:
    """A reader without this check."""
    reader = MessageReader()
    setattr(reader, check, lambda *_, **__: result)
    return reader


MakeDevice = Callable[..., Device]


@pytest.fixture
def make_device(tmp_path: Path) -> Iterator[MakeDevice]:
    made: list[Device] = []

    def make(name: str, *, reader: MessageReader | None = None) -> Device:
        device = Device(name, tmp_path, reader=reader)
        for other in made:
            device.meet(other)
            other.meet(device)
        made.append(device)
        return device

    yield make
    for device in made:
        device.store.close()


def test_a_message_is_read_with_the_key_that_came_over_olm(make_device: MakeDevice) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    row = ann.room_key_for(bob)
    event = ann.encrypt("hello")
    assert bob.take_row(row)
    bob.messages.take(bob.verifier, event)
    assert bob.texts() == ["hello"]


def test_a_message_waits_for_its_key_and_is_reported_after_ten_seconds(make_device: MakeDevice) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    row = ann.room_key_for(bob)
    bob.messages.take(bob.verifier, ann.encrypt("late"))
    bob.now_s += 9.9
    bob.messages.report_overdue()
    assert bob.told == []
    bob.now_s += 0.2
    bob.messages.report_overdue()
    bob.messages.report_overdue()
    assert bob.reasons() == [Reason.NO_KEY_YET]
    assert bob.take_row(row)
    assert bob.texts() == ["late"]


def test_a_key_that_was_withheld_is_named_as_such(make_device: MakeDevice) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    event = ann.encrypt("not for bob")
    bob.messages.take(bob.verifier, event)
    bob.messages.note_withheld(ROOM, event.session_id, "m.unauthorised")
    bob.now_s += 11
    bob.messages.report_overdue()
    assert bob.reasons() == [Reason.WITHHELD]


def test_who_comes_later_gets_nothing_older(make_device: MakeDevice) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    before = ann.encrypt("before bob came")
    bob.take_row(ann.room_key_for(bob))
    bob.messages.take(bob.verifier, before)
    bob.messages.take(bob.verifier, ann.encrypt("after"))
    assert bob.texts() == ["after"]


def altered(event: TimelineEvent, **changes: Any) -> TimelineEvent:
    return msgspec.structs.replace(event, **changes)


def damaged(event: TimelineEvent) -> TimelineEvent:
    assert event.body is not None
    return altered(event, body=event.body[:30] + bytes([event.body[30] ^ 1]) + event.body[31:])


LIES: list[tuple[str, Callable[[TimelineEvent], list[TimelineEvent]], Reason, str, Any]] = [
    ("damages the ciphertext", lambda event: [damaged(event)], Reason.ALTERED_EVENT, "", None),
    ("alters n", lambda event: [altered(event, n=9)], Reason.ALTERED_EVENT, "check_envelope", None),
    ("alters the epoch", lambda event: [altered(event, epoch=9)], Reason.ALTERED_EVENT, "check_envelope", None),
    ("adds an expiry", lambda event: [altered(event, expiry=9_000_000)], Reason.ALTERED_EVENT, "check_envelope", None),
    ("adds a target", lambda event: [altered(event, target="$x")], Reason.ALTERED_EVENT, "check_envelope", None),
    (
        "names another sender",
        lambda event: [altered(event, sender="@cleo:example.org", device="DEVICEcleo")],
        Reason.WRONG_SESSION_OWNER,
        "check_owner check_envelope",
        None,
    ),
    (
        "repeats a ciphertext at another place",
        lambda event: [event, altered(event, seq=event.seq + 1)],
        Reason.REPLAYED,
        "check_replay check_mid",
        True,
    ),
    ("withholds the body", lambda event: [altered(event, body=None)], Reason.CONTENT_WITHHELD_BY_SERVER, "", None),
]


@pytest.mark.parametrize(
    ("lie", "reason", "check"), [(lie[1], lie[2], lie[3:]) for lie in LIES], ids=[x[0] for x in LIES]
)
def test_a_lie_about_a_message(
    lie: Callable[[TimelineEvent], list[TimelineEvent]], reason: Reason, check: tuple[str, Any], make_device: MakeDevice
) -> None:
    checks, result = check
    weak = MessageReader()
    for name in checks.split():
        setattr(weak, name, lambda *_, **__: result)
    ann, bob, careless = make_device("ann"), make_device("bob"), make_device("cal", reader=weak)
    for n, reader in enumerate((bob, careless), start=1):
        reader.take_row(ann.room_key_for(reader, n=n))
    shown = lie(ann.encrypt("pay Dora 10"))
    for event in shown:
        bob.messages.take(bob.verifier, event)
        careless.messages.take(careless.verifier, event)
    assert bob.reasons() == [reason]
    assert len(bob.texts()) == len(shown) - 1
    if checks:
        assert careless.texts() == ["pay Dora 10"] * len(shown)  # without the check nobody notices


def test_a_fork_is_seen_inside_a_message(make_device: MakeDevice) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    bob.take_row(ann.room_key_for(bob))
    event = ann.encrypt("x", position=Position(seq=Seq(0), head=b"another head of this room......."))
    with pytest.raises(Lie) as caught:
        bob.messages.take(bob.verifier, event)
    assert caught.value.reason is Reason.FORKED_HISTORY


def test_a_second_mid_is_dropped_in_silence(make_device: MakeDevice) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    bob.take_row(ann.room_key_for(bob))
    writing = Writing(text="once", mid="m")
    for event in (ann.encrypt("once", writing=writing), ann.encrypt("once", writing=writing)):
        bob.messages.take(bob.verifier, event)
    assert bob.texts() == ["once"]
    assert bob.reasons() == []


def test_a_key_made_for_somebody_else_is_not_taken(make_device: MakeDevice) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    assert not bob.take_row(ann.room_key_for(bob, recipient=UserId("@cleo:example.org")))


def test_a_key_in_anothers_name_is_not_taken(make_device: MakeDevice) -> None:
    ann, bob, eve = make_device("ann"), make_device("bob"), make_device("eve")
    row = eve.room_key_for(bob)
    assert not bob.take_row(msgspec.structs.replace(row, sender=ann.user, sender_device=ann.device))


@pytest.mark.parametrize(
    ("named", "is_believed"),
    [({}, True), ({"sender_device": "DEVICEann"}, True), ({"sender_device": "OTHER"}, False), ({"keys": {}}, False)],
)
def test_where_no_device_is_named_its_keys_name_it(
    named: dict[str, Any], is_believed: bool, make_device: MakeDevice
) -> None:
    """OlmMachine writes sender_device_keys in place of sender_device."""
    ann, bob = make_device("ann"), make_device("bob")
    written = bob.olm.decrypt(msgspec.convert(ann.room_key_for(bob).content, OlmContent))
    fields = msgspec.to_builtins(written) | {"sender_device": None, "sender_device_keys": {}} | named
    payload = msgspec.convert(fields, OlmPayload)
    checks = PayloadChecks(user=bob.user, ed25519=bob.olm.ed25519)
    with nullcontext() if is_believed else pytest.raises(Unreadable):
        checks.check(payload, sender=ann.user, known=ann.known, sender_key=ann.olm.curve25519)


class Careless(PayloadChecks):
    """A client that checks nothing of an Olm payload."""

    def check_sender_key(self, known: KnownDevice, sender_key: str) -> None: ...
    def check_sender(self, payload: OlmPayload, sender: UserId, known: KnownDevice) -> None: ...
    def check_recipient(self, payload: OlmPayload) -> None: ...


class Impostor(OlmAccount):
    """Olm binds no identities: inside its messages one may say to be whoever one likes."""

    def __init__(self, own: Device, claimed: Device) -> None:
        super().__init__(own.store, user=claimed.user, device=claimed.device)
        self._claimed = claimed.olm

    @property
    def ed25519(self) -> str:
        return self._claimed.ed25519


def key_in_anothers_name(ann: Device, bob: Device, eve: Device) -> Mailbox:
    eve.olm = Impostor(eve, ann)
    return msgspec.structs.replace(eve.room_key_for(bob), sender=ann.user, sender_device=ann.device)


KEY_LIES: list[tuple[str, Callable[[Device, Device, Device], Mailbox], set[str]]] = [
    (
        "made for somebody else",
        lambda ann, bob, eve: ann.room_key_for(bob, recipient=eve.user),
        {"check_recipient"},
    ),
    (
        "passed on by another as its own",
        lambda ann, bob, eve: msgspec.structs.replace(ann.room_key_for(bob), sender=eve.user, sender_device=eve.device),
        {"check_sender_key", "check_sender"},
    ),
    (
        "in another person's name",
        lambda ann, bob, eve: msgspec.structs.replace(ann.room_key_for(bob), sender=eve.user),
        {"check_sender"},
    ),
    ("said to be another's by its maker", key_in_anothers_name, {"check_sender_key"}),
]


@pytest.mark.parametrize(("lie", "checks"), [lie[1:] for lie in KEY_LIES], ids=[lie[0] for lie in KEY_LIES])
def test_with_the_checks_taken_out_a_forged_key_is_taken(
    lie: Callable[[Device, Device, Device], Mailbox], checks: set[str], make_device: MakeDevice
) -> None:
    ann, bob, eve = make_device("ann"), make_device("bob"), make_device("eve")
    bob.lists.know_own(eve.user, ann.known)  # the server shows Ann's device in Eve's list, too
    row = lie(ann, bob, eve)
    assert not bob.take_row(row)
    weak = type("Weak", (PayloadChecks,), {name: vars(Careless)[name] for name in checks})
    bob.mailbox = bob.make_mailbox(weak(user=bob.user, ed25519=bob.olm.ed25519))
    assert bob.take_row(msgspec.structs.replace(lie(ann, bob, eve), n=SendNumber(2)))


def test_a_session_stays_whose_it_is(make_device: MakeDevice) -> None:
    ann, bob, eve = make_device("ann"), make_device("bob"), make_device("eve")
    key = ann.megolm.room_key(ROOM, recipients=[], removed_seq=Seq(0))
    assert bob.megolm.take_key(ROOM, key.session_id, key.session_key, owner=ann.owner)
    assert not bob.megolm.take_key(ROOM, key.session_id, key.session_key, owner=eve.owner)
    assert bob.megolm.owner(ROOM, key.session_id) == ann.owner


def test_a_mailbox_row_is_taken_once(make_device: MakeDevice) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    row = ann.room_key_for(bob)
    assert bob.take_row(row)
    assert not bob.take_row(msgspec.structs.replace(row, id=MailboxId(77)))


def test_a_row_of_an_unknown_device_asks_for_its_list_first(make_device: MakeDevice) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    row = msgspec.structs.replace(ann.room_key_for(bob), sender_device=DeviceId("SOMEOTHER"))
    with pytest.raises(KeysNeeded):
        bob.mailbox.take(row, keys_are_fresh=False)
    assert bob.mailbox.take(row, keys_are_fresh=True) is None


def test_a_one_time_key_that_its_device_did_not_sign_is_refused(make_device: MakeDevice) -> None:
    ann, bob, eve = make_device("ann"), make_device("bob"), make_device("eve")
    keys = eve.olm.one_time_keys(on_server_count=0)
    with pytest.raises(Lie) as caught:
        ann.olm.start_session(bob.user, bob.known, next(iter(keys.values())))
    assert caught.value.reason is Reason.BAD_ONE_TIME_KEY


# Rotation


def test_a_session_is_replaced_when_somebody_who_holds_it_left(make_device: MakeDevice) -> None:
    ann = make_device("ann")
    first = ann.megolm.room_key(ROOM, recipients=[DeviceId("B"), DeviceId("C")], removed_seq=Seq(0))
    ann.megolm.mark_shared(ROOM, first.session_id, [DeviceId("B"), DeviceId("C")])
    assert ann.megolm.room_key(ROOM, recipients=[DeviceId("B")], removed_seq=Seq(0)).session_id != first.session_id


def test_a_session_is_replaced_after_a_kick_and_rejoin(make_device: MakeDevice) -> None:
    ann = make_device("ann")
    first = ann.megolm.room_key(ROOM, recipients=[DeviceId("B")], removed_seq=Seq(0))
    ann.megolm.mark_shared(ROOM, first.session_id, [DeviceId("B")])
    assert ann.megolm.room_key(ROOM, recipients=[DeviceId("B")], removed_seq=Seq(7)).session_id != first.session_id


def test_a_session_stays_when_somebody_comes(make_device: MakeDevice) -> None:
    ann = make_device("ann")
    first = ann.megolm.room_key(ROOM, recipients=[DeviceId("B")], removed_seq=Seq(0))
    ann.megolm.mark_shared(ROOM, first.session_id, [DeviceId("B")])
    again = ann.megolm.room_key(ROOM, recipients=[DeviceId("B"), DeviceId("C")], removed_seq=Seq(0))
    assert again.session_id == first.session_id
    assert ann.megolm.lacking(ROOM, [DeviceId("B"), DeviceId("C")]) == {DeviceId("C")}


def test_a_session_is_replaced_after_a_hundred_messages(make_device: MakeDevice) -> None:
    ann = make_device("ann")
    sessions = {ann.encrypt(str(number)).session_id for number in range(rotation_messages)}
    assert len(sessions) == 1
    assert ann.encrypt("one more").session_id not in sessions


# Expired messages ---------------------------------------------------------------------------------------------------


def test_a_message_is_forgotten_at_its_expiry(make_device: MakeDevice) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    bob.take_row(ann.room_key_for(bob))
    bob.messages.take(bob.verifier, ann.encrypt("for a minute", expiry=1_060_000))
    assert bob.texts() == ["for a minute"]
    bob.now_s = 1_059.9
    bob.messages.report_overdue()
    assert bob.texts() == ["for a minute"]
    bob.now_s = 1_060.0
    assert bob.messages.has_unreported
    bob.messages.report_overdue()
    bob.messages.report_overdue()
    assert [type(one) for one in bob.told] == [Expired]
    assert not bob.messages.has_unreported


def test_what_has_expired_before_it_was_read_is_not_shown(make_device: MakeDevice) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    bob.take_row(ann.room_key_for(bob))
    late, gone = ann.encrypt("late", expiry=1_000_000), ann.encrypt("gone", expiry=999_000)
    bob.messages.take(bob.verifier, late)
    bob.messages.take(bob.verifier, altered(gone, body=None, body_hash=chain.body_hash(gone)))
    assert [type(one) for one in bob.told] == [Expired, Expired]


@pytest.mark.parametrize(("ahead_s", "is_shown"), [(clock_slack_ms / 1_000, True), (clock_slack_ms / 1_000 + 1, False)])
def test_a_ciphertext_that_is_gone_before_its_expiry_was_withheld(
    make_device: MakeDevice, ahead_s: float, is_shown: bool
) -> None:
    ann, bob = make_device("ann"), make_device("bob")
    event = ann.encrypt("gone too early", expiry=round((ann.now_s + ahead_s) * 1_000))
    bob.messages.take(bob.verifier, altered(event, body=None, body_hash=chain.body_hash(event)))
    assert bob.reasons() == ([] if is_shown else [Reason.CONTENT_WITHHELD_BY_SERVER])


# Erased messages ----------------------------------------------------------------------------------------------------


def test_erased_messages_that_nothing_explains_are_reported_once_for_all(make_device: MakeDevice) -> None:
    ann = make_device("ann")
    ann.messages.note_unexplained(ROOM, Seq(4), chain.event_id(bytes([4]) * 32))
    ann.now_s += 6
    ann.messages.note_unexplained(ROOM, Seq(5), chain.event_id(bytes([5]) * 32))
    ann.messages.report_overdue()
    assert (ann.told, ann.messages.has_unreported) == ([], True)
    ann.now_s += 4
    ann.messages.report_overdue()
    ann.messages.report_overdue()
    [told] = ann.told
    assert isinstance(told, Undecryptable)
    assert (told.seq, told.reason, told.sender) == (4, Reason.CONTENT_WITHHELD_BY_SERVER, "")
    assert told.event_id == chain.event_id(bytes([4]) * 32)
    assert not ann.messages.has_unreported


def test_erased_messages_that_are_explained_in_time_are_not_reported(make_device: MakeDevice) -> None:
    ann = make_device("ann")
    ann.messages.note_unexplained(ROOM, Seq(4), chain.event_id(bytes([4]) * 32))
    ann.messages.note_explained(ROOM)
    assert not ann.messages.has_unreported
    ann.now_s += 60
    ann.messages.report_overdue()
    assert ann.told == []


def test_what_is_erased_waits_for_its_explanation_over_a_restart(make_device: MakeDevice) -> None:
    ann = make_device("ann")
    ann.messages.note_unexplained(ROOM, Seq(4), chain.event_id(bytes([4]) * 32))
    again = MessageIntake(
        ann.store,
        megolm=ann.megolm,
        tell=ann.told.append,
        forget=ann.forget,
        details=ann.details,
        now_s=lambda: ann.now_s + 10,
    )
    assert again.has_unreported
    again.report_overdue()
    assert len(ann.told) == 1
