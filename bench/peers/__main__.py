"""Chatty and its peers, one after the other, in the scenarios A to D: `make bench-peers`. About six minutes with ejabberd.

    python -m bench.peers [--peers ejabberd prosody] [--only A D] [--rounds 3] [--small] [--no-save]

Peers come from Debian's packages, which root installs where they are missing. The lines behind `peer/chatty` are ratios.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from time import sleep
from typing import Any

import msgspec

from bench import idle, results, scenarios
from bench.idle import CrowdSize
from bench.load import Outcome
from bench.peers.servers import PEERS, Peer, RunningPeer, install, running, version
from bench.peers.xmpp import XmppMember
from bench.processes import allow_sockets, choose_cores, pin
from bench.scenarios import Place, Result, Size, load_of, make_result, measured, median, open_place
from bench.sizes import sizes, small_sizes

SCENARIOS = ("A", "B", "C", "D")
CHATTY = "chatty"
FIGURES = ("server_us_per_delivery", "server_us_per_message", "database_us_per_message", "p50_ms", "p99_ms")
IDLE_FIGURES = ("session_kb", "online_cpu_ms")

PAUSE_S = 1.0  # for what members are told of those who came after them
Run = Callable[[Place], Result]


def bring(server: RunningPeer, *, rooms_count: int, members_count: int) -> list[list[XmppMember]]:
    """Online, one after the other; nobody is in a room yet."""
    rooms = []
    for room in range(rooms_count):
        users = range(room * members_count, (room + 1) * members_count)
        rooms.append([_log_in(server, f"h{user}", room, index) for index, user in enumerate(users)])
    return rooms


def _log_in(server: RunningPeer, user: str, room: int, index: int) -> XmppMember:
    member = XmppMember("127.0.0.1", server.port, user=user, room=f"b{room}@conference.localhost", index=index)
    member.log_in()
    return member


def enter(rooms: Sequence[Sequence[XmppMember]]) -> None:
    """Member by member, so that the rooms fill in order."""
    for members in zip(*rooms, strict=True):
        for member in members:
            member.join()
    sleep(PAUSE_S)
    for room in rooms:
        for member in room:
            member.go_live()


def run_chat(peer: Peer, name: str, size: Size, place: Place) -> Result:
    """A, B and C. Raises: RuntimeError when the archive does not hold every message."""
    with running(peer, place) as server:
        peer.add_accounts(server.database, size.rooms_count * size.members_count)
        rooms = bring(server, rooms_count=size.rooms_count, members_count=size.members_count)
        enter(rooms)
        load_of(rooms, size, messages_count=size.warm_up_count).run()
        result = median([measured(name, server, load_of(rooms, size).run) for _ in range(size.rounds_count)])
        sleep(PAUSE_S)
        wanted, kept = (
            size.warm_up_count + size.rounds_count * size.messages_count,
            peer.archived_count(server.database),
        )
        if kept != wanted:
            raise RuntimeError(f"the archive of {peer.name} holds {kept} of {wanted} messages")
        return result


def run_idle(peer: Peer, size: CrowdSize, place: Place) -> Result:
    """D. A log-in is a connection with authentication and presence; a session's memory holds its place in a room too."""
    rooms_count = size.sessions_count // size.members_count
    allow_sockets(size.sessions_count)
    with running(peer, place) as server:
        peer.add_accounts(server.database, size.sessions_count)
        at_start, before = server.served.rss_bytes(), server.usage()
        rooms = bring(server, rooms_count=rooms_count, members_count=size.members_count)
        used = server.usage() - before
        enter(rooms)
        sleep(size.hold_s)
        growth = server.served.rss_bytes() - at_start
    outcome = Outcome(
        seconds=used.at_s, latencies_ms=[], messages_count=size.sessions_count, deliveries_count=size.sessions_count
    )
    result = make_result("D", outcome, used)
    result.extra = {
        "sessions_count": size.sessions_count,
        "session_kb": growth / 1000 / size.sessions_count,
        "online_cpu_ms": result.server_us_per_message / 1000,
    }
    return result


def runs_of(name: str, chosen: dict[str, Any]) -> dict[str, Run]:
    """The four scenarios at Chatty, or at a peer."""
    if name == CHATTY:
        chat = {one: partial(scenarios.run_chat, one, "direct", size=chosen[one]) for one in "ABC"}
        return {**chat, "D": partial(idle.run_idle, size=chosen["D"])}
    peer = PEERS[name]
    return {
        **{one: partial(run_chat, peer, one, chosen[one]) for one in "ABC"},
        "D": partial(run_idle, peer, chosen["D"]),
    }


def ratios(peer: str, theirs: Sequence[Result], ours: Sequence[Result]) -> list[str]:
    """A line a scenario: each figure of the peer by Chatty's."""
    lines = []
    for own, other in zip(ours, theirs, strict=True):
        pairs = {figure: (getattr(own, figure), getattr(other, figure)) for figure in FIGURES}
        if own.scenario == "D":
            pairs = {figure: (own.extra[figure], other.extra[figure]) for figure in IDLE_FIGURES}
        shown = [f"{figure} {other_ / own_:.2f}" for figure, (own_, other_) in pairs.items() if own_]
        lines.append(f"{own.scenario}  {peer}/{CHATTY}:  " + "  ".join(shown))
    return lines


def run_all(peers: Sequence[str], only: Sequence[str], chosen: dict[str, Any], *, is_saved: bool) -> None:
    cores = choose_cores()
    pin(cores.generator)
    found: dict[str, list[Result]] = {}
    print(results.HEADING, end="")
    for name in (CHATTY, *peers):
        label = name if name == CHATTY else f"{name} {version(PEERS[name])}"
        print(label)
        for scenario, run in runs_of(name, chosen).items():
            if scenario in only:
                with open_place(cores) as place:
                    new = run(place)
                found.setdefault(name, []).append(new)
                print(results.show(new), flush=True)
    for name in peers:
        print("\n".join(ratios(name, found[name], found[CHATTY])))
    if is_saved:
        named = [
            msgspec.structs.replace(one, scenario=f"{name}-{one.scenario}")
            for name, all_ in found.items()
            for one in all_
        ]
        path = results.save(results.make_run(named, is_pinned=cores.are_pinned))
        print(f"saved as {path.name}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=["ejabberd"], metavar="PEER")
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, default=SCENARIOS, metavar="SCENARIO")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of A, B and C; the median is shown")
    parser.add_argument("--small", action="store_true", help="tiny counts: does it work at all?")
    parser.add_argument("--no-save", action="store_true", help="write no result file")
    chosen = parser.parse_args()
    install([PEERS[name] for name in chosen.peers])
    counts = small_sizes() if chosen.small else sizes(chosen.rounds)
    run_all(chosen.peers, chosen.only, counts, is_saved=not chosen.no_save and not chosen.small)


if __name__ == "__main__":
    main()
