"""The scenarios: each starts a server of its own on one core, loads it from another, and gives the median of its rounds.

echo    Quart-Trio alone: one message in and out          A       50 members in one room
insert  the journal's inserts alone, groups of 64         B       100 rooms of two
A-plain, B-plain   the same with CHATTY_DIRECT_PATH=off
slow    A with 16 kB a message, without and with one more member, who never reads
"""

import socket
import statistics
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import msgspec

from bench.insert import GROUP_ROWS
from bench.load import Load, Member, Outcome, connect
from bench.people import MadeRoom, Person, Town
from bench.processes import Cores, Served, Usage, serving
from bench.sockets import ClientSocket
from chatty.config import limiters

start_timeout_s = 60.0
_UP = "from chatty.cli import main; main()"
WITHOUT_LIMITS = {f"CHATTY_LIMIT_{name.upper()}": "off" for name in limiters()}  # one machine plays a thousand people


@dataclass(frozen=True, kw_only=True)
class Size:
    """rounds: measured ones; the first, not measured, warms up. window: messages in flight over all rooms."""

    members_count: int
    rooms_count: int
    messages_count: int
    senders_count: int
    ciphertext_bytes: int
    window: int
    rounds_count: int
    warm_up_count: int


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One scenario's medians. path: of the sockets, direct or plain; empty for what is no chat.

    server: the process tree without PostgreSQL; µs are of CPU, ms of the clock at the clients.
    """

    scenario: str
    path: str = ""
    deliveries_per_s: float
    server_us_per_delivery: float
    messages_per_s: float
    server_us_per_message: float
    database_us_per_message: float
    p50_ms: float
    p99_ms: float
    messages_count: int = 0
    rounds_count: int = 1
    resync_count: int = 0
    extra: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where things are put and on which cores they run. directory: one that other accounts may enter."""

    directory: Path
    cores: Cores


def measure(name: str, served: Served, load: Load) -> Result:
    return measured(name, served, load.run)


def measured(name: str, served: Served, run: Callable[[], Outcome]) -> Result:
    before = served.usage()
    outcome = run()
    return _result(name, outcome, served.usage() - before)


def _result(name: str, outcome: Outcome, used: Usage) -> Result:
    return Result(
        scenario=name,
        deliveries_per_s=outcome.deliveries_count / outcome.seconds,
        server_us_per_delivery=used.server_s * 1e6 / outcome.deliveries_count,
        messages_per_s=outcome.messages_count / outcome.seconds,
        server_us_per_message=used.server_s * 1e6 / outcome.messages_count,
        database_us_per_message=used.database_s * 1e6 / outcome.messages_count,
        p50_ms=outcome.percentile(0.5),
        p99_ms=outcome.percentile(0.99),
        messages_count=outcome.messages_count,
        resync_count=outcome.resync_count,
    )


def median(results: Sequence[Result], **extra: Any) -> Result:
    """Field by field."""

    def middle(name: str) -> float:
        return float(statistics.median(getattr(one, name) for one in results))

    names = [one.name for one in msgspec.structs.fields(Result) if one.type is float]
    figures = {name: middle(name) for name in names}
    resyncs = sum(one.resync_count for one in results)
    return msgspec.structs.replace(results[0], **figures, rounds_count=len(results), resync_count=resyncs, extra=extra)


# A chat server -------------------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def chatty_serving(
    place: Place, name: str, *, environment: Mapping[str, str] | None = None, program: str = _UP
) -> Iterator[tuple[Served, str, int]]:
    """`chatty up` with everything as shipped, on an empty data directory; and its host and port. program: another one."""
    data, port = place.directory / name, _free_port()
    data.mkdir(mode=0o755)
    variables = {
        "CHATTY_DATA_DIR": str(data),
        "CHATTY_PORT": str(port),
        "CHATTY_PUBLIC_ORIGIN": f"http://127.0.0.1:{port}",
        **WITHOUT_LIMITS,
        **(environment or {}),
    }
    arguments = ["-c", program, "up"]
    with serving(arguments, cores=place.cores, log=data.with_suffix(".log"), environment=variables) as served:
        _wait_for_port(served, port)
        yield served, "127.0.0.1", port


def _wait_for_port(served: Served, port: int) -> None:
    deadline = perf_counter() + start_timeout_s
    while perf_counter() < deadline:
        served.check_running()
        try:
            with socket.create_connection(("127.0.0.1", port), 0.2):
                return
        except OSError:
            sleep(0.05)
    raise RuntimeError(f"no server on port {port} within {start_timeout_s} s")


