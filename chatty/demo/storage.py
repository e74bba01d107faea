"""What the demo's own server has stored, as a thief of its machine would see it: tables, data directory, logs.

Read through connections of its own, beside the running server, never through the product's store: what is shown is what is there.
"""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import trio

from chatty.demo.devices import DemoFailed
from chatty.ids import RoomId, Seq, UserId
from chatty.store.connection import open_connection
from chatty.store.embedded import cluster
from chatty.store.embedded.places import Places

dump_timeout_s = 60.0

_EVENT = """
SELECT timeline.kind, timeline.algorithm, users.user_id, devices.device_id, bodies.body
FROM timeline JOIN bodies USING (room_number, seq) JOIN rooms USING (room_number)
JOIN devices USING (device_number) JOIN users ON users.user_number = timeline.sender_number
WHERE rooms.room_id = %s AND timeline.seq = %s
"""
_ACCOUNT = "SELECT user_id, login_key_sealed, wrapped_recovery FROM users WHERE user_id = %s"
_DEVICES = """
SELECT devices.name, devices.device_id, devices.ed25519, count(one_time_keys.key_json)
FROM devices JOIN users USING (user_number) LEFT JOIN one_time_keys USING (device_number)
WHERE users.user_id = %s GROUP BY device_number ORDER BY device_number
"""


@dataclass(frozen=True, kw_only=True)
class StoredEvent:
    """A row of the timeline, and its body: the ciphertext."""

    kind: str
    algorithm: str
    sender: str
    device: str
    body: bytes


@dataclass(frozen=True, kw_only=True)
class StoredAccount:
    """login_key_sealed, wrapped_recovery: opaque. devices: name, id, public key, one-time keys that are left."""

    user: str
    login_key_sealed: bytes
    wrapped_recovery: bytes
    devices: list[tuple[str, str, str, int]]


class Storage:
    """places: of the embedded PostgreSQL. data_directory, log: the server's."""

    def __init__(self, places: Places, *, data_directory: Path, log: Path, scratch: Path) -> None:
        self.places = places
        self.data_directories = [data_directory]
        if not places.root.is_relative_to(data_directory):
            self.data_directories.append(places.root)
        self.log = log
        self._dump = scratch / "database.sql"
        self.address = cluster.address(places, user=cluster.role, dbname=cluster.database)

    async def event(self, room: RoomId, seq: Seq) -> StoredEvent:
        async with open_connection(self.address) as connection:
            row = await (await connection.execute(_EVENT, [room, seq])).fetchone()
        if row is None:
            raise DemoFailed(f"the database has no event {seq} of that room")
        kind, algorithm, sender, device, body = row
        return StoredEvent(kind=kind, algorithm=algorithm, sender=sender, device=device, body=bytes(body))

    async def account(self, user: UserId) -> StoredAccount:
        async with open_connection(self.address) as connection:
            row = await (await connection.execute(_ACCOUNT, [user])).fetchone()
            devices = await (await connection.execute(_DEVICES, [user])).fetchall()
        if row is None:
            raise DemoFailed(f"the database has no account {user}")
        return StoredAccount(
            user=row[0],
            login_key_sealed=bytes(row[1]),
            wrapped_recovery=bytes(row[2]),
            devices=[(name, device, key, count) for name, device, key, count in devices],
        )

    async def checkpoint(self) -> None:
        """Everything that is in PostgreSQL's memory goes to the data directory."""
        address = cluster.address(self.places, user=cluster.superuser, dbname="postgres")
        async with open_connection(address) as connection:
            await connection.execute("CHECKPOINT")

    async def dump(self) -> Path:
        """The whole database as pg_dump writes it. Raises: DemoFailed. Cancelled: pg_dump is ended."""
        command = [str(self.places.binaries / "pg_dump"), f"--file={self._dump}", f"--dbname={self.address}"]
        with trio.fail_after(dump_timeout_s):
            done = await trio.run_process(
                command,
                check=False,
                capture_stderr=True,
                stdin=subprocess.DEVNULL,
                env=cluster.process_environment(),
                start_new_session=True,
            )
        if done.returncode != 0:
            raise DemoFailed(f"pg_dump failed: {done.stderr.decode(errors='replace').strip()}")
        return self._dump
