"""The client's own store: one SQLite file in which every value is sealed and every name is a MAC.

*What a thief of the file sees*: how many entries of how many kinds there are, and their sizes. Not names, not contents.
*Order*: the client writes here before a frame leaves, before a mailbox row is acknowledged and before a new token is used.
*Durability*: write-ahead log with synchronous=FULL: a returned transaction survives a power cut. Closing folds the log back, so a
closed store is one file.
*Cancellation*: no method waits on Trio, so none is ever interrupted; a commit blocks the event loop for one fsync, which is what
"on disk first" costs. *Crash*: a transaction is there or not.
*Two processes*: the file is locked exclusively while open (StoreInUse): two users of one ratchet would break it.
*Rolled back* (an old copy restored): this file cannot know; the server's welcome.highest_n tells (see numbers.py).
"""

import hashlib
import hmac
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from chatty.client.reasons import StoreInUse, WrongStoreKey
from chatty.client.sealing import seal, subkey, unseal
from chatty.errors import SealBroken

T = TypeVar("T")

trim_every = 500

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (field TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    kind BLOB NOT NULL,
    name BLOB NOT NULL,
    value BLOB NOT NULL,
    UNIQUE (kind, name)
);
CREATE INDEX IF NOT EXISTS entries_kind ON entries (kind, number);
"""
_PUT = """
INSERT INTO entries (kind, name, value) VALUES (?, ?, ?)
ON CONFLICT (kind, name) DO UPDATE SET value = excluded.value
"""
_TRIM = """
DELETE FROM entries WHERE kind = ? AND number <=
    (SELECT number FROM entries WHERE kind = ? ORDER BY number DESC LIMIT 1 OFFSET ?)
"""


def store_salt(path: Path) -> bytes:
    """The salt for a passphrase, kept in clear beside the sealed entries; made with the file. 16 bytes."""
    connection = _connect(path)
    try:
        with connection:
            connection.execute("INSERT OR IGNORE INTO about VALUES ('salt', randomblob(16))")
        row = connection.execute("SELECT value FROM about WHERE field = 'salt'").fetchone()
        return bytes(row[0])
    finally:
        connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    if not path.exists():
        path.touch(mode=0o600)
    connection = sqlite3.connect(path, isolation_level=None, timeout=0.2)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(_SCHEMA)
    except sqlite3.OperationalError as error:
        connection.close()
        raise StoreInUse(f"{path}: {error}") from None
    except sqlite3.DatabaseError as error:
        connection.close()
        raise WrongStoreKey(f"{path}: {error}") from None
    return connection


class LocalStore:
    """Sealed entries (kind, name) → bytes, in the order of their first writing. key: 32 bytes.

    Raises: StoreInUse; WrongStoreKey at opening and for altered bytes.
    """

    def __init__(self, path: Path, *, key: bytes) -> None:
        self.pickle_key = subkey(key, "chatty.store.pickle.v1")
        self._seal_key = subkey(key, "chatty.store.seal.v1")
        self._name_key = subkey(key, "chatty.store.name.v1")
        self._connection = _connect(path)
        self._depth = 0
        self._trim_calls: dict[str, int] = {}
        try:
            self._check_key()
        except BaseException:
            self._connection.close()
            raise

    def _check_key(self) -> None:
        proof = self._mac("proof", "")
        row = self._connection.execute("SELECT value FROM about WHERE field = 'proof'").fetchone()
        if row is None:
            self._connection.execute("INSERT INTO about VALUES ('proof', ?)", (proof,))
        elif not hmac.compare_digest(bytes(row[0]), proof):
            raise WrongStoreKey("this key does not open the store")

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; blocks nest into the outermost. There must be no `await` inside."""
        self._depth += 1
        if self._depth == 1:
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._depth -= 1
            if self._depth == 0:
                self._connection.execute("ROLLBACK")
            raise
        self._depth -= 1
        if self._depth == 0:
            self._connection.execute("COMMIT")

    def put(self, kind: str, name: str, value: Any) -> None:
        """value: anything that msgspec encodes."""
        place = self._place(kind, name)
        sealed = seal(self._seal_key, msgspec.msgpack.encode((name, value)), context=b"".join(place))
        self._connection.execute(_PUT, (*place, sealed))

    def get(self, kind: str, name: str, type_: type[T]) -> T | None:
        place = self._place(kind, name)
        row = self._connection.execute("SELECT value FROM entries WHERE kind = ? AND name = ?", place).fetchone()
        return None if row is None else self._opened(place, row[0], type_)[1]

    def has(self, kind: str, name: str) -> bool:
        place = self._place(kind, name)
        found = self._connection.execute("SELECT 1 FROM entries WHERE kind = ? AND name = ?", place).fetchone()
        return found is not None

    def delete(self, kind: str, name: str) -> None:
        self._connection.execute("DELETE FROM entries WHERE kind = ? AND name = ?", self._place(kind, name))

    def delete_all(self, kind: str) -> None:
        self._connection.execute("DELETE FROM entries WHERE kind = ?", (self._mac(kind, ""),))

    def items(self, kind: str, type_: type[T], *, newest_max: int = 1 << 30) -> list[tuple[str, T]]:
        """The newest entries of a kind, oldest first."""
        kind_mac = self._mac(kind, "")
        query = "SELECT name, value FROM entries WHERE kind = ? ORDER BY number DESC LIMIT ?"
        rows = self._connection.execute(query, (kind_mac, newest_max)).fetchall()
        return [self._opened((kind_mac, name), value, type_) for name, value in reversed(rows)]

    def first(self, kind: str, type_: type[T]) -> tuple[str, T] | None:
        """The oldest entry of a kind."""
        kind_mac = self._mac(kind, "")
        query = "SELECT name, value FROM entries WHERE kind = ? ORDER BY number LIMIT 1"
        row = self._connection.execute(query, (kind_mac,)).fetchone()
        return None if row is None else self._opened((kind_mac, row[0]), row[1], type_)

    def keep_newest(self, kind: str, *, count_max: int) -> None:
        """Drop the oldest entries of a kind beyond count_max."""
        kind_mac = self._mac(kind, "")
        self._connection.execute(_TRIM, (kind_mac, kind_mac, count_max))

    def keep_about(self, kind: str, *, count_max: int) -> None:
        """The same at every trim_every-th call for this kind: cheap after each write, and the bound is passed by no more."""
        calls = self._trim_calls[kind] = self._trim_calls.get(kind, 0) + 1
        if calls % trim_every == 0:
            self.keep_newest(kind, count_max=count_max)

    def _opened(self, place: tuple[bytes, bytes], sealed: bytes, type_: type[T]) -> tuple[str, T]:
        try:
            plain = unseal(self._seal_key, sealed, context=b"".join(place))
        except SealBroken as error:
            raise WrongStoreKey(str(error)) from None
        name, value = msgspec.msgpack.decode(plain, type=tuple[str, type_])  # type: ignore[valid-type]
        return name, value

    def _place(self, kind: str, name: str) -> tuple[bytes, bytes]:
        return self._mac(kind, ""), self._mac(kind, "name:" + name)

    def _mac(self, kind: str, name: str) -> bytes:
        return hmac.digest(self._name_key, f"{len(kind)}:{kind}{name}".encode(), hashlib.sha256)
