"""What the console prints: the only place that knows Rich. Answers go to stdout, talk to stderr.

JSON is the answer as it is, keys and units unchanged. A table is for eyes: colour only repeats what a word says, NO_COLOR and the
terminal's width are respected, and no character of an answer can steer the terminal.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

Json = Mapping[str, Any]

_calm_states = frozenset({"running", "passive", "starting"})


def print_json(answer: Json) -> None:
    sys.stdout.write(json.dumps(answer, ensure_ascii=False, indent=2) + "\n")


def print_facts(answer: Json) -> None:
    """A row a value; what is nested has its path as its name."""
    table = _table("what", "value")
    for name, value in _flat(answer):
        table.add_row(_text(name), _text(_shown_value(value)))
    _print(table)


def print_rows(rows: Sequence[Json]) -> None:
    """A table with a column for each key; the keys of the first row are those of all."""
    if not rows:
        _print(_table("nothing"))
        return
    table = _table(*rows[0])
    for row in rows:
        table.add_row(*(_text(_shown_value(value)) for value in row.values()))
    _print(table)


def print_health(answer: Json) -> None:
    table = _table("check", "state", "reason", "advice")
    for check in answer["checks"]:
        reason = check.get("reason") or check.get("warning", "")
        table.add_row(_text(check["name"]), _verdict(check), _text(reason), _text(check.get("advice", "")))
    _print(table)


def print_findings(rows: Sequence[Json]) -> None:
    """What is wrong stands with how to mend it."""
    table = _table("check", "state", "found", "mend")
    for row in rows:
        table.add_row(_text(row["check"]), _state(row["state"]), _text(row["detail"]), _text(row["mend"]))
    _print(table)


def print_tree(answer: Json) -> None:
    tree = Tree(_actor_line(answer), guide_style="dim")
    _grow(tree, answer)
    _print(tree)


def print_progress(name: str, done_count: int, left_count: int) -> None:
    """Talk, on a terminal over the line before; elsewhere a line each."""
    total = done_count + left_count
    share = f"{done_count / total:.0%}" if total else ""
    ending = "\r" if sys.stderr.isatty() and left_count else "\n"
    sys.stderr.write(f"{_plain(name)}: {done_count} of about {total} rows {share}{ending}")
    sys.stderr.flush()


def print_error(code: str, detail: str, *, next_command: str) -> None:
    """The last line is the next command to type."""
    talk = Console(stderr=True, soft_wrap=True, highlight=False)
    talk.print(Text.assemble(("error ", "bold red"), f"{_plain(code)}: {_plain(detail)}"))
    talk.print(Text(f"next: {next_command}"))


def _print(what: Table | Tree) -> None:
    Console(highlight=False).print(what)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _grow(tree: Tree, answer: Json) -> None:
    for child in answer["children"]:
        _grow(tree.add(_actor_line(child)), child)
    if answer["children_hidden_count"]:
        tree.add(Text(f"and {answer['children_hidden_count']} more, all calmer than these", style="dim"))


def _actor_line(one: Json) -> Text:
    is_calm = one["state"] in _calm_states
    parts: list[str | tuple[str, str]] = [
        (_plain(one["name"]), "bold"),
        "  ",
        (one["state"], "green" if is_calm else "yellow"),
    ]
    if one["mailbox_count_max"]:
        parts.append(f"  mailbox {one['mailbox_count']}/{one['mailbox_count_max']}")
        parts.append(f"  oldest {one['oldest_age_s']:.1f} s  handled {one['handled_count']}")
    parts.append(f"  restarts {one['restart_count']}")
    if one["mailbox_count_max"]:
        parts.append(f"  quarantined {one['quarantined_count']}")
    if one["last_error"]:
        parts += ["  last error ", (_plain(one["last_error"]), "red")]
    return Text.assemble(*parts)


def _verdict(check: Json) -> Text:
    if not check["is_ready"]:
        return Text("not ready", style="bold red")
    return Text("warning", style="yellow") if check.get("warning") else Text("ready", style="green")


def _state(state: str) -> Text:
    return Text(state, style={"failed": "bold red", "warning": "yellow", "ok": "green"}.get(state, "dim"))


def _flat(answer: Json, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in answer.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _shown_value(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case str() | int() | float():
            return str(value)
        case Sequence() if all(isinstance(one, str) for one in value):
            return ", ".join(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


def _text(value: str) -> Text:
    return Text(_plain(value))


def _plain(value: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value)
