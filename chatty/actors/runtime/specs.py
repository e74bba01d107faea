"""What is said about an actor before it runs, and what can be seen of it while it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from chatty.actors.runtime.mailbox import Mailbox

M = TypeVar("M")


class Restart(Enum):
    """When an actor that ended is started again. In a registry a normal return passivates a PERMANENT one."""

    PERMANENT = "always"
    TRANSIENT = "after a crash"
    TEMPORARY = "never"


class State(Enum):
    """Where an actor or a branch is in its life; the values stand in snapshots.

    starting ─> running ─> passive ─> starting …
                   │  └──> backing off ─> running …
                   └─────> draining ─> stopped
    suspended: its supervisor failed and has not been restarted yet.
    """

    STARTING = "starting"
    RUNNING = "running"
    BACKING_OFF = "backing off"
    DRAINING = "draining"
    PASSIVE = "passive"
    SUSPENDED = "suspended"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True)
class ActorSpec(Generic[M]):
    """How to run one actor.

    run: called anew at each start, so that its locals are the fresh state; calls `mailbox.ready()` once it is.
    mailbox_count_max: messages that may wait, those in hand not counted; no default, each actor says what it can hold.
    idle_timeout_s: without a message for so long it is passivated; a message that comes later starts it again.
    start_timeout_s: to `mailbox.ready()`, the wait for a free place in a registry included.
    drain_timeout_s: for what is queued when it is told to stop; then it is cancelled.
    """

    name: str
    run: Callable[[Mailbox[M]], Awaitable[None]]
    mailbox_count_max: int
    restart: Restart = Restart.PERMANENT
    idle_timeout_s: float | None = None
    start_timeout_s: float = 5.0
    drain_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if self.mailbox_count_max < 1:
            raise ValueError(f"{self.name}: mailbox_count_max is {self.mailbox_count_max}, must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """How many restarts are bearable: with more than restart_count_max within within_s the supervisor itself fails.

    A child waits backoff_s_min before its first restart and twice as long before each further one, up to
    backoff_s_max; one that then runs for within_s starts over at backoff_s_min.
    """

    restart_count_max: int = 3
    within_s: float = 5.0
    backoff_s_min: float = 0.1
    backoff_s_max: float = 30.0


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One actor or branch at one instant. A plain read: no message, no await, so it works while an actor hangs.

    state: a value of State. mailbox_count: waiting, without those in hand.
    oldest_age_s: age of the oldest message waiting or in hand, 0.0 when there is none.
    last_error: type and place of the last crash; never its text, which may hold content.
    children: of a supervisor, all, in start order; of a registry, those that are live.
    """

    name: str
    state: str
    mailbox_count: int = 0
    mailbox_count_max: int = 0
    oldest_age_s: float = 0.0
    handled_count: int = 0
    restart_count: int = 0
    quarantined_count: int = 0
    last_error: str | None = None
    children: Sequence[Snapshot] = ()


@dataclass(frozen=True, kw_only=True)
class Load:
    """One branch at one instant, added up: cheap enough to be asked of ten thousand actors every few seconds.

    mailbox_count: messages that wait. oldest_age_s: of the oldest that waits or is in hand, 0.0 when there is none.
    """

    branch: str
    actors_count: int
    mailbox_count: int
    oldest_age_s: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some actors of a branch, to be weighed. roots: for each, the objects on which hangs what it holds."""

    branch: str
    actors_count: int
    roots: Sequence[Sequence[object]]


class Observer(Protocol):
    """Who opened a tree is told here what goes wrong in it. Neither may wait or raise."""

    def note_crash(self, branch: str, error: Exception) -> None:
        """An actor of this branch crashed or could not start."""

    def note_restart(self, branch: str) -> None:
        """An actor of this branch, or the branch itself, is started again."""


class Unobserved(Observer):
    """Nobody looks."""

    def note_crash(self, branch: str, error: Exception) -> None:
        return

    def note_restart(self, branch: str) -> None:
        return
