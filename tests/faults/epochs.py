"""What a room's timeline says about who could read and who could write, against what its people were told, and when.

A device list counts from the moment at which the request that made it was answered: every message sent after that must stand
under an epoch at which the chain names that list, or a newer one. A device counts as dead from the moment at which its
revocation was answered. Everything here is pure. Whether all is there, once and in order, says ledger.py.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from chatty.crypto.events import DeviceKey, verify_event
from chatty.errors import ChattyError
from chatty.ids import DeviceId, ListVersion, RoomId, Seq, UserId
from chatty.wire.authority import created_room
from chatty.wire.canonical import encode_base64
from chatty.wire.chain import device_list_digest
from chatty.wire.events import REMOVALS, Action, DevicesContent, Kind, MemberContent, TimelineEvent, decode_content
from chatty.wire.frames import RoomEntry
from tests.faults.ledger import Sending, name_of, reading_faults

Name = tuple[str, int]  # device and n: of a request, and of the event that it made
DeviceKeys = tuple[DeviceId, str, str]  # id, curve25519, ed25519


@dataclass(frozen=True, kw_only=True)
class KnownList:
    """A user's device list. answered_at: Trio's time when the server had answered the change that made it."""

    version: ListVersion
    devices: frozenset[DeviceKeys]
    answered_at: float

    @property
    def digest(self) -> str:
        return encode_base64(device_list_digest(list(self.devices)))

    @property
    def ids(self) -> set[DeviceId]:
        return {device[0] for device in self.devices}


@dataclass(frozen=True, kw_only=True)
class Revocation:
    """heads: where each room ended when it was looked at after the answer."""

    device: DeviceId
    answered_at: float
    heads: Mapping[RoomId, Seq]


Lists = Mapping[UserId, Sequence[KnownList]]  # by version, from 1 on


# Who could read ------------------------------------------------------------------------------------------------------


def epoch_faults(history: Sequence[TimelineEvent], sendings: Sequence[Sending], lists: Lists) -> Iterator[str]:
    """Senders inside, epochs the room's own, every list what it was made of and as new as had been answered before the send."""
    sent_at = {one.name: one.sent_at for one in sendings}
    epoch, members = Seq(0), dict[UserId, ListVersion]()
    named = {epoch: dict(members)}
    for event in history:
        match decode_content(event) if event.kind is not Kind.MESSAGE else None:
            case None:
                if event.sender not in members:
                    yield f"{name_of(event)} at {event.seq}: {event.sender} is no member"
                if event.epoch != epoch:
                    yield f"{name_of(event)} at {event.seq} names the epoch {event.epoch}, the room's is {epoch}"
                named_then = named.get(event.epoch, {})
                yield from _list_faults(event, named_then, lists, sent_at=sent_at.get(name_of(event), 0.0))
                continue
            case MemberContent(signed=change) if change.action in REMOVALS:
                members.pop(UserId(change.target), None)
            case MemberContent(signed=change, list_version=version, list_digest=digest) if version is not None:
                members[change.target] = version
                yield from _digest_faults(event, lists[change.target], version, digest or "")
            case DevicesContent(user=user, list_version=version, list_digest=digest):
                members[user] = version
                yield from _digest_faults(event, lists[user], version, digest)
            case _:
                continue
        epoch = event.seq
        named[epoch] = dict(members)


def _digest_faults(event: TimelineEvent, known: Sequence[KnownList], version: int, digest: str) -> Iterator[str]:
    if version > len(known) or known[version - 1].digest != digest:
        yield f"list {version} of {event.target} at {event.seq} is not what was uploaded"


def _list_faults(
    event: TimelineEvent, named: Mapping[UserId, ListVersion], lists: Lists, *, sent_at: float
) -> Iterator[str]:
    for user, version in named.items():
        answered = [one for one in lists[user] if one.answered_at < sent_at]
        if not answered or version >= answered[-1].version:
            continue
        chains, newest = lists[user][version - 1].ids, answered[-1].ids
        for device in sorted(newest - chains):
            yield f"{name_of(event)} at {event.seq}: the epoch {event.epoch} leaves out {device} of {user}"
        for device in sorted(chains - newest):
            yield f"{name_of(event)} at {event.seq}: the epoch {event.epoch} still names {device} of {user}"


