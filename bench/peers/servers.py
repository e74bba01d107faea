"""The peers that are measured: what Debian calls them, how each is set up, started, given accounts, and asked what it keeps.

Each runs on the server's core with a PostgreSQL of its own (database.py), under its own account, all messages archived. Passwords
are kept as each keeps them by default; what is put into the store is the salted hash of one password.
"""

import base64
import gzip
import hashlib
import hmac
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Protocol

from bench.peers.database import Database, open_database
from bench.peers.xmpp import PASSWORD
from bench.processes import Served, Usage, serving
from bench.scenarios import Place, free_port, start_timeout_s, wait_for_port

_HERE = Path(__file__).parent
_SALT = b"bench-salt-16byt"


class Peer(Protocol):
    """name: also of its database and account. packages: of Debian; the first is the server."""

    @property
    def name(self) -> str: ...

    @property
    def packages(self) -> Sequence[str]: ...

    def prepare(self, database: Database) -> None:
        """Make the tables that the server does not make by itself."""
        ...

    def command(self, directory: Path, *, port: int, database_port: int) -> tuple[list[str], Mapping[str, str]]:
        """Program, arguments and environment, with its configuration written into the directory."""
        ...

    def add_accounts(self, database: Database, count: int) -> None:
        """h0, h1 and so on."""
        ...

    def archived_count(self, database: Database) -> int: ...


@dataclass(kw_only=True)
class RunningPeer:
    """served: the server alone. usage(): with its database's part."""

    peer: Peer
    served: Served
    database: Database
    port: int

    def usage(self) -> Usage:
        server, database = self.served.usage(), self.database.served.usage()
        return Usage(server_s=server.server_s, database_s=database.database_s + database.server_s, at_s=server.at_s)


def install(peers: Sequence[Peer]) -> None:
    """What is missing, as root, from Debian; none of them is started by that. Raises: SystemExit where it cannot be."""
    wanted = sorted({package for peer in peers for package in peer.packages if not _is_installed(package)})
    if not wanted:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(f"these packages are needed, and only root on Debian can install them: {' '.join(wanted)}")
    # A policy that forbids starting services, unless the machine has one.
    policy = Path("/usr/sbin/policy-rc.d")
    is_ours = not policy.exists()
    if is_ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install_ = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "--no-upgrade", *wanted]
        for command in (["apt-get", "update", "-qq"], install_):
            subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    finally:
        if is_ours:
            policy.unlink()


def _is_installed(package: str) -> bool:
    found = subprocess.run(["dpkg-query", "-W", "-f=${Status}", package], capture_output=True, text=True, check=False)
    return found.stdout.endswith(" installed")


def version(peer: Peer) -> str:
    command = ["dpkg-query", "-W", "-f=${Version}", peer.packages[0]]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@contextmanager
def running(peer: Peer, place: Place) -> Iterator[RunningPeer]:
    """With an empty store."""
    account = pwd.getpwnam(peer.name)
    with open_database(place) as database:
        database.run(f"CREATE DATABASE {peer.name}")
        peer.prepare(database)
        directory, port = place.directory / peer.name, free_port()
        directory.mkdir(mode=0o755)
        (program, *arguments), environment = peer.command(directory, port=port, database_port=database.port)
        shutil.chown(directory, account.pw_uid, account.pw_gid)
        for path in directory.rglob("*"):
            shutil.chown(path, account.pw_uid, account.pw_gid)
        with serving(
            arguments,
            program=program,
            cores=place.cores,
            log=place.directory / f"{peer.name}.log",
            environment=environment,
            account=(account.pw_uid, account.pw_gid),
        ) as served:
            wait_for_port(served, port)
            yield RunningPeer(peer=peer, served=served, database=database, port=port)


def _write_configuration(template: str, directory: Path, **values: object) -> Path:
    text = (_HERE / template).read_text(encoding="utf-8")
    for name, value in {"DIRECTORY": directory, **values}.items():
        text = text.replace(f"@{name}@", str(value))
    path = directory / template
    path.write_text(text, encoding="utf-8")
    return path


def _scram(iterations_count: int) -> tuple[bytes, bytes]:
    """StoredKey and ServerKey of SCRAM-SHA-1 (RFC 5802)."""
    salted = hashlib.pbkdf2_hmac("sha1", PASSWORD.encode(), _SALT, iterations_count)
    client_key = hmac.digest(salted, b"Client Key", "sha1")
    return hashlib.sha1(client_key, usedforsecurity=False).digest(), hmac.digest(salted, b"Server Key", "sha1")


