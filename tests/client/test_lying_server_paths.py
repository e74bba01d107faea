"""The same lie on every way to a client: live, in a page of history, after it was away. Caught on each under its own name.

Ann owns the room, Bob is who is lied to, Eve is a member or nobody. With the checks of a lie taken out of the SDK Bob reads on
and never learns of it.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pytest
import trio

from chatty.client import Client, Invited, Message, Reason, Room, RoomFrozen, ServerLied, Update, intake
from chatty.client.rooms import RoomVerifier
from chatty.ids import SendNumber, Seq, UserId
from chatty.wire.events import MEGOLM, Action, Kind, RoomRole, TimelineEvent
from chatty.wire.frames import Gap, RoomEntry, Stretch
from tests.client.conftest import Open, lied, pair, until
from tests.client.forge import naming
from tests.client.lies import REMOVABLE
from tests.client.small_server import SmallServer, StoredRoom

Path = Literal["live", "page", "resume"]
PATHS: tuple[Path, ...] = ("live", "page", "resume")


@dataclass(kw_only=True)
class Scene:
    """first: the seq of what the server lies about."""

    server: SmallServer
    open_one: Open
    ann: Client
    eve: Client
    room: Room
    bob_user: UserId
    first: Seq

    @property
    def stored(self) -> StoredRoom:
        return self.server.rooms[self.room.id]


@dataclass
class Teller:
    """Tells one user the lie instead of the truth; while it holds back, nothing live."""

    victim: UserId
    lie: Callable[[list[RoomEntry]], list[RoomEntry]]
    tells_pages: bool
    is_holding: bool = False

    def __post_init__(self) -> None:
        self.held: list[RoomEntry] = []

    def __call__(self, user: UserId, entries: list[RoomEntry], *, is_live: bool) -> list[RoomEntry]:
        if user != self.victim:
            return entries
        if is_live and self.is_holding:
            self.held += entries
            return []
        return self.lie(entries) if is_live or self.tells_pages else entries


# What happens, and what Bob is told of it


async def two_messages(scene: Scene) -> None:
    await scene.room.send("one")
    await scene.room.send("two")


async def eve_becomes_admin(scene: Scene) -> None:
    await scene.room.set_role(scene.eve.user, RoomRole.ADMIN)


async def eve_promotes_herself(scene: Scene) -> None:
    """The server takes it as it takes everything; her own client does not believe it either."""
    await change_as_eve(scene, Action.ROLE, role=RoomRole.ADMIN)


async def eve_enters_uninvited(scene: Scene) -> None:
    scene.eve._engine.book.add(scene.room.id)
    await change_as_eve(scene, Action.JOIN)


async def change_as_eve(scene: Scene, action: Action, **how: Any) -> None:
    try:
        await scene.eve.room(scene.room.id).change(action, scene.eve.user, **how)
    except RoomFrozen:
        return


async def eve_gets_another_device_list(scene: Scene) -> None:
    await scene.server.list_changed(scene.eve.user)


async def a_promotion_is_shown_again(scene: Scene) -> None:
    [promotion] = [event for event in scene.stored.events if b'"role":"admin"' in (event.body or b"")]
    await scene.server.append(scene.stored, naming(promotion, scene.stored.state_seq))


async def a_stranger_writes(scene: Scene) -> None:
    await scene.server.append(scene.stored, message_of(scene.eve, scene, epoch=scene.stored.epoch))


async def ann_writes_for_an_older_epoch(scene: Scene) -> None:
    await scene.server.append(scene.stored, message_of(scene.ann, scene, epoch=Seq(scene.stored.epoch - 1)))


def message_of(sender: Client, scene: Scene, *, epoch: Seq) -> TimelineEvent:
    """Made by the server; nobody has its key."""
    return TimelineEvent(
        room=scene.room.id,
        seq=Seq(0),
        time=0,
        kind=Kind.MESSAGE,
        sender=sender.user,
        device=sender.device,
        n=SendNumber(900),
        algorithm=MEGOLM,
        session_id="S" * 43,
        epoch=epoch,
        body=b"ciphertext",
    )


Lie = Callable[[Scene, list[RoomEntry]], list[RoomEntry]]


def the_truth(scene: Scene, entries: list[RoomEntry]) -> list[RoomEntry]:
    return entries


def without_the_first(scene: Scene, entries: list[RoomEntry]) -> list[RoomEntry]:
    return [entry for entry in entries if place(entry) != scene.first]


def with_the_first_two_swapped(scene: Scene, entries: list[RoomEntry]) -> list[RoomEntry]:
    swapped = {scene.first: scene.first + 1, scene.first + 1: scene.first}
    return sorted(entries, key=lambda entry: swapped.get(place(entry), place(entry)))


def with_the_first_twice(scene: Scene, entries: list[RoomEntry]) -> list[RoomEntry]:
    return [copy for entry in entries for copy in [entry] * (2 if place(entry) == scene.first else 1)]


def with_the_first_hidden(scene: Scene, entries: list[RoomEntry]) -> list[RoomEntry]:
    return [hidden(scene) if place(entry) == scene.first else entry for entry in entries]


def hidden(scene: Scene) -> Gap:
    return Gap(room=scene.room.id, from_seq=scene.first, to_seq=scene.first, head=scene.stored.heads[scene.first])


def altering(**changes: Any) -> Lie:
    """changes: values, or functions of the old one."""

    def lie(scene: Scene, entries: list[RoomEntry]) -> list[RoomEntry]:
        return [changed(entry) if place(entry) == scene.first else entry for entry in entries]

    def changed(entry: RoomEntry) -> RoomEntry:
        values = {name: new(getattr(entry, name)) if callable(new) else new for name, new in changes.items()}
        return msgspec.structs.replace(entry, **values)

    return lie


def damaged(body: bytes) -> bytes:
    return body[:40] + bytes([body[40] ^ 1]) + body[41:]


def demoting(body: bytes) -> bytes:
    return body.replace(b'"role":"admin"', b'"role":"member"')


def naming_the_creation(body: bytes) -> bytes:
    return re.sub(rb'"previous":\d+', b'"previous":1', body)


def place(entry: RoomEntry) -> Seq:
    return entry.from_seq if isinstance(entry, Stretch) else entry.seq


@dataclass(frozen=True, kw_only=True)
class Row:
    """A lie. checks: by name; where the chain would find it out later, its check too. is_everywhere: in pages too, always."""

    deed: Callable[[Scene], Awaitable[None]] = two_messages
    lie: Lie = the_truth
    reason: Reason
    checks: tuple[str, ...]
    has_eve: bool = False
    is_everywhere: bool = False
    before: Callable[[Scene], Awaitable[None]] | None = None


async def eve_was_admin_for_a_while(scene: Scene) -> None:
    await scene.room.set_role(scene.eve.user, RoomRole.ADMIN)
    await scene.room.set_role(scene.eve.user, RoomRole.MEMBER)


ROWS = {
    "adds a member": Row(deed=eve_enters_uninvited, reason=Reason.FORGED_MEMBERSHIP, checks=("check_authority",)),
    "promotes a member": Row(
        deed=eve_promotes_herself, reason=Reason.FORGED_ROLE, checks=("check_authority",), has_eve=True
    ),
    "promotes a member with an old signature": Row(
        before=eve_was_admin_for_a_while,
        deed=a_promotion_is_shown_again,
        reason=Reason.DUPLICATE_EVENT,
        checks=("check_not_repeated",),
        has_eve=True,
    ),
    "alters a change": Row(
        deed=eve_becomes_admin,
        lie=altering(body=demoting),
        reason=Reason.BAD_SIGNATURE,
        checks=("check_signature", "check_head_claim"),
        has_eve=True,
    ),
    "names another state event before a change": Row(
        deed=eve_becomes_admin,
        lie=altering(body=naming_the_creation),
        reason=Reason.WRONG_PREVIOUS,
        checks=("check_previous", "check_head_claim"),
        has_eve=True,
    ),
    "names another target of a change": Row(
        deed=eve_becomes_admin,
        lie=altering(target="@ann:example.org"),
        reason=Reason.BAD_SIGNATURE,
        checks=("check_signature", "check_head_claim"),
        has_eve=True,
    ),
    "names another target of a device list": Row(
        deed=eve_gets_another_device_list,
        lie=altering(target="@ann:example.org"),
        reason=Reason.MALFORMED_EVENT,
        checks=("check_signature", "check_head_claim"),
        has_eve=True,
    ),
    "alters a message": Row(lie=altering(body=damaged), reason=Reason.FORKED_HISTORY, checks=("check_head_claim",)),
    "drops": Row(
        lie=without_the_first,
        reason=Reason.MISSING_EVENT,
        checks=("check_order", "check_head_claim"),
        is_everywhere=True,
    ),
    "swaps": Row(
        lie=with_the_first_two_swapped,
        reason=Reason.REORDERED_EVENT,
        checks=("check_order", "check_time", "check_head_claim"),
    ),
    "repeats": Row(lie=with_the_first_twice, reason=Reason.DUPLICATE_EVENT, checks=("check_order", "check_head_claim")),
    "hides behind a gap": Row(lie=with_the_first_hidden, reason=Reason.MISSING_EVENT, checks=("check_gap",)),
    "puts time back": Row(
        lie=altering(time=1), reason=Reason.TIME_WENT_BACK, checks=("check_time", "check_head_claim")
    ),
    "lets a stranger write": Row(deed=a_stranger_writes, reason=Reason.UNAUTHORIZED_MEMBER, checks=("check_sender",)),
    "shows a message for an older epoch": Row(
        deed=ann_writes_for_an_older_epoch, reason=Reason.WRONG_EPOCH, checks=("check_epoch",)
    ),
}


# The test


@asynccontextmanager
async def open_scene(server: SmallServer, open_one: Open, row: Row) -> AsyncIterator[Scene]:
    async with open_one("ann") as ann, open_one("eve") as eve:
        async with open_one("bob") as bob:
            room, same = await pair(ann, bob)
            await eve.register("eve", "evil password")
            bob_user = bob.user
            scene = Scene(
                server=server, open_one=open_one, ann=ann, eve=eve, room=room, bob_user=bob_user, first=Seq(0)
            )
            if row.has_eve:
                await room.invite(eve.user)
                await until(eve, Invited)
                await eve.join(room.id)
            if row.before is not None:
                await row.before(scene)
            await room.send("so far")
            last = Seq(len(scene.stored.events))
            await same.read_up_to(last)
            scene.first = Seq(last + 1)
        yield scene


@asynccontextmanager
async def open_told(scene: Scene, row: Row, path: Path) -> AsyncIterator[Client]:
    """Bob, after the deed, told of it on this path."""
    teller = Teller(
        scene.bob_user, lambda entries: row.lie(scene, entries), tells_pages=path == "page" or row.is_everywhere
    )
    scene.server.told = teller
    if path == "resume":
        await row.deed(scene)
    async with scene.open_one("bob") as bob:
        await bob.wait_online()
        if path != "resume":
            teller.is_holding = True
            await row.deed(scene)
            teller.is_holding = False
        if path == "live":
            await scene.server.push(scene.server.devices[bob.device], teller.lie(teller.held))
        await go_on(scene)
        yield bob


async def go_on(scene: Scene) -> None:
    """One more event, so that Bob hears of a hole. Ann sends nothing any more to a room in which she was lied to, too."""
    try:
        await scene.room.send("the end")
    except RoomFrozen:
        await scene.server.list_changed(scene.bob_user)


def take_out(monkeypatch: pytest.MonkeyPatch, checks: tuple[str, ...]) -> None:
    for check in checks:
        monkeypatch.setattr(RoomVerifier, check, REMOVABLE[check])
        if hasattr(intake, check):
            monkeypatch.setattr(intake, check, lambda entry, *, after: None)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ROWS)
async def test_a_lie_is_caught_on_every_path(name: str, path: Path, open_one: Open, server: SmallServer) -> None:
    row = ROWS[name]
    async with open_scene(server, open_one, row) as scene, open_told(scene, row, path) as bob:
        caught = await lied(bob)
        assert (caught.reason, caught.room) == (row.reason, scene.room.id)
        with pytest.raises(RoomFrozen):
            await bob.room(scene.room.id).send("no more")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ROWS)
async def test_with_its_checks_taken_out_a_lie_passes_on_every_path(
    name: str, path: Path, open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = ROWS[name]
    take_out(monkeypatch, row.checks)
    async with open_scene(server, open_one, row) as scene, open_told(scene, row, path) as bob:
        told = await told_until(bob, "the end")
        assert not [update for update in told if isinstance(update, ServerLied)]


async def told_until(client: Client, last: str) -> list[Update]:
    told: list[Update] = []
    with trio.fail_after(10):
        async for update in client.messages():
            told.append(update)
            if isinstance(update, Message) and update.text == last:
                break
    return told
