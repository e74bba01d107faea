"""The audit log in a real PostgreSQL: acts that overlap, sealers that overlap, heads on disk."""

import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import trio
from structlog.testing import capture_logs

from chatty.errors import AuditBroken, AuditFileUnusable, BadRequest
from chatty.services.audit import EraseAddresses, Origin, erasure_lead_s, rows_a_step_max, set_origin
from chatty.services.crash_points import CrashPoints, Point
from chatty.store import audit as store
from chatty.store.audit_heads import DiskHeadFile, read_heads
from chatty.store.pool import Pool, PoolLimits, open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.wire.audit import AuditHead
from tests.audit_log import KeptHeads, make_sealer, open_log, record, record_many, seal_all, verify


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with open_pool(database, limits=PoolLimits(connections_max=16)) as pool:
        await open_log(pool)
        yield pool


async def rows(pool: Pool, sql: str) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        return await (await connection.execute(sql.encode())).fetchall()


async def actors_by_position(pool: Pool) -> list[str]:
    found = await rows(pool, "SELECT actor FROM audit JOIN audit_seals USING (audit_id) ORDER BY position")
    return [row[0] for row in found]


async def test_rows_are_sealed_once_in_batches_and_each_batch_ends_with_a_head(pool: Pool) -> None:
    heads = KeptHeads()
    sealer = make_sealer(pool, heads=heads)
    assert not await sealer.step()
    await record_many(pool, *(f"@u{n}" for n in range(rows_a_step_max + 10)))
    assert await sealer.step()
    assert not await sealer.step()
    assert not await sealer.step()
    assert [head.position for head in heads.heads] == [0, rows_a_step_max, rows_a_step_max + 10]
    verdict = await verify(pool, carried=heads.heads)
    assert (verdict.findings, verdict.sealed_count, verdict.heads_count) == ([], rows_a_step_max + 10, 3)


async def test_what_is_rolled_back_leaves_no_row_and_no_hole(pool: Pool) -> None:
    await record_many(pool, "@a")

    async def fail() -> None:
        async with PostgresUnitOfWork(pool).begin() as unit:
            await record(unit, "@b")
            raise BadRequest("refused")

    with pytest.raises(BadRequest):
        await fail()
    await record_many(pool, "@c")
    await seal_all(make_sealer(pool))
    assert await actors_by_position(pool) == ["@a", "@c"]
    assert (await verify(pool)).is_intact


async def test_an_act_that_commits_late_is_sealed_after_those_that_overtook_it(pool: Pool) -> None:
    sealer = make_sealer(pool)
    async with PostgresUnitOfWork(pool).begin() as slow:
        await record(slow, "@slow")
        await record_many(pool, "@quick")
        await seal_all(sealer)
        assert await actors_by_position(pool) == ["@quick"]
    await seal_all(sealer)
    assert await actors_by_position(pool) == ["@quick", "@slow"]
    assert (await verify(pool)).is_intact


@pytest.mark.long
async def test_sealers_that_all_work_at_once_never_fork_the_chain(
    pool: Pool, counts: Callable[[int, int], int]
) -> None:
    """As if every node believed to have the lease, while acts go on."""
    count, heads, done = counts(200, 4_000), KeptHeads(), trio.Event()

    async def seal_until_done() -> None:
        sealer = make_sealer(pool, heads=heads)
        while not done.is_set():
            await sealer.step()
        await seal_all(sealer)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(seal_until_done)
        for begin in range(0, count, 20):
            await record_many(pool, *(f"@u{n}" for n in range(begin, begin + 20)))
        done.set()
    verdict = await verify(pool, carried=heads.heads)
    assert (verdict.findings, verdict.sealed_count, verdict.unsealed_count) == ([], count, 0)
    assert set(await actors_by_position(pool)) == {f"@u{n}" for n in range(count)}


