"""What everything else is compared with, in the same run: a bare echo, a bare insert, a bare write to a socket."""

import select
import socket
from array import array
from collections.abc import Sequence
from functools import partial
from time import perf_counter

from bench.insert import GROUP_ROWS
from bench.kernel import SOCKETS_COUNT, delivery
from bench.load import Outcome
from bench.processes import Served, serving
from bench.scenarios import Place, Result, Size, measured, median
from bench.sockets import ClientSocket, open_socket


def run_echo(place: Place, size: Size) -> Result:
    log = place.directory / "echo.log"
    with serving(["-m", "bench.echo"], cores=place.cores, log=log) as served:
        port = int(served.read_line())
        sockets = [open_socket("127.0.0.1", port, "/") for _ in range(size.window)]
        for one in sockets:
            one.go_live()
        _echo_round(sockets, size.warm_up_count, size.ciphertext_bytes)
        run = partial(_echo_round, sockets, size.messages_count, size.ciphertext_bytes)
        return median([measured("echo", served, run) for _ in range(size.rounds_count)])


def _echo_round(sockets: Sequence[ClientSocket], messages_count: int, payload_bytes: int) -> Outcome:
    """One message in flight on each socket."""
    payload = b"e" * payload_bytes
    latencies_ms = array("d")
    began = perf_counter()
    sent_at = dict.fromkeys(sockets, began)
    for one in sockets:
        one.send(payload)

    def take(one: ClientSocket) -> None:
        now = perf_counter()
        latencies_ms.append((now - sent_at[one]) * 1000)
        sent_at[one] = now
        if len(latencies_ms) + len(sockets) <= messages_count:
            one.send(payload)

    messages_count = max(messages_count, len(sockets))
    while len(latencies_ms) < messages_count:
        for one in sockets:
            one.receive(lambda _, one=one: take(one))  # type: ignore[misc]
    return Outcome(
        seconds=perf_counter() - began,
        latencies_ms=latencies_ms,
        messages_count=messages_count,
        deliveries_count=messages_count,
    )


def run_insert(place: Place, size: Size) -> Result:
    """Latencies are those of a whole group, on average."""
    directory = place.directory / "insert"
    directory.mkdir(mode=0o755)
    groups_count = max(1, size.messages_count // GROUP_ROWS)
    rows_count = groups_count * GROUP_ROWS
    arguments = ["-m", "bench.insert", str(directory / "postgres"), str(rows_count)]
    with serving(arguments, cores=place.cores, log=place.directory / "insert.log") as served:
        assert served.read_line() == "ready"
        result = measured("insert", served, partial(_insert_round, served, rows_count, groups_count))
        served.tell_line()
        return result


def _insert_round(served: Served, rows_count: int, groups_count: int) -> Outcome:
    served.tell_line()
    seconds = float(served.read_line())
    group_ms = seconds * 1000 / groups_count
    return Outcome(seconds=seconds, latencies_ms=[group_ms], messages_count=rows_count, deliveries_count=rows_count)


def run_send(place: Place, size: Size) -> Result:
    """A write is a message and a delivery; latencies are none."""
    writes_count = max(1, size.messages_count // SOCKETS_COUNT) * SOCKETS_COUNT
    log = place.directory / "send.log"
    with serving(["-m", "bench.kernel", str(writes_count)], cores=place.cores, log=log) as served:
        port = int(served.read_line())
        members = [socket.create_connection(("127.0.0.1", port)) for _ in range(SOCKETS_COUNT)]
        assert served.read_line() == "ready"
        result = measured("send", served, partial(_read_writes, served, members, writes_count))
        served.tell_line()
        return result


def _read_writes(served: Served, members: Sequence[socket.socket], writes_count: int) -> Outcome:
    poll = select.epoll()
    by_descriptor = {member.fileno(): member for member in members}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    left, buffer, began = writes_count * len(delivery()), bytearray(262_144), perf_counter()
    served.tell_line()
    while left:
        for descriptor, _ in poll.poll():
            left -= by_descriptor[descriptor].recv_into(buffer)
    seconds = perf_counter() - began
    poll.close()
    return Outcome(seconds=seconds, latencies_ms=[], messages_count=writes_count, deliveries_count=writes_count)
