"""The operator's console: a real Unix socket, the real commands; what they print and the codes they exit with."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click.testing
import pytest
import trio
import trio.testing

from chatty.actors.console import (
    ConsoleSources,
    ConsoleTimes,
    console_actor,
    request_bytes_max,
    serve_console,
    short_address,
    socket_path,
)
from chatty.actors.runtime import ActorSpec, Mailbox, Snapshot, StartFailed, open_supervisor
from chatty.admin import main
from chatty.errors import DataDirectoryInUse, StoreUnavailable
from chatty.store.connection import open_connection
from chatty.store.embedded import open_embedded
from chatty.store.schema import code_version
from tests.server.commands import as_url, chatty_admin

pytestmark = pytest.mark.usefixtures("logging_as_before")
READY = {"is_ready": True, "checks": [{"name": "database", "is_ready": True, "reason": ""}]}
NOT_READY = {"is_ready": False, "checks": [{"name": "database", "is_ready": False, "reason": "gone since 12:00"}]}


@dataclass
class Server:
    """What the console is given to show."""

    tree: Snapshot = field(default_factory=lambda: Snapshot(name="root", state="running"))
    ready: Mapping[str, Any] = field(default_factory=lambda: READY)
    health_error: StoreUnavailable | None = None
    hangs: bool = False
    asked_count: int = 0

    def sources(self) -> ConsoleSources:
        return ConsoleSources(
            snapshot=lambda: self.tree,
            health=self.health,
            status=lambda: {"version": "1.2.3", "uptime_s": 12.5, "sessions": {"open_count": 3}, "last_error": None},
            commands={"users invite": self.invite},
        )

    async def invite(self, _: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked_count += 1
        return await trio.sleep_forever()

    async def health(self) -> Mapping[str, Any]:
        if self.hangs:
            await trio.sleep_forever()
        if self.health_error is not None:
            raise self.health_error
        return self.ready


@asynccontextmanager
async def listening(
    directory: Path, server: Server | None = None, *, times: ConsoleTimes | None = None
) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        sources = (server or Server()).sources()
        await nursery.start(partial(serve_console, socket_path(directory), sources, times=times))
        yield
        nursery.cancel_scope.cancel()


async def exchange(directory: Path, request: bytes) -> dict[str, Any]:
    async with await trio.open_unix_socket(socket_path(directory)) as stream:
        await stream.send_all(request)
        with trio.fail_after(5):
            received = b"".join([part async for part in stream])
    answer: dict[str, Any] = json.loads(received)
    return answer


# The commands -------------------------------------------------------------------------------------------------------


async def test_status_prints_the_answer_with_its_keys_unchanged(tmp_path: Path) -> None:
    async with listening(tmp_path):
        as_json = await chatty_admin(tmp_path, "status", "--json")
        as_table = await chatty_admin(tmp_path, "status")
    assert (as_json.exit_code, as_table.exit_code) == (0, 0)
    assert json.loads(as_json.stdout)["uptime_s"] == 12.5
    assert [line.split() for line in as_table.stdout.splitlines()] == [
        ["what", "value"],
        ["version", "1.2.3"],
        ["uptime_s", "12.5"],
        ["sessions.open_count", "3"],
        ["last_error", "-"],
    ]
    assert as_table.stderr == ""


async def test_health_exits_with_0_when_ready(tmp_path: Path) -> None:
    async with listening(tmp_path):
        result = await chatty_admin(tmp_path, "health", "--json")
    assert (result.exit_code, json.loads(result.stdout), result.stderr) == (0, READY, "")


async def test_health_exits_with_1_when_not_ready_and_says_what_to_do(tmp_path: Path) -> None:
    async with listening(tmp_path, Server(ready=NOT_READY)):
        result = await chatty_admin(tmp_path, "health")
    assert result.exit_code == 1
    assert "not ready" in result.stdout
    assert "gone since 12:00" in result.stdout
    assert "chatty-admin doctor" in result.stdout  # the advice
    assert result.stderr.splitlines() == ["error not_ready: database", "next: chatty-admin actors tree"]


async def test_a_refusal_has_its_code_on_stderr_and_nothing_on_stdout(tmp_path: Path) -> None:
    async with listening(tmp_path, Server(health_error=StoreUnavailable("no route"))):
        result = await chatty_admin(tmp_path, "health", "--json")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines() == ["error store_unavailable: no route", "next: chatty-admin health"]


async def test_without_a_server_the_exit_code_is_3(tmp_path: Path) -> None:
    for words in (["status"], ["health"], ["actors", "tree", "--json"]):
        result = await chatty_admin(tmp_path, *words)
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith("error server_unreachable: ")
        assert result.stderr.splitlines()[-1] == "next: chatty up"


async def test_a_socket_of_a_dead_server_is_no_server(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead, short_address(socket_path(tmp_path)) as address:
        dead.bind(address)
    result = await chatty_admin(tmp_path, "status")
    assert (result.exit_code, "left behind" in result.stderr) == (3, True)


async def test_what_was_asked_and_not_answered_is_not_done_a_second_time(database: str, tmp_path: Path) -> None:
    """Too late, hung up on, or refused for want of a place; then, with no server, it is done, once."""

    async def invite() -> tuple[int, str, str]:
        environment = {"CHATTY_DATABASE_URL": as_url(database), "CHATTY_REGISTRATION": "invite"}
        result = await chatty_admin(tmp_path, "users", "invite", **environment)
        error, _, following = result.stderr.partition("\n")
        return result.exit_code, error, following.strip()

    server, look = Server(), "next: chatty-admin audit list"
    async with listening(tmp_path, server, times=ConsoleTimes(request_timeout_s=0.2)):
        late = await invite()
    assert late == (3, "error outcome_unknown: not done within 0.2 s; it may or may not be done yet", look)
    assert server.asked_count == 1
    async with listening(tmp_path), AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(await trio.open_unix_socket(socket_path(tmp_path)))
        assert (await invite())[:2] == (1, "error overloaded: console is full")
    with socket.socket(socket.AF_UNIX) as listener, short_address(socket_path(tmp_path)) as address:
        listener.bind(address)
        listener.listen(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, hang_up, listener)
            killed = await invite()
    assert (killed[0], killed[1].partition(":")[0], killed[2]) == (3, "error outcome_unknown", look)
    counts = [await one_value(database, "SELECT count(*) FROM registration_tokens")]
    assert (await invite())[0] == 0  # the socket was left behind
    counts.append(await one_value(database, "SELECT count(*) FROM registration_tokens"))
    assert counts == [0, 1]


def hang_up(listener: socket.socket) -> None:
    """After the request, as a server that is killed."""
    with listener.accept()[0] as connection:
        assert connection.recv(4096).endswith(b"\n")


async def one_value(database: str, sql: str) -> Any:
    async with open_connection(database) as connection:
        row = await (await connection.execute(sql)).fetchone()
    assert row is not None
    return row[0]


@pytest.mark.parametrize("words", ["devices revoke", "sessions end", "keys revoke checkpoint"])
@pytest.mark.parametrize("is_first", [True, False])
async def test_an_id_that_begins_with_a_hyphen_is_no_option(tmp_path: Path, words: str, is_first: bool) -> None:
    """It holds the letters of options, -h too."""
    options, thing = ["--yes", "--json"], "-aIeGXhtxGFs7P4jKNKigA"
    result = await chatty_admin(tmp_path, *words.split(), *([thing, *options] if is_first else [*options, thing]))
    assert (result.exit_code, result.stdout) == (3, ""), result.stderr


async def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    for words in (["no-such-command"], ["status", "--no-such-option"], ["actors", "tree", "--children-max", "0"]):
        assert (await chatty_admin(tmp_path, *words)).exit_code == 2


async def test_a_wrong_setting_exits_with_2_and_names_it(tmp_path: Path) -> None:
    result = await chatty_admin(tmp_path, "db", "upgrade", CHATTY_PORT="many")
    assert result.exit_code == 2
    assert "bad_configuration: CHATTY_PORT" in result.stderr


async def test_ctrl_c_exits_with_130(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent, short_address(socket_path(tmp_path)) as address:
        silent.bind(address)
        silent.listen(1)
        silent.setblocking(False)
        command = [sys.executable, "-c", "from chatty.admin import main; main()", "--data-dir", str(tmp_path), "status"]
        process = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE)
        with trio.fail_after(30):
            connection, _ = await trio.socket.from_stdlib_socket(silent).accept()
            assert await connection.recv(100)  # it has asked, and waits
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
        connection.close()
        assert process.stderr is not None
        await process.stderr.aclose()


async def test_the_directory_may_be_named_by_the_environment(tmp_path: Path) -> None:
    runner = click.testing.CliRunner(env={"CHATTY_DATA_DIR": str(tmp_path)})
    async with listening(tmp_path):
        result = await trio.to_thread.run_sync(partial(runner.invoke, main, ["status", "--json"]))
    assert result.exit_code == 0


# The tree -----------------------------------------------------------------------------------------------------------


STEERING = "ValueError at journal.py:\x1b[31m\x7f\x9b2J\u202e\u200b12"  # colour, clear, right to left, nothing


def a_tree() -> Snapshot:
    rooms = [Snapshot(name=f"!room-{i}", state="running", mailbox_count_max=100) for i in range(200)]
    rooms[150] = Snapshot(
        name="!sick", state="backing off", mailbox_count_max=100, restart_count=2, last_error="KeyError"
    )
    journal = Snapshot(
        name="journal",
        state="running",
        mailbox_count=7,
        mailbox_count_max=4096,
        oldest_age_s=1.25,
        handled_count=99,
        quarantined_count=1,
        last_error=STEERING,
    )
    return Snapshot(
        name="root", state="running", children=[journal, Snapshot(name="rooms", state="running", children=rooms)]
    )


async def test_the_tree_shows_each_actor_and_those_with_trouble_first_of_all(tmp_path: Path) -> None:
    async with listening(tmp_path, Server(tree=a_tree())):
        drawn = await chatty_admin(tmp_path, "actors", "tree", "--children-max", "3")
        as_json = await chatty_admin(tmp_path, "actors", "tree", "--json", "--children-max", "3")
    answer = json.loads(as_json.stdout)
    line = next(line for line in drawn.stdout.splitlines() if "journal" in line)
    for part in (
        "running",
        "mailbox 7/4096",
        "oldest 1.2 s",
        "handled 99",
        "restarts 0",
        "quarantined 1",
        "ValueError",
    ):
        assert part in line
    assert "!sick" in drawn.stdout
    assert "backing off" in drawn.stdout
    assert "and 197 more" in drawn.stdout
    assert {one for one in drawn.stdout + as_json.stdout if not one.isprintable()} == {"\n"}
    assert answer["children"][0]["last_error"] == STEERING
    rooms = answer["children"][1]
    assert "!sick" in [child["name"] for child in rooms["children"]]
    assert (len(rooms["children"]), rooms["children_hidden_count"]) == (3, 197)
    assert answer["children"][0]["oldest_age_s"] == 1.25


async def test_the_tree_is_shown_while_an_actor_hangs(tmp_path: Path) -> None:
    async def hang(mailbox: Mailbox[str]) -> None:
        mailbox.ready()
        async for _ in mailbox:
            await trio.sleep_forever()

    with trio.fail_after(10):
        async with open_supervisor("root") as root:
            stuck = await root.start(ActorSpec[str](name="stuck", run=hang, mailbox_count_max=5, drain_timeout_s=0.01))
            sources = ConsoleSources(snapshot=root.snapshot, health=Server().health, status=dict)
            await root.start(console_actor(socket_path(tmp_path), sources))
            for _ in range(3):
                stuck.tell("work")
            await trio.testing.wait_all_tasks_blocked()
            result = await chatty_admin(tmp_path, "actors", "tree", "--json")
    found = json.loads(result.stdout)["children"]
    assert [(one["name"], one["state"], one["mailbox_count"]) for one in found] == [
        ("stuck", "running", 2),
        ("console", "running", 0),
    ]


# The socket ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[0o000, 0o077, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


async def test_only_its_own_account_may_open_the_socket_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(0o755)
    async with listening(directory):
        status = socket_path(directory).stat()
        assert (stat.S_ISSOCK(status.st_mode), stat.S_IMODE(status.st_mode)) == (True, 0o600)
        assert sorted(path.name for path in directory.iterdir()) == ["admin.lock", "admin.sock"]
    assert not socket_path(directory).exists()


async def test_a_second_server_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async with listening(tmp_path):
        with pytest.raises(DataDirectoryInUse):
            await serve_console(socket_path(tmp_path), Server().sources())
        assert (await chatty_admin(tmp_path, "status")).exit_code == 0
        async with open_supervisor("root") as root:
            with pytest.raises(StartFailed) as failure:
                await root.start(console_actor(socket_path(tmp_path), Server().sources()))
    group = failure.value.__cause__
    assert isinstance(group, DataDirectoryInUse)


async def test_what_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead, short_address(socket_path(tmp_path)) as address:
        dead.bind(address)
    (tmp_path / "admin.lock").touch()
    async with listening(tmp_path):
        assert (await chatty_admin(tmp_path, "status")).exit_code == 0


async def test_a_path_too_long_for_a_sockets_address_works(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    async with listening(directory):
        assert (await chatty_admin(directory, "status")).exit_code == 0


async def test_health_that_hangs_is_an_answer_in_time(tmp_path: Path) -> None:
    async with listening(tmp_path, Server(hangs=True), times=ConsoleTimes(health_timeout_s=0.05)):
        result = await chatty_admin(tmp_path, "health")
    assert result.exit_code == 1
    assert "not answered within 0.05 s" in result.stdout


@pytest.mark.parametrize(
    ("request_line", "code"),
    [
        (b"\n", "bad_request"),
        (b'{"command": "reboot"}\n', "bad_request"),
        (b'{"command": "status", "shell": "rm"}\n', "bad_request"),
        (b'"\xff"\n', "bad_request"),
        (b"x" * (request_bytes_max + 1), "too_large"),
    ],
)
async def test_what_is_no_request_is_refused_and_the_next_is_answered(
    tmp_path: Path, request_line: bytes, code: str
) -> None:
    async with listening(tmp_path):
        assert (await exchange(tmp_path, request_line))["code"] == code
        assert (await exchange(tmp_path, b'{"command": "status"}\n'))["answer"]["version"] == "1.2.3"


async def test_who_never_asks_holds_nothing_up_and_is_let_go(tmp_path: Path) -> None:
    times = ConsoleTimes(request_timeout_s=0.2)
    async with listening(tmp_path, times=times), await trio.open_unix_socket(socket_path(tmp_path)) as silent:
        assert (await exchange(tmp_path, b'{"command": "status"}\n'))["code"] == ""
        with trio.fail_after(5):
            assert await silent.receive_some() == b""


# db upgrade ---------------------------------------------------------------------------------------------------------


async def test_upgrade_brings_a_database_to_this_codes_version_once(empty_database: str, tmp_path: Path) -> None:
    async def upgrade(*options: str) -> dict[str, Any]:
        words = ("db", "upgrade", "--json", *options)
        result = await chatty_admin(tmp_path, *words, CHATTY_DATABASE_URL=as_url(empty_database))
        answer: dict[str, Any] = json.loads(result.stdout)
        return answer

    dry, first, second = await upgrade("--dry-run"), await upgrade(), await upgrade()
    assert (dry["version"], len(dry["missing"])) == (0, code_version())
    assert (first["version_before"], first["version"], first["applied"]) == (0, code_version(), dry["missing"])
    assert (second["version_before"], second["applied"]) == (code_version(), [])


async def test_upgrade_of_a_database_that_is_gone_exits_with_3(tmp_path: Path) -> None:
    result = await chatty_admin(tmp_path, "db", "upgrade", CHATTY_DATABASE_URL="postgresql://chatty@127.0.0.1:1/chatty")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("error store_unavailable: ")


async def test_upgrade_starts_the_embedded_database_or_reaches_the_one_that_runs(open_directory: Path) -> None:
    data_dir = open_directory / "data"
    started = await chatty_admin(data_dir, "db", "upgrade", "--json")
    assert json.loads(started.stdout)["version_before"] == 0
    async with open_embedded(data_dir / "postgres"):
        reached = await chatty_admin(data_dir, "db", "upgrade", "--json")
    assert json.loads(reached.stdout)["version_before"] == code_version()
