"""The command `chatty` at its edges: what it refuses, how it says so, and the plain ASGI server in its place."""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import click.testing
import httpx
import psycopg
import pytest
import trio

from chatty.app import open_app
from chatty.cli import main
from chatty.store.embedded import address_of_running
from chatty.store.schema import code_version
from tests.faults.chatty_process import ChattyProcess, child_environment, free_port, open_chatty_up
from tests.server.app_fixtures import chat_settings
from tests.server.commands import as_url
from tests.server.test_listener import ends_who_sends_no_body
from tests.server.wire_client import ciphertext, open_live_socket
from tests.server.wire_people import sign_up

pytestmark = pytest.mark.usefixtures("logging_as_before")
BIN = Path(sys.executable).parent
MASTER_KEY = "bWFzdGVyIGtleSBvZiB0aGUgdGVzdHMsIDMyIGJ5dGU="
OTHER_KEY = "YW5vdGhlciBtYXN0ZXIga2V5IG9mIHRoZSB0ZXN0cy4="


def environment(data_dir: Path, **changes: str) -> dict[str, str]:
    usual = {
        "CHATTY_DATA_DIR": str(data_dir),
        "CHATTY_MASTER_KEY": MASTER_KEY,
        "CHATTY_PORT": "0",
        "CHATTY_REGISTRATION": "open",
        "CHATTY_PUBLIC_ORIGIN": str(chat_settings(data_dir).public_origin),
    }
    return usual | changes


def refusal(words: Sequence[str], data_dir: Path, **changes: str) -> tuple[int, str]:
    """Exit code and the last line of stderr. It ends by itself, says nothing on stdout and shows no traceback."""
    runner = click.testing.CliRunner(env=environment(data_dir, **changes))
    result = runner.invoke(main, list(words))
    assert (result.stdout, "Traceback" in result.stderr) == ("", False)
    return result.exit_code, result.stderr.splitlines()[-1]


async def open_once(database: str, data_dir: Path) -> None:
    async with open_app(chat_settings(data_dir, master_key=MASTER_KEY), address=database):
        pass


def execute(database: str, statement: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(statement)


# Settings -----------------------------------------------------------------------------------------------------------


def test_serve_needs_a_database_url(tmp_path: Path) -> None:
    code, said = refusal(["serve"], tmp_path)
    assert code == 2
    assert said == "bad_configuration: CHATTY_DATABASE_URL is not set; 'chatty up' runs with an embedded database"


@pytest.mark.parametrize("command", ["up", "serve"])
def test_a_wrong_setting_is_named_and_its_value_is_not_shown(tmp_path: Path, command: str) -> None:
    code, said = refusal([command], tmp_path, CHATTY_PORT="my secret")
    assert (code, said.startswith("bad_configuration: CHATTY_PORT"), "my secret" in said) == (2, True, False)


def test_a_data_directory_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path, database: str) -> None:
    in_the_way = tmp_path / "a file"
    in_the_way.touch()
    for command in ("up", "serve"):
        code, said = refusal([command], in_the_way / "data", CHATTY_DATABASE_URL=as_url(database))
        assert (code, said.startswith("bad_configuration: CHATTY_DATA_DIR: ")) == (2, True)


# The database -------------------------------------------------------------------------------------------------------


def test_serve_refuses_an_older_schema_and_names_the_command_that_mends_it(tmp_path: Path, database: str) -> None:
    execute(database, f"DELETE FROM schema_version WHERE version = {code_version()}")
    code, said = refusal(["serve"], tmp_path, CHATTY_DATABASE_URL=as_url(database))
    assert (code, said.partition(": ")[0]) == (1, "schema_too_old")
    assert f"is version {code_version() - 1}, this code needs {code_version()}" in said
    assert said.endswith("run 'chatty-admin db upgrade'")


def test_serve_refuses_an_empty_database_and_makes_nothing_in_it(tmp_path: Path, empty_database: str) -> None:
    assert refusal(["serve"], tmp_path, CHATTY_DATABASE_URL=as_url(empty_database))[1].startswith("schema_too_old: ")
    with psycopg.connect(empty_database) as connection:
        assert connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_a_schema_that_says_this_code_is_too_old_is_refused(tmp_path: Path, database: str) -> None:
    newer = code_version() + 5
    execute(
        database,
        f"INSERT INTO schema_version (version, compatible_from, file) VALUES ({newer}, {newer}, 'a later one')",
    )
    code, said = refusal(["serve"], tmp_path, CHATTY_DATABASE_URL=as_url(database))
    assert (code, said.partition(": ")[0]) == (1, "schema_too_new")


def test_a_database_that_is_not_there_exits_with_3(tmp_path: Path) -> None:
    code, said = refusal(["serve"], tmp_path, CHATTY_DATABASE_URL="postgresql://chatty@127.0.0.1:1/chatty")
    assert (code, said.partition(": ")[0]) == (3, "store_unavailable")


