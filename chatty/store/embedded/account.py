"""The operating system's account that PostgreSQL runs under.

PostgreSQL refuses to run as root, so root chooses another.
"""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatty.errors import DatabaseStartFailed

_candidates = ("postgres", "nobody")


@dataclass(frozen=True, kw_only=True)
class Account:
    uid: int
    gid: int
    name: str

    @property
    def is_ours(self) -> bool:
        return self.uid == os.geteuid()

    def popen_options(self) -> dict[str, Any]:
        """What makes subprocess.Popen run as this account, in a session of its own, with nobody else's privileges."""
        identity: dict[str, Any] = {} if self.is_ours else {"user": self.uid, "group": self.gid, "extra_groups": []}
        return {**identity, "umask": 0o077, "start_new_session": True}

    def own(self, path: Path, *, mode: int) -> None:
        """Give a file or directory that we made to the account."""
        path.chmod(mode)
        if not self.is_ours:
            os.chown(path, self.uid, self.gid)


def choose_account(existing_data: Path) -> Account:
    """Ourselves, unless we are root: then the owner of the data, else the first unprivileged account that exists.

    Raises: DatabaseStartFailed when root finds no such account.
    """
    if os.geteuid() != 0:
        return Account(uid=os.geteuid(), gid=os.getegid(), name=_name_of(os.geteuid()))
    if existing_data.exists() and (owner := existing_data.stat()).st_uid != 0:
        return Account(uid=owner.st_uid, gid=owner.st_gid, name=_name_of(owner.st_uid))
    for name in _candidates:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(uid=entry.pw_uid, gid=entry.pw_gid, name=name)
    raise DatabaseStartFailed("PostgreSQL does not run as root and there is no account 'postgres' or 'nobody'")


def can_enter(directory: Path, account: Account) -> bool:
    """Whether the account may pass through every directory on the way, the last one included.

    Reads modes, changes none.
    """
    resolved = directory.resolve()
    return all(_is_open_to(step, account) for step in (resolved, *resolved.parents) if step.exists())


def _is_open_to(step: Path, account: Account) -> bool:
    if account.is_ours:
        return os.access(step, os.X_OK)
    status = step.stat()
    if status.st_uid == account.uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == account.gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
