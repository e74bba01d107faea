"""PostgreSQL for a peer: the binaries that Chatty runs on, a cluster of its own, everything durable as by default.

It listens on a loopback port without passwords, because not every peer knows Unix sockets; and lives as long as one measurement.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Served, serving
from bench.scenarios import Place, free_port, wait_for_port
from chatty.store.embedded.places import fallback_root_default, prepare_places

USER = "bench"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "logging_collector": "off",
}


@dataclass(frozen=True, kw_only=True)
class Database:
    served: Served
    port: int
    binaries: Path

    def run(self, sql: str, *, database: str = "postgres") -> str:
        """Raises: subprocess.CalledProcessError."""
        return self._psql(database, "-c", sql)

    def run_file(self, path: Path, *, database: str) -> None:
        """Raises: subprocess.CalledProcessError."""
        self._psql(database, "-f", str(path))

    def _psql(self, database: str, *arguments: str) -> str:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "-d", database]
        command = [str(self.binaries / "psql"), *where, "-qtAX", "-v", "ON_ERROR_STOP=1", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def open_database(place: Place) -> Iterator[Database]:
    places, port = prepare_places(place.directory / "postgres", fallback_root=fallback_root_default), free_port()
    command = [str(places.binaries / "initdb"), "-D", str(places.data), "-U", USER, "-A", "trust", "-E", "UTF8"]
    subprocess.run([*command, "--locale=C"], check=True, capture_output=True, **places.account.popen_options())
    arguments = ["-D", str(places.data), "-p", str(port)]
    for name, value in _SETTINGS.items():
        arguments += ["-c", f"{name}={value}"]
    with serving(
        arguments,
        program=str(places.binaries / "postgres"),
        cores=place.cores,
        log=place.directory / "postgres.log",
        account=(places.account.uid, places.account.gid),
    ) as served:
        wait_for_port(served, port)
        yield Database(served=served, port=port, binaries=places.binaries)
