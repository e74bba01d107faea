"""`chatty-admin db`: the schema's version and its ways, room and time; with no server there."""

import json
from functools import partial
from pathlib import Path

import pytest

from chatty.store.connection import open_connection
from chatty.store.schema import code_version
from tests.server.app_fixtures import RunningApp
from tests.server.commands import as_url, chatty_admin, chatty_admin_json

pytestmark = pytest.mark.usefixtures("logging_as_before")


async def test_back_one_version_and_forward_again(database: str, tmp_path: Path) -> None:
    ask = partial(chatty_admin, tmp_path, "db", CHATTY_DATABASE_URL=as_url(database))
    newest, file = code_version(), "0017_generations.sql"
    planned = json.loads((await ask("downgrade", "--dry-run", "--json")).stdout)
    assert (planned["version"], planned["file"], planned["is_dry_run"]) == (newest, file, True)
    unconfirmed = await ask("downgrade")
    assert (unconfirmed.exit_code, unconfirmed.stdout) == (4, "")
    done = json.loads((await ask("downgrade", "--yes", "--json")).stdout)
    assert (done["version_before"], done["version"], done["file"]) == (newest, newest - 1, file)
    status = await ask("status", "--json")
    assert (status.exit_code, json.loads(status.stdout)["missing"]) == (1, [file])
    assert status.stderr.splitlines()[0].startswith("error schema_too_old: ")
    assert status.stderr.splitlines()[-1] == "next: chatty-admin db upgrade"
    preview = json.loads((await ask("upgrade", "--dry-run", "--json")).stdout)
    [step] = preview["steps"]
    assert (step["file"], step["has_way_back"], step["has_backfill"]) == (file, True, False)
    assert "from a backup" in step["about"]
    assert json.loads((await ask("upgrade", "--json")).stdout)["applied"] == [file]
    assert (await ask("status")).exit_code == 0


async def test_a_schema_that_this_code_does_not_know_is_told(database: str, tmp_path: Path) -> None:
    async with open_connection(database) as connection:
        await connection.execute("INSERT INTO schema_version VALUES (99, 99, '0099_future.sql')")
    ask = partial(chatty_admin, tmp_path, "db", CHATTY_DATABASE_URL=as_url(database))
    status = await ask("status", "--json")
    answer = json.loads(status.stdout)
    assert (status.exit_code, answer["version"], answer["is_usable"]) == (1, 99, False)
    for said in (status, await ask("downgrade", "--yes")):
        assert (said.exit_code, said.stderr.splitlines()[-1]) == (1, "next: chatty-admin --version")
        assert said.stderr.startswith("error schema_too_new: ")


async def test_a_running_server_keeps_its_schema(chat: RunningApp) -> None:
    url = as_url(chat.database)
    refused = await chatty_admin(chat.settings.data_dir, "db", "downgrade", "--yes", CHATTY_DATABASE_URL=url)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error database_in_use: ")


async def test_room_and_time(database: str, tmp_path: Path) -> None:
    url = as_url(database)
    size = await chatty_admin_json(tmp_path, "db", "size", CHATTY_DATABASE_URL=url)
    assert {one["feature"] for one in size["features"]} >= {"messages", "rooms", "keys", "accounts", "audit"}
    assert (size["events_estimate"], size["bytes_per_event"]) == (0, None)
    table = await chatty_admin(tmp_path, "db", "size", CHATTY_DATABASE_URL=url)
    assert (table.exit_code, "KiB" in table.stdout, "accounts" in table.stdout) == (0, True, True)
    slow = await chatty_admin_json(tmp_path, "db", "slow", CHATTY_DATABASE_URL=url)
    assert slow == {"is_counted": False, "statements": []}
    told = await chatty_admin(tmp_path, "db", "slow", CHATTY_DATABASE_URL=url)
    assert "CREATE EXTENSION pg_stat_statements" in told.stdout.replace("\n", " ")