class Pause(CrashPoints):
    """Stand still before the commit until told to go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = trio.Event(), trio.Event()

    async def reach(self, point: Point, subject: object = None) -> None:
        if point == "before_seal_commit":
            self.reached.set()
            await self.go_on.wait()


async def test_without_the_lock_too_the_second_sealer_fails_and_the_chain_stays_whole(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_TRY_LOCK", "SELECT true OR %s > 0")
    await record_many(pool, *(f"@u{n}" for n in range(50)))
    pause, second = Pause(), make_sealer(pool)

    async def seal_second() -> None:
        with pytest.raises(psycopg.errors.UniqueViolation):
            await second.step()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_sealer(pool, crash_points=pause).step)
            await pause.reached.wait()
            nursery.start_soon(seal_second)
            while await rows(pool, "SELECT 1 FROM pg_locks WHERE NOT granted") == []:  # noqa: ASYNC110  # as PostgreSQL tells
                await trio.sleep(0.02)
            pause.go_on.set()
    verdict = await verify(pool)
    assert (verdict.findings, verdict.sealed_count) == ([], 50)


async def test_a_sealer_waits_for_nobody(pool: Pool) -> None:
    await record_many(pool, "@a")
    async with PostgresUnitOfWork(pool).begin() as other:
        assert await other.audit.try_lock()
        with trio.fail_after(1):
            assert not await make_sealer(pool).step()
    assert await actors_by_position(pool) == []
    await seal_all(make_sealer(pool))
    assert await actors_by_position(pool) == ["@a"]


@pytest.mark.parametrize(
    "alteration",
    ["head = sha256(head)", "position = position + 1", "generation = 2", "key = 'A' || key", "signature = key"],
)
async def test_nothing_is_built_on_a_head_that_was_altered(pool: Pool, alteration: str) -> None:
    await record_many(pool, "@a")
    await seal_all(make_sealer(pool))
    async with pool.connection() as connection:
        await connection.execute(f"UPDATE audit_heads SET {alteration}".encode())
    await record_many(pool, "@b")
    with pytest.raises(AuditBroken):
        await make_sealer(pool).step()
    assert await actors_by_position(pool) == ["@a"]


async def test_the_origin_of_a_request_stands_in_its_rows(pool: Pool) -> None:
    set_origin(Origin(request_id="r", address="192.0.2.1", family="f"))
    async with PostgresUnitOfWork(pool).begin() as unit:
        await record(unit, "@a")
        await record(unit, "@b", family="g")
    set_origin(Origin())
    await record_many(pool, "@c")
    found = await rows(pool, "SELECT request_id, address, family FROM audit ORDER BY audit_id")
    assert found == [("r", "192.0.2.1", "f"), ("r", "192.0.2.1", "g"), ("", None, "")]


@pytest.mark.parametrize("value", [1.5, 2**53, b"bytes"])
async def test_what_has_no_one_form_is_refused_before_it_is_recorded(pool: Pool, value: Any) -> None:
    async with PostgresUnitOfWork(pool).begin() as unit:
        with pytest.raises(BadRequest):
            await record(unit, "@a", after={"value": value})


async def test_the_oldest_row_that_waits_has_an_age(pool: Pool) -> None:
    async def age_s() -> float:
        async with PostgresUnitOfWork(pool).begin() as unit:
            return await unit.audit.unsealed_age_s()

    assert await age_s() == 0
    async with pool.connection() as connection:
        await connection.execute(
            "INSERT INTO audit (time, actor, device, action, object, detail, request_id) "
            "VALUES (now() - interval '60 s', '', '', '', '', '{}', '')"
        )
    await record_many(pool, "@a")
    assert 60 <= await age_s() < 70
    await seal_all(make_sealer(pool))
    assert await age_s() == 0


async def test_addresses_go_before_their_time_is_over_the_oldest_first(pool: Pool) -> None:
    set_origin(Origin(address="192.0.2.1"))
    await record_many(pool, "@new", "@old")
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE audit SET time = now() - make_interval(secs => %s) WHERE actor = '@old'",
            (86_400 - erasure_lead_s + 60,),
        )
    await seal_all(make_sealer(pool))
    assert not await EraseAddresses(units=PostgresUnitOfWork(pool), retention_days=1).step()
    assert await rows(pool, "SELECT actor FROM audit WHERE address IS NULL AND address_salt IS NULL") == [("@old",)]
    assert (await verify(pool)).is_intact


async def test_what_is_idle_costs_an_index_that_is_empty(pool: Pool) -> None:
    """However long the log is, the sealer's question touches only what waits."""
    await record_many(pool, *(f"@u{n}" for n in range(300)))
    await seal_all(make_sealer(pool))
    async with pool.connection() as connection:
        await connection.execute("ANALYZE audit")
        statement = "EXPLAIN SELECT audit_id FROM audit a WHERE NOT a.is_sealed ORDER BY a.audit_id LIMIT 250"
        plan = "\n".join(row[0] for row in await (await connection.execute(statement)).fetchall())
    assert "audit_unsealed" in plan


# The file of heads --------------------------------------------------------------------------------------------------


def make_head(position: int) -> AuditHead:
    return AuditHead(
        server="example.org", generation=1, position=position, head="A" * 43, time=1, key="A" * 43, signature="A" * 86
    )


async def test_heads_on_disk_are_private_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "audit_heads"
    file = DiskHeadFile(path)
    for position in (1, 2):
        await file.append(make_head(position))
    assert read_heads(path) == [make_head(1), make_head(2)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_line_that_a_crash_cut_off_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "audit_heads"
    path.write_bytes(msgspec.json.encode(make_head(1)) + b"\n" + msgspec.json.encode(make_head(2))[:50])
    await DiskHeadFile(path).append(make_head(3))
    assert read_heads(path) == [make_head(1), make_head(3)]


async def test_a_file_that_was_carried_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit_heads"
    file = DiskHeadFile(path)
    await file.append(make_head(1))
    path.rename(tmp_path / "elsewhere")
    await file.append(make_head(2))
    assert read_heads(path) == [make_head(2)]


async def test_a_disk_that_takes_nothing_is_told_once_and_stops_nobody(tmp_path: Path) -> None:
    file = DiskHeadFile(tmp_path / "missing" / "audit_heads")
    with capture_logs() as events:
        await file.append(make_head(1))
        await file.append(make_head(2))
    assert [event["event"] for event in events] == ["audit.export_failed"]


@pytest.mark.parametrize("content", ["", "nothing\n", '{"type": "head"}\n'])
def test_a_file_without_a_head_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "heads"
    path.write_text(content)
    with pytest.raises(AuditFileUnusable):
        read_heads(path)
