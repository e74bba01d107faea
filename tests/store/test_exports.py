"""The list of what is exported, against the schema: no table about a user is forgotten, and every statement runs."""

import re

import pytest

from chatty.ids import UserId, UserNumber
from chatty.store.connection import open_connection
from chatty.store.exports import LEFT_OUT, PARTS, PostgresExports

ABOUT_USERS = re.compile(r"(^|_)(user|device|sender|actor|family|blocked|inviter|owner|creator)(_|$)")
_COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
WITHOUT_A_COLUMN_THAT_SAYS_SO = {"bodies", "rooms"}  # but with a user's words, or names, in them


def unaccounted(columns: list[tuple[str, str]]) -> set[str]:
    """Tables about users that are neither exported nor left out with a reason."""
    about = {table for table, column in columns if ABOUT_USERS.search(column)} | WITHOUT_A_COLUMN_THAT_SAYS_SO
    return about - {table for part in PARTS for table in part.tables} - LEFT_OUT.keys()


async def test_every_table_about_users_is_exported_or_left_out_with_a_reason(database: str) -> None:
    async with open_connection(database) as connection:
        columns = [(row[0], row[1]) for row in await (await connection.execute(_COLUMNS)).fetchall()]
        assert unaccounted(columns) == set()
        assert {table for part in PARTS for table in part.tables} | LEFT_OUT.keys() <= {table for table, _ in columns}
        assert all(len(reason) > 20 for reason in LEFT_OUT.values())


@pytest.mark.parametrize(
    "column",
    ["user_number", "device_number", "sender_device_number", "user_id", "actor", "family_id", "inviter_number"],
)
async def test_a_table_that_is_added_without_a_word_is_found(database: str, column: str) -> None:
    async with open_connection(database) as connection:
        await connection.execute(f"CREATE TABLE diary (entry text, {column} bigint)")
        columns = [(row[0], row[1]) for row in await (await connection.execute(_COLUMNS)).fetchall()]
        assert unaccounted(columns) == {"diary"}


async def test_of_nobody_nothing_is_exported(database: str) -> None:
    async with open_connection(database) as connection, connection.transaction():
        exports = PostgresExports(connection)
        assert [row async for row in exports.rows(UserNumber(7), UserId("@nobody:localhost"))] == []


def test_each_part_has_a_name_of_its_own() -> None:
    types = [part.type for part in PARTS]
    assert sorted(set(types)) == sorted(types)
