"""What every command of `chatty-admin` keeps to: exit codes, errors with the next command, help, narrow terminals, pipes."""

import http.server
import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import trio

from chatty.admin import _next_command, main
from chatty.admin.health import advised
from tests.faults.chatty_process import ROOT, child_environment
from tests.server.app_fixtures import RunningApp
from tests.server.commands import chatty_admin
from tests.test_docs import commands

pytestmark = pytest.mark.usefixtures("logging_as_before")
LEAVES = [(path, one) for path, one in commands("chatty-admin", main) if not isinstance(one, click.Group)]
PROGRAM = [sys.executable, "-c", "from chatty.admin import main; main()"]
NO_SERVER = "server_unreachable"
# Each way to fail: the words, what stands in the environment, the code and the exit code.
WRONG: Sequence[tuple[str, dict[str, str], str, int]] = [
    ("no-such-command", {}, "usage", 2),
    ("--no-such-option status", {}, "usage", 2),
    ("status surplus", {}, "usage", 2),
    ("users role @ann:localhost king", {}, "usage", 2),
    ("users lock", {}, "usage", 2),
    ("actors tree --children-max 0", {}, "usage", 2),
    ("audit verify --head no-such-file", {}, "usage", 2),
    ("completion tcsh", {}, "usage", 2),
    ("login", {}, "usage", 2),
    ("login --user @ann:localhost", {}, "bad_configuration", 2),
    ("--server chat.example.org status", {}, "bad_configuration", 2),
    ("--server http://chat.example.org status", {}, "bad_configuration", 2),
    ("--server https://chat.example.org db upgrade", {}, "bad_configuration", 2),
    ("--server https://chat.example.org doctor", {}, "bad_configuration", 2),
    ("--server https://chat.example.org config check", {}, "bad_configuration", 2),
    ("--server http://127.0.0.1:1 status", {}, "not_signed_in", 1),
    ("--server http://127.0.0.1:1 login --user @ann:localhost", {}, NO_SERVER, 3),
    ("config show", {"CHATTY_PORT": "many"}, "bad_configuration", 2),
    ("config check", {"CHATTY_PORT": "many", "CHATTY_HOST": ""}, "bad_configuration", 2),
    ("config check", {"CHATTY_PROT": "1"}, "bad_configuration", 2),
    ("status", {}, NO_SERVER, 3),
    ("top --json", {}, NO_SERVER, 3),
    ("limits list", {}, NO_SERVER, 3),
    ("keys list", {}, NO_SERVER, 3),
    (
        "actors restart --yes journal/group",
        {"CHATTY_DATABASE_URL": "postgresql://127.0.0.1:1/x"},
        "store_unavailable",
        3,
    ),
    ("users list", {"CHATTY_DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "store_unavailable", 3),
    ("rooms list", {"CHATTY_DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "store_unavailable", 3),
    ("users lock @ann:localhost", {}, "not_confirmed", 4),
    ("users delete @ann:localhost", {}, "not_confirmed", 4),
    ("users end-sessions @ann:localhost", {}, "not_confirmed", 4),
    ("sessions end x", {}, "not_confirmed", 4),
    ("devices revoke x", {}, "not_confirmed", 4),
    ("actors restart journal/group", {}, "not_confirmed", 4),
]
# With a server and its database.
REFUSED: Sequence[tuple[str, str, int]] = [
    ("users lock --yes @nobody:localhost", "not_found", 1),
    ("users role @nobody:localhost user", "not_found", 1),
    ("users withdraw 0123456789abcdef", "not_found", 1),
    ("users withdraw not-an-id", "bad_request", 1),
    ("users approve @nobody:localhost", "not_found", 1),
    ("users quotas @nobody:localhost", "not_found", 1),
    ("sessions list --user @nobody:localhost", "not_found", 1),
    ("sessions end --yes nothing", "not_found", 1),
    ("devices revoke --yes nothing", "not_found", 1),
    ("rooms show nothing", "not_found", 1),
    ("actors show nothing", "not_found", 1),
    ("actors restart --yes nothing", "not_found", 1),
]


def check_error(stderr: str, code: str) -> None:
    """One sentence that says what is wrong, one that can be typed."""
    lines = stderr.splitlines()
    assert len(lines) == 2, stderr
    assert re.fullmatch(rf"error {code}: \S.*", lines[0])
    assert re.fullmatch(r"next: chatty(-admin)?( .+)?", lines[1])


async def fails(directory: Path, words: str, code: str, exit_code: int, **environment: str) -> None:
    result = await chatty_admin(directory, *words.split(), XDG_STATE_HOME=str(directory / "state"), **environment)
    assert (result.exit_code, "Traceback" in result.stderr) == (exit_code, False), (words, result.stderr)
    check_error(result.stderr, code)


@pytest.mark.parametrize(("words", "environment", "code", "exit_code"), WRONG, ids=[one[0] for one in WRONG])
async def test_what_is_wrong_has_its_exit_code_and_the_next_command(
    tmp_path: Path, words: str, environment: dict[str, str], code: str, exit_code: int
) -> None:
    await fails(tmp_path / "none", words, code, exit_code, **environment)


async def test_what_a_server_refuses_has_its_exit_code_and_the_next_command(chat: RunningApp) -> None:
    for words, code, exit_code in REFUSED:
        await fails(chat.settings.data_dir, words, code, exit_code)


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _ in LEAVES])
def test_every_command_has_help_with_an_example_that_it_understands(path: str, command: click.Command) -> None:
    example = (command.epilog or "").partition("Example: ")[2]
    assert path.removeprefix("chatty-admin ") in example, f"{path} --help has no example"
    assert command.help
    words = shlex.split(example.partition(path.rpartition(" ")[2])[2].partition(" >> ")[0].rstrip(')"'))
    options = command.make_parser(click.Context(command)).parse_args(words)[0]
    assert options is not None


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _ in LEAVES])
def test_every_command_answers_in_json(path: str, command: click.Command) -> None:
    options = {option for one in command.params for option in one.opts}
    assert "--json" in options or path in ("chatty-admin completion", "chatty-admin audit export-head")