# Who could write -----------------------------------------------------------------------------------------------------


def revocation_faults(
    room: RoomId, history: Sequence[TimelineEvent], sendings: Sequence[Sending], revocations: Sequence[Revocation]
) -> Iterator[str]:
    """Nothing that a device sent after its revocation was answered, nothing of it behind the head as it was then."""
    sent_at = {one.name: one.sent_at for one in sendings}
    dead = {one.device: one for one in revocations}
    for event in history:
        revocation = dead.get(event.device)
        if revocation is None:
            continue
        if sent_at.get(name_of(event), 0.0) > revocation.answered_at:
            yield f"{name_of(event)} at {event.seq} was sent after the revocation"
        if event.seq > revocation.heads.get(room, event.seq):
            yield f"{name_of(event)} at {event.seq} was committed after the revocation"


def change_faults(
    history: Sequence[TimelineEvent], committed: Mapping[Name, Seq], refused: Mapping[Name, str]
) -> Iterator[str]:
    """Changes of this room: the committed ones once and where they were said to be, the refused ones never."""
    places = {name_of(event): event.seq for event in history if event.kind is Kind.MEMBER}
    for name, count in Counter(name_of(event) for event in history if event.kind is Kind.MEMBER).items():
        if count > 1:
            yield f"the change {name} is there {count} times"
    for name, seq in committed.items():
        if places.get(name) != seq:
            yield f"the change {name} was committed at {seq} and stands at {places.get(name)}"
    for name, code in refused.items():
        if name in places:
            yield f"the change {name} was refused ({code}) and stands at {places[name]}"


def authority_faults(history: Sequence[TimelineEvent], *, server: str, device_key: DeviceKey) -> Iterator[str]:
    """What every client checks: signatures, whether each change was allowed, and the place of the one before it."""
    state = created_room(verify_event(history[0], server=server, device_key=device_key))
    before = Seq(1)
    for event in history[1:]:
        if event.kind is not Kind.MESSAGE:
            yield from _previous_faults(event, before)
            before = event.seq
            try:
                state.apply(verify_event(event, server=server, device_key=device_key))
            except ChattyError as error:
                yield f"{event.kind.value} at {event.seq}: {error.code}: {error}"


def _previous_faults(event: TimelineEvent, before: Seq) -> Iterator[str]:
    named = json.loads(event.body or b"")["previous"]
    if named != before:
        yield f"{event.kind.value} at {event.seq} names {named} as the state event before it, which stands at {before}"


# Who has read what ---------------------------------------------------------------------------------------------------


def visible_to(user: UserId, history: Sequence[TimelineEvent]) -> list[TimelineEvent]:
    """All state, the messages of the user's own time, nothing after the last removal: the policy `joined`."""
    shown: list[TimelineEvent] = []
    is_inside, shown_count = False, 0
    for event in history:
        if event.kind is not Kind.MESSAGE or is_inside:
            shown.append(event)
        action = _action_on(user, event)
        if action is not None:
            is_inside, shown_count = action not in REMOVALS, len(shown)
    return shown if is_inside else shown[:shown_count]


def _action_on(user: UserId, event: TimelineEvent) -> Action | None:
    if event.kind is not Kind.MEMBER or event.target != user:
        return None
    content = decode_content(event)
    assert isinstance(content, MemberContent)
    return content.signed.action


def sight_faults(
    room: RoomId,
    user: UserId,
    entries: Sequence[RoomEntry],
    *,
    history: Sequence[TimelineEvent],
    heads: Mapping[Seq, bytes],
    is_whole: bool = True,
) -> list[str]:
    """Was this user given exactly what it may see, in order? is_whole: to the end, and not some first part of it."""
    visible = [event.seq for event in visible_to(user, history)]
    seen = [entry.seq for entry in entries if isinstance(entry, TimelineEvent)]
    if not is_whole:
        visible = visible[: len(seen)]
    end = visible[-1] if visible else Seq(0)
    faults = reading_faults(room, entries, {seq: head for seq, head in heads.items() if seq <= end})
    hidden, shown = sorted(set(visible) - set(seen)), sorted(set(seen) - set(visible))
    faults += [f"was not given {hidden[:5]}"] if hidden else []
    return faults + ([f"was given {shown[:5]}, which are not for {user}"] if shown else [])
