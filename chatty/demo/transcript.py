"""What a person sees of the demo: on the left what people have, on the right what the server has of the same.

Width and NO_COLOR are respected, colour only repeats what words say, and no character of a message can steer the terminal.
"""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from chatty.demo import orders
from chatty.demo.devices import Device
from chatty.demo.report import Search, Told
from chatty.demo.stage import Stage
from chatty.demo.storage import StoredAccount

shown_characters_max = 150
hits_shown_max = 20
_not_ours = "What it stores of it cannot be shown: the demo has no access to its database."

_hidden = "(out of sight)"


class Transcript:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._scene_number = 0

    def begin(self, stage: Stage) -> None:
        self._console.print()
        self._console.print(Text("The server keeps what people write, and cannot read it.", style="bold"))
        if stage.storage is not None:
            self._say(
                "Two people talk here, on a server that was just started for it (chatty up, with its own PostgreSQL, in a "
                "temporary directory). On the left is what stands on their devices; on the right, what the server has of the "
                "same, read from its database. At the end everything that it wrote is searched for their words."
            )
        else:
            self._say(f"Two people talk here, on {stage.origin}. {_not_ours}")

    def people(self, devices: Sequence[Device], accounts: Sequence[StoredAccount]) -> None:
        self._scene("Two people, three devices", "Each device makes its keys itself; a password never leaves it.")
        table = self._two_columns("On their devices", "In the server's database")
        for at, user in enumerate(dict.fromkeys(device.user for device in devices)):
            own = [device for device in devices if device.user == user]
            left = Text.assemble((own[0].owner, "bold"), f", {_plain(user)}\n")
            left.append(f"types a password on the {_joined(device.kind for device in own)}")
            table.add_row(left, _account(accounts[at]) if at < len(accounts) else Text(_hidden, style="dim"))
        self._console.print(table)

    def talk(self, told: Sequence[Told]) -> None:
        self._scene("A direct room", "One message each way.")
        self._messages(told)

    def missed(self, told: Sequence[Told], away: Device) -> None:
        self._scene("One device is away", f"{away.name} is switched off. A group is made, and people talk in it.")
        self._messages(told)

    def caught_up(self, device: Device, lines: Sequence[orders.Line]) -> None:
        self._say(f"{device.name} is switched on again and catches up, in order:")
        for number, line in enumerate(lines, start=1):
            self._console.print(Padding(Text(f"{number}. {_quoted(line.text, 70)}", style="green"), (0, 0, 0, 4)))

    def killed(self, device: Device, text: str, *, is_unanswered: bool) -> None:
        self._scene("One device is killed", "kill -9, in the middle of a send.")
        before = "before the server, which was held still, could answer" if is_unanswered else "right behind that"
        self._say(
            f"{device.name} writes {_quoted(text, 70)}, puts it, encrypted, into its sealed store, and is killed {before}."
        )
        self._say("The server goes on, and so does Anna.")

    def resumed(self, told: Sequence[Told], device: Device) -> None:
        self._say(
            f"{device.name} starts again, opens its store, sends the same bytes under the same number, and reads what it "
            "missed. The message is there once:"
        )
        self._messages(told)

    def summary(self, count: int, *, devices: Sequence[Device], is_own: bool) -> None:
        self._scene("What the server knows, and what not", "")
        self._say(
            f"All {len(devices)} devices have read the same {count} messages, each once, in the same order, and have checked "
            "every signature and the chain that links them."
        )
        self._say(
            "The server knows who is in a room with whom, who sends when and how much, and the names of devices. It does not "
            "know what is said: no key that opens a message ever reached it in clear."
        )
        if is_own:
            self._say("Believe nobody. Everything that it wrote is searched now …")

    def search(self, search: Search) -> None:
        self._console.print()
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", expand=False)
        table.add_column("searched", overflow="fold")
        for heading in ("files", "bytes"):
            table.add_column(heading, justify="right", no_wrap=True)
        for column in ("secrets", "control"):
            table.add_column(column, overflow="fold")
        for place in search.places:
            control = Text.assemble(
                ("found: ", "green") if place.is_control_found else ("NOT FOUND: ", "bold red"), place.control
            )
            found = Text("none", "bold green") if not place.found_count else Text(f"{place.found_count}!", "bold red")
            table.add_row(Text(place.place), f"{place.file_count:,}", f"{place.byte_count:,}", found, control)
        self._console.print(table)
        self._say(
            f"Looked for: {len(search.secrets)} secrets (each message, both passwords, the devices' private keys, message keys "
            f"and tokens) in {len(search.forms)} forms: UTF-8, UTF-16, base64 at its three offsets, hex, URL- and "
            f"JSON-escaped and others; {search.needle_count:,} byte strings. The control is something that the same search has "
            "to find: it shows that the search works."
        )
        for one in search.not_searched:
            self._say(f"Not searched: {one.place} ({one.reason}).")
        self._verdict(search)

    def _verdict(self, search: Search) -> None:
        if search.is_clean:
            verdict, style = "None of them was found: not in any of these forms, not in any of these places.", "green"
        elif search.found:
            verdict, style = _hits(search), "red"
        else:
            verdict, style = "A control was not found: this search proves nothing.", "red"
        self._console.print(Panel(Text(verdict, style="bold"), border_style=style, expand=False))

    def _messages(self, told: Sequence[Told]) -> None:
        table = self._two_columns("What people read", "What the server stored")
        for one in told:
            table.add_row(_message(one), _stored(one))
        self._console.print(table)

    def _scene(self, title: str, explanation: str) -> None:
        self._scene_number += 1
        self._console.print()
        self._console.print(Rule(Text(f"{self._scene_number} · {title}", style="bold"), align="left", characters="─"))
        if explanation:
            self._say(explanation)

    def _say(self, text: str) -> None:
        self._console.print(Text(_plain(text)))

    def _two_columns(self, left: str, right: str) -> Table:
        table = Table(box=box.MINIMAL, expand=True, header_style="bold", show_lines=True, pad_edge=False)
        table.add_column(left, ratio=1, overflow="fold")
        table.add_column(right, ratio=1, overflow="fold")
        return table


