"""Rooms in which nobody writes, straight in the store: what a device change leaves owed to them, and what was made of it."""

from itertools import count

from chatty.ids import RoomId, RoomNumber
from chatty.wire import chain
from tests.signed_in import SignedIn, World

_ROOM = """INSERT INTO rooms (room_id, seq, head, epoch, last_time, policy, create_body)
VALUES (%s, 0, %s, 0, 0, '{}', '') RETURNING room_number"""
_MEMBER = """INSERT INTO members (room_number, user_number, standing, role, changed_seq, removed_seq, list_version,
list_digest, identity) SELECT %s, user_number, 'joined', 'member', 0, 0, list_version, '', '' FROM users
WHERE user_number = %s"""
_LEAVE = "UPDATE members SET standing = 'left' WHERE room_number = %s AND user_number = %s"
_EVENTS = """SELECT t.seq, t.kind, convert_from(b.body, 'UTF8')::jsonb->>'user',
(convert_from(b.body, 'UTF8')::jsonb->>'list_version')::bigint,
(convert_from(b.body, 'UTF8')::jsonb->>'previous')::bigint
FROM timeline t JOIN bodies b USING (room_number, seq) WHERE room_number = %s ORDER BY seq"""
_ROOM_NOW = "SELECT seq, epoch, state_seq, head FROM rooms WHERE room_number = %s"
_LAST = "SELECT seq, seq, seq, head FROM timeline WHERE room_number = %s ORDER BY seq DESC LIMIT 1"
_numbers = count(1)


async def make_room(world: World, *members: SignedIn) -> RoomNumber:
    """A room without events, whose members' lists are named as they are now."""
    room = RoomId(f"!room-{next(_numbers)}")
    number = await world.value(_ROOM, room, chain.empty_head(room))
    async with world.pool.transaction() as connection:
        for member in members:
            await connection.execute(_MEMBER, (number, member.caller.user_number))
    return RoomNumber(number)


async def leave(world: World, room: RoomNumber, member: SignedIn) -> None:
    async with world.pool.transaction() as connection:
        await connection.execute(_LEAVE, (room, member.caller.user_number))


async def events(world: World, room: RoomNumber) -> list[tuple[int, str, str, int]]:
    """seq, kind, user and list version of each; checks that each names the one before, and that the room stands at the last."""
    async with world.pool.connection() as connection:
        found = await (await connection.execute(_EVENTS, (room,))).fetchall()
        if found:
            last = await (await connection.execute(_LAST, (room,))).fetchone()
            assert await (await connection.execute(_ROOM_NOW, (room,))).fetchone() == last
    assert [row[4] for row in found] == [row[0] - 1 for row in found]
    return [(row[0], row[1], row[2], row[3]) for row in found]


async def owed_count(world: World) -> int:
    return int(await world.value("SELECT count(*) FROM owed_devices"))
