"""How large each feature is: every table belongs to one, and growth is told from days before."""

from chatty.services.sizes import SampleSizes
from chatty.store.connection import open_connection
from chatty.store.pool import open_pool
from chatty.store.sizes import FEATURES, PostgresSizes
from chatty.store.units import PostgresUnitOfWork


async def test_every_table_belongs_to_one_feature(database: str) -> None:
    async with open_connection(database) as connection:
        found = await connection.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
        )
        tables = [row[0] for row in await found.fetchall()]
    assert sorted(table for its in FEATURES.values() for table in its) == sorted(tables)


async def test_growth_is_told_since_the_oldest_sample_and_a_job_takes_one(database: str) -> None:
    async with open_pool(database) as pool:
        job = SampleSizes(units=PostgresUnitOfWork(pool))
        for _ in range(2):  # the later one replaces the earlier one
            assert not await job.step()
        async with pool.transaction() as connection:
            sizes = PostgresSizes(connection)
            first = await sizes.look()
            assert {one.growth_bytes_per_day for one in first.features} == {None}
            assert {one.feature for one in first.features} == set(FEATURES)
            assert first.total_bytes > sum(one.bytes for one in first.features) > 100_000
            await connection.execute(
                "UPDATE size_samples SET day = day - 10, bytes = bytes - 50000 WHERE feature = 'rooms'"
            )
            await connection.execute("INSERT INTO size_samples SELECT day - 500, feature, 1 FROM size_samples")
            [rooms] = [one for one in (await sizes.look()).features if one.feature == "rooms"]
            assert rooms.growth_bytes_per_day == 5_000
            await sizes.sample(kept_days=400)
            kept = await connection.execute("SELECT count(*), count(DISTINCT day) FROM size_samples")
            assert await kept.fetchone() == (len(FEATURES) + 1, 2)


async def test_an_event_costs_what_its_tables_take(database: str) -> None:
    async with open_connection(database) as connection:
        await connection.execute(
            """INSERT INTO timeline (room_number, seq, time, kind, n, algorithm, session_id, epoch, silent, expiry, target,
            signature, body_hash, head) SELECT 1, n, 0, 'message', 0, '', '', 0, false, 0, '', '', '', ''
            FROM generate_series(1, 2000) n"""
        )
        await connection.execute(
            "INSERT INTO bodies SELECT 1, n, repeat('x', 500)::bytea FROM generate_series(1, 2000) n"
        )
        await connection.execute("ANALYZE timeline")
        found = await PostgresSizes(connection).look()
    assert found.events_estimate == 2_000
    assert found.bytes_per_event is not None
    assert 600 < found.bytes_per_event < 1_200


async def test_without_pg_stat_statements_it_says_so(database: str) -> None:
    async with open_connection(database) as connection:
        assert await PostgresSizes(connection).slowest(count_max=5) is None
