"""What identity costs: a log-in, a refresh, a hello, an authorised request; and a log-in without its audit row.

Each kind of operation is asked for over kept connections, several at once, from the generator's core; what is shown is the CPU of
the server's core for one. Log-ins reuse one signed statement for each person, so that the generator signs nothing meanwhile.
"""

import http.client
import json
import secrets
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from statistics import median as middle
from threading import Thread
from typing import Any

from bench.load import Outcome, greet, knock
from bench.people import Person, Town
from bench.processes import Served
from bench.scenarios import Place, Result, chatty_serving, measured, median
from bench.sockets import ClientSocket
from chatty.crypto.signatures import sign
from chatty.ids import DeviceId
from chatty.wire.signing import log_in_digest, login_bytes

WITHOUT_QUOTAS = {"CHATTY_QUOTA_DEVICES": "100000000"}
# The product but for one thing: no act is written down.
WITHOUT_AUDIT = """
from chatty.store.audit import PostgresAudit
async def record(self, **_): pass
PostgresAudit.record = record
from chatty.cli import main
main()
"""


@dataclass(frozen=True, kw_only=True)
class IdentitySize:
    """operations_count: of each kind, a round. connections_count: that ask at once. sockets_count: that are open at once."""

    people_count: int
    operations_count: int
    connections_count: int
    sockets_count: int
    rounds_count: int


Operation = Callable[[http.client.HTTPConnection], None]


