"""People on several nodes of one server who do everything at once: send, join, leave, kick, sign in devices and revoke them.

Half of the changes are asked for twice, at two nodes at the same time. What was asked and answered stands in the Gathering, for
ledger.py and epochs.py. All times are of one clock, the tests' own.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import trio

from chatty.ids import DeviceId, ListVersion, RoomId, Seq, UserId
from chatty.wire import chain
from chatty.wire.events import Action, SignedInvitation, TimelineEvent
from tests.faults.chatty_process import ChattyProcess
from tests.faults.epochs import KnownList, Name, Revocation, visible_to
from tests.faults.ledger import Sending
from tests.faults.movers import Balancer, Mover, Witness, chosen_node, through
from tests.faults.talkers import Progress, refused_delay_s
from tests.server.wire_people import ORIGIN, HttpRefused, WireDevice, WireRoom, sign_in, sign_up

T = TypeVar("T")
answer_timeout_s = 60.0  # against a hang only
BEATEN = frozenset({"forbidden", "not_a_member", "invitation_void", "not_found"})  # of a change that another overtook


@dataclass(kw_only=True)
class Participant:
    """A user. mover: of the device that acts for them and is never revoked; further: of the others."""

    mover: Mover
    lists: list[KnownList]
    further: list[Mover] = field(default_factory=list)

    @property
    def device(self) -> WireDevice:
        return self.mover.device

    @property
    def user(self) -> UserId:
        return self.device.user

    def add(self, device: WireDevice) -> None:
        """Its keys were uploaded, and that was answered."""
        keys = (device.device, device.olm.curve25519, device.olm.ed25519)
        self._list(self.lists[-1].devices | {keys} if self.lists else frozenset({keys}))

    def remove(self, device: WireDevice) -> None:
        """It was revoked, and that was answered."""
        self._list(frozenset(keys for keys in self.lists[-1].devices if keys[0] != device.device))

    def _list(self, devices: frozenset[tuple[DeviceId, str, str]]) -> None:
        version = ListVersion(len(self.lists) + 1)
        self.lists.append(KnownList(version=version, devices=devices, answered_at=trio.current_time()))


@dataclass(kw_only=True)
class Plan:
    """How much each does: changes of membership, devices, moves; and each owner: kicks. Between two acts a pause is drawn."""

    changes_count: int
    devices_count: int
    moves_count: int
    kicks_count: int
    pause_s_max: float


@dataclass(kw_only=True)
class Gathering:
    """People in rooms, each room owned by one of them. epochs: the newest that anybody knows."""

    origins: Sequence[str]
    http: httpx.AsyncClient
    rng: random.Random
    witness: Witness
    nursery: trio.Nursery
    progress: Progress = field(default_factory=Progress)
    epochs: dict[RoomId, Seq] = field(default_factory=dict)
    participants: list[Participant] = field(default_factory=list)
    rooms: list[tuple[WireRoom, Participant]] = field(default_factory=list)
    inside: set[tuple[RoomId, UserId]] = field(default_factory=set)
    committed: dict[RoomId, dict[Name, Seq]] = field(default_factory=dict)
    refused: dict[RoomId, dict[Name, str]] = field(default_factory=dict)
    revocations: list[Revocation] = field(default_factory=list)

    @property
    def movers(self) -> list[Mover]:
        return [mover for one in self.participants for mover in (one.mover, *one.further)]

    @property
    def sendings(self) -> list[Sending]:
        return [sending for mover in self.movers for sending in mover.sendings.values()]

    async def assemble(self, names: Sequence[str], *, rooms_count: int) -> None:
        """Everybody in every room, and talking."""
        for number, name in enumerate(names):
            device = await sign_up(self.http, name)
            participant = Participant(mover=self._mover(device, node=number % len(self.origins)), lists=[])
            participant.add(device)
            self.participants.append(participant)
        for owner in self.participants[:rooms_count]:
            room = await owner.device.create_room(*(one.device for one in self.participants if one is not owner))
            self.rooms.append((room, owner))
            self.epochs[room.id] = room.epoch
            self.committed[room.id], self.refused[room.id] = {}, {}
            self.inside.update((room.id, one.user) for one in self.participants)
        for one in self.participants:
            self.nursery.start_soon(one.mover.run)

    def _mover(self, device: WireDevice, *, node: int) -> Mover:
        return Mover(
            device=device,
            rooms=self.epochs,
            random=self.rng,
            progress=self.progress,
            window_count=4,
            is_sending=True,
            origins=self.origins,
            witness=self.witness,
            node=node,
        )

    # What they do ----------------------------------------------------------------------------------------------------

    async def live(self, plan: Plan) -> None:
        """Everybody everything at once, until all was done as often as planned."""
        all_done = trio.Event()
        async with trio.open_nursery() as copying:
            async with trio.open_nursery() as acting:
                for one in self.participants:
                    acting.start_soon(self._repeat, plan.changes_count, plan, self._come_or_go, one)
                    acting.start_soon(self._repeat, plan.devices_count, plan, self._change_devices, one, plan)
                    acting.start_soon(self._repeat, plan.moves_count, plan, self._move, one)
                    copying.start_soon(self._keep_copying, one, all_done)
                for room, owner in self.rooms:
                    acting.start_soon(self._repeat, plan.kicks_count, plan, self._kick_somebody, room, owner)
            all_done.set()

    async def _repeat(self, count: int, plan: Plan, act: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        for _ in range(count):
            await trio.sleep(self.rng.random() * plan.pause_s_max)
            await act(*arguments)

    async def _keep_copying(self, one: Participant, all_done: trio.Event) -> None:
        while not all_done.is_set():
            await trio.sleep(self.rng.random() * 0.1)
            await one.mover.copy()

    async def _move(self, one: Participant) -> None:
        one.mover.move()
        self.witness.outcomes["moved"] += 1

    async def _come_or_go(self, one: Participant) -> None:
        """Back into a room, or out of one if this user is in all of them."""
        others = [(room, owner) for room, owner in self.rooms if owner is not one]
        missed = [(room, owner) for room, owner in others if (room.id, one.user) not in self.inside]
        room, owner = self.rng.choice(missed or others)
        if not missed:
            await self._change(room, one, Action.LEAVE, one)
        elif (invitation := await self._invite(room, owner, one)) is not None:
            await self._change(room, one, Action.JOIN, one, invitation=invitation)

    async def _kick_somebody(self, room: WireRoom, owner: Participant) -> None:
        """Through the node at which the victim is not."""
        victims = [one for one in self.participants if one is not owner and (room.id, one.user) in self.inside]
        if victims:
            victim = self.rng.choice(victims)
            with through(victim.mover.other_node):
                await self._change(room, owner, Action.KICK, victim)

    async def _invite(self, room: WireRoom, owner: Participant, target: Participant) -> SignedInvitation | None:
        invitation = await room.invitation(owner.device, target.device)
        path, n = f"/v1/rooms/{room.id}/invitations", invitation.signed.n
        answer = await self._settled("invite", owner, n, lambda: owner.device.post(path, invitation, n=n))
        return invitation if not isinstance(answer, str) else None

    async def _change(self, room: WireRoom, by: Participant, action: Action, target: Participant, **more: Any) -> None:
        position = (Seq(0), chain.empty_head(room.id))
        if action is not Action.JOIN:
            position = await by.device.position(room.id)
        change = by.device.change(room.id, action, target.device, position, **more)
        name = (change.device, change.n)
        answer = await self._settled(action.value, by, change.n, lambda: room.post_change(by.device, change))
        if isinstance(answer, str):
            self.refused[room.id][name] = answer
            return
        self.committed[room.id][name] = answer.seq
        self.epochs[room.id] = max(self.epochs[room.id], answer.epoch)
        (self.inside.add if action is Action.JOIN else self.inside.discard)((room.id, target.user))

    async def _settled(self, what: str, by: Participant, n: int, ask: Callable[[], Awaitable[T]]) -> T | str:
        """The outcome, or the code of the refusal; of two copies that are at different nodes at once, half of the time."""
        outcomes: list[T | str] = []

        async def ask_at(node: int) -> None:
            with through(node):
                outcomes.append(await self._answered(what, ask))

        nodes = self.rng.sample(range(len(self.origins)), self.rng.randint(1, 2))
        if (chosen := chosen_node()) is not None:
            nodes = sorted({chosen, *nodes[1:]})
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(ask_at, node)
        by.device.settle(n)
        self.witness.outcomes[f"{what}: {len(nodes)} copies"] += 1
        said = [one for one in outcomes if one != "message_id_closed"]  # settled by the other copy, and forgotten since
        if not is_one_outcome(said):
            self.witness.faults.append(f"{what}: two copies of one request got {outcomes}")
        return next((one for one in said if one != "not_found"), said[0])

    async def _answered(self, what: str, ask: Callable[[], Awaitable[T]]) -> T | str:
        """Asked again while that is allowed."""
        with trio.fail_after(answer_timeout_s):
            while True:
                try:
                    answer = await ask()
                except HttpRefused as refused:
                    self.witness.note(what, refused.problem, expected=BEATEN | {"message_id_closed"})
                    if not refused.problem["is_retryable"]:
                        return refused.code
                else:
                    self.witness.outcomes[f"{what}: done"] += 1
                    return answer
                await trio.sleep(refused_delay_s)

    async def _change_devices(self, one: Participant, plan: Plan) -> None:
        """A further device: it signs in, publishes its keys, writes along and, as a rule, is revoked while it writes."""
        device = await self._answered("sign in", lambda: sign_in(one.device))
        if isinstance(device, str):
            return
        one.add(device)
        mover = self._mover(device, node=self.rng.randrange(len(self.origins)))
        one.further.append(mover)
        self.nursery.start_soon(mover.run)
        await trio.sleep(self.rng.random() * plan.pause_s_max)
        if self.rng.random() < 0.8:
            await self._revoke(one, mover)

    async def _revoke(self, one: Participant, mover: Mover) -> None:
        """Through the node at which it is not; until that one knows, the device writes on."""
        with through(mover.other_node):
            answer = await one.device.answer("DELETE", f"/v1/devices/{mover.device.device}")
        if not answer.is_success:
            self.witness.note("revoke", answer.json(), expected=frozenset())
            return
        one.remove(mover.device)
        answered_at = trio.current_time()
        self.witness.outcomes["revoke: done"] += 1
        heads = {room.id: (await owner.device.history(room.id, limit=1)).head_seq for room, owner in self.rooms}
        self.revocations.append(Revocation(device=mover.device.device, answered_at=answered_at, heads=heads))
        await self.progress.until(lambda: mover.is_over, timeout_s=answer_timeout_s)

    # In the end ------------------------------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Nobody sends any more, every send has its outcome, everybody who lives has read what is for them."""
        for mover in self.movers:
            mover.is_sending = False
        alive = [(one, mover) for one in self.participants for mover in (one.mover, *one.further) if not mover.is_over]
        await self.progress.until(lambda: all(mover.is_settled for _, mover in alive), timeout_s=answer_timeout_s)
        for room, owner in self.rooms:
            history = await self.history(room, owner)
            for one, mover in alive:
                end = visible_to(one.user, history)[-1].seq
                await self.progress.until(
                    lambda mover=mover, room=room, end=end: mover.has_read(room.id, end),  # type: ignore[misc]
                    timeout_s=answer_timeout_s,
                )

    async def history(self, room: WireRoom, owner: Participant) -> list[TimelineEvent]:
        """All of it: the owner was never away."""
        return [entry for entry in await owner.device.all_history(room.id) if isinstance(entry, TimelineEvent)]


@asynccontextmanager
async def open_gathering(
    nodes: Sequence[ChattyProcess], rng: random.Random, witness: Witness
) -> AsyncIterator[Gathering]:
    """Nobody is there yet; who comes leaves at the end of the block."""
    origins = [node.origin for node in nodes]

    async def look(answer: httpx.Response) -> None:
        if answer.is_server_error:
            await answer.aread()
            witness.note(f"HTTP {answer.status_code}", answer.json(), expected=frozenset())

    async with (
        httpx.AsyncClient(
            base_url=ORIGIN, transport=Balancer(origins, rng), timeout=30, event_hooks={"response": [look]}
        ) as http,
        trio.open_nursery() as nursery,
    ):
        yield Gathering(origins=origins, http=http, rng=rng, witness=witness, nursery=nursery)
        nursery.cancel_scope.cancel()


def is_one_outcome(outcomes: Sequence[object]) -> bool:
    """Do copies agree? not_found is not recorded: beside it another copy may be refused for good, and must not be done."""
    said = [one for one in outcomes if one != "not_found"]
    is_refused = all(isinstance(one, str) for one in said)
    return all(one == said[0] for one in said) and (is_refused or len(said) == len(outcomes))
