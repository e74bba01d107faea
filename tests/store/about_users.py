"""Which tables are about users, by what the schema calls their columns: for lists that must forget none."""

import re

from chatty.store.connection import open_connection

COLUMNS = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
WITHOUT_A_COLUMN_THAT_SAYS_SO = {"bodies", "rooms"}  # but with a user's words, or names, in them
_ABOUT_USERS = re.compile(r"(^|_)(user|device|sender|actor|family|blocked|inviter|owner|creator)(_|$)")


async def columns_of(database: str, *, first: str = "SELECT 1") -> set[tuple[str, str]]:
    """(table, column) of all tables; `first` is done before."""
    async with open_connection(database) as connection:
        await connection.execute(first.encode())
        return {(row[0], row[1]) for row in await (await connection.execute(COLUMNS)).fetchall()}


def tables_about_users(columns: set[tuple[str, str]]) -> set[str]:
    return {table for table, column in columns if _ABOUT_USERS.search(column)} | WITHOUT_A_COLUMN_THAT_SAYS_SO