def _ask(connection: http.client.HTTPConnection, path: str, body: Any, headers: dict[str, str], *, status: int) -> Any:
    method = "GET" if body is None else "POST"
    content = None if body is None else json.dumps(body).encode()
    connection.request(method, path, body=content, headers={"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != status:
        raise RuntimeError(f"{path}: {answer.status} {data[:300]!r}")
    return json.loads(data), answer.headers["DPoP-Nonce"]


class Client:
    """One person's log-ins and what follows from them."""

    def __init__(self, person: Person, connection: http.client.HTTPConnection) -> None:
        self.person = person
        salt, self.nonce = _ask(connection, "/v1/salt", {"user": person.user}, {}, status=200)
        self.refresh_token = ""
        self._login = {"user": person.user, "nonce": salt["nonce"], "dpop_thumbprint": person.dpop.thumbprint}

    def log_in(self, connection: http.client.HTTPConnection) -> None:
        device = self.person.device = DeviceId("B" + secrets.token_hex(12))
        statement = login_bytes(
            **self._login, origin=self.person.origin, purpose="login", about=log_in_digest(device=device)
        )
        signature = sign(self.person.login_seed, statement)
        body = {**self._login, "new_device": {"device": device}, "signature": signature}
        tokens, self.nonce = _ask(connection, "/v1/login", body, {}, status=201)
        self.person.access_token, self.refresh_token = tokens["access_token"], tokens["refresh_token"]

    def refresh(self, connection: http.client.HTTPConnection) -> None:
        headers = {"DPoP": self._proof("POST", "/v1/token", access_token="")}
        body = {"refresh_token": self.refresh_token}
        tokens, self.nonce = _ask(connection, "/v1/token", body, headers, status=200)
        self.person.access_token, self.refresh_token = tokens["access_token"], tokens["refresh_token"]

    def request(self, connection: http.client.HTTPConnection) -> None:
        self.get(connection, "/v1/account")

    def get(self, connection: http.client.HTTPConnection, path: str, *, query: str = "") -> Any:
        token = self.person.access_token
        headers = {"Authorization": f"DPoP {token}", "DPoP": self._proof("GET", path, access_token=token)}
        answer, self.nonce = _ask(connection, path + query, None, headers, status=200)
        return answer

    def _proof(self, method: str, path: str, *, access_token: str) -> str:
        return self.person.dpop.proof(
            method=method,
            url=self.person.origin + path,
            nonce=self.nonce,
            jti=secrets.token_urlsafe(12),
            now_s=time.time(),
            access_token=access_token,
        )


def ask_all(host: str, port: int, operations: Sequence[Operation], *, connections_count: int) -> Outcome:
    """Each once, so many at a time. The first that fails ends the run."""
    waiting: SimpleQueue[Operation] = SimpleQueue()
    for one in operations:
        waiting.put(one)
    latencies_ms, failures = array("d"), SimpleQueue[BaseException]()
    began = time.perf_counter()

    def work() -> None:
        connection = http.client.HTTPConnection(host, port, timeout=60)
        try:
            while failures.empty():
                operation, at = waiting.get_nowait(), time.perf_counter()
                operation(connection)
                latencies_ms.append((time.perf_counter() - at) * 1000)
        except Empty:
            pass
        except BaseException as error:
            failures.put(error)
            raise
        finally:
            connection.close()

    threads = [Thread(target=work) for _ in range(connections_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not failures.empty():
        raise RuntimeError("an operation failed") from failures.get()
    count = len(operations)
    return Outcome(
        seconds=time.perf_counter() - began,
        latencies_ms=latencies_ms,
        messages_count=count,
        deliveries_count=count,
    )


@contextmanager
def people_at(host: str, port: int, count: int) -> Iterator[list[Client]]:
    """Enrolled, and about to log in."""
    town = Town(f"http://{host}:{port}")
    connection = http.client.HTTPConnection(host, port, timeout=60)
    people = [town.enrol(f"i{index}") for index in range(count)]
    yield [Client(person, connection) for person in people]
    connection.close()
    town.close()


def run_identity(place: Place, size: IdentitySize) -> list[Result]:
    """Scenarios log_in, refresh, request, connect and hello, on one server."""
    with (
        chatty_serving(place, "identity", environment=WITHOUT_QUOTAS) as (served, host, port),
        people_at(host, port, size.people_count) as clients,
    ):
        kinds: dict[str, list[Result]] = {}
        for _ in range(1 + size.rounds_count):
            for name, operation in (
                ("log_in", Client.log_in),
                ("refresh", Client.refresh),
                ("request", Client.request),
            ):
                chosen = _spread(clients, operation, size.operations_count)
                ask = partial(ask_all, host, port, chosen, connections_count=size.connections_count)
                kinds.setdefault(name, []).append(measured(name, served, ask))
            for result in _socket_rounds(served, host, port, clients, size.sockets_count):
                kinds.setdefault(result.scenario, []).append(result)
        return [median(rounds[1:]) for rounds in kinds.values()]


def _spread(
    clients: Sequence[Client], operation: Callable[[Client, http.client.HTTPConnection], None], count: int
) -> list[Operation]:
    """Over all people in turn: one person's operations do not meet, or they would wait for each other's rows."""
    return [partial(operation, clients[index % len(clients)]) for index in range(count)]


def _socket_rounds(served: Served, host: str, port: int, clients: Sequence[Client], count: int) -> list[Result]:
    """WebSockets opened, to the 101; then a hello on each, from the challenge to `resumed`. One after the other."""
    sockets: list[ClientSocket] = []

    def connect(_: int) -> None:
        sockets.append(knock(host, port))

    def say_hello(index: int) -> None:
        greet(sockets[index], clients[index % len(clients)].person, [])

    try:
        return [
            measured(name, served, partial(_in_turn, operation, count))
            for name, operation in (("connect", connect), ("hello", say_hello))
        ]
    finally:
        for socket in sockets:
            socket.close()


def _in_turn(operation: Callable[[int], None], count: int) -> Outcome:
    latencies_ms = array("d")
    began = time.perf_counter()
    for index in range(count):
        at = time.perf_counter()
        operation(index)
        latencies_ms.append((time.perf_counter() - at) * 1000)
    seconds = time.perf_counter() - began
    return Outcome(seconds=seconds, latencies_ms=latencies_ms, messages_count=count, deliveries_count=count)


def run_audit(place: Place, size: IdentitySize) -> list[Result]:
    """Log-ins at two servers in turn, of which one writes nothing into the audit log; the medians, and their ratio."""
    with (
        chatty_serving(place, "audited", environment=WITHOUT_QUOTAS) as (audited, host, port),
        chatty_serving(place, "unaudited", environment=WITHOUT_QUOTAS, program=WITHOUT_AUDIT) as (bare, _, bare_port),
        people_at(host, port, size.people_count) as with_audit,
        people_at(host, bare_port, size.people_count) as without,
    ):
        results: dict[str, list[Result]] = {"audit": [], "no_audit": []}
        for _ in range(1 + size.rounds_count):
            for name, served, at, clients in (
                ("audit", audited, port, with_audit),
                ("no_audit", bare, bare_port, without),
            ):
                operations = _spread(_renewed(clients, host, at), Client.log_in, size.operations_count)
                ask = partial(ask_all, host, at, operations, connections_count=size.connections_count)
                results[name].append(measured(name, served, ask))
        rates = {name: middle(one.messages_per_s for one in rounds[1:]) for name, rounds in results.items()}
        return [
            median(results["audit"][1:], rate_ratio=rates["audit"] / rates["no_audit"]),
            median(results["no_audit"][1:]),
        ]


def _renewed(clients: Sequence[Client], host: str, port: int) -> list[Client]:
    """A statement is good for a minute at most."""
    connection = http.client.HTTPConnection(host, port, timeout=60)
    renewed = [Client(one.person, connection) for one in clients]
    connection.close()
    return renewed