@dataclass(kw_only=True)
class Settled:
    """People with their rooms, connected."""

    rooms: list[list[Member]]
    made: list[MadeRoom]
    people: list[list[Person]]


def settle(host: str, port: int, size: Size) -> Settled:
    town = Town(f"http://{host}:{port}")
    members, made, people = [], [], []
    for room in range(size.rooms_count):
        people.append([town.enrol(f"p{room}.{index}") for index in range(size.members_count)])
        made.append(town.make_room(people[-1]))
        members.append(connect(made[-1], people[-1], host=host, port=port))
    town.close()
    return Settled(rooms=members, made=made, people=people)


def _load(settled: Settled, size: Size, *, messages_count: int | None = None) -> Load:
    return Load(
        rooms=settled.rooms,
        messages_count=messages_count or size.messages_count,
        senders_count=size.senders_count,
        window=size.window,
        ciphertext_bytes=size.ciphertext_bytes,
    )


def run_chat(name: str, path: str, place: Place, size: Size) -> Result:
    """Scenarios A and B."""
    environment = {"CHATTY_DIRECT_PATH": "auto" if path == "direct" else "off"}
    with chatty_serving(place, name, environment=environment) as (served, host, port):
        settled = settle(host, port, size)
        _load(settled, size, messages_count=size.warm_up_count).run()
        results = [measure(name, served, _load(settled, size)) for _ in range(size.rounds_count)]
        found = median(results, rss_mb=served.rss_bytes() / 1e6)
        return msgspec.structs.replace(found, path=path)


# One that never reads ------------------------------------------------------------------------------------------------


def run_slow(place: Place, size: Size) -> Result:
    """Rounds without and with the silent member alternate; `p99_ms` is that of the others beside it."""
    with chatty_serving(place, "slow") as (served, host, port):
        town = Town(f"http://{host}:{port}")
        people = [town.enrol(f"s{index}") for index in range(size.members_count + 1)]
        made = town.make_room(people)
        town.close()
        settled = Settled(rooms=[connect(made, people[:-1], host=host, port=port)], made=[made], people=[people])
        _load(settled, size).run()
        alone, beside, growths = [], [], []
        for _ in range(size.rounds_count):
            alone.append(measure("slow", served, _load(settled, size)))
            one, growth = _measure_beside_silent(served, settled, size, host=host, port=port)
            beside.append(one)
            growths.append(growth)
        without = median(alone).p99_ms
        result = median(beside)
        result.extra = {
            "p99_ms_without": without,
            "p99_ratio": result.p99_ms / without,
            "rss_growth_mb": max(growths) / 1e6,
            "others_count": size.members_count,
            "ciphertext_bytes": size.ciphertext_bytes,
        }
        return result


def _measure_beside_silent(served: Served, settled: Settled, size: Size, *, host: str, port: int) -> tuple[Result, int]:
    """The silent one is connected and up to date, and reads nothing from then on."""
    silent = Member(settled.people[0][-1], settled.made[0], host, port)
    try:
        silent.greet(after=settled.rooms[0][0].seq)
        served.forget_rss_peak()
        before = served.rss_bytes()
        result = measure("slow", served, _load(settled, size))
        return result, served.rss_peak_bytes() - before
    finally:
        silent.socket.close()


# Baselines -----------------------------------------------------------------------------------------------------------


def run_echo(place: Place, size: Size) -> Result:
    log = place.directory / "echo.log"
    with serving(["-m", "bench.echo"], cores=place.cores, log=log) as served:
        port = int(served.read_line())
        sockets = [ClientSocket("127.0.0.1", port, "/") for _ in range(size.window)]
        for one in sockets:
            one.go_live()
        _echo_round(sockets, size.warm_up_count, size.ciphertext_bytes)
        results = []
        for _ in range(size.rounds_count):
            before = served.usage()
            outcome = _echo_round(sockets, size.messages_count, size.ciphertext_bytes)
            results.append(_result("echo", outcome, served.usage() - before))
        return median(results)


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
        before = served.usage()
        served.tell_line()
        seconds = float(served.read_line())
        used = served.usage() - before
        served.tell_line()
        group_ms = seconds * 1000 / groups_count
        outcome = Outcome(
            seconds=seconds, latencies_ms=[group_ms], messages_count=rows_count, deliveries_count=rows_count
        )
        return _result("insert", outcome, used)
