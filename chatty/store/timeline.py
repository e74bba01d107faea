"""Writing timeline events: the same statements for the journal's pipeline and for a unit of work.

`append()` in services/timeline.py gave the numbers; these arrays carry them into the tables under the room's lock. A ciphertext
with an end goes into `passing_bodies`, one partition a day, any other body into `bodies`; a statement without rows is left out.
"""

from collections.abc import Sequence

import psycopg
from psycopg import generators
from psycopg.pq import ExecStatus

from chatty.services.timeline import Appended, RoomHead
from chatty.store import binary
from chatty.store.connection import TrioConnection
from chatty.wire import chain

INSERT_TIMELINE = """INSERT INTO timeline (room_number, seq, time, kind, sender_number, device_number, n, algorithm,
 session_id, epoch, silent, expiry, target, signature, body_hash, head, ends)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[],
 $8::text[], $9::text[], $10::bigint[], $11::boolean[], $12::bigint[], $13::text[], $14::bytea[], $15::bytea[], $16::bytea[],
 $17::bigint[])"""
INSERT_BODIES = (
    "INSERT INTO bodies (room_number, seq, body) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[])"
)
INSERT_PASSING_BODIES = """INSERT INTO passing_bodies (ends, room_number, seq, body)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[])"""
UPDATE_ROOMS = """UPDATE rooms SET seq = u.seq, head = u.head, epoch = u.epoch, state_seq = u.state_seq, last_time = u.time
FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[])
 AS u(room_number, seq, head, epoch, state_seq, time)
WHERE rooms.room_number = u.room_number"""

Params = list[bytes | None]


def timeline_params(appended: Sequence[Appended]) -> Params:
    """For INSERT_TIMELINE."""
    events = [one.event for one in appended]
    return [
        binary.int8_array([one.room_number for one in appended]),
        binary.int8_array([event.seq for event in events]),
        binary.int8_array([event.time for event in events]),
        binary.text_array([event.kind.value for event in events]),
        binary.nullable_int8_array([one.new.sender_number for one in appended]),
        binary.nullable_int8_array([one.new.device_number for one in appended]),
        binary.int8_array([event.n for event in events]),
        binary.text_array([event.algorithm for event in events]),
        binary.text_array([event.session_id for event in events]),
        binary.int8_array([event.epoch for event in events]),
        binary.bool_array([event.silent for event in events]),
        binary.int8_array([event.expiry for event in events]),
        binary.text_array([event.target for event in events]),
        binary.bytea_array([event.signature for event in events]),
        binary.bytea_array([chain.body_hash(event) for event in events]),
        binary.bytea_array([one.head for one in appended]),
        binary.int8_array([one.ends for one in appended]),
    ]


def lasting(appended: Sequence[Appended]) -> list[Appended]:
    """Those whose bodies have no end."""
    return [one for one in appended if not one.ends]


def passing(appended: Sequence[Appended]) -> list[Appended]:
    return [one for one in appended if one.ends]


def passing_params(appended: Sequence[Appended]) -> Params:
    """For INSERT_PASSING_BODIES, of passing()."""
    return [binary.int8_array([one.ends for one in appended]), *bodies_params(appended)]


def bodies_params(appended: Sequence[Appended]) -> Params:
    """For INSERT_BODIES, of lasting()."""
    return [
        binary.int8_array([one.room_number for one in appended]),
        binary.int8_array([one.event.seq for one in appended]),
        binary.bytea_array([one.new.body for one in appended]),
    ]


def rooms_params(heads: Sequence[RoomHead]) -> Params:
    """For UPDATE_ROOMS."""
    return [
        binary.int8_array([head.room_number for head in heads]),
        binary.int8_array([head.seq for head in heads]),
        binary.bytea_array([head.head for head in heads]),
        binary.int8_array([head.epoch for head in heads]),
        binary.int8_array([head.state_seq for head in heads]),
        binary.int8_array([head.last_time for head in heads]),
    ]


async def write_appended(connection: TrioConnection, head: RoomHead, appended: Sequence[Appended]) -> None:
    """Write one room's new events and its moved head, inside the transaction that holds the room's lock."""
    await write_rooms(connection, [head], appended)


async def write_rooms(connection: TrioConnection, heads: Sequence[RoomHead], appended: Sequence[Appended]) -> None:
    """The same for several rooms at once: three or four statements however many they are."""
    await _run(connection, INSERT_TIMELINE, timeline_params(appended))
    if bodies := lasting(appended):
        await _run(connection, INSERT_BODIES, bodies_params(bodies))
    if bodies := passing(appended):
        await _run(connection, INSERT_PASSING_BODIES, passing_params(bodies))
    await _run(connection, UPDATE_ROOMS, rooms_params(heads))


async def _run(connection: TrioConnection, sql: str, params: Params) -> None:
    """One statement with parameters that are packed already; psycopg's own dumpers would type the arrays by their values."""
    async with connection.lock:
        pgconn = connection.pgconn
        pgconn.send_query_params(sql.encode(), params, param_formats=[1] * len(params))
        (result,) = await connection.wait(generators.execute(pgconn))
    if result.status != ExecStatus.COMMAND_OK:
        raise psycopg.errors.error_from_result(result)
