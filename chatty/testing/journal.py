"""The journal's transaction in memory: locks first, then reads, the product's own decision, the writes, one commit.

What comes of a batch is decided by the same `decide_batch` as in PostgreSQL; here are only its facts and its writes.
"""

from collections.abc import Sequence
from dataclasses import replace

import trio

from chatty.errors import DeviceSetStale, Overloaded
from chatty.ids import DeviceNumber, ListVersion, RoomNumber, UserId, UserNumber
from chatty.services.messages import BatchFailed, Clock, Decision, Draft, Facts, Journal, Result, decide_batch
from chatty.services.requests import SendRow
from chatty.services.timeline import OwedDevices, RoomHead
from chatty.testing.tables import AlreadyThere, Request, Tables
from chatty.testing.transactions import MemoryStore, Row, Transaction
from chatty.wire.canonical import encode_base64

lock_timeout_s = 1.0


class MemoryJournal(Journal):
    def __init__(self, store: MemoryStore, *, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def commit(self, drafts: Sequence[Draft], *, waits: bool) -> Result:
        try:
            async with self._store.transaction("read committed") as transaction:
                return await self._decide(transaction, drafts, waits=waits)
        except AlreadyThere as error:
            raise BatchFailed(type(error).__name__) from error

    async def _decide(self, transaction: Transaction, drafts: Sequence[Draft], *, waits: bool) -> Result:
        devices = sorted({one.caller.device_number for one in drafts})
        rooms = sorted({one.room_number for one in drafts})
        locked = await _lock(
            transaction,
            [*(("device_send", one) for one in devices), *(("rooms", one) for one in rooms)],
            waits=waits,
        )
        facts = _facts(await transaction.read(), drafts, locked)
        decision = decide_batch(drafts, facts, now_ms=self._clock())
        if decision.stale:
            _say_what_changed(await transaction.read(), drafts, facts, decision)
        if decision.appended or decision.recorded or facts.owed:
            _check_texts(drafts)
            await transaction.write(lambda tables: _apply(tables, facts, decision))
        return Result(answers=decision.answers, appended=decision.appended)


async def _lock(transaction: Transaction, rows: Sequence[Row], *, waits: bool) -> set[Row]:
    """Those that it got: all, or those that nobody else holds. Raises: Overloaded after a second."""
    if not waits:
        await transaction.lock([])
        return {row for row in rows if transaction.lock_at_once(row)}
    with trio.move_on_after(lock_timeout_s) as scope:
        await transaction.lock(rows)
    if scope.cancelled_caught:
        raise Overloaded(limiter="room_lock", retry_after_s=lock_timeout_s)
    return set(rows)


def _facts(tables: Tables, drafts: Sequence[Draft], locked: set[Row]) -> Facts:
    rows: dict[DeviceNumber, SendRow] = {}
    heads: dict[RoomNumber, RoomHead] = {}
    recorded = {}
    for one in drafts:
        device, room = one.caller.device_number, one.room_number
        if ("device_send", device) in locked and device in tables.sends:
            rows[device] = tables.sends[device]
        if ("rooms", room) in locked and room in tables.rooms:
            heads[room] = tables.rooms[room].locked_head()
        if (known := tables.requests.get((device, one.n))) is not None:
            recorded[device, one.n] = known.recorded
    joined = {(room, user) for (room, user), member in tables.members.items() if member.is_joined}
    owed = [_owed(tables, room, user) for room, user in sorted(tables.owed_devices) if room in heads]
    return Facts(rows=rows, recorded=recorded, heads=heads, joined=joined, owed=owed)


def _owed(tables: Tables, room: RoomNumber, number: UserNumber) -> OwedDevices:
    user, member = tables.users[number], tables.members.get((room, number))
    return OwedDevices(
        room_number=room,
        user_number=number,
        user=user.user,
        list_version=user.list_version,
        list_digest=encode_base64(user.list_digest),
        member_version=member.list_version if member is not None and member.is_joined else None,
    )


def _say_what_changed(tables: Tables, drafts: Sequence[Draft], facts: Facts, decision: Decision) -> None:
    for index in decision.stale:
        one = drafts[index]
        changed: dict[UserId, ListVersion | None] = {
            tables.users[user].user: member.list_version if member.is_joined else None
            for (room, user), member in tables.members.items()
            if room == one.room_number and member.changed_seq > one.new.epoch
        }
        changed |= {
            owed.user: owed.list_version for owed in facts.owed if owed.room_number == one.room_number and owed.is_due
        }
        decision.answers[index] = DeviceSetStale(epoch=facts.heads[one.room_number].epoch, changed=changed)


def _check_texts(drafts: Sequence[Draft]) -> None:
    """PostgreSQL's texts hold no NUL. Raises: BatchFailed."""
    if any("\0" in one.new.session_id + one.new.algorithm + one.new.target for one in drafts):
        raise BatchFailed("a NUL in a text")


def _apply(tables: Tables, facts: Facts, decision: Decision) -> None:
    for one in decision.appended:
        tables.insert_event(one)
    for number in {one.room_number for one in decision.appended}:
        tables.rooms[number] = tables.rooms[number].moved(facts.heads[number])
    for device, n, outcome, _ in decision.recorded:
        tables.record(device, n, Request(recorded=outcome))
    for device, row in decision.rows.items():
        tables.raise_low(device, low=row.low, highest_n=row.highest_n)
    _pay(tables, facts.owed, decision)


def _pay(tables: Tables, owed: Sequence[OwedDevices], decision: Decision) -> None:
    """What was owed is settled; the members' rows name the lists that the chain names now."""
    due = [one for one in owed if one.is_due]
    for one, appended in zip(due, decision.appended, strict=False):  # decide_batch() appends these first, in this order
        member = tables.members[one.room_number, one.user_number]
        tables.members[one.room_number, one.user_number] = replace(
            member,
            list_version=one.list_version,
            list_digest=one.list_digest,
            changed_seq=appended.event.seq,
        )
    for one in owed:
        if tables.owed_devices.get((one.room_number, one.user_number), one.list_version + 1) <= one.list_version:
            del tables.owed_devices[one.room_number, one.user_number]
