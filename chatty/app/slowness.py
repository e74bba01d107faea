"""Why an actor is slow: a rule over what can be seen of it and of what it waits for. Sentences, the gravest first."""

from collections.abc import Iterator
from dataclasses import dataclass

from chatty.actors.runtime import Snapshot

waits_long_s = 0.5
commit_slow_ms = 50.0
mailbox_full_share = 0.8


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """commit_ms: of late, None: nothing was committed. journal: its group. room_listeners_count, lagging_count: of a room."""

    pool_is_down: bool
    pool_waiting_count: int
    pool_borrowed_count: int
    pool_connections_max: int
    commit_ms: float | None
    journal: Snapshot | None
    room_listeners_count: int = 0
    lagging_count: int = 0


def reasons(actor: Snapshot, around: Surroundings) -> list[str]:
    """Never empty."""
    found = [*_of_itself(actor), *_of_database(around), *_of_journal(actor, around), *_of_listeners(around)]
    return found or ["nothing waits here: what is slow is elsewhere, on the network or at a client"]


def _of_itself(actor: Snapshot) -> Iterator[str]:
    if actor.state == "backing off":
        yield f"it crashed and waits before it runs again; last error: {actor.last_error}"
    if actor.quarantined_count:
        yield f"{actor.quarantined_count} messages crashed it twice and were set aside"
    if actor.restart_count and actor.state != "backing off":
        times = "1 time" if actor.restart_count == 1 else f"{actor.restart_count} times"
        yield f"it was restarted {times}; last error: {actor.last_error or 'none, it was asked to'}"
    if actor.oldest_age_s > waits_long_s:
        yield f"its oldest message is {actor.oldest_age_s:.1f} s old, {actor.mailbox_count} wait behind it"
    if actor.mailbox_count_max and actor.mailbox_count > mailbox_full_share * actor.mailbox_count_max:
        yield f"its mailbox is nearly full: {actor.mailbox_count} of {actor.mailbox_count_max}; beyond it, senders are refused"


def _of_database(around: Surroundings) -> Iterator[str]:
    if around.pool_is_down:
        yield "the database cannot be reached"
    elif around.pool_waiting_count:
        yield (
            f"{around.pool_waiting_count} wait for a database connection:"
            f" {around.pool_borrowed_count} of {around.pool_connections_max} are in use"
        )


def _of_journal(actor: Snapshot, around: Surroundings) -> Iterator[str]:
    if around.commit_ms is not None and around.commit_ms > commit_slow_ms:
        yield f"commits take {around.commit_ms:.0f} ms: look at the database's disk"
    journal = around.journal
    if journal is not None and journal.name != actor.name and journal.oldest_age_s > waits_long_s:
        yield f"the journal is behind: {journal.mailbox_count} wait, the oldest {journal.oldest_age_s:.1f} s"


def _of_listeners(around: Surroundings) -> Iterator[str]:
    if around.lagging_count:
        yield f"{around.lagging_count} of {around.room_listeners_count} connected members read too slowly and must resync"
