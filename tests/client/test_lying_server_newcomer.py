"""What happened before a newcomer's time, hidden in a gap: found out when her own join names what stood before it.

Ann owns the room, Bob is inside and to be kicked, Cleo comes later and is lied to.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from chatty.client import Client, Invited, Reason, Room, RoomFrozen
from chatty.client.room import sign, take_number
from chatty.client.rooms import RoomVerifier
from chatty.ids import Seq, UserId
from chatty.wire.canonical import decode_base64, encode_base64
from chatty.wire.events import Kind, Policy, PolicyChange, PolicyContent, RoomRole, TimelineEvent
from chatty.wire.frames import Gap, RoomEntry
from chatty.wire.signing import body_bytes
from tests.client.conftest import Open, lied, pair, until
from tests.client.lies import REMOVABLE
from tests.client.small_server import SmallServer, StoredRoom


@dataclass(kw_only=True)
class Scene:
    server: SmallServer
    ann: Client
    bob: Client
    cleo: Client
    room: Room

    @property
    def stored(self) -> StoredRoom:
        return self.server.rooms[self.room.id]

    def has_keys_of_cleo(self, device: str) -> bool:
        rows = [row for one in self.server.devices.values() if one.id == device for row in one.given]
        return any(row.sender == self.cleo.user and row.kind == "m.room.encrypted" for row in rows)


# What is hidden


async def bob_is_kicked(scene: Scene) -> None:
    await scene.room.kick(scene.bob.user)


async def bob_is_banned(scene: Scene) -> None:
    await scene.room.ban(scene.bob.user)


async def the_policy_changes(scene: Scene) -> None:
    """Ann's client signs, the small server writes."""
    engine, position = scene.ann._engine, scene.room._verifier.position
    change = PolicyChange(
        domain="chatty.policy.v1",
        server=engine.identity.server_name,
        room=scene.room.id,
        sender=engine.identity.user,
        device=engine.identity.device,
        policy=Policy(history="joined", invite=RoomRole.MEMBER),
        last_seq=position.seq,
        last_head=encode_base64(position.head),
        n=await take_number(engine),
    )
    event = TimelineEvent(
        room=scene.room.id,
        seq=Seq(0),
        time=0,
        kind=Kind.POLICY,
        sender=change.sender,
        device=change.device,
        n=change.n,
        signature=decode_base64(sign(engine, change)),
        body=body_bytes(PolicyContent(signed=change, previous=scene.stored.state_seq)),
    )
    await scene.server.append(scene.stored, event)
    engine.numbers.settle(change.n)


async def bobs_devices_change(scene: Scene) -> None:
    await scene.server.list_changed(scene.bob.user)


# What Cleo believes when nobody looks


async def bob_reads_along(scene: Scene, room: Room) -> None:
    await room.send("for those who are inside")
    assert scene.has_keys_of_cleo(scene.bob.device)


async def only_admins_may_invite(scene: Scene, room: Room) -> None:
    assert room.policy is not None
    assert room.policy.invite is RoomRole.ADMIN


async def bobs_older_list_counts(scene: Scene, room: Room) -> None:
    assert room._verifier.joined()[scene.bob.user].list_version == scene.server.users[scene.bob.user].list_version - 1


Deed = Callable[[Scene], Awaitable[None]]
Belief = Callable[[Scene, Room], Awaitable[None]]
HIDDEN: list[tuple[Deed, Belief]] = [
    (bob_is_kicked, bob_reads_along),
    (bob_is_banned, bob_reads_along),
    (the_policy_changes, only_admins_may_invite),
    (bobs_devices_change, bobs_older_list_counts),
]
IDS = [deed.__name__ for deed, _ in HIDDEN]


@asynccontextmanager
async def open_scene(open_one: Open, server: SmallServer, deed: Deed) -> AsyncIterator[Scene]:
    """After the deed, which Cleo is not shown; she is invited."""
    async with open_one("ann") as ann, open_one("bob") as bob, open_one("cleo") as cleo:
        room, _ = await pair(ann, bob)
        await cleo.register("cleo", "the third password")
        await room.send("before her time")
        scene = Scene(server=server, ann=ann, bob=bob, cleo=cleo, room=room)
        await deed(scene)
        hide(scene, Seq(len(scene.stored.events)))
        await room.read_up_to(Seq(len(scene.stored.events)))
        await room.invite(cleo.user)
        await until(cleo, Invited)
        yield scene


def hide(scene: Scene, place: Seq) -> None:
    gap = Gap(room=scene.room.id, from_seq=place, to_seq=place, head=scene.stored.heads[place])

    def told(user: UserId, entries: list[RoomEntry], *, is_live: bool) -> list[RoomEntry]:
        if user != scene.cleo.user:
            return entries
        return [gap if isinstance(entry, TimelineEvent) and entry.seq == place else entry for entry in entries]

    scene.server.told = told


@pytest.mark.parametrize(("deed", "belief"), HIDDEN, ids=IDS)
async def test_what_is_hidden_from_a_newcomer_is_missed_before_she_gives_a_key(
    deed: Deed, belief: Belief, open_one: Open, server: SmallServer
) -> None:
    async with open_scene(open_one, server, deed) as scene:
        with pytest.raises(RoomFrozen):
            await scene.cleo.join(scene.room.id)
        caught = await lied(scene.cleo)
        assert (caught.reason, caught.room) == (Reason.WRONG_PREVIOUS, scene.room.id)
        with pytest.raises(RoomFrozen):
            await scene.cleo.room(scene.room.id).send("no more")
        assert not scene.has_keys_of_cleo(scene.ann.device)
        assert not scene.has_keys_of_cleo(scene.bob.device)


@pytest.mark.parametrize(("deed", "belief"), HIDDEN, ids=IDS)
async def test_without_the_check_a_newcomer_believes_what_was_before(
    deed: Deed, belief: Belief, open_one: Open, server: SmallServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RoomVerifier, "check_previous", REMOVABLE["check_previous"])
    async with open_scene(open_one, server, deed) as scene:
        await belief(scene, await scene.cleo.join(scene.room.id))
