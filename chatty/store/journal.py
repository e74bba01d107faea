"""The journal's transaction: locks first, in statements of their own; two trips; raw libpq in pipeline mode.

Trip 1: begin, lock the senders' device_send rows, lock the rooms (each in number order, SKIP LOCKED unless it waits), then read
what the decision needs. Trip 2: the writes, commit. A batch with stale sends makes one more trip between, to say what changed.
A second connection does what was skipped twice, waiting for the locks, so that nobody waits for another's room.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import trio

from chatty.errors import DeviceSetStale, Overloaded
from chatty.ids import DeviceNumber, ListVersion, RoomId, RoomNumber, SendNumber, Seq, UserId, UserNumber
from chatty.services.crash_points import NO_CRASH_POINTS, CrashPoints
from chatty.services.messages import BatchFailed, Clock, Decision, Draft, Facts, Journal, Recorded, Result, decide_batch
from chatty.services.requests import SendRow
from chatty.services.timeline import OwedDevices, RoomHead
from chatty.store import binary, timeline
from chatty.store.pipeline import Params, PipelineConnection, Row, open_pipeline
from chatty.wire.canonical import encode_base64

lock_timeout_s = 1.0

_LOCK_DEVICES = """SELECT device_number, low, highest_n, is_live FROM device_send
WHERE device_number = ANY($1::bigint[]) ORDER BY device_number FOR NO KEY UPDATE"""
_LOCK_ROOMS = """SELECT room_number, room_id, seq, head, epoch, state_seq, last_time, retention_days FROM rooms
WHERE room_number = ANY($1::bigint[]) ORDER BY room_number FOR NO KEY UPDATE"""
_LOOK_UP = """SELECT r.device_number, r.n, r.digest, r.room_number, r.seq, r.time, r.leaf, r.refusal
FROM unnest($1::bigint[], $2::bigint[]) AS w(device_number, n)
JOIN requests r ON r.device_number = w.device_number AND r.n = w.n"""  # requests_pkey
_JOINED = """SELECT m.room_number, m.user_number FROM unnest($1::bigint[], $2::bigint[]) AS w(room_number, user_number)
JOIN members m ON m.room_number = w.room_number AND m.user_number = w.user_number
WHERE m.standing = 'joined'"""  # members_pkey
_OWED = """SELECT DISTINCT o.room_number, o.user_number, u.user_id, u.list_version, u.list_digest, m.list_version
FROM owed_devices o JOIN users u ON u.user_number = o.user_number
LEFT JOIN members m ON m.room_number = o.room_number AND m.user_number = o.user_number AND m.standing = 'joined'
WHERE o.room_number = ANY($1::bigint[]) ORDER BY o.room_number, o.user_number"""
_CHANGED = """SELECT m.room_number, u.user_id, m.changed_seq, CASE WHEN m.standing = 'joined' THEN m.list_version END
FROM members m JOIN users u ON u.user_number = m.user_number
WHERE m.room_number = ANY($1::bigint[]) AND m.changed_seq > $2::bigint"""
_RECORD = """INSERT INTO requests (device_number, n, digest, room_number, seq, time, leaf, refusal)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[],
 $8::text[])"""
_RAISE = """UPDATE device_send SET low = u.low, highest_n = u.highest_n
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS u(device_number, low, highest_n)
WHERE device_send.device_number = u.device_number"""
_FORGET = """DELETE FROM requests USING unnest($1::bigint[], $2::bigint[]) AS u(device_number, low)
WHERE requests.device_number = u.device_number AND requests.n < u.low"""  # requests_pkey
_SETTLE_OWED = """DELETE FROM owed_devices
USING unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS u(room_number, user_number, v)
WHERE owed_devices.room_number = u.room_number AND owed_devices.user_number = u.user_number AND list_version <= u.v"""
_NAME_LISTS = """UPDATE members SET list_version = u.v, list_digest = u.digest, changed_seq = u.seq
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[]) AS u(room_number, user_number, v, digest, seq)
WHERE members.room_number = u.room_number AND members.user_number = u.user_number"""

_STATEMENTS = {
    "lock_devices": _LOCK_DEVICES + " SKIP LOCKED",
    "lock_rooms": _LOCK_ROOMS + " SKIP LOCKED",
    "wait_devices": _LOCK_DEVICES,
    "wait_rooms": _LOCK_ROOMS,
    "look_up": _LOOK_UP,
    "joined": _JOINED,
    "owed": _OWED,
    "changed": _CHANGED,
    "timeline": timeline.INSERT_TIMELINE,
    "bodies": timeline.INSERT_BODIES,
    "passing_bodies": timeline.INSERT_PASSING_BODIES,
    "rooms": timeline.UPDATE_ROOMS,
    "record": _RECORD,
    "raise": _RAISE,
    "forget": _FORGET,
    "settle_owed": _SETTLE_OWED,
    "name_lists": _NAME_LISTS,
}

Statements = list[tuple[str, Params]]


class PostgresJournal(Journal):
    """Commits batches on connections of its own, opened when first needed and again after a loss.

    retention_days: the server's own; 0: messages are kept for ever. trips_total: round trips so far.
    """

    def __init__(
        self,
        address: str,
        *,
        clock: Clock,
        crash_points: CrashPoints,
        statement_timeout_s: float,
        retention_days: int,
    ) -> None:
        self._address = address
        self._retention_days = retention_days
        self._statement_timeout_s = statement_timeout_s
        self._clock = clock
        self._crash_points = crash_points
        self._pipelines: dict[bool, PipelineConnection] = {}
        self._closers: dict[bool, trio.Event] = {}
        self._nursery: trio.Nursery | None = None
        self.trips_total = 0

    async def _trip(self, pipeline: PipelineConnection, statements: Statements) -> list[list[Row]]:
        self.trips_total += 1
        return await pipeline.trip(statements)

    async def commit(self, drafts: Sequence[Draft], *, waits: bool) -> Result:
        try:
            return await self._commit_safely(await self._pipeline(waits=waits), drafts, waits=waits)
        except psycopg.errors.LockNotAvailable:
            raise Overloaded(limiter="room_lock", retry_after_s=lock_timeout_s) from None
        except psycopg.errors.QueryCanceled:
            raise Overloaded(limiter="database_statement_timeout", retry_after_s=lock_timeout_s) from None
        except psycopg.Error as error:
            raise BatchFailed(type(error).__name__) from error

    async def _commit_safely(self, pipeline: PipelineConnection, drafts: Sequence[Draft], *, waits: bool) -> Result:
        try:
            return await self._commit(pipeline, drafts, waits=waits)
        finally:
            if pipeline.is_in_transaction:  # a fault between the trips: its locks must not stay
                await self._trip(pipeline, [("rollback", [])])

    async def _commit(self, pipeline: PipelineConnection, drafts: Sequence[Draft], *, waits: bool) -> Result:
        facts = await self._lock_and_read(pipeline, drafts, waits=waits)
        decision = decide_batch(drafts, facts, now_ms=self._clock(), retention_days=self._retention_days)
        if decision.stale:
            await self._say_what_changed(pipeline, drafts, facts, decision)
        statements = _writes(facts, decision)
        if statements:
            await self._crash_points.reach("before_commit")
            await self._trip(pipeline, [*statements, ("commit", [])])
            await self._crash_points.reach("after_commit")
        else:
            await self._trip(pipeline, [("rollback", [])])
        return Result(answers=decision.answers, appended=decision.appended)

    async def _lock_and_read(self, pipeline: PipelineConnection, drafts: Sequence[Draft], *, waits: bool) -> Facts:
        devices = binary.int8_array([one.caller.device_number for one in drafts])
        users = binary.int8_array([one.caller.user_number for one in drafts])
        numbers = binary.int8_array([one.n for one in drafts])
        rooms = binary.int8_array([one.room_number for one in drafts])
        how = "wait" if waits else "lock"
        _, locked_devices, locked_rooms, recorded, joined, owed = await self._trip(
            pipeline,
            [
                ("begin", []),
                (f"{how}_devices", [devices]),
                (f"{how}_rooms", [rooms]),
                ("look_up", [devices, numbers]),
                ("joined", [rooms, users]),
                ("owed", [rooms]),
            ],
        )
        heads = {RoomNumber(row[0]): _head(row) for row in locked_rooms}
        ids = {one.room_number: one.room for one in drafts}
        return Facts(
            rows={
                DeviceNumber(row[0]): SendRow(low=row[1], highest_n=row[2], is_live=row[3]) for row in locked_devices
            },
            recorded={(DeviceNumber(row[0]), SendNumber(row[1])): _recorded(row, ids) for row in recorded},
            heads=heads,
            joined={(RoomNumber(row[0]), UserNumber(row[1])) for row in joined},
            owed=[one for one in map(_owed, owed) if one.room_number in heads],
        )

    async def _say_what_changed(
        self, pipeline: PipelineConnection, drafts: Sequence[Draft], facts: Facts, decision: Decision
    ) -> None:
        """Fill in `changed` of every device_set_stale: whom the sender must query anew, bounded by the member count."""
        stale = [drafts[index] for index in decision.stale]
        rooms = binary.int8_array(sorted({one.room_number for one in stale}))
        (rows,) = await self._trip(pipeline, [("changed", [rooms, binary.int8(min(one.new.epoch for one in stale))])])
        for index in decision.stale:
            one = drafts[index]
            changed: dict[UserId, ListVersion | None] = {
                UserId(row[1]): row[3] for row in rows if row[0] == one.room_number and row[2] > one.new.epoch
            }
            for owed in facts.owed:
                if owed.room_number == one.room_number and owed.is_due:
                    changed[owed.user] = owed.list_version
            decision.answers[index] = DeviceSetStale(epoch=facts.heads[one.room_number].epoch, changed=changed)

    async def _pipeline(self, *, waits: bool) -> PipelineConnection:
        pipeline = self._pipelines.get(waits)
        if pipeline is None or pipeline.is_broken:
            assert self._nursery is not None, "used outside open_journal()"
            if waits in self._closers:
                self._closers.pop(waits).set()
            pipeline = self._pipelines[waits] = await self._nursery.start(self._hold, waits)
        return pipeline

    async def _hold(
        self, waits: bool, *, task_status: trio.TaskStatus[PipelineConnection] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep one pipeline open until it is replaced or the journal closes."""
        closer = self._closers[waits] = trio.Event()
        options = {"lock_timeout": f"{round(lock_timeout_s * 1000)}ms"} if waits else {}
        async with open_pipeline(
            self._address, statement_timeout_s=self._statement_timeout_s, session_options=options
        ) as pipeline:
            for name, sql in _STATEMENTS.items():
                await pipeline.prepare(name, sql)
            task_status.started(pipeline)
            await closer.wait()


