"""What the janitor keeps beside its actors: what each job is, what is wanted of it, and what of it is in hand.

It outlives a crash of a job's actor. The board is as old as the last look at the books, `board_interval_s` at most; what this
process wrote meanwhile is newer than what an earlier look brings back, and stays.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

import trio

from chatty.services.jobs import Done, RunBook, Standing, State
from chatty.telemetry import Metrics


@dataclass(frozen=True, kw_only=True)
class Job:
    """step: one bounded piece of work, right whoever else runs it at the same time.

    interval_s: from one look to the next when nobody wakes it. first_look_s: from the start to the first, at most; a random
    part of it, so that servers that start together do not do everything at once. on_order: called before a run that the operator
    ordered, where the job would else put off what is not urgent.
    """

    name: str
    step: Callable[[], Awaitable[Done]]
    interval_s: float
    first_look_s: float = 0.0
    on_order: Callable[[], None] | None = None


@dataclass(kw_only=True)
class RunInHand:
    """number: in the books; None: not there yet. started_at, noted_at: on Trio's clock."""

    started_at: float
    number: int | None = None
    rows_count: int = 0
    steps_count: int = 0
    noted_at: float = 0.0

    @property
    def is_worth_noting(self) -> bool:
        return self.number is not None or self.rows_count > 0


@dataclass(kw_only=True)
class Hand:
    """What this process has of a job. is_in_step: where a new actor finds that, the one before crashed there."""

    run: RunInHand | None = None
    is_in_step: bool = False
    is_aborted: bool = False
    has_looked: bool = False
    next_look_at: float = 0.0
    scope: trio.CancelScope | None = None

    def abort(self) -> None:
        """Cut the run in hand off; nothing, if there is none."""
        if self.run is not None:
            self.is_aborted = True
            if self.scope is not None:
                self.scope.cancel()


class Board:
    """What the books say of each job."""

    def __init__(self, book: RunBook, jobs: Sequence[Job], metrics: Metrics) -> None:
        self._book = book
        self._intervals_s = {job.name: job.interval_s for job in jobs}
        self._metrics = metrics
        self._standings: dict[str, Standing] = {}
        self._told: dict[str, Standing] = {}
        self._read_at: dict[str, float] = {}
        self._puts: Counter[str] = Counter()
        self._turn = trio.Lock()

    async def standing(self, job: str) -> Standing:
        """As last read; read now if that never was. Raises: RetryableError."""
        if job not in self._standings:
            async with self._turn:
                if job not in self._standings:
                    await self.read()
        return self._standings[job]

    def known(self) -> Mapping[str, Standing]:
        """As last read; nothing before that."""
        return self._standings

    def put(self, job: str, standing: Standing) -> None:
        """As this process has just written it."""
        self._standings[job], self._read_at[job] = standing, trio.current_time()
        self._puts[job] += 1
        for state in get_args(State):
            self._metrics.job_state.labels(job=job, state=state).set(state == standing.state)

    def age_s(self, job: str) -> float:
        """Since the job's newest run, whoever did it."""
        return self._standings[job].last_age_s + trio.current_time() - self._read_at[job]

    async def read(self) -> None:
        """Jobs that the books do not know are enrolled. Raises: RetryableError."""
        puts = self._puts.copy()
        read = await self._book.standings()
        if not self._standings or not self._intervals_s.keys() <= read.keys():
            await self._book.enroll(self._intervals_s)
            read = await self._book.standings()
        for job in self._intervals_s:
            if self._puts[job] == puts[job] and read[job] != self._standings.get(job):
                self.put(job, read[job])

    def changes(self) -> Iterator[tuple[str, Standing | None, Standing]]:
        """Since the last call: job, before (None in the first one), after."""
        for job, after in self._standings.items():
            before = self._told.get(job)
            if before != after:
                self._told[job] = after
                yield job, before, after
