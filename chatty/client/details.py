"""Names and topics of rooms, and profiles of their members: told from member to member, inside the ciphertext.

*Carried*: the device set of a room changes (the epoch), so somebody may have come who never heard them. The next message that
each device sends then carries its user's profile and, if that user may name the room, the room's details; nothing more goes over
the network than a message that went anyway. An announcement is a message with nothing else in it.
*Believed*: details by who was owner or admin where the message stands; a profile by whose it is. What was set later counts:
`since` is the place where it was set first, so that carrying on what is old cannot take back what is new.
*Crash*: everything is in the caller's transaction. *Bound*: one entry a room and a member.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from chatty.client.relations import profile_name_chars_max, room_name_chars_max, topic_chars_max
from chatty.client.store import LocalStore
from chatty.client.updates import ProfileChanged, RoomDetailsChanged
from chatty.errors import BadRequest
from chatty.ids import RoomId, Seq, UserId
from chatty.wire.events import RoomRole, TimelineEvent
from chatty.wire.types import SeqField

S = TypeVar("S", bound=Struct)
_DETAILS, _PROFILES, _CARRIED, _OWN = "room_details", "profiles/", "carried", "own_profile"


class RoomDetails(Struct, frozen=True, kw_only=True):
    """since: the place at which this was set; 0: at the place of the message that says it."""

    name: Annotated[str, Meta(max_length=room_name_chars_max)] = ""
    topic: Annotated[str, Meta(max_length=topic_chars_max)] = ""
    since: SeqField = Seq(0)


class Profile(Struct, frozen=True, kw_only=True):
    """name: as the member likes to be called; not unique, and no proof of anything."""

    name: Annotated[str, Meta(max_length=profile_name_chars_max)] = ""


class KnownProfile(Struct, frozen=True, kw_only=True):
    """seq: of the message that said it last."""

    profile: Profile
    seq: Seq


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What stands in one message beside the rest."""

    details: RoomDetails | None = None
    profile: Profile | None = None


def may_name(role: RoomRole | None) -> bool:
    """May a member of this role say what the room is called? In a direct room nobody: both are members there."""
    return role in (RoomRole.OWNER, RoomRole.ADMIN)


def made_details(*, name: str, topic: str) -> RoomDetails:
    """Raises: BadRequest."""
    return _made({"name": name, "topic": topic}, RoomDetails)


def made_profile(name: str) -> Profile:
    """Raises: BadRequest."""
    return _made({"name": name}, Profile)


def _made(fields: dict[str, str], kind: type[S]) -> S:
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None


def settled(said: RoomDetails, *, at: Seq) -> RoomDetails | None:
    """With the place where it was set; None: it is said to be from the future."""
    if said.since >= at:
        return None
    return RoomDetails(name=said.name, topic=said.topic, since=said.since or at)


class Details:
    """`tell`: hands an update out, in the caller's transaction."""

    def __init__(self, store: LocalStore, *, tell: Callable[[RoomDetailsChanged | ProfileChanged], None]) -> None:
        self._store = store
        self._tell = tell

    def of_room(self, room: RoomId) -> RoomDetails:
        return self._store.get(_DETAILS, room, RoomDetails) or RoomDetails()

    def profile(self, room: RoomId, user: UserId) -> Profile:
        known = self._store.get(_PROFILES + room, user, KnownProfile)
        return Profile() if known is None else known.profile

    @property
    def own_profile(self) -> Profile:
        return self._store.get(_OWN, "", Profile) or Profile()

    def set_own_profile(self, profile: Profile) -> None:
        """Every room hears it with the next message there."""
        self._store.put(_OWN, "", profile)
        self._store.delete_all(_CARRIED)

    # Sending

    def to_carry(self, room: RoomId, *, epoch: Seq, role: RoomRole | None, is_due: bool = False) -> Carried:
        """What the next message for this epoch carries. is_due: whatever was carried before."""
        if not is_due and self._store.get(_CARRIED, room, int) == epoch:
            return Carried()
        details, profile = self.of_room(room), self.own_profile
        return Carried(
            details=details if details.since and may_name(role) else None,
            profile=profile if profile != Profile() or self._store.has(_OWN, "") else None,
        )

    def note_carried(self, room: RoomId, *, epoch: Seq) -> None:
        """With the message that was written, in its transaction."""
        self._store.put(_CARRIED, room, epoch)

    def forget_behind(self, room: RoomId, from_seq: Seq) -> None:
        """The server has nothing from this place on: what was said there holds until somebody says something else."""
        details, last = self.of_room(room), Seq(from_seq - 1)
        if details.since >= from_seq:
            self._store.put(_DETAILS, room, msgspec.structs.replace(details, since=last))
        for user, known in self._store.items(_PROFILES + room, KnownProfile):
            if known.seq >= from_seq:
                self._store.put(_PROFILES + room, user, KnownProfile(profile=known.profile, seq=last))
        self._store.delete(_CARRIED, room)

    # Reading

    def take(self, event: TimelineEvent, carried: Carried, *, role: RoomRole | None) -> None:
        """What a verified message says. role: of its sender, where it stands."""
        if carried.details is not None and may_name(role):
            self._take_details(event, carried.details)
        if carried.profile is not None:
            self._take_profile(event, carried.profile)

    def _take_details(self, event: TimelineEvent, said: RoomDetails) -> None:
        details, known = settled(said, at=event.seq), self.of_room(event.room)
        if details is None or details.since <= known.since:
            return
        self._store.put(_DETAILS, event.room, details)
        self._tell(
            RoomDetailsChanged(room=event.room, seq=event.seq, by=event.sender, name=details.name, topic=details.topic)
        )

    def _take_profile(self, event: TimelineEvent, profile: Profile) -> None:
        known = self._store.get(_PROFILES + event.room, event.sender, KnownProfile)
        if known is not None and known.seq >= event.seq:
            return
        self._store.put(_PROFILES + event.room, event.sender, KnownProfile(profile=profile, seq=event.seq))
        if known is None or known.profile != profile:
            self._tell(ProfileChanged(room=event.room, seq=event.seq, user=event.sender, name=profile.name))
