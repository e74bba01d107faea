"""What `top` shows: a rule from the newest answer, what was chosen by keys and the size of the terminal, to lines that fit it.

Nothing is cut in the middle of a word: figures flow to the next line as a whole, columns that do not fit are left out by their
worth, and a name that is too long goes on below. Colour only repeats what a word says.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

Json = Mapping[str, Any]
VIEWS = ("actors", "rooms", "sessions", "jobs", "errors")
SORTS = ("tree", "rate", "mailbox", "oldest", "restarts")
_KEYS = ("1-5 view", "s sort", "/ filter", "up down choose", "enter why slow", "r restart", "p pause", "q quit")
_KEYS_DETAIL = ("esc back", "r restart", "p pause", "q quit")
_ROOM, _JOB = "rooms/", "janitor/"
_gap = "  "


@dataclass(frozen=True, kw_only=True)
class State:
    """What the keys have chosen. cursor: place among the rows shown. actor: the one that is looked at; empty: the list.
    question: to be answered by y; restarts: the actor that y restarts.
    """

    view: str = "actors"
    sort: str = "tree"
    filter: str = ""
    is_typing: bool = False
    cursor: int = 0
    actor: str = ""
    restarts: str = ""
    message: str = ""
    is_paused: bool = False


@dataclass(frozen=True, kw_only=True)
class Seen:
    """answer: the newest; None: none yet. trouble: why there is no newer one; empty: there is. detail: of the actor looked at."""

    answer: Json | None = None
    trouble: str = ""
    detail: Json | None = None


@dataclass(frozen=True)
class Quit:
    pass


@dataclass(frozen=True)
class Restart:
    actor: str


# Keys ---------------------------------------------------------------------------------------------------------------


def press(state: State, key: str, seen: Seen) -> tuple[State, Quit | Restart | None]:
    """What a key does. Keys: one character, or up, down, enter, esc, tab, backspace."""
    if state.is_typing:
        return _type(state, key), None
    if state.restarts:
        action = Restart(state.restarts) if key == "y" else None
        return replace(state, restarts="", message="" if action else "not restarted"), action
    state = replace(state, message="")
    match key:
        case "q":
            return state, Quit()
        case "p":
            return replace(state, is_paused=not state.is_paused), None
        case "r":
            actor = state.actor or _chosen(state, seen)
            return (replace(state, restarts=actor) if actor else state), None
        case "esc" | "backspace" if state.actor:
            return replace(state, actor=""), None
        case "esc":
            return replace(state, filter="", cursor=0), None
        case _ if state.actor:
            return state, None
        case _:
            return _move(state, key, seen), None


def _move(state: State, key: str, seen: Seen) -> State:
    last = max(len(_rows(state, seen)) - 1, 0)
    match key:
        case "up" | "k":
            return replace(state, cursor=max(min(state.cursor, last) - 1, 0))
        case "down" | "j":
            return replace(state, cursor=min(state.cursor + 1, last))
        case "enter":
            return replace(state, actor=_chosen(state, seen))
        case "s":
            return replace(state, sort=SORTS[(SORTS.index(state.sort) + 1) % len(SORTS)], cursor=0)
        case "/":
            return replace(state, is_typing=True, filter="", cursor=0)
        case "tab":
            return replace(state, view=VIEWS[(VIEWS.index(state.view) + 1) % len(VIEWS)], cursor=0)
        case "1" | "2" | "3" | "4" | "5":
            return replace(state, view=VIEWS[int(key) - 1], cursor=0)
        case _:
            return state


def _type(state: State, key: str) -> State:
    match key:
        case "enter":
            return replace(state, is_typing=False)
        case "esc":
            return replace(state, is_typing=False, filter="")
        case "backspace":
            return replace(state, filter=state.filter[:-1])
        case _ if len(key) == 1 and key.isprintable():
            return replace(state, filter=state.filter + key)
        case _:
            return state


def _chosen(state: State, seen: Seen) -> str:
    """The actor at the cursor; empty: there is none, or a branch."""
    rows = _rows(state, seen)
    row = rows[min(state.cursor, len(rows) - 1)] if rows else {}
    return "" if row.get("is_branch", True) else str(row["path"])


# Rows ---------------------------------------------------------------------------------------------------------------

_SORT_KEYS: Mapping[str, Callable[[Json], Any]] = {
    "rate": lambda row: -(row["handled_per_s"] or 0.0),
    "mailbox": lambda row: -row["mailbox_count"],
    "oldest": lambda row: -row["oldest_age_s"],
    "restarts": lambda row: (-row["restart_count"], -row["quarantined_count"]),
}


def _rows(state: State, seen: Seen) -> list[Json]:
    """Those of the view that the filter lets through, in the chosen order."""
    if seen.answer is None:
        return []
    if state.view == "sessions":
        return [one for one in seen.answer["sessions"] if state.filter in f"{one['user']} {one['device']}"]
    if state.view == "errors":
        return _errors(seen.answer, state.filter)
    rows = [one for one in seen.answer["actors"] if _belongs(one, state.view) and _matches(one, state.filter)]
    sort = "rate" if state.view == "rooms" and state.sort == "tree" else state.sort
    if sort == "tree":
        return rows
    return sorted((row for row in rows if not row["is_branch"]), key=_SORT_KEYS[sort])


def _belongs(row: Json, view: str) -> bool:
    match view:
        case "rooms":
            return bool(row["path"].startswith(_ROOM))
        case "jobs":
            return bool(row["path"].startswith(_JOB))
        case _:
            return True


def _errors(answer: Json, text: str) -> list[Json]:
    """Crashes, those met last first, then the actors with an error, also one that was foreseen."""
    crashes = [{**one, "where": one["met_in"]} for one in answer["crashes"]]
    actors = [
        {**one, "where": one["path"], "error": one["last_error"], "count": one["restart_count"]}
        for one in answer["actors"]
        if one["last_error"] is not None
    ]
    return [one for one in [*crashes, *actors] if text.lower() in f"{one['where']} {one['error']}".lower()]


def _matches(row: Json, text: str) -> bool:
    return text.lower() in f"{row['path']} {row['state']} {row.get('room', '')}".lower()


@dataclass(frozen=True)
class _Column:
    """worth: the lower ones are left out first; 0: always there."""

    title: str
    cell: Callable[[Json], str]
    worth: int
    is_number: bool = True


def _columns(state: State) -> list[_Column]:
    if state.view == "sessions":
        return [
            _Column("user", lambda row: str(row["user"]), 0, is_number=False),
            _Column("lags", lambda row: "lags" if row["is_lagging"] else "-", 3, is_number=False),
            _Column("rooms", lambda row: str(row["rooms_count"]), 2),
            _Column("device", lambda row: str(row["device"]), 1, is_number=False),
        ]
    if state.view == "errors":
        return [
            _Column("where", lambda row: str(row["where"]), 0, is_number=False),
            _Column("error", lambda row: str(row["error"]), 10, is_number=False),
            _Column("times", lambda row: str(row["count"]), 9),
            _Column("last seen", _last_seen, 8, is_number=False),
            _Column("function", lambda row: str(row.get("function") or "-"), 3, is_number=False),
            _Column("id", lambda row: str(row.get("crash") or "-"), 7, is_number=False),
        ]
    is_tree = state.sort == "tree" and not state.filter and state.view == "actors"
    columns = [
        _Column("actor", _tree_name if is_tree else lambda row: str(row["path"]), 0, is_number=False),
        _Column("state", lambda row: str(row["state"]), 8, is_number=False),
        _Column("mailbox", _mailbox, 7),
        _Column("oldest", lambda row: "" if row["is_branch"] else f"{row['oldest_age_s']:.1f} s", 6),
        _Column("msg/s", lambda row: "" if row["is_branch"] else _figure(row["handled_per_s"]), 9),
        _Column("restarts", lambda row: str(row["restart_count"]), 5),
        _Column("set aside", lambda row: "" if row["is_branch"] else str(row["quarantined_count"]), 3),
        _Column("handled", lambda row: "" if row["is_branch"] else str(row["handled_count"]), 2),
        _Column("last error", lambda row: str(row["last_error"] or "-"), 1, is_number=False),
    ]
    if state.view == "jobs":
        columns[1:5] = [
            _Column("job", lambda row: str(row.get("job_state") or "-"), 10, is_number=False),
            _Column("last run", lambda row: str(row.get("last_outcome") or "-"), 9, is_number=False),
            _Column("failures", lambda row: str(row.get("failures_count", "-")), 8),
            _Column("next", lambda row: f"{_figure(row.get('next_look_s'))} s", 7),
        ]
    if state.view == "rooms":
        columns[6:6] = [
            _Column("connected", lambda row: str(row.get("connected_count", "-")), 4),
            _Column("room", lambda row: str(row.get("room") or "-"), 1, is_number=False),
        ]
    return columns


def _last_seen(row: Json) -> str:
    at = row.get("last_seen_ms")
    return "-" if at is None else f"{datetime.fromtimestamp(at / 1000, UTC):%H:%M:%S}"


def _tree_name(row: Json) -> str:
    return "  " * int(row["depth"]) + str(row["path"]).rpartition("/")[2]


def _mailbox(row: Json) -> str:
    return "" if row["is_branch"] else f"{row['mailbox_count']}/{row['mailbox_count_max']}"


# Lines --------------------------------------------------------------------------------------------------------------


def screen(state: State, seen: Seen, *, width: int, height: int) -> Text:
    """At most height lines of at most width columns."""
    top = _head(state, seen, width)
    foot = _foot(state, width)
    room = max(height - len(top) - len(foot), 1)
    middle = _detail(seen, width) if state.actor else _list(state, seen, width, room)
    shown = [*top, *middle[:room], *[Text("")] * max(room - len(middle), 0), *foot]
    return Text("\n").join(shown[:height])


def _head(state: State, seen: Seen, width: int) -> list[Text]:
    lines: list[Text] = []
    if seen.trouble:
        lines += [Text(line, style="bold red") for line in _words(f"{seen.trouble}; trying again", width)]
    if seen.answer is not None:
        lines += [line for figures in _figures(seen.answer) for line in _flow(figures, width)]
    elif not seen.trouble:
        lines.append(Text("asking the server"))
    if state.is_paused:
        lines.append(Text("paused", style="yellow"))
    views = [f"[{view}]" if view == state.view else f"{place} {view}" for place, view in enumerate(VIEWS, start=1)]
    chosen = [f"sort {state.sort}"] + ([f"filter {state.filter}"] if state.filter or state.is_typing else [])
    return [*lines, *_flow(views + chosen, width, style="bold")]


def _figures(answer: Json) -> list[list[str]]:
    server, rates, pool, process = answer["server"], answer["rates"] or {}, answer["pool"], answer["process"]
    time = datetime.fromtimestamp(answer["time_ms"] / 1000, UTC)
    lagging = f" ({answer['lagging_count']} lag)" if answer["lagging_count"] else ""
    return [
        [
            f"chatty {server['version']}",
            server["server_name"],
            f"up {_span(server['uptime_s'])}",
            f"{time:%H:%M:%S} UTC",
        ],
        [
            f"messages {_figure(rates.get('messages_per_s'))}/s",
            f"requests {_figure(rates.get('http_per_s'))}/s",
            f"sessions {answer['sessions_count']}{lagging}",
            f"rooms {answer['rooms_count']}",
        ],
        [
            "database down" if pool["is_down"] else f"pool {pool['borrowed_count']}/{pool['connections_max']} in use",
            f"{pool['waiting_count']} wait",
            f"batch {_figure(rates.get('batch_size'))}",
            f"commit {_figure(rates.get('commit_ms'))} ms",
        ],
        [
            f"memory {process['memory_bytes'] / 2**20:.0f} MiB",
            f"CPU {_figure(rates.get('cpu_percent'))} %",
            f"disk {process['disk_used_bytes'] / 2**30:.1f} of {process['disk_bytes'] / 2**30:.1f} GiB",
        ],
    ]


def _foot(state: State, width: int) -> list[Text]:
    if state.restarts:
        return [
            Text(line, style="bold yellow")
            for line in _words(f"Restart {state.restarts}? y restarts, all else does not", width)
        ]
    if state.is_typing:
        return _flow([f"filter: {state.filter}_", "enter keeps it", "esc drops it"], width, style="bold yellow")
    lines = [Text(line, style="yellow") for line in _words(state.message, width)] if state.message else []
    return lines + _flow(_KEYS_DETAIL if state.actor else _KEYS, width, style="dim")


def _list(state: State, seen: Seen, width: int, height: int) -> list[Text]:
    rows = _rows(state, seen)
    if not rows:
        return [Text("nothing" if seen.answer is not None else "")]
    cursor = min(state.cursor, len(rows) - 1)
    columns, widths = _fitting(_columns(state), rows, width)
    lines = [_line([column.title for column in columns], columns, widths, width)]
    lines[0].stylize("bold")
    fits_count = max(height - 1, 1)
    first = max(0, min(cursor - fits_count + 1, len(rows) - fits_count)) if cursor >= fits_count else 0
    for place, row in enumerate(rows[first : first + fits_count], start=first):
        line = _line([column.cell(row) for column in columns], columns, widths, width)
        if place == cursor:
            line.stylize("reverse")
        elif row.get("state") == "backing off" or row.get("is_lagging"):
            line.stylize("yellow")
        lines.append(line)
    return lines


def _fitting(columns: Sequence[_Column], rows: Sequence[Json], width: int) -> tuple[list[_Column], list[int]]:
    """The columns that fit, and how wide each is; the first is always there, marked by the cursor's column before it."""
    sized = [(one, max(len(one.title), *(len(_plain(one.cell(row))) for row in rows))) for one in columns]
    while len(sized) > 1 and 1 + sum(size for _, size in sized) + len(_gap) * (len(sized) - 1) > width:
        sized.remove(min(sized[1:], key=lambda one: one[0].worth))
    return [one for one, _ in sized], [size for _, size in sized]