def test_with_a_server_elsewhere_hints_are_for_it() -> None:
    origin = "https://chat.example.org"
    words = ["--server", origin, "status"]
    codes = {
        "not_found": f"chatty-admin --server {origin} users list",
        "outcome_unknown": f"chatty-admin --server {origin} health",
        "schema_too_old": f"chatty-admin --server {origin} health",
        "server_unreachable": f"chatty-admin --server {origin} login",
        "bad_request": "chatty-admin --help",
        "bad_configuration": "chatty-admin --help",
    }
    assert {code: _next_command(code, words) for code in codes} == codes
    answer = {"is_ready": False, "checks": [{"name": name, "is_ready": False} for name in ("jobs", "disk", "other")]}
    assert [one["advice"] for one in advised(answer, server=origin)["checks"]] == [
        f"resume what is dead or paused; see chatty-admin --server {origin} jobs list",
        "make room; see on its machine chatty-admin db size",
        f"chatty-admin --server {origin} actors tree",
    ]


class Proxy(http.server.BaseHTTPRequestHandler):
    """Before a server that is down."""

    def do_GET(self) -> None:
        page = b"<html><h1>502 Bad Gateway</h1></html>"
        self.send_response(502)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """stderr is the command's."""


async def test_a_proxys_own_answer_is_a_server_that_cannot_be_reached(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01}).start()
        origin = f"http://127.0.0.1:{proxy.server_port}"
        try:
            await fails(tmp_path, f"--server {origin} login --user @ann:localhost", NO_SERVER, 3)
        finally:
            proxy.shutdown()