@asynccontextmanager
async def open_journal(
    address: str,
    *,
    clock: Clock,
    crash_points: CrashPoints = NO_CRASH_POINTS,
    statement_timeout_s: float = 30.0,
    retention_days: int = 0,
) -> AsyncIterator[PostgresJournal]:
    """A journal whose connections live as long as the block."""
    journal = PostgresJournal(
        address,
        clock=clock,
        crash_points=crash_points,
        statement_timeout_s=statement_timeout_s,
        retention_days=retention_days,
    )
    async with trio.open_nursery() as nursery:
        journal._nursery = nursery
        try:
            yield journal
        finally:
            nursery.cancel_scope.cancel()


def _head(row: Row) -> RoomHead:
    return RoomHead(
        room_number=RoomNumber(row[0]),
        room=RoomId(row[1]),
        seq=Seq(row[2]),
        head=row[3],
        epoch=Seq(row[4]),
        state_seq=Seq(row[5]),
        last_time=row[6],
        retention_days=row[7],
    )


def _recorded(row: Row, ids: dict[RoomNumber, RoomId]) -> Recorded:
    _, _, digest, room_number, seq, time, leaf, refusal = row
    return Recorded(
        digest=digest,
        room=ids.get(room_number, RoomId("")),
        seq=seq or Seq(0),
        time=time or 0,
        leaf=leaf or b"",
        refusal=refusal or "",
    )


