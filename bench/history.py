"""Scenario F: what was missed. A room's messages fetched in pages over HTTP, and by a hello whose cursor is behind them.

Whoever reads checks that each is there, in order. Neither makes the generator sign or parse much: it counts what comes.
"""

import http.client
from collections.abc import Callable
from functools import partial
from time import perf_counter

import msgspec

from bench.identity import Client
from bench.load import Outcome, knock, make_hello
from bench.people import MadeRoom, Person
from bench.scenarios import Place, Result, Size, chatty_serving, load_of, measured, median, settle
from bench.sockets import SocketError
from chatty.ids import Seq
from chatty.wire import frames
from chatty.wire.limits import page_events_max


class _Entry(msgspec.Struct):
    """What the scale reads of whatever comes while a session resumes."""

    type: str
    seq: int = 0


_decode = msgspec.msgpack.Decoder(list[_Entry]).decode


def run_history(place: Place, size: Size) -> list[Result]:
    """Results F-history and F-resume: messages are those read, latencies those of a page, of a resumption."""
    with chatty_serving(place, "F") as (served, host, port):
        settled = settle(host, port, size)
        load_of(settled.rooms, size).run()
        (person, *_), made, member = settled.people[0], settled.made[0], settled.rooms[0][0]
        reads: dict[str, Callable[[], Outcome]] = {
            "F-history": partial(_read_pages, person, made, member.seq, host, port),
            "F-resume": partial(_resume, person, made, member.seq, host, port),
        }
        rounds: dict[str, list[Result]] = {name: [] for name in reads}
        for _ in range(1 + size.rounds_count):
            for name, read in reads.items():
                rounds[name].append(measured(name, served, read))
        return [median(found[1:]) for found in rounds.values()]


def _read_pages(person: Person, made: MadeRoom, newest: Seq, host: str, port: int) -> Outcome:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    client = Client(person, connection)
    latencies_ms, at, began = [], made.seq, perf_counter()
    while at < newest:
        asked = perf_counter()
        query = f"?after={at}&limit={page_events_max}"
        page = client.get(connection, f"/v1/rooms/{made.room}/events", query=query)
        latencies_ms.append((perf_counter() - asked) * 1000)
        for entry in page["entries"]:
            at = _follow(at, entry["seq"])
    seconds = perf_counter() - began
    connection.close()
    return _outcome(newest - made.seq, seconds, latencies_ms)


def _resume(person: Person, made: MadeRoom, newest: Seq, host: str, port: int) -> Outcome:
    """From the hello on; the handshake is not counted."""
    socket = knock(host, port)
    [challenge] = frames.decode_events(socket.next_message(), encoding="msgpack")
    assert isinstance(challenge, frames.Challenge)
    began = perf_counter()
    socket.send_now(make_hello(person, challenge.nonce, [frames.Cursor(room=made.room, seq=made.seq)]))
    at, is_over = made.seq, False
    while not is_over:
        for entry in _decode(socket.next_message()):
            if entry.type == "event":
                at = _follow(at, entry.seq)
            elif entry.type in ("error", "lagging"):
                raise SocketError(f"{entry.type} after seq {at}")
            is_over = is_over or entry.type == "resumed"
    seconds = perf_counter() - began
    socket.close()
    if at != newest:
        raise SocketError(f"resumed at seq {at}, not {newest}")
    return _outcome(newest - made.seq, seconds, [seconds * 1000])


def _follow(at: Seq, seq: int) -> Seq:
    if seq != at + 1:
        raise SocketError(f"seq {seq} after {at}")
    return Seq(seq)


def _outcome(count: int, seconds: float, latencies_ms: list[float]) -> Outcome:
    return Outcome(seconds=seconds, latencies_ms=latencies_ms, messages_count=count, deliveries_count=count)
