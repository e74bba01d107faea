"""Two server processes on one PostgreSQL, the bus off: slower than one, and as correct.

Eight people, spread over both, do everything at once; see churn.py. Then every room must have one gapless order that all were
given alike, with every acked message once at its place; every message must stand under an epoch that names the devices of all
who are to read it; who was removed or revoked must have got nothing in; and nobody must have met a fault of the server.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from chatty.ids import RoomId, Seq
from chatty.store.embedded import EmbeddedServer
from chatty.wire.events import TimelineEvent
from tests.faults.chatty_process import ChattyProcess, open_nodes, poll_interval_s
from tests.faults.churn import Gathering, Participant, Plan, open_gathering
from tests.faults.epochs import authority_faults, change_faults, epoch_faults, revocation_faults, sight_faults
from tests.faults.ledger import delivery_faults, heads_of, order_faults
from tests.faults.movers import Witness, through
from tests.faults.storm import checkpoint_faults
from tests.server.wire_people import ORIGIN, SERVER_NAME

NAMES = ("ann", "bob", "cid", "eve", "fay", "gus", "hal", "joy")
PLAN = Plan(changes_count=5, devices_count=2, moves_count=2, kicks_count=5, pause_s_max=0.5)
# What even one gathering meets; without it nothing was proved.
MET = (
    "copy: ack",
    "join: done",
    "kick: done",
    "leave: done",
    "moved",
    "revoke: done",
    "send: ack",
    "send: device_revoked",
    "send: device_set_stale",
    "send: not_a_member",
)


async def gathering_faults(gathering: Gathering) -> list[str]:
    """After settle(): what is wrong in anybody's eyes."""
    faults = list(gathering.witness.faults)
    for room, owner in gathering.rooms:
        entries = await owner.device.all_history(room.id)
        if disorder := list(order_faults(room.id, entries)):
            return disorder
        history = [entry for entry in entries if isinstance(entry, TimelineEvent)]
        heads = heads_of(room.id, entries)
        faults += history_faults(gathering, room.id, history)
        faults += live_faults(gathering, room.id, history, heads)
        faults += await fresh_faults(gathering, room.id, owner, history, heads)
    return faults


def history_faults(gathering: Gathering, room: RoomId, history: Sequence[TimelineEvent]) -> list[str]:
    """Of the one history that the owner has."""
    sendings = [one for one in gathering.sendings if one.request.room == room]
    lists = {one.user: one.lists for one in gathering.participants}
    keys = {(one.device.user, one.device.device): one.device.olm.ed25519 for one in gathering.movers}
    return [
        *delivery_faults(history, sendings),
        *epoch_faults(history, sendings, lists),
        *revocation_faults(room, history, sendings, gathering.revocations),
        *change_faults(history, gathering.committed[room], gathering.refused[room]),
        *authority_faults(history, server=SERVER_NAME, device_key=lambda user, device: keys.get((user, device))),
    ]


def live_faults(
    gathering: Gathering, room: RoomId, history: Sequence[TimelineEvent], heads: Mapping[Seq, bytes]
) -> Iterator[str]:
    """Of what came over the sockets of each device, from one node and the other; a revoked one has the beginning."""
    for mover in gathering.movers:
        user, entries = mover.device.user, mover.live.get(room, [])
        for fault in sight_faults(room, user, entries, history=history, heads=heads, is_whole=not mover.is_over):
            yield f"{user} {mover.device.device}: {fault}"


async def fresh_faults(
    gathering: Gathering,
    room: RoomId,
    owner: Participant,
    history: Sequence[TimelineEvent],
    heads: Mapping[Seq, bytes],
) -> list[str]:
    """Of what each user reads anew, and of the signed head, at each node."""
    faults = []
    for node in range(len(gathering.origins)):
        with through(node):
            faults += await checkpoint_faults(owner.device, room, dict(heads))
            for one in gathering.participants:
                entries = await one.device.all_history(room)
                seen = sight_faults(room, one.user, entries, history=history, heads=heads)
                faults += [f"{one.user}, afresh at {node}: {fault}" for fault in seen]
    return faults


def log_faults(nodes: Sequence[ChattyProcess]) -> list[str]:
    """What the servers themselves call an error, a deadlock among it."""
    lines = [line for node in nodes for line in node.log.read_text().splitlines()]
    return [line for line in lines if "deadlock" in line or json.loads(line)["level"] in ("error", "critical")]


def find_deadlocks_soon(postgres: EmbeddedServer, database: str) -> None:
    """Before any lock's own deadline hides one."""
    name = sql.Identifier(str(conninfo_to_dict(database)["dbname"]))
    with psycopg.connect(postgres.superuser_address, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET deadlock_timeout = '50ms'").format(name))


async def deadlock_count(database: str) -> int:
    """Of all connections there were; the last ones tell when they end."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    met = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    with psycopg.connect(database, autocommit=True) as connection, trio.fail_after(10):
        while connection.execute(others).fetchone() != (0,):  # noqa: ASYNC110
            await trio.sleep(poll_interval_s)
        [(count,)] = connection.execute(met).fetchall()
        return int(count)


@pytest.mark.long
async def test_two_servers_keep_one_order_and_leave_nobodys_device_out(
    postgres: EmbeddedServer, database: str, open_directory: Path, seed: int, counts: Callable[[int, int], int]
) -> None:
    rng, witness = random.Random(seed), Witness()
    find_deadlocks_soon(postgres, database)
    async with open_nodes(database, open_directory, count=2, public_origin=ORIGIN) as nodes:
        for number in range(counts(1, 9)):
            async with open_gathering(nodes, rng, witness) as gathering:
                await gathering.assemble([f"{name}{number}" for name in NAMES], rooms_count=3)
                await gathering.live(PLAN)
                await gathering.settle()
                if faults := await gathering_faults(gathering):
                    pytest.fail("\n".join(faults))
        assert log_faults(nodes) == []
    assert await deadlock_count(database) == 0
    print(dict(sorted(witness.outcomes.items())))
    assert [what for what in MET if not witness.outcomes[what]] == []