def test_another_server_name_and_another_master_key_are_refused(tmp_path: Path, database: str) -> None:
    url = as_url(database)
    trio.run(open_once, database, tmp_path)
    code, said = refusal(["serve"], tmp_path, CHATTY_DATABASE_URL=url, CHATTY_SERVER_NAME="other.example")
    assert (code, said.partition(": ")[0]) == (1, "server_name_mismatch")
    assert ("localhost" in said, "other.example" in said) == (True, True)
    code, said = refusal(["serve"], tmp_path, CHATTY_DATABASE_URL=url, CHATTY_MASTER_KEY=OTHER_KEY)
    assert (code, said.partition(": ")[0]) == (1, "seal_broken")


# Processes ----------------------------------------------------------------------------------------------------------


async def run(command: Sequence[str], **variables: str) -> tuple[int, str]:
    """Exit code and stderr of a process that ends by itself."""
    with trio.fail_after(60):
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, env=child_environment() | variables
        )
    assert done.stdout == b""
    return done.returncode, done.stderr.decode()


async def test_an_address_that_cannot_be_had_is_an_error_that_says_what_to_set(tmp_path: Path, database: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        variables = environment(tmp_path, CHATTY_DATABASE_URL=as_url(database), CHATTY_PORT=port)
        code, said = await run([str(BIN / "chatty"), "serve"], **variables)
    assert (code, "Traceback" in said) == (1, False)
    last = said.splitlines()[-1]
    assert last.startswith(
        f"address_unavailable: cannot listen on 127.0.0.1:{port}: Address already in use; set CHATTY_PORT"
    )


async def test_a_second_server_on_the_same_data_directory_is_refused_and_the_first_goes_on(
    open_directory: Path,
) -> None:
    async with open_chatty_up(open_directory) as first:
        database_url = as_url(address_of_running(open_directory / "postgres"))
        settings = {"CHATTY_DATA_DIR": str(open_directory), "CHATTY_PORT": "0"}
        for command, more in (("up", {}), ("serve", {"CHATTY_DATABASE_URL": database_url})):
            code, said = await run([str(BIN / "chatty"), command], **settings, **more)
            assert (code, "Traceback" in said) == (1, False)
            assert said.splitlines()[-1].startswith("data_directory_in_use: another Chatty is running on ")
        async with httpx.AsyncClient(base_url=first.origin) as http:
            assert (await http.get("/readyz")).status_code == 200
        assert (open_directory / "admin.sock").exists()


@asynccontextmanager
async def open_hypercorn(data_dir: Path, database: str) -> AsyncIterator[ChattyProcess]:
    """`hypercorn -k trio` with the documented import string."""
    port = free_port()
    command = [str(BIN / "hypercorn"), "-k", "trio", "-b", f"127.0.0.1:{port}", "chatty.app:make_asgi()"]
    variables = environment(data_dir, CHATTY_DATABASE_URL=as_url(database))
    server = ChattyProcess(command=command, data_dir=data_dir, port=port, environment=variables)
    try:
        await server.start()
        yield server
    finally:
        if server.running.poll() is None:
            await server.kill()


async def test_hypercorn_serves_the_documented_import_string_and_stops_in_order(
    open_directory: Path, database: str
) -> None:
    async with open_hypercorn(open_directory, database) as server:
        async with httpx.AsyncClient(base_url=server.origin, timeout=20) as http:
            ann, bob = await sign_up(http, "ann"), await sign_up(http, "bob")
            room = await ann.create_room(bob)
            async with open_live_socket(ann) as anns, open_live_socket(bob) as bobs:
                body = ciphertext()
                await anns.send(room.id, body, epoch=room.epoch)
                assert [event.body for event in await bobs.messages(1)] == [body]
        assert await ends_who_sends_no_body(server.origin)  # Hypercorn is mended here too
        server.running.terminate()
        with trio.fail_after(20):
            assert await server.ended() == 0
    assert not (open_directory / "admin.sock").exists()
    assert "Traceback" not in server.log.read_text()


async def test_hypercorn_does_not_serve_what_could_not_open(open_directory: Path) -> None:
    """It ends; else it would go on "without lifespan support" and answer every request with an error."""
    command = [str(BIN / "hypercorn"), "-k", "trio", "-b", "127.0.0.1:0", "chatty.app:make_asgi()"]
    variables = child_environment() | environment(open_directory)
    with trio.fail_after(60):
        done = await trio.run_process(
            command, stdout=subprocess.DEVNULL, capture_stderr=True, check=False, env=variables
        )
    assert "bad_configuration: CHATTY_DATABASE_URL is not set" in done.stderr.decode()
