"""`chatty-admin` as a program of its own, beside a server that is a process of its own."""

import json
import stat
import sys
from pathlib import Path
from typing import Any

import httpx
import trio

import chatty
from chatty.store.schema import code_version
from tests.faults.chatty_process import child_environment, open_chatty_up, open_serve
from tests.server.commands import as_url
from tests.server.wire_client import ciphertext, open_live_socket
from tests.server.wire_people import sign_up

PROGRAM = str(Path(sys.executable).with_name("chatty-admin"))


class Said:
    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr
        assert "Traceback" not in stderr

    @property
    def answer(self) -> Any:
        assert (self.code, self.stderr) == (0, "")
        return json.loads(self.stdout)


async def chatty_admin(data_dir: Path, *words: str, **environment: str) -> Said:
    with trio.fail_after(60):
        done = await trio.run_process(
            [PROGRAM, "--data-dir", str(data_dir), *words],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=child_environment() | {"NO_COLOR": "1", "COLUMNS": "160"} | environment,
        )
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


async def all_at_once(data_dir: Path, *commands: str) -> list[Said]:
    """Each starts an interpreter: that takes a while."""
    said: dict[str, Said] = {}

    async def one(command: str) -> None:
        said[command] = await chatty_admin(data_dir, *command.split())

    async with trio.open_nursery() as nursery:
        for command in commands:
            nursery.start_soon(one, command)
    return [said[command] for command in commands]


async def test_it_shows_the_running_server_and_says_when_there_is_none(open_directory: Path) -> None:
    async with (
        open_chatty_up(open_directory) as server,
        httpx.AsyncClient(base_url=server.origin, timeout=20) as http,
    ):
        ann = await sign_up(http, "ann", origin=server.origin)
        room = await ann.create_room()
        async with open_live_socket(ann) as socket:
            await socket.send(room.id, ciphertext(), epoch=room.epoch)
            status, health, tree, drawn, upgrade = await all_at_once(
                open_directory,
                *("status --json", "health --json", "actors tree --json", "actors tree", "db upgrade --json"),
            )
        shows_status(status.answer, origin=server.origin)
        assert health.answer["is_ready"]
        assert {"name": "database", "is_ready": True} in health.answer["checks"]
        shows_actors(tree.answer, drawn.stdout)
        assert (upgrade.answer["applied"], upgrade.answer["version"]) == ([], code_version())
        assert stat.S_IMODE((open_directory / "admin.sock").stat().st_mode) == 0o600
        server.running.terminate()
        assert await server.ended() == 0
        nobody = await chatty_admin(open_directory, "status")
        assert (nobody.code, nobody.stdout) == (3, "")
        assert nobody.stderr.startswith("error server_unreachable: ")
        assert nobody.stderr.splitlines()[-1] == "next: chatty up"


def shows_status(answer: dict[str, Any], *, origin: str) -> None:
    assert answer["version"] == chatty.__version__
    assert (answer["server_name"], answer["origin"], answer["sessions_count"]) == ("localhost", origin, 1)


def shows_actors(tree: dict[str, Any], drawn: str) -> None:
    """Branches in the order in which they start: each may ask only those before it."""
    names = [branch["name"] for branch in tree["children"]]
    assert names == ["journal", "rooms", "sessions", "notices", "watch", "janitor", "console"]
    branches = {branch["name"]: branch["children"] for branch in tree["children"]}
    assert [child["name"] for child in branches["journal"]] == ["blocking", "group"]
    [room] = branches["rooms"]
    assert (room["state"], room["mailbox_count"], room["restart_count"]) == ("running", 0, 0)
    assert room["handled_count"] >= 2  # the append, and the journal's word that it is stored
    assert len(branches["sessions"]) == 1
    for name in (*names, room["name"], "group", "running", "mailbox 0/", "restarts 0"):
        assert name in drawn


async def test_db_upgrade_is_what_makes_serve_run(open_directory: Path, empty_database: str) -> None:
    url = as_url(empty_database)
    planned = await chatty_admin(open_directory, "db", "upgrade", "--dry-run", "--json", CHATTY_DATABASE_URL=url)
    done = await chatty_admin(open_directory, "db", "upgrade", "--json", CHATTY_DATABASE_URL=url)
    assert (planned.answer["version"], planned.answer["is_dry_run"]) == (0, True)
    assert (done.answer["version_before"], done.answer["version"]) == (0, code_version())
    assert done.answer["applied"] == planned.answer["missing"]
    async with open_serve(empty_database, open_directory) as server:
        health = await chatty_admin(open_directory, "health")
        assert (health.code, health.stderr) == (0, "")
        assert "not ready" not in health.stdout
        assert server.running.poll() is None
