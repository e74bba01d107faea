"""What the server looks at before it serves."""

from pathlib import Path

import psycopg
import trio
from psycopg import conninfo, sql
from structlog.testing import capture_logs

from chatty.store.embedded import EmbeddedServer
from tests.server.app_fixtures import open_chat


def set_verbosity(postgres: EmbeddedServer, database: str, verbosity: str) -> None:
    """For later connections; only a superuser may."""
    name = sql.Identifier(str(conninfo.conninfo_to_dict(database)["dbname"]))
    with psycopg.connect(postgres.superuser_address, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET log_error_verbosity = {}").format(name, verbosity))


async def warnings_at_start(database: str, data_dir: Path) -> list[str]:
    with capture_logs() as logs:
        async with open_chat(database, data_dir):
            pass
    return [entry["event"] for entry in logs if entry["log_level"] == "warning"]


async def test_a_database_whose_log_may_hold_keys_is_told(
    postgres: EmbeddedServer, database: str, tmp_path: Path
) -> None:
    assert await warnings_at_start(database, tmp_path) == []
    await trio.to_thread.run_sync(set_verbosity, postgres, database, "default")
    assert await warnings_at_start(database, tmp_path) == ["database.verbosity_noticed"]
