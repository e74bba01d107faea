"""All that a run draws, from one seed: which faults there are and how often, and then each of them.

Each run has faults of its own, some of them not at all: what only shows in calm, or only under one kind of fault, is met too.
"""

import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Probabilities, unless named with a unit."""

    storm_s: float
    pause_s_max: float  # between two things that a person does
    network_delay_s_max: float
    cut_after_s_mean: float  # a connection's life
    buffer_bytes: int  # what the network holds for a client that does not read
    stall: float  # of a client, before it reads on
    bell_lost: float
    bell_late: float
    statement_s_max: float
    statement_fails: float
    statement_crashes: float  # an error that nobody expects, in whoever asked
    commit_fails: float
    answer_lost: float  # of a commit that happened
    outages_count: int
    actor_crashes: float  # at each of the places where one can be made to
    server_crashes_count: int
    servers_count: int
    ask_cancelled: float  # a request over HTTP whose client leaves
    forgets: float  # a client that comes back with older cursors
    outbox_bytes_max: int
    room_idle_timeout_s: float


class Chance:
    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.is_stormy = True
        pick = self.dice.choice
        self.faults = Faults(
            storm_s=pick([3.0, 5.0, 8.0]),
            pause_s_max=pick([0.3, 0.8, 2.0]),
            network_delay_s_max=pick([0.0, 0.01, 0.2]),
            cut_after_s_mean=pick([1.0, 4.0, 1000.0]),
            buffer_bytes=pick([300, 3_000, 100_000]),
            stall=pick([0.0, 0.02, 0.1]),
            bell_lost=pick([0.0, 0.2, 1.0]),
            bell_late=pick([0.0, 0.3]),
            statement_s_max=pick([0.0, 0.002, 0.05, 0.4]),
            statement_fails=pick([0.0, 0.0, 0.02, 0.1]),
            statement_crashes=pick([0.0, 0.0, 0.005]),
            commit_fails=pick([0.0, 0.02]),
            answer_lost=pick([0.0, 0.05, 0.25]),
            outages_count=pick([0, 0, 1, 2]),
            actor_crashes=pick([0.0, 0.0, 0.01, 0.05]),
            server_crashes_count=pick([0, 0, 1, 2]),
            servers_count=pick([1, 1, 2]),
            ask_cancelled=pick([0.0, 0.2]),
            forgets=pick([0.0, 0.3]),
            outbox_bytes_max=pick([3_000, 8_000, 1_000_000]),
            room_idle_timeout_s=pick([0.3, 300.0]),
        )

    def happens(self, probability: float) -> bool:
        """Of a fault: never when it is calm."""
        return self.is_stormy and probability > 0 and self.dice.random() < probability

    def seconds(self, most: float) -> float:
        """Up to `most`, often little of it; none when it is calm."""
        if not self.is_stormy or most == 0:
            return 0.0
        return most * self.dice.random() ** 3
