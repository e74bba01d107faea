"""What the server looks at before it serves."""

from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest
import trio
from psycopg import conninfo, sql
from structlog.testing import capture_logs

from chatty.cli import Signals, run_server
from chatty.store.embedded import EmbeddedServer
from tests.server.app_fixtures import chat_settings, open_chat
from tests.server.wire_client import ciphertext, open_live_socket
from tests.server.wire_people import sign_up


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


async def test_the_first_start_prints_an_invitation_for_the_owner_and_no_other_does(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stdout, never in the log."""
    for printed_count in (1, 0):
        with capture_logs() as logs:
            async with trio.open_nursery() as nursery:
                run = partial(run_server, chat_settings(tmp_path), address=database, invites_owner=True)
                await nursery.start(run)
                nursery.cancel_scope.cancel()
        assert capsys.readouterr().out.count("chatty_i.") == printed_count
        assert "chatty_i." not in str(logs)


async def test_a_stopping_server_is_not_ready_before_it_sends_anybody_away(database: str, tmp_path: Path) -> None:
    signals, settings = Signals(), chat_settings(tmp_path, drain_notice_s=60)
    async with trio.open_nursery() as nursery:
        origin = await nursery.start(partial(run_server, settings, address=database, signals=signals))
        async with httpx.AsyncClient(base_url=origin, timeout=20) as http:
            ann = await sign_up(http, "ann")
            room = await ann.create_room()
            assert (await http.get("/readyz")).status_code == 200
            signals.stop.set()
            with trio.fail_after(20):
                while (ready := await http.get("/readyz")).status_code == 200:  # noqa: ASYNC110  # as a balancer does
                    await trio.sleep(0.01)
            assert {"name": "serving", "is_ready": False, "reason": "draining"} in ready.json()["checks"]
            async with open_live_socket(ann) as socket:  # whoever comes all the same is served
                await socket.send(room.id, ciphertext(), epoch=room.epoch)
        nursery.cancel_scope.cancel()