class Ejabberd:
    name = "ejabberd"
    packages = ("ejabberd", "erlang-p1-pgsql")

    def prepare(self, database: Database) -> None:
        listed = subprocess.run(["dpkg", "-L", self.name], check=True, capture_output=True, text=True).stdout
        found = next(Path(line) for line in listed.splitlines() if line.endswith(("/pg.sql", "/pg.sql.gz")))
        text = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
        database.run(text.decode(), database=self.name)

    def command(self, directory: Path, *, port: int, database_port: int) -> tuple[list[str], Mapping[str, str]]:
        path = _write_configuration("ejabberd.yml", directory, PORT=port, DATABASE_PORT=database_port)
        (directory / "mnesia").mkdir()
        # No busy waiting: on a core that is shared with PostgreSQL it is CPU that nobody gets anything for.
        waits = ["+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"]
        arguments = ["erl", "+K", "true", "+P", "250000", *waits, "-noinput"]
        arguments += ["-mnesia", "dir", f'"{directory / "mnesia"}"', "-s", "ejabberd"]
        environment = {
            "HOME": str(directory),
            "EJABBERD_CONFIG_PATH": str(path),
            "EJABBERD_LOG_PATH": str(directory / "ejabberd.log"),
            "ERL_LIBS": "/usr/lib/x86_64-linux-gnu",
            "ERL_MAX_PORTS": "65536",
            "ERL_CRASH_DUMP": str(directory / "crash.dump"),
        }
        return arguments, environment

    def add_accounts(self, database: Database, count: int) -> None:
        stored, server = (base64.b64encode(key).decode() for key in _scram(4_096))
        salt = base64.b64encode(_SALT).decode()
        database.run(
            f"""INSERT INTO users (username, password, serverkey, salt, iterationcount)
            SELECT 'h' || g, '{stored}', '{server}', '{salt}', 4096 FROM generate_series(0, {count - 1}) g""",  # noqa: S608
            database=self.name,
        )

    def archived_count(self, database: Database) -> int:
        return int(database.run("SELECT count(*) FROM archive WHERE xml LIKE '%<body>#%'", database=self.name))


def _wait_for_table(database: Database, name: str) -> None:
    """It makes its tables itself, at some time after it began to listen. Raises: RuntimeError."""
    deadline = perf_counter() + start_timeout_s
    while not database.run(f"SELECT to_regclass('{name}')", database=name):
        if perf_counter() > deadline:
            raise RuntimeError(f"{name} has made no table within {start_timeout_s} s")
        sleep(0.05)


class Prosody:
    name = "prosody"
    packages = ("prosody", "lua-dbi-postgresql", "lua-event", "lua-unbound")

    def prepare(self, database: Database) -> None:
        pass

    def command(self, directory: Path, *, port: int, database_port: int) -> tuple[list[str], Mapping[str, str]]:
        path = _write_configuration("prosody.cfg.lua", directory, PORT=port, DATABASE_PORT=database_port)
        (directory / "data").mkdir()
        return ["prosody", "-F", "--config", str(path)], {}

    def add_accounts(self, database: Database, count: int) -> None:
        _wait_for_table(database, self.name)
        stored, server = (key.hex() for key in _scram(10_000))
        kept = [
            ("iteration_count", "number", "10000"),
            ("salt", "string", _SALT.decode()),
            ("stored_key", "string", stored),
            ("server_key", "string", server),
        ]
        for key, type_, value in kept:
            database.run(
                f"""INSERT INTO prosody (host, "user", store, key, type, value)
                SELECT 'localhost', 'h' || g, 'accounts', '{key}', '{type_}', '{value}'
                FROM generate_series(0, {count - 1}) g""",  # noqa: S608
                database=self.name,
            )

    def archived_count(self, database: Database) -> int:
        sql = "SELECT count(*) FROM prosodyarchive WHERE store = 'muc_log' AND value LIKE '%<body>#%'"
        return int(database.run(sql, database=self.name))


PEERS: Mapping[str, Peer] = {"ejabberd": Ejabberd(), "prosody": Prosody()}
