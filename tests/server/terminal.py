"""A program of ours on a real pseudo-terminal, and a model of what its screen shows.

async with open_terminal("top", columns=80, lines=24, env=…) as terminal:
    await terminal.until(lambda screen: "sessions 1" in screen)
    terminal.press("q")
    assert await terminal.ended() == 0
"""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio

from tests.faults.chatty_process import ROOT, child_environment

# The first thing it does is to make the terminal its own, so that a change of size is told to it.
_PROGRAM = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\nfrom chatty.admin import main\nmain()"
_SEQUENCE = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b[()][0-9A-B]|\x1b[=>78]")
_patience_s = 60.0


class Screen:
    """What a terminal shows: cursor, lines, wrapping at the edge as late as real ones do it."""

    def __init__(self, columns: int, lines: int) -> None:
        self.resize(columns, lines)
        self._rest = ""

    def resize(self, columns: int, lines: int) -> None:
        self.columns, self.lines_count = columns, lines
        self._cells = [[" "] * columns for _ in range(lines)]
        self._row = self._column = 0

    @property
    def lines(self) -> list[str]:
        return ["".join(line).rstrip() for line in self._cells]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def feed(self, text: str) -> None:
        text, self._rest = self._rest + text, ""
        while text:
            found = _SEQUENCE.match(text)
            if found is not None:
                self._obey(found[1] or "", found[2] or "")
                text = text[found.end() :]
            elif text[0] == "\x1b" and len(text) < 12:
                self._rest = text  # the sequence is not whole yet
                return
            else:
                self._put(text[0])
                text = text[1:]

    def _obey(self, numbers: str, letter: str) -> None:
        first = int(numbers.split(";")[0] or 1) if numbers.replace(";", "").isdigit() or not numbers else 0
        match letter:
            case "H":
                row, _, column = (numbers or "1;1").partition(";")
                self._row, self._column = int(row or 1) - 1, int(column or 1) - 1
            case "A":
                self._row = max(self._row - first, 0)
            case "K":
                self._cells[self._row] = [" "] * self.columns
            case "J" | "h":
                if numbers in ("2", "?1049"):
                    self.resize(self.columns, self.lines_count)

    def _put(self, character: str) -> None:
        match character:
            case "\r":
                self._column = 0
            case "\n":
                self._next_line()
            case _ if character.isprintable():
                if self._column == self.columns:
                    self._column = 0
                    self._next_line()
                self._cells[self._row][self._column] = character
                self._column += 1

    def _next_line(self) -> None:
        if self._row + 1 < self.lines_count:
            self._row += 1
        else:
            self._cells = [*self._cells[1:], [" "] * self.columns]


class Terminal:
    def __init__(self, descriptor: int, process: trio.Process, screen: Screen) -> None:
        self._descriptor, self._process, self.screen = descriptor, process, screen

    def press(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        self.screen.resize(columns, lines)
        _set_size(self._descriptor, columns, lines)

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self._descriptor)

    async def until(self, shows: Callable[[str], object]) -> str:
        """The screen, as soon as it shows that."""
        with trio.move_on_after(_patience_s):
            while not shows(self.screen.text):
                await self._read()
            return self.screen.text
        raise AssertionError(f"not shown within {_patience_s} s:\n{self.screen.text}")

    async def ended(self) -> int:
        with trio.fail_after(_patience_s):
            return await self._process.wait()

    async def _read(self) -> None:
        await trio.lowlevel.wait_readable(self._descriptor)
        try:
            data = os.read(self._descriptor, 65_536)
        except OSError:  # the program has closed its end
            raise AssertionError(f"it ended:\n{self.screen.text}") from None
        self.screen.feed(data.decode("utf-8", "replace"))


def _set_size(descriptor: int, columns: int, lines: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@asynccontextmanager
async def open_terminal(
    *words: str, columns: int = 80, lines: int = 24, env: Mapping[str, str] | None = None
) -> AsyncIterator[Terminal]:
    """`chatty-admin` with these words, until the block is left."""
    ours, its = pty.openpty()
    _set_size(ours, columns, lines)
    environment = {
        name: value for name, value in child_environment().items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
    }
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", _PROGRAM, *words],
        stdin=its,
        stdout=its,
        stderr=its,
        cwd=ROOT,
        env=environment | {"TERM": "xterm-256color"} | dict(env or {}),
        start_new_session=True,
    )
    try:
        yield Terminal(ours, process, Screen(columns, lines))
    finally:
        if process.poll() is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        os.close(its)
        os.close(ours)
