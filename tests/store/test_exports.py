"""The list of what is exported, against the schema: no table about a user is forgotten, and every statement runs."""

import pytest

from chatty.ids import UserId, UserNumber
from chatty.store.connection import open_connection
from chatty.store.exports import LEFT_OUT, PARTS, PostgresExports
from tests.store.about_users import columns_of, tables_about_users

EXPORTED = {table for part in PARTS for table in part.tables}


def unaccounted(columns: set[tuple[str, str]]) -> set[str]:
    """Tables about users that are neither exported nor left out with a reason."""
    return tables_about_users(columns) - EXPORTED - LEFT_OUT.keys()


async def test_every_table_about_users_is_exported_or_left_out_with_a_reason(database: str) -> None:
    columns = await columns_of(database)
    assert unaccounted(columns) == set()
    assert EXPORTED | LEFT_OUT.keys() <= {table for table, _ in columns}
    assert all(len(reason) > 20 for reason in LEFT_OUT.values())


@pytest.mark.parametrize(
    "column",
    ["user_number", "device_number", "sender_device_number", "user_id", "actor", "family_id", "inviter_number"],
)
async def test_a_table_that_is_added_without_a_word_is_found(database: str, column: str) -> None:
    columns = await columns_of(database, first=f"CREATE TABLE diary (entry text, {column} bigint)")
    assert unaccounted(columns) == {"diary"}


async def test_of_nobody_nothing_is_exported(database: str) -> None:
    async with open_connection(database) as connection, connection.transaction():
        exports = PostgresExports(connection)
        assert [row async for row in exports.rows(UserNumber(7), UserId("@nobody:localhost"))] == []


def test_each_part_has_a_name_of_its_own() -> None:
    types = [part.type for part in PARTS]
    assert sorted(set(types)) == sorted(types)
