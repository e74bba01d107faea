"""An audit log straight in the store: rows recorded, a sealer of one's own, the verdict on all of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from chatty.crypto.audit import AuditKey, Verdict, Verifier
from chatty.services.audit import HeadFile, SealAudit
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.server import open_identity
from chatty.store.pool import Pool
from chatty.store.units import PostgresUnit, PostgresUnitOfWork
from chatty.wire.audit import AuditHead

SERVER = "example.org"


class OnlyKey(AuditKey):
    """That never changes."""

    @property
    def known(self) -> set[str]:
        return {self.public}


KEY = OnlyKey(b"k" * 32)


@dataclass
class KeptHeads(HeadFile):
    heads: list[AuditHead] = field(default_factory=list)

    async def append(self, head: AuditHead) -> None:
        self.heads.append(head)


async def open_log(pool: Pool) -> None:
    """Make the database this server's."""
    await open_identity(PostgresUnitOfWork(pool), name=SERVER, make_generation_id=lambda: "one")


def make_sealer(pool: Pool, *, heads: HeadFile | None = None, crash_points: CrashPoints = NO_CRASH_POINTS) -> SealAudit:
    return SealAudit(
        units=PostgresUnitOfWork(pool),
        signer=KEY,
        heads=heads or KeptHeads(),
        server=SERVER,
        generation=1,
        head_interval_s=60,
        clock=lambda: 1,
        crash_points=crash_points,
    )


async def record(unit: PostgresUnit, actor: str, **more: Any) -> None:
    await unit.audit.record(actor=actor, device="", action="test.done", object_="", **more)


async def record_many(pool: Pool, *actors: str) -> None:
    """Each in a transaction of its own, all at once."""

    async def act(actor: str) -> None:
        async with PostgresUnitOfWork(pool).begin() as unit:
            await record(unit, actor)

    async with trio.open_nursery() as nursery:
        for actor in actors:
            nursery.start_soon(act, actor)


async def seal_all(sealer: SealAudit) -> None:
    while await sealer.step():
        pass


async def verify(pool: Pool, *, carried: Sequence[AuditHead] = ()) -> Verdict:
    verifier = Verifier(server=SERVER, keys=[KEY.public], carried=carried)
    async with PostgresUnitOfWork(pool).snapshot() as unit:
        async for line in unit.audit.lines():
            verifier.take(line)
    return verifier.finish()
