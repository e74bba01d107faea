"""Fairness: one room of 2,000 at full speed beside 100 rooms of two that talk at a steady rate. How long do the small ones wait?

The large room is loaded and read by two processes of their own, with less right to the generator's core, so that the small rooms'
times are the server's and not the scale's. Its members read without parsing, but for those who send, who are checked as ever; of
the others it is checked that each was sent as many bytes as the events have.
"""

import multiprocessing
import os
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter

from bench.crowd import Crowd
from bench.dialing import dial
from bench.idle import LARGE_ROOMS, check_all_live, guests_of, in_groups
from bench.kernel import delivery
from bench.load import Member
from bench.processes import allow_sockets
from bench.scenarios import Place, Result, Size, chatty_serving, load_of, measured

_niceness = 10
_header_bytes_max = (
    32  # of a delivery: its frame's, and what its numbers and names may be shorter than those of another
)
_quiet_after_s = 3.0
_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True, kw_only=True)
class FairnessSize:
    """small: the rooms that are measured, at a rate. large: the one beside them, as fast as its window lets."""

    small: Size
    large: Size


@dataclass(kw_only=True)
class _Loudness:
    """What the large room did meanwhile. short: how many of its readers were not sent everything, as who lags is not."""

    messages_count: int = 0
    seconds: float = 0.0
    short_count: int = 0


def run_fairness(place: Place, size: FairnessSize) -> Result:
    """The result is that of the small rooms beside the large one."""
    large_count, small_count = size.large.members_count, size.small.members_count * size.small.rooms_count
    allow_sockets(large_count + small_count)
    with chatty_serving(place, "fairness", environment=LARGE_ROOMS) as (served, host, port):
        crowd = Crowd(data=place.directory / "fairness", host=host, port=port)
        people = crowd.admit(large_count + small_count)
        crowd.log_in(people)
        groups = [people[:large_count], *in_groups(people[large_count:], size.small.members_count)]
        arrival = dial(guests_of(groups, crowd.make_rooms(groups)), host, port)
        check_all_live(arrival)
        large = arrival.members[:large_count]
        small = in_groups(arrival.members[large_count:], size.small.members_count)
        load_of(small, size.small, messages_count=size.small.warm_up_count).run()
        alone = measured("fairness", served, load_of(small, size.small).run)
        loudness = _Loudness()
        with _loud(large, size.large, loudness):
            result = measured("fairness", served, load_of(small, size.small).run)
    result.extra = {
        "p99_ms_alone": alone.p99_ms,
        "large_members_count": large_count,
        "large_deliveries_per_s": loudness.messages_count * large_count / loudness.seconds,
        "large_short_count": loudness.short_count,
    }
    return result


@contextmanager
def _loud(members: Sequence[Member], size: Size, loudness: _Loudness) -> Iterator[None]:
    """The large room talks from before the block to its end."""
    senders, readers = members[: size.senders_count], members[size.senders_count :]
    load, load_end = _fork.Pipe()
    drain, drain_end = _fork.Pipe()
    processes = [
        _fork.Process(target=_load, args=(senders, size, load_end)),
        _fork.Process(target=_drain, args=(readers, drain_end)),
    ]
    for process in processes:
        process.start()
    load_end.close()
    drain_end.close()
    try:
        load.recv()
        yield
        load.send("enough")
        loudness.messages_count, loudness.seconds = load.recv()
        drain.send(loudness.messages_count * (len(delivery()) - _header_bytes_max))
        loudness.short_count = drain.recv()
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _load(senders: Sequence[Member], size: Size, pipe: Connection) -> None:
    """Rounds until it is enough. Says so after the first; then how many messages, in how many seconds."""
    os.nice(_niceness)
    messages_count, began = 0, perf_counter()
    while not pipe.poll():
        load_of([senders], size).run()
        messages_count += size.messages_count
        if messages_count == size.messages_count:
            pipe.send("loud")
    seconds = perf_counter() - began
    pipe.recv()
    pipe.send((messages_count, seconds))


def _drain(readers: Sequence[Member], pipe: Connection) -> None:
    """Read until it is known how many bytes there should be, and they are there or nothing comes. Says how many fell short."""
    os.nice(_niceness)
    poll = select.epoll()
    sockets = {reader.socket.fileno(): reader.socket for reader in readers}
    counts = dict.fromkeys(sockets, 0)
    for descriptor in sockets:
        poll.register(descriptor, select.EPOLLIN)
    buffer, wanted = bytearray(262_144), None
    while True:
        ready = poll.poll(0.1 if wanted is None else _quiet_after_s)
        for descriptor, _ in ready:
            count = os.readv(descriptor, [buffer])
            counts[descriptor] += count
            if not count:
                poll.unregister(descriptor)
        if wanted is None and pipe.poll():
            wanted = pipe.recv()
        if wanted is not None and (not ready or min(counts.values()) >= wanted):
            pipe.send(sum(count < wanted for count in counts.values()))
            return
