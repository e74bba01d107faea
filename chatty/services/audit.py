"""The audit log: acts are recorded in their own transaction, and one job chains and signs what was recorded.

    recorded ── within a second, by the sealer ──> sealed at a position ── after a while ──> its address erased

A row is inserted by the acting transaction and waits for nobody. Ids are given before the commit and in another order, so they
prove nothing: the sealer takes what is not sealed yet, in batches, gives each row the next position, and signs the head that this
leads to, all in one transaction. A kill in its middle leaves nothing of the batch. Two sealers at once take turns by a lock, and
positions are unique, so the chain cannot fork.

The sealer goes on only from a head that it signed itself: on one that somebody altered it builds nothing and fails, for all to
see. After the commit the head is exported, so that it can be carried away: what a head covers cannot be cut off unnoticed. A
crash between the two loses that export; the next head covers the same rows.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from chatty.crypto.audit import check_head
from chatty.errors import AuditBroken, BadSignature
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.jobs import Done
from chatty.services.units import Transactions
from chatty.wire import audit as wire
from chatty.wire.audit import AuditHead, AuditPage, ListedRow, SealedRow, UnsealedRow
from chatty.wire.canonical import decode_base64, encode_base64

rows_a_step_max = 250
erased_a_step_max = 1_000
unsealed_age_s_max = 10.0  # an older row is worth a warning
erasure_lead_s = 2 * 3_600.0  # addresses go this long before their time is over: the job looks once an hour


# Where a request comes from -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Of the request in hand. address: the peer's. family: the caller's log-in session, once it is known."""

    request_id: str = ""
    address: str = ""
    family: str = ""


_NOWHERE = Origin()
_origin: ContextVar[Origin] = ContextVar("origin", default=_NOWHERE)


def current_origin() -> Origin:
    """Of this task, or of the task that started it."""
    return _origin.get()


def set_origin(origin: Origin) -> None:
    """For this task from now on."""
    _origin.set(origin)


def set_family(family: str) -> None:
    """The request's caller is known now."""
    _origin.set(replace(_origin.get(), family=family))


# Ports --------------------------------------------------------------------------------------------------------------


class AuditChain(Protocol):
    """The sealer's half of the log, inside one transaction."""

    async def try_lock(self) -> bool:
        """Be the only sealer until the transaction ends; False: another one is."""
        ...

    async def newest_head(self) -> AuditHead | None: ...

    async def unsealed(self, *, count_max: int) -> Sequence[UnsealedRow]:
        """The oldest by id that no sealer has taken."""
        ...

    async def seal(self, seals: Sequence[SealedRow], head: AuditHead) -> None:
        """Keep the places and the head, and mark the rows."""
        ...

    async def unsealed_age_s(self) -> float:
        """Of the oldest row that waits; 0 if none does."""
        ...

    async def erase_addresses(self, *, age_s: float, count_max: int) -> int:
        """Erase address and salt of rows older than age_s, the oldest first. Returns how many."""
        ...


class AuditReading(Protocol):
    """The log as it is listed, inside one transaction."""

    async def listed(self, *, count_max: int, **wanted: Any) -> Sequence[ListedRow]:
        """The newest first. wanted: actor, object, action (or its first words), family, request_id, address, since, until (aware
        datetimes), before (an audit id): each None or left out for all.
        """
        ...


class ReadingUnit(Protocol):
    @property
    def audit(self) -> AuditReading: ...


class AuditUnit(Protocol):
    @property
    def audit(self) -> AuditChain: ...


class AuditUnits(Protocol):
    def begin(self) -> AbstractAsyncContextManager[AuditUnit]: ...


class HeadFile(Protocol):
    async def append(self, head: AuditHead) -> None:
        """On disk when it returns. What hinders it is logged, not raised: the log goes on, the next head covers more."""
        ...


class AuditSigner(Protocol):
    """public: the Ed25519 public key, unpadded base64. known: of all keys that did sign, or will."""

    @property
    def public(self) -> str: ...
    @property
    def known(self) -> Collection[str]: ...
    def sign(self, message: bytes) -> str: ...


# Reading ------------------------------------------------------------------------------------------------------------


