"""Scenario E: the server restarts, and all its sessions come back at once, each as its client would (dialing.py)."""

from time import perf_counter

from bench.dialing import dial
from bench.idle import LARGE_ROOMS, CrowdSize, check_all_live, crowd_at
from bench.processes import allow_sockets
from bench.scenarios import Place, Result, chatty_serving, make_result

timeout_s = 300.0


def run_reconnect(place: Place, size: CrowdSize) -> Result:
    """Messages are sessions, latencies the times until each was live, from when the port was open again.

    An orderly stop, then a start on the same data; nobody waits before the first try, so that all come in one wave.
    """
    allow_sockets(size.sessions_count)
    with chatty_serving(place, "E", environment=LARGE_ROOMS) as (_, host, port):
        _, guests = crowd_at(
            place.directory / "E",
            host,
            port,
            sessions_count=size.sessions_count,
            members_count=size.members_count,
        )
        arrival = dial(guests, host, port)
        check_all_live(arrival)
        stopping_at = perf_counter()
    for member in arrival.members:
        member.socket.close()
    with chatty_serving(place, "E", environment=LARGE_ROOMS, port=port) as (served, host, port):
        down_s = perf_counter() - stopping_at
        before = served.usage()
        again = dial(guests, host, port, at_once=len(guests), timeout_s=timeout_s)
        result = make_result("E", again.outcome, served.usage() - before)
    result.extra = {
        "sessions_count": len(guests),
        "all_live_s": again.seconds,
        "lost_count": again.lost_count,
        "errors_count": sum(again.errors.values()),
        "errors": dict(again.errors),
        "down_s": down_s,
    }
    return result
