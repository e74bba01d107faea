"""`chatty-admin top`: the running server, live. One question a second, on a thread of its own: keys work while the server hangs.

The server gone: the screen says so, keeps what was seen last, and goes on when it is back. Ctrl-C, or the terminal gone: the
terminal is as it was before.
"""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from chatty.admin import render
from chatty.admin.options import Arguments, Place, json_option
from chatty.admin.socket import Refused
from chatty.admin.top_keys import Keyboard, open_keyboard
from chatty.admin.top_screen import Quit, Restart, Seen, State, press, screen
from chatty.errors import ChattyError

_interval_s = 1.0
_rate_pause_s = 1.1  # so that the second of two answers has rates
Ask = Callable[[str, Arguments], dict[str, Any]]


@click.command(epilog="Example: chatty-admin top")
@json_option
@click.pass_obj
def top(place: Place, as_json: bool) -> None:
    """Watch the running server: actors, rooms, sessions, jobs, rates. Where nobody watches, one look as text or JSON."""
    if not as_json and sys.stdin.isatty() and sys.stdout.isatty():
        _watch(place)
        return
    place.ask("top")
    time.sleep(_rate_pause_s)
    answer = place.ask("top")
    if as_json:
        render.print_json(answer)
    else:
        width = Console().width
        lines = screen(State(), Seen(answer=answer), width=width, height=20 + len(answer["actors"])).plain.splitlines()
        render.write("\n".join(line.rstrip() for line in lines[:-2]) + "\n")


class _Questions:
    """Asks on its own thread, one after the other; wake() after each answer. The thread dies with the process."""

    def __init__(self, ask: Ask, wake: Callable[[], None]) -> None:
        self._ask, self._wake = ask, wake
        self._wanted: SimpleQueue[tuple[str, Arguments]] = SimpleQueue()
        self._answers: SimpleQueue[tuple[str, dict[str, Any] | ChattyError | Refused]] = SimpleQueue()
        self.open_count = 0
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, command: str, arguments: Arguments) -> None:
        self.open_count += 1
        self._wanted.put((command, arguments))

    def answers(self) -> list[tuple[str, dict[str, Any] | ChattyError | Refused]]:
        """Those that have come."""
        found = [self._answers.get() for _ in range(self._answers.qsize())]
        self.open_count -= len(found)
        return found

    def _run(self) -> None:
        while True:
            command, arguments = self._wanted.get()
            try:
                answer: dict[str, Any] | ChattyError | Refused = self._ask(command, arguments)
            except* (ChattyError, Refused) as group:
                answer = _leaf(group)
            self._answers.put((command, answer))
            self._wake()


def _leaf(error: BaseException) -> ChattyError | Refused:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, ChattyError | Refused)
    return error


def _watch(place: Place) -> None:
    place.ask("top")  # whoever has no server, or is not signed in, is told so at once and without a screen
    console = Console(highlight=False)
    with open_keyboard(sys.stdin.fileno()) as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        questions = _Questions(lambda command, arguments: place.ask(command, arguments, is_watched=True), keyboard.wake)
        _Watch(keyboard, questions, live).run()


class _Watch:
    def __init__(self, keyboard: Keyboard, questions: _Questions, live: Live) -> None:
        self._keyboard, self._questions, self._live = keyboard, questions, live
        self._state, self._seen = State(), Seen()
        self._asked_at = float("-inf")

    def run(self) -> None:
        """Until q. Raises: KeyboardInterrupt."""
        while True:
            self._ask_when_due()
            self._draw()
            try:
                keys = self._keyboard.wait(self._asked_at + _interval_s - time.monotonic())
            except EOFError:
                return
            for command, answer in self._questions.answers():
                self._take(command, answer)
            for key in keys:
                self._state, action = press(self._state, key, self._seen)
                if isinstance(action, Quit):
                    return
                if isinstance(action, Restart):
                    self._questions.put("actors restart", {"actor": action.actor})
                if self._state.actor and (self._seen.detail or {}).get("path") != self._state.actor:
                    self._seen = replace(self._seen, detail=None)
                    self._asked_at = float("-inf")

    def _ask_when_due(self) -> None:
        """Not while an answer is open: a server that hangs gets one question, not one a second."""
        now = time.monotonic()
        if now - self._asked_at < _interval_s:
            return
        self._asked_at = now
        if self._questions.open_count or self._state.is_paused:
            return
        self._questions.put("top", {})
        if self._state.actor:
            self._questions.put("actors show", {"actor": self._state.actor})

    def _take(self, command: str, answer: dict[str, Any] | ChattyError | Refused) -> None:
        match command, answer:
            case "top", dict():
                self._seen = replace(self._seen, answer=answer, trouble="")
            case "top", _:
                self._seen = replace(self._seen, trouble=str(answer))
            case "actors show", dict():
                self._seen = replace(self._seen, detail=answer)
            case "actors show", _:
                self._state = replace(self._state, actor="", message=str(answer))
            case _, dict():
                self._state = replace(self._state, message=f"{answer['actor']} was restarted")
            case _:
                self._state = replace(self._state, message=f"not restarted: {answer}")

    def _draw(self) -> None:
        size = self._live.console.size
        shown: Text = screen(self._state, self._seen, width=size.width, height=size.height)
        shown.no_wrap = True
        self._live.update(shown, refresh=True)
