"""The list of what a deletion erases, against the schema: no table about a user is forgotten, and no sample of it stays."""

import pytest

from chatty.admin.privacy import load_manifest
from chatty.services.deletions import KEPT
from chatty.store.connection import open_connection
from chatty.store.deletions import LAST_STORES, OTHER_STORES, ROOM_STORES, STAGES
from tests.store.about_users import columns_of, tables_about_users

STORES = (*ROOM_STORES, *(stage.store for stage in STAGES), *LAST_STORES, *OTHER_STORES)
ITS_OWN = {"erasures"}  # rows of deletions under way; the receipt is of what they are about
# Statistics may hold samples of these: they identify nobody, or are hashes that stay.
HARMLESS = {"role", "kind", "algorithm", "standing", "policy", "action", "request_id", "head", "leaf"}
KEEP_ALL = {"erased_names", "deletions"}
_SAMPLED = """SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'i') AND a.attnum > 0 AND NOT a.attisdropped
AND a.atttypid IN ('text'::regtype, 'bytea'::regtype, 'jsonb'::regtype) AND a.attstattarget IS DISTINCT FROM 0
AND (c.relkind = 'r' OR EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = c.oid AND i.indexprs IS NOT NULL))"""


def unaccounted(columns: set[tuple[str, str]]) -> set[str]:
    """Tables about users of which no deletion knows."""
    return tables_about_users(columns) - set(STORES) - ITS_OWN


async def test_a_deletion_knows_every_table_about_users(database: str) -> None:
    columns = await columns_of(database)
    assert unaccounted(columns) == set()
    assert set(STORES) | ITS_OWN <= {table for table, _ in columns}


def test_it_knows_every_table_that_the_manifest_says_is_about_somebody() -> None:
    tables = {name for name, table in load_manifest().tables.items() if table.about != "nobody"}
    assert tables - set(STORES) - ITS_OWN == set()


@pytest.mark.parametrize("column", ["user_number", "device_number", "sender_number", "user_id", "actor", "family"])
async def test_a_table_that_is_added_without_a_word_is_found(database: str, column: str) -> None:
    columns = await columns_of(database, first=f"CREATE TABLE diary (entry text, {column} bigint)")
    assert unaccounted(columns) == {"diary"}


def test_each_store_is_in_one_part_and_what_is_kept_is_a_store() -> None:
    parts = [ROOM_STORES, {stage.store for stage in STAGES}, LAST_STORES, OTHER_STORES]
    assert sum(len(part) for part in parts) == len(set(STORES))
    assert KEPT.keys() <= set(STORES)
    assert set(OTHER_STORES) <= KEPT.keys()


async def test_statistics_hold_no_samples_of_what_is_erased(database: str) -> None:
    """PostgreSQL keeps samples of a column's values until it looks again, also of rows that are gone."""
    async with open_connection(database) as connection:
        rows = await (await connection.execute(_SAMPLED)).fetchall()
    of = (set(STORES) | {"user_stream_inviters"}) - KEEP_ALL
    assert {(table, column) for table, column in rows if table in of and column not in HARMLESS} == set()
