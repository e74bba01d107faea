"""What the console prints, but for `top`: the only place that knows Rich. Answers go to stdout, talk to stderr.

JSON is the answer as it is, keys and units unchanged. A table is for eyes: colour only repeats what a word says, NO_COLOR and the
terminal's width are respected. No character of an answer can steer the terminal: in JSON it is escaped, elsewhere replaced.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

Json = Mapping[str, Any]

_width_any = 10_000
_calm_states = frozenset({"running", "passive", "starting"})


def write(text: str) -> None:
    """To stdout. Whoever stopped reading, as `head` does, has what was wanted: the rest goes nowhere, and the command ends as it
    would have.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def print_json(answer: Json) -> None:
    text = json.dumps(answer, ensure_ascii=False, indent=2)
    write("".join(one if one.isprintable() or one == "\n" else json.dumps(one)[1:-1] for one in text) + "\n")


def print_answer(answer: Json, rows: str, *, as_json: bool) -> None:
    """All of it as JSON, or the list under this key as a table; what follows it is told on stderr."""
    if as_json:
        print_json(answer)
        return
    print_rows(answer[rows])
    if answer.get("next_after"):
        _talk().print(Text(f"there are more: --after {_plain(answer['next_after'])}"))


def print_talk(facts: Json) -> None:
    """A row a value, on stderr: what somebody is asked about."""
    _talk().print(_facts(facts))


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left, on stderr, and gone at the end; nothing where nobody looks. Told (done, of how many)."""
    console = _talk()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=1)
        yield lambda done, total: bar.update(task, completed=done, total=max(total, 1))


@contextmanager
def transfer(*, bytes_count: int | None = None) -> Iterator[Callable[[str, int], None]]:
    """A bar on stderr, while somebody watches; time left where the size is known. Told (what is done, how many bytes)."""
    console = _talk()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=bytes_count)
        yield lambda what, count: bar.update(task, description=what, completed=count)


@contextmanager
def waiting() -> Iterator[Callable[[str], None]]:
    """What goes on, and since when: a line on stderr while somebody watches. Gives what tells it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = _talk()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda text: bar.update(task, description=_plain(text))


def print_facts(answer: Json) -> None:
    """A row a value; what is nested has its path as its name."""
    _print(_facts(answer))


def print_rows(rows: Sequence[Json]) -> None:
    """A table with a column for each key; the keys of the first row are those of all. Where it would not fit, each row is a block
    of lines instead, a blank line between two.
    """
    if not rows:
        _print(_table("nothing"))
        return
    table = _table(*rows[0])
    for row in rows:
        table.add_row(*(_text(_shown_value(value)) for value in row.values()))
    console = Console(highlight=False)
    if Measurement.get(console, console.options.update(width=_width_any), table).maximum <= console.width:
        _print(table)
        return
    for place, row in enumerate(rows):
        if place:
            write("\n")
        _print(_facts(row, has_header=False))


def _facts(answer: Json, *, has_header: bool = True) -> Table:
    table = _table("what", "value")
    table.show_header = has_header
    for name, value in _flat(answer):
        table.add_row(_text(name), _text(_shown_value(value)))
    return table


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
    talk = _talk()
    talk.print(Text.assemble(("error ", "bold red"), f"{_plain(code)}: {_plain(_one_line(detail))}"))
    talk.print(Text(f"next: {_plain(next_command)}"))


def _one_line(text: str) -> str:
    return "; ".join(line for line in text.splitlines() if line)


def _talk() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False)


def _print(what: Table | Tree) -> None:
    console = Console(highlight=False)
    with console.capture() as printed:
        console.print(what)
    write(printed.get())


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
