"""The server's identity and keys in a real PostgreSQL: made once, the same for every node, useless without the master key."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from chatty.crypto.sealing import MasterKey
from chatty.errors import SealBroken, ServerNameMismatch
from chatty.services.server import ServerIdentity, open_identity
from chatty.services.server_keys import ServerKeys, open_server_keys
from chatty.store.pool import Pool, open_pool
from chatty.store.units import PostgresUnitOfWork

MASTER = MasterKey(b"m" * 32)


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with open_pool(database) as pool:
        yield pool


async def rows(pool: Pool, sql: str) -> list[tuple[Any, ...]]:
    async with pool.connection() as connection:
        return await (await connection.execute(sql.encode())).fetchall()


async def identity(pool: Pool, name: str, generation_id: str = "one") -> ServerIdentity:
    return await open_identity(PostgresUnitOfWork(pool), name=name, make_generation_id=lambda: generation_id)


async def open_keys(pool: Pool, master: MasterKey = MASTER) -> ServerKeys:
    async def read() -> MasterKey:
        return master

    return await open_server_keys(PostgresUnitOfWork(pool), read, turn=trio.Lock())


async def test_the_first_start_chooses_name_and_generation_for_ever(pool: Pool) -> None:
    first = await identity(pool, "example.org")
    assert (first.name, first.generation.number, first.generation.id) == ("example.org", 1, "one")
    assert await identity(pool, "example.org", "two") == first


async def test_a_start_under_another_name_is_refused(pool: Pool) -> None:
    await identity(pool, "example.org")
    with pytest.raises(ServerNameMismatch, match=r"example\.org"):
        await identity(pool, "example.com")


async def test_two_nodes_that_start_at_once_agree(pool: Pool) -> None:
    seen: list[ServerIdentity] = []
    keys: list[ServerKeys] = []

    async def start(number: int) -> None:
        seen.append(await identity(pool, "example.org", f"by node {number}"))
        keys.append(await open_keys(pool))

    async with trio.open_nursery() as nursery:
        for number in range(4):
            nursery.start_soon(start, number)
    assert len({one.generation.id for one in seen}) == 1
    assert len({one.signing.signing(now_s=0).key_id for one in keys}) == 1
    assert len({one.refresh_keys()[0] for one in keys}) == 1


async def test_keys_are_the_same_at_the_next_start(pool: Pool) -> None:
    first = await open_keys(pool)
    second = await open_keys(pool)
    assert first.signing.signing(now_s=0).key_id == second.signing.signing(now_s=0).key_id
    assert (first.salt_key, first.refresh_keys(), first.nonce_keys()) == (
        second.salt_key,
        second.refresh_keys(),
        second.nonce_keys(),
    )
    sealed = first.sealer.seal(b"secret", purpose="p")
    assert second.sealer.open(sealed, purpose="p") == b"secret"
    assert len({first.salt_key, first.refresh_keys()[0], first.nonce_keys()[0]}) == 3


async def test_another_master_key_opens_nothing_and_changes_nothing(pool: Pool) -> None:
    await open_keys(pool)
    before = await rows(pool, "SELECT * FROM sealed_keys ORDER BY purpose")
    with pytest.raises(SealBroken):
        await open_keys(pool, MasterKey(b"n" * 32))
    assert await rows(pool, "SELECT * FROM sealed_keys ORDER BY purpose") == before


async def test_no_key_is_stored_in_clear(pool: Pool) -> None:
    keys = await open_keys(pool)
    stored = b"".join(bytes(sealed) for (sealed,) in await rows(pool, "SELECT sealed FROM sealed_keys"))
    for secret in (
        keys.salt_key,
        *keys.refresh_keys(),
        *keys.nonce_keys(),
        keys.signing.signing(now_s=0).private.private_bytes_raw(),
    ):
        assert secret not in stored
