"""The real server, made to add a member whom nobody invited: it writes what it likes into its own database.

Honest clients give the ghost no room key: the `mailbox` table holds none for its device. Without the one check they do.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from chatty.client import Client, Reason, RoomFrozen
from chatty.client.room import Room, member_change
from chatty.client.rooms import RoomVerifier
from chatty.ids import DeviceId, ListVersion, UserId
from chatty.services.timeline import NewEvent, append
from chatty.store.pool import open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.wire.authority import Membership, Standing
from chatty.wire.canonical import decode_base64
from chatty.wire.events import Action, Kind, MemberContent, RoomRole
from chatty.wire.rooms import SignedMemberChange
from chatty.wire.signing import body_bytes
from tests.client.conftest import Open, lied, pair
from tests.client.lies import REMOVABLE
from tests.server.sdk_people import open_origin, opener


@pytest.fixture
async def open_one(database: str, tmp_path: Path) -> AsyncIterator[Open]:
    async with open_origin(database, tmp_path) as origin:
        yield opener(origin, tmp_path)


@dataclass(frozen=True, kw_only=True)
class Ghost:
    """An account with a device that could read: it published keys, and is offline, so that nobody empties its mailbox."""

    user: UserId
    device: DeviceId
    curve25519: str
    join: SignedMemberChange


async def make_ghost(open_one: Open, room: Room) -> Ghost:
    async with open_one("ghost") as client:
        await client.register("ghost", "a password of the server")
        engine = client._engine
        n, identity_key = engine.numbers.take(), engine.identity.identity_key
        return Ghost(
            user=client.user,
            device=client.device,
            curve25519=engine.olm.curve25519,
            join=member_change(engine, room.id, Action.JOIN, client.user, identity_key, n=n),
        )


async def rows(database: str, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    def look() -> list[tuple[Any, ...]]:
        with psycopg.connect(database) as connection:
            return connection.execute(sql, parameters).fetchall()

    return await trio.to_thread.run_sync(look)


async def add_member(database: str, room: Room, ghost: Ghost) -> None:
    """As the server's own code commits a join, but for all that it checks."""
    [(device_number,)] = await rows(database, "SELECT device_number FROM devices WHERE device_id = %s", ghost.device)
    async with open_pool(database) as pool, PostgresUnitOfWork(pool).begin() as unit:
        number = await unit.rooms.room_number(room.id)
        row = await unit.rooms.user(ghost.user)
        assert number is not None
        assert row is not None
        locked = await unit.rooms.lock(number, [])
        content = MemberContent(
            signed=ghost.join.signed,
            previous=locked.head.state_seq,
            list_version=row.list_version,
            list_digest=row.list_digest,
        )
        event = NewEvent(
            kind=Kind.MEMBER,
            body=body_bytes(content),
            sender=ghost.user,
            sender_number=row.user_number,
            device=ghost.device,
            device_number=device_number,
            n=ghost.join.signed.n,
            target=ghost.user,
            signature=decode_base64(ghost.join.signature),
            action=Action.JOIN,
        )
        appended = append(locked.head, event, now_ms=locked.head.last_time)
        await unit.rooms.write(locked.head, [appended])
        seq = appended.event.seq
        membership = Membership(
            standing=Standing.JOINED, role=RoomRole.MEMBER, changed_seq=seq, list_version=ListVersion(1)
        )
        await unit.rooms.set_membership(number, row.user_number, membership, seq=seq)


async def mailbox_of(database: str, device: DeviceId) -> list[tuple[Any, ...]]:
    """(kind, content) of all rows that wait for this device."""
    select = "SELECT kind, content FROM mailbox JOIN devices USING (device_number) WHERE device_id = %s"
    return await rows(database, select, device)


async def haunted(open_one: Open, database: str, ann: Client, bob: Client) -> tuple[Room, Room, Ghost]:
    room, same = await pair(ann, bob)
    await room.send("before the ghost")
    ghost = await make_ghost(open_one, room)
    await add_member(database, room, ghost)
    return room, same, ghost


async def test_a_ghost_in_the_database_gets_no_room_key(open_one: Open, database: str) -> None:
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, same, ghost = await haunted(open_one, database, ann, bob)
        for client, one in ((ann, room), (bob, same)):
            caught = await lied(client)
            assert (caught.reason, caught.room) == (Reason.FORGED_MEMBERSHIP, room.id)
            with pytest.raises(RoomFrozen):
                await one.send("secret")
    assert await mailbox_of(database, ghost.device) == []


async def test_without_the_check_the_ghost_gets_the_room_key(
    open_one: Open, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RoomVerifier, "check_authority", REMOVABLE["check_authority"])
    async with open_one("ann") as ann, open_one("bob") as bob:
        room, _same, ghost = await haunted(open_one, database, ann, bob)
        await room.send("secret")
    [(kind, content)] = await mailbox_of(database, ghost.device)
    assert (kind, json.loads(content)["ciphertext"].keys()) == ("m.room.encrypted", {ghost.curve25519})
