"""Talkers on one server, somebody who kills, and the look afterwards whether everything is there."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import httpx
import msgspec
import trio

from chatty.crypto.signatures import verify
from chatty.ids import RoomId, Seq
from chatty.services.crash_points import Point
from chatty.wire.canonical import encode_base64
from chatty.wire.rooms import SignedCheckpoint
from chatty.wire.signing import checkpoint_bytes
from tests.faults.chatty_process import ChattyProcess
from tests.faults.ledger import find_faults, heads_of
from tests.faults.postgres_processes import Victim, kill_postgres, postmaster_pid
from tests.faults.server_program import Strike
from tests.faults.talkers import Progress, Talker
from tests.server.wire_people import SERVER_NAME, WireDevice, sign_up

recovery_timeout_s = 30.0
settle_timeout_s = 60.0
_standard_alphabet = str.maketrans("-_", "+/")


@dataclass(frozen=True, kw_only=True)
class Kill:
    """victim None: the server. point None: at any moment; else after the point was passed alive so often."""

    victim: Victim | None
    point: Point | None
    passed_count: int

    def __str__(self) -> str:
        where = "at any moment" if self.point is None else f"at {self.point} + {self.passed_count}"
        return f"{self.victim or 'the server'} {where}"


@dataclass(kw_only=True)
class Storm:
    """A server, talkers that never stop, and somebody who kills."""

    server: ChattyProcess
    talkers: Sequence[Talker]
    progress: Progress
    rng: random.Random
    talking: trio.CancelScope

    @property
    def acked_count(self) -> int:
        return sum(talker.acked_count for talker in self.talkers)

    async def until_acked(self, count: int) -> None:
        """Until so many more sends were acked."""
        wanted = self.acked_count + count
        await self.progress.until(lambda: self.acked_count >= wanted, timeout_s=recovery_timeout_s)

    async def strike(self, kill: Kill) -> float:
        """Kill once, in the middle of traffic. Returns: seconds until it was mended and acks came back."""
        await self.until_acked(self.rng.randint(50, 200))
        postmaster = postmaster_pid(self.server.data_dir)
        await self._kill(kill)
        if kill.victim is None:
            with trio.fail_after(recovery_timeout_s):
                assert await self.server.ended() == -9
        elif kill.victim != "journal's backend":
            await self.server.until_other_postmaster(postmaster)
        began = trio.current_time()
        if kill.victim is None:
            await self.server.start()
        await self.until_acked(len(self.talkers) * self.talkers[0].window_count + 1)  # more than were under way
        return trio.current_time() - began

    async def _kill(self, kill: Kill) -> None:
        if kill.point is not None:
            await self.server.tell(Strike(point=kill.point, passed_count=kill.passed_count, victim=kill.victim))
            return
        await trio.sleep(self.rng.random() * 0.02)  # anywhere between two acks
        if kill.victim is None:
            self.server.running.kill()
        else:
            kill_postgres(self.server.data_dir, kill.victim)

    async def settle(self) -> None:
        """Nobody sends any more; every send gets its ack, everybody reads to the end."""
        for talker in self.talkers:
            talker.is_sending = False
        await self.progress.until(lambda: all(one.is_settled for one in self.talkers), timeout_s=settle_timeout_s)
        for talker in self.talkers:
            for room in talker.rooms:
                head = (await talker.device.history(room, limit=1)).head_seq
                has_all = partial(talker.has_read, room, head)
                await self.progress.until(has_all, timeout_s=settle_timeout_s)


@asynccontextmanager
async def open_storm(server: ChattyProcess, rng: random.Random, *, names: Sequence[str]) -> AsyncIterator[Storm]:
    """Everybody in two shared rooms, talking. http: long-lived, for it outlives the servers."""
    async with httpx.AsyncClient(base_url=server.origin, timeout=20) as http:
        devices = [await sign_up(http, name, origin=server.origin) for name in names]
        rooms = [await devices[0].create_room(*devices[1:]) for _ in range(2)]
        progress = Progress()
        talkers = [
            Talker(
                device=device,
                rooms={room.id: room.epoch for room in rooms},
                random=random.Random(rng.random()),
                progress=progress,
                is_sending=True,
            )
            for device in devices
        ]
        async with trio.open_nursery() as nursery:
            talking: trio.CancelScope = await nursery.start(_talk, talkers)
            yield Storm(server=server, talkers=talkers, progress=progress, rng=rng, talking=talking)
            talking.cancel()


async def _talk(talkers: Sequence[Talker], *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    async with trio.open_nursery() as nursery:
        for talker in talkers:
            nursery.start_soon(talker.run)
        task_status.started(nursery.cancel_scope)


async def room_faults(storm: Storm, room: RoomId) -> list[str]:
    """What is wrong in one room, in anybody's eyes: over all connections, in a fresh reading, by the signed checkpoint."""
    founder, *others = [talker.device for talker in storm.talkers]
    history = await founder.all_history(room)
    sendings = [one for talker in storm.talkers for one in talker.sendings.values() if one.request.room == room]
    live = {f"{talker.device.user}, live": talker.live[room] for talker in storm.talkers}
    fresh = {f"{device.user}, afresh": await device.all_history(room) for device in others}
    faults = find_faults(room, history=history, sendings=sendings, live=live | fresh)
    return faults + await checkpoint_faults(founder, room, heads_of(room, history))


async def checkpoint_faults(reader: WireDevice, room: RoomId, heads: dict[Seq, bytes]) -> list[str]:
    """The server's signature under a head of the room, checked with its published key. Raises: BadSignature."""
    answer = await reader.answer("GET", f"/v1/rooms/{room}/checkpoint")
    signed = msgspec.json.decode(answer.content, type=SignedCheckpoint)
    keys = (await reader.http.get("/v1/jwks")).json()["keys"]
    key = next(key for key in keys if key["kid"] == signed.key_id)
    statement = checkpoint_bytes(
        server=SERVER_NAME,
        room=room,
        generation=signed.generation,
        seq=signed.seq,
        head=signed.head,
        time=signed.time,
    )
    verify(key["x"].translate(_standard_alphabet), statement, encode_base64(signed.signature))
    return [] if heads.get(signed.seq) == signed.head else [f"the checkpoint at {signed.seq} is of another history"]


async def all_faults(storm: Storm) -> list[str]:
    """Of all rooms, after settle()."""
    return [fault for room in storm.talkers[0].rooms for fault in await room_faults(storm, room)]
