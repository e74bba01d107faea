"""What an operator or a client's author can meet is in docs/, and nothing else is.

The code is read, not a list: a new setting, error, metric, option or log event without documentation fails here, and
what the failure shows is the line to add.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from chatty.config import describe_settings
from chatty.errors import ChattyError
from chatty.services.permissions import PERMISSIONS, ROLES, Permission
from chatty.telemetry import Metrics
from chatty.wire import limits
from chatty.wire.events import TimelineEvent
from chatty.wire.frames import ClientFrame, ServerFrame

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
OPERATIONS = ROOT / "docs" / "operations.md"
PROTOCOL = ROOT / "docs" / "protocol.md"

NO_SETTINGS = {"CHATTY_CONFIG", "CHATTY_TEST_COUNTS"}  # the first names the file, the second belongs to the tests
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
EVENT = re.compile(r"[a-z][a-z_]*(\.[a-z][a-z_]*)+")


def section(page: Path, title: str) -> str:
    """The text of a page under the heading `## title`."""
    _, _, after = page.read_text(encoding="utf-8").partition(f"\n## {title}\n")
    assert after, f"{page.name} has no section {title}"
    return after.partition("\n## ")[0]


def rows(page: Path, title: str) -> list[str]:
    return [line for line in section(page, title).splitlines() if line.startswith("| `")]


def first_cells(page: Path, title: str) -> set[str]:
    return {row.split("`")[1] for row in rows(page, title)}


def in_code_marks(text: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", text))


def leaf_errors(root: type[ChattyError]) -> Iterator[type[ChattyError]]:
    below = [error for error in root.__subclasses__() if error.__module__ == root.__module__]
    if not below:
        yield root
    for error in below:
        yield from leaf_errors(error)


def logged_events() -> Iterator[tuple[str, str]]:
    """Place and name of each log call in the product."""
    for path in sorted((ROOT / "chatty").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=owner, attr=level), args=[first, *_]) if level in LEVELS:
                    if is_log(owner):
                        name = first.value if isinstance(first, ast.Constant) else ast.unparse(first)
                        yield f"{path.relative_to(ROOT)}:{node.lineno}", str(name)


def is_log(owner: ast.expr) -> bool:
    match owner:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_") in {"log", "logger"}
        case _:
            return False


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for child_name, child in command.commands.items():
            yield from commands(f"{name} {child_name}", child)


def shown_commands(module: str, name: str) -> list[tuple[str, click.Command]]:
    main = getattr(importlib.import_module(module), "main", None)
    if main is None:
        pytest.skip(f"{module} has no commands yet")
    assert isinstance(main, click.Command)
    return [(path, command) for path, command in commands(name, main) if not command.hidden]


def test_every_setting_stands_in_the_table_of_settings_and_no_other() -> None:
    wanted = [f"| `{name}` | {default} | {text} |" for name, default, text in describe_settings()]
    assert rows(OPERATIONS, "Settings") == wanted


def test_no_page_speaks_of_a_setting_that_does_not_exist() -> None:
    known = {name for name, _, _ in describe_settings()} | NO_SETTINGS
    pages = [*PAGES, ROOT / "README.md"]
    spoken_of = {name for page in pages for name in re.findall(r"\bCHATTY_[A-Z_]+\b", page.read_text(encoding="utf-8"))}
    assert spoken_of - known == set()


def test_every_metric_stands_in_the_table_of_metrics_and_no_other() -> None:
    wanted = [f"| `{name}` | {kind} | {text} |" for name, kind, text in Metrics().describe()]
    assert rows(OPERATIONS, "Metrics") == wanted


def test_every_log_event_is_named_by_a_noun_and_a_past_verb() -> None:
    assert [(where, name) for where, name in logged_events() if not EVENT.fullmatch(name)] == []


def test_every_log_event_stands_in_the_table_of_log_events_and_no_other() -> None:
    assert first_cells(OPERATIONS, "Log events") == {name for _, name in logged_events()}


def test_every_error_code_is_documented() -> None:
    codes = {error.code for error in leaf_errors(ChattyError)}
    assert codes - in_code_marks(PROTOCOL.read_text(encoding="utf-8")) == set()


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in leaf_errors(ChattyError)]
    assert [code for code in codes if codes.count(code) > 1 or code == ChattyError.code] == []


def test_every_limit_of_the_protocol_is_documented_with_its_value() -> None:
    page = PROTOCOL.read_text(encoding="utf-8")
    values = {name: value for name, value in vars(limits).items() if isinstance(value, int | float)}
    assert [f"`{name}` | {value:,}" for name, value in values.items() if f"`{name}` | {value:,}" not in page] == []


def test_every_permission_stands_in_the_table_with_its_roles_and_needs_and_no_other() -> None:
    _, _, after = section(PROTOCOL, "HTTP").partition("| permission | roles | needs | for |\n|---|---|---|---|\n")
    told = [[cell.strip() for cell in row.split("|")[1:4]] for row in after.partition("\n\n")[0].splitlines()]
    assert told == [[one.name.replace("_", " "), holders(one), needs(one)] for one in PERMISSIONS.values()]


def holders(permission: Permission) -> str:
    if permission.roles is None:
        return "everybody, signed in or not"
    return ", ".join(role for role in ROLES if role in permission.roles)


def needs(permission: Permission) -> str:
    found = {
        "step-up": permission.needs_step_up,
        "admin network": permission.needs_admin_network,
        "verified device": permission.needs_verified_device,
    }
    return ", ".join(need for need, is_needed in found.items() if is_needed)


def test_every_frame_stands_in_the_tables_of_the_socket_with_its_fields_and_no_other() -> None:
    told: dict[str, set[str]] = {}
    for row in rows(PROTOCOL, "The socket"):
        told.setdefault(row.split("`")[1], set()).update(in_code_marks(row))
    tags = {kind: str(kind.__struct_config__.tag) for kind in (*ClientFrame.__args__, *ServerFrame.__args__)}
    assert set(told) == set(tags.values())
    wanted = {kind: set(kind.__struct_fields__) - {"id"} for kind in tags if kind is not TimelineEvent}
    assert {
        kind.__name__: fields - told[tags[kind]] for kind, fields in wanted.items() if fields - told[tags[kind]]
    } == {}


def test_every_close_code_stands_beside_its_error() -> None:
    page = section(PROTOCOL, "The socket")
    wanted = [f"| {error.close_code} | `{error.code}` |" for error in leaf_errors(ChattyError) if error.close_code]
    assert [row for row in wanted if row not in page] == []


def test_every_field_of_an_event_stands_in_its_table() -> None:
    assert [
        field for field in TimelineEvent.__struct_fields__ if field not in in_code_marks(section(PROTOCOL, "Rooms"))
    ] == []


@pytest.mark.parametrize(("module", "name"), [("chatty.cli", "chatty"), ("chatty.admin", "chatty-admin")])
def test_every_command_and_option_is_documented(module: str, name: str) -> None:
    shown = shown_commands(module, name)
    wanted = {path for path, command in shown if not isinstance(command, click.Group)}
    wanted |= {
        option
        for _, command in shown
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
        for option in parameter.opts
        if option.startswith("--")
    }
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [words for words in sorted(wanted) if not re.search(rf"`[^`\n]*{re.escape(words)}(?![\w-])", text)] == []