class AuditSteps:
    """For auditors, over HTTP; the console reads the database itself."""

    def __init__(self, *, unit_of_work: Transactions[ReadingUnit]) -> None:
        self._unit_of_work = unit_of_work

    async def listed(self, *, count_max: int, before: int, since_ms: int, until_ms: int, **wanted: str) -> AuditPage:
        """Pages from the newest row on. before: an audit id, 0: from the end on. since_ms, until_ms: since 1970, 0: always.
        wanted: as AuditReading.listed() has them, empty: all.
        """
        async with self._unit_of_work.autocommit() as unit:
            rows = await unit.audit.listed(
                count_max=count_max,
                before=before or None,
                since=_at(since_ms),
                until=_at(until_ms),
                **{name: value or None for name, value in wanted.items()},
            )
        return AuditPage(rows=list(rows), next_before=rows[-1].audit_id if len(rows) == count_max else 0)


def _at(time_ms: int) -> datetime | None:
    return datetime.fromtimestamp(time_ms / 1_000, UTC) if time_ms else None


# Jobs ---------------------------------------------------------------------------------------------------------------


class SealAudit:
    """The job audit_sealing."""

    name = "audit_sealing"

    def __init__(
        self,
        *,
        units: AuditUnits,
        signer: AuditSigner,
        heads: HeadFile,
        server: str,
        generation: int,
        head_interval_s: float,
        clock: Callable[[], int],
        crash_points: CrashPoints = NO_CRASH_POINTS,
    ) -> None:
        """clock: ms since 1970. head_interval_s: without new rows, a head is signed this often."""
        self._units = units
        self._signer = signer
        self._heads = heads
        self._server = server
        self._generation = generation
        self._head_interval_s = head_interval_s
        self._clock = clock
        self._crash_points = crash_points

    async def step(self) -> Done:
        """One batch.

        Raises: AuditBroken, StoreUnavailable, Overloaded, OutcomeUnknown. Cancelled: all of the batch is sealed or nothing.
        """
        async with self._units.begin() as unit:
            if not await unit.audit.try_lock():
                return Done()
            newest = await unit.audit.newest_head()
            self._check(newest)
            rows = await unit.audit.unsealed(count_max=rows_a_step_max)
            if not rows and newest is not None and not self._is_old(newest):
                return Done()
            seals, head = self._extend(newest, rows)
            await unit.audit.seal(seals, head)
            await self._crash_points.reach("before_seal_commit", self.name)
        await self._crash_points.reach("after_seal_commit", self.name)
        await self._heads.append(head)
        return Done(len(rows), has_more=len(rows) == rows_a_step_max)

    def _check(self, newest: AuditHead | None) -> None:
        if newest is None:
            return
        if (
            newest.server != self._server
            or newest.key not in self._signer.known
            or newest.generation > self._generation
        ):
            raise AuditBroken(f"the newest head, at position {newest.position}, is none of this server's")
        try:
            check_head(newest)
        except BadSignature:
            raise AuditBroken(f"the newest head, at position {newest.position}, was altered") from None

    def _is_old(self, newest: AuditHead) -> bool:
        return self._clock() - newest.time >= 1000 * self._head_interval_s or newest.generation < self._generation

    def _extend(self, newest: AuditHead | None, rows: Sequence[UnsealedRow]) -> tuple[list[SealedRow], AuditHead]:
        position = newest.position if newest is not None else 0
        head = decode_base64(newest.head) if newest is not None else wire.empty_head(self._server)
        seals = []
        for one in rows:
            position += 1
            leaf = wire.leaf(position, wire.content_digest(one.row))
            head = wire.next_head(head, leaf)
            seals.append(SealedRow(position=position, audit_id=one.audit_id, leaf=encode_base64(leaf), row=one.row))
        return seals, self._sign(position, head)

    def _sign(self, position: int, head: bytes) -> AuditHead:
        time, key = self._clock(), self._signer.public
        statement = wire.head_bytes(
            server=self._server, generation=self._generation, position=position, head=head, time=time, key=key
        )
        return AuditHead(
            server=self._server,
            generation=self._generation,
            position=position,
            head=encode_base64(head),
            time=time,
            key=key,
            signature=self._signer.sign(statement),
        )


class EraseAddresses:
    """The job audit_addresses: after so many days nobody can tell from where an act was done, and the chain still verifies."""

    name = "audit_addresses"

    def __init__(self, *, units: AuditUnits, retention_days: float) -> None:
        self._units = units
        self._age_s = retention_days * 86_400 - erasure_lead_s

    async def step(self) -> Done:
        """One transaction."""
        async with self._units.begin() as unit:
            count = await unit.audit.erase_addresses(age_s=self._age_s, count_max=erased_a_step_max)
        return Done(count, has_more=count == erased_a_step_max)
