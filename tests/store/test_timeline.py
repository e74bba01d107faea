"""What the migration makes of rooms that were there before state events named each other."""

import itertools
from pathlib import Path

import psycopg
import trio

from chatty.store import schema

_ROOM = """INSERT INTO rooms (room_id, seq, head, epoch, last_time, policy, create_body)
VALUES (%s, %s, '', 0, 0, '{}', '') RETURNING room_number"""
_EVENT = """INSERT INTO timeline (room_number, seq, time, kind, n, algorithm, session_id, epoch, silent, expiry, target,
signature, body_hash, head) VALUES (%s, %s, 0, %s, 0, '', '', 0, false, 0, '', '', '', '')"""
KINDS = {
    "!quiet": ["create", "member"],
    "!busy": ["create", "member", "message", "policy", "message", "message"],
    "!changed": ["create", "member", "message", "devices"],
    "!empty": [],
}


async def test_a_room_that_was_there_knows_its_newest_state_event(empty_database: str, tmp_path: Path) -> None:
    for one in itertools.takewhile(lambda one: "state_chain" not in one.path.name, schema.list_migrations()):
        (tmp_path / one.path.name).write_bytes(one.path.read_bytes())
    await schema.upgrade(empty_database, directory=tmp_path)

    def fill() -> None:
        with psycopg.connect(empty_database) as connection:
            for room, kinds in KINDS.items():
                row = connection.execute(_ROOM, (room, len(kinds))).fetchone()
                assert row is not None
                for seq, kind in enumerate(kinds, start=1):
                    connection.execute(_EVENT, (row[0], seq, kind))

    def look() -> dict[str, int]:
        with psycopg.connect(empty_database) as connection:
            return dict(connection.execute("SELECT room_id, state_seq FROM rooms").fetchall())

    await trio.to_thread.run_sync(fill)
    await schema.upgrade(empty_database)
    assert await trio.to_thread.run_sync(look) == {"!quiet": 2, "!busy": 4, "!changed": 4, "!empty": 0}
