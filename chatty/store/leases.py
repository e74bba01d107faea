"""Leases on background jobs: one statement compares and sets, by the database's clock. Owns leases."""

from chatty.services.jobs import Leases
from chatty.store.pool import Pool

# clock_timestamp(), not now(): the statement may have waited for the row.
_TAKE = """INSERT INTO leases (job, holder, expires_at)
VALUES (%(job)s, %(holder)s, clock_timestamp() + make_interval(secs => %(lifetime_s)s))
ON CONFLICT (job) DO UPDATE SET holder = EXCLUDED.holder, expires_at = EXCLUDED.expires_at
WHERE leases.holder = EXCLUDED.holder OR leases.expires_at <= clock_timestamp()
RETURNING job"""  # index: leases_pkey
_RELEASE = "DELETE FROM leases WHERE job = %s AND holder = %s"


class PostgresLeases(Leases):
    """Each call borrows a connection for one statement."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def take(self, job: str, *, holder: str, lifetime_s: float) -> bool:
        values = {"job": job, "holder": holder, "lifetime_s": lifetime_s}
        async with self._pool.connection() as connection:
            return await (await connection.execute(_TAKE, values)).fetchone() is not None

    async def release(self, job: str, *, holder: str) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(_RELEASE, (job, holder))
