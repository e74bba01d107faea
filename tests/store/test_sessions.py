"""Log-in sessions in a real PostgreSQL where two things happen at once."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import trio

from chatty.errors import ChattyError, DeviceIdTaken, NameTaken
from chatty.ids import DeviceId, FamilyId, UserId, UserNumber
from chatty.services.names import skeleton
from chatty.services.registration import NewUser, token_hash
from chatty.services.sessions import NewFamily
from chatty.services.tokens import RefreshState
from chatty.store.pool import Pool, open_pool
from chatty.store.units import PostgresUnitOfWork
from chatty.wire.accounts import KeyDerivation, NewDevice
from chatty.wire.chain import device_list_digest

ANN = UserId("@ann:x")
FAMILY = FamilyId("f" * 22)
NEW_FAMILY = NewFamily(family=FAMILY, dpop_thumbprint="T" * 43, generation=1)
_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with open_pool(database) as pool:
        yield pool


@pytest.fixture
def units(pool: Pool) -> PostgresUnitOfWork:
    return PostgresUnitOfWork(pool)


def new_user(user: UserId = ANN) -> NewUser:
    return NewUser(
        user=user,
        name_skeleton=skeleton(user[1:].partition(":")[0]),
        role="user",
        identity_key="A" * 43,
        key_derivation=KeyDerivation(algorithm="argon2id", memory_bytes=1, passes=1),
        login_key_sealed=b"sealed",
        wrapped_recovery=b"r",
        wrapped_identity=b"i",
        list_digest=device_list_digest([]),
    )


async def make_ann(units: PostgresUnitOfWork) -> UserNumber:
    async with units.begin() as unit:
        user = await unit.registrations.add_user(new_user())
        await unit.sessions.add_session(user, NewDevice(device=DeviceId("DEVICE01"), name="laptop"), NEW_FAMILY)
    return user


async def until_somebody_waits(pool: Pool) -> None:
    async with pool.connection() as connection:
        while True:
            row = await (await connection.execute(_WAITING)).fetchone()
            if row is not None and row[0]:
                return


async def test_a_family_begins_at_one_and_rotates(units: PostgresUnitOfWork) -> None:
    user = await make_ann(units)
    async with units.begin() as unit:
        await unit.families.lock_family(FAMILY)
        await unit.families.set_tokens(FAMILY, RefreshState(k=2, is_used=True, retired_ms=(5,)))
        row = await unit.families.family(FAMILY)
    assert row is not None
    assert (row.user, row.user_number, row.device, row.thumbprint) == (ANN, user, "DEVICE01", "T" * 43)
    assert row.tokens == RefreshState(k=2, is_used=True, retired_ms=(5,))
    assert (row.is_live, row.is_revoked, row.has_ended) == (True, False, False)
    assert 0 <= row.idle_s <= row.age_s + 1


async def test_an_unknown_family_or_user_is_nobody(units: PostgresUnitOfWork) -> None:
    async with units.snapshot() as unit:
        assert await unit.families.family(FAMILY) is None
        assert await unit.sessions.find_login(ANN) is None


async def test_of_two_refreshes_with_one_token_the_second_sees_the_first(units: PostgresUnitOfWork, pool: Pool) -> None:
    await make_ann(units)
    seen: list[int] = []

    async def refresh() -> None:
        async with units.begin() as unit:
            await unit.families.lock_family(FAMILY)
            row = await unit.families.family(FAMILY)
            assert row is not None
            seen.append(row.tokens.k)

    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        first = await stack.enter_async_context(units.begin())
        await first.families.lock_family(FAMILY)
        nursery.start_soon(refresh)
        await until_somebody_waits(pool)
        await first.families.set_tokens(FAMILY, RefreshState(k=2))
    assert seen == [2]


async def test_a_revocation_and_a_refresh_at_once_do_not_stop_each_other(units: PostgresUnitOfWork, pool: Pool) -> None:
    user = await make_ann(units)
    async with pool.connection() as connection:
        await connection.execute("UPDATE devices SET last_seen_day = current_date - 1")
    ended: list[bool] = []

    async def revoke() -> None:
        async with units.begin() as unit:
            await unit.devices.lock_user(user)
            [device] = await unit.devices.live(user)
            await unit.devices.kill(device.number)

    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        refreshing = await stack.enter_async_context(units.begin())
        await refreshing.families.lock_family(FAMILY)
        row = await refreshing.families.family(FAMILY)
        assert row is not None
        nursery.start_soon(revoke)
        await until_somebody_waits(pool)
        await refreshing.families.mark_seen(row.device_number)
    async with units.snapshot() as unit:
        after = await unit.families.family(FAMILY)
        assert after is not None
        ended.append(after.has_ended)
    assert ended == [True]


async def test_names_and_device_ids_are_given_once_even_at_once(units: PostgresUnitOfWork) -> None:
    refused: list[ChattyError] = []

    async def register(number: int) -> None:
        try:
            async with units.begin() as unit:
                user = await unit.registrations.add_user(new_user(ANN if number % 2 else UserId(f"@user{number}:x")))
                await unit.sessions.add_session(user, NewDevice(device=DeviceId("DEVICE01")), NEW_FAMILY)
        except (NameTaken, DeviceIdTaken) as error:
            refused.append(error)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(register, number)
    assert len(refused) == 5


async def test_a_registration_token_is_not_used_more_often_than_it_says(units: PostgresUnitOfWork) -> None:
    async with units.begin() as unit:
        await unit.registrations.add_token(token_hash("sesame"), role="user", uses=2, lifetime_s=60, inviter=None)
        await unit.registrations.add_token(token_hash("old"), role="user", uses=2, lifetime_s=-1, inviter=None)
    roles: list[str | None] = []

    async def use() -> None:
        async with units.begin() as unit:
            used = await unit.registrations.use_token(token_hash("sesame"))
            roles.append(None if used is None else used.role)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(use)
    assert sorted(roles, key=str) == [None, None, None, "user", "user"]
    async with units.begin() as unit:
        assert await unit.registrations.use_token(token_hash("old")) is None
        assert await unit.registrations.use_token(token_hash("unknown")) is None