def _line(cells: Sequence[str], columns: Sequence[_Column], widths: Sequence[int], width: int) -> Text:
    padded = [
        _plain(cell).rjust(size) if column.is_number else _plain(cell).ljust(size)
        for cell, column, size in zip(cells, columns, widths, strict=True)
    ]
    return Text((" " + _gap.join(padded)).rstrip().ljust(min(sum(widths) + 20, width))[:width])


def _detail(seen: Seen, width: int) -> list[Text]:
    if seen.detail is None:
        return [Text("looking")]
    one = seen.detail
    figures = [
        f"state {one['state']}",
        f"mailbox {one['mailbox_count']}/{one['mailbox_count_max']}",
        f"oldest {one['oldest_age_s']:.1f} s",
        f"{_figure(one['handled_per_s'])} msg/s",
        f"handled {one['handled_count']}",
        f"restarts {one['restart_count']}",
        f"set aside {one['quarantined_count']}",
    ]
    if "connected_count" in one:
        figures += [f"connected {one['connected_count']}", f"lagging {one['lagging_count']}"]
    lines = [Text(line, style="bold") for line in _words(one["path"], width)] + _flow(figures, width)
    if one.get("room"):
        lines += [Text(line) for line in _words(f"room {one['room']}", width)]
    lines += [Text(""), Text("why it is slow", style="bold")]
    return lines + [Text(line) for reason in one["reasons"] for line in _words(f"- {reason}", width)]


def _flow(chunks: Sequence[str], width: int, *, style: str = "") -> list[Text]:
    """Chunks beside each other, each whole; a new line where one does not fit."""
    lines: list[str] = []
    for chunk in map(_plain, chunks):
        if lines and len(lines[-1]) + 3 + len(chunk) <= width:
            lines[-1] += f"   {chunk}"
        else:
            lines += _words(chunk, width)
    return [Text(line, style=style) for line in lines]


def _words(text: str, width: int) -> list[str]:
    """Lines of whole words; one that is wider than the screen goes on below. No character steers the terminal."""
    lines = [""]
    for word in map(_plain, text.split()):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        rest = f"{lines[-1]} {word}" if lines[-1] else word
        while len(rest) > width:
            lines[-1], rest = rest[:width], rest[width:]
            lines.append("")
        lines[-1] = rest
    return lines


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _span(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days} d {hour}:{minute:02}" if days else f"{hour}:{minute:02}:{second:02}"


def _plain(text: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
