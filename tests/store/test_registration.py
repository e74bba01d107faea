"""What the migration makes of users and rooms that were there before it."""

import itertools
from pathlib import Path

import psycopg
import trio

from chatty.services.names import skeleton
from chatty.store import schema

NAMES = ["ann", "pau1", "paul", "m.w", "p1.11", "p11.1", "a-_.b", "0", "vvv", "1-1-1", "--", "i__1", "carrnen"]
_USER = """INSERT INTO users (user_id, role, login_key_sealed, key_derivation, identity_key, wrapped_recovery,
wrapped_identity, list_digest) VALUES (%s, 'user', '', '{}', '', '', '', '')"""
_ROOM = """INSERT INTO rooms (room_id, seq, head, epoch, last_time, policy, create_body)
VALUES (%s, 1, '', 1, 1, '{}', %s)"""


async def upgrade_first(address: str, folder: Path) -> None:
    """To the schema before this feature."""
    for one in itertools.takewhile(lambda one: "registration" not in one.path.name, schema.list_migrations()):
        (folder / one.path.name).write_bytes(one.path.read_bytes())
    await schema.upgrade(address, directory=folder)


async def test_names_that_were_there_get_the_same_skeletons_as_new_ones(empty_database: str, tmp_path: Path) -> None:
    await upgrade_first(empty_database, tmp_path)

    def fill() -> None:
        with psycopg.connect(empty_database) as connection:
            for name in NAMES:
                connection.execute(_USER, (f"@{name}:example.org:8448",))

    def look() -> dict[str, str | None]:
        with psycopg.connect(empty_database) as connection:
            return dict(connection.execute("SELECT user_id, name_skeleton FROM users").fetchall())

    await trio.to_thread.run_sync(fill)
    await schema.upgrade(empty_database)
    found = await trio.to_thread.run_sync(look)
    wanted = {f"@{name}:example.org:8448": skeleton(name) for name in NAMES}
    assert found == {**wanted, "@paul:example.org:8448": None}, "of two alike the older one keeps others away"


async def test_rooms_that_were_there_count_for_their_creators(empty_database: str, tmp_path: Path) -> None:
    await upgrade_first(empty_database, tmp_path)

    def fill() -> None:
        with psycopg.connect(empty_database) as connection:
            for name in ("ann", "ben"):
                connection.execute(_USER, (f"@{name}:x",))
            for number, creator in enumerate(["ann", "ann"]):
                connection.execute(_ROOM, (f"!{number}", b'{"creator":"@%b:x"}' % creator.encode()))

    def look() -> dict[str, int]:
        with psycopg.connect(empty_database) as connection:
            return dict(connection.execute("SELECT user_id, rooms_created_count FROM users").fetchall())

    await trio.to_thread.run_sync(fill)
    await schema.upgrade(empty_database)
    assert await trio.to_thread.run_sync(look) == {"@ann:x": 2, "@ben:x": 0}
