"""What rooms are called, and their members: by whom it is believed, and who hears it. A store, no server."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chatty.client.details import Carried, Details, Profile, RoomDetails, made_details, made_profile, settled
from chatty.client.store import LocalStore
from chatty.client.updates import ProfileChanged, RoomDetailsChanged
from chatty.errors import BadRequest
from chatty.ids import DeviceId, RoomId, SendNumber, Seq, UserId
from chatty.wire.events import MEGOLM, Kind, RoomRole, TimelineEvent

ROOM = RoomId("!" + "R" * 43)
ANN, BOB = UserId("@ann:example.org"), UserId("@bob:example.org")


@dataclass
class Scene:
    store: LocalStore
    told: list[RoomDetailsChanged | ProfileChanged] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.details = Details(self.store, tell=self.told.append)

    def say(
        self,
        seq: int,
        *,
        details: RoomDetails | None = None,
        name: str | None = None,
        by: UserId = ANN,
        role: RoomRole | None = RoomRole.ADMIN,
    ) -> None:
        event = TimelineEvent(
            room=ROOM,
            seq=Seq(seq),
            time=1,
            kind=Kind.MESSAGE,
            sender=by,
            device=DeviceId("DEVICE12"),
            n=SendNumber(1),
            algorithm=MEGOLM,
            body=b"",
        )
        profile = None if name is None else Profile(name=name)
        self.details.take(event, Carried(details=details, profile=profile), role=role)

    def carried(self, epoch: int, *, role: RoomRole | None = RoomRole.OWNER) -> Carried:
        found = self.details.to_carry(ROOM, epoch=Seq(epoch), role=role)
        self.details.note_carried(ROOM, epoch=Seq(epoch))
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    store = LocalStore(tmp_path / "store", key=b"k" * 32)
    yield Scene(store)
    store.close()


def named(name: str, *, since: int = 0) -> RoomDetails:
    return RoomDetails(name=name, since=Seq(since))


def test_a_room_is_called_as_an_owner_or_admin_says_last(scene: Scene) -> None:
    scene.say(5, details=RoomDetails(name="Garden", topic="of roses"), role=RoomRole.OWNER)
    scene.say(7, details=named("Orchard"))
    assert scene.details.of_room(ROOM) == named("Orchard", since=7)
    assert scene.told == [
        RoomDetailsChanged(room=ROOM, seq=Seq(5), by=ANN, name="Garden", topic="of roses"),
        RoomDetailsChanged(room=ROOM, seq=Seq(7), by=ANN, name="Orchard", topic=""),
    ]


@pytest.mark.parametrize("role", [RoomRole.MEMBER, None])
def test_nobody_else_names_it(scene: Scene, role: RoomRole | None) -> None:
    scene.say(5, details=named("Garden"), role=role)
    assert (scene.details.of_room(ROOM), scene.told) == (RoomDetails(), [])


def test_carrying_on_what_is_old_takes_nothing_back(scene: Scene) -> None:
    scene.say(5, details=named("Garden"))
    scene.say(7, details=named("Orchard"))
    scene.say(9, details=named("Garden", since=5))
    scene.say(6, details=named("Meadow"))  # its key came late
    assert scene.details.of_room(ROOM).name == "Orchard"
    scene.say(11, details=named("Orchard", since=7))
    assert len(scene.told) == 2


def test_what_is_said_to_be_from_the_future_is_not_believed(scene: Scene) -> None:
    assert settled(named("Garden", since=5), at=Seq(5)) is None
    scene.say(5, details=named("Garden", since=2**53 - 1))
    assert scene.details.of_room(ROOM) == RoomDetails()


def test_a_profile_is_of_who_says_it_and_the_last_one_counts(scene: Scene) -> None:
    scene.say(5, name="Anna", role=None)
    scene.say(6, name="Ben", by=BOB)
    scene.say(4, name="Older")
    scene.say(8, name="Anna")
    assert (scene.details.profile(ROOM, ANN).name, scene.details.profile(ROOM, BOB).name) == ("Anna", "Ben")
    scene.say(9, name="")
    assert scene.details.profile(ROOM, ANN) == Profile()
    assert [(one.user, one.name) for one in scene.told if isinstance(one, ProfileChanged)] == [
        (ANN, "Anna"),
        (BOB, "Ben"),
        (ANN, ""),
    ]


def test_it_is_carried_once_an_epoch_and_again_after_a_change(scene: Scene) -> None:
    assert scene.carried(1) == Carried()  # there is nothing to say
    scene.details.set_own_profile(Profile(name="Anna"))
    scene.say(5, details=named("Garden"))
    full = Carried(details=named("Garden", since=5), profile=Profile(name="Anna"))
    assert [scene.carried(epoch) for epoch in (1, 1, 6, 6)] == [full, Carried(), full, Carried()]
    assert scene.carried(7, role=RoomRole.MEMBER) == Carried(profile=Profile(name="Anna"))
    scene.details.set_own_profile(Profile())
    assert scene.carried(7, role=None) == Carried(profile=Profile())
    assert scene.details.to_carry(ROOM, epoch=Seq(7), role=RoomRole.OWNER, is_due=True).details is not None


def test_names_have_bounds() -> None:
    assert made_details(name="n" * 128, topic="t" * 512).since == 0
    assert made_profile("p" * 64).name == "p" * 64
    for wrong in ({"name": "n" * 129, "topic": ""}, {"name": "", "topic": "t" * 513}):
        with pytest.raises(BadRequest):
            made_details(**wrong)
    with pytest.raises(BadRequest):
        made_profile("p" * 65)