def _owed(row: Row) -> OwedDevices:
    room_number, user_number, user, version, digest, member_version = row
    return OwedDevices(
        room_number=room_number,
        user_number=user_number,
        user=user,
        list_version=version,
        list_digest=encode_base64(digest),
        member_version=member_version,
    )


def _writes(facts: Facts, decision: Decision) -> Statements:
    statements: Statements = []
    if decision.appended:
        moved = {one.room_number for one in decision.appended}
        statements.append(("timeline", timeline.timeline_params(decision.appended)))
        if bodies := timeline.lasting(decision.appended):
            statements.append(("bodies", timeline.bodies_params(bodies)))
        if bodies := timeline.passing(decision.appended):
            statements.append(("passing_bodies", timeline.passing_params(bodies)))
        statements += [
            ("rooms", timeline.rooms_params([facts.heads[number] for number in sorted(moved)])),
        ]
    if decision.recorded:
        statements += _request_writes(decision)
    if facts.owed:
        statements += _owed_writes(facts.owed, decision)
    return statements


def _request_writes(decision: Decision) -> Statements:
    recorded = decision.recorded
    outcomes = [outcome for _, _, outcome, _ in recorded]
    rows = sorted(decision.rows.items())
    devices, lows = binary.int8_array([device for device, _ in rows]), binary.int8_array([row.low for _, row in rows])
    record: Params = [
        binary.int8_array([device for device, _, _, _ in recorded]),
        binary.int8_array([n for _, n, _, _ in recorded]),
        binary.bytea_array([outcome.digest for outcome in outcomes]),
        binary.int8_array([room_number for _, _, _, room_number in recorded]),
        binary.int8_array([outcome.seq for outcome in outcomes]),
        binary.int8_array([outcome.time for outcome in outcomes]),
        binary.bytea_array([outcome.leaf for outcome in outcomes]),
        binary.text_array([outcome.refusal for outcome in outcomes]),
    ]
    return [
        ("record", record),
        ("raise", [devices, lows, binary.int8_array([row.highest_n for _, row in rows])]),
        ("forget", [devices, lows]),
    ]


def _owed_writes(owed: Sequence[OwedDevices], decision: Decision) -> Statements:
    settled = [(one.room_number, one.user_number, one.list_version) for one in owed]
    settle: Params = [binary.int8_array(list(column)) for column in zip(*settled, strict=True)]
    due = [one for one in owed if one.is_due]
    seqs = [one.event.seq for one in decision.appended[: len(due)]]  # decide_batch() appends these first, in this order
    lists: Params = [
        binary.int8_array([one.room_number for one in due]),
        binary.int8_array([one.user_number for one in due]),
        binary.int8_array([one.list_version for one in due]),
        binary.text_array([one.list_digest for one in due]),
        binary.int8_array(list(seqs)),
    ]
    return [("settle_owed", settle), ("name_lists", lists)]
