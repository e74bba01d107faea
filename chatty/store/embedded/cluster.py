"""The cluster on disk: made once by initdb, its passwords, its settings, its log file, and what its pid file says."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from psycopg import conninfo

from chatty.errors import DatabaseStartFailed
from chatty.store.embedded.places import Places

superuser = "postgres"
role = "chatty"
database = "chatty"
log_bytes_max = 10 * 1_048_576

_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "password_encryption": "scram-sha-256",
    # What is logged must hold no key and no statement's values: see chatty.store.connection.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
    "log_statement": "none",
    "log_checkpoints": "off",
    "logging_collector": "off",
}


def make_cluster(places: Places) -> None:
    """Run initdb and write the passwords, once. Made beside its place and renamed, so half a cluster is never taken for
    one.

    Blocking: 0.4 s. The caller holds chatty.lock.
    """
    if places.data.exists():
        return
    for abandoned in places.root.glob("data.making-*"):
        shutil.rmtree(abandoned)
    making = places.root / f"data.making-{secrets.token_hex(4)}"
    password_file = places.root / "initdb.password"
    write_private(places, password_file, _write_passwords(places))
    try:
        made = _run_initdb(places, making, password_file)
    finally:
        password_file.unlink()
    if made.returncode != 0:
        raise DatabaseStartFailed(f"initdb failed: {made.stderr.strip() or made.stdout.strip()}")
    making.rename(places.data)


def _run_initdb(places: Places, making: Path, password_file: Path) -> subprocess.CompletedProcess[str]:
    command = [
        *(str(places.binaries / "initdb"), f"--pgdata={making}", f"--username={superuser}", "--encoding=UTF8"),
        *("--auth=scram-sha-256", f"--pwfile={password_file}", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        *("--locale=C", "--no-instructions"),
    ]
    return subprocess.run(
        command,
        cwd=places.root,
        env=process_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60.0,
        **places.account.popen_options(),
    )


def server_command(places: Places, settings: Mapping[str, str]) -> list[str]:
    """Settings stand on the command line: they hold no secret, and an upgrade of Chatty brings its own."""
    everything = {**_SETTINGS, "unix_socket_directories": _quoted_list_item(places.sockets), **settings}
    options = [word for name, value in everything.items() for word in ("-c", f"{name}={value}")]
    return [str(places.binaries / "postgres"), "-D", str(places.data), *options]


def process_environment() -> dict[str, str]:
    """Nothing of ours: secrets in our environment stay with us, and PG* variables do not lead initdb astray."""
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH")
    return {"LC_ALL": "C", **{name: os.environ[name] for name in kept if name in os.environ}}


def address(places: Places, *, user: str, dbname: str) -> str:
    """A libpq connection string without a secret: the password is in the file it names."""
    return conninfo.make_conninfo(
        host=str(places.sockets), port=5432, user=user, dbname=dbname, passfile=str(places.passwords)
    )


def role_password(places: Places) -> str:
    lines = places.passwords.read_text().splitlines()
    return next(line.rsplit(":", 1)[1] for line in lines if line.split(":")[3] == role)


def ready_pid(places: Places) -> int | None:
    """The pid in postmaster.pid if that server accepts connections."""
    lines = _pid_file_lines(places)
    return int(lines[0]) if len(lines) >= 8 and lines[7].strip() == "ready" else None


def recorded_pid(places: Places) -> int | None:
    lines = _pid_file_lines(places)
    return int(lines[0]) if lines and lines[0].strip().isdigit() else None


def forget_recorded_pid(places: Places) -> None:
    """Only for who holds postgres.lock: then the file is stale, and its pid may by now be anybody's."""
    (places.data / "postmaster.pid").unlink(missing_ok=True)


def open_log(places: Places) -> int:
    """A descriptor for appending. The server keeps it, so the file is emptied in place, never replaced."""
    bound_log(places)
    descriptor = os.open(places.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    places.account.own(places.log, mode=0o600)
    return descriptor


def bound_log(places: Places) -> None:
    """Above log_bytes_max keep the log as `.1` and begin anew; what is written between the two steps is lost."""
    if not places.log.exists() or places.log.stat().st_size <= log_bytes_max:
        return
    with places.log.open("rb") as log:
        log.seek(-log_bytes_max, os.SEEK_END)
        tail = log.read(log_bytes_max)
    write_private(places, places.log.with_name("postgresql.log.1"), tail.decode("utf-8", "replace"))
    os.truncate(places.log, 0)


def last_log_line(places: Places) -> str:
    """For the message of a failed start."""
    with suppress(FileNotFoundError):
        lines = places.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "its log is empty"
    return "it wrote no log"


def _write_passwords(places: Places) -> str:
    password = secrets.token_urlsafe(32)
    lines = f"*:*:*:{superuser}:{password}\n*:*:*:{role}:{secrets.token_urlsafe(32)}\n"
    write_private(places, places.passwords, lines)
    return password


def write_private(places: Places, path: Path, content: str) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    places.account.own(path, mode=0o600)


def _pid_file_lines(places: Places) -> list[str]:
    try:
        return (places.data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _quoted_list_item(path: Path) -> str:
    return '"' + str(path).replace('"', '""') + '"'
