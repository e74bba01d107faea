"""The scenarios: each starts a server of its own on one core, loads it from another, and gives the median of its rounds.

echo    Quart-Trio alone: one message in and out          A       50 members in one room
insert  the journal's inserts alone, groups of 64         B       100 rooms of two
send    the kernel alone: a delivery's bytes written      C       A at 100 messages a second
A-plain, B-plain, C-plain   the same with CHATTY_DIRECT_PATH=off
slow    A with 16 kB a message, without and with one more member, who never reads
"""

import socket
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time, sleep
from typing import Any, Protocol

import msgspec

from bench.load import Load, Member, Outcome, Participant, connect, knock
from bench.people import MadeRoom, Person, Town
from bench.processes import Cores, Served, Usage, serving
from chatty.config import limiters

start_timeout_s = 60.0
_UP = "from chatty.cli import main; main()"
WITHOUT_LIMITS = {f"CHATTY_LIMIT_{name.upper()}": "off" for name in limiters()}  # one machine plays a thousand people


@dataclass(frozen=True, kw_only=True)
class Size:
    """rounds: measured ones; the first, not measured, warms up. window: messages in flight over all rooms.
    rate_per_s: messages, whatever is in flight; 0: as the window lets.
    """

    members_count: int
    rooms_count: int
    messages_count: int
    senders_count: int
    ciphertext_bytes: int
    window: int
    rounds_count: int
    warm_up_count: int
    rate_per_s: float = 0.0


class Result(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One scenario's medians. path: of the sockets, direct or plain; empty for what is no chat.

    server: the process tree without PostgreSQL; µs are of CPU, ms of the clock at the clients. generator_share: of its core,
    used by what measures; near 1 the rate is the generator's.
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
    generator_share: float = 0.0
    messages_count: int = 0
    rounds_count: int = 1
    resync_count: int = 0
    extra: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where things are put and on which cores they run. directory: one that other accounts may enter.

    template: a data directory that servers begin with; None: each makes its own.
    """

    directory: Path
    cores: Cores
    template: Path | None = None


@contextmanager
def open_place(cores: Cores, *, template: Path | None = None) -> Iterator[Place]:
    """PostgreSQL never runs as root, so its account must be able to enter; the disk is that of the temporary files."""
    with tempfile.TemporaryDirectory(prefix="chatty-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield Place(directory=directory, cores=cores, template=template)


class Metered(Protocol):
    """Whatever says what it has used."""

    def usage(self) -> Usage: ...


def measure(name: str, served: Metered, load: Load) -> Result:
    return measured(name, served, load.run)


def measured(name: str, served: Metered, run: Callable[[], Outcome]) -> Result:
    before, own_s = served.usage(), process_time()
    outcome = run()
    own_s, used = process_time() - own_s, served.usage() - before
    return make_result(name, outcome, used, generator_share=own_s / used.at_s)


def make_result(name: str, outcome: Outcome, used: Usage, *, generator_share: float = 0.0) -> Result:
    return Result(
        scenario=name,
        deliveries_per_s=outcome.deliveries_count / outcome.seconds,
        server_us_per_delivery=used.server_s * 1e6 / outcome.deliveries_count,
        messages_per_s=outcome.messages_count / outcome.seconds,
        server_us_per_message=used.server_s * 1e6 / outcome.messages_count,
        database_us_per_message=used.database_s * 1e6 / outcome.messages_count,
        p50_ms=outcome.percentile(0.5),
        p99_ms=outcome.percentile(0.99),
        generator_share=generator_share,
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


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def chatty_serving(
    place: Place,
    name: str,
    *,
    environment: Mapping[str, str] | None = None,
    program: str = _UP,
    port: int | None = None,
) -> Iterator[tuple[Served, str, int]]:
    """`chatty up` with everything as shipped, on the data directory `name`, without accounts at first; and its host and port.

    program: another one. port: of a server that was there before; its clients know it.
    """
    data, port = place.directory / name, port or free_port()
    _make_data(data, place.template)
    variables = {
        "CHATTY_DATA_DIR": str(data),
        "CHATTY_PORT": str(port),
        "CHATTY_PUBLIC_ORIGIN": f"http://127.0.0.1:{port}",
        **WITHOUT_LIMITS,
        **(environment or {}),
    }
    arguments = ["-c", program, "up"]
    with serving(arguments, cores=place.cores, log=data.with_suffix(".log"), environment=variables) as served:
        wait_for_port(served, port)
        yield served, "127.0.0.1", port


def _make_data(data: Path, template: Path | None) -> None:
    if not data.exists() and template is not None:
        subprocess.run(["/bin/cp", "-a", str(template), str(data)], check=True)  # owners too: PostgreSQL's account
    data.mkdir(mode=0o755, exist_ok=True)


def make_template(place: Place) -> Path:
    """The data directory of a server that was started once."""
    with chatty_serving(place, "template"):
        return place.directory / "template"


def wait_for_port(served: Served, port: int) -> None:
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


def load_of(rooms: Sequence[Sequence[Participant]], size: Size, *, messages_count: int | None = None) -> Load:
    """messages_count: other than the size's, to warm up, which is done at no rate."""
    return Load(
        rooms=rooms,
        messages_count=messages_count or size.messages_count,
        senders_count=size.senders_count,
        window=size.window,
        ciphertext_bytes=size.ciphertext_bytes,
        rate_per_s=0.0 if messages_count else size.rate_per_s,
    )


def run_chat(name: str, path: str, place: Place, size: Size) -> Result:
    """Scenarios A, B and C."""
    environment = {"CHATTY_DIRECT_PATH": "auto" if path == "direct" else "off"}
    with chatty_serving(place, name, environment=environment) as (served, host, port):
        settled = settle(host, port, size)
        load_of(settled.rooms, size, messages_count=size.warm_up_count).run()
        results = [measure(name, served, load_of(settled.rooms, size)) for _ in range(size.rounds_count)]
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
        load_of(settled.rooms, size).run()
        alone, beside, growths = [], [], []
        for _ in range(size.rounds_count):
            alone.append(measure("slow", served, load_of(settled.rooms, size)))
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
    silent = Member(settled.people[0][-1], settled.made[0], knock(host, port))
    try:
        silent.greet(after=settled.rooms[0][0].seq)
        served.forget_rss_peak()
        before = served.rss_bytes()
        result = measure("slow", served, load_of(settled.rooms, size))
        return result, served.rss_peak_bytes() - before
    finally:
        silent.socket.close()
