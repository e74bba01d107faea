"""The two stores that keep one contract: PostgreSQL, and the double that the simulation drives."""

from collections.abc import AsyncIterator

import pytest

from tests.store.either_store import Store, open_either


@pytest.fixture(params=["postgres", "memory"])
def store_address(request: pytest.FixtureRequest) -> str | None:
    address: str | None = request.getfixturevalue("database") if request.param == "postgres" else None
    return address


@pytest.fixture
async def store(store_address: str | None) -> AsyncIterator[Store]:
    async with open_either(store_address) as store:
        yield store