def _account(account: StoredAccount) -> Text:
    text = Text.assemble((f"{_plain(account.user)}\n", ""))
    text.append(f"key to check log-ins, sealed: {_hex(account.login_key_sealed, 8)}\n", style="cyan")
    text.append(f"recovery secret, wrapped: {_hex(account.wrapped_recovery, 8)}", style="cyan")
    for name, device, key, count in account.devices:
        text.append(f"\n{_plain(name)} {device[:9]}…: public key {key[:8]}…, {count} one-time keys", style="dim")
    return text


def _message(told: Told) -> Text:
    text = Text.assemble((told.sender, "bold"), (f", {told.room} room\n", "dim"))
    text.append(_quoted(told.text, shown_characters_max) + "\n")
    return text.append(f"read by {_joined(told.read_by)}", style="green")


def _stored(told: Told) -> Text:
    if told.stored is None:
        return Text(_hidden, style="dim")
    stored = told.stored
    text = Text.assemble((f"event {told.seq} by {_plain(stored.sender)}, device {stored.device[:9]}…\n", "dim"))
    text.append(f"{stored.body_bytes:,} bytes, {stored.algorithm}:\n", style="dim")
    return text.append(_hex(bytes.fromhex(stored.beginning), 32), style="cyan")


def _hits(search: Search) -> str:
    shown = [
        f"  {hit.secret}, as {hit.form}, in the {hit.place}: {hit.file}, byte {hit.offset:,}"
        for hit in search.found[:hits_shown_max]
    ]
    more = len(search.found) - len(shown)
    return "\n".join(["FOUND where it must not be:", *shown, *([f"  and {more} more"] if more else [])])


def _hex(data: bytes, count: int) -> str:
    """Grouped, so that a line can break between the groups."""
    return data[:count].hex(" ", 4) + (" …" if len(data) > count else "")


def _quoted(text: str, count_max: int) -> str:
    plain = _plain(" ".join(text.split()))
    if len(plain) <= count_max:
        return f"“{plain}”"
    return f"“{plain[: count_max - 24].rstrip()} …” ({len(text):,} characters)"


def _joined(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _plain(value: str) -> str:
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in value)