def said(*words: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = child_environment() | {"NO_COLOR": "1"} | (env or {})
    return subprocess.run(
        [*PROGRAM, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_a_fault_of_the_program_is_told_by_its_place_and_whole_with_debug(tmp_path: Path) -> None:
    program = (
        "from chatty.admin import main, render\nfrom chatty.admin.options import Place\n"
        "Place.ask = lambda *_: {}\nrender.print_facts = lambda answer: 1 / 0\nmain()"
    )
    outcomes = []
    for words in (["status"], ["--debug", "status"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            cwd=ROOT,
            env=child_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        outcomes.append((done.returncode, "Traceback" in done.stderr))
        assert re.fullmatch(
            r"error internal_error: ZeroDivisionError at .+:\d+; .*--debug.*", done.stderr.splitlines()[-2]
        )
        assert done.stderr.splitlines()[-1].startswith("next: chatty-admin ")
    assert outcomes == [(1, False), (1, True)]


async def test_who_stops_reading_ends_nothing(chat: RunningApp) -> None:
    """The reader is gone before the first line, as `head` is before the last: no noise, and the command's own exit code."""
    command = f"{sys.executable} -c 'from chatty.admin import main; main()' --data-dir {chat.settings.data_dir}"
    for words in ("config show", "users list --json", "actors tree"):
        done = await trio.run_process(
            ["bash", "-c", f"({command} {words}; echo code $? >&2) | true"],
            cwd=ROOT,
            env=child_environment(),
            capture_stderr=True,
            check=False,
        )
        assert done.stderr.decode() == "code 0\n"


@pytest.mark.parametrize("width", [60, 160])
async def test_a_narrow_terminal_cuts_no_word(chat: RunningApp, width: int) -> None:
    ann = await chat.sign_up("ann")
    room = await ann.create_room()
    data_dir = chat.settings.data_dir
    for words in ("devices list", "sessions list", "rooms list", "users list", "limits list", "health", "status"):
        result = await chatty_admin(data_dir, *words.split(), COLUMNS=str(width))
        assert result.exit_code == 0
        assert max(len(line) for line in result.stdout.splitlines()) <= width
        assert "\x1b" not in result.stdout
        if words == "devices list":
            assert re.search(rf"(?m){re.escape(ann.device)}\b", result.stdout)
        if words == "rooms list":
            assert room.id in result.stdout


def completed(words: str) -> list[str]:
    typed = f"chatty-admin {words}"
    env = {"_CHATTY_ADMIN_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split(" ")) - 1)}
    return [line.partition(",")[2] for line in said(env=env).stdout.splitlines()]


def test_a_shell_completes_commands_options_and_choices() -> None:
    assert {"sessions", "rooms", "top"} <= set(completed(""))
    assert completed("users role @ann:localhost mod") == ["moderator"]
    assert "--dry-run" in completed("users lock --d")
    script = said("completion", "bash").stdout
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=True).returncode == 0
    assert "_CHATTY_ADMIN_COMPLETE" in script


def test_settings_are_shown_with_their_source_and_secrets_hidden(tmp_path: Path) -> None:
    (tmp_path / "chatty.toml").write_text("port = 8443\nserver_name = 'chat.example.org'\n")
    (tmp_path / "url").write_text("postgresql://chatty:hidden-word@db/chatty\n")
    env = {
        "CHATTY_CONFIG": str(tmp_path / "chatty.toml"),
        "CHATTY_DATABASE_URL_FILE": str(tmp_path / "url"),
        "CHATTY_PORT": "9000",
        "CHATTY_MASTER_KEY": "bm90IGEgcmVhbCBrZXkgYnV0IDMyIGJ5dGVzIGxvbmc=",
    }
    done = said("--data-dir", str(tmp_path), "config", "show", "--changed", "--json", env=env)
    shown = {one["setting"]: (one["value"], one["source"]) for one in json.loads(done.stdout)["settings"]}
    assert shown == {
        "CHATTY_DATABASE_URL": ("hidden", f"file {tmp_path / 'url'}"),
        "CHATTY_DATABASE_URL_FILE": (str(tmp_path / "url"), "variable CHATTY_DATABASE_URL_FILE"),
        "CHATTY_DATA_DIR": (str(tmp_path), "option --data-dir"),
        "CHATTY_MASTER_KEY": ("hidden", "variable CHATTY_MASTER_KEY"),
        "CHATTY_PORT": (9000, "variable CHATTY_PORT"),
        "CHATTY_SERVER_NAME": ("chat.example.org", f"file {tmp_path / 'chatty.toml'}"),
    }
    assert "hidden-word" not in done.stdout
    assert said("config", "check", env=env).returncode == 0
    wrong = said("config", "check", "--json", env=env | {"CHATTY_PORT": "many", "CHATTY_OUTBOX_BYTES_MAX": "1"})
    assert (wrong.returncode, {one["setting"] for one in json.loads(wrong.stdout)["problems"]}) == (
        2,
        {"CHATTY_PORT", "CHATTY_OUTBOX_BYTES_MAX"},
    )
